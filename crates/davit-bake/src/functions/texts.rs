//! Functions on texts.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::Value;
use sha2::{Digest as _, Sha256, Sha512};

use super::{Call, Found};
use crate::{
    error::ValueError,
    value::{integer, list, text},
};

#[allow(clippy::too_many_lines, reason = "one flat table")]
pub(super) fn texts(call: &Call<'_>) -> Found {
    let text = |at| call.text(at);
    let value: Value = match call.name {
        "lower" => text(0)?.to_lowercase().into(),
        "upper" => text(0)?.to_uppercase().into(),
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
        "strlen" => text(0)?.chars().count().into(),
        "byteslen" => text(0)?.len().into(),
        "reverse" if call.get(0)?.is_string() => text(0)?.chars().rev().collect::<String>().into(),
        "substr" => substring(&text(0)?, call.whole(1)?, call.whole(2)?).into(),
        "split" => {
            let (separator, all) = (text(0)?, text(1)?);
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
            words.join(&text(0)?).into()
        }
        "replace" => replaced(call, &text(0)?, &text(1)?, &text(2)?)?.into(),
        "regex_replace" => {
            let pattern = regex::RegexBuilder::new(&text(1)?).size_limit(1 << 20).build();
            let pattern = pattern.map_err(|error| call.wrong(error.to_string()))?;
            let (all, new) = (text(0)?, text(2)?);
            bounded(call, pattern.find_iter(&all).count(), all.len(), new.len())?;
            pattern.replace_all(&all, new.as_str()).into_owned().into()
        }
        "indent" => {
            let spaces = call.whole(0)?;
            if !(0..=1000).contains(&spaces) {
                return Err(call.wrong("too many spaces"));
            }
            let spaces = " ".repeat(usize::try_from(spaces).unwrap_or(0));
            replaced(call, &text(1)?, "\n", &format!("\n{spaces}"))?.into()
        }
        "format" => formatted(call)?.into(),
        "basename" => text(0)?.trim_end_matches('/').rsplit('/').next().unwrap_or("").into(),
        "dirname" => match text(0)?.rsplit_once('/') {
            None => ".".into(),
            Some(("", _)) => "/".into(),
            Some((folder, _)) => folder.into(),
        },
        "sanitize" => {
            let kept = |letter: char| letter.is_ascii_alphanumeric() || "_-".contains(letter);
            let all = text(0)?;
            all.chars().map(|it| if kept(it) { it } else { '_' }).collect::<String>().into()
        }
        "base64encode" => BASE64.encode(text(0)?).into(),
        "base64decode" => {
            let bytes = BASE64.decode(text(0)?).map_err(|error| call.wrong(error.to_string()))?;
            String::from_utf8(bytes).map_err(|_| call.wrong("it is no text"))?.into()
        }
        "urlencode" => url_encoded(&text(0)?).into(),
        "sha256" => hexadecimal(&Sha256::digest(text(0)?)).into(),
        "sha512" => hexadecimal(&Sha512::digest(text(0)?)).into(),
        "jsonencode" => call.get(0)?.to_string().into(),
        "jsondecode" => {
            serde_json::from_str(&text(0)?).map_err(|error| call.wrong(error.to_string()))?
        }
        _ => return Ok(None),
    };
    Ok(Some(value))
}

fn bounded(call: &Call<'_>, count: usize, old: usize, new: usize) -> Result<(), ValueError> {
    if count.saturating_mul(new).saturating_add(old) > 16 << 20 {
        return Err(call.wrong("the result is too long"));
    }
    Ok(())
}

fn replaced(call: &Call<'_>, all: &str, old: &str, new: &str) -> Result<String, ValueError> {
    bounded(call, all.matches(old).count(), all.len(), new.len())?;
    Ok(all.replace(old, new))
}

fn title(text: &str) -> String {
    let mut is_start = true;
    let letters = text.chars().map(|letter| {
        let shown = if is_start { letter.to_ascii_uppercase() } else { letter };
        is_start = !letter.is_alphanumeric();
        shown
    });
    letters.collect()
}

fn substring(text: &str, from: i64, length: i64) -> String {
    let count = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    let from = if from < 0 { (count + from).max(0) } else { from };
    let length = if length < 0 { count } else { length };
    let size = |number: i64| usize::try_from(number).unwrap_or(0);
    text.chars().skip(size(from)).take(size(length)).collect()
}

/// `%s`, `%q`, `%d`, `%v` and `%%`, with a width as `%03d` or `%-5s`.
fn formatted(call: &Call<'_>) -> Result<String, ValueError> {
    let format = call.text(0)?;
    let (mut out, mut next) = (String::new(), 1);
    let mut letters = format.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let mut flags = String::new();
        while let Some(flag) = letters.next_if(|it| it.is_ascii_digit() || *it == '-') {
            flags.push(flag);
        }
        let verb = letters.next();
        if verb == Some('%') {
            out.push('%');
            continue;
        }
        let value = call.get(next)?;
        next += 1;
        let shown = match verb {
            Some('s') => text(value)?,
            Some('q') => format!("{:?}", text(value)?),
            Some('d') => integer(value)?.to_string(),
            Some('v') => text(value).unwrap_or_else(|_| value.to_string()),
            other => {
                let verb = other.map_or_else(String::new, String::from);
                return Err(call.wrong(format!("the verb `%{flags}{verb}` is not supported")));
            }
        };
        let width: usize = flags.trim_start_matches('-').parse().unwrap_or(0);
        if width > 1000 {
            return Err(call.wrong("the width is too large"));
        }
        let written = match (flags.starts_with('-'), flags.starts_with('0')) {
            (true, _) => write!(out, "{shown:<width$}"),
            (_, true) => write!(out, "{shown:0>width$}"),
            _ => write!(out, "{shown:>width$}"),
        };
        written.map_err(|_| call.wrong("it cannot be written"))?;
    }
    Ok(out)
}

fn url_encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
