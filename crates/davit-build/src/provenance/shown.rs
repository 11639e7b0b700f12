//! Texts that may be shown to everybody: without secrets, and without accounts of addresses.

use crate::{BuildRequest, source::without_accounts};

/// What stands for the value of a secret.
const HIDDEN: &str = "****";
/// A shorter value is no secret: it would be found in any text.
const SHORTEST: usize = 4;

/// Hides what nobody is to see.
pub(crate) struct Shown {
    /// Values of secrets, longest first, so that no part of one remains.
    secrets: Vec<String>,
}

impl Shown {
    pub(crate) fn new(request: &BuildRequest) -> Self {
        let values = request.sandbox.secrets.values();
        let values = values.filter_map(|secret| std::str::from_utf8(secret.expose()).ok());
        Self::without(values.map(str::trim).map(str::to_owned).collect())
    }

    fn without(mut secrets: Vec<String>) -> Self {
        secrets.retain(|value| value.len() >= SHORTEST);
        secrets.sort_by_key(|value| std::cmp::Reverse(value.len()));
        Self { secrets }
    }

    /// A text without what is hidden.
    pub(crate) fn text(&self, text: &str) -> String {
        // Whole values first: a part of one may look like an account.
        let hidden = |text: String, secret: &String| text.replace(secret, HIDDEN);
        let text = self.secrets.iter().fold(text.to_owned(), hidden);
        without_queries(&without_accounts(&text))
    }

    /// As [`Self::text`]; what is no text at all stays as it is, for it holds no address.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Vec<u8> {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text(text).into_bytes(),
            Err(_) => self.text(&String::from_utf8_lossy(bytes)).into_bytes(),
        }
    }
}

/// A text whose addresses have no queries, which hold tokens.
fn without_queries(text: &str) -> String {
    let mut parts = text.split("://");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let ends = |it: char| matches!(it, '"' | '\'' | '<' | '>') || it.is_whitespace();
        let end = part.find(ends).unwrap_or(part.len());
        let (address, rest) = part.split_at(end);
        shown.push_str("://");
        match address.split_once('?') {
            Some((path, query)) => {
                shown.push_str(path);
                shown.push_str(query.find('#').map_or("", |at| &query[at..]));
            }
            None => shown.push_str(address),
        }
        shown.push_str(rest);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides_secrets_accounts_and_queries() {
        let shown = Shown::without(vec![
            "hunter22".into(),
            "hunter22-long".into(),
            "ab".into(),
            "a://b@secret".into(),
        ]);
        for (text, expected) in [
            (
                "ADD https://u:p@h/f?token=t#x \"http://h/?a\" /ab",
                "ADD https://h/f#x \"http://h/\" /ab",
            ),
            ("echo hunter22-long hunter22", "echo **** ****"),
            ("echo a://b@secret", "echo ****"),
            ("git@h:r a?b", "git@h:r a?b"),
            ("x=http://a?b\ny", "x=http://a\ny"),
        ] {
            assert_eq!(shown.text(text), expected);
        }
        assert_eq!(shown.bytes(b"\xff hunter22"), "\u{fffd} ****".as_bytes());
    }
}
