//! Patterns of `${name#…}`, `${name%…}` and `${name/…/…}`: `*`, `?` and escapes, no brackets.

use std::sync::LazyLock;

use regex::{Regex, RegexBuilder};

use super::ExpandErrorKind;

/// Largest compiled pattern in bytes: thousands of wildcards.
const PROGRAM_LIMIT: usize = 4 << 20;

/// Whether `c` is a decimal digit of any script.
pub(super) fn is_decimal(c: char) -> bool {
    static DECIMAL: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^\d$").expect("the expression is constant and valid"));
    DECIMAL.is_match(c.encode_utf8(&mut [0; 4]))
}

/// How much `*` takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Star {
    Shortest,
    Longest,
}

/// Cuts what `word` matches off the front (`#`) or the back (`%`); a doubled operator, which `word`
/// then begins with, cuts as much as it can.
pub(super) fn trim(word: &str, operator: char, value: &str) -> Result<String, ExpandErrorKind> {
    let (pattern, star) = match word.strip_prefix(operator) {
        Some(rest) => (rest, Star::Longest),
        None => (word, Star::Shortest),
    };
    if operator == '#' {
        return trim_front(pattern, star, value);
    }
    // No expression finds the shortest match that ends at the end: search in the mirror.
    let mirrored: String = value.chars().rev().collect();
    let rest = trim_front(&mirror(pattern), star, &mirrored)?;
    Ok(rest.chars().rev().collect())
}

fn trim_front(pattern: &str, star: Star, value: &str) -> Result<String, ExpandErrorKind> {
    let expression = compile(pattern, star, "^")?;
    let cut = expression.find(value).map_or(0, |found| found.end());
    Ok(value[cut..].to_owned())
}

/// The pattern from back to front, each escape still before its character.
fn mirror(pattern: &str) -> String {
    let mut groups = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        groups.push((c, if c == '\\' { chars.next() } else { None }));
    }
    let mut mirrored = String::with_capacity(pattern.len());
    for (c, escaped) in groups.into_iter().rev() {
        mirrored.push(c);
        mirrored.extend(escaped);
    }
    mirrored
}

/// Replaces the first match; the replacement is taken as it is.
pub(super) fn replace_first(
    pattern: &str,
    value: &str,
    replacement: &str,
) -> Result<String, ExpandErrorKind> {
    let expression = compile(pattern, Star::Longest, "")?;
    Ok(match expression.find(value) {
        Some(found) => {
            format!("{}{replacement}{}", &value[..found.start()], &value[found.end()..])
        }
        None => value.to_owned(),
    })
}

/// Replaces every match; in the replacement `$0` and `${0}` stand for the match, `$$` for `$`, and
/// any other `$name` for nothing: the frontend hands it to Go's expression engine.
pub(super) fn replace_all(
    pattern: &str,
    value: &str,
    replacement: &str,
    limit: usize,
) -> Result<String, ExpandErrorKind> {
    let expression = compile(pattern, Star::Longest, "")?;
    let mut text = String::new();
    let mut last = 0;
    for found in expression.find_iter(value) {
        text.push_str(&value[last..found.start()]);
        template(replacement, found.as_str(), &mut text);
        last = found.end();
        if text.len() > limit {
            return Err(ExpandErrorKind::Size);
        }
    }
    text.push_str(&value[last..]);
    Ok(text)
}

fn template(replacement: &str, whole: &str, text: &mut String) {
    let mut rest = replacement;
    while let Some((before, behind)) = rest.split_once('$') {
        text.push_str(before);
        if let Some(behind) = behind.strip_prefix('$') {
            text.push('$');
            rest = behind;
            continue;
        }
        let Some((name, behind)) = reference(behind) else {
            text.push('$');
            rest = behind;
            continue;
        };
        if name == "0" {
            text.push_str(whole);
        }
        rest = behind;
    }
    text.push_str(rest);
}

/// The name behind `$`, in braces or not, and what follows it.
fn reference(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('{').unwrap_or(text);
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let length = inner.find(|c| !part(c)).unwrap_or(inner.len());
    let (name, behind) = inner.split_at(length);
    if name.is_empty() {
        return None;
    }
    if inner.len() == text.len() {
        Some((name, behind))
    } else {
        Some((name, behind.strip_prefix('}')?))
    }
}

fn compile(pattern: &str, star: Star, anchor: &str) -> Result<Regex, ExpandErrorKind> {
    let wrong = |problem| ExpandErrorKind::Pattern { pattern: pattern.to_owned(), problem };
    let mut expression = anchor.to_owned();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' if star == Star::Longest => expression.push_str(".*"),
            '*' => expression.push_str(".*?"),
            '?' => expression.push('.'),
            '\\' => match chars.next() {
                Some(c @ ('*' | '?' | '\\')) => {
                    expression.push('\\');
                    expression.push(c);
                }
                // The brace and the slash are escaped for the substitution, not for the pattern.
                Some(c @ ('/' | '}')) => {
                    expression.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])))
                }
                Some(_) => return Err(wrong("escapes a character other than * ? \\ / }")),
                None => return Err(wrong("ends with an escape")),
            },
            c => expression.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    let built = RegexBuilder::new(&expression).size_limit(PROGRAM_LIMIT).build();
    built.map_err(|_| wrong("is too long"))
}
