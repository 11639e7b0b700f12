//! Whether the database's path still names the file that is open: one that was removed or replaced
//! takes commits without complaint, and nobody sees them again.

use std::{
    io,
    path::{Path, PathBuf},
};

/// A file that was opened, by its path.
#[derive(Debug)]
pub(super) struct SameFile {
    path: PathBuf,
    device_and_inode: (u64, u64),
}

impl SameFile {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), device_and_inode: identity(path)? })
    }

    /// Fails when the path names another file, or none. Cost: one `stat`.
    pub(super) fn check(&self) -> io::Result<()> {
        if identity(&self.path)? == self.device_and_inode {
            return Ok(());
        }
        Err(io::Error::other(format!("`{}` was replaced by another file", self.path.display())))
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::stat(path)?;
    Ok((stat.st_dev, stat.st_ino))
}
