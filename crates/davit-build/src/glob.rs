//! Patterns of `COPY` sources: Go's `filepath.Match`, one path component at a time.
//!
//! `*` any run of characters, `?` one character, `[a-z]` and `[^a-z]` classes, `\x` a literal x.
//! `**` means the same as `*`.

/// Whether a path component or path has a wildcard.
pub(crate) fn has_wildcard(text: &str) -> bool {
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                characters.next();
            }
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

/// Removes the backslashes of a component without wildcards.
pub(crate) fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        plain.push(if character == '\\' { characters.next().unwrap_or('\\') } else { character });
    }
    plain
}

/// Whether every pattern component is well-formed.
pub(crate) fn is_valid(pattern: &str) -> bool {
    let mut rest = pattern;
    while !rest.is_empty() {
        match token(rest) {
            Some((_, next)) => rest = next,
            None => return false,
        }
    }
    true
}

/// Whether `name`, one path component, matches `pattern`; a malformed pattern matches nothing.
pub(crate) fn matches(pattern: &str, name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else {
        // Go decodes invalid bytes one by one; each is one character to `*` and `?`.
        return matches(pattern, String::from_utf8_lossy(name).as_bytes());
    };
    let mut tokens = Vec::new();
    let mut rest = pattern;
    while !rest.is_empty() {
        let Some((token, next)) = token(rest) else { return false };
        tokens.push(token);
        rest = next;
    }
    match_tokens(&tokens, &name.chars().collect::<Vec<_>>())
}

enum Token<'a> {
    Any,
    One,
    Literal(char),
    Class { negated: bool, body: &'a str },
}

impl Token<'_> {
    fn accepts(&self, character: char) -> bool {
        match self {
            Self::Any | Self::One => true,
            Self::Literal(expected) => *expected == character,
            Self::Class { negated, body } => {
                let mut rest = *body;
                let mut found = false;
                while !rest.is_empty() {
                    let Some((low, high, next)) = range(rest) else { break };
                    found |= (low..=high).contains(&character);
                    rest = next;
                }
                found != *negated
            }
        }
    }
}

/// Matches with one point to return to: the last `*` (linear space, no recursion).
fn match_tokens(tokens: &[Token<'_>], name: &[char]) -> bool {
    let (mut at, mut position) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while position < name.len() {
        match tokens.get(at) {
            Some(Token::Any) => {
                star = Some((at, position));
                at += 1;
            }
            Some(token) if token.accepts(name[position]) => {
                at += 1;
                position += 1;
            }
            _ => {
                let Some((back, from)) = star else { return false };
                star = Some((back, from + 1));
                (at, position) = (back + 1, from + 1);
            }
        }
    }
    tokens[at..].iter().all(|token| matches!(token, Token::Any))
}

/// Splits the first token off; `None` when it is malformed.
fn token(text: &str) -> Option<(Token<'_>, &str)> {
    let mut characters = text.chars();
    let first = characters.next()?;
    let rest = characters.as_str();
    match first {
        '*' => Some((Token::Any, rest)),
        '?' => Some((Token::One, rest)),
        '\\' => {
            let literal = characters.next()?;
            Some((Token::Literal(literal), characters.as_str()))
        }
        '[' => class(rest),
        literal => Some((Token::Literal(literal), rest)),
    }
}

fn class(text: &str) -> Option<(Token<'_>, &str)> {
    let (negated, body) = text.strip_prefix('^').map_or((false, text), |body| (true, body));
    let mut rest = body;
    let mut first = true;
    loop {
        if !first && let Some(behind) = rest.strip_prefix(']') {
            let length = body.len() - rest.len();
            return Some((Token::Class { negated, body: &body[..length] }, behind));
        }
        (_, _, rest) = range(rest)?;
        first = false;
    }
}

/// One `a` or `a-z` of a class.
fn range(text: &str) -> Option<(char, char, &str)> {
    let (low, rest) = class_character(text)?;
    let Some(behind) = rest.strip_prefix('-') else { return Some((low, low, rest)) };
    let (high, rest) = class_character(behind)?;
    Some((low, high, rest))
}

fn class_character(text: &str) -> Option<(char, &str)> {
    let mut characters = text.chars();
    match characters.next()? {
        '-' | ']' => None,
        '\\' => {
            let literal = characters.next()?;
            Some((literal, characters.as_str()))
        }
        literal => Some((literal, characters.as_str())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn follows_go() {
        let cases = [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "ab", true),
            ("a*b*c*d*e*", "axbxcxdxexxx", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a\u{263a}b", true),
            ("a[^a]b", "a\u{263a}b", true),
            ("a???b", "a\u{263a}b", false),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[x\\-]", "z", false),
            ("[\\-x]", "a", false),
            ("**", "abc", true),
            ("", "", true),
            ("?", "", false),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(matches(pattern, name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        for pattern in ["[]a]", "[-]", "[x-]", "[-x]", "[", "[^", "[^bc", "a[", "a\\", "[a-b-c]"] {
            assert!(!is_valid(pattern), "{pattern}");
            assert!(!matches(pattern, b"a"), "{pattern}");
        }
        assert!(is_valid("a*[b-c]\\?"));
    }

    proptest! {
        #[test]
        fn a_literal_matches_itself(name in "[a-z.*?\\[\\\\-]{1,8}") {
            let escaped: String = name.chars().flat_map(|c| ['\\', c]).collect();
            prop_assert!(matches(&escaped, name.as_bytes()));
            prop_assert!(!has_wildcard(&escaped));
            prop_assert_eq!(unescape(&escaped), name);
        }

        #[test]
        fn never_panics(pattern: String, name: Vec<u8>) {
            let _matched = matches(&pattern, &name);
        }
    }
}
