//! Patterns of references and of paths.

use std::{fmt, str::FromStr};

use regex::{Captures, Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use super::{LONGEST, RuleError};

/// Bytes that one compiled pattern may take.
const COMPILED_BYTES: usize = 256 << 10;

/// A name, or an expression between slashes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SourcePattern {
    text: String,
    regex: Option<Regex>,
}

impl SourcePattern {
    /// The whole match and its groups; `None` where it does not match.
    pub(super) fn groups(&self, name: &str) -> Option<Vec<String>> {
        let Some(regex) = &self.regex else {
            return (self.text == name).then(|| vec![name.to_owned()]);
        };
        let texts = |found: Captures<'_>| {
            let group = |group: Option<regex::Match<'_>>| {
                group.map(|group| group.as_str().to_owned()).unwrap_or_default()
            };
            found.iter().map(group).collect()
        };
        regex.captures(name).map(texts)
    }
}

impl FromStr for SourcePattern {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        if text.is_empty() || text.len() > LONGEST {
            return Err(RuleError::Text("the source", text.chars().take(40).collect()));
        }
        let inner = text.strip_prefix('/').and_then(|text| text.strip_suffix('/'));
        let regex = inner.map(|inner| compile(inner, text)).transpose()?;
        Ok(Self { text: text.to_owned(), regex })
    }
}

/// A path that may hold `*` (within a directory), `**` and `?`, of a file or of a directory with all
/// below; after a `!` what does not matter.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPattern {
    text: String,
    whole: Regex,
}

impl PathPattern {
    pub(super) fn is_exclusion(&self) -> bool {
        self.text.starts_with('!')
    }

    pub(super) fn is_match(&self, path: &str) -> bool {
        self.whole.is_match(path)
    }
}

impl FromStr for PathPattern {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let path = text.strip_prefix('!').unwrap_or(text).trim_matches('/');
        if path.is_empty() || text.len() > LONGEST {
            return Err(RuleError::Text("the path", text.chars().take(40).collect()));
        }
        let mut regex = "^".to_owned();
        let mut rest = path;
        while let Some(first) = rest.chars().next() {
            let (piece, length) = match first {
                _ if rest.starts_with("**/") => ("(?:.*/)?".to_owned(), 3),
                _ if rest.starts_with("**") => (".*".to_owned(), 2),
                '*' => ("[^/]*".to_owned(), 1),
                '?' => ("[^/]".to_owned(), 1),
                other => (regex::escape(&other.to_string()), other.len_utf8()),
            };
            regex += &piece;
            rest = &rest[length..];
        }
        let whole = compile(&format!("{regex}(?:/.*)?$"), text)?;
        Ok(Self { text: text.to_owned(), whole })
    }
}

fn compile(regex: &str, shown: &str) -> Result<Regex, RuleError> {
    let built = RegexBuilder::new(regex).size_limit(COMPILED_BYTES).build();
    built.map_err(|_| RuleError::Pattern(shown.to_owned()))
}

macro_rules! text {
    ($($kind:ty),*) => { $(
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.text)
            }
        }
        impl PartialEq for $kind {
            fn eq(&self, other: &Self) -> bool {
                self.text == other.text
            }
        }
        impl Eq for $kind {}
        impl From<$kind> for String {
            fn from(pattern: $kind) -> Self {
                pattern.text
            }
        }
        impl TryFrom<String> for $kind {
            type Error = RuleError;

            fn try_from(text: String) -> Result<Self, RuleError> {
                text.parse()
            }
        }
    )* };
}
text!(SourcePattern, PathPattern);
