//! Texts that hold values: JSON, CSV, base64, URLs.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Map, Value};

use super::{Call, Found};
use crate::{error::ValueError, value::encoded};

pub(super) fn data(call: &Call<'_>) -> Found {
    let value: Value = match call.name {
        "base64encode" => BASE64.encode(call.text(0)?).into(),
        "base64decode" => {
            let bytes = BASE64.decode(call.text(0)?);
            let bytes = bytes.map_err(|error| call.wrong(error.to_string()))?;
            String::from_utf8(bytes).map_err(|_| call.wrong("it is no text"))?.into()
        }
        "urlencode" => url_encoded(&call.text(0)?).into(),
        "jsonencode" => encoded(call.get(0)?).into(),
        "jsondecode" => {
            serde_json::from_str(&call.text(0)?).map_err(|error| call.wrong(error.to_string()))?
        }
        "csvdecode" => table(call)?,
        _ => return Ok(None),
    };
    Ok(Some(value))
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

/// A CSV text to objects with the names of its first row.
fn table(call: &Call<'_>) -> Result<Value, ValueError> {
    let text = call.text(0)?;
    let mut rows = rows(&text).ok_or_else(|| call.wrong("a quote is not where it may be"))?;
    if rows.is_empty() {
        return Err(call.wrong("there is no row of names"));
    }
    let names = rows.remove(0);
    let mut seen = std::collections::BTreeSet::new();
    if let Some(name) = names.iter().find(|name| !seen.insert(*name)) {
        return Err(call.wrong(format!("the name `{name}` is there twice")));
    }
    call.spent.take(
        text.len() as u64 + (names.iter().map(String::len).sum::<usize>() * rows.len()) as u64,
    )?;
    let objects = rows.into_iter().map(|row| {
        if row.len() != names.len() {
            return Err(call.wrong("a row has not as many fields as there are names"));
        }
        let pairs = names.iter().cloned().zip(row.into_iter().map(Value::String));
        Ok(Value::Object(pairs.collect::<Map<_, _>>()))
    });
    objects.collect()
}

/// The rows of a CSV text; empty lines are none.
fn rows(text: &str) -> Option<Vec<Vec<String>>> {
    let (mut rows, mut row) = (Vec::new(), Vec::new());
    let text = text.replace("\r\n", "\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        if row.is_empty() && rest.starts_with('\n') {
            rest = &rest[1..];
            continue;
        }
        let (field, after) = field(rest)?;
        row.push(field);
        rest = after;
        if let Some(after) = rest.strip_prefix(',') {
            rest = after;
            if rest.is_empty() {
                row.push(String::new());
            }
            if !rest.starts_with('\n') {
                continue;
            }
            row.push(String::new());
        }
        rest = rest.strip_prefix('\n').unwrap_or(rest);
        rows.push(std::mem::take(&mut row));
    }
    if !row.is_empty() {
        rows.push(row);
    }
    Some(rows)
}

fn field(text: &str) -> Option<(String, &str)> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find([',', '\n']).unwrap_or(text.len());
        let field = &text[..end];
        return (!field.contains('"')).then(|| (field.to_owned(), &text[end..]));
    };
    let mut field = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None if after.is_empty() || after.starts_with([',', '\n']) => {
                return Some((field, after));
            }
            None => return None,
        }
    }
}
