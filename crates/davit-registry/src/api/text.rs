//! Texts with a grammar, as the API takes them.

use std::str::FromStr;

use davit_distribution::{Secret, wire::Scope};
use davit_image::{Digest, Tag};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::schema::{Grammar, Prose, Schema, Schemas, Within, input};
use crate::{
    auth::{AccountName, NameError, RepositoryGlob, accounts::Subject},
    events::{TagGlob, is_name},
    name::RepositoryName,
    settings::TagPattern,
};

/// One word of an account's name.
macro_rules! word {
    () => {
        "[a-z0-9]+(?:(?:_|__|-+)[a-z0-9]+)*"
    };
}

/// A part of a repository's name.
macro_rules! part {
    () => {
        "[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*"
    };
}

/// A part of a pattern of names: no three stars in a row.
macro_rules! piece {
    () => {
        "(?:(?:\\*{0,2}[a-z0-9._-])+\\*{0,2}|\\*{1,2})"
    };
}

/// Name of a user, organisation or robot.
pub(crate) type Account = super::schema::Text<AnyName>;

/// Name of an account; reserved words are refused later, as taken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AnyName(pub String);

impl FromStr for AnyName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.parse::<AccountName>() {
            Ok(_) | Err(NameError::Reserved(_)) => Ok(Self(text.to_owned())),
            Err(error) => Err(error),
        }
    }
}

impl std::fmt::Display for AnyName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Grammar for AnyName {
    const PATTERN: &'static str = concat!("^", word!(), "(?:\\+", word!(), ")?$");
    const LENGTH: (usize, usize) = (2, 64);
}

/// A name within an account: a robot's or a team's.
pub(crate) type Own = super::schema::Text<OwnName>;

/// Name of a robot or team, without its owner's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OwnName(pub String);

impl FromStr for OwnName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        // As long as with the shortest owner; with a longer one it may be refused later.
        format!("a+{text}").parse::<AnyName>().map(|_| Self(text.to_owned()))
    }
}

impl std::fmt::Display for OwnName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Grammar for OwnName {
    const PATTERN: &'static str = concat!("^", word!(), "$");
    const LENGTH: (usize, usize) = (1, 62);
}

impl Grammar for RepositoryName {
    const PATTERN: &'static str = concat!("^", part!(), "(?:/", part!(), ")*$");
    const LENGTH: (usize, usize) = (1, 200);
}

impl Grammar for Tag {
    const PATTERN: &'static str = "^[A-Za-z0-9_][A-Za-z0-9._-]*$";
    const LENGTH: (usize, usize) = (1, 128);
}

impl Grammar for Digest {
    const PATTERN: &'static str = "^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$";
    const LENGTH: (usize, usize) = (71, 135);
}

impl Grammar for RepositoryGlob {
    const PATTERN: &'static str = concat!("^", piece!(), "(?:/", piece!(), ")*$");
    const LENGTH: (usize, usize) = (1, 255);
}

/// Who gets a grant, in one word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Who(pub Subject);

impl FromStr for Who {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let name = |text: &str| {
            // Longer than any account's name it is the name of none, and found to be so.
            let is_word = text.parse::<RepositoryName>().is_ok() && !text.contains(['.', '/']);
            if is_word { Ok(text.to_owned()) } else { Err(NameError::Grammar(text.to_owned())) }
        };
        if text == "everyone" {
            return Ok(Self(Subject::Everyone));
        }
        if let Some(org) = text.strip_prefix("members:") {
            return Ok(Self(Subject::Members(name(org)?)));
        }
        Ok(Self(match text.split_once('/') {
            Some((org, team)) => Subject::Team(name(org)?, name(team)?),
            None => {
                text.split('+').take(3).try_for_each(|part| name(part).map(drop))?;
                let is_one = text.matches('+').count() < 2;
                let wrong = || NameError::Grammar(text.to_owned());
                Subject::Account(is_one.then(|| text.to_owned()).ok_or_else(wrong)?)
            }
        }))
    }
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Subject::Everyone => f.write_str("everyone"),
            Subject::Members(org) => write!(f, "members:{org}"),
            Subject::Team(org, team) => write!(f, "{org}/{team}"),
            Subject::Account(name) => f.write_str(name),
        }
    }
}

impl Grammar for Who {
    const PATTERN: &'static str = concat!(
        "^(?:everyone|members:",
        word!(),
        "|",
        word!(),
        "/",
        word!(),
        "|",
        word!(),
        "(?:\\+",
        word!(),
        ")?)$"
    );
    const LENGTH: (usize, usize) = (2, 129);
}

