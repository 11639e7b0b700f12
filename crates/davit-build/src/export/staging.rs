//! Where an export makes its files, beside where they go.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use davit_store::Store;

use super::{ExportError, failed};
use crate::cancel::check;

/// How the names of such directories begin.
const PREFIX: &str = ".davit-export-";

/// A directory in the destination that goes with its export: its lock tells the next one whether
/// that still lives.
pub(super) struct Staging {
    path: PathBuf,
    lock: OwnedFd,
}

impl Staging {
    /// Makes it in `directory`, and removes those of exports that were killed.
    pub(super) fn create(store: &Store, directory: &Path, id: &str) -> Result<Self, ExportError> {
        remove_dead(store, directory)?;
        let mut attempt = 0;
        loop {
            let path = directory.join(format!("{PREFIX}{id}-{attempt}"));
            fs_err::create_dir(&path).map_err(failed(&path))?;
            // Another export may have come between; then it is gone, or soon will be.
            let lock = locked(&path).map_err(failed(&path))?;
            if let Some(lock) = lock.filter(|_| path.exists()) {
                return Ok(Self { path, lock });
            }
            attempt += 1;
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, with all that did not take its place.
    pub(super) fn remove(self, store: &Store) -> Result<(), ExportError> {
        store.give_back(&self.path, self.lock.as_fd())?;
        Ok(())
    }
}

fn remove_dead(store: &Store, directory: &Path) -> Result<(), ExportError> {
    for entry in fs_err::read_dir(directory).map_err(failed(directory))?.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        if let Some(lock) = locked(&entry.path()).map_err(failed(directory))? {
            store.give_back(&entry.path(), lock.as_fd())?;
        }
    }
    Ok(())
}

/// Holds a directory for this process, and whoever it leaves it to; `None` if somebody does, or if
/// it is gone.
fn locked(directory: &Path) -> io::Result<Option<OwnedFd>> {
    use rustix::{
        fs::{FlockOperation, Mode, OFlags, flock, open},
        io::Errno,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match open(directory, flags, Mode::empty()) {
        // Nor is it one of ours if it is a file or a link.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        opened => opened?,
    };
    match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Ok(None),
        locked => {
            locked?;
            Ok(Some(opened))
        }
    }
}

fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_dir())
}

/// Removes what `to` holds and `from` does not, and what is a directory in but one of them.
pub(super) fn remove_others(
    from: &Path,
    to: &Path,
    cancelled: &AtomicBool,
) -> Result<(), ExportError> {
    let mut stack = vec![(from.to_path_buf(), to.to_path_buf())];
    while let Some((from, to)) = stack.pop() {
        let failed = failed(&to);
        for entry in fs_err::read_dir(&to).map_err(&failed)? {
            check(cancelled).map_err(&failed)?;
            let old = entry.map_err(&failed)?.path();
            let name = old.file_name().unwrap_or_default();
            if name.to_string_lossy().starts_with(PREFIX) {
                continue;
            }
            let new = from.join(name);
            match (is_directory(&old), is_directory(&new)) {
                (true, true) => stack.push((new, old)),
                (true, false) => fs_err::remove_dir_all(&old).map_err(&failed)?,
                (false, false) if new.symlink_metadata().is_ok() => {}
                (false, _) => fs_err::remove_file(&old).map_err(&failed)?,
            }
        }
    }
    Ok(())
}

/// Moves what `from` holds into `to`; directories that both have are merged.
pub(super) fn move_into(from: &Path, to: &Path, cancelled: &AtomicBool) -> Result<(), ExportError> {
    let mut stack = vec![(from.to_path_buf(), to.to_path_buf())];
    while let Some((from, to)) = stack.pop() {
        let failed = |source| ExportError::Write { path: to.clone(), source };
        for entry in fs_err::read_dir(&from).map_err(failed)? {
            check(cancelled).map_err(failed)?;
            let source = entry.map_err(failed)?.path();
            let name = source.file_name().unwrap_or_default();
            let target = to.join(name);
            if is_directory(&source) && is_directory(&target) {
                stack.push((source, target));
                continue;
            }
            fs_err::rename(&source, &target).map_err(failed)?;
        }
    }
    Ok(())
}
