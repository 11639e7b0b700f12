//! Targets: their attributes, how these join, and what overrides them.

mod overrides;

use serde_json::{Map, Value};

pub(crate) use self::overrides::Override;
use crate::{
    error::ValueError,
    value::{self, boolean, list, object, text},
    words::{self, Entry},
};

/// What an attribute holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Bool,
    List,
    Map,
    Entries(Entry),
}

/// What becomes of a value where another target has one, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Join {
    Replace,
    Append,
}

/// All attributes of a target, in the order in which they are shown.
pub(crate) const ATTRIBUTES: &[(&str, Kind, Join)] = &[
    ("description", Kind::Text, Join::Replace),
    ("annotations", Kind::List, Join::Append),
    ("attest", Kind::Entries(Entry::Attestation), Join::Append),
    ("context", Kind::Text, Join::Replace),
    ("contexts", Kind::Map, Join::Append),
    ("dockerfile", Kind::Text, Join::Replace),
    ("dockerfile-inline", Kind::Text, Join::Replace),
    ("args", Kind::Map, Join::Append),
    ("labels", Kind::Map, Join::Append),
    ("tags", Kind::List, Join::Replace),
    ("cache-from", Kind::Entries(Entry::Cache), Join::Append),
    ("cache-to", Kind::Entries(Entry::Cache), Join::Replace),
    ("target", Kind::Text, Join::Replace),
    ("secret", Kind::Entries(Entry::Secret), Join::Append),
    ("ssh", Kind::Entries(Entry::Ssh), Join::Append),
    ("platforms", Kind::List, Join::Replace),
    ("output", Kind::Entries(Entry::Output), Join::Replace),
    ("pull", Kind::Bool, Join::Replace),
    ("no-cache", Kind::Bool, Join::Replace),
    ("network", Kind::Text, Join::Replace),
    ("no-cache-filter", Kind::List, Join::Append),
    ("shm-size", Kind::Text, Join::Replace),
    ("ulimits", Kind::List, Join::Append),
    ("resources", Kind::Map, Join::Append),
    ("call", Kind::Text, Join::Replace),
    ("entitlements", Kind::List, Join::Append),
    ("extra-hosts", Kind::Map, Join::Append),
    ("policy", Kind::Entries(Entry::Policy), Join::Append),
];
/// Where the escapes of a definition's text are shown as such.
const ESCAPED: [&str; 5] = ["annotations", "dockerfile-inline", "labels", "args", "extra-hosts"];

/// A target with the values that its blocks, its parents and the caller give it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    values: Map<String, Value>,
}

