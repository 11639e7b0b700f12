//! Where output goes: data to standard output, everything else to standard error.

use std::io::{self, IsTerminal as _, Write as _};

use crate::{
    error::{CliError, io_error},
    format::visible,
};

/// Writes text to standard output as it is.
///
/// # Errors
/// When the reader has gone, which ends the command quietly.
pub(crate) fn data(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(io_error)
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
    let mut stderr = io::stderr().lock();
    // There is nowhere left to report that standard error is closed.
    drop(stderr.write_all(format!("{text}\n").as_bytes()));
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
    // An error repeats what an image, a registry or a user said.
    let text: Vec<String> = text.lines().map(visible).collect();
    let text = text.join("\n");
    if !use_color() {
        return note(&text);
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

/// Tells whether standard error may be coloured (`NO_COLOR`, `CLICOLOR_FORCE`, a terminal).
#[must_use]
pub(crate) fn use_color() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && (set("CLICOLOR_FORCE") || io::stderr().is_terminal())
}
