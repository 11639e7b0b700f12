//! Attributes of targets that are words of `KEY=VALUE` pairs, as `type=registry,ref=x`.

use serde_json::{Map, Value};

/// What the words of an attribute describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Cache,
    Secret,
    Ssh,
    Output,
    Attestation,
    Policy,
}

/// Splits at commas; quotes keep them, as in CSV.
pub(crate) fn fields(text: &str) -> Vec<String> {
    let (mut all, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => all.push(std::mem::take(&mut field)),
            letter => field.push(letter),
        }
    }
    all.push(field);
    all
}

/// A word of `davit build` to objects: caches that are only names may be several.
pub(crate) fn parse_all(entry: Entry, word: &str) -> Vec<Value> {
    let names = fields(word);
    if entry == Entry::Cache && names.len() > 1 && names.iter().all(|name| !name.contains('=')) {
        return names.iter().map(|name| Value::Object(parse(entry, name))).collect();
    }
    vec![Value::Object(parse(entry, word))]
}

/// A word of `davit build` to an object.
pub(crate) fn parse(entry: Entry, word: &str) -> Map<String, Value> {
    let mut object = Map::new();
    if entry == Entry::Ssh {
        let (id, paths) = word.split_once('=').unwrap_or((word, ""));
        object.insert("id".to_owned(), id.into());
        if !paths.is_empty() {
            object.insert("paths".to_owned(), fields(paths).into());
        }
        return object;
    }
    let pairs = fields(word);
    if let [only] = &pairs[..]
        && !only.contains('=')
    {
        let (kind, key) = match entry {
            Entry::Output if only == "-" => ("tar", "dest"),
            Entry::Output => ("local", "dest"),
            Entry::Cache => ("registry", "ref"),
            Entry::Attestation => (only.as_str(), ""),
            Entry::Secret | Entry::Ssh => ("", "id"),
            Entry::Policy => ("", "filename"),
        };
        object.insert("type".to_owned(), kind.into());
        object.insert(key.to_owned(), only.as_str().into());
        object.retain(|key, value| !key.is_empty() && value.as_str() != Some(""));
        return object;
    }
    for pair in &pairs {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = key.trim().to_ascii_lowercase();
        object.insert(key, value.into());
    }
    if entry == Entry::Secret {
        normalize_secret(&mut object);
    }
    object
}

/// A secret's file is its `src`, a variable its `env`.
fn normalize_secret(object: &mut Map<String, Value>) {
    let source = object.shift_remove("source");
    if let Some(source) = source {
        object.entry("src").or_insert(source);
    }
    let kind = object.shift_remove("type");
    if kind.as_ref().and_then(Value::as_str) == Some("env")
        && let Some(name) = object.shift_remove("src")
    {
        object.entry("env").or_insert(name);
    }
}

/// An object to a word of `davit build`.
pub(crate) fn write(entry: Entry, object: &Map<String, Value>) -> String {
    let text = |value: &Value| crate::value::text(value).unwrap_or_default();
    let joined = |words: Vec<String>| {
        let quoted = words.into_iter().map(|word| {
            let plain = !word.contains([',', '"', '\n']);
            if plain { word } else { format!("\"{}\"", word.replace('"', "\"\"")) }
        });
        quoted.collect::<Vec<_>>().join(",")
    };
    if entry == Entry::Ssh {
        let id = object.get("id").map(text).unwrap_or_default();
        let paths = object.get("paths").and_then(Value::as_array);
        let paths: Vec<String> = paths.into_iter().flatten().map(text).collect();
        return if paths.is_empty() { id } else { format!("{id}={}", joined(paths)) };
    }
    let pairs = object.iter().map(|(key, value)| format!("{key}={}", text(value)));
    joined(pairs.collect())
}
