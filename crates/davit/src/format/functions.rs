//! The functions of Docker's templates.

use std::sync::Arc;

use gotmpl::{Template, TemplateError, Value};

use super::typed::Known;

/// Adds Docker's functions; `json` and `index` need to know what the values stand for.
pub(super) fn add(template: Template, known: Known) -> Template {
    let known = Arc::new(known);
    let of_json = Arc::clone(&known);
    template
        .func("json", move |arguments| Ok(string(json_of(argument(arguments, 0), &of_json))))
        .func("index", move |arguments| index(arguments, &known))
        .func("split", |arguments| {
            let (text, separator) = (text_of(arguments, 0), text_of(arguments, 1));
            let parts: Vec<Value> = match separator.as_str() {
                // Go yields the characters, without empty texts around them.
                "" => text.chars().map(|c| string(c.to_string())).collect(),
                separator => text.split(separator).map(string).collect(),
            };
            Ok(Value::List(Arc::from(parts)))
        })
        .func("join", |arguments| {
            let Value::List(items) = argument(arguments, 0) else { return Ok(string("")) };
            let items: Vec<String> = items.iter().map(ToString::to_string).collect();
            Ok(string(items.join(&text_of(arguments, 1))))
        })
        .func("printf", printf)
        .func("lower", |arguments| Ok(string(text_of(arguments, 0).to_lowercase())))
        .func("upper", |arguments| Ok(string(text_of(arguments, 0).to_uppercase())))
        .func("title", |arguments| Ok(string(title(&text_of(arguments, 0)))))
        .func("pad", |arguments| {
            let width = |index| {
                argument(arguments, index)
                    .as_int()
                    .and_then(|n| usize::try_from(n).ok())
                    .unwrap_or(0)
            };
            let (before, after) = (" ".repeat(width(1).min(1024)), " ".repeat(width(2).min(1024)));
            Ok(string(format!("{before}{}{after}", text_of(arguments, 0))))
        })
        .func("truncate", |arguments| {
            let length = argument(arguments, 1).as_int().and_then(|n| usize::try_from(n).ok());
            Ok(string(text_of(arguments, 0).chars().take(length.unwrap_or(0)).collect::<String>()))
        })
        .func("label", |arguments| {
            let labels = argument(arguments, 0).field("Labels").map(ToString::to_string);
            let key = text_of(arguments, 1);
            let labels = labels.unwrap_or_default();
            let found = labels.split(',').find_map(|pair| pair.strip_prefix(&format!("{key}=")));
            Ok(string(found.unwrap_or_default()))
        })
}

/// `{{.Label "k"}}` is a method call in Go; here it becomes `{{label . "k"}}`.
pub(super) fn rewrite_methods(text: &str) -> String {
    text.replace(".Label \"", "label . \"").replace("$.Label \"", "label $ \"")
}

fn string(text: impl AsRef<str>) -> Value {
    Value::String(text.as_ref().into())
}

fn argument(arguments: &[Value], index: usize) -> &Value {
    arguments.get(index).unwrap_or(&Value::Nil)
}

fn text_of(arguments: &[Value], index: usize) -> String {
    argument(arguments, index).to_string()
}

fn title(text: &str) -> String {
    let mut start = true;
    let cased = text.chars().map(|c| {
        let shown = if start { c.to_ascii_uppercase() } else { c };
        start = c.is_whitespace();
        shown
    });
    cased.collect()
}

/// As the built-in one, but a missing key of a map yields the zero value of the map's elements.
fn index(arguments: &[Value], known: &Known) -> gotmpl::Result<Value> {
    let Some((first, keys)) = arguments.split_first() else {
        return Err(TemplateError::ArgCount { name: "index".to_owned(), expected: 1, got: 0 });
    };
    keys.iter().try_fold(first.clone(), |value, key| match (&value, key) {
        (Value::Map(map), Value::String(name)) if !map.contains_key(name) => {
            Ok(known.element(&value))
        }
        _ => value.index(key),
    })
}

/// As the built-in one, which knows no lists and maps: Go prints these with their elements.
fn printf(arguments: &[Value]) -> gotmpl::Result<Value> {
    let mut all = arguments.to_vec();
    if let Some((Value::String(format), rest)) = all.split_first_mut() {
        *format = shown_whole(format, rest).into();
    }
    let words: Vec<String> = (0..all.len()).map(|index| format!("(index . {index})")).collect();
    let call = Template::new("printf").parse(&format!("{{{{printf {}}}}}", words.join(" ")))?;
    call.execute_to_string(&Value::List(all.into())).map(string)
}

/// The format with `%v` for each verb whose argument becomes text here: the built-in function knows
/// `%T` of nothing, and `%s` and `%q` of no list.
fn shown_whole(format: &str, arguments: &mut [Value]) -> String {
    let mut shown = String::new();
    let mut arguments = arguments.iter_mut();
    let mut rest = format;
    while let Some((before, directive)) = rest.split_once('%') {
        shown.push_str(before);
        shown.push('%');
        let length = directive.find(|c: char| !"+-# 0123456789.".contains(c));
        let (flags, behind) = directive.split_at(length.unwrap_or(directive.len()));
        shown.push_str(flags);
        let Some(verb) = behind.chars().next() else { return shown };
        rest = &behind[verb.len_utf8()..];
        if matches!(verb, '*' | '[') {
            // An argument's place is computed: nothing is known of those that follow.
            return shown + behind;
        }
        let argument = if verb == '%' { None } else { arguments.next() };
        let text = argument.as_deref().and_then(|argument| go_text(verb, argument));
        shown.push(if text.is_some() { 'v' } else { verb });
        if let (Some(argument), Some(text)) = (argument, text) {
            *argument = string(text);
        }
    }
    shown + rest
}

/// What Go prints for a verb and a value where the built-in function does not.
fn go_text(verb: char, value: &Value) -> Option<String> {
    match (verb, value) {
        ('T', value) => Some(go_type(value).to_owned()),
        ('s', Value::List(_) | Value::Map(_)) => Some(value.to_string()),
        ('q', Value::List(items)) => {
            let items = items.iter().map(|item| super::quote(&item.to_string()));
            Some(format!("[{}]", items.collect::<Vec<_>>().join(" ")))
        }
        ('q', Value::Map(fields)) => {
            let quote = |text: &str| super::quote(text);
            let pairs = fields
                .iter()
                .map(|(name, field)| format!("{}:{}", quote(name), quote(&field.to_string())));
            Some(format!("map[{}]", pairs.collect::<Vec<_>>().join(" ")))
        }
        _ => None,
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Nil => "<nil>",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int64",
        Value::Uint(_) => "uint64",
        Value::Float(_) => "float64",
        Value::String(_) => "string",
        Value::List(_) => "[]string",
        _ => "map[string]string",
    }
}

fn json_of(value: &Value, known: &Known) -> String {
    if let Some(written) = known.written(value) {
        return written.to_string();
    }
    match value {
        Value::Nil => "null".to_owned(),
        Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Float(_) => value.to_string(),
        Value::List(items) => {
            let items = items.iter().map(|item| json_of(item, known));
            format!("[{}]", items.collect::<Vec<_>>().join(","))
        }
        Value::Map(fields) => {
            let pairs = fields
                .iter()
                .map(|(name, field)| format!("{}:{}", quoted(name), json_of(field, known)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
        }
        other => quoted(&other.to_string()),
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
