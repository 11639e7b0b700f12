//! One pattern, compiled to the cheapest test that means the same.
//!
//! The language is that of moby's patternmatcher: `*` is `[^/]*`, `?` is `[^/]`, `**` is any number
//! of directories, and everything else goes into an expression of Go's `regexp`, brackets
//! included; what differs between that and the `regex` crate is translated.

use std::borrow::Cow;

use regex::{Regex, RegexBuilder};

use crate::{GlobError, glob::first_character};

/// Largest compiled expression in bytes.
const PROGRAM_LIMIT: usize = 1 << 20;

/// How a pattern is tested.
#[derive(Clone, Debug)]
pub(super) enum Matcher {
    /// Equal to the path.
    Exact(Vec<u8>),
    /// The path begins with it.
    Prefix(Vec<u8>),
    /// The path ends with it; a leading `/` need not be there if the rest is all of the path.
    Suffix(Vec<u8>),
    /// One component with one `*`: at the root, or in any directory for `**/` before it.
    Component { anywhere: bool, before: Vec<u8>, behind: Vec<u8> },
    /// Anything else.
    Expression(Regex),
}

impl Matcher {
    pub(super) fn new(pattern: &[u8]) -> Result<Self, GlobError> {
        if let Some(matcher) = component(pattern) {
            return Ok(matcher);
        }
        let text = lossy(pattern);
        let mut builder = Builder::default();
        builder.pattern(&text);
        match builder.shape {
            Shape::Exact => Ok(Self::Exact(pattern.to_vec())),
            Shape::Prefix => Ok(Self::Prefix(pattern[..pattern.len() - 2].to_vec())),
            Shape::Suffix => Ok(Self::Suffix(pattern[2..].to_vec())),
            Shape::Expression => {
                let wrong = || GlobError(text.clone().into_owned());
                let expression = translate(&builder.expression).ok_or_else(wrong)?;
                let built = RegexBuilder::new(&expression).size_limit(PROGRAM_LIMIT).build();
                built.map(Self::Expression).map_err(|_| wrong())
            }
        }
    }

    pub(super) fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(text) => path == text,
            Self::Prefix(text) => path.starts_with(text),
            Self::Suffix(text) => {
                path.ends_with(text) || text.strip_prefix(b"/").is_some_and(|text| path == text)
            }
            Self::Component { anywhere, before, behind } => {
                let start = match path.iter().rposition(|&byte| byte == b'/') {
                    None => 0,
                    // `.` of an expression is no line end.
                    Some(at) if *anywhere && !path[..at].contains(&b'\n') => at + 1,
                    Some(_) => return false,
                };
                let name = &path[start..];
                name.len() >= before.len() + behind.len()
                    && name.starts_with(before)
                    && name.ends_with(behind)
            }
            Self::Expression(expression) => expression.is_match(&lossy(path)),
        }
    }
}

/// Text in which each byte that is no UTF-8 is one U+FFFD.
fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((c, length)) = first_character(rest) {
        text.push(char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER));
        rest = &rest[length..];
    }
    Cow::Owned(text)
}

/// `[**/]before*behind` without any other special character.
fn component(pattern: &[u8]) -> Option<Matcher> {
    let (anywhere, name) = match pattern.strip_prefix(b"**/") {
        Some(name) => (true, name),
        None => (false, pattern),
    };
    let star = name.iter().position(|&byte| byte == b'*')?;
    let (before, behind) = (&name[..star], &name[star + 1..]);
    let plain = |part: &[u8]| !part.iter().any(|byte| b"/*?[]\\^".contains(byte));
    let ascii = pattern.is_ascii() || std::str::from_utf8(pattern).is_ok();
    (plain(before) && plain(behind) && ascii).then(|| Matcher::Component {
        anywhere,
        before: before.to_vec(),
        behind: behind.to_vec(),
    })
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Shape {
    #[default]
    Exact,
    Prefix,
    Suffix,
    Expression,
}

/// The expression in Go's syntax, and whether a plain comparison does instead.
#[derive(Default)]
struct Builder {
    expression: String,
    shape: Shape,
}

impl Builder {
    fn pattern(&mut self, text: &str) {
        self.expression.push('^');
        let mut chars = text.chars().peekable();
        let mut first = true;
        while let Some(c) = chars.next() {
            match c {
                '*' if chars.next_if_eq(&'*').is_some() => {
                    chars.next_if_eq(&'/');
                    self.stars(chars.peek().is_none());
                    if first {
                        self.shape = Shape::Suffix;
                    }
                }
                '*' => self.special("[^/]*"),
                '?' => self.special("[^/]"),
                '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => {
                    self.expression.push('\\');
                    self.expression.push(c);
                }
                '\\' => {
                    self.expression.push('\\');
                    if let Some(next) = chars.next() {
                        self.special(next.encode_utf8(&mut [0; 4]));
                    }
                }
                '[' | ']' => self.special(c.encode_utf8(&mut [0; 4])),
                _ => self.expression.push(c),
            }
            first = false;
        }
        self.expression.push('$');
    }

    fn special(&mut self, expression: &str) {
        self.expression.push_str(expression);
        self.shape = Shape::Expression;
    }

    fn stars(&mut self, last: bool) {
        match (last, self.shape) {
            (true, Shape::Exact) => self.shape = Shape::Prefix,
            (true, _) => self.special(".*"),
            (false, _) => self.special("(.*/)?"),
        }
    }
}

