//! Errors of the parser.

use std::borrow::Cow;

use crate::Span;

/// Why a text is no Dockerfile, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct ParseError {
    /// What is wrong.
    pub kind: Box<ParseErrorKind>,
    /// The part that is wrong.
    pub span: Span,
    /// The nearest right word, if there is one (an instruction, a flag, a mount key).
    pub suggestion: Option<String>,
}

/// What is wrong with a Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseErrorKind {
    /// No instruction at all.
    #[error("the Dockerfile has no instructions")]
    Empty,
    /// A physical line is over the limit.
    #[error("the line is longer than {limit} bytes")]
    LineLength {
        /// Largest length in bytes.
        limit: usize,
    },
    /// There are more instructions than the limit.
    #[error("the Dockerfile has more than {limit} instructions")]
    Instructions {
        /// Most instructions.
        limit: usize,
    },
    /// Bytes outside a comment are no UTF-8.
    #[error("the text is not valid UTF-8")]
    Encoding,
    /// A parser directive is repeated or has a wrong value.
    #[error("parser directive `{name}` {problem}")]
    Directive {
        /// Its name.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// No instruction has this name.
    #[error("unknown instruction `{0}`")]
    UnknownInstruction(String),
    /// A heredoc has no end.
    #[error("heredoc `{0}` has no line that ends it")]
    UnterminatedHeredoc(String),
    /// The number or form of the arguments is wrong.
    #[error("{instruction} {problem}")]
    Arguments {
        /// Keyword in upper case.
        instruction: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
    /// A value is wrong.
    #[error("{instruction}: {what} `{value}` {problem}")]
    Value {
        /// Keyword in upper case.
        instruction: &'static str,
        /// What the value is.
        what: &'static str,
        /// The value.
        value: String,
        /// What is wrong.
        problem: String,
    },
    /// A flag is unknown, repeated or has a wrong value.
    #[error("{instruction}: flag `--{flag}` {problem}")]
    Flag {
        /// Keyword in upper case.
        instruction: &'static str,
        /// Name of the flag.
        flag: String,
        /// What is wrong.
        problem: String,
    },
    /// An instruction stands before the first `FROM`.
    #[error("{0} stands before the first FROM")]
    BeforeFrom(&'static str),
    /// There is no `FROM`.
    #[error("the Dockerfile has no FROM")]
    NoStage,
    /// A word cannot be expanded or split.
    #[error("{0}")]
    Word(String),
}

/// A text as far as it stands in a line of an error: of its first line, so many bytes.
#[must_use]
pub fn in_short(text: &str, most_bytes: usize) -> Cow<'_, str> {
    let line = text.lines().next().unwrap_or_default();
    let shown = &line[..line.floor_char_boundary(most_bytes)];
    if shown.len() == text.len() { shown.into() } else { format!("{}…", shown.trim_end()).into() }
}

impl ParseError {
    pub(crate) fn new(kind: ParseErrorKind, span: Span) -> Self {
        Self { kind: Box::new(kind), span, suggestion: None }
    }

    pub(crate) fn arguments(instruction: &'static str, problem: &'static str, span: Span) -> Self {
        Self::new(ParseErrorKind::Arguments { instruction, problem }, span)
    }

    pub(crate) fn suggest<'a>(
        mut self,
        word: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        self.suggestion = nearest(word, known).map(str::to_owned);
        self
    }
}

/// The entry of `known` that is nearest to `word`, if it is near enough to be a slip: at most two
/// letters inserted, dropped, changed or swapped, and at most a third of the longer of the two.
/// `None` too where `word` is itself known.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut best = None;
    let mut least = 3;
    for candidate in known {
        let distance = distance(word, candidate);
        if distance == 0 {
            return None;
        }
        if distance < least && distance <= word.len().max(candidate.len()) / 3 {
            least = distance;
            best = Some(candidate);
        }
    }
    best
}

/// Letters inserted, dropped, changed or swapped with their neighbour, without regard to ASCII
/// case; a large number where it is surely over 2.
fn distance(one: &str, other: &str) -> usize {
    if one.len().abs_diff(other.len()) > 8 || one.len() > 256 {
        return usize::MAX;
    }
    let letters = |text: &str| text.chars().map(|c| c.to_ascii_lowercase()).collect::<Vec<char>>();
    let (one, other) = (letters(one), letters(other));
    let mut before = Vec::new();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, &c) in one.iter().enumerate() {
        let mut next = vec![line + 1];
        for (column, &d) in other.iter().enumerate() {
            let changed = row[column] + usize::from(c != d);
            let mut least = changed.min(row[column + 1] + 1).min(next[column] + 1);
            if line > 0 && column > 0 && c == other[column - 1] && one[line - 1] == d {
                let two_above: &Vec<usize> = &before;
                least = least.min(two_above[column - 1] + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests() {
        let known = ["RUN", "COPY", "ENTRYPOINT", "ENV", "USER"];
        for (word, expected) in [
            ("RUNN", Some("RUN")),
            ("cpoy", Some("COPY")),
            ("RNU", Some("RUN")),
            ("ENTRIPOINT", Some("ENTRYPOINT")),
            ("run", None),
            ("EVN", Some("ENV")),
            ("EV", Some("ENV")),
            ("E", None),
            ("SURE", None),
            ("HELLO", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
    }

    #[test]
    fn a_long_text_is_shown_in_short() {
        for (text, expected) in [
            ("/bin/sh -c true", "/bin/sh -c true"),
            ("echo one\nfalse\n", "echo one…"),
            ("a\n", "a…"),
            ("a ", "a "),
            ("", ""),
        ] {
            assert_eq!(in_short(text, 20), expected);
        }
        assert_eq!(in_short(&"ä".repeat(9), 17), format!("{}…", "ä".repeat(8)));
        assert_eq!(in_short("aaa bbb", 4), "aaa…");
    }
}
