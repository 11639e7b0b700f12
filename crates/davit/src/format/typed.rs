//! Described objects as Docker's templates see them: Docker evaluates these on Go's structs, where a
//! field that nobody has set has its type's zero value.
//!
//! `shapes.json` has the structs: `""`, `0`, `false` and `[]` are zero values (`[{…}]` a list of
//! structs), `null` is a nil pointer, `{}` a map (`{"*": …}` one of structs or lists), any other
//! object a struct. `"?"` marks a pointer to the struct, `"=Name"` a field's other name.

use std::{collections::BTreeMap, sync::Arc};

use gotmpl::Value;
use serde_json::{Map, Value as Json};

const SHAPES: &str = include_str!("shapes.json");

/// What is described, in the order in which `inspect` looks a name up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    Container,
    Image,
    Network,
    Volume,
}

impl Kind {
    /// Name of its struct.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Container => "Container",
            Self::Image => "Image",
            Self::Network => "Network",
            Self::Volume => "Volume",
        }
    }
}

/// A struct of `shapes.json`.
pub(super) fn shape(name: &str) -> Json {
    let mut shapes: Json = serde_json::from_str(SHAPES).expect("it is a constant");
    shapes[name].take()
}

/// How fields are filled.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fill<'a> {
    /// For the output.
    Output,
    /// To find mistyped fields: every map has these keys, and no nil pointer leads to a field.
    Probe(&'a [String]),
}

/// What the values of a template stand for, by their identity.
#[derive(Debug, Default)]
pub(super) struct Known(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    value: Value,
    written: Json,
    element: Value,
}

impl Known {
    /// Fills an object by its shape.
    pub(super) fn fill(&mut self, shape: &Json, object: &Json, fill: Fill<'_>) -> Value {
        match (shape, object) {
            (Json::Object(fields), Json::Null) if fields.contains_key("?") => match fill {
                Fill::Output => Value::Nil,
                Fill::Probe(_) => Value::Map(Arc::default()),
            },
            (Json::Object(fields), Json::Object(_) | Json::Null) if is_struct(fields) => {
                self.fill_struct(fields, object, fill)
            }
            (_, Json::Object(_)) | (Json::Object(_), Json::Null) => {
                self.fill_map(shape, object, fill)
            }
            (_, Json::Array(_)) | (Json::Array(_), Json::Null) => {
                self.fill_list(shape, object, fill)
            }
            (zero, Json::Null) => scalar(zero),
            (_, found) => scalar(found),
        }
    }

    fn fill_struct(&mut self, fields: &Map<String, Json>, object: &Json, fill: Fill<'_>) -> Value {
        let mut filled: BTreeMap<Arc<str>, Value> = BTreeMap::new();
        for (name, found) in object.as_object().into_iter().flatten() {
            let shape = fields.get(name).unwrap_or(&Json::Null);
            filled.insert(name.as_str().into(), self.fill(shape, found, fill));
        }
        for (name, zero) in fields.iter().filter(|(name, _)| *name != "?") {
            let value = match zero.as_str().and_then(|text| text.strip_prefix('=')) {
                Some(other) => filled.get(other).cloned().unwrap_or(Value::Nil),
                None if filled.contains_key(name.as_str()) => continue,
                None => self.fill(zero, &Json::Null, fill),
            };
            filled.insert(name.as_str().into(), value);
        }
        self.remember(Value::Map(Arc::new(filled)), object, Value::Nil)
    }

    fn fill_map(&mut self, shape: &Json, object: &Json, fill: Fill<'_>) -> Value {
        let of_text = if shape.is_object() { Json::from("") } else { Json::Null };
        let element = shape.get("*").unwrap_or(&of_text);
        let mut filled: BTreeMap<Arc<str>, Value> = BTreeMap::new();
        for (name, value) in object.as_object().into_iter().flatten() {
            filled.insert(name.as_str().into(), self.fill(element, value, fill));
        }
        if let (Fill::Probe(keys), true) = (fill, shape.is_object()) {
            for key in keys {
                filled.entry(key.as_str().into()).or_insert(Value::Nil);
            }
        }
        let element = self.fill(element, &Json::Null, fill);
        self.remember(Value::Map(Arc::new(filled)), object, element)
    }

    fn fill_list(&mut self, shape: &Json, object: &Json, fill: Fill<'_>) -> Value {
        let element = shape.get(0).unwrap_or(&Json::Null);
        let items = object.as_array().into_iter().flatten();
        let filled: Vec<Value> = items.map(|item| self.fill(element, item, fill)).collect();
        self.remember(Value::List(filled.into()), object, Value::Nil)
    }

    fn remember(&mut self, value: Value, written: &Json, element: Value) -> Value {
        self.0.push(Entry { value: value.clone(), written: written.clone(), element });
        value
    }

    fn entry(&self, value: &Value) -> Option<&Entry> {
        self.0.iter().find(|entry| match (&entry.value, value) {
            (Value::Map(known), Value::Map(map)) => Arc::ptr_eq(known, map),
            (Value::List(known), Value::List(list)) => Arc::ptr_eq(known, list),
            _ => false,
        })
    }

