//! Errors of a build, with the part of the Dockerfile that they speak of.

use std::{error::Error, fmt, ops::Range, path::PathBuf};

use davit_dockerfile::{ParseError, Span, in_short, lint::Rule};

use crate::Difference;

/// Longest part that is underlined as a whole in bytes; of a longer one it is the first line.
const LONGEST_PART: usize = 4096;
/// Longest command that an error names as a whole, in bytes; the excerpt below it has all of it.
const LONGEST_COMMAND: usize = 120;
/// Bytes of a message from its beginning, and from its end, where it is longer than both: a value in
/// it may be as long as what an expansion gives, 16 MiB.
const SHOWN_ENDS: (usize, usize) = (2048, 512);

/// A part of a Dockerfile or ignore file that a message points at.
///
/// The terminal's renderer needs the text, the range and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// Name of the file, as the user gave it.
    pub file: String,
    /// The lines of the part, the one before it and the one behind it; invalid UTF-8 replaced.
    pub text: String,
    /// Number of the first of these lines, from 1.
    pub first_line: usize,
    /// Byte range in `text` that is underlined; always within it.
    pub range: Range<usize>,
    /// What is written beside the underlined part.
    pub label: String,
}

impl Excerpt {
    /// Points at `span` of the file `name` with these `bytes`.
    #[must_use]
    pub fn new(name: &str, bytes: &[u8], span: Span, label: impl Into<String>) -> Self {
        let start = span.start.min(bytes.len());
        let mut part = &bytes[start..span.end.clamp(start, bytes.len())];
        if part.len() > LONGEST_PART {
            part = part.split(|byte| *byte == b'\n').next().unwrap_or_default();
        }
        // A line end at the end would underline the next line.
        let end = start + part.trim_ascii_end().len();
        let line_start = |at: usize| {
            bytes[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |before| before + 1)
        };
        let line_end = |from: usize| {
            let end = bytes[from..].iter().position(|byte| *byte == b'\n');
            end.map_or(bytes.len(), |length| from + length + 1)
        };
        let own_line = line_start(start);
        let first = line_start(own_line.saturating_sub(1));
        let last = line_end(line_end(end));
        let mut text = String::from_utf8_lossy(&bytes[first..start]).into_owned();
        let begin = text.len();
        text.push_str(&String::from_utf8_lossy(&bytes[start..end]));
        let range = begin..text.len();
        text.push_str(&String::from_utf8_lossy(&bytes[end..last]));
        let number = usize::try_from(span.first_line).unwrap_or(usize::MAX);
        let first_line = number.saturating_sub(usize::from(first < own_line)).max(1);
        Self { file: name.to_owned(), text, first_line, range, label: label.into() }
    }
}

/// Why a build failed: what, where, and what would help.
#[derive(Debug)]
pub struct BuildError {
    /// What went wrong.
    pub kind: BuildErrorKind,
    /// Where in the Dockerfile; boxed, since an error is rare and travels far.
    pub excerpt: Option<Box<Excerpt>>,
    /// Advice, each a line of its own.
    pub hints: Vec<String>,
}

