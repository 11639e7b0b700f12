//! File steps of the commit protocol: sync, rename without replacing, sync the directory.

use std::path::Path;

use fs_err as fs;
use rustix::fs::{CWD, RenameFlags};

use crate::{StoreError, regular};

/// When a committed thing must survive power loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// At once: synced before it is named, committed with `synchronous=FULL`.
    Durable,
    /// Later: marked with this boot's id until something durable names it. A build's steps and a
    /// pull's layers go this way; [`crate::Store::commit_images`] syncs what it names.
    Lazy,
}

/// Syncs a file's content and size.
pub(crate) fn sync_file(path: &Path) -> Result<(), StoreError> {
    let file = regular::open(path).map_err(|e| StoreError::io("open", path, e))?;
    rustix::fs::fdatasync(&file).map_err(|e| StoreError::io("sync", path, e))
}

/// Syncs a directory's names.
pub(crate) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    let dir = fs::File::open(path).map_err(|e| StoreError::io("open", path, e))?;
    rustix::fs::fsync(&dir).map_err(|e| StoreError::io("sync", path, e))
}

/// Renames onto a free name; `false` when it is taken.
pub(crate) fn rename_new(from: &Path, to: &Path) -> Result<bool, StoreError> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST | rustix::io::Errno::NOTEMPTY) => Ok(false),
        Err(e) => Err(StoreError::io("rename to", to, e)),
    }
}
