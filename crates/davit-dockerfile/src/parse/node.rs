//! The syntax of one instruction: keyword, flags and words, without their meaning.

use super::{
    heredoc,
    json::{self, Json},
    words,
};
use crate::{
    Comment, Escape, Heredoc, ParseError, ParseErrorKind, Span, Word,
    text::{Joined, Part},
};

/// One instruction as its words, whatever they mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The keyword as written; empty for a continuation that holds nothing.
    pub keyword: Word,
    /// Flags in order, quotes resolved.
    pub flags: Vec<Word>,
    /// Arguments: the items of a JSON array, key and value in turn for `ENV` and `LABEL`, the
    /// whole rest for most others; empty for an unknown keyword.
    pub arguments: Vec<Word>,
    /// Whether the arguments come from a JSON array.
    pub json: bool,
    /// Whether `ENV` or `LABEL` is written as `name value`.
    pub legacy: bool,
    /// The instruction within an `ONBUILD`.
    pub trigger: Option<Box<Self>>,
    /// Heredocs in order.
    pub heredocs: Vec<Heredoc>,
    /// The whole text, continuations removed and trimmed; without heredoc bodies.
    pub text: String,
    /// The end of the text as written, blanks at its end included, from the first argument on.
    pub(crate) rest: String,
    /// From the keyword to the end, heredoc bodies included.
    pub span: Span,
    /// Comments directly above.
    pub comments: Vec<Comment>,
}

impl Node {
    /// Reads a joined line.
    pub(super) fn read(joined: &Joined, escape: Escape) -> Result<Self, ParseError> {
        let line = joined.whole();
        let mut node = Self::of_part(line, escape, Depth::Top)?;
        node.text = line.trim().as_str().to_owned();
        node.span = line.trim().span();
        let blanks = |c: char| matches!(c, '\t' | '\n' | '\x0c' | '\r' | ' ');
        let untrimmed = line.as_str().trim_start_matches(blanks);
        let behind = untrimmed.get(node.keyword.text.len()..).unwrap_or_default();
        behind.trim_start_matches(blanks).clone_into(&mut node.rest);
        Ok(node)
    }

    fn of_part(line: Part<'_>, escape: Escape, depth: Depth) -> Result<Self, ParseError> {
        let line = line.trim();
        let (keyword, rest) = match words::split_once(line) {
            Some((keyword, rest)) => (keyword, Some(rest)),
            None => (line, None),
        };
        let (flags, rest) = match rest {
            Some(rest) => words::flags(rest, escape),
            None => (Vec::new(), line.skip(line.as_str().len())),
        };
        let mut node = Self { keyword: keyword.word(), flags, ..Self::default() };
        node.read_arguments(rest.trim(), escape, depth)?;
        Ok(node)
    }

