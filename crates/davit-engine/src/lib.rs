//! Use cases over images and containers: the one composition root.
//!
//! Everything that a front end can ask for is a method of [`Engine`], grouped by file. The engine
//! never prints, exits or reads the environment: its configuration arrives as a [`Config`], its
//! progress leaves through a [`Progress`].

#![forbid(unsafe_code)]

mod archive;
pub mod build;
mod change;
mod compressed;
mod config;
pub mod container;
mod copy;
mod engine;
mod error;
mod estargz;
mod images;
mod layer;
mod login;
mod origin;
pub mod process;
mod progress;
mod pull;
mod push;
mod registry;
mod rootfs;
mod system;

pub use archive::{FileError, ImportRequest, LoadRequest, Loaded, SaveRequest};
pub use change::ChangeError;
pub use config::{Config, Settings};
pub use container::ContainerError;
pub use copy::{
    Copied, CopyError, CopyRequest, IndexRequest, IndexSource, Place, PlaceError, PlannedIndex,
    RemoteDocument, RemoteError, RemoteStatement, Remotes, SingleImage,
};
pub use davit_distribution::{Login, Saved, Secret, wire::SearchEntry};
pub use davit_dockerfile::{Glob, nearest, parse_size};
pub use davit_image as image;
pub use davit_store::{BuildCache, CheckReport, Fault, FaultKind, GcReport, ImageRow, Repair};
pub use davit_sys::signals;
pub use engine::{Engine, OpenError};
pub use error::Hint;
pub use estargz::EstargzError;
pub use images::{
    HistoryLine, ImageError, ImageInspect, ImagePrune, OpenImage, Pruned, Removal, RemoveRequest,
};
pub use login::{Account, Accounts, DEFAULT_REGISTRY, LoginError};
pub use origin::OriginError;
pub use progress::{Event, Progress, Silent};
pub use pull::{MOST_PARALLEL, PullError, PullRequest, Pulled};
pub use push::{
    BlobAccess, CompressionScope, LayerCompression, PushError, PushRequest, Pushed, Referrers,
    RemoteName,
};
pub use registry::RegistryError;
pub use rootfs::UnusableLayers;
pub use system::{
    BuildCachePrune, BuildCacheTotal, BuildCacheUsage, CacheBounds, CheckMode, ContainerUsage,
    DiskUsage, ImageUsage, SystemInfo, VolumeUsage,
};
