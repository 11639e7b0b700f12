//! References as the user types them.

use davit_engine::image::{Reference, Repository};

use crate::{error::CliError, printer, progress::ProgressMode};

/// Whether a tag that was assumed is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TagNote {
    /// On standard error, as Docker does.
    Shown,
    /// Not at all.
    Silent,
}

impl TagNote {
    /// Silent for `--quiet`.
    pub(crate) const fn unless(quiet: bool) -> Self {
        if quiet { Self::Silent } else { Self::Shown }
    }

    /// Silent where progress is nothing or JSON.
    pub(crate) const fn of(progress: ProgressMode) -> Self {
        Self::unless(matches!(progress, ProgressMode::Quiet | ProgressMode::Json))
    }
}

/// Parses a reference; tells which tag was assumed.
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn parse(text: &str, note: TagNote) -> Result<Reference, CliError> {
    let reference: Reference =
        text.parse().map_err(|error| CliError::user(format!("invalid reference: {error}")))?;
    // The last part names a tag or digest only after a colon or an at sign.
    let last = text.rsplit('/').next().unwrap_or(text);
    if note == TagNote::Shown && !last.contains([':', '@']) {
        printer::note("Using default tag: latest");
    }
    Ok(reference)
}

/// Parses the name of an image that is about to be made.
///
/// # Errors
/// What is wrong with the text, or a digest in it: that follows from the image.
pub(crate) fn new_name(text: &str) -> Result<Reference, CliError> {
    let reference = parse(text, TagNote::Silent)?;
    if reference.repository().familiar() == "sha256" {
        let text = "refusing to create an ambiguous tag using digest algorithm as name";
        return Err(CliError::user(text));
    }
    match reference.digest() {
        Some(_) => Err(CliError::user("invalid reference: a new name cannot have a digest")),
        None => Ok(reference),
    }
}

/// Parses a repository, without a tag or digest.
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn repository(text: &str) -> Result<Repository, CliError> {
    let last = text.rsplit('/').next().unwrap_or(text);
    if last.contains([':', '@']) {
        return Err(CliError::user("a tag can't be used with --all-tags/-a"));
    }
    text.parse().map_err(|error| CliError::user(format!("invalid reference: {error}")))
}
