//! Functions that every definition can call.

mod texts;

use serde_json::{Map, Value};

use crate::{
    error::ValueError,
    value::{boolean, float, integer, list, number, object, text},
};

/// Longest range.
const MOST: usize = 100_000;
/// Functions that buildx has and that are not here.
const UNSUPPORTED: &[&str] = &[
    "bcrypt",
    "bytesslice",
    "cidrhost",
    "cidrnetmask",
    "cidrsubnet",
    "cidrsubnets",
    "convert",
    "csvdecode",
    "formatdate",
    "formatlist",
    "formattimestamp",
    "homedir",
    "log",
    "md5",
    "regex",
    "regexall",
    "rsadecrypt",
    "setproduct",
    "setsymmetricdifference",
    "sha1",
    "timeadd",
    "timestamp",
    "unixtimestampparse",
    "uuidv4",
    "uuidv5",
];

/// Calls a function; `None` if there is none of this name.
pub(crate) fn call(name: &str, arguments: &[Value]) -> Result<Option<Value>, ValueError> {
    if UNSUPPORTED.contains(&name) {
        return Err(ValueError::UnsupportedFunction(name.to_owned()));
    }
    let call = Call { name, arguments };
    for group in [texts::texts, numbers, lists, objects] {
        if let Some(value) = group(&call)? {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

struct Call<'a> {
    name: &'a str,
    arguments: &'a [Value],
}

impl Call<'_> {
    fn wrong(&self, problem: impl Into<String>) -> ValueError {
        ValueError::Call { function: self.name.to_owned(), problem: problem.into() }
    }

    fn get(&self, at: usize) -> Result<&Value, ValueError> {
        self.arguments.get(at).ok_or_else(|| self.wrong(format!("argument {} is missing", at + 1)))
    }

    fn text(&self, at: usize) -> Result<String, ValueError> {
        text(self.get(at)?)
    }

    fn float(&self, at: usize) -> Result<f64, ValueError> {
        float(self.get(at)?)
    }

    fn whole(&self, at: usize) -> Result<i64, ValueError> {
        integer(self.get(at)?)
    }

    fn list(&self, at: usize) -> Result<&[Value], ValueError> {
        list(self.get(at)?)
    }
}

type Found = Result<Option<Value>, ValueError>;

fn numbers(call: &Call<'_>) -> Found {
    let pair = || Ok::<_, ValueError>((call.float(0)?, call.float(1)?));
    let all = || call.arguments.iter().map(float).collect::<Result<Vec<_>, _>>();
    let value = match call.name {
        "add" => pair().and_then(|(a, b)| number(a + b))?,
        "subtract" => pair().and_then(|(a, b)| number(a - b))?,
        "multiply" => pair().and_then(|(a, b)| number(a * b))?,
        "divide" => pair().and_then(|(a, b)| number(a / b))?,
        "modulo" => pair().and_then(|(a, b)| number(a % b))?,
        "pow" => pair().and_then(|(a, b)| number(a.powf(b)))?,
        "absolute" => number(call.float(0)?.abs())?,
        "negate" => number(-call.float(0)?)?,
        "ceil" => number(call.float(0)?.ceil())?,
        "floor" => number(call.float(0)?.floor())?,
        "int" => number(call.float(0)?.trunc())?,
        "signum" => match call.float(0)? {
            0.0 => 0.into(),
            value => number(value.signum())?,
        },
        "max" => number(all()?.into_iter().fold(f64::NEG_INFINITY, f64::max))?,
        "min" => number(all()?.into_iter().fold(f64::INFINITY, f64::min))?,
        "parseint" => {
            let base = u32::try_from(call.whole(1)?).ok().filter(|base| (2..=36).contains(base));
            let base = base.ok_or_else(|| call.wrong("the base is from 2 to 36"))?;
            let parsed = i64::from_str_radix(&call.text(0)?, base);
            parsed.map_err(|error| call.wrong(error.to_string()))?.into()
        }
        "greaterthan" => pair().map(|(a, b)| Value::Bool(a > b))?,
        "greaterthanorequalto" => pair().map(|(a, b)| Value::Bool(a >= b))?,
        "lessthan" => pair().map(|(a, b)| Value::Bool(a < b))?,
        "lessthanorequalto" => pair().map(|(a, b)| Value::Bool(a <= b))?,
        "equal" => Value::Bool(call.get(0)? == call.get(1)?),
        "notequal" => Value::Bool(call.get(0)? != call.get(1)?),
        "and" => Value::Bool(boolean(call.get(0)?)? && boolean(call.get(1)?)?),
        "or" => Value::Bool(boolean(call.get(0)?)? || boolean(call.get(1)?)?),
        "not" => Value::Bool(!boolean(call.get(0)?)?),
        _ => return Ok(None),
    };
    Ok(Some(value))
}

#[allow(clippy::too_many_lines, reason = "one flat table")]
fn lists(call: &Call<'_>) -> Found {
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
        "contains" | "sethaselement" => Value::Bool(call.list(0)?.contains(call.get(1)?)),
        "index" if call.get(0)?.is_array() => {
            let at = usize::try_from(call.whole(1)?).ok();
            let item = at.and_then(|at| call.list(0).ok()?.get(at));
            item.cloned().ok_or_else(|| call.wrong("there is no such element"))?
        }
        "indexof" => {
            let at = call.list(0)?.iter().position(|item| Some(item) == call.arguments.get(1));
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
        "reverse" | "reverselist" => own(0)?.into_iter().rev().collect(),
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
        "setunion" => {
            let all: Result<Vec<_>, _> = call.arguments.iter().map(list).collect();
            sorted_set(unique(&all?.concat()))
        }
        "setintersection" => {
            let mut all = own(0)?;
            for other in call.arguments.iter().skip(1) {
                let other = list(other)?;
                all.retain(|item| other.contains(item));
            }
            sorted_set(unique(&all))
        }
        "setsubtract" => {
            let (mut all, other) = (own(0)?, call.list(1)?);
            all.retain(|item| !other.contains(item));
            sorted_set(unique(&all))
        }
        "range" => range(call)?,
        _ => return Ok(None),
    };
    Ok(Some(value))
}

fn objects(call: &Call<'_>) -> Found {
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
        "semvercmp" => versions(call)?,
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

/// Compares a version with a constraint as `>= 1.2.3`.
fn versions(call: &Call<'_>) -> Result<Value, ValueError> {
    let parse = |text: &str| {
        let text = text.trim().trim_start_matches('v');
        let core = text.split(['-', '+']).next().unwrap_or("");
        let parts: Result<Vec<u64>, _> = core.split('.').map(str::parse).collect();
        let mut parts = parts.map_err(|_| call.wrong(format!("`{text}` is no version")))?;
        parts.resize(3, 0);
        Ok::<_, ValueError>(parts)
    };
    let (version, constraint) = (parse(&call.text(0)?)?, call.text(1)?);
    let mut holds = true;
    for one in constraint.split(',').map(str::trim) {
        let digits = one.trim_start_matches(['<', '>', '=', '!']);
        let order = version.cmp(&parse(digits)?);
        holds &= match &one[..one.len() - digits.len()] {
            "" | "=" => order.is_eq(),
            "!=" => order.is_ne(),
            ">" => order.is_gt(),
            ">=" => order.is_ge(),
            "<" => order.is_lt(),
            "<=" => order.is_le(),
            other => return Err(call.wrong(format!("there is no comparison `{other}`"))),
        };
    }
    Ok(Value::Bool(holds))
}

fn unique(all: &[Value]) -> Value {
    let mut seen = std::collections::HashSet::new();
    all.iter().filter(|item| seen.insert(item.to_string())).cloned().collect()
}

/// Sets have the order of their elements.
fn sorted_set(set: Value) -> Value {
    let Value::Array(mut all) = set else { return set };
    all.sort_by_key(|item| text(item).unwrap_or_default());
    Value::Array(all)
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
