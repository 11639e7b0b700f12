//! Functions on texts.

use serde_json::Value;
use unicode_segmentation::UnicodeSegmentation as _;

use super::{Call, Found, bounded};
use crate::{error::ValueError, value::list};

#[allow(clippy::too_many_lines, reason = "one flat table")]
pub(super) fn texts(call: &Call<'_>) -> Found {
    let text = |at| call.text(at);
    let value: Value = match call.name {
        "lower" => {
            text(0)?.chars().map(|it| one_of(it, it.to_lowercase())).collect::<String>().into()
        }
        "upper" => {
            text(0)?.chars().map(|it| one_of(it, it.to_uppercase())).collect::<String>().into()
        }
        "title" => title(&text(0)?).into(),
        "chomp" => text(0)?.trim_end_matches(['\r', '\n']).into(),
        "trimspace" => text(0)?.trim().into(),
        "trim" => {
            let letters: Vec<char> = text(1)?.chars().collect();
            text(0)?.trim_matches(&letters[..]).into()
        }
        "trimprefix" => {
            let (all, prefix) = (text(0)?, text(1)?);
            all.strip_prefix(&prefix).unwrap_or(&all).into()
        }
        "trimsuffix" => {
            let (all, suffix) = (text(0)?, text(1)?);
            all.strip_suffix(&suffix).unwrap_or(&all).into()
        }
        "strlen" => text(0)?.graphemes(true).count().into(),
        "byteslen" => text(0)?.len().into(),
        "reverse" => text(0)?.graphemes(true).rev().collect::<String>().into(),
        "bytesslice" => {
            let (all, from, length) = (text(0)?, call.whole(1)?, call.whole(2)?);
            let range = usize::try_from(from).ok().zip(usize::try_from(length).ok());
            let part = range.and_then(|(from, length)| all.get(from..from.checked_add(length)?));
            part.ok_or_else(|| call.wrong("there are not so many bytes"))?.into()
        }
        "substr" => substring(&text(0)?, call.whole(1)?, call.whole(2)?).into(),
        "split" => {
            let (separator, all) = (text(0)?, text(1)?);
            call.spent.take(32 * all.matches(&separator).count() as u64)?;
            if separator.is_empty() {
                all.chars().map(|letter| Value::String(letter.to_string())).collect()
            } else {
                all.split(&separator).map(Value::from).collect()
            }
        }
        "join" => {
            let mut words = Vec::new();
            for argument in call.arguments.iter().skip(1) {
                for word in list(argument)? {
                    words.push(crate::value::text(word)?);
                }
            }
            let separator = text(0)?;
            let length = words.iter().map(String::len).sum();
            bounded(call, words.len(), length, separator.len())?;
            words.join(&separator).into()
        }
        "replace" => replaced(call, &text(0)?, &text(1)?, &text(2)?)?.into(),
        "indent" => {
            let spaces = call.whole(0)?;
            if !(0..=1000).contains(&spaces) {
                return Err(call.wrong("too many spaces"));
            }
            let spaces = " ".repeat(usize::try_from(spaces).unwrap_or(0));
            replaced(call, &text(1)?, "\n", &format!("\n{spaces}"))?.into()
        }
        "basename" => match text(0)?.trim_end_matches('/') {
            "" if text(0)?.is_empty() => ".".into(),
            "" => "/".into(),
            path => path.rsplit('/').next().unwrap_or_default().into(),
        },
        "dirname" => {
            let path = text(0)?;
            cleaned(path.rfind('/').map_or("", |end| &path[..=end])).into()
        }
        "homedir" => call.world.home.as_str().into(),
        "semvercmp" => {
            let holds = super::versions::satisfies(&text(0)?, &text(1)?);
            holds.map_err(|problem| call.wrong(problem))?.into()
        }
        "sanitize" => {
            let kept = |letter: char| letter.is_ascii_alphanumeric() || "_-".contains(letter);
            let all = text(0)?;
            all.chars().map(|it| if kept(it) { it } else { '_' }).collect::<String>().into()
        }
        _ => return Ok(None),
    };
    Ok(Some(value))
}

fn replaced(call: &Call<'_>, all: &str, old: &str, new: &str) -> Result<String, ValueError> {
    bounded(call, all.matches(old).count(), all.len(), new.len())?;
    Ok(all.replace(old, new))
}

/// The other case of a letter, if that is one letter.
fn one_of(letter: char, mut other: impl Iterator<Item = char>) -> char {
    match (other.next(), other.next()) {
        (Some(one), None) => one,
        _ => letter,
    }
}

/// Words begin with a capital letter.
fn title(text: &str) -> String {
    let mut is_start = true;
    let mut out = String::new();
    for letter in text.chars() {
        if is_start {
            out.push(one_of(letter, letter.to_uppercase()));
        } else {
            out.push(letter);
        }
        is_start = !(letter.is_alphanumeric() || letter == '_')
            && (letter.is_ascii() || letter.is_whitespace());
    }
    out
}

fn substring(text: &str, from: i64, length: i64) -> String {
    let count = i64::try_from(text.graphemes(true).count()).unwrap_or(i64::MAX);
    let from = if from < 0 { (count + from).max(0) } else { from };
    let length = if length < 0 { count } else { length };
    let size = |number: i64| usize::try_from(number).unwrap_or(0);
    text.graphemes(true).skip(size(from)).take(size(length)).collect()
}

/// The path without `.`, `..` and repeated slashes.
pub(crate) fn cleaned(path: &str) -> String {
    let is_absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if is_absolute => {}
            part => parts.push(part),
        }
    }
    match (is_absolute, parts.join("/")) {
        (true, path) => format!("/{path}"),
        (false, path) if path.is_empty() => ".".to_owned(),
        (false, path) => path,
    }
}
