//! Cookies of browsers, and the CSRF tokens that belong to them.
//!
//! A browser has one cookie with chance in it: a session after logging in, else a visit, which only ties
//! a form to the browser that was shown it. The CSRF token is a hash of that cookie: pages hold it,
//! other sites cannot know it, and nothing of it is kept.

use davit_distribution::Secret;
use http::{HeaderMap, HeaderValue, header};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::auth::{SESSION_MS, TokenHash};

const SESSION: &str = "davit_session";
const VISIT: &str = "davit_visit";
const NOTE: &str = "davit_note";
const PROVIDER: &str = "davit_oidc";
/// Browsers take this one from the host itself only, by TLS, for all paths.
const HOST: &str = "__Host-";
/// Bytes of a note at most: three times as many in a cookie, of which browsers take 4096.
const NOTE_BYTES: usize = 1000;

/// The cookies of one request.
#[derive(Clone, Debug)]
pub(crate) struct Cookies {
    is_secure: bool,
    session: Option<Secret>,
    visit: Option<Secret>,
    note: Option<String>,
    provider: Option<Secret>,
}

impl Cookies {
    pub(crate) fn of(headers: &HeaderMap, is_secure: bool) -> Self {
        let mut cookies =
            Self { is_secure, session: None, visit: None, note: None, provider: None };
        let prefix = if is_secure { HOST } else { "" };
        let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
        for (name, value) in
            lines.flat_map(|line| line.split(';')).filter_map(|c| c.split_once('='))
        {
            let value = || Some(value.trim().to_owned());
            match name.trim().strip_prefix(prefix) {
                Some(SESSION) => cookies.session = value().map(Secret::new),
                Some(VISIT) => cookies.visit = value().map(Secret::new),
                Some(NOTE) => cookies.note = value(),
                Some(PROVIDER) => cookies.provider = value().map(Secret::new),
                _ => {}
            }
        }
        cookies
    }

    /// The session, not proved yet.
    pub(crate) fn session(&self) -> Option<&str> {
        self.session.as_ref().map(Secret::expose)
    }

    /// What the last form did, told once.
    pub(crate) fn note(&self) -> Option<String> {
        let bytes = self.note.as_deref()?.as_bytes();
        let decoded: Vec<u8> = url::form_urlencoded::parse(bytes).next()?.0.bytes().collect();
        String::from_utf8(decoded).ok().filter(|note| note.len() <= NOTE_BYTES)
    }

    /// The token of this browser's forms, by its session where that goes on, else by its visit; `None`
    /// for one without such a cookie.
    pub(crate) fn token(&self, is_logged_in: bool) -> Option<Secret> {
        let cookie = if is_logged_in { &self.session } else { &self.visit };
        cookie.as_ref().map(token_of)
    }

    /// Tells whether a form or header has one of the browser's tokens.
    pub(crate) fn has_token(&self, token: &str) -> bool {
        let own = [&self.session, &self.visit].into_iter().flatten();
        own.map(token_of).any(|own| same(own.expose().as_bytes(), token.as_bytes()))
    }

    /// Sets the session's cookie.
    pub(crate) fn set_session(&self, text: &str) -> HeaderValue {
        self.line(SESSION, text, SESSION_MS / 1000)
    }

    /// Removes the session's cookie.
    pub(crate) fn end_session(&self) -> HeaderValue {
        self.line(SESSION, "", 0)
    }

    /// Gives the browser a visit's cookie; with it, the token of its forms.
    pub(crate) fn begin_visit(&self) -> (HeaderValue, Secret) {
        let mut random = [0; 32];
        SystemRandom::new().fill(&mut random).expect("the kernel gives random bytes");
        let visit = Secret::new(TokenHash::of(&random).to_string());
        (self.line(VISIT, visit.expose(), 24 * 3600), token_of(&visit))
    }

    /// Tells the next page what was done.
    pub(crate) fn set_note(&self, text: &str) -> HeaderValue {
        let fits = |(at, letter): &(usize, char)| at + letter.len_utf8() <= NOTE_BYTES;
        let short: String = text.char_indices().take_while(fits).map(|(_, it)| it).collect();
        let text: String = url::form_urlencoded::byte_serialize(short.as_bytes()).collect();
        self.line(NOTE, &text, 60)
    }

    /// Removes the note, once it was told.
    pub(crate) fn end_note(&self) -> HeaderValue {
        self.line(NOTE, "", 0)
    }

