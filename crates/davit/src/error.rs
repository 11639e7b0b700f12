//! How errors reach the user: `error:`, `caused by:`, `hint:`, and the exit code.

use std::{error::Error, fmt, io, process::ExitCode};

use davit_engine::Hint;

use crate::printer::neutral;

/// Who can mend an error, which decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// The request could not be fulfilled: 1.
    User,
    /// A flag is wrong: 125.
    Usage,
    /// A fixed exit code, as `run` and `exec` have them (125, 126, 127).
    Code(u8),
}

/// An error on its way to the user.
#[derive(Debug)]
pub(crate) struct CliError {
    kind: ErrorKind,
    source: Box<dyn Error + Send + Sync>,
    excerpt: Option<String>,
    hints: Vec<String>,
}

impl CliError {
    /// An error of the given kind with the given text.
    pub(crate) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self { kind, source: text.into().into(), excerpt: None, hints: Vec::new() }
    }

    /// A refused request.
    pub(crate) fn user(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::User, text)
    }

    /// An error that has no advice of its own.
    pub(crate) fn of(error: impl Error + Send + Sync + 'static) -> Self {
        let source = Box::new(error);
        Self { kind: ErrorKind::User, source, excerpt: None, hints: Vec::new() }
    }

    /// A wrong flag, or a value that it does not take.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, text)
    }

    /// Adds a line of advice.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Says which target of a definition it is about.
    #[must_use]
    pub(crate) fn of_target(self, target: &str) -> Self {
        let hint = format!("the target `{target}` failed");
        self.hint(hint)
    }

    /// Shows the part of a file that the error speaks of below its text, as it is: colours and all.
    #[must_use]
    pub(crate) fn excerpt(mut self, excerpt: String) -> Self {
        self.excerpt = Some(excerpt);
        self
    }

    /// Ends the process with `code` instead of the kind's own.
    #[must_use]
    pub(crate) const fn with_code(mut self, code: u8) -> Self {
        self.kind = ErrorKind::Code(code);
        self
    }

    /// The exit code.
    #[must_use]
    pub(crate) const fn code(&self) -> u8 {
        match self.kind {
            ErrorKind::User => 1,
            ErrorKind::Usage => 125,
            ErrorKind::Code(code) => code,
        }
    }

    /// Prints the error to standard error; returns its exit code.
    pub(crate) fn report(&self) -> ExitCode {
        // A reader that went away (`davit ps | head -1`) is no failure worth words.
        if !self.is_broken_pipe() {
            crate::printer::labelled(&self.to_string());
        }
        ExitCode::from(self.code())
    }

    fn is_broken_pipe(&self) -> bool {
        let mut cause: Option<&(dyn Error + 'static)> = Some(self.source.as_ref());
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<io::Error>()
                && io.kind() == io::ErrorKind::BrokenPipe
            {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", neutral(&self.source.to_string()))?;
        if let Some(excerpt) = &self.excerpt {
            write!(f, "\n{excerpt}")?;
        }
        let mut cause = self.source.source();
        while let Some(error) = cause {
            write!(f, "\ncaused by: {}", neutral(&error.to_string()))?;
            cause = error.source();
        }
        if !self.hints.is_empty() {
            f.write_str("\n")?;
        }
        for hint in &self.hints {
            write!(f, "\nhint: {}", neutral(hint))?;
        }
        Ok(())
    }
}

impl<E: Hint + Send + Sync + 'static> From<E> for CliError {
    fn from(error: E) -> Self {
        Self { kind: ErrorKind::User, hints: error.hints(), excerpt: None, source: Box::new(error) }
    }
}

/// Makes an IO error of the command's own streams and files one for the user.
pub(crate) fn io_error(error: io::Error) -> CliError {
    CliError { kind: ErrorKind::User, source: Box::new(error), excerpt: None, hints: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot pull `alpine`")]
    struct Outer(#[source] io::Error);

    impl Hint for Outer {
        fn hints(&self) -> Vec<String> {
            vec!["davit login".to_owned()]
        }
    }

    #[test]
    fn shows_causes_and_hints() {
        let error = CliError::from(Outer(io::Error::other("connection refused")));
        assert_eq!(
            error.to_string(),
            "error: cannot pull `alpine`\ncaused by: connection refused\n\nhint: davit login"
        );
        assert_eq!((error.code(), error.with_code(125).code()), (1, 125));
    }

    #[test]
    fn a_broken_pipe_is_quiet() {
        let pipe = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(CliError::from(Outer(pipe)).is_broken_pipe());
        assert!(!CliError::user("x").is_broken_pipe());
    }
}