impl Target {
    /// A text attribute.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.as_str()
    }

    /// A bool attribute.
    #[must_use]
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.values.get(name)?.as_bool()
    }

    /// The words of a list, or of entries in the form of `davit build`.
    #[must_use]
    pub fn words(&self, name: &str) -> Vec<String> {
        let items = self.values.get(name).and_then(Value::as_array).into_iter().flatten();
        let entry = kind_of(name).and_then(|(kind, _)| match kind {
            Kind::Entries(entry) => Some(entry),
            _ => None,
        });
        let words = items.map(|item| match (item, entry) {
            (Value::Object(object), Some(entry)) => words::write(entry, object),
            (item, _) => text(item).unwrap_or_default(),
        });
        words.collect()
    }

    /// A field of each entry, as `src` of secrets.
    #[must_use]
    pub fn fields(&self, name: &str, field: &str) -> Vec<String> {
        let items = self.values.get(name).and_then(Value::as_array).into_iter().flatten();
        let found = items.filter_map(|item| item.get(field)).flat_map(|value| match value {
            Value::Array(all) => all.iter().filter_map(|it| text(it).ok()).collect(),
            one => text(one).ok().into_iter().collect::<Vec<_>>(),
        });
        found.collect()
    }

    /// The pairs of a map, by key.
    #[must_use]
    pub fn pairs(&self, name: &str) -> Vec<(String, String)> {
        let pairs = self.values.get(name).and_then(Value::as_object).into_iter().flatten();
        let mut pairs: Vec<_> =
            pairs.map(|(key, value)| (key.clone(), text(value).unwrap_or_default())).collect();
        pairs.sort();
        pairs
    }

    /// Replaces `context`, or each of `contexts`, by what `below` makes of it; `None` leaves one.
    ///
    /// # Errors
    /// That of `below`.
    pub fn rebase<E>(
        &mut self,
        attribute: &str,
        below: &dyn Fn(&str) -> Result<Option<String>, E>,
    ) -> Result<(), E> {
        let contexts: Vec<&mut Value> = match self.values.get_mut(attribute) {
            Some(Value::Object(all)) => all.values_mut().collect(),
            Some(value) => vec![value],
            None => Vec::new(),
        };
        for context in contexts {
            if let Some(new) = below(context.as_str().unwrap_or_default())? {
                *context = new.into();
            }
        }
        Ok(())
    }

    /// The target in the form of buildx's `bake --print`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut shown = Map::new();
        for (name, ..) in ATTRIBUTES {
            let Some(value) = self.values.get(*name) else { continue };
            let mut value = value.clone();
            match *name {
                "context" => value = shown_context(value),
                "attest" => value.as_array_mut().into_iter().flatten().for_each(show_disabled),
                "resources" => value = shown_resources(&value),
                _ => {}
            }
            if ESCAPED.contains(name) {
                escape(&mut value);
            }
            match *name {
                "resources" => {}
                "secret" => value.as_array_mut().into_iter().flatten().for_each(order_secret),
                _ => sort_keys(&mut value),
            }
            let is_empty = match &value {
                Value::Array(all) => all.is_empty(),
                Value::Object(all) => all.is_empty(),
                _ => false,
            };
            if !is_empty {
                shown.insert((*name).to_owned(), value);
            }
        }
        Value::Object(shown)
    }

    /// What it weighs against the budget of its definition.
    pub(crate) fn weight(&self) -> u64 {
        self.values.values().map(value::weight).fold(64, u64::saturating_add)
    }

    pub(crate) fn set(&mut self, name: &str, value: Value) {
        self.values.insert(name.to_owned(), value);
    }

    /// Takes an attribute as a definition gives it; null is as if it were not there.
    pub(crate) fn give(&mut self, name: &str, value: &Value) -> Result<(), ValueError> {
        let Some((kind, _)) = kind_of(name) else { return Ok(()) };
        if !value.is_null() {
            self.set(name, shaped(kind, value)?);
        }
        Ok(())
    }

    /// Takes what a later block, or a child, says.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (name, value) in &other.values {
            let join = kind_of(name).map_or(Join::Replace, |(_, join)| join);
            match (join, self.values.get_mut(name), value) {
                (Join::Append, Some(Value::Array(all)), Value::Array(more)) => {
                    all.extend(more.iter().cloned());
                }
                (Join::Append, Some(Value::Object(all)), Value::Object(more)) => {
                    all.extend(more.iter().map(|(key, value)| (key.clone(), value.clone())));
                }
                _ => self.set(name, value.clone()),
            }
        }
    }

    /// Removes repetitions and what is empty.
    pub(crate) fn normalize(&mut self) {
        if self.text("network") == Some("host") {
            self.append("entitlements", vec!["network.host".into()]);
        }
        for value in self.values.values_mut() {
            if let Value::Array(all) = value {
                let mut seen = std::collections::HashSet::new();
                all.retain(|item| item.as_str() != Some("") && seen.insert(item.to_string()));
            }
        }
        if let Some(Value::Object(contexts)) = self.values.get_mut("contexts") {
            contexts.retain(|_, value| value.as_str() != Some(""));
        }
        latest_attestations(self.values.get_mut("attest"));
    }

    pub(crate) fn append(&mut self, name: &str, more: Vec<Value>) {
        let all = self.values.entry(name).or_insert_with(|| Value::Array(Vec::new()));
        all.as_array_mut().into_iter().for_each(|all| all.extend(more.clone()));
    }

    pub(crate) fn entry(&mut self, name: &str, key: &str, value: &str) {
        let all = self.values.entry(name).or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(all) = all {
            all.insert(key.to_owned(), value.into());
        }
    }
}

pub(crate) fn kind_of(name: &str) -> Option<(Kind, Join)> {
    ATTRIBUTES.iter().find(|(known, ..)| *known == name).map(|(_, kind, join)| (*kind, *join))
}

/// The last attestation of a type is the one that counts.
fn latest_attestations(value: Option<&mut Value>) {
    let Some(Value::Array(all)) = value else { return };
    let mut latest = Map::new();
    for item in all.drain(..) {
        let kind = item.get("type").map(Value::to_string).unwrap_or_default();
        latest.insert(kind, item);
    }
    *all = latest.into_iter().map(|(_, item)| item).collect();
}

