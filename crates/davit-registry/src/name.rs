//! A repository's name, as its path in URLs.

use std::{fmt, str::FromStr};

use davit_image::Repository;

/// Longest name in bytes: with host and `/`, clients take 255.
const LONGEST_BYTES: usize = 200;

/// Name of a repository on this registry: `alice/app`.
///
/// ```
/// use davit_registry::name::RepositoryName;
/// let name: RepositoryName = "alice/app".parse().unwrap();
/// assert_eq!(name.namespace(), Some("alice"));
/// assert!("Alice/app".parse::<RepositoryName>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName(String);

/// The text breaks the grammar of repository names (distribution-spec § Pulling manifests).
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "repository name must be lower-case words joined by `.`, `_`, `-` and `/`, at most 200 bytes"
)]
pub struct NameError;

impl RepositoryName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its first part, which is an account's name, when it has more than one.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.0.split_once('/').map(|(namespace, _)| namespace)
    }
}

impl FromStr for RepositoryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > LONGEST_BYTES || !Repository::is_path(text) {
            return Err(NameError);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_grammar() {
        for good in ["a", "a/b", "a.b/c_d/e__f/g--h", "0/1", &"a".repeat(200)] {
            assert_eq!(good.parse::<RepositoryName>().unwrap().to_string(), good);
        }
        let long = "a".repeat(201);
        for bad in ["", "/", "a/", "/a", "a//b", "A", "a/../b", "a/._", "a___b", "é", "a b", &long]
        {
            assert_eq!(bad.parse::<RepositoryName>(), Err(NameError), "{bad}");
        }
    }
}
