//! Addresses taken apart as text: `SCHEME://[ACCOUNT@]HOST[/PATH][?QUERY][#FRAGMENT]`.

/// The parts of an address; what it lacks is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts<'a> {
    pub(crate) scheme: &'a str,
    pub(crate) account: &'a str,
    /// With the port.
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) fragment: &'a str,
}

impl<'a> Parts<'a> {
    /// Takes an address apart; `None` for what is none, and for one with blanks, control characters
    /// or backslashes in it: to some a backslash ends the host, to others it is part of the account,
    /// and a host's secret would be shown to another one.
    pub(crate) fn split(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let is_scheme = !scheme.is_empty() && scheme.bytes().all(|it| it.is_ascii_alphanumeric());
        let is_odd = |it: char| it.is_control() || it.is_whitespace() || it == '\\';
        if !is_scheme || text.chars().any(is_odd) {
            return None;
        }
        let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let end = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (account, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        (!host.is_empty()).then_some(Self { scheme, account, host, path, query, fragment })
    }
}

/// An address without account, query and fragment: what may be shown.
#[must_use]
pub fn public_address(address: &str) -> String {
    match Parts::split(address) {
        Some(Parts { scheme, host, path, .. }) => format!("{scheme}://{host}{path}"),
        None => address.to_owned(),
    }
}

/// A line without the accounts of its addresses: what is kept in an image, and logged.
pub(crate) fn without_accounts(line: &str) -> String {
    let mut parts = line.split("://");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let ends = |it: char| matches!(it, '/' | '?' | '#' | '"' | '\'') || it.is_whitespace();
        let authority = part.find(ends).map_or(part, |end| &part[..end]);
        let host = authority.rfind('@').map_or(0, |at| at + 1);
        shown.push_str("://");
        shown.push_str(&part[host..]);
    }
    shown
}

/// A line without the accounts and queries of its addresses, either of which may be a secret: what
/// is remembered of a build.
#[must_use]
pub fn without_secrets(line: &str) -> String {
    let line = without_accounts(line);
    let mut parts = line.split("://");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let ends = |it: char| matches!(it, '"' | '\'') || it.is_whitespace();
        let (address, rest) = part.split_at(part.find(ends).unwrap_or(part.len()));
        let (place, fragment) = address.split_at(address.find('#').unwrap_or(address.len()));
        shown.push_str("://");
        shown.push_str(place.split('?').next().unwrap_or_default());
        shown.push_str(fragment);
        shown.push_str(rest);
    }
    shown
}

/// Where an address's account is for, as `SCHEME://HOST[:PORT]`, its name and its password; `None`
/// if it has none, or one that is no line of text.
#[must_use]
pub fn account(address: &str) -> Option<(String, String, Option<String>)> {
    let Parts { scheme, account, host, .. } = Parts::split(address)?;
    let (name, password) = match account.split_once(':') {
        Some((name, password)) => (decoded(name), Some(decoded(password))),
        None => (decoded(account), None),
    };
    let is_line = |text: &String| !text.contains(char::is_control);
    let is_given = !account.is_empty() && is_line(&name) && password.iter().all(is_line);
    is_given.then(|| (format!("{scheme}://{host}"), name, password))
}

/// Name or address of an address's host, without port and brackets.
#[must_use]
pub fn host_name(address: &str) -> Option<&str> {
    let host = Parts::split(address)?.host;
    match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map(|(host, _)| host),
        None => Some(host.split_once(':').map_or(host, |(host, _)| host)),
    }
}

/// Percent escapes resolved; a text that would not be UTF-8 then stays as it is.
pub(crate) fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let pair = bytes.get(at + 1..at + 3).filter(|_| byte == b'%');
        let value = pair
            .filter(|pair| pair.iter().all(u8::is_ascii_hexdigit))
            .and_then(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        decoded.push(value.unwrap_or(byte));
        at += if value.is_some() { 3 } else { 1 };
    }
    String::from_utf8(decoded).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_addresses_apart() {
        let parts = Parts::split("https://u:p@h:1/a/b?c=d?e#f#g").unwrap();
        assert_eq!((parts.scheme, parts.account, parts.host), ("https", "u:p", "h:1"));
        assert_eq!((parts.path, parts.query, parts.fragment), ("/a/b", "c=d?e", "f#g"));
        let parts = Parts::split("git://h#x").unwrap();
        assert_eq!((parts.host, parts.path, parts.fragment), ("h", "", "x"));
        for (address, host) in
            [("http://u@h.x:80/f", "h.x"), ("https://[::1]:1/f", "::1"), ("git://h", "h")]
        {
            assert_eq!(host_name(address), Some(host));
        }
        for other in [
            "http://a\\@b/f",
            "http://a/\\b",
            "",
            "://h",
            "a+b://h",
            "x:/h",
            "http://u@/x",
            "http://a\u{1b}b",
            "http://a b",
        ] {
            assert_eq!(Parts::split(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_line_loses_its_accounts() {
        let line = "ADD --chown=a@b http://u:p@h/f@g?x=y@z \"git://t@h\" https://h#@i u@h:r /d";
        let shown = "ADD --chown=a@b http://h/f@g?x=y@z \"git://h\" https://h#@i u@h:r /d";
        assert_eq!(without_accounts(line), shown);
        let line = "a?b curl 'https://u:p@h/f?token=x#y' http://h?k=v http://h/#a?b; x?y";
        assert_eq!(without_secrets(line), "a?b curl 'https://h/f#y' http://h http://h/#a?b; x?y");
    }

    #[test]
    fn an_account_is_for_its_server() {
        let text = |parts: (&str, &str, Option<&str>)| {
            (parts.0.to_owned(), parts.1.to_owned(), parts.2.map(str::to_owned))
        };
        for (address, expected) in [
            ("https://u%40x:p%3Aq@h:1/r", Some(("https://h:1", "u@x", Some("p:q")))),
            ("http://token@h", Some(("http://h", "token", None))),
            ("http://u:@h", Some(("http://h", "u", Some("")))),
            ("http://h/u@x", None),
            // It would be a second line for git.
            ("http://u%0Ahost=x:p@h", None),
            ("http://u:p%0aurl=x@h", None),
        ] {
            assert_eq!(account(address), expected.map(text), "{address}");
        }
    }
}
