//! Writing a merged tree into a directory, where EROFS cannot be mounted.

use std::{fs::File, io, os::fd::BorrowedFd, sync::Arc};

use crate::Merged;

/// How to extract.
#[derive(Clone, Debug, Default)]
pub struct ExtractOptions {
    /// Threads that write files; 0 counts as 1.
    pub workers: usize,
    /// What to do where the process lacks a privilege.
    pub privilege: Privilege,
}

/// What the process may do on the target file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Privilege {
    /// Everything; what fails is an error.
    #[default]
    Full,
    /// No foreign owners, devices or `trusted.`/`security.` xattrs: they are left out.
    Unprivileged,
}

/// Why a tree cannot be extracted.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// A path cannot be made.
    #[error("cannot write `{path}`")]
    Write {
        /// The path below the target directory.
        path: String,
        /// What the system reports.
        #[source]
        source: io::Error,
    },
}

/// Writes the own nodes of `merged` into the empty directory `target`: content from `tars` (those
/// of all layers, bottom first), owners, modes, times, xattrs, devices, hard links. In a tree on a
/// base, whiteouts and opaque marks are written in overlayfs' form.
///
/// Blocks; nothing is synced.
///
/// # Errors
/// [`ExtractError`] names the path.
pub fn extract(
    merged: &Merged,
    tars: &[Arc<File>],
    target: BorrowedFd<'_>,
    options: &ExtractOptions,
) -> Result<(), ExtractError> {
    let _ = (merged, tars, target, options);
    todo!("published for its signature")
}
