//! What the owner of a repository sets: tags that never move, and which tags are kept how long.
//!
//! Kept as JSON in `repo.settings`:
//!
//! ```
//! use davit_registry::settings::RepositorySettings;
//! let text = r#"{
//!     "immutable_tags": ["v[0-9].*"],
//!     "retention": [
//!         {"tags": "pr-[0-9]+", "pushed_within_days": 14},
//!         {"tags": ".*", "newest": 20, "pulled_within_days": 30, "semver_newest": 3, "semver_per": "minor"}
//!     ]
//! }"#;
//! let settings: RepositorySettings = text.parse().unwrap();
//! assert!(settings.is_immutable("v1.0"));
//! assert!(!settings.is_immutable("dev-v1.0"));
//! ```

use std::{fmt, str::FromStr};

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize, Serializer};

use crate::{
    api::schema::present,
    auth::audit::{self, Actor, Entry},
    db::{Connection, Database, DbError, Lock, Transaction, values},
    name::RepositoryName,
};

/// Patterns, and rules, of one repository.
const MOST: usize = 32;
/// Bytes of one pattern.
const LONGEST_PATTERN: usize = 256;
/// Bytes that one compiled pattern may take.
const COMPILED_BYTES: usize = 256 << 10;
/// Days of a rule: ten thousand years would overflow nothing, and mean nothing.
const MOST_DAYS: u32 = 36_500;

/// Settings of one repository.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RepositorySettings {
    /// Tags that can be made, and then neither moved nor removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub immutable_tags: Vec<TagPattern>,
    /// What keeps a tag: see [`judge`](crate::retention::judge).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retention: Vec<RetentionRule>,
    /// Whether manifests stay that no tag, index or subject holds any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_untagged: bool,
    /// Manifests that nothing holds stay while they were pulled within so many days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_pulled_days: Option<u32>,
    /// Settings of later versions, kept as they are.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// The tags that one rule speaks of, and what keeps each.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionRule {
    /// Which tags.
    pub tags: TagPattern,
    /// As many of the newest by time of push.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub newest: Option<u32>,
    /// Those pushed within so many days.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub pushed_within_days: Option<u32>,
    /// Those pulled within so many days.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub pulled_within_days: Option<u32>,
    /// As many of the highest semantic versions, of each group that `semver_per` makes.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub semver_newest: Option<u32>,
    /// What makes a group.
    #[serde(default)]
    pub semver_per: SemverGroup,
}

/// Which versions are counted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SemverGroup {
    /// All.
    #[default]
    All,
    /// Those of a major version.
    Major,
    /// Those of a minor version.
    Minor,
}

/// A regular expression that a whole tag matches.
#[derive(Clone, Debug)]
pub struct TagPattern {
    text: String,
    whole: Regex,
}

/// Why settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// They are not such JSON.
    #[error("cannot read the settings of the repository")]
    Json(#[from] serde_json::Error),
    /// There are too many patterns or rules.
    #[error("a repository has at most {MOST} rules of a kind")]
    TooMany,
    /// A rule of retention that keeps nothing would remove all its tags.
    #[error("the rule for `{0}` says nothing that keeps a tag")]
    KeepsNothing(String),
    /// A number of days is out of range.
    #[error("the rule for `{0}` has more than {MOST_DAYS} days")]
    Days(String),
    /// There is no such repository.
    #[error("there is no repository `{0}`")]
    Unknown(RepositoryName),
    /// The database's.
    #[error(transparent)]
    Database(#[from] DbError),
}

impl RepositorySettings {
    /// Tells whether a tag may be made only once.
    #[must_use]
    pub fn is_immutable(&self, tag: &str) -> bool {
        self.immutable_tags.iter().any(|pattern| pattern.matches(tag))
    }

    fn check(&self) -> Result<(), SettingsError> {
        if self.immutable_tags.len() > MOST || self.retention.len() > MOST {
            return Err(SettingsError::TooMany);
        }
        self.retention.iter().try_for_each(RetentionRule::check)
    }
}

impl FromStr for RepositorySettings {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        let settings: Self = serde_json::from_str(text)?;
        settings.check()?;
        Ok(settings)
    }
}

impl RetentionRule {
    fn check(&self) -> Result<(), SettingsError> {
        let days = [self.pushed_within_days, self.pulled_within_days];
        let counts = [self.newest, self.semver_newest];
        if days.iter().chain(&counts).all(Option::is_none) {
            return Err(SettingsError::KeepsNothing(self.tags.to_string()));
        }
        if days.into_iter().flatten().any(|days| days > MOST_DAYS) {
            return Err(SettingsError::Days(self.tags.to_string()));
        }
        Ok(())
    }
}

impl TagPattern {
    /// Tells whether the whole tag matches.
    #[must_use]
    pub fn matches(&self, tag: &str) -> bool {
        self.whole.is_match(tag)
    }
}

