//! What is wrong with a Compose file.

use std::{fmt, sync::Arc};

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file's name as it was given.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What is wrong with a Compose file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ComposeError {
    /// A text that is no YAML.
    #[error("{place}: {problem}")]
    Syntax {
        /// Where.
        place: Place,
        /// What is wrong.
        problem: String,
    },
    /// A file that is larger than may be, or whose aliases make it so.
    #[error("{0}: the file is too large, or its aliases make it so")]
    Large(Arc<str>),
    /// A value that no `${…}` can be replaced in.
    #[error("{place}: {problem}")]
    Variable {
        /// Where.
        place: Place,
        /// What is wrong.
        problem: String,
    },
    /// A value of the wrong form.
    #[error("{place}: {key} is not {wanted}")]
    Form {
        /// Where.
        place: Place,
        /// Which key has it.
        key: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// A key that is not known.
    #[error("{place}: there is no key `{key}`")]
    Key {
        /// Where.
        place: Place,
        /// The key.
        key: String,
    },
    /// A service that another is made of, and that is not there.
    #[error("{place}: there is no service `{name}` to extend")]
    NoService {
        /// Where.
        place: Place,
        /// The service.
        name: String,
    },
    /// A service that is made of itself, or of too many.
    #[error("{place}: the service `{name}` extends itself")]
    Cycle {
        /// Where.
        place: Place,
        /// The service.
        name: String,
    },
    /// A file that includes itself, or too many one within the other.
    #[error("{place}: {name} includes itself, or is included too deep")]
    Circle {
        /// Where it is included.
        place: Place,
        /// The file.
        name: String,
    },
    /// A key whose meaning is not supported.
    #[error("{place}: `{key}` is not supported")]
    Unsupported {
        /// Where.
        place: Place,
        /// The key.
        key: &'static str,
    },
    /// A file that another names, and that cannot be read.
    #[error("{place}: {path}: {problem}")]
    File {
        /// Where it is named.
        place: Place,
        /// The file.
        path: String,
        /// Why it cannot be read.
        problem: String,
    },
    /// A line of variables that is none.
    #[error("{file}:{line}: {problem}")]
    Dotenv {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
}
