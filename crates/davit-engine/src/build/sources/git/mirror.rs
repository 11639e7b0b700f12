//! Repositories that outlive builds: of a remote whose commits were wanted before, only what is new
//! is fetched.
//!
//! Each is a directory like a cache mount's, with its lock, its last use and its removal; no name of a
//! cache mount is like theirs, since those hold a slash.

use std::{
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use davit_store::{CacheMountUse, CacheSharing, StoreError};

use super::super::{Fetcher, SourceError};
use crate::build::sources::git::GitError;

/// Their type among build records, BuildKit's word.
pub(crate) const GIT_CHECKOUT: &str = "source.git.checkout";
/// What their names begin with.
const PREFIX: &str = "git:";
/// How often one that another build uses is asked for.
const POLL: Duration = Duration::from_millis(20);

/// A repository in use, by this source alone.
pub(super) struct Mirror {
    directory: PathBuf,
    _used: CacheMountUse,
}

/// The name of a remote's repository, which holds no slash.
fn name(remote: &str) -> String {
    format!("{PREFIX}{}", remote.replace('\\', "%5C").replace('/', "\\"))
}

/// The remote of a repository of this name; `None` for a cache mount's.
pub(crate) fn remote_of(name: &str) -> Option<String> {
    let rest = name.strip_prefix(PREFIX).filter(|_| !name.contains('/'))?;
    Some(rest.replace('\\', "/"))
}

impl Fetcher<'_> {
    /// Takes the repository of a remote into use, which may be empty.
    pub(super) fn mirror(&self, remote: &str) -> Result<Mirror, SourceError> {
        let name = name(&davit_build::public_address(remote));
        let empty = |_: &Path| Ok::<(), StoreError>(());
        loop {
            let store = self.engine.store();
            if let Some(used) = store.claim_cache_mount(&name, CacheSharing::Locked, empty)? {
                return Ok(Mirror { directory: used.data().join("repository"), _used: used });
            }
            if self.stop().is_cancelled() {
                return Err(GitError::Stopped.into());
            }
            thread::sleep(POLL);
        }
    }
}

impl Mirror {
    /// The bare repository.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether there is one.
    pub(super) fn is_there(&self) -> bool {
        self.directory.join("HEAD").exists()
    }

    /// Removes all of it.
    pub(super) fn clear(&self) -> Result<(), SourceError> {
        match fs_err::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(SourceError::Keep(error))
            }
            _ => Ok(()),
        }
    }

    /// Lets a repository have the objects of this one, for as long as this is in use.
    pub(super) fn lend(&self, git: &Path) -> Result<(), SourceError> {
        let mut path = self.directory.join("objects").into_os_string();
        path.push("\n");
        let write = || {
            let info = git.join("objects/info");
            fs_err::create_dir_all(&info)?;
            fs_err::write(info.join("alternates"), path.as_encoded_bytes())?;
            // Where history ends here it ends there.
            match fs_err::copy(self.directory.join("shallow"), git.join("shallow")) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                result => result.map(drop),
            }
        };
        write().map_err(SourceError::Keep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_of_no_cache_mount() {
        let remote = "https://host/a/b.git";
        assert!(!name(remote).contains('/'));
        assert_eq!(remote_of(&name(remote)).as_deref(), Some(remote));
        assert_eq!(remote_of("git:a/id"), None);
        assert_eq!(remote_of("/id"), None);
    }
}
