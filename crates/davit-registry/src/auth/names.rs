//! Names of accounts, and those that nobody gets.

use std::{fmt, str::FromStr};

/// Longest name: room is left for a repository of 255 bytes in all.
const LONGEST: usize = 64;

/// Pages and interfaces of the server itself, and names that mean something to clients.
///
/// Dots are not in an account's name at all, so that no one can take the name of a registry that
/// paths of mirrors begin with (`docker.io/library/alpine`).
const RESERVED: &[&str] = &[
    "about",
    "account",
    "accounts",
    "admin",
    "anonymous",
    "api",
    "assets",
    "audit",
    "blobs",
    "build",
    "builds",
    "catalog",
    "davit",
    "everyone",
    "explore",
    "favicon",
    "healthz",
    "help",
    "hooks",
    "invite",
    "jobs",
    "library",
    "localhost",
    "login",
    "logout",
    "manifests",
    "me",
    "metrics",
    "new",
    "oauth",
    "oauth2accesstoken",
    "oidc",
    "org",
    "organisation",
    "organisations",
    "organization",
    "organizations",
    "orgs",
    "readyz",
    "referrers",
    "registry",
    "repo",
    "repositories",
    "repository",
    "robot",
    "robots",
    "search",
    "sessions",
    "settings",
    "signin",
    "signup",
    "static",
    "status",
    "system",
    "tags",
    "team",
    "teams",
    "token",
    "tokens",
    "uploads",
    "usage",
    "user",
    "users",
    "v1",
    "v2",
    "v3",
    "webhook",
    "webhooks",
];

/// Name of a user or organisation, or of a robot: then `OWNER+NAME`.
///
/// It is the first component of the repositories that belong to it; a robot has none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountName(String);

/// Why a text is no account's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text breaks the grammar.
    #[error("`{0}` is no account name (2 to 64 lower-case letters, digits, and - _ between them)")]
    Grammar(String),
    /// The server or its clients use the name.
    #[error("the name `{0}` is reserved")]
    Reserved(String),
}

/// Tells whether nobody may have this name or namespace.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    RESERVED.binary_search(&name).is_ok()
}

impl AccountName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Names a robot of this account.
    ///
    /// # Errors
    /// `name` breaks the grammar, or this is a robot itself.
    pub fn robot(&self, name: &str) -> Result<Self, NameError> {
        format!("{}+{name}", self.0).parse()
    }

    /// The account to which a robot belongs; `None` for others.
    #[must_use]
    pub fn robot_owner(&self) -> Option<&str> {
        self.0.split_once('+').map(|(owner, _)| owner)
    }
}

fn is_component(text: &str) -> bool {
    let is_word = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    let (first, last) = (text.bytes().next(), text.bytes().next_back());
    first.is_some_and(is_word)
        && last.is_some_and(is_word)
        && text.bytes().all(|b| is_word(b) || matches!(b, b'-' | b'_'))
        // Repository names know one or two underscores and no other pairs of separators.
        && !["___", "-_", "_-"].iter().any(|run| text.contains(run))
}

impl FromStr for AccountName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (owner, robot) =
            text.split_once('+').map_or((text, None), |(owner, robot)| (owner, Some(robot)));
        let is_good = (2..=LONGEST).contains(&text.len())
            && is_component(owner)
            && robot.is_none_or(is_component);
        if !is_good {
            return Err(NameError::Grammar(text.chars().take(LONGEST).collect()));
        }
        if is_reserved(owner) {
            return Err(NameError::Reserved(owner.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_components_of_repositories_without_dots() {
        for text in ["alice", "a1", "a-b", "a--b", "a_b", "a__b", "0x", "acme+ci", "acme+ci-2"] {
            assert_eq!(text.parse::<AccountName>().unwrap().to_string(), text);
        }
        let long = "a".repeat(65);
        for text in [
            "",
            "a",
            "Alice",
            "-a",
            "a-",
            "_a",
            "a.b",
            "docker.io",
            "a/b",
            "a___b",
            "a-_b",
            "a b",
            "a\0",
            "ä1",
            "+ci",
            "acme+",
            "acme+ci+x",
            "a:b",
            &long,
        ] {
            assert!(matches!(text.parse::<AccountName>(), Err(NameError::Grammar(_))), "{text:?}");
        }
    }

    #[test]
    fn reserved_names_are_sorted_and_refused() {
        assert!(RESERVED.is_sorted());
        for text in ["library", "v2", "admin", "token", "admin+ci"] {
            assert!(matches!(text.parse::<AccountName>(), Err(NameError::Reserved(_))), "{text}");
        }
    }

    #[test]
    fn robots_belong_to_an_account() {
        let acme: AccountName = "acme".parse().unwrap();
        let robot = acme.robot("ci").unwrap();
        assert_eq!((robot.as_str(), robot.robot_owner()), ("acme+ci", Some("acme")));
        assert_eq!(acme.robot_owner(), None);
        assert!(robot.robot("x").is_err());
    }
}