    fn read_arguments(
        &mut self,
        rest: Part<'_>,
        escape: Escape,
        depth: Depth,
    ) -> Result<(), ParseError> {
        match self.keyword.text.to_ascii_lowercase().as_str() {
            "env" => self.pairs(rest, escape, "ENV"),
            "label" => self.pairs(rest, escape, "LABEL"),
            "arg" => {
                self.arguments = words::quoted(rest, escape);
                Ok(())
            }
            "from" | "expose" => {
                self.arguments = words::plain(rest);
                Ok(())
            }
            "maintainer" | "stopsignal" | "user" | "workdir" => {
                self.whole(rest);
                Ok(())
            }
            "add" | "copy" | "volume" => self.json_or(rest, |node, rest| {
                node.arguments = words::plain(rest);
            }),
            "cmd" | "entrypoint" | "run" | "shell" => self.json_or(rest, Self::whole),
            "healthcheck" => self.health(rest),
            "onbuild" => {
                if !rest.as_str().is_empty() && depth != Depth::TriggersTrigger {
                    let node = Self::of_part(rest, escape, depth.below())?;
                    self.trigger = Some(Box::new(node));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn whole(&mut self, rest: Part<'_>) {
        if !rest.as_str().is_empty() {
            self.arguments.push(rest.word());
        }
    }

    fn json_or(
        &mut self,
        rest: Part<'_>,
        otherwise: impl FnOnce(&mut Self, Part<'_>),
    ) -> Result<(), ParseError> {
        match json::strings(rest) {
            Json::Strings(words) => {
                self.arguments.extend(words);
                self.json = true;
            }
            Json::OtherValues => {
                let problem = "takes a JSON array of strings only";
                let name = super::keyword_name(&self.keyword.text);
                return Err(ParseError::arguments(name, problem, rest.span()));
            }
            Json::No => otherwise(self, rest),
        }
        Ok(())
    }

    /// The word behind `HEALTHCHECK` and its command.
    fn health(&mut self, rest: Part<'_>) -> Result<(), ParseError> {
        if rest.as_str().is_empty() {
            return Ok(());
        }
        let Some((kind, command)) = words::split_once(rest) else {
            self.arguments.push(rest.word());
            return Ok(());
        };
        self.arguments.push(kind.word());
        self.json_or(command, Self::whole)
    }

    /// `name=value …`, or the old form `name value` if the first word has no `=`.
    fn pairs(
        &mut self,
        rest: Part<'_>,
        escape: Escape,
        instruction: &'static str,
    ) -> Result<(), ParseError> {
        let pairs = words::quoted(rest, escape);
        let Some(first) = pairs.first() else { return Ok(()) };
        if !first.text.contains('=') {
            let Some((name, value)) = words::split_once(rest) else {
                let problem = "needs a name and a value";
                return Err(ParseError::arguments(instruction, problem, rest.span()));
            };
            self.legacy = true;
            self.arguments = vec![name.word(), value.word()];
            return Ok(());
        }
        for pair in pairs {
            let Some((name, value)) = split_word(&pair, '=') else {
                let kind = ParseErrorKind::Value {
                    instruction,
                    what: "word",
                    value: pair.text,
                    problem: "has no `=` (all words must be name=value)".to_owned(),
                };
                return Err(ParseError::new(kind, pair.span));
            };
            self.arguments.extend([name, value]);
        }
        Ok(())
    }

    /// Whether heredocs are looked for.
    pub(super) fn may_have_heredocs(&self) -> bool {
        let node = match &self.trigger {
            Some(trigger) => trigger,
            None => self,
        };
        let keyword = node.keyword.text.to_ascii_lowercase();
        matches!(keyword.as_str(), "add" | "copy" | "run") && !node.json
    }

    /// The delimiters of the heredocs in the joined line.
    pub(super) fn delimiters(&self, line: &str) -> Result<Vec<heredoc::Delimiter>, ParseError> {
        if !self.may_have_heredocs() || !line.contains("<<") {
            return Ok(Vec::new());
        }
        heredoc::in_line(line)
            .map_err(|error| ParseError::new(ParseErrorKind::Word(error.to_string()), self.span))
    }
}

/// How deep in `ONBUILD` an instruction stands. Deeper ones are refused anyway, so they are not
/// read: a hostile file could nest them without end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    Top,
    Trigger,
    TriggersTrigger,
}

impl Depth {
    const fn below(self) -> Self {
        match self {
            Self::Top => Self::Trigger,
            Self::Trigger | Self::TriggersTrigger => Self::TriggersTrigger,
        }
    }
}

/// Splits a word at the first `separator`. The spans are exact where the word has no continuation.
pub(super) fn split_word(word: &Word, separator: char) -> Option<(Word, Word)> {
    let (name, value) = word.text.split_once(separator)?;
    let whole = word.span.end - word.span.start == word.text.len();
    let cut = |start: usize, end: usize| {
        if whole {
            Span { start: word.span.start + start, end: word.span.start + end, ..word.span }
        } else {
            word.span
        }
    };
    let length = word.text.len();
    Some((
        Word { text: name.to_owned(), span: cut(0, name.len()) },
        Word { text: value.to_owned(), span: cut(length - value.len(), length) },
    ))
}
