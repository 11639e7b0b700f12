//! Which rules are asked: `# check=skip=A,B;error=true;experimental=C` and comments of that form.

use std::collections::BTreeSet;

use super::Rule;
use crate::{Comment, parse::name_and_value};

/// What a `check` directive, a comment or a build argument asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// Rules that are not asked.
    pub skip: Rules,
    /// Experimental rules that are asked.
    pub experimental: Rules,
    /// Whether a warning fails the build.
    pub error: bool,
}

/// A choice of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rules {
    /// All of them.
    All,
    /// Those with these names; names that no rule has mean nothing.
    Named(BTreeSet<String>),
}

impl Default for Rules {
    fn default() -> Self {
        Self::Named(BTreeSet::new())
    }
}

impl Rules {
    fn read(text: &str) -> Self {
        match text {
            "all" => Self::All,
            _ => Self::Named(text.split(',').map(|name| name.trim().to_owned()).collect()),
        }
    }

    fn has(&self, rule: Rule) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(rule.name()),
        }
    }
}

/// Why a text chooses no rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckOptionsError {
    /// A part is none of the three that there are.
    #[error("check option `{0}` is none of skip=…, error=… and experimental=…")]
    Option(String),
    /// `error` is neither true nor false.
    #[error("check option `error={0}` is neither true nor false")]
    Switch(String),
}

impl CheckOptions {
    /// Reads `skip=A,B|all;error=true|false;experimental=A|all`: at most three parts in any order.
    ///
    /// # Errors
    /// As [`CheckOptionsError`] says.
    pub fn parse(text: &str) -> Result<Self, CheckOptionsError> {
        let mut options = Self::default();
        if text.trim().is_empty() {
            return Ok(options);
        }
        for part in text.trim().splitn(3, ';') {
            let wrong = || CheckOptionsError::Option(part.trim().to_owned());
            let (key, value) = part.split_once('=').ok_or_else(wrong)?;
            let value = value.trim();
            match key.trim() {
                "skip" => options.skip = Rules::read(value),
                "experimental" => options.experimental = Rules::read(value),
                "error" => {
                    options.error = match value.to_ascii_lowercase().as_str() {
                        "true" | "t" | "1" => true,
                        "false" | "f" | "0" => false,
                        _ => return Err(CheckOptionsError::Switch(value.to_owned())),
                    }
                }
                _ => return Err(wrong()),
            }
        }
        Ok(options)
    }

    /// The first comment of the form `check=…`; one that cannot be read asks for nothing.
    fn of_comments(comments: &[Comment]) -> Option<Self> {
        comments.iter().find_map(|comment| {
            let (name, value) = name_and_value(&comment.text)?;
            let value = value.split(' ').next().unwrap_or_default();
            (name == "check").then(|| Self::parse(value).unwrap_or_default())
        })
    }

    /// Whether a rule is asked of an instruction with these comments above it.
    pub(super) fn asks(&self, rule: Rule, comments: &[Comment]) -> bool {
        let comment = Self::of_comments(comments);
        let mut all = std::iter::once(self).chain(&comment);
        if rule.is_experimental() {
            all.any(|options| options.experimental.has(rule))
        } else {
            !all.any(|options| options.skip.has(rule))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Span;

    #[test]
    fn reads_options() {
        let named = |names: &[&str]| Rules::Named(names.iter().map(|&it| it.to_owned()).collect());
        let none = CheckOptions::default;
        for (text, expected) in [
            ("", none()),
            (" ", none()),
            ("skip=all", CheckOptions { skip: Rules::All, ..none() }),
            ("skip= A , B ", CheckOptions { skip: named(&["A", "B"]), ..none() }),
            ("error=true", CheckOptions { error: true, ..none() }),
            ("error=T;skip=A", CheckOptions { error: true, skip: named(&["A"]), ..none() }),
            (
                "experimental=all; error = 0 ;skip=A",
                CheckOptions { experimental: Rules::All, skip: named(&["A"]), error: false },
            ),
            ("skip=A;skip=B", CheckOptions { skip: named(&["B"]), ..none() }),
        ] {
            assert_eq!(CheckOptions::parse(text), Ok(expected), "{text}");
        }
        for text in
            ["skip", "skip=A;", "Skip=A", "error=maybe", "a=b", "error=", "skip=A;x;error=1"]
        {
            assert!(CheckOptions::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn comments_choose_for_one_instruction() {
        let comment = |text: &str| Comment { text: text.to_owned(), span: Span::default() };
        let asks = |rule, texts: &[&str]| {
            let comments: Vec<Comment> = texts.iter().map(|text| comment(text)).collect();
            CheckOptions::default().asks(rule, &comments)
        };
        let rule = Rule::UndefinedVar;
        assert!(asks(rule, &[]));
        assert!(asks(rule, &["check=skip=WorkdirRelativePath"]));
        assert!(!asks(rule, &["words", "check=skip=UndefinedVar"]));
        assert!(!asks(rule, &["Check = skip=UndefinedVar and why"]));
        assert!(asks(rule, &["check=error=true", "check=skip=all"]), "the first one counts");
        assert!(asks(rule, &["check=nonsense"]));
        let rule = Rule::InvalidDefinitionDescription;
        assert!(!asks(rule, &["check=skip=A"]));
        assert!(asks(rule, &["check=experimental=all"]));
    }
}
