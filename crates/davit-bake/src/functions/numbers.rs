//! Functions on numbers and on what is true.

use serde_json::Value;

use super::{Call, Found};
use crate::{
    error::ValueError,
    value::{boolean, equal, exact, float, number},
};

pub(super) fn numbers(call: &Call<'_>) -> Found {
    let pair = || Ok::<_, ValueError>((call.float(0)?, call.float(1)?));
    let all = || call.arguments.iter().map(float).collect::<Result<Vec<_>, _>>();
    let value = match call.name {
        "add" => pair().and_then(|(a, b)| number(a + b))?,
        "subtract" => pair().and_then(|(a, b)| number(a - b))?,
        "multiply" => pair().and_then(|(a, b)| number(a * b))?,
        "divide" => pair().and_then(|(a, b)| number(a / b))?,
        "modulo" => pair().and_then(|(a, b)| number(a % b))?,
        "pow" => pair().and_then(|(a, b)| exact(a.powf(b)))?,
        "absolute" => number(call.float(0)?.abs())?,
        "negate" => number(-call.float(0)?)?,
        "ceil" => number(call.float(0)?.ceil())?,
        "floor" => number(call.float(0)?.floor())?,
        "int" => number(call.float(0)?.trunc())?,
        "signum" => match call.float(0)? {
            value if value > 0.0 => 1.into(),
            value if value < 0.0 => (-1).into(),
            _ => 0.into(),
        },
        "max" | "min" if call.arguments.is_empty() => {
            return Err(call.wrong("a number is missing"));
        }
        "max" => number(all()?.into_iter().fold(f64::NEG_INFINITY, f64::max))?,
        "min" => number(all()?.into_iter().fold(f64::INFINITY, f64::min))?,
        "log" => exact(call.float(0)?.ln() / call.float(1)?.ln())?,
        "parseint" => parsed(call)?,
        "greaterthan" => pair().map(|(a, b)| Value::Bool(a > b))?,
        "greaterthanorequalto" => pair().map(|(a, b)| Value::Bool(a >= b))?,
        "lessthan" => pair().map(|(a, b)| Value::Bool(a < b))?,
        "lessthanorequalto" => pair().map(|(a, b)| Value::Bool(a <= b))?,
        "equal" => Value::Bool(equal(call.get(0)?, call.get(1)?)),
        "notequal" => Value::Bool(!equal(call.get(0)?, call.get(1)?)),
        "and" => Value::Bool(boolean(call.get(0)?)? && boolean(call.get(1)?)?),
        "or" => Value::Bool(boolean(call.get(0)?)? || boolean(call.get(1)?)?),
        "not" => Value::Bool(!boolean(call.get(0)?)?),
        _ => return Ok(None),
    };
    Ok(Some(value))
}

/// A whole number of any base up to 62; above 36 small letters stand before large ones.
fn parsed(call: &Call<'_>) -> Result<Value, ValueError> {
    let base = call.whole(1)?;
    let known = u32::try_from(base).ok().filter(|base| (2..=62).contains(base));
    let base = known.ok_or_else(|| call.wrong("the base is from 2 to 62"))?;
    let text = call.text(0)?;
    let wrong = || call.wrong(format!("`{text}` is no number of base {base}"));
    let digits = text.strip_prefix(['-', '+']).unwrap_or(&text);
    let mut value = if digits.is_empty() { None } else { Some(0_f64) };
    for letter in digits.chars() {
        let digit = match letter {
            'A'..='Z' if base > 36 => u32::from(letter) - u32::from('A') + 36,
            letter => letter.to_digit(36).ok_or_else(wrong)?,
        };
        value = value.filter(|_| digit < base).map(|it| it * f64::from(base) + f64::from(digit));
    }
    let value = value.filter(|value| value.is_finite()).ok_or_else(wrong)?;
    number(if text.starts_with('-') { -value } else { value })
}
