//! `--log-opt labels`, `labels-regex`, `env`, `env-regex` and `tag`: fields of every line of a log.

use std::collections::BTreeMap;

use davit_runtime::monitor::log::LogConfig;
use regex::Regex;

use super::{Container, ContainerError};
use crate::Engine;

/// Characters of an abbreviated id.
const SHORT: usize = 12;

/// Refuses patterns and tags that mean nothing.
///
/// # Errors
/// [`ContainerError::Invalid`].
pub(super) fn check(options: &BTreeMap<String, String>) -> Result<(), ContainerError> {
    for key in ["labels-regex", "env-regex"] {
        pattern(options, key)?;
    }
    match options.get("tag") {
        Some(tag) => expand(tag, |_| Some(String::new())).map(drop),
        None => Ok(()),
    }
}

impl Engine {
    /// How a container's output is kept, with the fields of its lines.
    pub(super) fn log_config(&self, container: &Container) -> Result<LogConfig, ContainerError> {
        let options = &container.spec.log_options;
        let mut log = container.spec.log.clone();
        if let Some(tag) = options.get("tag").filter(|tag| !tag.is_empty()) {
            log.attributes.insert("tag".to_owned(), self.tag(tag, container)?);
        }
        let config = &container.spec.config;
        let labels = config.labels.iter().flatten();
        let labels = labels.map(|(name, value)| (name.as_str(), value.as_str()));
        log.attributes.extend(chosen(options, "labels", labels)?);
        let variables = config.env.iter().flatten().filter_map(|pair| pair.split_once('='));
        log.attributes.extend(chosen(options, "env", variables)?);
        Ok(log)
    }

    fn tag(&self, tag: &str, container: &Container) -> Result<String, ContainerError> {
        let short = |id: &str| id.chars().take(SHORT).collect::<String>();
        let image_id = container.image_id.map(|id| id.to_string()).unwrap_or_default();
        expand(tag, |field| {
            Some(match field {
                "ID" => short(&container.id),
                "FullID" => container.id.clone(),
                "Name" => container.name.clone(),
                "ImageID" => short(image_id.rsplit(':').next().unwrap_or_default()),
                "ImageFullID" => image_id.clone(),
                "ImageName" => container.spec.image.clone(),
                "DaemonName" => "davit".to_owned(),
                _ => return None,
            })
        })
    }
}

/// Those pairs that `key` lists and `key-regex` matches.
fn chosen<'a>(
    options: &BTreeMap<String, String>,
    key: &str,
    pairs: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Vec<(String, String)>, ContainerError> {
    let listed: Vec<&str> = options.get(key).map_or("", String::as_str).split(',').collect();
    let pattern = pattern(options, &format!("{key}-regex"))?;
    let wanted = |name: &str| {
        listed.contains(&name) || pattern.as_ref().is_some_and(|pattern| pattern.is_match(name))
    };
    let pairs = pairs.filter(|(name, _)| wanted(name));
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

fn pattern(options: &BTreeMap<String, String>, key: &str) -> Result<Option<Regex>, ContainerError> {
    let Some(text) = options.get(key).filter(|text| !text.is_empty()) else { return Ok(None) };
    let pattern = Regex::new(text);
    pattern.map(Some).map_err(|error| ContainerError::Invalid(format!("log opt {key}: {error}")))
}

/// Docker's fields, the only ones, are no template language's worth.
const FIELDS: [&str; 7] =
    ["ID", "FullID", "Name", "ImageID", "ImageFullID", "ImageName", "DaemonName"];

/// Replaces `{{.Field}}`.
fn expand(tag: &str, value: impl Fn(&str) -> Option<String>) -> Result<String, ContainerError> {
    let invalid = |part: &str| {
        let known = FIELDS.join(", .");
        ContainerError::Invalid(format!("log opt tag: {{{{{part}}}}}: known are .{known}"))
    };
    let (mut expanded, mut rest) = (String::new(), tag);
    while let Some((before, after)) = rest.split_once("{{") {
        let (part, after) = after.split_once("}}").ok_or_else(|| invalid(after))?;
        let field = part.trim().strip_prefix('.').filter(|field| FIELDS.contains(field));
        expanded.push_str(before);
        expanded.push_str(&field.and_then(&value).ok_or_else(|| invalid(part))?);
        rest = after;
    }
    Ok(expanded + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_expand() {
        let value = |field: &str| Some(field.to_lowercase());
        assert_eq!(expand("a-{{.Name}}/{{ .ID }}-b", value).unwrap(), "a-name/id-b");
        assert_eq!(expand("plain", value).unwrap(), "plain");
        for bad in ["{{.Bogus}}", "{{.Name", "{{Name}}", "{{}}"] {
            assert!(expand(bad, value).is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_and_patterns_choose() {
        let options = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let pairs = [("one", "1"), ("two", "2"), ("three", "3")];
        let names = |options: &BTreeMap<String, String>| -> Vec<String> {
            let chosen = chosen(options, "env", pairs.into_iter()).unwrap();
            chosen.into_iter().map(|(name, _)| name).collect()
        };
        assert!(names(&options(&[])).is_empty());
        assert_eq!(names(&options(&[("env", "two,none")])), ["two"]);
        assert_eq!(
            names(&options(&[("env", "one"), ("env-regex", "^t")])),
            ["one", "two", "three"]
        );
        assert!(check(&options(&[("env-regex", "(")])).is_err());
    }
}
