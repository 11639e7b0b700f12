//! The JSON arrays of exec forms.
//!
//! An own reader, because the place of each string is needed and because the language follows Go's
//! decoder: a lone surrogate becomes U+FFFD, and a number that no float holds makes the text no
//! JSON (so that it is a shell form) instead of a wrong array.

use crate::{Word, text::Part};

/// What a text is.
#[derive(Debug)]
pub(super) enum Json {
    /// No JSON array.
    No,
    /// A JSON array with something other than strings in it.
    OtherValues,
    /// A JSON array of strings.
    Strings(Vec<Word>),
}

/// Depth of nesting beyond which Go's decoder refuses.
const DEPTH: usize = 10_000;

/// Reads a JSON array of strings.
pub(super) fn strings(part: Part<'_>) -> Json {
    let text = part.as_str();
    if !text.trim_start().starts_with('[') {
        return Json::No;
    }
    let start = text.len() - text.trim_start().len();
    let mut scanner = Scanner { bytes: text.as_bytes(), at: start + 1 };
    let Some(items) = scanner.array() else { return Json::No };
    let words: Option<Vec<Word>> = items
        .into_iter()
        .map(|item| {
            let text = item.text?;
            Some(Word { text, span: part.slice(item.start..item.end).span() })
        })
        .collect();
    words.map_or(Json::OtherValues, Json::Strings)
}

