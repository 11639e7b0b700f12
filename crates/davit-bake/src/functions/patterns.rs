//! Regular expressions in RE2's syntax.

use std::collections::BTreeSet;

use regex::{Captures, Regex};
use serde_json::{Map, Value};

use super::{Call, Found, bounded};
use crate::{error::ValueError, value::weight};

/// What it weighs to look at a byte, of which each state of a pattern may want to know.
const SCAN: u64 = 64;

pub(super) fn patterns(call: &Call<'_>) -> Found {
    let value = match call.name {
        "regex" => {
            let (pattern, text) = (compiled(call, &call.text(0)?)?, call.text(1)?);
            let shape = Shape::of(call, &pattern)?;
            call.spent.take(SCAN * text.len() as u64)?;
            let found = pattern.captures(&text);
            shape.value(&found.ok_or_else(|| call.wrong("the pattern matches nothing"))?)
        }
        "regexall" => {
            let (pattern, text) = (compiled(call, &call.text(0)?)?, call.text(1)?);
            let shape = Shape::of(call, &pattern)?;
            call.spent.take(SCAN * text.len() as u64)?;
            let found = pattern.captures_iter(&text).map(|found| {
                let start = found.get(0).map_or(0, |it| it.start());
                let value = shape.value(&found);
                call.spent.take(rest(&text, start) + weight(&value))?;
                Ok(value)
            });
            found.collect::<Result<_, ValueError>>()?
        }
        "regex_replace" => replaced(call)?,
        _ => return Ok(None),
    };
    Ok(Some(value))
}

fn replaced(call: &Call<'_>) -> Result<Value, ValueError> {
    let (text, pattern, new) = (call.text(0)?, compiled(call, &call.text(1)?)?, call.text(2)?);
    call.spent.take(2 * SCAN * text.len() as u64)?;
    let mut count = 0;
    for found in pattern.find_iter(&text) {
        call.spent.take(2 * rest(&text, found.start()))?;
        count += 1;
    }
    // A reference may stand for the whole text.
    let longest = new.matches('$').count().saturating_mul(text.len()).saturating_add(new.len());
    bounded(call, count, text.len(), longest)?;
    Ok(pattern.replace_all(&text, new.as_str()).into_owned().into())
}

/// What the search for the next match may look at again: to the end of the text and back.
fn rest(text: &str, start: usize) -> u64 {
    (text.len() - start) as u64
}

fn compiled(call: &Call<'_>, pattern: &str) -> Result<Regex, ValueError> {
    let built = regex::RegexBuilder::new(&translated(pattern)).size_limit(1 << 20).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => call.wrong("the pattern is too large"),
        _ => call.wrong(format!("`{pattern}` is no pattern")),
    })
}

/// What the groups of a pattern make of a match.
enum Shape {
    Whole,
    List,
    Names(BTreeSet<String>),
}

impl Shape {
    fn of(call: &Call<'_>, pattern: &Regex) -> Result<Self, ValueError> {
        let groups: Vec<Option<&str>> = pattern.capture_names().skip(1).collect();
        let names: BTreeSet<String> = groups.iter().flatten().map(|&it| it.to_owned()).collect();
        if groups.is_empty() {
            return Ok(Self::Whole);
        }
        if names.is_empty() {
            return Ok(Self::List);
        }
        if groups.contains(&None) {
            return Err(call.wrong("some groups of the pattern have names and some have not"));
        }
        Ok(Self::Names(names))
    }

    fn value(&self, found: &Captures<'_>) -> Value {
        let text =
            |group: Option<regex::Match<'_>>| group.map_or(Value::Null, |it| it.as_str().into());
        match self {
            Self::Whole => text(found.get(0)),
            Self::List => found.iter().skip(1).map(text).collect(),
            Self::Names(names) => {
                let pairs = names.iter().map(|name| (name.clone(), text(found.name(name))));
                Value::Object(pairs.collect::<Map<_, _>>())
            }
        }
    }
}

/// The pattern as the regex crate wants it: classes by letters mean ASCII, brackets in a class are
/// plain, and `\Q…\E` is taken literally.
fn translated(pattern: &str) -> String {
    let mut out = String::new();
    let mut rest = pattern;
    let mut is_class = false;
    while let Some(letter) = rest.chars().next() {
        let mut taken = letter.len_utf8();
        match letter {
            '\\' => {
                let escaped = rest[1..].chars().next();
                taken += escaped.map_or(0, char::len_utf8);
                match escaped {
                    Some('d') => out.push_str("[0-9]"),
                    Some('D') => out.push_str("[^0-9]"),
                    Some('w') => out.push_str("[0-9A-Za-z_]"),
                    Some('W') => out.push_str("[^0-9A-Za-z_]"),
                    Some('s') => out.push_str("[\\t\\n\\f\\r ]"),
                    Some('S') => out.push_str("[^\\t\\n\\f\\r ]"),
                    Some(bound @ ('b' | 'B')) if !is_class => {
                        out.push_str(if bound == 'b' { "(?-u:\\b)" } else { "(?-u:\\B)" });
                    }
                    Some('Q') if !is_class => {
                        let text = &rest[2..];
                        let (text, end) =
                            text.find("\\E").map_or((text, 0), |end| (&text[..end], 2));
                        out.push_str(&regex::escape(text));
                        taken += text.len() + end;
                    }
                    _ => out.push_str(&rest[..taken]),
                }
            }
            '[' if is_class => {
                let name = rest.starts_with("[:").then(|| rest.find(":]")).flatten();
                match name {
                    Some(end) => {
                        out.push_str(&rest[..end + 2]);
                        taken = end + 2;
                    }
                    None => out.push_str("\\["),
                }
            }
            '[' => {
                is_class = true;
                out.push('[');
                if rest[taken..].starts_with('^') {
                    out.push('^');
                    taken += 1;
                }
                // A bracket at the start is one of the class.
                if rest[taken..].starts_with(']') {
                    out.push_str("\\]");
                    taken += 1;
                }
            }
            ']' => {
                is_class = false;
                out.push(']');
            }
            '&' | '~' if is_class => out.extend(['\\', letter]),
            '-' if is_class && rest.starts_with("--") => out.push_str("\\-"),
            _ => out.push(letter),
        }
        rest = &rest[taken..];
    }
    out
}
