//! Errors of a build, with the part of the Dockerfile that they speak of.

use std::{error::Error, fmt, ops::Range, path::PathBuf};

use davit_dockerfile::{ParseError, Span};

/// A part of a Dockerfile or ignore file that a message points at.
///
/// The terminal's renderer needs the text, the range and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// Name of the file, as the user gave it.
    pub file: String,
    /// The whole text, invalid UTF-8 replaced.
    pub text: String,
    /// Byte range in `text` that is underlined; always within it.
    pub range: Range<usize>,
    /// What is written beside the underlined part.
    pub label: String,
}

impl Excerpt {
    /// Points at `span` of the file `name` with these `bytes`.
    #[must_use]
    pub fn new(name: &str, bytes: &[u8], span: Span, label: impl Into<String>) -> Self {
        let valid = std::str::from_utf8(bytes).is_ok();
        let text = String::from_utf8_lossy(bytes).into_owned();
        // Replacing bytes moves offsets: point at whole lines then.
        let range = if valid {
            clamp(&text, span.start..span.end)
        } else {
            lines(&text, span.first_line, span.last_line)
        };
        Self { file: name.to_owned(), text, range, label: label.into() }
    }
}

fn clamp(text: &str, range: Range<usize>) -> Range<usize> {
    let floor = |mut index: usize| {
        index = index.min(text.len());
        while !text.is_char_boundary(index) {
            index -= 1;
        }
        index
    };
    let start = floor(range.start);
    let end = floor(range.end).max(start);
    // A line end at the end would underline the next line.
    start..start + text[start..end].trim_end().len()
}

fn lines(text: &str, first: u32, last: u32) -> Range<usize> {
    let mut offset = 0;
    let (mut start, mut end) = (None, 0);
    for (number, line) in (1_u32..).zip(text.split_inclusive('\n')) {
        if (first..=last).contains(&number) {
            start.get_or_insert(offset);
            end = offset + line.trim_end().len();
        }
        offset += line.len();
    }
    let start = start.unwrap_or(0);
    start..end.max(start)
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
    #[error("`{command}` ended with exit code {code}")]
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
    /// The user stopped the build.
    #[error("the build was cancelled")]
    Cancelled,
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
        fmt::Display::fmt(&self.kind, f)
    }
}

impl Error for BuildError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.kind.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_at_the_text() {
        let text = b"FROM a\nCOPY \xc3\xa9 /\n";
        let span = Span { start: 12, end: 17, first_line: 2, last_line: 2 };
        let excerpt = Excerpt::new("Dockerfile", text, span, "");
        assert_eq!(&excerpt.text[excerpt.range], "\u{e9} /");
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
