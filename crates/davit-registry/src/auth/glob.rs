//! Patterns of repository names: `acme/web-*`, `acme/**`.

use std::{fmt, str::FromStr};

/// Longest pattern, as repository names.
const LONGEST: usize = 255;

/// Names repositories: `*` stands for any run within one component, `**` for any run at all.
///
/// A name without stars matches itself only. `acme/**` matches everything below `acme`, not
/// `acme` itself; `**` matches every repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryGlob(String);

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no pattern of repository names (lower-case name with `*` or `**` in it)")]
pub struct GlobError(pub String);

impl RepositoryGlob {
    /// Every repository of an account or organisation.
    #[must_use]
    pub fn namespace(account: &str) -> Self {
        Self(format!("{account}/**"))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Tells whether the repository of this path is meant.
    ///
    /// Costs at most pattern length times name length.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        matches(self.0.as_bytes(), path.as_bytes())
    }

    /// Tells whether every repository that it can match belongs to the account's namespace.
    #[must_use]
    pub fn is_within(&self, account: &str) -> bool {
        let rest = self.0.strip_prefix(account).and_then(|rest| rest.strip_prefix('/'));
        rest.is_some_and(|rest| !rest.is_empty())
    }
}

/// Compares by the set of pattern positions that the name read so far may have reached: no
/// backtracking, so that no pattern takes exponential time.
pub(crate) fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let mut reached = vec![false; pattern.len() + 1];
    reached[0] = true;
    pass_stars(pattern, &mut reached);
    for &byte in name {
        let mut next = vec![false; pattern.len() + 1];
        for at in (0..pattern.len()).filter(|&at| reached[at]) {
            match star(pattern, at) {
                Some(Star::Run) if byte == b'/' => {}
                Some(_) => next[at] = true,
                None if pattern[at] == byte => next[at + 1] = true,
                None => {}
            }
        }
        reached = next;
        pass_stars(pattern, &mut reached);
    }
    reached[pattern.len()]
}

enum Star {
    /// `*`
    Run,
    /// `**`
    Any,
}

impl Star {
    const fn length(&self) -> usize {
        match self {
            Self::Run => 1,
            Self::Any => 2,
        }
    }
}

fn star(pattern: &[u8], at: usize) -> Option<Star> {
    match pattern[at..] {
        [b'*', b'*', ..] => Some(Star::Any),
        [b'*', ..] => Some(Star::Run),
        _ => None,
    }
}

/// A star may stand for nothing.
fn pass_stars(pattern: &[u8], reached: &mut [bool]) {
    for at in 0..pattern.len() {
        if reached[at]
            && let Some(star) = star(pattern, at)
        {
            reached[at + star.length()] = true;
        }
    }
}

impl FromStr for RepositoryGlob {
    type Err = GlobError;

    fn from_str(text: &str) -> Result<Self, GlobError> {
        let is_good = |component: &str| {
            !component.is_empty()
                && !component.contains("***")
                && component
                    .bytes()
                    .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'*'))
        };
        if text.len() <= LONGEST && text.split('/').all(is_good) {
            Ok(Self(text.to_owned()))
        } else {
            Err(GlobError(text.chars().take(LONGEST).collect()))
        }
    }
}

impl fmt::Display for RepositoryGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_within_components_and_across() {
        let cases: [(&str, &[&str], &[&str]); 8] = [
            ("acme/web", &["acme/web"], &["acme/web2", "acme/we", "acme", "acme/web/x"]),
            ("acme/*", &["acme/a", "acme/a-b.c"], &["acme", "acme/a/b", "acmex/a", "b/a"]),
            ("acme/**", &["acme/a", "acme/a/b"], &["acme", "acmex/a"]),
            ("**", &["a", "a/b", "a/b/c"], &[]),
            ("*", &["a"], &["a/b"]),
            ("*/web-*", &["a/web-", "b/web-1"], &["a/web", "a/web-1/x", "web-1"]),
            ("a/**/z", &["a/b/z", "a/b/c/z"], &["a/z", "a/b/y"]),
            ("a*b*c", &["abc", "axbxc", "abbcc"], &["ab", "a/b/c"]),
        ];
        for (pattern, good, bad) in cases {
            let glob: RepositoryGlob = pattern.parse().unwrap();
            assert_eq!(glob.to_string(), pattern);
            for name in good {
                assert!(glob.matches(name), "{pattern} {name}");
            }
            for name in bad {
                assert!(!glob.matches(name), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn takes_no_exponential_time() {
        let glob: RepositoryGlob = "a*".repeat(100).parse().unwrap();
        assert!(!glob.matches(&"a".repeat(99)));
        assert!(!glob.matches(&format!("{}/b", "a".repeat(250))));
    }

    #[test]
    fn refuses_what_no_name_can_match() {
        for text in ["", "/", "a/", "/a", "a//b", "A/*", "a b", "a/***", "a/?", "a\0", "ä"] {
            assert!(text.parse::<RepositoryGlob>().is_err(), "{text:?}");
        }
        assert!("a".repeat(256).parse::<RepositoryGlob>().is_err());
    }

    #[test]
    fn knows_the_namespace_that_it_stays_in() {
        let within = |text: &str| text.parse::<RepositoryGlob>().unwrap().is_within("acme");
        for text in ["acme/*", "acme/**", "acme/web", "acme/a/*"] {
            assert!(within(text), "{text}");
        }
        for text in ["acme", "**", "*/web", "acme*/web", "acmes/web"] {
            assert!(!within(text), "{text}");
        }
    }
}
