//! What can go wrong in the store.

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
};

use davit_image::{DiffId, Digest, DocumentError};

use crate::FormatError;

/// Why an operation on the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The disk or quota that holds the store is full.
    #[error("no space left to {action} {}", path.display())]
    NoSpace {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The database refused.
    #[error("cannot {action} in {}", path.display())]
    Database {
        /// What was tried, as a verb.
        action: &'static str,
        /// The database file.
        path: PathBuf,
        /// SQLite's answer.
        source: rusqlite::Error,
    },
    /// The root directory is not one that this davit can use.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Received content has another size than announced.
    #[error("{digest} has {actual} bytes, expected {expected}")]
    Size {
        /// The content's announced digest.
        digest: Digest,
        /// Announced size.
        expected: u64,
        /// Size received.
        actual: u64,
    },
    /// Content has another digest than announced.
    #[error("content has digest {actual}, expected {expected}")]
    Digest {
        /// Announced digest.
        expected: Box<Digest>,
        /// Digest of the content.
        actual: Box<Digest>,
    },
    /// A thing that was asked for is not there.
    #[error("no such {kind}: {name}")]
    NotFound {
        /// What kind of thing.
        kind: &'static str,
        /// Its name, as asked for.
        name: String,
    },
    /// Several things fit an abbreviated id.
    #[error("{kind} id `{prefix}` is ambiguous")]
    Ambiguous {
        /// What kind of thing.
        kind: &'static str,
        /// The abbreviated id.
        prefix: String,
    },
    /// A name is taken.
    #[error("{kind} `{name}` already exists")]
    Exists {
        /// What kind of thing.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// An image was to be recorded without one of its layers.
    #[error("layer {0} is not in the store")]
    MissingLayer(DiffId),
    /// A row or stored document cannot be read.
    #[error("stored {kind} `{name}` cannot be read")]
    Record {
        /// What kind of thing.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why the JSON is refused.
        source: serde_json::Error,
    },
    /// A manifest or index is refused.
    #[error("document {digest} is refused")]
    Document {
        /// Its digest.
        digest: Digest,
        /// Why.
        source: DocumentError,
    },
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        let (source, path) = (source.into(), path.to_path_buf());
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { action, path, source }
            }
            _ => Self::Io { action, path, source },
        }
    }

    pub(crate) fn digest(expected: Digest, actual: Digest) -> Self {
        Self::Digest { expected: Box::new(expected), actual: Box::new(actual) }
    }

    pub(crate) fn not_found(kind: &'static str, name: impl ToString) -> Self {
        Self::NotFound { kind, name: name.to_string() }
    }

    /// Tells whether freeing disk space would help.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        is_no_space(self)
    }

    /// Tells whether something that was stored is gone or not what it was.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Digest { .. } | Self::MissingLayer(_) => true,
            Self::NotFound { kind, .. } => matches!(*kind, "blob" | "manifest" | "layer"),
            Self::Io { action, source, .. } => {
                *action == "open" && source.kind() == io::ErrorKind::NotFound
            }
            _ => false,
        }
    }

    /// Tells whether the same call may succeed later: the database stayed locked too long.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        let Self::Database { source, .. } = self else { return false };
        matches!(
            source.sqlite_error_code(),
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked)
        )
    }

    /// Tells whether the root must lie elsewhere: on a local file system.
    #[must_use]
    pub const fn is_remote_root(&self) -> bool {
        matches!(self, Self::Format(FormatError::Filesystem { .. }))
    }

    /// Tells an absent thing from a failure.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// Tells whether a full disk, quota or database file is at the bottom of an error.
#[must_use]
pub fn is_no_space(error: &(dyn Error + 'static)) -> bool {
    let is_full = |error: &(dyn Error + 'static)| {
        let by_system = error.downcast_ref().map(io::Error::kind).is_some_and(|kind| {
            matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        });
        let by_database = error.downcast_ref().and_then(rusqlite::Error::sqlite_error_code);
        by_system || by_database == Some(rusqlite::ErrorCode::DiskFull)
    };
    std::iter::successors(Some(error), |error| (**error).source()).any(is_full)
}
