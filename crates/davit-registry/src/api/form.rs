//! Texts become what a schema wants: queries, and the fields of the pages' forms.

use serde_json::{Map, Number, Value};

use super::{Endpoint, Names, Problem, openapi::parameters, schema::Schemas};

/// A form that was read.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) names: Names,
    pub(super) query: Value,
    pub(super) body: Value,
}

/// Reads a query; parameters that are not in the table are refused.
pub(super) fn query(endpoint: &Endpoint, text: &str) -> Result<Value, Problem> {
    let mut schemas = Schemas::new();
    let schema = resolve((endpoint.query)(&mut schemas), &schemas);
    let mut object = Map::new();
    for (key, text) in url::form_urlencoded::parse(text.as_bytes()) {
        let Some(property) = schema["properties"].get(&*key) else {
            return Err(Problem::malformed(format!("there is no parameter `{key}`")));
        };
        let value = convert(&text, property);
        if object.insert(key.clone().into_owned(), value).is_some() {
            return Err(Problem::malformed(format!("parameter `{key}` is there twice")));
        }
    }
    Ok(Value::Object(object))
}

/// Reads a page's form: each field goes to the path, the query or the body, as the table has it; those
/// that the table does not know are the page's own. An empty field is an absent one.
pub(super) fn read(endpoint: &Endpoint, fields: &[(String, String)]) -> Result<Form, Problem> {
    let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, text)| text);
    let mut names = Names::default();
    for name in parameters(endpoint.path) {
        let text = field(name).filter(|text| !text.is_empty());
        let text = text.ok_or_else(|| Problem::malformed(format!("`{name}` is missing")))?;
        names.set(name, text);
    }
    let object = |schema: fn(&mut Schemas) -> Value| {
        let mut schemas = Schemas::new();
        let schema = resolve(schema(&mut schemas), &schemas);
        let mut object = Map::new();
        for (key, property) in schema["properties"].as_object().into_iter().flatten() {
            let property = resolve(property.clone(), &schemas);
            // A box that is not ticked is not sent at all: a hidden field before it says that it is
            // there. A list is all of its boxes, or the lines of a field.
            let is_list = property["type"] == "array";
            let texts = fields.iter().filter(|(name, _)| name == key).map(|(_, text)| &**text);
            let texts: Vec<&str> = texts.collect();
            let Some(last) = texts.last() else { continue };
            let text = &*if is_list { texts.join("\n") } else { (*last).to_owned() };
            let is_text = property["type"] == "string" && property["minLength"].is_null();
            let keeps_empty = is_text && property["enum"].is_null();
            if text.is_empty() && !is_list && !(keeps_empty && is_clearable(key)) {
                continue;
            }
            let size = bytes(text).filter(|_| is_size(key));
            object.insert(key.clone(), size.unwrap_or_else(|| convert(text, &property)));
        }
        Value::Object(object)
    };
    Ok(Form { names, query: object(endpoint.query), body: object(endpoint.body) })
}

/// Texts whose absence means "as it was", and which a form may empty.
fn is_clearable(field: &str) -> bool {
    matches!(field, "description" | "readme" | "test")
}

/// Numbers that a form may give with a unit.
fn is_size(field: &str) -> bool {
    matches!(field, "quota_bytes" | "bytes_per_second")
}

/// A number of bytes with a unit, as people write it: `10 GB`, `512 MiB`. `None` for anything else.
fn bytes(text: &str) -> Option<Value> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|letter: char| !letter.is_ascii_digit())?);
    let unit = unit.trim_start().to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let (letter, base) = match unit.strip_suffix('i') {
        Some("") => return None,
        Some(letter) => (letter, 1024_u64),
        None => (unit, 1000),
    };
    let power = ["", "k", "m", "g", "t", "p", "e"].iter().position(|known| *known == letter)?;
    let unit = base.checked_pow(u32::try_from(power).ok()?)?;
    number.parse::<u64>().ok()?.checked_mul(unit).map(Value::from)
}

/// Follows a reference.
fn resolve(schema: Value, schemas: &Schemas) -> Value {
    let name = schema["$ref"].as_str().and_then(|place| place.rsplit('/').next());
    name.and_then(|name| schemas.get(name)).cloned().unwrap_or(schema)
}

/// The value that a text stands for; what is none stays a text, and is refused as one.
fn convert(text: &str, schema: &Value) -> Value {
    let as_text = || Value::String(text.to_owned());
    match schema["type"].as_str() {
        Some("integer") => {
            let is_plain = !text.starts_with('+');
            let number = text.parse::<u64>().map(Number::from).ok();
            let number = number.or_else(|| text.parse::<i64>().map(Number::from).ok());
            number.filter(|_| is_plain).map_or_else(as_text, Value::Number)
        }
        Some("boolean") => match text {
            "true" | "on" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => as_text(),
        },
        Some("array") if schema["items"]["type"] == "string" => {
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            lines.map(Value::from).collect()
        }
        Some("string") => as_text(),
        // Objects are written as JSON.
        _ => serde_json::from_str(text).unwrap_or_else(|_error| as_text()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_become_what_is_wanted() {
        let list = json!({ "type": "array", "items": { "type": "string" } });
        for (text, schema, expected) in [
            ("12", json!({ "type": "integer" }), json!(12)),
            ("-12", json!({ "type": "integer" }), json!(-12)),
            ("+12", json!({ "type": "integer" }), json!("+12")),
            ("1e3", json!({ "type": "integer" }), json!("1e3")),
            ("on", json!({ "type": "boolean" }), json!(true)),
            ("1", json!({ "type": "boolean" }), json!("1")),
            ("a\r\n\r\n b ", list, json!(["a", "b"])),
            (r#"{"a":1}"#, json!({ "$ref": "#" }), json!({ "a": 1 })),
            ("12", json!({ "type": "string" }), json!("12")),
        ] {
            assert_eq!(convert(text, &schema), expected, "{text}");
        }
    }

    #[test]
    fn sizes_may_have_units() {
        for (text, expected) in [
            ("0 B", Some(0)),
            ("10 GB", Some(10_000_000_000)),
            ("10GiB", Some(10 << 30)),
            (" 3 k ", Some(3000)),
            ("3kib", Some(3 << 10)),
            ("15 EiB", Some(15 << 60)),
            // Numbers are converted as all others.
            ("10", None),
            ("16 EiB", None),
            ("99999999999999999999 B", None),
            ("1.5 GB", None),
            ("-1 B", None),
            ("GB", None),
            ("1 iB", None),
            ("1 ZB", None),
            ("1 G B", None),
            ("", None),
        ] {
            assert_eq!(bytes(text), expected.map(|bytes: u64| json!(bytes)), "{text}");
        }
    }
}
