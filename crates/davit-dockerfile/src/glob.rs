//! Wildcards of `COPY` sources: Go's `filepath.Match`.
//!
//! `*` stands for any run of bytes but `/`, `?` for one character but `/`, `[…]` for one character
//! of a class (`[^…]`: not of it), `\` takes the next character as it is. The whole name must match.

/// A wildcard pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    tokens: Vec<Token>,
}

/// Why a text is no pattern: a class or an escape has no end, or a class is empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no valid pattern")]
pub struct GlobError(pub String);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Star,
    AnyCharacter,
    Byte(u8),
    Class { negated: bool, ranges: Vec<(u32, u32)> },
}

/// Stands for bytes that are no UTF-8.
const REPLACEMENT: u32 = 0xFFFD;

/// The first character and its length; a byte that begins none is U+FFFD, 1 byte long.
pub(crate) fn first_character(bytes: &[u8]) -> Option<(u32, usize)> {
    bytes.first()?;
    let length =
        (1..=bytes.len().min(4)).find(|&length| std::str::from_utf8(&bytes[..length]).is_ok());
    match length {
        Some(length) => {
            let text = std::str::from_utf8(&bytes[..length]).ok()?;
            Some((u32::from(text.chars().next()?), length))
        }
        None => Some((REPLACEMENT, 1)),
    }
}

impl Glob {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`GlobError`] for a class or an escape without end, an empty class, and a class with a bare
    /// `-` or `]` where a character must stand.
    pub fn new(pattern: &[u8]) -> Result<Self, GlobError> {
        let wrong = || GlobError(String::from_utf8_lossy(pattern).into_owned());
        let mut tokens = Vec::new();
        let mut rest = pattern;
        while let [first, behind @ ..] = rest {
            rest = behind;
            tokens.push(match first {
                b'*' => Token::Star,
                b'?' => Token::AnyCharacter,
                b'\\' => {
                    let (escaped, behind) = rest.split_first().ok_or_else(wrong)?;
                    rest = behind;
                    Token::Byte(*escaped)
                }
                b'[' => {
                    let (class, behind) = class(rest).ok_or_else(wrong)?;
                    rest = behind;
                    class
                }
                byte => Token::Byte(*byte),
            });
        }
        Ok(Self { tokens })
    }

    /// Whether `text` holds a `*`, `?` or `[` that no `\` takes away.
    #[must_use]
    pub fn has_wildcards(text: &str) -> bool {
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' => drop(bytes.next()),
                b'*' | b'?' | b'[' => return true,
                _ => {}
            }
        }
        false
    }

    /// The name that a pattern without wildcards stands for.
    #[must_use]
    pub fn unescape(pattern: &str) -> String {
        let mut plain = String::with_capacity(pattern.len());
        let mut characters = pattern.chars();
        while let Some(c) = characters.next() {
            plain.push(if c == '\\' { characters.next().unwrap_or('\\') } else { c });
        }
        plain
    }

    /// Whether the whole of `name` matches.
    #[must_use]
    pub fn matches(&self, name: &[u8]) -> bool {
        let (mut token, mut at) = (0, 0);
        // Where to go on with one byte more for the last star.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            match self.tokens.get(token) {
                Some(Token::Star) => {
                    token += 1;
                    retry = Some((token, at));
                    continue;
                }
                Some(other) => {
                    if let Some(length) = other.takes(&name[at..]) {
                        token += 1;
                        at += length;
                        continue;
                    }
                }
                None if at == name.len() => return true,
                None => {}
            }
            match retry {
                Some((behind, from)) if name.get(from).is_some_and(|&byte| byte != b'/') => {
                    retry = Some((behind, from + 1));
                    (token, at) = (behind, from + 1);
                }
                _ => return false,
            }
        }
    }
}

