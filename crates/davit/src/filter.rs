//! `--filter key=value`, as Docker's lists and prunes understand it.

use std::collections::BTreeMap;

use davit_engine::image::Timestamp;

use crate::error::CliError;

/// The filters of one command line; values of one key are alternatives, keys add up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filters(BTreeMap<String, Vec<String>>);

/// A condition on a label: its name, and its value if that matters.
pub(crate) type LabelCondition = (String, Option<String>);

/// What `--help` says of a filter with these keys.
pub(crate) fn help(keys: &[&str]) -> String {
    format!("Only what fits: {}", keys.join(", "))
}

impl Filters {
    /// Reads the words behind `--filter`; only `keys` are known to the verb.
    ///
    /// # Errors
    /// A word without `=`, or a key that the verb does not know.
    pub(crate) fn parse(words: &[String], keys: &[&str]) -> Result<Self, CliError> {
        let mut filters = BTreeMap::<String, Vec<String>>::new();
        for word in words {
            let Some((key, value)) = word.split_once('=') else {
                return Err(CliError::usage(format!(
                    "invalid argument \"{word}\" for \"-f, --filter\" flag: bad format of filter (expected name=value)"
                )));
            };
            // `label!=x` is split behind the `!`.
            let key = key.trim().to_lowercase();
            if !keys.contains(&key.as_str()) {
                return Err(CliError::user(format!("invalid filter '{key}'"))
                    .hint(format!("known filters: {}", keys.join(", "))));
            }
            filters.entry(key).or_default().push(value.trim().to_owned());
        }
        Ok(Self(filters))
    }

    /// Values of one key; empty where it was not given.
    pub(crate) fn values(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether `accepts` holds for one of a key's values, or the key was not given.
    pub(crate) fn any(&self, key: &str, accepts: impl FnMut(&String) -> bool) -> bool {
        let values = self.values(key);
        values.is_empty() || values.iter().any(accepts)
    }

    /// A key whose value is `true` or `false`.
    ///
    /// # Errors
    /// Any other value.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, CliError> {
        let mut found = None;
        for value in self.values(key) {
            found = match value.as_str() {
                "true" | "1" => Some(true),
                "false" | "0" => Some(false),
                _ => return Err(CliError::user(format!("invalid filter '{key}={value}'"))),
            };
        }
        Ok(found)
    }

    /// Conditions of `label=` (or `label!=`).
    pub(crate) fn labels(&self, key: &str) -> Vec<LabelCondition> {
        self.values(key)
            .iter()
            .map(|value| match value.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (value.clone(), None),
            })
            .collect()
    }

    /// Whether labels fulfil every `label=`, and not every `label!=`.
    pub(crate) fn fit_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let without = self.labels("label!");
        has_labels(labels, &self.labels("label"))
            && (without.is_empty() || !has_labels(labels, &without))
    }

    /// The time that `until=` names: RFC 3339, seconds since 1970, or a span before now.
    ///
    /// # Errors
    /// Any other text.
    pub(crate) fn until(&self) -> Result<Option<Timestamp>, CliError> {
        self.values("until").last().map(|text| point_in_time(text)).transpose()
    }
}

/// Whether labels fulfil all conditions.
pub(crate) fn has_labels(labels: &BTreeMap<String, String>, conditions: &[LabelCondition]) -> bool {
    conditions.iter().all(|(name, value)| {
        labels.get(name).is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
    })
}

/// Reads a time as Docker's filters write it.
pub(crate) fn point_in_time(text: &str) -> Result<Timestamp, CliError> {
    let invalid = || CliError::user(format!("invalid time `{text}`"));
    if let Some(span) = go_duration(text) {
        return Timestamp::from_unix_seconds(Timestamp::now().unix_seconds() - span)
            .map_err(|_| invalid());
    }
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    if let Ok(seconds) = text.split('.').next().unwrap_or(text).parse() {
        return Timestamp::from_unix_seconds(seconds).map_err(|_| invalid());
    }
    // `2024-01-31` and `2024-01-31T10:00:00` are in UTC here.
    let full = if text.contains('T') { format!("{text}Z") } else { format!("{text}T00:00:00Z") };
    full.parse().map_err(|_| invalid().hint("for example 24h, 2024-01-31 or 2024-01-31T10:00:00Z"))
}

/// Whole seconds of Go's `1h30m`; `None` for another form.
fn go_duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 0.001,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    #[allow(clippy::cast_possible_truncation, reason = "whole seconds are meant")]
    (!text.is_empty()).then_some(total as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Filters, CliError> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        Filters::parse(&words, &["label", "label!", "until", "dangling"])
    }

    #[test]
    fn reads_what_docker_reads() {
        let filters = parse(&["label=a", "label=b=c", "label!=d", "dangling=true"]).unwrap();
        assert_eq!(
            filters.labels("label"),
            [("a".to_owned(), None), ("b".to_owned(), Some("c".to_owned()))]
        );
        assert_eq!(filters.labels("label!"), [("d".to_owned(), None)]);
        assert_eq!(filters.flag("dangling").unwrap(), Some(true));
        assert!(parse(&["label"]).is_err());
        assert!(parse(&["color=red"]).is_err());
        assert!(parse(&["dangling=maybe"]).unwrap().flag("dangling").is_err());
    }

    #[test]
    fn labels_add_up() {
        let labels = [("a", "1"), ("b", "")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let labels = labels.into_iter().collect();
        for (words, expected) in [
            (&["label=a=1", "label=b"][..], true),
            (&["label=a=2"], false),
            (&["label=a", "label=c"], false),
            (&["label!=a=1"], false),
            (&["label!=a=2"], true),
            (&["label!=a", "label!=c"], true),
        ] {
            assert_eq!(parse(words).unwrap().fit_labels(&labels), expected, "{words:?}");
        }
    }

    #[test]
    fn reads_times() {
        let now = Timestamp::now().unix_seconds();
        let cases = [
            ("1h30m", now - 5400),
            ("90s", now - 90),
            ("0", 0),
            ("1700000000", 1_700_000_000),
            ("2024-01-31", 1_706_659_200),
            ("2024-01-31T10:00:00", 1_706_695_200),
            ("2024-01-31T10:00:00Z", 1_706_695_200),
        ];
        for (text, expected) in cases {
            let found = point_in_time(text).unwrap().unix_seconds();
            assert!((found - expected).abs() <= 2, "{text}: {found} {expected}");
        }
        for text in ["", "yesterday", "1x"] {
            assert!(point_in_time(text).is_err(), "{text}");
        }
    }
}