/// Declares names that are a text with a rule.
macro_rules! name {
    ($(#[doc = $doc:literal])+ $name:ident: $pattern:expr, $most:literal, $rule:expr) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub(crate) struct $name(pub String);

        impl FromStr for $name {
            type Err = &'static str;

            fn from_str(text: &str) -> Result<Self, &'static str> {
                let rule: fn(&str) -> bool = $rule;
                let is_one = !text.is_empty() && text.len() <= $most && rule(text);
                is_one.then(|| Self(text.to_owned())).ok_or(concat!("no ", stringify!($name)))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Grammar for $name {
            const PATTERN: &'static str = $pattern;
            const LENGTH: (usize, usize) = (1, $most);
        }
    };
}

name! {
    /// Name of a webhook or of a rule of replication, without its owner's.
    HookName: "^[a-z0-9._-]+$", 64, is_name
}

name! {
    /// Name of a mirror; one without a dot is refused later.
    MirrorName: concat!("^", part!(), "$"), 128,
    |text| !text.contains('/') && text.parse::<RepositoryName>().is_ok()
}

name! {
    /// Name of a variable.
    VariableName: "^[A-Za-z_][A-Za-z0-9_]*$", 128,
    |text| {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        text.bytes().all(is_word) && !text.starts_with(|c: char| c.is_ascii_digit())
    }
}

impl Grammar for TagGlob {
    const PATTERN: &'static str = "^[A-Za-z0-9_.*-]+$";
    const LENGTH: (usize, usize) = (1, 128);
}

/// A secret of 1 to so many characters, without NUL.
#[derive(Clone, Debug)]
pub(crate) struct SecretText<const MOST: usize>(pub Secret);

impl<'de, const MOST: usize> Deserialize<'de> for SecretText<MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() || text.contains('\0') || text.chars().nth(MOST).is_some() {
            let words = format!("a secret of 1 to {MOST} characters, without NUL, is wanted");
            return Err(serde::de::Error::custom(words));
        }
        Ok(Self(Secret::new(text)))
    }
}

impl<const MOST: usize> Schema for SecretText<MOST> {
    fn schema(_: &mut Schemas) -> Value {
        json!({
            "type": "string", "format": "password", "minLength": 1, "maxLength": MOST,
            "pattern": "^[^\\u0000]+$",
        })
    }
}

impl Schema for TagPattern {
    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "string", "maxLength": 256, "format": "regex" })
    }
}

/// A new password: 8 to 1024 bytes.
#[derive(Clone, Debug)]
pub(crate) struct Password(pub Secret);

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let length = text.chars().count();
        if !(8..=256).contains(&length) {
            return Err(serde::de::Error::custom("a password has 8 to 256 characters"));
        }
        Ok(Self(Secret::new(text)))
    }
}

impl Schema for Password {
    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "string", "format": "password", "minLength": 8, "maxLength": 256 })
    }
}

/// To what a token is limited: `repository:NAME:ACTIONS`, `registry:catalog:*`.
#[derive(Clone, Debug)]
pub(crate) struct ScopeText(pub Scope);

impl<'de> Deserialize<'de> for ScopeText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wanted = "repository:NAME:ACTIONS or registry:catalog:* is wanted";
        let is_known = text.starts_with("repository:") || text == "registry:catalog:*";
        let scope: Option<Scope> = text.parse().ok().filter(|_| is_known && text.len() <= 255);
        let name = scope.as_ref().map(Scope::name).unwrap_or_default();
        if text.starts_with("repository:") && name.parse::<RepositoryGlob>().is_err() {
            return Err(serde::de::Error::custom(wanted));
        }
        scope.map(Self).ok_or_else(|| serde::de::Error::custom(wanted))
    }
}

impl Schema for ScopeText {
    fn schema(_: &mut Schemas) -> Value {
        let actions = "(?:pull|push|create|delete|admin|\\*)";
        let name = concat!(piece!(), "(?:/", piece!(), ")*");
        let pattern =
            format!("^(?:registry:catalog:\\*|repository:{name}:{actions}(?:,{actions}){{0,5}})$");
        json!({ "type": "string", "pattern": pattern, "maxLength": 255 })
    }
}

/// Entries of a page.
pub(crate) type Most = Within<1, 1000>;
/// Usual entries of a page.
const USUAL: usize = 100;

/// How many entries a page has.
pub(crate) fn most(limit: Option<Most>) -> usize {
    limit.map_or(USUAL, |limit| usize::try_from(limit.0).unwrap_or(USUAL))
}

input! {
    /// Which page of a list.
    Paging {} maybe {
        /// Entries of the page; 100 if absent.
        limit: Most,
        /// The `next` of the page before.
        after: Prose<255>,
    }
}

input! {
    /// Which page of a list whose newest entry is first.
    LogPaging {} maybe {
        /// Entries of the page; 100 if absent.
        limit: Most,
        /// The `next` of the page before: the number of its last entry.
        after: Within<1, { i64::MAX as u64 }>,
    }
}

impl LogPaging {
    /// A page of so many entries before a number, which is no number on the first.
    pub(crate) fn new(limit: u64, after: &str) -> Self {
        Self { limit: Some(Most::new(limit)), after: after.parse().ok().map(Within::new) }
    }

    pub(crate) fn most(&self) -> usize {
        most(self.limit)
    }

    /// The number before which the page begins.
    pub(crate) fn before(&self) -> u64 {
        self.after.map_or(i64::MAX as u64, |after| after.0)
    }
}

impl Paging {
    /// A page of so many entries after a name.
    pub(crate) fn new(limit: u64, after: &str) -> Self {
        let after = Some(after.to_owned()).filter(|after| !after.is_empty());
        Self { limit: Some(Most::new(limit)), after: after.map(Prose) }
    }

    pub(crate) fn most(&self) -> usize {
        most(self.limit)
    }

    pub(crate) fn after(&self) -> &str {
        self.after.as_ref().map_or("", |after| &after.0)
    }
}
