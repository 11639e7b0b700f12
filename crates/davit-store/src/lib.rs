//! The store: everything that davit keeps on disk, and the rules that keep it whole.
//!
//! ```text
//! ROOT/format  davit.db                       Format, Database
//! ROOT/blobs/ALG/HEX                          BlobIngest, documents
//! ROOT/layers/ALG/HEX/{tar,table,digests}     LayerIngest
//! ROOT/trees/ID.erofs  dirs/KEY/              TreeIngest
//! ROOT/containers/ID/  volumes/NAME/_data     rows claim, their owners fill
//! ROOT/builds/ID.zst   cache/                 logs of builds, cache mounts
//! ROOT/tmp/                                   everything unfinished, each held by a lock
//! RUN_ROOT/ROOTID/                            what dies with the boot
//! ```
//!
//! A file becomes visible only by the commit protocol: written and locked under `tmp/`, size and
//! digest verified, `fdatasync`, rename, `fsync` of the directory, one database transaction. A row
//! never names a file that is neither durable nor marked with this boot's id; a file without a row
//! is garbage that the next sweep removes. What may be removed is computed by SQL from the roots
//! (tags, untagged images, containers, live leases, build records) and never counted.
//!
//! **Invariants:** all calls block; nothing here knows what a tar layer looks like inside; no lock
//! outlives its process, for all of them are `flock`s and SQLite transactions.
//!
//! The formats are described in `docs/formats/store.md`.

#![forbid(unsafe_code)]

pub mod archive;
mod blob;
mod boot;
mod build;
mod build_files;
mod build_history;
mod cache_mount;
mod check;
mod container;
mod database;
mod document;
mod durable;
mod erase;
mod error;
mod event;
mod flight;
mod format;
mod gc;
mod image;
mod layer;
mod layout;
mod lease;
mod lock;
mod network;
mod regular;
mod removal;
mod reserve;
mod store;
mod sweep;
mod tree;
mod volume;

pub use blob::{BlobBegin, BlobIngest, BlobRecord, BlobWait};
pub use boot::BootId;
pub use build::{BuildRecord, NewBuildRecord};
pub use build_history::{BuildRow, BuildStatus, HistoryLimits};
pub use cache_mount::{CacheMount, CacheMountUse, CacheSharing};
pub use check::{
    CheckOptions, CheckReport, CheckTable, DroppedName, Fault, FaultKind, Lacking, RebuildTable,
    Repair, Restore, Unrestored,
};
pub use container::{
    AddressClaim, ClaimError, Claimed, ContainerFilter, ContainerRow, ContainerUpdate,
    NewContainer, PortClaim, PortProtocol,
};
pub use document::StoredDocument;
pub use durable::Durability;
pub use error::{StoreError, is_no_space};
pub use event::{Event, NewEvent};
pub use flight::{Flight, FlightGuard, FlightWait};
pub use format::{FORMAT_VERSION, FormatError, FormatFile, RootId};
pub use gc::{BuildCache, GcOptions, GcReport, ImageSizes};
pub use image::{
    ImageCommit, ImageEdit, ImageFind, ImageRow, ImageUser, RepoDigest, TagUpdate, Target,
};
pub use layer::{DiffIdState, LayerBlob, LayerFacts, LayerIngest, LayerRow, Presence, UnknownWord};
pub use layout::Layout;
pub use lease::Lease;
pub use network::{AddressRow, NetworkRow, NewNetwork, Pool, PortRow, PublishedPort};
pub use removal::{Removed, Remover, remove_behind};
pub use store::{Store, StoreOptions};
pub use sweep::{Partials, SweepReport};
pub use tree::{NewTree, TreeForm, TreeIngest, TreeRow};
pub use volume::{NewVolume, VolumeRow};
