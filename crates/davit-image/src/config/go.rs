//! A config's JSON as Go's `encoding/json` takes it, which wrote and reads most of them: keys in any
//! case (the exact one wins), `null` for an element without a value, and Docker's `strslice`, where
//! one word is a list of one.

use serde_json::{Map, Value};

const CONFIG: [&str; 11] = [
    "architecture",
    "author",
    "config",
    "created",
    "docker_version",
    "history",
    "os",
    "os.features",
    "os.version",
    "rootfs",
    "variant",
];
const CONTAINER: [&str; 14] = [
    "ArgsEscaped",
    "Cmd",
    "Entrypoint",
    "Env",
    "ExposedPorts",
    "Healthcheck",
    "Labels",
    "OnBuild",
    "Shell",
    "StopSignal",
    "StopTimeout",
    "User",
    "Volumes",
    "WorkingDir",
];
const HEALTH: [&str; 6] =
    ["Interval", "Retries", "StartInterval", "StartPeriod", "Test", "Timeout"];
const HISTORY: [&str; 5] = ["author", "comment", "created", "created_by", "empty_layer"];
const ROOT_FS: [&str; 2] = ["diff_ids", "type"];

/// Brings a config into the form that the specification has.
pub(super) fn normalize(config: &mut Value) {
    rename(config, &CONFIG);
    let Some(config) = config.as_object_mut() else { return };
    if let Some(root_fs) = config.get_mut("rootfs") {
        rename(root_fs, &ROOT_FS);
    }
    for entry in config.get_mut("history").and_then(Value::as_array_mut).into_iter().flatten() {
        give(entry, Value::Object(Map::new()));
        rename(entry, &HISTORY);
    }
    if let Some(container) = config.get_mut("config") {
        rename(container, &CONTAINER);
        container.as_object_mut().into_iter().for_each(normalize_container);
    }
}

fn normalize_container(container: &mut Map<String, Value>) {
    if let Some(health) = container.get_mut("Healthcheck") {
        rename(health, &HEALTH);
        if let Some(test) = health.get_mut("Test") {
            fill(test, &Value::from(""));
        }
    }
    for key in ["Cmd", "Entrypoint", "Shell"] {
        if let Some(word @ Value::String(_)) = container.get_mut(key) {
            *word = Value::Array(vec![word.take()]);
        }
    }
    let empty = Value::Object(Map::new());
    let keys = [("ExposedPorts", &empty), ("Volumes", &empty)];
    let texts = ["Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "Shell"];
    let text = Value::from("");
    for (key, element) in keys.into_iter().chain(texts.map(|key| (key, &text))) {
        if let Some(found) = container.get_mut(key) {
            fill(found, element);
        }
    }
}

/// Gives the known keys of an object their own case.
fn rename(object: &mut Value, known: &[&str]) {
    let Some(object) = object.as_object_mut() else { return };
    for key in known {
        let is_other = |name: &str| name != *key && name.eq_ignore_ascii_case(key);
        let others: Vec<String> = object.keys().filter(|name| is_other(name)).cloned().collect();
        for other in others {
            if let (Some(value), false) = (object.remove(&other), object.contains_key(*key)) {
                object.insert((*key).to_owned(), value);
            }
        }
    }
}

/// Gives the elements of a list or map that are `null` a value.
fn fill(container: &mut Value, element: &Value) {
    match container {
        Value::Array(items) => items.iter_mut().for_each(|item| give(item, element.clone())),
        Value::Object(fields) => fields.values_mut().for_each(|field| give(field, element.clone())),
        _ => {}
    }
}

fn give(place: &mut Value, value: Value) {
    if place.is_null() {
        *place = value;
    }
}
