//! Challenges: `WWW-Authenticate` (RFC 9110 § 11.6.1, distribution `auth/token.md`).

use std::{collections::BTreeMap, fmt};

/// One challenge of a 401 reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    scheme: String,
    parameters: BTreeMap<String, String>,
}

impl Challenge {
    /// Makes a Bearer challenge.
    #[must_use]
    pub fn bearer(realm: &str, service: &str, scope: Option<&str>) -> Self {
        let mut parameters = BTreeMap::from([
            ("realm".to_owned(), realm.to_owned()),
            ("service".to_owned(), service.to_owned()),
        ]);
        parameters.extend(scope.map(|scope| ("scope".to_owned(), scope.to_owned())));
        Self { scheme: "bearer".to_owned(), parameters }
    }

    /// Makes a Basic challenge.
    #[must_use]
    pub fn basic(realm: &str) -> Self {
        let parameters = BTreeMap::from([("realm".to_owned(), realm.to_owned())]);
        Self { scheme: "basic".to_owned(), parameters }
    }

    /// Scheme in lower case.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// A parameter by its lower-case name.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Reads one header, which may hold several challenges; what is malformed ends the list.
    #[must_use]
    pub fn parse(header: &str) -> Vec<Self> {
        let mut challenges = Vec::new();
        let mut input = Input::new(header);
        while let Some(challenge) = input.challenge() {
            challenges.push(challenge);
        }
        challenges
    }
}

impl fmt::Display for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Canonical spelling and order: some clients compare the text.
        f.write_str(match self.scheme.as_str() {
            "bearer" => "Bearer",
            "basic" => "Basic",
            other => other,
        })?;
        let known = ["realm", "service", "scope", "error"];
        let rest = self.parameters.keys().map(String::as_str).filter(|key| !known.contains(key));
        let mut separator = " ";
        for key in known.into_iter().chain(rest) {
            let Some(value) = self.parameters.get(key) else { continue };
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            write!(f, "{separator}{key}=\"{quoted}\"")?;
            separator = ",";
        }
        Ok(())
    }
}

/// The unread rest of a header.
pub(super) struct Input<'a>(&'a str);

impl<'a> Input<'a> {
    pub(super) const fn new(header: &'a str) -> Self {
        Self(header)
    }

    /// Passes over blanks, and over what else is named.
    pub(super) fn skip(&mut self, also: &str) {
        self.0 = self.0.trim_start_matches(|c: char| c == ' ' || c == '\t' || also.contains(c));
    }

    /// RFC 9110 § 5.6.2 `token`.
    pub(super) fn token(&mut self) -> Option<&'a str> {
        let is_token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
        let length = self.0.bytes().take_while(|b| is_token(b)).count();
        let (token, rest) = self.0.split_at(length);
        self.0 = rest;
        (!token.is_empty()).then_some(token)
    }

    fn challenge(&mut self) -> Option<Challenge> {
        self.skip(",");
        let scheme = self.token()?.to_ascii_lowercase();
        let mut parameters = BTreeMap::new();
        loop {
            self.skip(",");
            let before = self.0;
            let Some(key) = self.token() else { break };
            self.skip("");
            let Some(rest) = self.0.strip_prefix('=') else {
                // Not a parameter but the next challenge's scheme.
                self.0 = before;
                break;
            };
            self.0 = rest;
            self.skip("");
            let value = self.value()?;
            // The first counts, lest a later one change the realm that was checked.
            parameters.entry(key.to_ascii_lowercase()).or_insert(value);
        }
        Some(Challenge { scheme, parameters })
    }

    fn value(&mut self) -> Option<String> {
        if self.0.starts_with('"') {
            return self.quoted();
        }
        // `token68` padding and unquoted URLs are read up to the next separator.
        let length = self.0.find([',', ' ']).unwrap_or(self.0.len());
        let (value, rest) = self.0.split_at(length);
        self.0 = rest;
        Some(value.to_owned())
    }

    /// RFC 9110 § 5.6.4 `quoted-string`; `None` where there is none, or it has no end.
    pub(super) fn quoted(&mut self) -> Option<String> {
        let quoted = self.0.strip_prefix('"')?;
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        while let Some((at, c)) = characters.next() {
            match c {
                '"' => {
                    self.0 = &quoted[at + 1..];
                    return Some(value);
                }
                '\\' => value.push(characters.next()?.1),
                _ => value.push(c),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_registries_send() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#;
        let [bearer] = &Challenge::parse(hub)[..] else { panic!() };
        assert_eq!(bearer.scheme(), "bearer");
        assert_eq!(bearer.parameter("realm"), Some("https://auth.docker.io/token"));
        assert_eq!(bearer.parameter("scope"), Some("repository:library/alpine:pull"));
        assert_eq!(bearer.to_string(), hub);

        type Case = (&'static str, &'static [(&'static str, Option<&'static str>)]);
        let cases: [Case; 9] = [
            ("Basic realm=\"a\"", &[("basic", Some("a"))]),
            ("basic", &[("basic", None)]),
            ("Negotiate, Basic realm=x", &[("negotiate", None), ("basic", Some("x"))]),
            (
                "Basic realm=\"a, b\", Bearer realm=\"c\\\"d\"",
                &[("basic", Some("a, b")), ("bearer", Some("c\"d"))],
            ),
            ("BEARER Realm = \"a\" , service=b", &[("bearer", Some("a"))]),
            ("Bearer realm=\"first\",realm=\"second\"", &[("bearer", Some("first"))]),
            ("Bearer realm=https://h/token,service=s", &[("bearer", Some("https://h/token"))]),
            ("Bearer realm=\"open", &[]),
            ("", &[]),
        ];
        for (header, expected) in cases {
            let parsed = Challenge::parse(header);
            let parsed: Vec<_> =
                parsed.iter().map(|c| (c.scheme(), c.parameter("realm"))).collect();
            assert_eq!(parsed, expected, "{header}");
        }
    }

    proptest! {
        #[test]
        fn display_round_trips(realm in "[ -~]{0,20}", service in "[ -~]{0,20}") {
            let challenge = Challenge::bearer(&realm, &service, None);
            prop_assert_eq!(Challenge::parse(&challenge.to_string()), vec![challenge]);
        }

        #[test]
        fn never_panics(header: String) {
            let _challenges = Challenge::parse(&header);
        }
    }
}
