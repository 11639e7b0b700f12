//! A little disk space kept back, so that a full disk can still be emptied: removing an image
//! writes to the database first.

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use rustix::fs::FallocateFlags;

use crate::{Store, StoreError};

const RESERVE_BYTES: u64 = 1 << 20;

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
        if path.exists() || self.available()? < 4 * RESERVE_BYTES {
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
