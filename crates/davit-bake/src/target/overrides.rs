//! `--set TARGET.KEY[.SUB]=VALUE`

use serde_json::Value;

use super::{Kind, Target, kind_of};
use crate::{
    error::{BakeError, ValueError},
    words::{self, Entry},
};

/// One `--set`, read.
#[derive(Clone, Debug)]
pub(crate) struct Override {
    /// Which targets it is for.
    pub(crate) pattern: String,
    key: String,
    sub: Option<String>,
    /// Of `args` the environment may give it.
    value: Option<String>,
    appends: bool,
    text: String,
}

impl Override {
    pub(crate) fn parse(text: &str) -> Result<Self, BakeError> {
        let wrong = |problem: &str| BakeError::Override {
            text: text.to_owned(),
            problem: problem.to_owned(),
        };
        let (path, value) = match text.split_once('=') {
            Some((path, value)) => (path, Some(value.to_owned())),
            None => (text, None),
        };
        let (path, appends) = path.strip_suffix('+').map_or((path, false), |path| (path, true));
        let mut parts = path.splitn(3, '.');
        let (pattern, key) = (parts.next().unwrap_or(""), parts.next());
        let key = key.ok_or_else(|| wrong("it is not of the form TARGET.KEY=VALUE"))?;
        let key = match key {
            "platform" => "platforms",
            "secrets" => "secret",
            key => key,
        };
        let sub = parts.next().map(str::to_owned);
        if value.is_none() && key != "args" {
            return Err(wrong("the value is missing"));
        }
        match (key, kind_of(key)) {
            ("push" | "load", _) => {}
            (_, None) => return Err(wrong(&format!("there is no attribute `{key}`"))),
            (_, Some((Kind::Map, _))) if sub.is_none() => {
                return Err(wrong(&format!("{key} has names: TARGET.{key}.NAME=VALUE")));
            }
            (_, Some((Kind::Map | Kind::Text | Kind::Bool, _))) if appends => {
                return Err(wrong(&format!("nothing can be appended to {key}")));
            }
            _ => {}
        }
        let (pattern, key, text) = (pattern.to_owned(), key.to_owned(), text.to_owned());
        Ok(Self { pattern, key, sub, value, appends, text })
    }

    /// What is wrong with it, under its own name.
    pub(crate) fn wrong(&self, error: &ValueError) -> BakeError {
        BakeError::Override { text: self.text.clone(), problem: error.to_string() }
    }
}

impl Target {
    /// Applies what is set, in its order; values of one list that are set add up.
    pub(crate) fn apply(
        &mut self,
        overrides: &[&Override],
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(), BakeError> {
        let mut replaced: Vec<&str> = Vec::new();
        for one in overrides {
            let sub = one.sub.as_deref();
            let value = match (&one.value, sub) {
                (Some(value), _) => value.clone(),
                (None, Some(name)) => match environment(name) {
                    Some(value) => value,
                    None => continue,
                },
                (None, None) => continue,
            };
            let is_first = !replaced.contains(&one.key.as_str());
            if is_first && !one.appends {
                replaced.push(&one.key);
            }
            self.apply_one(one, &value, is_first && !one.appends)
                .map_err(|error| one.wrong(&error))?;
        }
        Ok(())
    }

    fn apply_one(&mut self, one: &Override, value: &str, replaces: bool) -> Result<(), ValueError> {
        match (one.key.as_str(), kind_of(&one.key).map(|(kind, _)| kind)) {
            ("push", _) => self.push(crate::value::boolean(&value.into())?),
            ("load", _) if crate::value::boolean(&value.into())? => self.load(),
            (key, Some(Kind::Map)) => self.entry(key, one.sub.as_deref().unwrap_or(""), value),
            ("secret", _) if one.sub.is_some() => {
                let id = one.sub.as_deref().unwrap_or("");
                let word = format!("id={id},{value}");
                self.drop_secret(id);
                self.append("secret", vec![Value::Object(words::parse(Entry::Secret, &word))]);
            }
            (key, Some(Kind::List | Kind::Entries(_))) => {
                // These are never replaced by what is set.
                if replaces && !matches!(key, "annotations" | "attest" | "entitlements") {
                    self.set(key, Value::Array(Vec::new()));
                }
                let words = match kind_of(key) {
                    Some((Kind::Entries(entry), _)) => words::parse_all(entry, value),
                    _ => vec![value.into()],
                };
                self.append(key, words);
            }
            (key, Some(_)) => self.give(key, &value.into())?,
            (_, None) => {}
        }
        Ok(())
    }

    fn drop_secret(&mut self, id: &str) {
        if let Some(Value::Array(all)) = self.values.get_mut("secret") {
            all.retain(|secret| secret.get("id").and_then(Value::as_str) != Some(id));
        }
    }

    fn outputs(&mut self) -> &mut Vec<Value> {
        let all = self.values.entry("output").or_insert_with(|| Value::Array(Vec::new()));
        if !all.is_array() {
            *all = Value::Array(Vec::new());
        }
        all.as_array_mut().expect("it was made one")
    }

    /// Images go to the registry, or nothing does.
    fn push(&mut self, pushes: bool) {
        let outputs = self.outputs();
        let is = |output: &Value, kind: &str| output.get("type").is_some_and(|it| it == kind);
        if !pushes {
            outputs.retain(|output| !is(output, "registry"));
        }
        for output in outputs.iter_mut().filter(|output| is(output, "image")) {
            output["push"] = pushes.to_string().into();
        }
        if pushes && outputs.iter().all(|output| is(output, "docker")) {
            outputs.push(serde_json::json!({"push": "true", "type": "image"}));
        }
    }

    /// The store gets the image, too, unless the outputs are files.
    fn load(&mut self) {
        let outputs = self.outputs();
        let kind =
            |output: &Value| output.get("type").and_then(Value::as_str).unwrap_or("").to_owned();
        let is_there = |it: &Value| kind(it) == "docker" && it.get("dest").is_none();
        let images = ["docker", "image", "registry", "oci"];
        if !outputs.iter().any(is_there)
            && outputs.iter().all(|output| images.contains(&kind(output).as_str()))
        {
            outputs.push(serde_json::json!({"type": "docker"}));
        }
    }
}
