//! What can be done with a repository, and the roles that bundle it.

use std::{collections::BTreeSet, fmt, str::FromStr};

/// One thing that can be done with a repository.
///
/// Authorisation goes by the *effect*: writing a tag that exists already, with another manifest,
/// is [`Self::MoveTag`], whichever route and method it came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Reading blobs, manifests, tags, referrers.
    Pull,
    /// Adding blobs and manifests by digest.
    Push,
    /// Naming a manifest by a tag that is free.
    CreateTag,
    /// Giving a tag to another manifest.
    MoveTag,
    /// Removing a tag.
    DeleteTag,
    /// Removing a manifest.
    DeleteManifest,
    /// Removing a blob.
    DeleteBlob,
    /// Retention, immutable tags, undo.
    ChangeSettings,
    /// Visibility, grants, removal of the repository.
    ChangeAccess,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 9] = [
        Self::Pull,
        Self::Push,
        Self::CreateTag,
        Self::MoveTag,
        Self::DeleteTag,
        Self::DeleteManifest,
        Self::DeleteBlob,
        Self::ChangeSettings,
        Self::ChangeAccess,
    ];

    /// The action that a token's scope must name for it (distribution `auth/scope.md`).
    #[must_use]
    pub const fn scope_word(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push | Self::CreateTag | Self::MoveTag => "push",
            Self::DeleteTag | Self::DeleteManifest | Self::DeleteBlob => "delete",
            Self::ChangeSettings | Self::ChangeAccess => "admin",
        }
    }
}

/// A set of actions.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rights(u16);

impl Rights {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Everything.
    pub const ALL: Self = Self::of(&Action::ALL);
    const PULL: Self = Self::of(&[Action::Pull]);
    const CREATE: Self = Self::of(&[Action::Push, Action::CreateTag]);
    const PUSH: Self = Self::CREATE.or(Self::of(&[Action::MoveTag]));
    const DELETE: Self = Self::of(&[Action::DeleteTag, Action::DeleteManifest, Action::DeleteBlob]);
    const MANAGE: Self = Self::of(&[Action::ChangeSettings, Action::ChangeAccess]);

    /// The words of scopes. `create` is this registry's own: `push` that moves no tag.
    const WORDS: [(&'static str, Self); 5] = [
        ("pull", Self::PULL),
        ("push", Self::PUSH),
        ("create", Self::CREATE),
        ("delete", Self::DELETE),
        ("admin", Self::MANAGE),
    ];

    /// These actions.
    #[must_use]
    pub const fn of(actions: &[Action]) -> Self {
        let mut bits = 0;
        let mut at = 0;
        while at < actions.len() {
            bits |= 1 << actions[at] as u16;
            at += 1;
        }
        Self(bits)
    }

    /// What the words of a scope allow; words that mean nothing here allow nothing.
    #[must_use]
    pub fn of_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        words.into_iter().fold(Self::NONE, |rights, word| match word {
            "*" => Self::ALL,
            word => Self::WORDS
                .iter()
                .find(|(known, _)| *known == word)
                .map_or(rights, |(_, named)| rights.or(*named)),
        })
    }

    /// The words that describe the set: each is there only if all that it means is held.
    #[must_use]
    pub fn words(self) -> BTreeSet<String> {
        let held = Self::WORDS.iter().filter(|(_, rights)| self.and(*rights) == *rights);
        // `push` says all that `create` says.
        let words =
            held.filter(|(word, _)| *word != "create" || self.and(Self::PUSH) != Self::PUSH);
        words.map(|(word, _)| (*word).to_owned()).collect()
    }

    /// Without moving tags, as a robot that only ever adds.
    #[must_use]
    pub const fn adding_only(self) -> Self {
        Self(self.0 & !Self::of(&[Action::MoveTag]).0)
    }

    /// Tells whether the action is in it.
    #[must_use]
    pub const fn allows(self, action: Action) -> bool {
        self.0 & Self::of(&[action]).0 != 0
    }

    /// What is in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in one or the other.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Tells whether nothing is in it.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(Action::ALL.into_iter().filter(|action| self.allows(*action)))
            .finish()
    }
}

/// What someone is to a repository. Each role includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// May read.
    Pull,
    /// May write: blobs, manifests, tags.
    Push,
    /// May remove, undo, and set retention.
    Maintain,
    /// May set visibility and give roles to others.
    Admin,
}

/// Why a text is no role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no role (pull, push, maintain, admin)")]
pub struct RoleError(pub String);

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Pull, Self::Push, Self::Maintain, Self::Admin];

    /// What the role allows.
    #[must_use]
    pub const fn rights(self) -> Rights {
        match self {
            Self::Pull => Rights::PULL,
            Self::Push => Self::Pull.rights().or(Rights::PUSH),
            Self::Maintain => {
                Self::Push.rights().or(Rights::DELETE).or(Rights::of(&[Action::ChangeSettings]))
            }
            Self::Admin => Rights::ALL,
        }
    }

    /// The word in commands and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Maintain => "maintain",
            Self::Admin => "admin",
        }
    }
}

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| RoleError(text.chars().take(40).collect()))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_include_those_before_them() {
        for pair in Role::ALL.windows(2) {
            let [lower, higher] = pair else { unreachable!() };
            assert_eq!(lower.rights().and(higher.rights()), lower.rights());
            assert_ne!(lower.rights(), higher.rights());
        }
        let table: [(Action, Role); 9] = [
            (Action::Pull, Role::Pull),
            (Action::Push, Role::Push),
            (Action::CreateTag, Role::Push),
            (Action::MoveTag, Role::Push),
            (Action::DeleteTag, Role::Maintain),
            (Action::DeleteManifest, Role::Maintain),
            (Action::DeleteBlob, Role::Maintain),
            (Action::ChangeSettings, Role::Maintain),
            (Action::ChangeAccess, Role::Admin),
        ];
        for (action, least) in table {
            for role in Role::ALL {
                assert_eq!(role.rights().allows(action), role >= least, "{role} {action:?}");
            }
        }
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert!("owner".parse::<Role>().is_err());
    }

    #[test]
    fn scope_words_mean_actions() {
        let words = |text: &str| Rights::of_words(text.split(','));
        for action in Action::ALL {
            assert!(words(action.scope_word()).allows(action));
            assert!(
                !Rights::of_words(
                    Action::ALL
                        .iter()
                        .map(|a| a.scope_word())
                        .filter(|w| *w != action.scope_word())
                )
                .allows(action)
            );
        }
        assert_eq!(words("*"), Rights::ALL);
        assert_eq!(words("fly,"), Rights::NONE);
        assert!(!words("create").allows(Action::MoveTag));
        assert!(words("create").allows(Action::CreateTag));
    }

    #[test]
    fn rights_are_told_in_words_that_are_held_whole() {
        let told = |rights: Rights| rights.words().into_iter().collect::<Vec<_>>().join(",");
        assert_eq!(told(Role::Push.rights()), "pull,push");
        assert_eq!(told(Role::Push.rights().adding_only()), "create,pull");
        assert_eq!(told(Role::Maintain.rights()), "delete,pull,push");
        assert_eq!(told(Rights::ALL), "admin,delete,pull,push");
        assert_eq!(told(Rights::NONE), "");
        assert_eq!(told(Rights::of(&[Action::DeleteTag])), "");
        for role in [Role::Pull, Role::Push, Role::Admin] {
            let words = role.rights().words();
            assert_eq!(Rights::of_words(words.iter().map(String::as_str)), role.rights());
        }
    }
}
