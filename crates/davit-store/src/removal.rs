//! Giving back: little at once, much by a process that nobody waits for.
//!
//! That process holds the lock of what it removes as its standard input. If it is killed, what is
//! left has no holder, and the next sweep removes it.

use std::{
    ffi::OsString,
    io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::{self, JoinHandle},
};

use fs_err as fs;

use crate::{Store, StoreError, lock::Lock, sweep::remove_any};

/// Names from which on another process removes: a disk that is told of each freed file (mount
/// option `discard`) holds up who removes them.
const MANY: usize = 1000;
/// Bytes on disk from which on another process removes: their pages are given back, too.
const MUCH: u64 = 64 << 20;

/// The program that removes much, executed by [`Store::give_back`].
#[derive(Clone, Debug)]
pub struct Remover {
    /// The program.
    pub executable: PathBuf,
    /// Its arguments, which the path follows if there is one; it then calls [`remove_behind`].
    pub arguments: Vec<OsString>,
}

/// Who removes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// It is gone.
    Now,
    /// A process of its own, which has the lock.
    Behind,
}

impl Remover {
    /// Starts the program; the thread waits for its end, so that no caller, however long it lives,
    /// keeps what remains of a process.
    fn start(&self, path: Option<&Path>, held: OwnedFd) -> io::Result<JoinHandle<()>> {
        let mut command = Command::new(&self.executable);
        command.args(&self.arguments).args(path).process_group(0).env_clear();
        let mut child = command.stdin(held).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        thread::Builder::new().name("removal".into()).spawn(move || {
            if let Err(error) = child.wait() {
                tracing::debug!(%error, "nobody waits for what removes");
            }
        })
    }
}

impl Store {
    /// Removes a file, or a directory with all below it, and does not wait where that is much; then
    /// it goes out of sight, where its file system is the store's. `lock` is a descriptor with a
    /// lock on it, which stays until it is gone.
    ///
    /// # Errors
    /// What the disk says. Absence is none.
    pub fn give_back(&self, path: &Path, lock: BorrowedFd<'_>) -> Result<Removed, StoreError> {
        let much = self.remover.as_ref().filter(|_| is_much(path));
        let hidden = much.and_then(|_| self.hide(path));
        let path = hidden.as_deref().unwrap_or(path);
        if let Some(remover) = much {
            let absolute = std::path::absolute(path);
            let started =
                absolute.and_then(|it| remover.start(Some(&it), lock.try_clone_to_owned()?));
            match started {
                Ok(_waits) => return Ok(Removed::Behind),
                Err(error) => tracing::debug!(%error, "it is removed at once"),
            }
        }
        remove_any(path)?;
        Ok(Removed::Now)
    }

    /// Moves what lies elsewhere into `tmp/`, if that is possible; its lock goes along.
    fn hide(&self, path: &Path) -> Option<PathBuf> {
        let tmp = self.layout().tmp();
        if path.starts_with(&tmp) { None } else { self.move_to_trash(path).ok() }
    }

    /// Closes a file that has no name and does not wait until its blocks are free.
    pub fn close_behind(&self, file: OwnedFd) {
        if let Some(remover) = &self.remover
            && rustix::fs::fstat(&file).is_ok_and(|facts| disk_size(facts.st_blocks) > MUCH)
            && let Err(error) = file.try_clone().and_then(|held| remover.start(None, held))
        {
            tracing::debug!(%error, "it is closed at once");
        }
    }

    /// Removes an unfinished thing, then frees its lock.
    pub(crate) fn discard(&self, lock: Lock) -> Result<(), StoreError> {
        use std::os::fd::AsFd as _;
        if self.give_back(lock.path(), lock.file().as_fd())? == Removed::Behind {
            lock.leave();
        }
        Ok(())
    }
}

/// Removes what a [`Remover`] was started for, after all that is more urgent. Without a path there
/// is only a file to close, which the end of the process does.
///
/// # Errors
/// What the disk says.
pub fn remove_behind(path: Option<&Path>) -> Result<(), StoreError> {
    const LAST: i32 = 19;
    // Nobody is to be kept from unmounting where the caller was.
    if let Err(error) = rustix::process::chdir("/") {
        tracing::debug!(%error, "it works where its caller does");
    }
    // The caller may have blocked what is to end this process.
    davit_sys::process::reset_signals();
    if let Err(error) = rustix::process::nice(LAST) {
        tracing::debug!(%error, "it is as urgent as the rest");
    }
    path.map_or(Ok(()), remove_any)
}