    /// Ties a log-in at a provider to this browser, as long as one may take; `next` is where it leads.
    pub(crate) fn set_provider(&self, browser: &str, next: &str) -> HeaderValue {
        let next: String = url::form_urlencoded::byte_serialize(next.as_bytes()).collect();
        self.line(PROVIDER, &format!("{browser}~{next}"), 15 * 60)
    }

    /// Removes what tied a log-in to this browser.
    pub(crate) fn end_provider(&self) -> HeaderValue {
        self.line(PROVIDER, "", 0)
    }

    /// The log-in that this browser has begun, and where it leads.
    pub(crate) fn provider(&self) -> Option<(String, String)> {
        let (browser, next) = self.provider.as_ref()?.expose().split_once('~')?;
        let next = url::form_urlencoded::parse(next.as_bytes()).next();
        Some((browser.to_owned(), next.map(|(next, _)| next.into_owned()).unwrap_or_default()))
    }

    fn line(&self, name: &str, value: &str, seconds: i64) -> HeaderValue {
        let (prefix, secure) = if self.is_secure { (HOST, "; Secure") } else { ("", "") };
        let line = format!(
            "{prefix}{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"
        );
        HeaderValue::from_str(&line).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

fn token_of(cookie: &Secret) -> Secret {
    let text = format!("davit csrf {}", cookie.expose());
    Secret::new(TokenHash::of(text.as_bytes()).to_string())
}

/// Compares in a time that tells nothing of where they differ.
fn same(one: &[u8], other: &[u8]) -> bool {
    let differences = one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b));
    one.len() == other.len() && differences == 0
}

/// Tells whether a browser says that a page of another site made the request.
pub(crate) fn is_cross_site(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site") {
        return !matches!(site, "same-origin" | "none");
    }
    let Some(origin) = text("origin") else { return false };
    let host = origin.split_once("://").map(|(_, host)| host);
    host.is_none() || host != text("host")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(k, v)| (k.parse().unwrap(), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn tokens_belong_to_their_cookie() {
        let visit = Cookies::of(&headers(&[("cookie", "a=b; davit_visit=x")]), false);
        let session = Cookies::of(&headers(&[("cookie", "davit_visit=x; davit_session=y")]), false);
        let token = visit.token(false).unwrap();
        assert!(visit.has_token(token.expose()));
        // Logging in makes a token anew.
        assert_ne!(session.token(true).unwrap(), token);
        let other = Cookies::of(&headers(&[("cookie", "davit_session=z")]), false);
        assert!(
            !other.has_token(token.expose())
                && !other.has_token(session.token(true).unwrap().expose())
        );
        assert!(!visit.has_token("") && !visit.has_token(&token.expose()[1..]));
        let none = Cookies::of(&headers(&[]), false);
        assert!(none.token(false).is_none() && !none.has_token(""));
        // By TLS only cookies that cannot have been set by another host or without TLS count.
        assert!(Cookies::of(&headers(&[("cookie", "davit_session=y")]), true).session().is_none());
    }

    #[test]
    fn notes_come_back_as_they_were() {
        let none = Cookies::of(&headers(&[]), false);
        let whole = "The tag was removed. Its last move can be undone here.".to_owned();
        let (long, cut) = ("é".repeat(NOTE_BYTES), "é".repeat(NOTE_BYTES / 2));
        let plain = "a; b = <c> é".to_owned();
        for (note, expected) in [(&plain, &plain), (&whole, &whole), (&long, &cut)] {
            let line = none.set_note(note).to_str().unwrap().to_owned();
            assert!(line.len() <= 4096);
            let cookie = HeaderValue::from_str(line.split(';').next().unwrap()).unwrap();
            let back = HeaderMap::from_iter([(header::COOKIE, cookie)]);
            assert_eq!(&Cookies::of(&back, false).note().unwrap(), expected);
        }
    }

    #[test]
    fn browsers_tell_where_a_request_came_from() {
        for (lines, is_cross) in [
            (&[("host", "a:1")][..], false),
            (&[("host", "a:1"), ("origin", "http://a:1")], false),
            (&[("host", "a:1"), ("origin", "http://b:1")], true),
            (&[("host", "a:1"), ("origin", "null")], true),
            (&[("sec-fetch-site", "same-origin")], false),
            (&[("sec-fetch-site", "none")], false),
            (&[("sec-fetch-site", "same-site")], true),
            (&[("sec-fetch-site", "cross-site")], true),
        ] {
            assert_eq!(is_cross_site(&headers(lines)), is_cross, "{lines:?}");
        }
    }
}
