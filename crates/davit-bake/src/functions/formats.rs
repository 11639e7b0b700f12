//! `format` and `formatlist`: verbs as those of Go's `fmt`.

use serde_json::Value;
use unicode_segmentation::UnicodeSegmentation as _;

use super::{Call, Found};
use crate::{
    error::ValueError,
    value::{boolean, encoded, float, integer, text},
};

/// Largest width and precision.
const WIDEST: usize = 1000;

pub(super) fn formats(call: &Call<'_>) -> Found {
    let value = match call.name {
        "format" => {
            let (format, arguments) = (call.text(0)?, call.arguments.get(1..).unwrap_or_default());
            formatted(call, &format, arguments)?.into()
        }
        "formatlist" => list(call)?,
        _ => return Ok(None),
    };
    Ok(Some(value))
}

/// Formats once for each element of the lists among the arguments.
fn list(call: &Call<'_>) -> Result<Value, ValueError> {
    let (format, arguments) = (call.text(0)?, call.arguments.get(1..).unwrap_or_default());
    let lengths = arguments.iter().filter_map(Value::as_array).map(Vec::len);
    let mut lengths = lengths.collect::<Vec<_>>();
    lengths.dedup();
    if lengths.len() > 1 {
        return Err(call.wrong("the lists are not of one length"));
    }
    let count = lengths.first().copied().unwrap_or(1);
    let rows = (0..count).map(|at| {
        let row: Vec<Value> = arguments
            .iter()
            .map(|argument| argument.as_array().map_or(argument, |all| &all[at]).clone())
            .collect();
        call.spent.take(crate::value::weight(&Value::Array(row.clone())))?;
        formatted(call, &format, &row).map(Value::String)
    });
    rows.collect()
}

/// What stands between `%` and its letter.
#[derive(Clone, Copy, Default)]
struct Verb {
    letter: char,
    zero: bool,
    sharp: bool,
    plus: bool,
    minus: bool,
    space: bool,
    width: usize,
    precision: Option<usize>,
}

fn formatted(call: &Call<'_>, format: &str, arguments: &[Value]) -> Result<String, ValueError> {
    let (mut out, mut rest) = (String::new(), format);
    let (mut next, mut most) = (0, 0);
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let wrong = || call.wrong(format!("`{format}` has a verb that is none"));
        let (verb, index, after) = verb(after).ok_or_else(wrong)?;
        let at = index.unwrap_or(next);
        let value = arguments.get(at).ok_or_else(|| call.wrong("there are too few values"))?;
        if value.is_null() && verb.letter != 'v' {
            return Err(call.wrong("null has no form but %v"));
        }
        let shown = verb.shown(value)?.ok_or_else(wrong)?;
        call.spent.take(shown.len() as u64)?;
        out.push_str(&shown);
        next = at + 1;
        most = most.max(next);
        rest = after;
    }
    out.push_str(rest);
    if most < arguments.len() {
        return Err(call.wrong("there are more values than verbs"));
    }
    Ok(out)
}

/// Reads a verb, the argument that it names, and what follows.
fn verb(text: &str) -> Option<(Verb, Option<usize>, &str)> {
    let mut verb = Verb::default();
    let mut rest = text;
    loop {
        match rest.chars().next()? {
            '0' => verb.zero = true,
            '#' => verb.sharp = true,
            '+' => verb.plus = true,
            '-' => verb.minus = true,
            ' ' => verb.space = true,
            _ => break,
        }
        rest = &rest[1..];
    }
    let number = |text: &'_ str| {
        let end = text.find(|it: char| !it.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse::<usize>().ok().filter(|it| *it <= WIDEST).map(|it| (it, end))
    };
    if rest.starts_with(|it: char| it.is_ascii_digit()) {
        let (width, end) = number(rest)?;
        (verb.width, rest) = (width, &rest[end..]);
    }
    if let Some(after) = rest.strip_prefix('.') {
        let (precision, end) = number(after)?;
        (verb.precision, rest) = (Some(precision), &after[end..]);
    }
    let mut index = None;
    if let Some(after) = rest.strip_prefix('[') {
        let (at, end) = number(after)?;
        index = Some(at.checked_sub(1)?);
        rest = after[end..].strip_prefix(']')?;
    }
    let letter = rest.chars().next().filter(char::is_ascii_alphabetic)?;
    verb.letter = letter;
    Some((verb, index, &rest[1..]))
}

