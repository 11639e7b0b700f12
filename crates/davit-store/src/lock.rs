//! Advisory locks on files: free as soon as their holder is gone.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
};

use crate::StoreError;

/// A `flock` on the file or directory that a path names right now. Dropping it frees it at once,
/// also if a process that is being started has a copy of the descriptor until it executes.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    file: fs::File,
    is_left: bool,
}

impl Lock {
    fn held(path: &Path, file: fs::File) -> Self {
        Self { path: path.to_path_buf(), file, is_left: false }
    }

    /// Locks `path`, which is created as an empty file when absent; `None` when somebody holds it.
    pub(crate) fn try_file(path: &Path) -> Result<Option<Self>, StoreError> {
        loop {
            let file = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)
                .map_err(|e| StoreError::io("open", path, e))?;
            if !try_flock(&file, path)? {
                return Ok(None);
            }
            if is_current(&file, path)? {
                return Ok(Some(Self::held(path, file)));
            }
        }
    }

    /// Locks an existing file or directory; `None` when somebody holds it or it is gone.
    pub(crate) fn try_existing(path: &Path) -> Result<Option<Self>, StoreError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => fs::File::from_parts(std::fs::File::from(fd), path),
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(StoreError::io("open", path, e)),
        };
        if try_flock(&file, path)? && is_current(&file, path)? {
            return Ok(Some(Self::held(path, file)));
        }
        Ok(None)
    }

    /// Locks an existing directory, alone or beside others.
    pub(crate) fn try_directory(path: &Path, company: Company) -> Result<Attempt, StoreError> {
        loop {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = match rustix::fs::open(path, flags, Mode::empty()) {
                Ok(fd) => fs::File::from_parts(std::fs::File::from(fd), path),
                Err(Errno::NOENT) => return Ok(Attempt::Missing),
                Err(e) => return Err(StoreError::io("open", path, e)),
            };
            let operation = match company {
                Company::Alone => FlockOperation::NonBlockingLockExclusive,
                Company::Shared => FlockOperation::NonBlockingLockShared,
            };
            if !flock(&file, path, operation)? {
                return Ok(Attempt::Busy);
            }
            // Removed meanwhile, and perhaps made again.
            if is_current(&file, path)? {
                return Ok(Attempt::Held(Self::held(path, file)));
            }
        }
    }

    /// The locked file.
    pub(crate) const fn file(&self) -> &fs::File {
        &self.file
    }

    /// Where the file was when it was locked.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the lock to whoever has a copy of the descriptor.
    pub(crate) fn leave(mut self) {
        self.is_left = true;
    }

    /// Removes the locked file, then frees the lock.
    pub(crate) fn remove_file(self) -> Result<(), StoreError> {
        match rustix::fs::unlink(&self.path) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(StoreError::io("remove", &self.path, e)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.is_left
            && let Err(error) = rustix::fs::flock(&self.file, FlockOperation::Unlock)
        {
            tracing::debug!(%error, "the lock is free when its last descriptor is closed");
        }
    }
}

/// Whether others may hold a lock at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Company {
    Alone,
    Shared,
}

/// What came of an attempt to lock.
#[derive(Debug)]
pub(crate) enum Attempt {
    Held(Lock),
    Busy,
    Missing,
}

fn try_flock(file: &fs::File, path: &Path) -> Result<bool, StoreError> {
    flock(file, path, FlockOperation::NonBlockingLockExclusive)
}

fn flock(file: &fs::File, path: &Path, operation: FlockOperation) -> Result<bool, StoreError> {
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(e) => return Err(StoreError::io("lock", path, e)),
        }
    }
}

/// Tells whether the path still names the locked file: its last holder may have removed it
/// between our open and our lock.
fn is_current(file: &fs::File, path: &Path) -> Result<bool, StoreError> {
    let held = file.metadata().map_err(|e| StoreError::io("examine", path, e))?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (held.dev(), held.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(StoreError::io("examine", path, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excludes_and_frees() {
        let temp = davit_test::TempDir::new();
        let path = temp.join("lock");
        let held = Lock::try_file(&path).unwrap().expect("nobody holds it");
        assert!(Lock::try_file(&path).unwrap().is_none());
        assert!(Lock::try_existing(&path).unwrap().is_none());
        drop(held);
        let again = Lock::try_existing(&path).unwrap().expect("free again");
        again.remove_file().unwrap();
        assert!(!path.exists());
        assert!(Lock::try_existing(&path).unwrap().is_none());
    }

    #[test]
    fn a_copy_of_the_descriptor_holds_it_only_where_it_was_left() {
        let temp = davit_test::TempDir::new();
        let path = temp.join("lock");
        let held = Lock::try_file(&path).unwrap().expect("nobody holds it");
        let copy = held.file().file().try_clone().unwrap();
        drop(held);
        let held = Lock::try_existing(&path).unwrap().expect("a process that starts holds nothing");
        drop(copy);
        let copy = held.file().file().try_clone().unwrap();
        held.leave();
        assert!(Lock::try_existing(&path).unwrap().is_none());
        drop(copy);
        assert!(Lock::try_existing(&path).unwrap().is_some());
    }

    #[test]
    fn a_removed_lock_file_does_not_count() {
        let temp = davit_test::TempDir::new();
        let path = temp.join("lock");
        let old = Lock::try_file(&path).unwrap().expect("nobody holds it");
        fs::remove_file(&path).unwrap();
        assert!(!is_current(old.file(), &path).unwrap());
        let new = Lock::try_file(&path).unwrap().expect("another file");
        assert!(is_current(new.file(), &path).unwrap());
    }

    #[test]
    fn locks_directories() {
        let temp = davit_test::TempDir::new();
        let held = Lock::try_existing(temp.path()).unwrap().expect("nobody holds it");
        assert!(Lock::try_existing(temp.path()).unwrap().is_none());
        drop(held);
    }
}
