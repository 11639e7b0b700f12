//! A little disk space kept back, so that a full disk can still be emptied: removing an image
//! writes to the database first.

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use rustix::fs::FallocateFlags;

use crate::{Layout, Store, StoreError};

const RESERVE_BYTES: u64 = 1 << 20;
/// What an opener may need: the database's shared index has 32 KiB for each 16 MiB of the log. Only
/// this much is given back then, so that a full disk that is looked at can still be emptied.
const OPENING_BYTES: u64 = 128 << 10;

impl Layout {
    /// Gives a part of the reserve back, for the database to be opened; `false` if there is none.
    pub(crate) fn shorten_reserve(&self) -> Result<bool, StoreError> {
        let path = self.reserve();
        let Ok(facts) = fs::metadata(&path) else { return Ok(false) };
        let rest = facts.len().saturating_sub(OPENING_BYTES);
        let shortened = match rest {
            0 => fs::remove_file(&path),
            _ => fs::OpenOptions::new().write(true).open(&path).and_then(|f| f.set_len(rest)),
        };
        shortened.map_err(|e| StoreError::io("shorten", &path, e))?;
        Ok(facts.len() > 0)
    }
}

impl Store {
    /// Gives the reserve back when the disk is nearly full; removals call this first.
    pub(crate) fn make_room(&self) -> Result<(), StoreError> {
        if self.available()? >= RESERVE_BYTES {
            return Ok(());
        }
        let path = self.layout().reserve();
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", &path, e))
            }
            _ => Ok(()),
        }
    }

    /// Sets the reserve aside when there is plenty; that there is none is no error.
    pub(crate) fn keep_reserve(&self) -> Result<(), StoreError> {
        let path = self.layout().reserve();
        // It stays empty where blocks cannot be allocated ahead.
        let is_kept = |bytes| bytes == 0 || bytes >= RESERVE_BYTES;
        if fs::metadata(&path).is_ok_and(|facts| is_kept(facts.len()))
            || self.available()? < 4 * RESERVE_BYTES
        {
            return Ok(());
        }
        let opened = fs::OpenOptions::new().write(true).create(true).mode(0o600).open(&path);
        let file = opened.map_err(|e| StoreError::io("create", &path, e))?;
        if let Err(error) = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES)
        {
            tracing::debug!(%error, "no space is kept back");
        }
        Ok(())
    }

    fn available(&self) -> Result<u64, StoreError> {
        let root = self.layout().root();
        let facts = rustix::fs::statvfs(root).map_err(|e| StoreError::io("examine", root, e))?;
        Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
    }
}
