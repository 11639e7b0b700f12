//! A YAML value with the place that it came from.

use std::{collections::BTreeMap, sync::Arc};

use crate::error::{ComposeError, Place};

/// What a tag asks of the files before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// `!reset`: the key goes.
    Reset,
    /// `!override`: the value takes the place of the one before.
    Override,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A scalar without quotes: a number, a bool, null or a text, as its reader needs it.
    Plain(String),
    /// A text.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping.
    Map(BTreeMap<String, Node>),
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where it is written.
    pub place: Place,
    /// What its tag asks.
    pub mark: Option<Mark>,
    /// What it is.
    pub shape: Shape,
}

impl Node {
    /// A text at a place.
    #[must_use]
    pub const fn text(place: Place, text: String) -> Self {
        Self { place, mark: None, shape: Shape::Text(text) }
    }

    /// A mapping without keys.
    #[must_use]
    pub fn empty_map(file: Arc<str>) -> Self {
        let place = Place { file, line: 1 };
        Self { place, mark: None, shape: Shape::Map(BTreeMap::new()) }
    }

    /// The value of a key of a mapping.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        match &self.shape {
            Shape::Map(all) => all.get(key),
            _ => None,
        }
    }

    /// How many values it is made of, itself included.
    pub(crate) fn count(&self) -> usize {
        match &self.shape {
            Shape::List(all) => 1 + all.iter().map(Self::count).sum::<usize>(),
            Shape::Map(all) => 1 + all.values().map(Self::count).sum::<usize>(),
            _ => 1,
        }
    }

    /// Whether it is null.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(&self.shape, Shape::Plain(text) if is_null(text))
    }

    /// The keys and values of a mapping; null has none.
    ///
    /// # Errors
    /// It is something else.
    pub fn map(&self, key: &str) -> Result<Vec<(&str, &Self)>, ComposeError> {
        match &self.shape {
            Shape::Map(all) => Ok(all.iter().map(|(key, value)| (key.as_str(), value)).collect()),
            _ if self.is_null() => Ok(Vec::new()),
            _ => Err(self.wrong(key, "a mapping")),
        }
    }

    /// The values of a sequence; null has none.
    ///
    /// # Errors
    /// It is something else.
    pub fn list(&self, key: &str) -> Result<&[Self], ComposeError> {
        match &self.shape {
            Shape::List(all) => Ok(all),
            _ if self.is_null() => Ok(&[]),
            _ => Err(self.wrong(key, "a list")),
        }
    }

    /// The text that a scalar stands for, with numbers as they are shown; `None` for null.
    ///
    /// # Errors
    /// It is a sequence or a mapping.
    pub fn scalar(&self, key: &str) -> Result<Option<String>, ComposeError> {
        match &self.shape {
            Shape::Text(text) => Ok(Some(text.clone())),
            Shape::Plain(text) if is_null(text) => Ok(None),
            Shape::Plain(text) => Ok(Some(shown(text))),
            _ => Err(self.wrong(key, "a text, number or bool")),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// It is no text: a number, a bool or null without quotes, or no scalar.
    pub fn string(&self, key: &str) -> Result<String, ComposeError> {
        match &self.shape {
            Shape::Text(text) => Ok(text.clone()),
            Shape::Plain(text) if is_text(text) => Ok(text.clone()),
            _ => Err(self.wrong(key, "a text")),
        }
    }

    /// True or false, also within quotes.
    ///
    /// # Errors
    /// It is something else.
    pub fn bool(&self, key: &str) -> Result<bool, ComposeError> {
        let text = match &self.shape {
            Shape::Text(text) | Shape::Plain(text) => text.to_ascii_lowercase(),
            _ => return Err(self.wrong(key, "true or false")),
        };
        match text.as_str() {
            "true" | "y" | "yes" | "on" | "1" => Ok(true),
            "false" | "n" | "no" | "off" | "0" => Ok(false),
            _ => Err(self.wrong(key, "true or false")),
        }
    }

    /// The pairs of a mapping, or of a list of `KEY=VALUE`; one without a value has `None`.
    ///
    /// # Errors
    /// It is something else.
    pub fn pairs(&self, key: &str) -> Result<Vec<(String, Option<String>)>, ComposeError> {
        if let Shape::List(all) = &self.shape {
            let pairs = all.iter().map(|item| {
                let text = item.string(key)?;
                Ok(match text.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (text, None),
                })
            });
            return pairs.collect();
        }
        let pairs = self.map(key)?.into_iter();
        pairs.map(|(name, value)| Ok((name.to_owned(), value.scalar(key)?))).collect()
    }

    /// The texts of a list; one text is a list.
    ///
    /// # Errors
    /// It is something else.
    pub fn strings(&self, key: &str) -> Result<Vec<String>, ComposeError> {
        match &self.shape {
            Shape::List(all) => all.iter().map(|item| item.string(key)).collect(),
            _ if self.is_null() => Ok(Vec::new()),
            _ => self.string(key).map(|text| vec![text]),
        }
    }

    /// An error that says what it should be.
    #[must_use]
    pub fn wrong(&self, key: &str, wanted: &'static str) -> ComposeError {
        ComposeError::Form { place: self.place.clone(), key: format!("`{key}`"), wanted }
    }
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

fn is_bool(text: &str) -> bool {
    matches!(text, "true" | "True" | "TRUE" | "false" | "False" | "FALSE")
}

/// Whether a plain scalar is a text and nothing else.
fn is_text(text: &str) -> bool {
    !is_null(text) && !is_bool(text) && integer(text).is_none() && float(text).is_none()
}

/// The scalar as it is shown: numbers in their usual form.
fn shown(text: &str) -> String {
    if is_bool(text) {
        return text.to_ascii_lowercase();
    }
    if let Some(number) = integer(text) {
        return number.to_string();
    }
    match float(text) {
        Some(number) if number.is_nan() => "NaN".to_owned(),
        Some(number) if number.is_infinite() => {
            (if number > 0.0 { "+Inf" } else { "-Inf" }).to_owned()
        }
        Some(number) if number != 0.0 && !(1e-4..1e21).contains(&number.abs()) => {
            exponential(number)
        }
        Some(number) => number.to_string(),
        None => text.to_owned(),
    }
}

/// As `1e+21`: the exponent has a sign and two digits.
fn exponential(number: f64) -> String {
    let text = format!("{number:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

fn integer(text: &str) -> Option<i128> {
    let text = text.replace('_', "");
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(&text)),
    };
    let radix = |prefix: &str, radix| {
        let digits = digits.strip_prefix(prefix)?;
        let is_plain = digits.chars().all(|digit| digit.is_digit(radix));
        is_plain.then(|| i128::from_str_radix(digits, radix).ok()).flatten()
    };
    let found = radix("0x", 16).or_else(|| radix("0o", 8)).or_else(|| radix("0b", 2));
    let octal = || if digits.len() > 1 { radix("0", 8) } else { None };
    let decimal = || {
        let is_plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
        is_plain.then(|| digits.parse().ok()).flatten()
    };
    let number: i128 = found.or_else(octal).or_else(decimal)?;
    (number <= i128::from(u64::MAX)).then_some(sign * number)
}

fn float(text: &str) -> Option<f64> {
    match text {
        ".nan" | ".NaN" | ".NAN" => return Some(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Some(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Some(f64::NEG_INFINITY),
        _ => {}
    }
    let mut digits = false;
    for (at, letter) in text.char_indices() {
        match letter {
            '0'..='9' => digits = true,
            '+' | '-' if at == 0 || text[..at].ends_with(['e', 'E']) => {}
            '.' | '_' => {}
            'e' | 'E' if digits => {}
            _ => return None,
        }
    }
    if !digits {
        return None;
    }
    text.replace('_', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_are_shown_in_their_usual_form() {
        for (text, expected) in [
            ("010", "8"),
            ("0x10", "16"),
            ("0b11", "3"),
            ("0o17", "15"),
            ("1_000", "1000"),
            ("-7", "-7"),
            ("1.10", "1.1"),
            ("1e3", "1000"),
            ("1e21", "1e+21"),
            ("0.00001", "1e-05"),
            (".5", "0.5"),
            ("08", "8"),
            ("True", "true"),
            ("yes", "yes"),
            ("1.2.3", "1.2.3"),
            ("22:22", "22:22"),
            ("+.inf", "+Inf"),
            ("e5", "e5"),
            ("0x", "0x"),
            ("2001-01-01", "2001-01-01"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }
}
