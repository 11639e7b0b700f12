//! Finding what a layer must hold to turn one tree into another.
//!
//! Whatever comes out carries the parents of each change, writes opaque directories as a whiteout for
//! each hidden name (other tools read that better), and leaves out what did not change: copied-up
//! files that nobody wrote to, directories that were only looked into.

mod compare;
mod directory;
mod merged;

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::{Change, Merged, Opener, XattrPolicy, table::printable};

/// Changes of a tree, and how to open the files that they name.
#[derive(Debug)]
pub struct Changes {
    /// In path order, parents included: ready for [`write_layer`](crate::write_layer).
    pub changes: Vec<Change>,
    root: OwnedFd,
}

impl Opener for Changes {
    fn open(&self, _position: usize, change: &Change) -> io::Result<File> {
        open_below(self.root.as_fd(), &change.path, OFlags::NONBLOCK).map(File::from)
    }
}

/// Opens a path below `root` for reading; no symlink is followed.
fn open_below(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(root, path, flags, Mode::empty(), inside)?)
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

impl DiffError {
    fn read(path: &[u8], source: impl Into<io::Error>) -> Self {
        Self::Read { path: printable(path), source: source.into() }
    }
}

/// What a tree is compared with.
#[derive(Clone, Copy, Debug)]
pub struct Lower<'a> {
    /// The layers below.
    pub merged: &'a Merged,
    /// The tars of all its layers, bottom first.
    pub tars: &'a [Arc<File>],
    /// Which xattrs count; the layer should be written with the same policy.
    pub xattrs: XattrPolicy,
}

/// Finds what an overlay's upper directory changes on `lower`: char 0:0 and xattr whiteouts,
/// opaque directories, hard links; sockets, whiteouts of nothing and copied-up but unchanged files
/// are left out. Overlay options as in the mount: `index=off,redirect_dir=off,metacopy=off`.
///
/// The upper directory itself stands for the root: give it the root's owner and mode before it is
/// mounted, or they count as changed. Content is compared only where everything else agrees and the
/// layer knows whole seconds only. Needs `/proc`.
///
/// # Errors
/// [`DiffError`] if something cannot be read.
pub fn diff_upper(upper: BorrowedFd<'_>, lower: &Lower<'_>) -> Result<Changes, DiffError> {
    directory::diff(upper, lower, directory::Tree::Upper)
}

/// Finds what changes `lower` into the directory tree at `root`, without an overlay: a missing name
/// is a removed one.
///
/// # Errors
/// [`DiffError`] if something cannot be read.
pub fn diff_directory(root: BorrowedFd<'_>, lower: &Lower<'_>) -> Result<Changes, DiffError> {
    directory::diff(root, lower, directory::Tree::Whole)
}

/// Finds what changes `lower` into `upper`, by their tables alone: a file counts as unchanged if it
/// is the same entry of the same layer, or if metadata, size and content agree. Contents of the
/// changes are ranges of `tars`, those of `upper`'s layers.
///
/// # Errors
/// [`DiffError`] if contents cannot be compared.
pub fn diff_merged(
    lower: &Lower<'_>,
    upper: &Merged,
    tars: &[Arc<File>],
) -> Result<Vec<Change>, DiffError> {
    merged::diff(lower, upper, tars)
}