impl FromStr for TagPattern {
    type Err = regex::Error;

    fn from_str(text: &str) -> Result<Self, regex::Error> {
        if text.len() > LONGEST_PATTERN {
            return Err(regex::Error::CompiledTooBig(LONGEST_PATTERN));
        }
        // Alone first, so that `a)(b` cannot reach out of the group around it.
        build(text)?;
        Ok(Self { text: text.to_owned(), whole: build(&format!("^(?:{text})$"))? })
    }
}

fn build(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text).size_limit(COMPILED_BYTES).dfa_size_limit(COMPILED_BYTES).build()
}

impl fmt::Display for TagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for TagPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for TagPattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The settings of a repository.
///
/// # Errors
/// [`SettingsError::Unknown`], [`SettingsError::Json`] if a later version wrote them, or the database's.
pub async fn repository_settings(
    database: &Database,
    repository: &RepositoryName,
) -> Result<RepositorySettings, SettingsError> {
    stored(&mut database.reader().await?, repository).await
}

async fn stored(
    connection: &mut Connection,
    repository: &RepositoryName,
) -> Result<RepositorySettings, SettingsError> {
    let sql = "SELECT settings FROM repo WHERE path = $1";
    let row = connection.row(sql, values![repository.as_str()]).await?;
    let row = row.ok_or_else(|| SettingsError::Unknown(repository.clone()))?;
    row.get::<String>(0)?.parse()
}

/// What is set of a repository's settings; what is absent stays.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettingsChange {
    /// Instead of [`RepositorySettings::immutable_tags`].
    pub immutable_tags: Option<Vec<TagPattern>>,
    /// Instead of [`RepositorySettings::retention`].
    pub retention: Option<Vec<RetentionRule>>,
    /// Instead of [`RepositorySettings::keep_untagged`].
    pub keep_untagged: Option<bool>,
    /// Instead of [`RepositorySettings::keep_pulled_days`].
    pub keep_pulled_days: Option<u32>,
}

/// Changes settings of a repository.
#[derive(Clone, Debug)]
pub struct SetSettings {
    /// Who does it.
    pub by: Actor,
    /// Which repository.
    pub repository: RepositoryName,
    /// What becomes other.
    pub change: SettingsChange,
}

impl Transaction for SetSettings {
    type Output = ();
    type Error = SettingsError;

    async fn run(&self, connection: &mut Connection) -> Result<(), SettingsError> {
        let path = self.repository.as_str();
        // Who changes other settings at the same time loses none of them.
        let sql = "SELECT id FROM repo WHERE path = $1";
        connection.rows_locked(sql, values![path], Lock::NoKeyUpdate).await?;
        let mut settings = stored(connection, &self.repository).await?;
        let change = self.change.clone();
        settings.immutable_tags = change.immutable_tags.unwrap_or(settings.immutable_tags);
        settings.retention = change.retention.unwrap_or(settings.retention);
        settings.keep_untagged = change.keep_untagged.unwrap_or(settings.keep_untagged);
        settings.keep_pulled_days = change.keep_pulled_days.or(settings.keep_pulled_days);
        let text = serde_json::to_string(&settings)?;
        // Read once more, with all its checks, as it will be read by the collector.
        text.parse::<RepositorySettings>()?;
        let sql = "UPDATE repo SET settings = $1 WHERE path = $2";
        connection.execute(sql, values![&text, path]).await?;
        let entry = Entry { action: "repo.settings", object: path, detail: &text };
        Ok(audit::append(connection, &self.by, entry).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_tags() {
        let cases = [("v1|v2", "v1", true), ("v1|v2", "v1x", false), ("v1|v2", "xv2", false)];
        for (pattern, tag, expected) in cases {
            assert_eq!(pattern.parse::<TagPattern>().unwrap().matches(tag), expected, "{pattern}");
        }
        // The last one repeats to a program of many megabytes.
        for bad in ["(", "a)(b", &"a".repeat(257), "((a{100}){100}){100}"] {
            assert!(bad.parse::<TagPattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn settings_that_mean_nothing_are_refused() {
        let many = format!(r#"{{"immutable_tags":[{}"a"]}}"#, r#""a","#.repeat(32));
        for bad in [
            "[]",
            &many,
            r#"{"immutable_tags":["("]}"#,
            r#"{"retention":[{"tags":".*"}]}"#,
            r#"{"retention":[{"tags":".*","newest":-1}]}"#,
            r#"{"retention":[{"tags":".*","newest":1,"oldest":1}]}"#,
            r#"{"retention":[{"tags":".*","pushed_within_days":36501}]}"#,
        ] {
            assert!(bad.parse::<RepositorySettings>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_known_survives() {
        let text = r#"{"immutable_tags":["v.*"],"later":{"a":[1]}}"#;
        let settings: RepositorySettings = text.parse().unwrap();
        assert_eq!(serde_json::to_string(&settings).unwrap(), text);
    }
}
