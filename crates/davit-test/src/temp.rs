//! A temporary folder with a short path, removed with its owner.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// How long what still writes into a folder is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A temporary folder; dropping it removes it.
///
/// The path is short, since sockets below it may have 108 bytes at most.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes a folder that no other test has.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "making a folder is no default")]
    pub fn new() -> Self {
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("dvt-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match fs_err::create_dir(&path) {
                Ok(()) => return Self(path),
                // A left-over of a killed run whose process id came back.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A path below the folder.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // A process that the test has ended may still be writing its last words here.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Err(error) = fs_err::remove_dir_all(&self.0) else { return };
            let busy = error.kind() == std::io::ErrorKind::DirectoryNotEmpty;
            if !busy || Instant::now() > deadline {
                // A failing test must show its own failure, not that of the cleaning up.
                assert!(std::thread::panicking(), "{error}");
                return;
            }
            std::thread::sleep(LOOK);
        }
    }
}
