//! Why a root filesystem could not be made.

use std::{io, path::PathBuf};

use davit_image::DiffId;
use davit_layer::{DiffError, ExtractError, MergeError, TableError};
use davit_store::StoreError;
use davit_sys::mount::MountError;

use crate::{TreeId, erofs::WriteError};

/// Why a root filesystem could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file or directory of the store could not be used.
    #[error("cannot {action} {}", .path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a mount.
    #[error("cannot mount {what}")]
    Mount {
        /// What should have been mounted.
        what: String,
        /// The kernel's answer.
        #[source]
        source: MountError,
    },
    /// A layer's tar does not have the size that its tree was made for: it is torn.
    #[error("layer {diff_id} is damaged: its tar has {actual} bytes, {expected} were recorded")]
    LayerSize {
        /// The layer.
        diff_id: DiffId,
        /// Size that the row names, in bytes.
        expected: u64,
        /// Size of the file, in bytes.
        actual: u64,
    },
    /// A tree's file is missing; it was removed after the stack was prepared. Prepare again.
    #[error("tree {0} is missing")]
    TreeMissing(TreeId),
    /// A tree's file is torn or was made for other layers. It is rebuilt by preparing again.
    #[error("tree {id} is damaged")]
    TreeDamaged {
        /// The tree.
        id: TreeId,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// What was written cannot be told from what was there.
    #[error("cannot compare a root filesystem with its layers")]
    Diff(#[from] DiffError),
    /// A layer of the chain is not in the store.
    #[error("layer {0} is not in the store")]
    MissingLayer(DiffId),
    /// Only parts of a layer are in the store.
    #[error("layer {0} is not whole")]
    PartialLayer(DiffId),
    /// A layer's table cannot be used.
    #[error("the table of layer {diff_id} cannot be read")]
    Table {
        /// The layer.
        diff_id: DiffId,
        /// What is wrong with it.
        #[source]
        source: TableError,
    },
    /// The layers do not make a root filesystem.
    #[error("the layers do not fit together")]
    Merge(#[from] MergeError),
    /// EROFS cannot hold what the layers make.
    #[error("the layers cannot be mounted")]
    Write(#[source] WriteError),
    /// The layers could not be written as files.
    #[error("the layers cannot be extracted")]
    Extract(#[from] ExtractError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No form of root filesystem works.
    #[error("no root filesystem can be mounted from {}", .root.display())]
    NoForm {
        /// `ROOT`.
        root: PathBuf,
        /// Why the last form does not.
        #[source]
        source: Box<Self>,
    },
    /// The kernel stacks at most 500 lower directories.
    #[error("{0} lower directories are more than the kernel's 500")]
    TooManyLowers(usize),
}

impl SnapshotError {
    /// Whether preparing the chain again may mend it.
    #[must_use]
    pub const fn is_stale(&self) -> bool {
        matches!(self, Self::TreeMissing(_) | Self::TreeDamaged { .. })
    }

    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::File { action, path: path.into(), source: source.into() }
    }

    pub(crate) fn mount(what: impl Into<String>, source: MountError) -> Self {
        Self::Mount { what: what.into(), source }
    }
}
