//! The flags of one instruction, checked against those that it knows.

use crate::{ParseError, ParseErrorKind, Word};

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// A text, once.
    Text,
    /// Nothing, `true` or `false`, once.
    Switch,
    /// A text, any number of times.
    Texts,
}

/// The flags that were given.
#[derive(Debug)]
pub(super) struct Flags {
    given: Vec<(&'static str, Word)>,
}

impl Flags {
    /// Checks `flags` of `instruction` against the flags it knows.
    pub(super) fn read(
        instruction: &'static str,
        flags: &[Word],
        known: &'static [(&'static str, Takes)],
    ) -> Result<Self, ParseError> {
        let mut given: Vec<(&'static str, Word)> = Vec::new();
        for flag in flags {
            let text = flag.text.strip_prefix("--").unwrap_or(&flag.text);
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (text, None),
            };
            let wrong = |problem: &str| {
                let problem = problem.to_owned();
                let kind = ParseErrorKind::Flag { instruction, flag: name.to_owned(), problem };
                ParseError::new(kind, flag.span)
            };
            let Some(&(known_name, takes)) = known.iter().find(|(known, _)| *known == name) else {
                let names = known.iter().map(|(name, _)| *name);
                let mut unknown = wrong("is unknown").suggest(name, names);
                unknown.suggestion = unknown.suggestion.map(|near| format!("--{near}"));
                return Err(unknown);
            };
            if takes != Takes::Texts && given.iter().any(|(name, _)| *name == known_name) {
                return Err(wrong("is given twice"));
            }
            let value = match (takes, value.map(str::to_ascii_lowercase).as_deref()) {
                (Takes::Switch, None | Some("true")) => "true",
                (Takes::Switch, Some("false")) => "false",
                (Takes::Switch, Some(_)) => return Err(wrong("takes `true` or `false`")),
                (_, Some(_)) => value.unwrap_or_default(),
                (_, None) => return Err(wrong("needs a value: `--flag=value`")),
            };
            given.push((known_name, Word { text: value.to_owned(), span: flag.span }));
        }
        Ok(Self { given })
    }

    /// The value of a flag; `None` where it is not given.
    pub(super) fn text(&self, name: &str) -> Option<Word> {
        self.texts(name).into_iter().next()
    }

    /// The value of a flag; `None` also where it is given empty, which then means the same.
    pub(super) fn filled(&self, name: &str) -> Option<Word> {
        self.text(name).filter(|word| !word.text.is_empty())
    }

    /// All values of a flag in order.
    pub(super) fn texts(&self, name: &str) -> Vec<Word> {
        let named = self.given.iter().filter(|(given, _)| *given == name);
        named.map(|(_, word)| word.clone()).collect()
    }

    /// The value of a switch; `None` where it is not given.
    pub(super) fn switch(&self, name: &str) -> Option<bool> {
        self.text(name).map(|word| word.text == "true")
    }
}