    /// The JSON that a value was made of; a map or list that was not set is `null`.
    pub(super) fn written(&self, value: &Value) -> Option<&Json> {
        self.entry(value).map(|entry| &entry.written)
    }

    /// What a missing key of a map yields.
    pub(super) fn element(&self, map: &Value) -> Value {
        self.entry(map).map_or(Value::Nil, |entry| entry.element.clone())
    }
}

fn is_struct(fields: &Map<String, Json>) -> bool {
    !fields.is_empty() && !fields.contains_key("*")
}

fn scalar(value: &Json) -> Value {
    gotmpl::to_value(value).unwrap_or(Value::Nil)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::{Object, render_object},
        *,
    };

    fn render(kind: Kind, fields: &Json, format: &str) -> String {
        let object = Object { kind, fields: fields.clone() };
        render_object(format, &object).unwrap_or_else(|error| format!("{}: {error}", error.code()))
    }

    /// The second column is what Docker's command line 28 prints for the same JSON.
    #[test]
    fn unset_fields_are_zero_values() {
        let image = json!({
            "Id": "sha256:ab", "Variant": "v8",
            "Config": {"Env": ["A=b"], "Cmd": null, "Labels": {"b": "2", "a": "1"}},
        });
        let cases = [
            ("{{.Config.User}}", ""),
            ("{{.Config.Entrypoint}} {{.Config.Cmd}} {{.Config.Env}}", "[] [] [A=b]"),
            ("{{len .Config.Volumes}}{{len .Config.Env}}", "01"),
            ("{{index .Config.Labels \"a\"}}|{{index .Config.Labels \"x\"}}", "1|"),
            ("{{.Config.Labels.a}} {{.Config.Labels.x}}", "1 <no value>"),
            (
                "{{.Config.ExposedPorts}} {{.Config.OnBuild}} {{.Config.Healthcheck}}",
                "map[] [] <nil>",
            ),
            ("{{.Id}} {{.ID}} {{.Variant}}|{{.OsVersion}}", "sha256:ab sha256:ab v8|"),
            ("{{json .Config.Labels}}{{json .Config.OnBuild}}", "{\"b\":\"2\",\"a\":\"1\"}null"),
            ("{{json .Config.User}}{{json .Config.Healthcheck}}", "\"\"null"),
            (
                "{{json .Config}}",
                "{\"Env\":[\"A=b\"],\"Cmd\":null,\"Labels\":{\"b\":\"2\",\"a\":\"1\"}}",
            ),
            ("{{with .Config.Healthcheck}}some{{else}}none{{end}}", "none"),
        ];
        for (format, expected) in cases {
            assert_eq!(render(Kind::Image, &image, format), expected, "{format}");
        }
        let container = json!({
            "State": {"Health": {"Status": "starting"}},
            "Mounts": [{"Source": "/a"}],
            "HostConfig": {"LogConfig": {"Type": "local"}, "NanoCpus": 5},
            "NetworkSettings": {"Ports": {"80/tcp": null}, "Networks": {"bridge": {"IPAddress": "1.2.3.4"}}},
        });
        let cases = [
            ("{{.State.Health.Status}} {{.State.Health.FailingStreak}}", "starting 0"),
            ("{{range .Mounts}}{{.Source}}{{.Name}}{{.RW}}{{end}}", "/afalse"),
            ("{{.HostConfig.NanoCPUs}}{{.HostConfig.PidsLimit}}{{.HostConfig.CapAdd}}", "5<nil>[]"),
            (
                "{{.HostConfig.LogConfig.Config}}{{.HostConfig.LogConfig.Config.x}}",
                "map[]<no value>",
            ),
            ("{{.NetworkSettings.Networks.bridge.IPAddress}}", "1.2.3.4"),
            ("{{.NetworkSettings.Networks.x.IPAddress}}", "<no value>"),
            ("{{range .NetworkSettings.Networks}}{{.MacAddress}}{{.Links}}{{end}}", "[]"),
            (
                "{{index .NetworkSettings.Ports \"80/tcp\"}}{{index .NetworkSettings.Ports \"1/tcp\"}}",
                "[][]",
            ),
        ];
        for (format, expected) in cases {
            assert_eq!(render(Kind::Container, &container, format), expected, "{format}");
        }
    }

    #[test]
    fn a_field_that_no_object_has_is_an_error() {
        let empty = json!({"Config": {}, "Mounts": [{}]});
        let cases = [
            (Kind::Image, "{{.NoSuch}}"),
            (Kind::Image, "{{.Config.NoSuch}}"),
            (Kind::Image, "{{.Config.Labels.a}}{{.NoSuch}}"),
            (Kind::Container, "{{range .Mounts}}{{.NoSuch}}{{end}}"),
            (Kind::Container, "{{.State.Health.Status}}"),
            (Kind::Volume, "{{.Id}}"),
            (Kind::Network, "{{.IPAM.NoSuch}}"),
        ];
        for (kind, format) in cases {
            let shown = render(kind, &empty, format);
            assert!(shown.starts_with("1: error: template parsing error: "), "{format}: {shown}");
        }
    }
}