impl Verb {
    /// The value in the verb's form; `None` if there is no such verb.
    fn shown(self, value: &Value) -> Result<Option<String>, ValueError> {
        Ok(Some(match self.letter {
            'v' => match value {
                Value::String(text) if !self.sharp => self.padded(text),
                Value::Number(_) if !self.sharp => self.padded(&general(float(value)?, None)),
                value => self.padded(&encoded(value)),
            },
            's' => self.padded(&self.cut(&text(value)?)),
            'q' => self.padded(&encoded(&self.cut(&text(value)?).into())),
            't' => boolean(value)?.to_string(),
            'd' | 'b' | 'o' | 'x' | 'X' => self.whole(integer(value)?),
            'e' | 'E' | 'f' | 'g' | 'G' => self.fraction(float(value)?),
            _ => return Ok(None),
        }))
    }

    fn cut(self, text: &str) -> String {
        match self.precision {
            Some(most) if most > 0 => text.graphemes(true).take(most).collect(),
            _ => text.to_owned(),
        }
    }

    fn padded(self, text: &str) -> String {
        let missing = self.width.saturating_sub(text.graphemes(true).count());
        let pads = if self.zero { "0" } else { " " }.repeat(missing);
        if self.minus { format!("{text}{pads}") } else { format!("{pads}{text}") }
    }

    fn whole(self, value: i64) -> String {
        let (size, sharp) = (value.unsigned_abs(), self.sharp);
        let (prefix, digits) = match self.letter {
            'b' => (if sharp { "0b" } else { "" }, format!("{size:b}")),
            'o' => (if sharp { "0" } else { "" }, format!("{size:o}")),
            'x' => (if sharp { "0x" } else { "" }, format!("{size:x}")),
            'X' => (if sharp { "0X" } else { "" }, format!("{size:X}")),
            _ => ("", size.to_string()),
        };
        let digits = match self.precision {
            Some(least) => format!("{digits:0>least$}"),
            None => digits,
        };
        self.signed(value < 0, &format!("{prefix}{digits}"))
    }

    fn fraction(self, value: f64) -> String {
        let size = value.abs();
        let digits = match self.letter {
            'f' => format!("{size:.*}", self.precision.unwrap_or(6)),
            'e' | 'E' => exponential(size, Some(self.precision.unwrap_or(6))),
            _ => general(size, self.precision),
        };
        let digits = if self.letter.is_ascii_uppercase() { digits.to_uppercase() } else { digits };
        self.signed(value < 0.0, &digits)
    }

    /// The number with its sign; zeros stand behind it.
    fn signed(self, is_negative: bool, digits: &str) -> String {
        let sign = match (is_negative, self.plus, self.space) {
            (true, ..) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        };
        let missing = self.width.saturating_sub(sign.len() + digits.len());
        match (self.minus, self.zero && (self.precision.is_none() || self.is_fraction())) {
            (true, _) => format!("{sign}{digits}{}", " ".repeat(missing)),
            (_, true) => format!("{sign}{}{digits}", "0".repeat(missing)),
            _ => format!("{}{sign}{digits}", " ".repeat(missing)),
        }
    }

    const fn is_fraction(self) -> bool {
        matches!(self.letter, 'e' | 'E' | 'f' | 'g' | 'G')
    }
}

/// As `1.5e+21`.
fn exponential(value: f64, precision: Option<usize>) -> String {
    let text = match precision {
        Some(precision) => format!("{value:.precision$e}"),
        None => format!("{value:e}"),
    };
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) =
        exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{digits}e{sign}{exponent:0>2}")
}

/// The shorter of both forms: an exponent for what is very large or small.
fn general(value: f64, precision: Option<usize>) -> String {
    let significant = precision.map(|it| it.max(1));
    let rounded = match significant {
        Some(digits) => format!("{value:.*e}", digits - 1),
        None => format!("{value:e}"),
    };
    let (digits, exponent) = rounded.split_once('e').unwrap_or((&rounded, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let given = digits.chars().filter(char::is_ascii_digit).count();
    let most = match significant {
        None => 6,
        // Zeros that are only there to fill do not count.
        Some(most) if most > given && exponent < i32::try_from(given).unwrap_or(0) => given,
        Some(most) => most,
    };
    if exponent < -4 || exponent >= i32::try_from(most).unwrap_or(i32::MAX) {
        let shown = exponential(rounded.parse().unwrap_or(value), None);
        return shown;
    }
    let plain: f64 = rounded.parse().unwrap_or(value);
    plain.to_string()
}