/// Brings a value into the form of its attribute.
fn shaped(kind: Kind, value: &Value) -> Result<Value, ValueError> {
    match kind {
        Kind::Text => text(value).map(Value::String),
        Kind::Bool => boolean(value).map(Value::Bool),
        Kind::List => {
            let full = list(value)?.iter().filter(|item| !item.is_null());
            full.map(|item| text(item).map(Value::String)).collect()
        }
        Kind::Map => {
            let full = object(value)?.iter().filter(|(_, item)| !item.is_null());
            let pairs = full.map(|(key, item)| Ok((key.clone(), Value::String(text(item)?))));
            pairs.collect::<Result<Map<_, _>, _>>().map(Value::Object)
        }
        Kind::Entries(entry) => {
            let full = list(value)?.iter().filter(|item| {
                !item.is_null() && item.as_str().is_none_or(|item| !item.trim().is_empty())
            });
            let all = full.map(|item| shaped_entry(entry, item)).collect::<Result<Vec<_>, _>>()?;
            Ok(all.into_iter().flatten().collect())
        }
    }
}

fn shaped_entry(entry: Entry, item: &Value) -> Result<Vec<Value>, ValueError> {
    let Value::Object(fields) = item else {
        return text(item).map(|word| words::parse_all(entry, &word));
    };
    let full = fields.iter().filter(|(_, value)| !value.is_null());
    let pairs = full.map(|(key, value)| match value {
        Value::Array(all) => {
            let all: Result<Vec<_>, _> = all.iter().map(text).collect();
            Ok((key.clone(), all?.into()))
        }
        one => Ok((key.clone(), text(one)?.into())),
    });
    let fields = pairs.collect::<Result<Map<_, _>, _>>()?;
    // As the words are read later: no name or value holds further fields.
    Ok(vec![Value::Object(words::parse(entry, &words::write(entry, &fields)))])
}

/// A local context without what changes nothing.
fn shown_context(context: Value) -> Value {
    let text = context.as_str().unwrap_or_default();
    if let Some(path) = text.strip_prefix("cwd://") {
        return crate::functions::cleaned(path).into();
    }
    if is_remote(text) { context } else { crate::functions::cleaned(text).into() }
}

/// Whether a context is none of this machine's directories.
pub(crate) fn is_remote(text: &str) -> bool {
    text.contains("://") || text.starts_with("git@") || text.starts_with("github.com/")
}

/// An attestation is disabled by a bool.
fn show_disabled(attestation: &mut Value) {
    let Some(fields) = attestation.as_object_mut() else { return };
    match fields.shift_remove("disabled").as_ref().and_then(Value::as_str) {
        Some("true" | "1") => {
            fields.insert("disabled".to_owned(), true.into());
        }
        Some("false" | "0") | None => {}
        Some(other) => {
            fields.insert("disabled".to_owned(), other.into());
        }
    }
}

/// Limits in their own order, counts as numbers.
fn shown_resources(limits: &Value) -> Value {
    let keys = [
        "memory",
        "memory-swap",
        "cpu-shares",
        "cpu-period",
        "cpu-quota",
        "cpuset-cpus",
        "cpuset-mems",
    ];
    let shown = keys.iter().filter_map(|key| {
        let value = limits.get(key)?;
        let number = value.as_str().and_then(|text| text.parse::<i64>().ok());
        let number = number.filter(|_| key.starts_with("cpu-"));
        Some(((*key).to_owned(), number.map_or_else(|| value.clone(), Value::from)))
    });
    Value::Object(shown.collect())
}

/// The name of a secret comes first.
fn order_secret(secret: &mut Value) {
    let Some(fields) = secret.as_object_mut() else { return };
    fields.sort_keys();
    for key in ["env", "src", "id"] {
        if let Some(value) = fields.shift_remove(key) {
            fields.shift_insert(0, key.to_owned(), value);
        }
    }
}

fn escape(value: &mut Value) {
    match value {
        Value::String(text) => *text = text.replace("${", "$${").replace("%{", "%%{"),
        Value::Array(all) => all.iter_mut().for_each(escape),
        Value::Object(all) => all.values_mut().for_each(escape),
        _ => {}
    }
}

fn sort_keys(value: &mut Value) {
    match value {
        Value::Array(all) => all.iter_mut().for_each(sort_keys),
        Value::Object(all) => all.sort_keys(),
        _ => {}
    }
}
