//! Single flight: of all processes that want the same work done, one does it.

use std::{
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use davit_image::Digest;

use crate::{Store, StoreError, lock::Lock};

const POLL: Duration = Duration::from_millis(5);

/// Whose turn the work is.
#[derive(Debug)]
pub enum Flight {
    /// Ours: do it, then drop the guard.
    Owner(FlightGuard),
    /// Somebody else's: wait, look for the result, and try again if there is none.
    Busy(FlightWait),
}

/// Excludes others from one piece of work until dropped, or until the process ends.
#[derive(Debug)]
pub struct FlightGuard(Option<Lock>);

/// Another process does the work.
#[derive(Debug)]
pub struct FlightWait {
    path: PathBuf,
}

impl Store {
    /// Claims the work named by `kind` (a word) and `key` (any text). Locks lie in RUN_ROOT, so
    /// that a reboot forgets them.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn single_flight(&self, kind: &str, key: &str) -> Result<Flight, StoreError> {
        let directory = self.layout().run_locks();
        self.make_dir(&directory)?;
        let path = directory.join(format!("{kind}-{}", Digest::of(key.as_bytes()).hex()));
        Ok(match Lock::try_file(&path)? {
            Some(lock) => Flight::Owner(FlightGuard(Some(lock))),
            None => Flight::Busy(FlightWait { path }),
        })
    }
}

impl FlightGuard {
    /// Publishes how far the work is, in units of the caller's choice.
    ///
    /// # Errors
    /// What the disk says.
    pub fn set_progress(&self, progress: u64) -> Result<(), StoreError> {
        let Some(lock) = &self.0 else { return Ok(()) };
        lock.file()
            .file()
            .write_all_at(&progress.to_le_bytes(), 0)
            .map_err(|e| StoreError::io("write", lock.path(), e))
    }
}

impl Drop for FlightGuard {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(Lock::remove_file) {
            tracing::debug!(%error, "the reboot removes the lock file");
        }
    }
}

impl FlightWait {
    /// The owner's last word on its progress; 0 before the first.
    #[must_use]
    pub fn progress(&self) -> u64 {
        read_progress(&self.path).unwrap_or(0)
    }

    /// Waits for the owner's end; `false` when `timeout` came first.
    ///
    /// # Errors
    /// What the disk says.
    pub fn wait(&self, timeout: Duration) -> Result<bool, StoreError> {
        let since = Instant::now();
        loop {
            if let Some(lock) = Lock::try_existing(&self.path)? {
                // Ours for a moment only: whoever asks next gets it.
                drop(lock);
                return Ok(true);
            }
            if self.path.symlink_metadata().is_err() {
                return Ok(true);
            }
            if since.elapsed() >= timeout {
                return Ok(false);
            }
            std::thread::sleep(POLL.min(timeout));
        }
    }
}

fn read_progress(path: &Path) -> Option<u64> {
    let bytes = fs_err::read(path).ok()?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreOptions;

    #[test]
    fn one_works_and_the_other_sees_its_progress() {
        let temp = davit_test::TempDir::new();
        let open = || Store::open(StoreOptions::new(temp.join("root"), temp.join("run"))).unwrap();
        let (one, two) = (open(), open());
        let Flight::Owner(guard) = one.single_flight("build", "key").unwrap() else {
            panic!("nobody else is here");
        };
        let Flight::Busy(wait) = two.single_flight("build", "key").unwrap() else {
            panic!("the first store has it");
        };
        assert_eq!(wait.progress(), 0);
        guard.set_progress(42).unwrap();
        assert_eq!(wait.progress(), 42);
        assert!(!wait.wait(Duration::ZERO).unwrap());
        drop(guard);
        assert!(wait.wait(Duration::from_secs(120)).unwrap());
        assert!(matches!(two.single_flight("build", "key").unwrap(), Flight::Owner(_)));
    }
}
