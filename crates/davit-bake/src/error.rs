//! What is wrong with a definition.

use std::{fmt, sync::Arc};

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file's name as it was given.
    pub file: Arc<str>,
    /// The line, from 1; 0 where the format does not tell.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// A name that nothing has.
    #[error("there is no {what} `{name}`")]
    Unknown {
        /// What it would be.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A value of the wrong type.
    #[error("{found} is not {wanted}")]
    Type {
        /// What is needed.
        wanted: &'static str,
        /// What is there.
        found: String,
    },
    /// A function that cannot do what it is asked.
    #[error("{function}: {problem}")]
    Call {
        /// The function.
        function: String,
        /// What is wrong.
        problem: String,
    },
    /// A value that is made of itself.
    #[error("`{0}` is made of itself")]
    Cycle(String),
    /// A division by zero, or a number that is none.
    #[error("the result is not a number")]
    Number,
    /// A value that takes too much.
    #[error("the definition takes too many steps or too much memory")]
    Budget,
    /// Calls that are nested too deep.
    #[error("the expression is nested too deep")]
    Depth,
    /// A template within a JSON string that is none.
    #[error("not a template: {0}")]
    Template(String),
    /// A variable whose value its definition forbids.
    #[error("{0}")]
    Invalid(String),
}

/// What is wrong with a definition, or with what is asked of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BakeError {
    /// A file that cannot be read as its format.
    #[error("{place}: {problem}")]
    Syntax {
        /// Where.
        place: Place,
        /// The parser's words.
        problem: String,
    },
    /// A Compose file that cannot be used.
    #[error(transparent)]
    Compose(#[from] davit_composefile::ComposeError),
    /// A Compose file without services.
    #[error("{0}: the file has no services")]
    NoService(String),
    /// A file that is too large.
    #[error("{0}: the file is larger than 1 MiB")]
    Large(String),
    /// A value that cannot be found.
    #[error("{place}: {name}")]
    Value {
        /// Where.
        place: Place,
        /// Attribute or variable.
        name: String,
        /// Why.
        #[source]
        source: ValueError,
    },
    /// A value that comes from outside the files.
    #[error("variable `{name}`")]
    Variable {
        /// The variable.
        name: String,
        /// Why.
        #[source]
        source: ValueError,
    },
    /// A block or attribute that is not known.
    #[error("{place}: there is no {what} `{name}`")]
    Unknown {
        /// Where.
        place: Place,
        /// What it would be.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A target or group that is not defined.
    #[error("there is no target `{name}`")]
    NoTarget {
        /// Its name.
        name: String,
        /// The name that was perhaps meant.
        near: Option<String>,
    },
    /// A target that is built of itself.
    #[error("the target `{0}` is made of itself")]
    Cycle(String),
    /// A target for platforms that what it is built of has not.
    #[error("the target `{target}` has platforms that `{of}`, which it is built of, has not")]
    Platforms {
        /// The target.
        target: String,
        /// What it is built of.
        of: String,
    },
    /// `--set` that is not of its form.
    #[error("--set `{text}`: {problem}")]
    Override {
        /// As typed.
        text: String,
        /// What is wrong.
        problem: String,
    },
    /// Targets that together take too much, mostly of what they inherit.
    #[error("the targets take too much memory")]
    Heavy,
    /// More than a definition may have.
    #[error("the definition has more than {0} blocks or targets")]
    Many(usize),
}
