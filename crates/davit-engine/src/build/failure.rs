//! Why a build gave no image.

use std::sync::atomic::{AtomicBool, Ordering};

use davit_build::{BuildError, BuildErrorKind, ExportError};
use davit_store::{StoreError, is_no_space};

use super::{CacheError, FormError, PackError, SbomError, bases, sources};
use crate::{Hint, container::ContainerError};

/// Why a build gave no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildFailure {
    /// The build itself.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Its result cannot be exported.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// Its result cannot have the form that an output asks for.
    #[error(transparent)]
    Form(#[from] FormError),
    /// It is not found out what it holds.
    #[error(transparent)]
    Sbom(#[from] SbomError),
    /// Its provenance was to be complete, and it read these files of the caller's own.
    #[error("the provenance is not complete: files of the caller's own were read ({})", .0.join(", "))]
    Incomplete(Vec<String>),
    /// Its layers cannot be compressed.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// Its result cannot be saved.
    #[error(transparent)]
    Save(#[from] crate::FileError),
    /// A registry does not take it.
    #[error(transparent)]
    Push(#[from] crate::PushError),
    /// Containers' file systems cannot be made here.
    #[error(transparent)]
    Snapshot(#[from] davit_snapshot::SnapshotError),
    /// Its commands cannot have a volume, or a container's network.
    #[error(transparent)]
    Machine(#[from] ContainerError),
    /// A cache does not take it.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BuildFailure {
    /// The build's own error, which knows its place in the Dockerfile.
    #[must_use]
    pub const fn build_error(&self) -> Option<&BuildError> {
        match self {
            Self::Build(error) => Some(error),
            _ => None,
        }
    }

    /// This failure, or that the user stopped the build, which may look like anything.
    pub(super) fn unless(self, cancelled: &AtomicBool) -> Self {
        let is_cancelled = cancelled.load(Ordering::Relaxed);
        if is_cancelled { BuildError::new(BuildErrorKind::Cancelled).into() } else { self }
    }

    /// Whether the user stopped the build.
    #[must_use]
    pub const fn is_cancelled(&self) -> bool {
        matches!(self, Self::Build(BuildError { kind: BuildErrorKind::Cancelled, .. }))
    }
}

impl Hint for BuildFailure {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Build(error) => {
                let mut hints = error.hints.clone();
                if let BuildErrorKind::Base { source, .. } = &error.kind {
                    hints.extend(bases::hints(source.as_ref()));
                }
                if let BuildErrorKind::Source { source, .. } = &error.kind {
                    hints.extend(sources::hints(source.as_ref()));
                }
                let more_room = "davit system prune".to_owned();
                if is_no_space(&error.kind) && !hints.contains(&more_room) {
                    hints.push(more_room);
                }
                hints
            }
            Self::Form(error) => error.hint().into_iter().collect(),
            Self::Export(error) => error.hint().map(str::to_owned).into_iter().collect(),
            Self::Push(error) => error.hints(),
            Self::Cache(error) => error.hints(),
            Self::Machine(error) => error.hints(),
            Self::Store(error) if error.is_no_space() => vec!["davit system prune".to_owned()],
            _ => Vec::new(),
        }
    }
}
