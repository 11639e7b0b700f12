//! `--check --fix`: mends the Dockerfile itself.

use std::{
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use davit_engine::build::{Checked, Question, Warning};

use super::Asked;
use crate::{
    error::{CliError, io_error},
    printer,
};

/// Mending may uncover what hid behind it, but not without end.
const ROUNDS: usize = 4;

/// What is left behind a fix.
pub(super) struct Left {
    /// What the checks find in the new text.
    pub(super) checked: Checked,
    /// Why each of these warnings is still there, in their order.
    pub(super) reasons: Vec<&'static str>,
}

/// Checks and mends until nothing is left to mend, then replaces the file at `path`.
pub(super) fn run(
    asked: &Asked<'_>,
    question: &mut Question<'_>,
    path: &Path,
) -> Result<Left, CliError> {
    let before = question.request.dockerfile.bytes.clone();
    let mut mended: Vec<Warning> = Vec::new();
    let mut rounds = 0;
    loop {
        rounds += 1;
        let mut checked =
            asked.engine.check_build(question).map_err(|error| asked.failed(error))?;
        let found = checked.checks.mend().filter(|_| checked.is_whole());
        match found {
            Some(found) if !found.mended.is_empty() && rounds <= ROUNDS => {
                mended.extend(found.mended);
                question.request.dockerfile.bytes = found.text;
            }
            found => {
                let left = found.map(|found| found.left).unwrap_or_default();
                let (warnings, reasons) = left.into_iter().unzip();
                if checked.is_whole() {
                    checked.checks.warnings = warnings;
                }
                if !mended.is_empty() {
                    replace(path, &before, &question.request.dockerfile.bytes)?;
                }
                tell(&question.request.dockerfile.name, &mended);
                return Ok(Left { checked, reasons });
            }
        }
    }
}

fn tell(file: &str, mended: &[Warning]) {
    for warning in mended {
        let line = warning.focus.first_line;
        printer::note(&printer::neutral(&format!("fixed {file}:{line}: {}", warning.rule)));
    }
    if mended.is_empty() {
        printer::note("nothing to fix");
    }
}

/// Replaces a file at once, owner and mode kept; a symlink to it stays one.
fn replace(path: &Path, before: &[u8], after: &[u8]) -> Result<(), CliError> {
    let path = fs_err::canonicalize(path).map_err(io_error)?;
    if fs_err::read(&path).map_err(io_error)? != before {
        let message =
            format!("{} changed while it was checked; nothing was written", path.display());
        return Err(CliError::user(message));
    }
    let new = beside(&path);
    let written = write(&path, &new, after);
    if written.is_err() {
        // The first error tells why.
        drop(fs_err::remove_file(&new));
    }
    written.map_err(io_error)
}

fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.davit-{}", std::process::id()))
}

fn write(path: &Path, new: &Path, text: &[u8]) -> io::Result<()> {
    let facts = fs_err::metadata(path)?;
    let mut file = fs_err::File::create_new(new)?;
    file.write_all(text)?;
    std::os::unix::fs::fchown(&file, Some(facts.uid()), Some(facts.gid()))?;
    file.set_permissions(facts.permissions())?;
    file.sync_all()?;
    fs_err::rename(new, path)
}