struct Item {
    text: Option<String>,
    start: usize,
    end: usize,
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn blanks(&mut self) -> Option<u8> {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
        self.peek()
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.blanks()? == byte).then(|| self.at += 1)
    }

    /// The items behind `[` up to `]`, and nothing but blanks behind that.
    fn array(&mut self) -> Option<Vec<Item>> {
        let mut items = Vec::new();
        if self.blanks()? == b']' {
            self.at += 1;
        } else {
            loop {
                let first = self.blanks()?;
                let start = self.at;
                let text = if first == b'"' { Some(self.string()?) } else { self.value()? };
                items.push(Item { text, start, end: self.at });
                match self.blanks()? {
                    b',' => self.at += 1,
                    b']' => break self.at += 1,
                    _ => return None,
                }
            }
        }
        self.blanks().is_none().then_some(items)
    }

    /// Any value that is no string, without recursion; `Some(None)` where it is well formed.
    fn value(&mut self) -> Option<Option<String>> {
        let mut open = Vec::new();
        loop {
            match self.blanks()? {
                opening @ (b'[' | b'{') => {
                    self.at += 1;
                    open.push(opening);
                    if open.len() >= DEPTH {
                        return None;
                    }
                    let closing = if opening == b'[' { b']' } else { b'}' };
                    if self.blanks()? == closing {
                        self.at += 1;
                        open.pop();
                    } else {
                        self.key(opening)?;
                        continue;
                    }
                }
                b'"' => drop(self.string()?),
                b't' => self.literal(b"true")?,
                b'f' => self.literal(b"false")?,
                b'n' => self.literal(b"null")?,
                _ => self.number()?,
            }
            if !self.close(&mut open)? {
                return Some(None);
            }
        }
    }

    /// Steps over what follows a value; `false` where the outermost value has ended.
    fn close(&mut self, open: &mut Vec<u8>) -> Option<bool> {
        while let Some(&opening) = open.last() {
            match (self.blanks()?, opening) {
                (b',', _) => {
                    self.at += 1;
                    self.key(opening)?;
                    return Some(true);
                }
                (b']', b'[') | (b'}', b'{') => {
                    self.at += 1;
                    open.pop();
                }
                _ => return None,
            }
        }
        Some(false)
    }

    fn key(&mut self, opening: u8) -> Option<()> {
        if opening == b'{' {
            (self.blanks()? == b'"').then_some(())?;
            self.string()?;
            self.expect(b':')?;
        }
        Some(())
    }

    fn literal(&mut self, literal: &[u8]) -> Option<()> {
        self.bytes[self.at..].starts_with(literal).then(|| self.at += literal.len())
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn number(&mut self) -> Option<()> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = std::str::from_utf8(&self.bytes[start..self.at]).ok()?;
        text.parse::<f64>().ok()?.is_finite().then_some(())
    }

    fn string(&mut self) -> Option<String> {
        self.at += 1;
        let mut text = Vec::new();
        loop {
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b'"' => return String::from_utf8(text).ok(),
                b'\\' => {
                    let c = self.escape()?;
                    text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                0..0x20 => return None,
                _ => text.push(byte),
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        let byte = self.peek()?;
        self.at += 1;
        Some(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => self.unicode()?,
            _ => return None,
        })
    }

    fn unicode(&mut self) -> Option<char> {
        let unit = self.hex(self.at)?;
        self.at += 4;
        if let Some(c) = char::from_u32(unit) {
            return Some(c);
        }
        let low = (self.bytes[self.at..].starts_with(b"\\u"))
            .then(|| self.hex(self.at + 2))
            .flatten()
            .filter(|low| (0xDC00..0xE000).contains(low));
        match low {
            Some(low) if unit < 0xDC00 => {
                self.at += 6;
                char::from_u32(0x1_0000 + ((unit - 0xD800) << 10) + (low - 0xDC00))
            }
            _ => Some(char::REPLACEMENT_CHARACTER),
        }
    }

    fn hex(&self, at: usize) -> Option<u32> {
        let digits = self.bytes.get(at..at + 4)?;
        digits
            .iter()
            .try_fold(0, |value, &digit| Some(value * 16 + char::from(digit).to_digit(16)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Joined;

    fn read(text: &str) -> Json {
        let mut joined = Joined::default();
        joined.push(text, 0, 1);
        strings(joined.whole())
    }

    #[test]
    fn reads_arrays_of_strings() {
        let cases: [(&str, &[&str]); 8] = [
            ("[]", &[]),
            (" [ ] \t", &[]),
            (r#"["a"]"#, &["a"]),
            (r#" ["a", "b c" ,"" ] "#, &["a", "b c", ""]),
            (r#"["\u0041\n\t\"\\\/é"]"#, &["A\n\t\"\\/é"]),
            (r#"["\ud83d\ude00"]"#, &["😀"]),
            (r#"["\ud83dx", "\udc00\ud83d"]"#, &["\u{FFFD}x", "\u{FFFD}\u{FFFD}"]),
            (r#"["\ud83d\u0041"]"#, &["\u{FFFD}A"]),
        ];
        for (text, expected) in cases {
            let Json::Strings(words) = read(text) else { panic!("{text}") };
            let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
            assert_eq!(texts, expected, "{text}");
        }
        let Json::Strings(words) = read(r#" ["a", "b c"]"#) else { panic!("array") };
        assert_eq!((words[1].span.start, words[1].span.end), (7, 12));
    }

    #[test]
    fn tells_wrong_arrays_from_no_arrays() {
        for text in ["[1]", r#"["a", null]"#, r#"[["a"]]"#, r#"[{"a": [1, {}, "x"]}, true]"#] {
            assert!(matches!(read(text), Json::OtherValues), "{text}");
        }
        for text in [
            "",
            "a",
            "['a']",
            r#"["a""#,
            r#"["a",]"#,
            r#"[,"a"]"#,
            r#"["a"] x"#,
            r#"["a" "b"]"#,
            "[\"a\tb\"]",
            r#"["\x"]"#,
            r#"["\u12"]"#,
            "[1e999]",
            "[01]",
            "[1.]",
            "[-]",
            "[tru]",
            r#"[{"a"}]"#,
            r#"[{1:2}]"#,
            "[[]",
            "[}",
            r#"{"a": "b"}"#,
        ] {
            assert!(matches!(read(text), Json::No), "{text}");
        }
        let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
        assert!(matches!(read(&deep), Json::No));
        let deep = format!("{}{}", "[".repeat(9_000), "]".repeat(9_000));
        assert!(matches!(read(&deep), Json::OtherValues));
    }
}
