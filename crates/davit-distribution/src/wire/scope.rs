//! Scopes of tokens: `type:name:action[,action…]` (distribution `auth/scope.md`).

use std::{collections::BTreeSet, fmt, str::FromStr};

/// What a token allows on one resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    kind: String,
    name: String,
    actions: BTreeSet<String>,
}

/// Why a text is no scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no scope of the form type:name:actions")]
pub struct ScopeError(pub String);

impl Scope {
    /// Names actions on a repository by its path: `pull`, `push`, `delete`, `*`.
    #[must_use]
    pub fn repository(path: &str, actions: &[&str]) -> Self {
        Self {
            kind: "repository".to_owned(),
            name: path.to_owned(),
            actions: actions.iter().map(|action| (*action).to_owned()).collect(),
        }
    }

    /// The list of repositories.
    #[must_use]
    pub fn catalog() -> Self {
        Self {
            kind: "registry".to_owned(),
            name: "catalog".to_owned(),
            actions: BTreeSet::from(["*".to_owned()]),
        }
    }

    /// Type of the resource: `repository` or `registry`; may carry a class in parentheses.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Name of the resource.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What may be done with it.
    #[must_use]
    pub const fn actions(&self) -> &BTreeSet<String> {
        &self.actions
    }

    /// Reads a space-separated list; malformed members are an error.
    ///
    /// # Errors
    /// [`ScopeError`] with the first malformed member.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, ScopeError> {
        text.split(' ').filter(|part| !part.is_empty()).map(str::parse).collect()
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let error = || ScopeError(text.chars().take(300).collect());
        // The name may hold colons (a host with its port), the other parts may not.
        let (kind, rest) = text.split_once(':').ok_or_else(error)?;
        let (name, actions) = rest.rsplit_once(':').ok_or_else(error)?;
        let good = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_graphic());
        if !good(kind) || !good(name) || !actions.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(error());
        }
        let actions = actions.split(',').filter(|a| !a.is_empty()).map(str::to_owned).collect();
        Ok(Self { kind: kind.to_owned(), name: name.to_owned(), actions })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.kind, self.name)?;
        // Some servers take `push` alone for an error: `pull` goes first, as Docker writes it.
        let mut separator = "";
        for action in &self.actions {
            write!(f, "{separator}{action}")?;
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_refuses() {
        for text in [
            "repository:library/alpine:pull",
            "repository:a:pull,push",
            "registry:catalog:*",
            "repository:host:5000/a:pull",
            "repository(plugin):a/b:pull",
            "repository:a:",
        ] {
            assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
        }
        for text in ["", "repository", "repository:a", "::pull", "repository:a b:pull", ":a:pull"] {
            assert!(text.parse::<Scope>().is_err(), "{text}");
        }
        assert_eq!(Scope::repository("a", &["push", "pull"]).to_string(), "repository:a:pull,push");
        assert_eq!(Scope::parse_list("repository:a:pull  registry:catalog:*").unwrap().len(), 2);
    }
}