impl Token {
    /// How many bytes at the front of `rest` it takes.
    fn takes(&self, rest: &[u8]) -> Option<usize> {
        match self {
            Self::Star => None,
            Self::Byte(byte) => (rest.first() == Some(byte)).then_some(1),
            Self::AnyCharacter => {
                let (c, length) = first_character(rest)?;
                (c != u32::from(b'/')).then_some(length)
            }
            Self::Class { negated, ranges } => {
                let (c, length) = first_character(rest)?;
                let within = ranges.iter().any(|&(low, high)| low <= c && c <= high);
                (within != *negated).then_some(length)
            }
        }
    }
}

/// A class behind its `[`, and what follows its `]`.
fn class(text: &[u8]) -> Option<(Token, &[u8])> {
    let (negated, mut rest) = match text {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let mut ranges = Vec::new();
    loop {
        if let [b']', behind @ ..] = rest
            && !ranges.is_empty()
        {
            return Some((Token::Class { negated, ranges }, behind));
        }
        let (low, behind) = class_character(rest)?;
        let (high, behind) = match behind {
            [b'-', behind @ ..] => class_character(behind)?,
            _ => (low, behind),
        };
        ranges.push((low, high));
        rest = behind;
    }
}

/// One character of a class; something must follow it.
fn class_character(text: &[u8]) -> Option<(u32, &[u8])> {
    let text = match text {
        [] | [b'-' | b']', ..] => return None,
        [b'\\', rest @ ..] => rest,
        _ => text,
    };
    let (c, length) = first_character(text)?;
    let valid = c != REPLACEMENT || length > 1;
    (valid && text.len() > length).then(|| (c, &text[length..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_escaped_name_matches_itself_alone(name in "[a-z.*?\\[\\\\-]{1,8}", other: Vec<u8>) {
            let escaped: String = name.chars().flat_map(|c| ['\\', c]).collect();
            let glob = Glob::new(escaped.as_bytes()).unwrap();
            prop_assert!(glob.matches(name.as_bytes()));
            prop_assert_eq!(glob.matches(&other), other == name.as_bytes());
            prop_assert!(!Glob::has_wildcards(&escaped));
            prop_assert_eq!(Glob::unescape(&escaped), name);
        }

        #[test]
        fn no_pattern_makes_it_panic(pattern: Vec<u8>, name: Vec<u8>) {
            let _matched = Glob::new(&pattern).map(|glob| glob.matches(&name));
        }
    }

    #[test]
    fn matches_names() {
        for (pattern, name, expected) in [
            ("", "", true),
            ("", "a", false),
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("*", "", true),
            ("*", "abc", true),
            ("*", "a/c", false),
            ("**", "abc", true),
            ("**", "a/c", false),
            ("*c", "abc", true),
            ("*c", "ac/c", false),
            ("a*/b", "ax/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d/f", "axbxcxd/f", true),
            ("a*b*c*d/f", "axbxcxdx/f", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("?", "é", true),
            ("??", "é", false),
            ("?", "/", false),
            ("?", "", false),
            ("*?", "é", true),
            ("[a-c]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[^a-c]", "d", true),
            ("[^a-c]", "a", false),
            ("[^a]", "", false),
            ("[à-ö]", "é", true),
            ("a[/]b", "a/b", true),
            ("[a*]", "*", true),
            ("[\\-]", "-", true),
            ("[\\]a]", "]", true),
            ("[x\\-]", "x", true),
            ("[[]*", "[ab", true),
            ("[c-a]", "b", false),
            ("a]", "a]", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("\\é", "é", true),
            ("a\\b", "ab", true),
            ("*.go", ".go", true),
            ("*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            let glob = Glob::new(pattern.as_bytes()).unwrap();
            assert_eq!(glob.matches(name.as_bytes()), expected, "{pattern} {name}");
        }
        assert!(Glob::new(b"a?c").unwrap().matches(b"a\xFFc"));
        assert!(Glob::new(b"a\xFF*").unwrap().matches(b"a\xFFc"));
    }

    #[test]
    fn refuses_patterns() {
        for pattern in [
            "[", "[^", "[a", "[]a]", "[^]a]", "[-]", "[-x]", "[x-]", "[a-b-c]", "[\\", "\\", "a[",
            "*[", "a*\\",
        ] {
            assert!(Glob::new(pattern.as_bytes()).is_err(), "{pattern}");
        }
    }
}
