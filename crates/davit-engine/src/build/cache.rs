//! Build caches at registries, in directories and in images: what is taken from them, and what they
//! get.
//!
//! The format is `docs/formats/build-cache.md`. Everything that comes from there is hostile: a
//! document is bounded and read by its digest, and a layer is visible only as what its DiffID says.

mod actions;
mod export;
mod format;
mod import;
mod inline;
mod objects;
mod place;
mod s3;

use std::path::PathBuf;

use davit_image::Reference;

pub(super) use self::import::{Caches, Surroundings};
pub use self::{
    actions::{ActionsPlace, ActionsProtocol},
    s3::{S3Account, S3Place},
};
use super::{PackError, pack};
use crate::{
    Hint, LayerCompression, origin::OriginError, pull::registry_hints, registry::RegistryError,
};

/// Where a cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CachePlace {
    /// At a registry.
    Registry(Reference),
    /// In an OCI layout directory, under a name.
    Directory {
        /// The directory.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// In a bucket.
    S3(S3Place),
    /// In the cache of GitHub Actions.
    Actions(ActionsPlace),
    /// In an image of the store, by a name or id. It is only read: a build's own image is written
    /// to by [`super::InlineCache`].
    Image(String),
}

impl CachePlace {
    /// Whether others are asked for it.
    const fn is_far(&self) -> bool {
        !matches!(self, Self::Directory { .. } | Self::Image(_))
    }

    /// Where its blobs are: other caches, of other names, may have theirs there, too.
    fn blobs(&self) -> String {
        match self {
            Self::Registry(reference) => format!("registry {}", reference.repository()),
            Self::Directory { path, .. } => format!("directory {}", path.display()),
            Self::S3(place) => format!("s3 {} {} {}", place.endpoint, place.bucket, place.blobs),
            Self::Actions(place) => format!("actions {}", place.url),
            Self::Image(_) => "store".to_owned(),
        }
    }
}

impl std::fmt::Display for CachePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Registry(reference) => f.write_str(&reference.familiar()),
            Self::Directory { path, name } => write!(f, "{}:{name}", path.display()),
            Self::S3(place) => {
                let name = place.names.first().map_or("", String::as_str);
                write!(f, "s3://{}/{}{name}", place.bucket, place.manifests)
            }
            Self::Actions(place) => write!(f, "of GitHub Actions, scope {}", place.scope),
            Self::Image(name) => f.write_str(name),
        }
    }
}

/// Which results a cache gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheScope {
    /// Those that the image consists of.
    #[default]
    Result,
    /// All.
    All,
}

/// What it means that a cache cannot be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheFailure {
    /// The build has failed.
    #[default]
    Fatal,
    /// The user is told.
    Told,
}

/// Whether cache mounts go with the results of steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MountSharing {
    /// No.
    #[default]
    Stay,
    /// Yes.
    Go,
}

/// A cache that a build takes results from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheImport {
    /// Where it is.
    pub place: CachePlace,
    /// Whether new cache mounts begin with what it has.
    pub mounts: MountSharing,
}

/// A cache that gets the results of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheExport {
    /// Where it is.
    pub place: CachePlace,
    /// What it gets.
    pub scope: CacheScope,
    /// How new layers are compressed.
    pub compression: LayerCompression,
    /// What it means if it cannot be had.
    pub failure: CacheFailure,
    /// Layers that are sent at a time.
    pub parallel: usize,
    /// Whether it gets the cache mounts that the build used.
    pub mounts: MountSharing,
}

/// Why a cache cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The network side cannot be set up.
    #[error("cannot use the build cache {place}")]
    Setup {
        /// Its place.
        place: String,
        /// Cause.
        #[source]
        source: RegistryError,
    },
    /// It cannot be read or written.
    #[error("cannot use the build cache {place}")]
    Access {
        /// Its place.
        place: String,
        /// Cause.
        #[source]
        source: OriginError,
    },
    /// There is something else.
    #[error("{place} holds {what}, not a build cache of davit")]
    Other {
        /// Its place.
        place: String,
        /// What is there.
        what: &'static str,
    },
    /// It breaks the format.
    #[error("the build cache {place} is malformed: {problem}")]
    Malformed {
        /// Its place.
        place: String,
        /// What is wrong.
        problem: String,
    },
    /// A layer cannot be compressed.
    #[error("cannot write the build cache {place}")]
    Pack {
        /// Its place.
        place: String,
        /// Cause.
        #[source]
        source: PackError,
    },
    /// There is no room for what is to be sent.
    #[error("cannot compress layers for a build cache")]
    Scratch(#[source] std::io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] davit_store::StoreError),
}

impl CacheError {
    /// Whether there is nothing at all.
    fn is_absent(&self) -> bool {
        match self {
            Self::Access {
                source: OriginError::Registry(error) | OriginError::Web(error), ..
            } => error.is_not_found(),
            Self::Access { source: OriginError::Name { .. } | OriginError::Missing(_), .. } => true,
            Self::Store(error) => error.is_not_found(),
            _ => false,
        }
    }
}

impl Hint for CacheError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Access { place, source: OriginError::Registry(error) } => {
                registry_hints(place, error, &[])
            }
            _ => Vec::new(),
        }
    }
}

/// What a packed layer is and where its bytes are.
type Packed = pack::PackedLayer;
