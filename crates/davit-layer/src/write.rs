//! Writing a layer: changes in path order -> deterministic tar + table + DiffID in one pass.
//!
//! The bytes depend on the changes alone: ustar headers, PAX records only where ustar cannot say
//! it, whole seconds, no user names (`docs/formats/layer.md`; golden tests freeze them).

use std::{fs::File, io, sync::Arc};

use crate::{Extent, Mtime, Table, XattrMap};

/// One path of a layer to write.
#[derive(Clone, Debug)]
pub struct Change {
    /// Path as in [`Entry::path`](crate::Entry::path).
    pub path: Vec<u8>,
    /// What is to be there.
    pub kind: ChangeKind,
    /// Permission bits, `0o7777` at most.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification; written as whole seconds.
    pub mtime: Mtime,
    /// Extended attributes; [`WriteOptions::xattrs`] says which are written.
    pub xattrs: XattrMap,
}

/// What a [`Change`] puts at its path.
#[derive(Clone, Debug)]
pub enum ChangeKind {
    /// A regular file of `size` bytes.
    File {
        /// Length in bytes.
        size: u64,
        /// Where the bytes come from.
        source: Source,
    },
    /// A directory; what the layers below have in it stays.
    Directory,
    /// A directory that hides what the layers below have in it.
    OpaqueDirectory,
    /// A symbolic link.
    Symlink {
        /// Its target.
        target: Vec<u8>,
    },
    /// A further name for the file at `target`, an earlier path of this layer.
    HardLink {
        /// Path of the file.
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// What the layers below have here goes.
    Whiteout,
}

/// Where the content of a file comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Bytes in memory.
    Bytes(Arc<[u8]>),
    /// Ranges of another layer's tar; holes read as zeros.
    Tar {
        /// The tar.
        tar: Arc<File>,
        /// The ranges, in file order.
        extents: Vec<Extent>,
    },
    /// A file that [`Opener::open`] gives when its turn comes.
    Opened,
}

/// Opens files whose change says [`Source::Opened`]; called from several threads.
pub trait Opener: Sync {
    /// Opens the content of `changes[position]` for reading from its start.
    ///
    /// # Errors
    /// Whatever keeps it from being opened.
    fn open(&self, position: usize, change: &Change) -> io::Result<File>;
}

/// Which xattrs a layer carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XattrPolicy {
    /// `security.capability` only, as BuildKit's layers.
    #[default]
    Capability,
    /// All that a layer may carry.
    All,
}

/// How to write a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Times after this are written as this (`SOURCE_DATE_EPOCH`), in seconds since 1970.
    pub epoch: Option<i64>,
    /// Which xattrs are written.
    pub xattrs: XattrPolicy,
    /// Threads that read contents; 0 counts as 1. The bytes do not depend on it.
    pub readers: usize,
}

/// Why a layer cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The tar cannot be written.
    #[error("cannot write the layer")]
    Write(#[source] io::Error),
}

/// Writes a layer of `changes`, which are sorted by [`path::compare`](crate::path::compare), each
/// path once, each with its parents before it, to `tar`.
///
/// Blocks; nothing is synced.
///
/// # Errors
/// [`WriteError`] if a content cannot be read, changes while it is read, or the changes are no
/// valid layer.
pub fn write_layer(
    changes: &[Change],
    opener: &dyn Opener,
    tar: &mut dyn io::Write,
    options: &WriteOptions,
) -> Result<Table, WriteError> {
    let _ = (changes, opener, tar, options);
    todo!("published for its signature")
}