/// Whether removing takes so long that nobody should wait.
fn is_much(path: &Path) -> bool {
    let (mut names, mut bytes) = (0, 0);
    let mut stack = vec![path.to_owned()];
    while let Some(path) = stack.pop() {
        // What cannot be looked at is told of by who removes it.
        let Ok(facts) = fs::symlink_metadata(&path) else { continue };
        bytes += disk_size(std::os::unix::fs::MetadataExt::blocks(&facts));
        names += 1;
        if names + stack.len() > MANY || bytes > MUCH {
            return true;
        }
        if facts.is_dir() {
            let entries = fs::read_dir(&path).into_iter().flatten().flatten();
            stack.extend(entries.take(MANY).map(|entry| entry.path()));
        }
    }
    false
}

fn disk_size<N: TryInto<u64>>(blocks: N) -> u64 {
    blocks.try_into().unwrap_or_default().saturating_mul(512)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::StoreOptions;

    fn store(temp: &davit_test::TempDir, script: &str) -> Store {
        let arguments = ["-c", script, "remover"].map(OsString::from).to_vec();
        let remover = Remover { executable: "/bin/sh".into(), arguments };
        let options = StoreOptions::new(temp.join("root"), temp.join("run"));
        Store::open(StoreOptions { remover: Some(remover), ..options }).unwrap()
    }

    fn fill(directory: &Path, names: usize) {
        fs::create_dir(directory).unwrap();
        (1..names).for_each(|name| fs::write(directory.join(name.to_string()), "").unwrap());
    }

    #[test]
    fn little_goes_at_once_and_much_to_the_remover() {
        let temp = davit_test::TempDir::new();
        let store = store(&temp, "exit");
        for (names, removed) in [(MANY, Removed::Now), (MANY + 1, Removed::Behind)] {
            let directory = temp.join("directory");
            fill(&directory, names);
            let lock = fs::File::open(&directory).unwrap().into_file().into();
            let lock: &OwnedFd = &lock;
            assert_eq!(store.give_back(&directory, lock.as_fd()).unwrap(), removed);
            assert!(!directory.exists(), "it is gone, or out of sight");
            let hidden = fs::read_dir(store.layout().tmp()).unwrap().count();
            assert_eq!(hidden, usize::from(removed == Removed::Behind));
        }
    }

    #[test]
    fn a_large_file_is_much_and_one_with_holes_is_not() {
        let temp = davit_test::TempDir::new();
        let path = temp.join("file");
        let file = fs::File::create(&path).unwrap();
        file.set_len(MUCH + 1).unwrap();
        assert!(!is_much(&path));
        let all = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&file, all, 0, MUCH + 1).unwrap();
        assert!(is_much(&path) && is_much(temp.path()));
    }

    #[test]
    fn the_lock_is_held_until_it_is_gone_and_the_process_is_waited_for() {
        let temp = davit_test::TempDir::new();
        let directory = temp.join("directory");
        fs::create_dir(&directory).unwrap();
        let lock = Lock::try_existing(&directory).unwrap().unwrap();
        let (told, end) = (temp.join("told"), temp.join("end"));
        // It says who it is, and waits until it is let go on.
        rustix::fs::mkfifoat(rustix::fs::CWD, &told, rustix::fs::Mode::RWXU).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &end, rustix::fs::Mode::RWXU).unwrap();
        let script = format!("echo $$ >{}; cat {}; rmdir \"$1\"", told.display(), end.display());
        let arguments = ["-c", &script, "remover"].map(OsString::from).to_vec();
        let remover = Remover { executable: "/bin/sh".into(), arguments };
        let held = lock.file().file().try_clone().unwrap().into();
        let waits = remover.start(Some(&directory), held).unwrap();
        lock.leave();
        let process = fs::read_to_string(&told).unwrap();
        assert!(Lock::try_existing(&directory).unwrap().is_none(), "the process holds it");
        fs::write(&end, "").unwrap();
        waits.join().unwrap();
        assert!(!directory.exists());
        assert!(!Path::new("/proc").join(process.trim()).exists(), "nothing of it is left");
    }
}
