//! Tells without a statement whether anything was committed, so that caches can be trusted.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// First copy of the WAL-index header: it counts commits (SQLite, `walformat.html` § 2.1).
const HEADER_BYTES: usize = 48;

/// State of the database after some commit; two that are equal have no commit between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeMark([u8; HEADER_BYTES]);

/// The index that all processes on one SQLite file share; it lives as long as a connection does.
#[derive(Debug)]
pub(super) struct WalIndex {
    path: PathBuf,
    file: OnceLock<File>,
}

impl WalIndex {
    pub(super) fn of(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-shm");
        Self { path: path.into(), file: OnceLock::new() }
    }

    /// Reads the mark: one small read of memory that the kernel shares with all writers.
    ///
    /// A header that is written at this moment gives a mark that no other equals: the reader asks
    /// the database then, as after any change.
    pub(super) fn mark(&self) -> Option<ChangeMark> {
        if self.file.get().is_none() {
            // Racing openers open the same file.
            drop(self.file.set(fs_err::File::open(&self.path).ok()?.into_parts().0));
        }
        let mut header = [0; HEADER_BYTES];
        self.file.get()?.read_exact_at(&mut header, 0).ok()?;
        Some(ChangeMark(header))
    }
}
