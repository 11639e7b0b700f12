//! Users and groups looked up in a root filesystem's own files.

use std::os::fd::BorrowedFd;

use thiserror::Error;

use crate::plan::UserChoice;

/// Who a process runs as, in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, sorted, without repeats.
    pub groups: Vec<u32>,
    /// Home directory; `/` if the user has no entry.
    pub home: String,
}

/// A user that cannot be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UserError {
    /// The name is not in the image's `/etc/passwd`.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    UnknownUser(String),
    /// The name is not in the image's `/etc/group`.
    #[error("unable to find group {0}: no matching entries in group file")]
    UnknownGroup(String),
    /// A number beyond what the kernel takes.
    #[error("user or group id {0} is out of range")]
    OutOfRange(String),
    /// The file is there and cannot be read, is no regular file, or is larger than davit reads.
    #[error("{path} of the root filesystem")]
    Read {
        /// Path in the root filesystem.
        path: &'static str,
        /// Cause.
        source: std::io::Error,
    },
}

/// Looks a user up in `/etc/passwd` and `/etc/group` below `root` (any descriptor of a directory), without leaving it.
///
/// # Errors
/// [`UserError`].
pub fn resolve(root: BorrowedFd<'_>, choice: &UserChoice) -> Result<User, UserError> {
    let _ = (root, choice);
    unimplemented!()
}
