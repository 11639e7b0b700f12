//! Image references: `registry/repository[:tag][@digest]` in distribution's grammar.
//!
//! A short text is completed as Docker does it: `alpine` means `docker.io/library/alpine:latest`.

use std::{fmt, str::FromStr};

use crate::{Digest, DigestError};

/// Longest repository name, registry included (distribution-spec § Pulling manifests).
const NAME_BYTES: usize = 255;
const HUB: &str = "docker.io";
const HUB_OFFICIAL: &str = "library/";

/// Where manifests of one name are kept: registry and path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    registry: String,
    path: String,
}

/// A tag: 1 to 128 of `[A-Za-z0-9_.-]`, not starting with `.` or `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

/// Names a manifest by tag, by digest, or both; then the digest decides and the tag is shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    repository: Repository,
    tag: Option<Tag>,
    digest: Option<Digest>,
}

/// Why a text is no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing was given.
    #[error("reference is empty")]
    Empty,
    /// The text before the first `/` is no host name.
    #[error("`{0}` is no registry host")]
    Registry(String),
    /// The path breaks the grammar.
    #[error("`{0}` is no repository name (lower-case letters, digits, and . _ __ - between them)")]
    Path(String),
    /// Upper case, a frequent slip, has its own words.
    #[error("repository name `{0}` must be lower case")]
    UpperCase(String),
    /// 64 hex digits would be mistaken for an image ID.
    #[error("`{0}` is an image ID, not a repository name")]
    LooksLikeId(String),
    /// The name is too long.
    #[error("repository name has {0} bytes, at most 255 are allowed")]
    Length(usize),
    /// The tag breaks the grammar.
    #[error("`{0}` is no tag (1 to 128 of A-Z a-z 0-9 _ . -, not starting with . or -)")]
    Tag(String),
    /// The digest breaks the grammar.
    #[error("reference has a malformed digest")]
    Digest(#[from] DigestError),
}

impl Repository {
    /// Registry host, with its port if it has one; `docker.io` for Docker Hub.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path on that registry; Docker Hub's official images have `library/` in it.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The shortest text that means the same.
    #[must_use]
    pub fn familiar(&self) -> String {
        if self.registry != HUB {
            return self.to_string();
        }
        match self.path.strip_prefix(HUB_OFFICIAL) {
            // `library/a/b` must keep its prefix, or it would become the user repository `a/b`.
            Some(official) if !official.contains('/') => official.to_owned(),
            // A first component that looks like a host would be taken for the registry.
            _ if self.path.split('/').next().is_some_and(is_registry) => self.to_string(),
            _ => self.path.clone(),
        }
    }

    /// Names a manifest of this repository by tag.
    #[must_use]
    pub fn with_tag(&self, tag: Tag) -> Reference {
        Reference { repository: self.clone(), tag: Some(tag), digest: None }
    }

    /// Tells whether the text may be a repository's path (distribution-spec § Pulling manifests).
    #[must_use]
    pub fn is_path(text: &str) -> bool {
        check_path(text).is_ok()
    }

    /// Names a manifest of this repository by digest.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference { repository: self.clone(), tag: None, digest: Some(digest) }
    }
}

impl FromStr for Repository {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::LooksLikeId(text.to_owned()));
        }
        let (registry, path) = match text.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first, rest),
            _ => (HUB, text),
        };
        let registry = if registry == "index.docker.io" { HUB } else { registry };
        if !is_host(registry) {
            return Err(ReferenceError::Registry(registry.to_owned()));
        }
        check_path(path)?;
        let path = if registry == HUB && !path.contains('/') {
            format!("{HUB_OFFICIAL}{path}")
        } else {
            path.to_owned()
        };
        let length = registry.len() + 1 + path.len();
        if length > NAME_BYTES {
            return Err(ReferenceError::Length(length));
        }
        Ok(Self { registry: registry.to_owned(), path })
    }
}

/// Tells whether the part before the first `/` names a registry, by Docker's rule.
fn is_registry(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// `host[:port]`; the host is a name, an IPv4 address, or an IPv6 address in brackets without zone.
fn is_host(text: &str) -> bool {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, after)) = rest.split_once(']') else { return false };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        match after.strip_prefix(':') {
            Some(port) => ("", Some(port)),
            None if after.is_empty() => ("", None),
            None => return false,
        }
    } else {
        text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
        && (text.starts_with('[') || host.split('.').all(label))
}

fn check_path(path: &str) -> Result<(), ReferenceError> {
    if path.split('/').all(is_path_component) {
        return Ok(());
    }
    let lower = path.to_ascii_lowercase();
    if lower != path && lower.split('/').all(is_path_component) {
        return Err(ReferenceError::UpperCase(path.to_owned()));
    }
    Err(ReferenceError::Path(path.to_owned()))
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let is_word = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    let separators = component.split(|c: char| c.is_ascii() && is_word(c as u8));
    component.bytes().next().is_some_and(is_word)
        && component.bytes().next_back().is_some_and(is_word)
        && separators.filter(|part| !part.is_empty()).all(|separator| {
            matches!(separator, "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
        })
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)
    }
}

