//! Where output goes: data to standard output, everything else to standard error.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::{Mutex, PoisonError},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};

use crate::{
    error::{CliError, io_error},
    format::visible,
};

/// The footer of standard error, while there is one.
static FOOTER: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// Bars at the bottom of standard error, as long as this lives: whoever writes a line in the
/// meantime, it comes to stand above them.
pub(crate) struct Footer(MultiProgress);

impl Footer {
    pub(crate) fn new() -> Self {
        Self::on(ProgressDrawTarget::stderr())
    }

    fn on(target: ProgressDrawTarget) -> Self {
        let bars = MultiProgress::with_draw_target(target);
        *FOOTER.lock().unwrap_or_else(PoisonError::into_inner) = Some(bars.clone());
        Self(bars)
    }

    /// Adds a bar without a known end below the others.
    pub(crate) fn add(&self) -> ProgressBar {
        self.0.add(ProgressBar::new_spinner())
    }

    pub(crate) fn remove(&self, bar: &ProgressBar) {
        self.0.remove(bar);
    }
}

impl Drop for Footer {
    fn drop(&mut self) {
        *FOOTER.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Writes text to standard output as it is.
///
/// # Errors
/// When the reader has gone, which ends the command quietly.
pub(crate) fn data(text: &str) -> Result<(), CliError> {
    bytes(text.as_bytes())
}

/// Writes bytes to standard output as they are.
///
/// # Errors
/// As [`data`].
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(io_error)
}

/// Writes one line to standard output.
///
/// # Errors
/// As [`data`].
pub(crate) fn line(text: &str) -> Result<(), CliError> {
    data(&format!("{text}\n"))
}

/// Writes one line of progress or diagnostics to standard error.
pub(crate) fn note(text: &str) {
    let footer = FOOTER.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let write = || {
        let mut stderr = io::stderr().lock();
        // There is nowhere left to report that standard error is closed.
        drop(stderr.write_all(format!("{text}\n").as_bytes()));
    };
    match footer {
        Some(footer) => footer.suspend(write),
        None => write(),
    }
}

/// Shows a warning and asks whether to go on; anything but `y` means no.
///
/// # Errors
/// When standard input cannot be read.
pub(crate) fn confirm(warning: &str) -> Result<bool, CliError> {
    let mut stderr = io::stderr().lock();
    let question = format!("{warning}\nAre you sure you want to continue? [y/N] ");
    stderr.write_all(question.as_bytes()).and_then(|()| stderr.flush()).map_err(io_error)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(io_error)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes" | "YES"))
}

/// Writes a rendered error to standard error, its labels in colour on a terminal.
pub(crate) fn error(text: &str) {
    labelled(&neutral(text));
}

/// Shows control characters but line ends as text: an error repeats what an image, a registry or a
/// user said.
#[must_use]
pub(crate) fn neutral(text: &str) -> String {
    text.lines().map(visible).collect::<Vec<_>>().join("\n")
}

/// Writes to standard error, labels in colour on a terminal; the text is [`neutral`] already.
pub(crate) fn labelled(text: &str) {
    if !use_color() {
        return note(text);
    }
    let colored: Vec<String> = text.lines().map(color_label).collect();
    note(&colored.join("\n"));
}

fn color_label(line: &str) -> String {
    for (label, code) in [("error:", 31), ("caused by:", 33), ("hint:", 36), ("warning:", 33)] {
        if let Some(rest) = line.strip_prefix(label) {
            return format!("\x1b[1;{code}m{label}\x1b[0m{rest}");
        }
    }
    line.to_owned()
}

/// Tells whether standard error shows bars: a terminal that is known to move its cursor (`TERM`).
#[must_use]
pub(crate) fn can_draw() -> bool {
    let is_capable = |term: &std::ffi::OsString| term != "dumb";
    io::stderr().is_terminal() && std::env::var_os("TERM").as_ref().is_some_and(is_capable)
}

/// Tells whether standard error may be coloured (`NO_COLOR`, `CLICOLOR_FORCE`, a terminal that is
/// not `dumb`).
#[must_use]
pub(crate) fn use_color() -> bool {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    wants_color(variable, || io::stderr().is_terminal())
}

/// As [`use_color`], for standard output.
#[must_use]
pub(crate) fn use_color_on_stdout() -> bool {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    wants_color(variable, || io::stdout().is_terminal())
}

fn wants_color(
    variable: impl Fn(&str) -> Option<std::ffi::OsString>,
    is_terminal: impl Fn() -> bool,
) -> bool {
    let is_dumb = || variable("TERM").is_some_and(|term| term == "dumb");
    variable("NO_COLOR").is_none()
        && (variable("CLICOLOR_FORCE").is_some() || (is_terminal() && !is_dumb()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use indicatif::TermLike;

    use super::*;
    use crate::warnings::Warnings;

    #[test]
    fn colour_is_for_terminals_that_have_it() {
        let wants = |set: &[(&str, &str)], terminal: bool| {
            let variable = |name: &str| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into())
            };
            wants_color(variable, || terminal)
        };
        assert!(wants(&[], true) && wants(&[("TERM", "xterm")], true));
        assert!(wants(&[("TERM", "dumb"), ("CLICOLOR_FORCE", "1")], false));
        for set in [&[("TERM", "dumb")][..], &[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")]] {
            assert!(!wants(set, true), "{set:?}");
        }
        assert!(!wants(&[], false));
    }

    /// Notes what is drawn (`bar`), and what is wiped (`clear`).
    #[derive(Clone, Debug, Default)]
    struct Recorder(Arc<Mutex<Vec<&'static str>>>);

    impl Recorder {
        fn note(&self, what: &'static str) -> io::Result<()> {
            self.0.lock().unwrap().push(what);
            Ok(())
        }

        fn take(&self) -> Vec<&'static str> {
            let mut all = std::mem::take(&mut *self.0.lock().unwrap());
            all.dedup();
            all
        }
    }

    impl TermLike for Recorder {
        fn width(&self) -> u16 {
            80
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            if text.trim().is_empty() { Ok(()) } else { self.note("bar") }
        }

        fn clear_line(&self) -> io::Result<()> {
            self.note("clear")
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Bars are wiped before a line is written and drawn again below it.
    #[test]
    fn warnings_stand_above_the_bars() {
        let recorder = Recorder::default();
        let target = ProgressDrawTarget::term_like(Box::new(recorder.clone()));
        let footer = Footer::on(target);
        let bar = footer.add();
        bar.set_message("Downloading");
        bar.tick();
        assert!(recorder.take().contains(&"bar"));
        tracing::subscriber::with_default(Warnings, || {
            tracing::warn!(target: "davit_distribution::retry", "try 2 of 5");
            assert_eq!(recorder.take(), ["clear", "bar"]);
            tracing::info!(target: "davit_distribution::retry", "nothing to be shown");
            assert_eq!(recorder.take(), [""; 0]);
        });
        drop(footer);
        note("a line");
        assert_eq!(recorder.take(), [""; 0], "the bars are over");
    }
}
