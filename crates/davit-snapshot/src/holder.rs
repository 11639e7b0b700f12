//! Finding a process that has a tree mounted, and being found.
//!
//! ```text
//! RUN_ROOT/ROOTID/holders/TREEID/
//!   lock    locked (exclusive flock) while one process looks for a holder, mounts and registers
//!   PID     one per process that has the tree mounted, locked (exclusive flock) as long as it lives:
//!           "davit-holder 1 PID START\n", decimal; START = field 22 of /proc/PID/stat
//! ```
//!
//! The record is frozen from version 1. Its truth is the lock: a file whose lock is free is a dead
//! process's, and whoever finds it removes it.

use std::{
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use fs_err::{File, OpenOptions};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    process::{Pid, PidfdFlags},
};

use crate::SnapshotError;

const MAGIC: &str = "davit-holder 1";

/// A live process that has a tree mounted.
#[derive(Debug)]
pub(crate) struct Donor {
    pub(crate) pidfd: OwnedFd,
}

/// Takes the lock under which a tree is looked for, mounted and registered.
pub(crate) fn lock(directory: &Path) -> Result<File, SnapshotError> {
    let failed = |source| SnapshotError::file("lock", directory, source);
    fs_err::create_dir_all(directory).map_err(failed)?;
    let path = directory.join("lock");
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(failed)?;
    retry(|| flock(&file, FlockOperation::LockExclusive))
        .map_err(|errno| SnapshotError::file("lock", directory, errno))?;
    Ok(file)
}

/// Registers the calling process; it is found as long as the returned file is open.
pub(crate) fn register(directory: &Path) -> Result<File, SnapshotError> {
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    let path = directory.join(pid.to_string());
    let failed = |source| SnapshotError::file("write", &path, source);
    let start = start_time(pid).map_err(failed)?;
    // A file of this pid is a dead process's. Who removes it holds its lock, and is waited for
    // here.
    let former = File::open(&path).ok();
    if let Some(former) = &former {
        retry(|| flock(former, FlockOperation::LockExclusive))
            .map_err(|errno| SnapshotError::file("lock", &path, errno))?;
    }
    // Under its name only when it is locked: who finds it unlocked there removes it.
    let new = path.with_extension("new");
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).open(&new).map_err(failed)?;
    retry(|| flock(&file, FlockOperation::LockExclusive))
        .map_err(|errno| SnapshotError::file("lock", &new, errno))?;
    writeln!(file, "{MAGIC} {pid} {start}").map_err(failed)?;
    fs_err::rename(&new, &path).map_err(failed)?;
    Ok(file)
}

/// The live holders registered in `directory`, in no order; dead ones are removed on the way.
pub(crate) fn donors(directory: &Path) -> impl Iterator<Item = Donor> + use<> {
    let own = rustix::process::getpid().as_raw_nonzero().get().to_string();
    let entries = fs_err::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(move |path| {
            is_record(path) && path.file_name().is_some_and(|name| name != own.as_str())
        })
        .filter_map(|path| donor(&path))
}

/// Removes the directory of a tree that is gone, unless a live process still holds it.
pub(crate) fn forget(directory: &Path) {
    let names = || fs_err::read_dir(directory).into_iter().flatten().flatten();
    if donors(directory).next().is_some() || names().any(|entry| entry.file_name() != "lock") {
        return;
    }
    let removed = fs_err::remove_file(directory.join("lock"));
    if let Err(error) = removed.and_then(|()| fs_err::remove_dir(directory)) {
        tracing::debug!(%error, "a tree's holders are not forgotten");
    }
}

fn is_record(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.as_encoded_bytes()).unwrap_or_default();
    name.iter().all(u8::is_ascii_digit)
}

fn donor(path: &PathBuf) -> Option<Donor> {
    let mut file = File::open(path).ok()?;
    if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        // Only what is locked here: register() may have replaced it before.
        if is_named(&file, path) {
            let _gone = fs_err::remove_file(path);
        }
        return None;
    }
    let mut record = String::new();
    file.read_to_string(&mut record).ok()?;
    let (pid, start) = parse(&record)?;
    let pidfd = rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    // Read after the pidfd is open: the two then speak of one process.
    (start_time(pid).ok()? == start).then_some(Donor { pidfd })
}

/// Whether the path still names the open file.
fn is_named(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let inode = |facts: std::fs::Metadata| (facts.dev(), facts.ino());
    let named = fs_err::symlink_metadata(path).map(inode).ok();
    named.is_some() && named == file.metadata().map(inode).ok()
}

fn parse(record: &str) -> Option<(i32, u64)> {
    let rest = record.strip_prefix(MAGIC)?.strip_prefix(' ')?.strip_suffix('\n')?;
    let (pid, start) = rest.split_once(' ')?;
    Some((pid.parse().ok().filter(|pid| *pid > 0)?, start.parse().ok()?))
}

/// Start time of a process in clock ticks since boot.
fn start_time(pid: i32) -> std::io::Result<u64> {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field, the command in parentheses, may hold anything.
    let field = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19));
    field.and_then(|field| field.parse().ok()).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

fn retry(mut call: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_strict() {
        assert_eq!(parse("davit-holder 1 12 345\n"), Some((12, 345)));
        let bad = [
            "",
            "davit-holder 1 12 345",
            "davit-holder 2 12 345\n",
            "davit-holder 1 -12 345\n",
            "davit-holder 1 0 345\n",
            "davit-holder 1 12\n",
            "davit-holder 112 345\n",
        ];
        for record in bad {
            assert_eq!(parse(record), None, "{record:?}");
        }
    }

    #[test]
    fn dead_holders_are_removed() {
        let directory = davit_test::TempDir::new();
        fs_err::write(directory.path().join("4194304"), "davit-holder 1 4194304 1\n").unwrap();
        assert_eq!(donors(directory.path()).count(), 0);
        assert!(!directory.path().join("4194304").exists());
    }

    #[test]
    fn a_record_has_its_name_when_it_is_locked() {
        let directory = davit_test::TempDir::new();
        let path = directory.path().join(std::process::id().to_string());
        fs_err::write(&path, "of a process that had this number").unwrap();
        // It has been opened by somebody who is about to remove it.
        let former = File::open(&path).unwrap();
        let held = register(directory.path()).unwrap();
        assert!(!is_named(&former, &path) && is_named(&held, &path));
        assert!(donor(&path).is_some());
        assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 1);
        drop(held);
        assert!(donor(&path).is_none());
        assert!(!path.exists());
    }

    #[test]
    fn start_times_are_read() {
        assert!(
            start_time(1).unwrap()
                < start_time(rustix::process::getpid().as_raw_nonzero().get()).unwrap()
        );
    }
}
