//! What is told of the git repository that a context is part of; buildx has variables for it, no flags.

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
    path::Path,
    process::{Command, Stdio},
};

use davit_engine::build::{
    BuildRequest, ContextSource, Repository, dockerfile_path, repository_of,
};

use super::attest::flag;
use crate::{
    environment::variable_text,
    error::{CliError, io_error},
};

/// Whether provenance and history tell the repository and its commit.
const INFO: &str = "BUILDX_GIT_INFO";
/// Whether the image has them as labels.
const LABELS: &str = "BUILDX_GIT_LABELS";
/// Whether a commit whose checkout was changed is told as such.
const CHECK_DIRTY: &str = "BUILDX_GIT_CHECK_DIRTY";

const REVISION: &str = "org.opencontainers.image.revision";
const SOURCE: &str = "org.opencontainers.image.source";
const ENTRYPOINT: &str = "com.docker.image.source.entrypoint";

/// A truth value of the environment; what is none counts for nothing, as with buildx.
fn switch(name: &str, unset: bool) -> bool {
    variable_text(name).and_then(|value| flag(&value)).unwrap_or(unset)
}

/// Finds the repository, and labels the image with it if that is wished.
pub(super) fn repository(request: &mut BuildRequest) -> Result<Option<Repository>, CliError> {
    let ContextSource::Directory(path) = &request.context else { return Ok(None) };
    let is_told = switch(INFO, true);
    let has_labels =
        variable_text(LABELS).is_some_and(|value| value == "full") || switch(LABELS, false);
    if !is_told && !has_labels {
        return Ok(None);
    }
    let Some(mut repository) = repository_of(path) else { return Ok(None) };
    if !repository.revision.is_empty() && switch(CHECK_DIRTY, false) && is_dirty(path)? {
        repository.revision.push_str("-dirty");
    }
    if has_labels {
        let labels = labels(request, &repository);
        request.labels.extend(labels);
    }
    Ok(is_told.then_some(repository))
}

fn labels(request: &BuildRequest, repository: &Repository) -> BTreeMap<String, String> {
    let dockerfile = dockerfile_path(request).and_then(|path| repository.place(&path));
    let facts = [
        (REVISION, Some(repository.revision.clone())),
        (SOURCE, Some(repository.url.clone())),
        (ENTRYPOINT, dockerfile),
    ];
    let known = facts.into_iter().filter_map(|(name, value)| Some((name, value?)));
    known.filter(|(_, it)| !it.is_empty()).map(|(name, it)| (name.to_owned(), it)).collect()
}

/// Whether a checkout differs from its commit, by the host's git; what that refuses to look at does.
fn is_dirty(path: &Path) -> Result<bool, CliError> {
    // No program of the repository's choice runs.
    let settings = ["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-C"];
    let mut git = Command::new("git");
    git.args(settings).arg(path).args(["status", "--porcelain", "--ignored"]);
    git.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut git = git.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => CliError::user(format!("{CHECK_DIRTY} needs git")),
        _ => io_error(error),
    })?;
    // One change is enough; git ends when nobody reads more of them.
    let stdout = git.stdout.take();
    let has_changes = stdout.map_or(Ok(0), |mut it| it.read(&mut [0])).map_err(io_error)? > 0;
    let status = git.wait().map_err(io_error)?;
    Ok(has_changes || !status.success())
}