/// Turns an expression of Go's syntax into one of the `regex` crate; `None` where Go refuses it, or
/// for escapes that no path pattern needs (`\pL`, `\Q…\E`, `\B`).
fn translate(expression: &str) -> Option<String> {
    let mut translated = String::with_capacity(expression.len());
    let mut rest = expression;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' => {
                let (escaped, behind) = escape(rest)?;
                translated.push_str(&escaped.outside());
                rest = behind;
            }
            '[' => rest = class(rest, &mut translated)?,
            ']' => translated.push_str("\\]"),
            _ => translated.push(c),
        }
    }
    Some(translated)
}

/// What an escape means.
enum Escaped {
    Character(char),
    Set(&'static str),
    Assertion(&'static str),
}

impl Escaped {
    fn outside(&self) -> String {
        match self {
            Self::Character(c) => literal(*c),
            Self::Set(set) => format!("[{set}]"),
            Self::Assertion(assertion) => (*assertion).to_owned(),
        }
    }
}

fn literal(c: char) -> String {
    format!("\\x{{{:X}}}", u32::from(c))
}

/// The escape behind a `\`, and what follows it.
fn escape(text: &str) -> Option<(Escaped, &str)> {
    let c = text.chars().next()?;
    let rest = &text[c.len_utf8()..];
    let escaped = match c {
        'd' => Escaped::Set("0-9"),
        'D' => Escaped::Set("^0-9"),
        's' => Escaped::Set(r"\t\n\x0C\r\x20"),
        'S' => Escaped::Set(r"^\t\n\x0C\r\x20"),
        'w' => Escaped::Set("0-9A-Za-z_"),
        'W' => Escaped::Set("^0-9A-Za-z_"),
        'b' => Escaped::Assertion(r"(?-u:\b)"),
        'A' => Escaped::Assertion(r"\A"),
        'z' => Escaped::Assertion(r"\z"),
        'a' => Escaped::Character('\x07'),
        'f' => Escaped::Character('\x0c'),
        'n' => Escaped::Character('\n'),
        'r' => Escaped::Character('\r'),
        't' => Escaped::Character('\t'),
        'v' => Escaped::Character('\x0b'),
        'x' => return hexadecimal(rest),
        '0'..='7' => return octal(text),
        _ if c.is_ascii() && !c.is_ascii_alphanumeric() => Escaped::Character(c),
        _ => return None,
    };
    Some((escaped, rest))
}

fn hexadecimal(text: &str) -> Option<(Escaped, &str)> {
    let (digits, rest) = match text.strip_prefix('{') {
        Some(inner) => inner.split_once('}')?,
        None => text.split_at_checked(2)?,
    };
    let plain = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_hexdigit());
    let value = u32::from_str_radix(digits, 16).ok().filter(|_| plain)?;
    Some((Escaped::Character(char::from_u32(value)?), rest))
}

/// `\0`, or two and three octal digits; a lone `\1` would be a group, which Go does not have.
fn octal(text: &str) -> Option<(Escaped, &str)> {
    let digits = text.bytes().take(3).take_while(|byte| (b'0'..b'8').contains(byte)).count();
    if digits == 1 && !text.starts_with('0') {
        return None;
    }
    let value = u32::from_str_radix(&text[..digits], 8).ok()?;
    Some((Escaped::Character(char::from_u32(value)?), &text[digits..]))
}

/// Translates a class behind its `[`; returns what follows its `]`.
fn class<'a>(text: &'a str, translated: &mut String) -> Option<&'a str> {
    translated.push('[');
    let mut rest = text;
    if let Some(behind) = rest.strip_prefix('^') {
        translated.push('^');
        rest = behind;
    }
    let mut first = true;
    loop {
        if let Some(behind) = rest.strip_prefix(']')
            && !first
        {
            translated.push(']');
            return Some(behind);
        }
        first = false;
        if let Some((name, behind)) = rest.strip_prefix("[:").and_then(|rest| rest.split_once(":]"))
        {
            translated.push_str(&posix(name)?);
            rest = behind;
            continue;
        }
        let (low, behind) = class_item(rest)?;
        let low = match low {
            Escaped::Character(c) => c,
            Escaped::Set(set) => {
                translated.push_str(&format!("[{set}]"));
                rest = behind;
                continue;
            }
            Escaped::Assertion(_) => return None,
        };
        let range = behind.strip_prefix('-').filter(|behind| !behind.starts_with(']'));
        translated.push_str(&literal(low));
        rest = behind;
        if let Some(behind) = range {
            let (Escaped::Character(high), behind) = class_item(behind)? else { return None };
            if high < low {
                return None;
            }
            translated.push('-');
            translated.push_str(&literal(high));
            rest = behind;
        }
    }
}

fn class_item(text: &str) -> Option<(Escaped, &str)> {
    if let Some(rest) = text.strip_prefix('\\') {
        return escape(rest);
    }
    let c = text.chars().next()?;
    Some((Escaped::Character(c), &text[c.len_utf8()..]))
}

/// `alpha` and the like, ASCII only in both.
fn posix(name: &str) -> Option<String> {
    let known = [
        "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct",
        "space", "upper", "word", "xdigit",
    ];
    let plain = name.strip_prefix('^').unwrap_or(name);
    known.contains(&plain).then(|| format!("[:{name}:]"))
}