impl Tag {
    /// The tag that stands for none.
    #[must_use]
    pub fn latest() -> Self {
        Self("latest".to_owned())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let good = (1..=128).contains(&text.len())
            && text.bytes().next().is_some_and(word)
            && text.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'));
        if good { Ok(Self(text.to_owned())) } else { Err(ReferenceError::Tag(text.to_owned())) }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Reference {
    /// Parses a literal.
    ///
    /// # Panics
    /// If the literal is no reference.
    #[must_use]
    pub fn from_static(text: &'static str) -> Self {
        text.parse().expect("a reference literal is well-formed")
    }

    /// Registry and path.
    #[must_use]
    pub const fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The tag, if one was given or assumed.
    #[must_use]
    pub const fn tag(&self) -> Option<&Tag> {
        self.tag.as_ref()
    }

    /// The digest, if one was given.
    #[must_use]
    pub const fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The shortest text that means the same; the tag `latest` stays.
    #[must_use]
    pub fn familiar(&self) -> String {
        self.with_name(&self.repository.familiar())
    }

    fn with_name(&self, name: &str) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.map(|digest| format!("@{digest}")).unwrap_or_default();
        format!("{name}{tag}{digest}")
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        // A colon before the last slash belongs to a port.
        let name_start = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[name_start..].find(':') {
            Some(colon) => {
                let colon = name_start + colon;
                (&rest[..colon], Some(&rest[colon + 1..]))
            }
            None => (rest, None),
        };
        // What comes first is told first.
        let repository = name.parse()?;
        let tag = tag.map(str::parse::<Tag>).transpose()?;
        let tag = tag.or_else(|| digest.is_none().then(Tag::latest));
        Ok(Self { repository, tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_name(&self.repository.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::strategies::check_text;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn completes_short_texts() {
        let digest = format!("sha256:{HEX}");
        let cases = [
            ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
            ("user/app", "docker.io/user/app:latest", "user/app:latest"),
            ("docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("index.docker.io/user/app:1", "docker.io/user/app:1", "user/app:1"),
            ("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest"),
            ("Host/app", "Host/app:latest", "Host/app:latest"),
            ("a.b/c__d/e--f:v1", "a.b/c__d/e--f:v1", "a.b/c__d/e--f:v1"),
            ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
            ("app:5000", "docker.io/library/app:5000", "app:5000"),
        ];
        for (text, full, familiar) in cases {
            let reference: Reference = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
        }
        let pinned: Reference = format!("alpine@{digest}").parse().unwrap();
        assert_eq!((pinned.tag(), pinned.digest().unwrap().to_string()), (None, digest.clone()));
        let both: Reference = format!("alpine:3@{digest}").parse().unwrap();
        assert_eq!(both.familiar(), format!("alpine:3@{digest}"));
    }

    #[test]
    fn refuses_bad_texts() {
        let long = "a/".repeat(130) + "b";
        let cases = [
            ("", ReferenceError::Empty),
            (":tag", ReferenceError::Empty),
            ("Alpine", ReferenceError::UpperCase("Alpine".into())),
            ("BAD:tag:x", ReferenceError::UpperCase("BAD".into())),
            ("user/App", ReferenceError::UpperCase("user/App".into())),
            (HEX, ReferenceError::LooksLikeId(HEX.into())),
            ("a..b", ReferenceError::Path("a..b".into())),
            ("a___b", ReferenceError::Path("a___b".into())),
            ("-a", ReferenceError::Path("-a".into())),
            ("a/", ReferenceError::Path("a/".into())),
            ("/a", ReferenceError::Path("/a".into())),
            ("a//b", ReferenceError::Path("a//b".into())),
            ("é", ReferenceError::Path("é".into())),
            ("a b", ReferenceError::Path("a b".into())),
            ("a:", ReferenceError::Tag(String::new())),
            ("a:.b", ReferenceError::Tag(".b".into())),
            ("a:b:c", ReferenceError::Tag("b:c".into())),
            ("host.:80/a", ReferenceError::Registry("host.:80".into())),
            ("host:x/a", ReferenceError::Registry("host:x".into())),
            ("[::1%eth0]/a", ReferenceError::Registry("[::1%eth0]".into())),
            ("[::1%eth0]:5/a", ReferenceError::Registry("[::1%eth0]:5".into())),
            (&long, ReferenceError::Length(9 + 1 + 261)),
            ("a@md5:1", ReferenceError::Digest(DigestError::UnsupportedAlgorithm("md5".into()))),
            ("a@", ReferenceError::Digest(DigestError::MissingAlgorithm)),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Reference>(), Err(expected), "{text}");
        }
        assert!("a".repeat(129).parse::<Tag>().is_err());
        assert!("a".repeat(128).parse::<Tag>().is_ok());
    }

    proptest! {
        #[test]
        fn display_round_trips(
            registry in "([a-z0-9]{1,8}\\.[a-z]{2,3}(:[0-9]{1,5})?|localhost|docker\\.io|\\[::1\\]:5000)",
            path in "[a-z0-9]{1,6}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,6}){0,3}",
            tag in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
            pinned: bool,
        ) {
            let tag = tag.map(|tag| format!(":{tag}")).unwrap_or_default();
            let digest = if pinned { format!("@sha256:{HEX}") } else { String::new() };
            let reference: Reference = format!("{registry}/{path}{tag}{digest}").parse().unwrap();
            check_text(&reference);
            check_text(reference.repository());
            reference.tag().into_iter().for_each(check_text);
            prop_assert_eq!(reference.familiar().parse(), Ok(reference));
        }

        #[test]
        fn never_panics(text: String) {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse(), Ok(reference));
            }
        }
    }
}
