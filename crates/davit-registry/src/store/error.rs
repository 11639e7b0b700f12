//! Why bytes cannot be stored or read.

use std::{io, path::Path};

use davit_image::Digest;

use crate::db::DbError;

/// The bytes cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: std::path::PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A request to the object store failed.
    #[error("the object store cannot {action} `{key}`")]
    Object {
        /// What was tried.
        action: &'static str,
        /// With what.
        key: String,
        /// Why not.
        #[source]
        source: object_store::Error,
    },
    /// The object store cannot be used as it is set up.
    #[error("cannot use the object store `{url}`")]
    Setup {
        /// Which, without secrets.
        url: String,
        /// Why not.
        #[source]
        source: object_store::Error,
    },
    /// A file or object is shorter than what was flushed before.
    #[error("`{0}` lost bytes that were flushed")]
    Truncated(String),
    /// Something else lies where a blob's file of this size should be.
    #[error("`{}` is not the file of a blob", .0.display())]
    Strange(std::path::PathBuf),
    /// The bytes are not those that they were said to be.
    #[error("the content has digest {actual}")]
    Digest {
        /// What they have.
        actual: Digest,
    },
    /// The file that was to become a blob cannot be read.
    #[error("the bytes of {digest} cannot be read")]
    Unreadable {
        /// The blob.
        digest: Digest,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The object store has forgotten the parts of an upload session, which must begin anew.
    #[error("the parts of an upload are gone")]
    PartsGone,
    /// What is under way in the object store could not be written down.
    #[error("an upload could not be noted")]
    Ledger(#[source] Box<DbError>),
    /// The sender stopped, or the server ends.
    #[error("the upload was interrupted")]
    Interrupted,
}

impl StoreError {
    /// Tells whether there is no such object.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        match self {
            Self::File { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Object { source, .. } => matches!(source, object_store::Error::NotFound { .. }),
            _ => false,
        }
    }

    /// Tells whether the disk or a quota of the system is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::File { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }
}

/// Names a file operation that failed, and its file.
pub(super) fn fault(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File { action, path, source }
}
