//! Tells without a statement whether anything was committed, so that caches can be trusted.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// First copy of the WAL-index header: it counts commits (SQLite, `walformat.html` § 2.1).
const HEADER_BYTES: usize = 48;

/// State of the database after some commit; two that are equal have no commit between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeMark([u8; HEADER_BYTES]);

#[cfg(test)]
impl ChangeMark {
    pub(crate) const fn of_test(byte: u8) -> Self {
        Self([byte; HEADER_BYTES])
    }
}

/// The index that all processes on one SQLite file share; it lives as long as a connection does.
#[derive(Debug)]
pub(super) struct WalIndex {
    path: PathBuf,
    /// Opened once and never closed: with any descriptor of it that is closed, the process loses the
    /// locks that SQLite holds on this file (fcntl(2) § Advisory record locking).
    file: Mutex<Option<&'static File>>,
}

impl WalIndex {
    pub(super) fn of(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-shm");
        Self { path: path.into(), file: Mutex::default() }
    }

    /// Reads the mark: one small read of memory that the kernel shares with all writers.
    ///
    /// A header that is written at this moment gives a mark that no other equals: the reader asks
    /// the database then, as after any change.
    pub(super) fn mark(&self) -> Option<ChangeMark> {
        let file = self.open()?;
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, 0).ok()?;
        Some(ChangeMark(header))
    }

    fn open(&self) -> Option<&'static File> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.is_none() {
            let opened = fs_err::File::open(&self.path).ok()?.into_parts().0;
            *file = Some(Box::leak(Box::new(opened)));
        }
        *file
    }
}
