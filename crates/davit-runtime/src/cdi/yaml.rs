//! YAML as JSON values: as much of it as device specifications are written in.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};

/// Deepest nesting.
const DEPTH: usize = 32;
/// Most values of a document.
const VALUES: usize = 100_000;

/// Reads the first document of a text.
///
/// # Errors
/// What is wrong with it, with its line; an alias, and a tag of its own, is not known here.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut reader = Reader { parser: Parser::new_from_str(text), values: 0, line: 1 };
    loop {
        match reader.next()? {
            Event::StreamEnd => return Ok(Value::Null),
            Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
            event => return reader.value(event, 0),
        }
    }
}

struct Reader<'t> {
    parser: Parser<'t, saphyr_parser::StrInput<'t>>,
    values: usize,
    line: usize,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<Event<'t>, String> {
        match self.parser.next() {
            Some(Ok((event, span))) => {
                self.line = span.start.line();
                Ok(event)
            }
            Some(Err(error)) => Err(error.to_string()),
            None => Ok(Event::StreamEnd),
        }
    }

    fn failed(&self, problem: &str) -> String {
        format!("line {}: {problem}", self.line)
    }

    fn value(&mut self, event: Event<'t>, depth: usize) -> Result<Value, String> {
        self.values += 1;
        if depth > DEPTH || self.values > VALUES {
            return Err(self.failed("it is too large"));
        }
        match event {
            Event::Scalar(text, ScalarStyle::Plain, _, None) => Ok(plain(&text)),
            Event::Scalar(text, _, _, None) => Ok(Value::String(text.into_owned())),
            Event::SequenceStart(_, None) => {
                let mut values = Vec::new();
                loop {
                    match self.next()? {
                        Event::SequenceEnd => return Ok(Value::Array(values)),
                        event => values.push(self.value(event, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(_, None) => {
                let mut fields = Map::new();
                loop {
                    let key = match self.next()? {
                        Event::MappingEnd => return Ok(Value::Object(fields)),
                        Event::Scalar(text, _, _, None) => text.into_owned(),
                        _ => return Err(self.failed("a key is no plain text")),
                    };
                    let event = self.next()?;
                    let value = self.value(event, depth + 1)?;
                    if fields.insert(key, value).is_some() {
                        return Err(self.failed("a key is there twice"));
                    }
                }
            }
            Event::Alias(_) => Err(self.failed("aliases are not supported")),
            _ => Err(self.failed("it is no value that is supported")),
        }
    }
}

/// What a scalar without quotes means (YAML 1.2 core schema, and the octal numbers of 1.1).
fn plain(text: &str) -> Value {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text),
    };
    let number = |digits: &str, radix| {
        let is_number = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
        let number = is_number.then(|| i64::from_str_radix(&format!("{sign}{digits}"), radix).ok());
        number.flatten().map(|number| Value::Number(Number::from(number)))
    };
    let known = match text {
        "" | "~" | "null" | "Null" | "NULL" => Some(Value::Null),
        "true" | "True" | "TRUE" => Some(Value::Bool(true)),
        "false" | "False" | "FALSE" => Some(Value::Bool(false)),
        _ => match (digits.strip_prefix("0x"), digits.strip_prefix("0o")) {
            (Some(digits), _) => number(digits, 16),
            (_, Some(digits)) => number(digits, 8),
            _ if digits.len() > 1 && digits.starts_with('0') => number(digits, 8),
            _ => number(digits, 10),
        },
    };
    known.unwrap_or_else(|| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_what_specifications_are_written_in() {
        let text = "---\nkind: v.com/c # comment\nlist:\n- name: \"1\"\n  mode: 0666\n  more: 0o17\n\
            - {name: a, on: true, none: ~}\ntext: |\n  two\n  lines\nminus: -3\nodd: 0x\n";
        let read = json!({
            "kind": "v.com/c", "text": "two\nlines\n", "minus": -3, "odd": "0x",
            "list": [{"name": "1", "mode": 438, "more": 15}, {"name": "a", "on": true, "none": null}],
        });
        assert_eq!(parse(text).unwrap(), read);
        assert_eq!(parse("{\"a\": [1, \"x\"]}").unwrap(), json!({"a": [1, "x"]}));
        assert_eq!(parse("").unwrap(), Value::Null);
    }

    #[test]
    fn refuses_what_is_no_specification() {
        for bad in ["a: &x 1\nb: *x\n", "a: [", "a: 1\na: 2\n", "? [a]\n: b\n", "a: !t x\n"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&format!("[{}]", "a,".repeat(200_000))).is_err());
    }
}
