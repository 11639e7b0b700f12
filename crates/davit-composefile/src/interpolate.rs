//! `$NAME` and `${NAME…}` in texts.

use std::cell::Cell;

use crate::error::ComposeError;
use crate::node::{Node, Shape};

/// Defaults within defaults.
const DEPTH: usize = 32;
/// Longest result in bytes.
const LIMIT: usize = 1 << 20;

/// Looks variables up.
pub(crate) type Lookup<'l> = &'l dyn Fn(&str) -> Option<String>;

/// Replaces variables in a text; one that is not set and has no default is empty.
///
/// # Errors
/// What is wrong, as words for a message.
pub fn interpolate(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    replaced(text, lookup, DEPTH)
}

/// Replaces variables in all texts of a tree, which may become as long together as is left.
pub(crate) fn tree(
    node: &mut Node,
    lookup: Lookup<'_>,
    left: &Cell<usize>,
) -> Result<(), ComposeError> {
    match &mut node.shape {
        Shape::Plain(text) | Shape::Text(text) if text.contains('$') => {
            let place = node.place.clone();
            let wrong = |problem| ComposeError::Variable { place, problem };
            let text = interpolate(text, lookup).map_err(wrong)?;
            let rest = left.get().checked_sub(text.len());
            left.set(rest.ok_or_else(|| ComposeError::Large(node.place.file.clone()))?);
            node.shape = Shape::Text(text);
            Ok(())
        }
        Shape::Plain(_) | Shape::Text(_) => Ok(()),
        Shape::List(all) => all.iter_mut().try_for_each(|item| tree(item, lookup, left)),
        Shape::Map(all) => all.values_mut().try_for_each(|item| tree(item, lookup, left)),
    }
}

fn replaced(text: &str, lookup: Lookup<'_>, depth: usize) -> Result<String, String> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err("its defaults are nested too deep".to_owned());
    };
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        rest = after;
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end = closing(after).ok_or_else(|| invalid(text))?;
            out.push_str(&braced(&after[..end], lookup, depth)?);
            rest = &after[end + 1..];
        } else {
            let name = name_of(rest);
            if name.is_empty() {
                out.push('$');
            } else {
                out.push_str(&lookup(name).unwrap_or_default());
                rest = &rest[name.len()..];
            }
        }
        if out.len() > LIMIT {
            return Err("it becomes too long".to_owned());
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Where the brace that is open closes.
fn closing(text: &str) -> Option<usize> {
    let mut open = 1_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => open += 1,
            b'}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(at);
        }
    }
    None
}

fn name_of(text: &str) -> &str {
    let is_part = |(at, letter): (usize, char)| {
        letter == '_' || letter.is_ascii_alphabetic() || (at > 0 && letter.is_ascii_digit())
    };
    let end = text.char_indices().find(|&it| !is_part(it)).map_or(text.len(), |(at, _)| at);
    &text[..end]
}

fn invalid(text: &str) -> String {
    format!("`{text}` is no template: a `$` that stands for itself is written `$$`")
}

/// The value of what is between braces.
fn braced(text: &str, lookup: Lookup<'_>, depth: usize) -> Result<String, String> {
    let name = name_of(text);
    let operator = &text[name.len()..];
    if name.is_empty() || operator.contains('\n') {
        return Err(invalid(&format!("${{{text}}}")));
    }
    let value = lookup(name);
    let full = value.clone().filter(|value| !value.is_empty());
    let (value, is_there, word) = match operator.strip_prefix(':') {
        Some(operator) => (value, full.is_some(), operator),
        None => (value.clone(), value.is_some(), operator),
    };
    let other = |text: &str| replaced(text, lookup, depth);
    match word.split_at_checked(1) {
        None if operator.is_empty() => Ok(value.unwrap_or_default()),
        Some(("-", default)) if !is_there => other(default),
        Some(("+", instead)) if is_there => other(instead),
        Some(("?", message)) if !is_there => {
            let message = other(message)?;
            let colon = if message.is_empty() { "" } else { ": " };
            Err(format!("the variable {name} has no value{colon}{message}"))
        }
        Some(("-" | "+" | "?", _)) => Ok(value.unwrap_or_default()),
        _ => Err(invalid(&format!("${{{text}}}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced() {
        let lookup = |name: &str| match name {
            "V" => Some("value".to_owned()),
            "E" => Some(String::new()),
            _ => None,
        };
        for (text, expected) in [
            ("$V ${V}", "value value"),
            ("$$V $${V}", "$V ${V}"),
            ("${U-d} ${E-d} ${E:-d} ${V:-d}", "d  d value"),
            ("${U+s} ${E+s} ${E:+s} ${V:+s}", " s  s"),
            ("${U:-${E:-${V}}}x}", "valuex}"),
            ("${U:-a{b}c}", "a{b}c"),
            ("$1 $ $", "$1 $ $"),
            ("${V:?no} ${E?no}", "value "),
            ("${U:-a:?b}", "a:?b"),
            ("$V1 ${v_1:-x}", " x"),
        ] {
            assert_eq!(interpolate(text, &lookup).as_deref(), Ok(expected), "{text}");
        }
        for (text, problem) in [
            ("${U:?say ${V}}", "the variable U has no value: say value"),
            ("${E:?}", "the variable E has no value"),
            ("${", "no template"),
            ("${V", "no template"),
            ("${1V}", "no template"),
            ("${V!}", "no template"),
            ("${V:}", "no template"),
        ] {
            let error = interpolate(text, &lookup).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
        let deep = format!("{}x{}", "${U:-".repeat(50), "}".repeat(50));
        assert!(interpolate(&deep, &lookup).is_err());
    }
}
