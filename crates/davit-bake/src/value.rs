//! Values and how one type becomes another.

use serde_json::{Map, Value};

use crate::error::ValueError;

/// Largest integer that a float holds exactly.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Values within values: variables that are made of others would nest as deep as there are any.
const DEPTH: u32 = 400;

/// What arithmetic gave, as an integer where it is one, else with the digits that are sure.
pub(crate) fn number(value: f64) -> Result<Value, ValueError> {
    let is_whole = value.fract() == 0.0 || !value.is_finite();
    exact(if is_whole { value } else { format!("{value:.14e}").parse().unwrap_or(value) })
}

/// The number, as an integer where it is one.
pub(crate) fn exact(value: f64) -> Result<Value, ValueError> {
    if value.fract() == 0.0 && value.abs() <= EXACT {
        #[allow(clippy::cast_possible_truncation, reason = "it is whole and within i64")]
        return Ok((value as i64).into());
    }
    serde_json::Number::from_f64(value).map(Value::Number).ok_or(ValueError::Number)
}

/// What a value is, for messages.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(text) if text.chars().count() <= 40 => format!("{text:?}"),
        Value::String(_) => "a text".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

pub(crate) fn wrong(wanted: &'static str, value: &Value) -> ValueError {
    ValueError::Type { wanted, found: describe(value) }
}

pub(crate) fn text(value: &Value) -> Result<String, ValueError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(value) => Ok(value.to_string()),
        Value::Number(value) => Ok(number_text(value)),
        _ => Err(wrong("a text", value)),
    }
}

fn number_text(value: &serde_json::Number) -> String {
    match (value.as_i64(), value.as_f64()) {
        (None, Some(float)) => float.to_string(),
        _ => value.to_string(),
    }
}

/// The value as JSON with its keys in order, and with what HTML takes for its own escaped.
pub(crate) fn encoded(value: &Value) -> String {
    match value {
        Value::String(text) => Value::from(text.as_str())
            .to_string()
            .replace('<', "\\u003c")
            .replace('>', "\\u003e")
            .replace('&', "\\u0026")
            .replace('\u{2028}', "\\u2028")
            .replace('\u{2029}', "\\u2029"),
        Value::Number(number) => number_text(number),
        Value::Array(all) => {
            format!("[{}]", all.iter().map(encoded).collect::<Vec<_>>().join(","))
        }
        Value::Object(all) => {
            let mut all: Vec<_> = all.iter().collect();
            all.sort_by_key(|(key, _)| *key);
            let pairs = all.into_iter().map(|(key, value)| {
                format!("{}:{}", encoded(&key.as_str().into()), encoded(value))
            });
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

/// Whether two values are the same; a number has one form.
pub(crate) fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| equal(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let is_same = |(key, value): (&String, &Value)| {
                other.get(key).is_some_and(|other| equal(value, other))
            };
            one.len() == other.len() && one.iter().all(is_same)
        }
        _ => one == other,
    }
}

/// A set in its order: of numbers by size, else of texts.
pub(crate) fn in_order(set: Value) -> Value {
    let Value::Array(mut all) = set else { return set };
    all.sort_by(|one, other| match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => one.total_cmp(&other),
        _ => text(one).unwrap_or_default().cmp(&text(other).unwrap_or_default()),
    });
    Value::Array(all)
}

pub(crate) fn boolean(value: &Value) -> Result<bool, ValueError> {
    match value {
        Value::Bool(value) => Ok(*value),
        Value::String(text) => match text.as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(wrong("true or false", value)),
        },
        _ => Err(wrong("true or false", value)),
    }
}

pub(crate) fn float(value: &Value) -> Result<f64, ValueError> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok().filter(|number: &f64| number.is_finite()),
        _ => None,
    };
    number.ok_or_else(|| wrong("a number", value))
}

pub(crate) fn integer(value: &Value) -> Result<i64, ValueError> {
    let float = float(value)?;
    if float.fract() != 0.0 || float.abs() > EXACT {
        return Err(wrong("a whole number", value));
    }
    #[allow(clippy::cast_possible_truncation, reason = "it is whole and within i64")]
    Ok(float as i64)
}

pub(crate) fn list(value: &Value) -> Result<&[Value], ValueError> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| wrong("a list", value))
}

pub(crate) fn object(value: &Value) -> Result<&Map<String, Value>, ValueError> {
    value.as_object().ok_or_else(|| wrong("an object", value))
}

/// Keys and values of what can be walked over, objects in the order of their keys.
pub(crate) fn entries(value: &Value) -> Result<Vec<(Value, Value)>, ValueError> {
    match value {
        Value::Array(all) => {
            Ok(all.iter().enumerate().map(|(at, item)| (at.into(), item.clone())).collect())
        }
        Value::Object(all) => {
            let mut all: Vec<_> = all.iter().collect();
            all.sort_by_key(|(key, _)| *key);
            Ok(all.into_iter().map(|(key, item)| (key.as_str().into(), item.clone())).collect())
        }
        _ => Err(wrong("a list or an object", value)),
    }
}

/// What a value weighs against the budget, about its bytes; more than any budget if it is nested
/// too deep to be copied or dropped.
pub(crate) fn weight(value: &Value) -> u64 {
    weight_at(value, DEPTH)
}

fn weight_at(value: &Value, depth: u32) -> u64 {
    let Some(depth) = depth.checked_sub(1) else { return u64::MAX };
    match value {
        Value::String(text) => 32 + text.len() as u64,
        Value::Array(all) => {
            all.iter().map(|item| weight_at(item, depth)).fold(32, u64::saturating_add)
        }
        Value::Object(all) => all
            .iter()
            .map(|(key, item)| weight_at(item, depth).saturating_add(32 + key.len() as u64))
            .fold(32, u64::saturating_add),
        _ => 32,
    }
}
