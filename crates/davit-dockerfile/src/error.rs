//! Errors of the parser.

use crate::Span;

/// Why a text is no Dockerfile, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct ParseError {
    /// What is wrong.
    pub kind: ParseErrorKind,
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
