//! Finding what a layer must hold to turn one tree into another.

use std::{fs::File, io, os::fd::BorrowedFd, sync::Arc};

use crate::{Change, Merged, Opener};

/// Changes of a tree, and how to open the files that they name.
#[derive(Debug)]
pub struct Changes {
    /// In path order, parents included: ready for [`write_layer`](crate::write_layer).
    pub changes: Vec<Change>,
    root: std::os::fd::OwnedFd,
}

impl Opener for Changes {
    fn open(&self, position: usize, change: &Change) -> io::Result<File> {
        let _ = (position, change, &self.root);
        todo!("published for its signature")
    }
}

/// Why a tree cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// A path cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The path below the root of the tree.
        path: String,
        /// What the system reports.
        #[source]
        source: io::Error,
    },
}

/// Finds what an overlay's upper directory changes on `lower`: char 0:0 and xattr whiteouts,
/// opaque directories, hard links; sockets, whiteouts of nothing and copied-up but unchanged files
/// are left out. Overlay options as in the mount: `index=off,redirect_dir=off,metacopy=off`.
///
/// `tars` are the tars of `lower`'s layers, bottom first; content is compared only where size and
/// metadata agree and the layer knows whole seconds only.
///
/// # Errors
/// [`DiffError`] if something cannot be read.
pub fn diff_upper(
    upper: BorrowedFd<'_>,
    lower: &Merged,
    tars: &[Arc<File>],
) -> Result<Changes, DiffError> {
    let _ = (upper, lower, tars);
    todo!("published for its signature")
}

/// Finds what changes `lower` into the directory tree at `root`, without an overlay.
///
/// # Errors
/// [`DiffError`] if something cannot be read.
pub fn diff_directory(
    root: BorrowedFd<'_>,
    lower: &Merged,
    tars: &[Arc<File>],
) -> Result<Changes, DiffError> {
    let _ = (root, lower, tars);
    todo!("published for its signature")
}

/// Finds what changes `lower` into `upper`, by their tables alone: a file counts as unchanged if it
/// is the same entry of the same layer, or if metadata, size and content agree.
///
/// # Errors
/// [`DiffError`] if contents cannot be compared.
pub fn diff_merged(
    lower: &Merged,
    upper: &Merged,
    tars: &[Arc<File>],
) -> Result<Vec<Change>, DiffError> {
    let _ = (lower, upper, tars);
    todo!("published for its signature")
}