/// What went wrong in a build.
#[derive(Debug, thiserror::Error)]
pub enum BuildErrorKind {
    /// The Dockerfile cannot be read as one; the excerpt says why.
    #[error("the Dockerfile cannot be parsed")]
    Parse(ParseError),
    /// The Dockerfile asks for something that cannot be.
    #[error("{0}")]
    Plan(String),
    /// The checks found something, and that is to be an error.
    #[error("the build checks fail: {}", names(.0))]
    Checks(Vec<Rule>),
    /// The target stage does not exist.
    #[error("target stage `{0}` is not in the Dockerfile")]
    Target(String),
    /// A base image cannot be had.
    #[error("cannot resolve image `{reference}`")]
    Base {
        /// The image.
        reference: String,
        /// What the store or registry said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// A source that lies elsewhere cannot be had.
    #[error("cannot fetch `{name}`")]
    Source {
        /// The source, without what may be secret.
        name: String,
        /// What its server said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The context cannot be read.
    #[error("cannot read the build context at {}", path.display())]
    Context {
        /// What was read.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The ignore file cannot be read as one.
    #[error("{file} is wrong")]
    Ignore {
        /// Its name.
        file: String,
        /// What is wrong.
        #[source]
        source: davit_dockerfile::IgnoreError,
    },
    /// A file of the context changed while it was read.
    #[error("{} changed while the build read it", .0.display())]
    ContextChanged(PathBuf),
    /// A copy cannot be done as written.
    #[error("{step}: {problem}")]
    Copy {
        /// `COPY` or `ADD`.
        step: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A command ended with an error.
    #[error("`{}` ended with exit code {code}", in_short(command.trim(), LONGEST_COMMAND))]
    Command {
        /// The command.
        command: String,
        /// Its exit code; 128 + n for a signal.
        code: i32,
        /// The last lines of its output.
        tail: Vec<String>,
    },
    /// An owner is given by a name that the image does not know.
    #[error("there is no {what} `{name}` in the image's /{file}")]
    Owner {
        /// `user` or `group`.
        what: &'static str,
        /// The name.
        name: String,
        /// The file that was searched.
        file: &'static str,
        /// The nearest name in it.
        near: Option<String>,
    },
    /// A step could not be done for a reason outside the Dockerfile.
    #[error("step `{step}` failed")]
    Step {
        /// The step's name.
        step: String,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The result could not be stored or exported.
    #[error("cannot {what}")]
    Result {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// A second build of the same gave another image.
    #[error("the build is not reproducible: {0}")]
    Different(Box<Difference>),
    /// The user stopped the build.
    #[error("the build was cancelled")]
    Cancelled,
}

fn names(rules: &[Rule]) -> String {
    rules.iter().map(|rule| rule.name()).collect::<Vec<_>>().join(", ")
}

impl BuildError {
    /// An error without place and advice.
    #[must_use]
    pub const fn new(kind: BuildErrorKind) -> Self {
        Self { kind, excerpt: None, hints: Vec::new() }
    }

    /// Says where; a place that is known already stays.
    #[must_use]
    pub fn at(mut self, excerpt: Excerpt) -> Self {
        self.excerpt.get_or_insert_with(|| Box::new(excerpt));
        self
    }

    /// Adds advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl From<BuildErrorKind> for BuildError {
    fn from(kind: BuildErrorKind) -> Self {
        let hint = match &kind {
            BuildErrorKind::Owner { near: Some(near), .. } => {
                Some(format!("did you mean `{near}`?"))
            }
            BuildErrorKind::Owner { what, .. } => {
                Some(format!("add the {what} in an earlier RUN, or give its number"))
            }
            BuildErrorKind::ContextChanged(_) => {
                Some("build again when nothing writes to the context".to_owned())
            }
            _ => None,
        };
        let error = Self::new(kind);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = self.kind.to_string();
        let (head, tail) = SHOWN_ENDS;
        if message.len() <= head + tail {
            return f.write_str(&message);
        }
        let head = &message[..message.floor_char_boundary(head)];
        let tail = &message[message.ceil_char_boundary(message.len() - tail)..];
        write!(f, "{head}…{tail}")
    }
}

impl Error for BuildError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.kind.source()
    }
}

/// An error and its causes in one line.
#[must_use]
pub fn one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_told_from_both_ends() {
        let told = |message: String| BuildError::new(BuildErrorKind::Plan(message)).to_string();
        let (head, tail) = SHOWN_ENDS;
        let whole = format!("`{}` is wrong", "ä".repeat((head + tail - 11) / 2));
        assert_eq!(told(whole.clone()), whole);
        let long = told(format!("`{}` is wrong", "ä".repeat(1 << 20)));
        assert!(long.len() <= head + tail + 3, "{}", long.len());
        assert!(long.starts_with("`ää") && long.ends_with("ä` is wrong"), "{long}");
    }

    #[test]
    fn points_at_the_text() {
        let text = b"FROM a\nCOPY \xc3\xa9 /\n";
        let span = Span { start: 12, end: 17, first_line: 2, last_line: 2 };
        let excerpt = Excerpt::new("Dockerfile", text, span, "");
        assert_eq!(&excerpt.text[excerpt.range], "\u{e9} /");
    }

    #[test]
    fn lines_far_away_are_left_out() {
        let text = b"1\n2\n3\n4\n5\n6\n";
        let at = |start: usize, end: usize, line: u32| {
            let span = Span { start, end, first_line: line, last_line: line };
            let excerpt = Excerpt::new("f", text, span, "");
            (excerpt.text, excerpt.first_line, excerpt.range)
        };
        assert_eq!(at(6, 7, 4), ("3\n4\n5\n".to_owned(), 3, 2..3));
        assert_eq!(at(6, 8, 4), ("3\n4\n5\n".to_owned(), 3, 2..3));
        assert_eq!(at(0, 1, 1), ("1\n2\n".to_owned(), 1, 0..1));
        assert_eq!(at(2, 5, 2), ("1\n2\n3\n4\n".to_owned(), 1, 2..5));
        assert_eq!(at(12, 12, 7), ("6\n".to_owned(), 6, 2..2));
        let long = "word \\\n".repeat(2_000);
        let span = Span { start: 0, end: long.len(), first_line: 1, last_line: 2_000 };
        assert_eq!(Excerpt::new("f", long.as_bytes(), span, "").range, 0..6);
    }

    #[test]
    fn survives_bytes_that_are_no_text_and_spans_of_other_texts() {
        let span = Span { start: 7, end: 14, first_line: 2, last_line: 2 };
        let excerpt = Excerpt::new("Dockerfile", b"FROM a\nRUN \xff x\nRUN y\n", span, "");
        assert_eq!(&excerpt.text[excerpt.range], "RUN \u{fffd} x");
        let far = Span { start: 100, end: 200, first_line: 9, last_line: 9 };
        for text in [&b"x"[..], b"", b"\xff"] {
            assert!(Excerpt::new("f", text, far, "").range.is_empty());
        }
    }
}
