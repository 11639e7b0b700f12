//! Functions on lists and objects.

use serde_json::{Map, Value};

use super::{Call, Found};
use crate::{
    error::ValueError,
    value::{equal, integer, list, number, object, text},
};

/// Longest range.
const MOST: usize = 1024;

#[allow(clippy::too_many_lines, reason = "one flat table")]
pub(super) fn lists(call: &Call<'_>) -> Found {
    let own = |at| call.list(at).map(<[Value]>::to_vec);
    let value = match call.name {
        "length" => match call.get(0)? {
            Value::Object(all) => all.len().into(),
            other => list(other)?.len().into(),
        },
        "concat" => {
            let all: Result<Vec<_>, _> = call.arguments.iter().map(list).collect();
            Value::Array(all?.concat())
        }
        "contains" | "sethaselement" => {
            let item = call.get(1)?;
            Value::Bool(call.list(0)?.iter().any(|other| equal(other, item)))
        }
        "index" if call.get(0)?.is_array() => {
            let at = usize::try_from(call.whole(1)?).ok();
            let item = at.and_then(|at| call.list(0).ok()?.get(at));
            item.cloned().ok_or_else(|| call.wrong("there is no such element"))?
        }
        "indexof" => {
            let item = call.get(1)?;
            let at = call.list(0)?.iter().position(|other| equal(other, item));
            at.ok_or_else(|| call.wrong("there is no such element"))?.into()
        }
        "element" => {
            let (all, at) = (call.list(0)?, call.whole(1)?);
            let count = i64::try_from(all.len()).unwrap_or(i64::MAX);
            if count == 0 {
                return Err(call.wrong("the list is empty"));
            }
            all[usize::try_from(at.rem_euclid(count)).unwrap_or(0)].clone()
        }
        "slice" => {
            let (from, to) = (call.whole(1)?, call.whole(2)?);
            let range = usize::try_from(from).ok().zip(usize::try_from(to).ok());
            let part = range.and_then(|(from, to)| call.list(0).ok()?.get(from..to));
            Value::Array(part.ok_or_else(|| call.wrong("there are not so many"))?.to_vec())
        }
        "reverselist" => own(0)?.into_iter().rev().collect(),
        "distinct" => unique(call.list(0)?),
        "compact" => {
            let is_full = |item: &&Value| !item.is_null() && item.as_str() != Some("");
            call.list(0)?.iter().filter(is_full).cloned().collect()
        }
        "sort" => {
            let mut all: Vec<String> = call.list(0)?.iter().map(text).collect::<Result<_, _>>()?;
            all.sort();
            all.into()
        }
        "flatten" => {
            let mut flat = Vec::new();
            flatten(call.list(0)?, &mut flat);
            Value::Array(flat)
        }
        "chunklist" => {
            let size = usize::try_from(call.whole(1)?).ok().filter(|size| *size > 0);
            let size = size.ok_or_else(|| call.wrong("a chunk has elements"))?;
            call.list(0)?.chunks(size).map(|part| Value::Array(part.to_vec())).collect()
        }
        "coalesce" => {
            let first = call.arguments.iter().find(|value| !value.is_null());
            first.cloned().ok_or_else(|| call.wrong("all are null"))?
        }
        "coalescelist" => {
            let is_full = |value: &&Value| value.as_array().is_some_and(|all| !all.is_empty());
            let first = call.arguments.iter().find(is_full);
            first.cloned().ok_or_else(|| call.wrong("all are empty"))?
        }
        "range" => range(call)?,
        _ => return Ok(None),
    };
    Ok(Some(value))
}

pub(super) fn objects(call: &Call<'_>) -> Found {
    let sorted = |at| call.get(at).and_then(crate::value::entries);
    let value = match call.name {
        "keys" => sorted(0)?.into_iter().map(|(key, _)| key).collect(),
        "values" => sorted(0)?.into_iter().map(|(_, value)| value).collect(),
        "lookup" => {
            let found = object(call.get(0)?)?.get(&call.text(1)?);
            found.or(call.arguments.get(2)).cloned().ok_or_else(|| call.wrong("no such key"))?
        }
        "hasindex" => match (call.get(0)?, call.get(1)?) {
            (Value::Object(all), key) => Value::Bool(all.contains_key(&text(key)?)),
            (all, key) => {
                let (all, at) = (list(all)?, integer(key)?);
                Value::Bool(usize::try_from(at).is_ok_and(|at| at < all.len()))
            }
        },
        "index" => {
            let found = object(call.get(0)?)?.get(&call.text(1)?);
            found.cloned().ok_or_else(|| call.wrong("no such key"))?
        }
        "merge" => {
            let mut all = Map::new();
            for one in call.arguments.iter().filter(|one| !one.is_null()) {
                all.extend(object(one)?.clone());
            }
            Value::Object(all)
        }
        "zipmap" => {
            let (keys, values) = (call.list(0)?, call.list(1)?);
            if keys.len() != values.len() {
                return Err(call.wrong("there are not as many keys as values"));
            }
            let keys: Vec<String> = keys.iter().map(text).collect::<Result<_, _>>()?;
            Value::Object(keys.into_iter().zip(values.iter().cloned()).collect())
        }
        _ => return Ok(None),
    };
    Ok(Some(value))
}

fn range(call: &Call<'_>) -> Result<Value, ValueError> {
    let (from, to, step) = match call.arguments.len() {
        1 => (0.0, call.float(0)?, None),
        2 => (call.float(0)?, call.float(1)?, None),
        _ => (call.float(0)?, call.float(1)?, Some(call.float(2)?)),
    };
    let step = step.unwrap_or(if to < from { -1.0 } else { 1.0 });
    if step == 0.0 || (to - from) * step < 0.0 {
        return Err(call.wrong("the step leads nowhere"));
    }
    let mut all = Vec::new();
    let mut at = from;
    while (step > 0.0 && at < to) || (step < 0.0 && at > to) {
        if all.len() >= MOST {
            return Err(call.wrong("the range is too long"));
        }
        all.push(number(at)?);
        at += step;
    }
    Ok(Value::Array(all))
}

pub(super) fn unique(all: &[Value]) -> Value {
    let mut seen = std::collections::HashSet::new();
    all.iter().filter(|item| seen.insert(item.to_string())).cloned().collect()
}

/// Values are no deeper than expressions are, which bounds the depth.
fn flatten(all: &[Value], flat: &mut Vec<Value>) {
    for item in all {
        match item {
            Value::Array(inner) => flatten(inner, flat),
            other => flat.push(other.clone()),
        }
    }
}
