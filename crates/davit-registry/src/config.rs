//! Settings of a registry, as plain structs; the command line fills them.

use std::{path::PathBuf, time::Duration};

use crate::{db::Location, ratelimit::PullLimits, store::StoreLocation};

/// Shortest lease that the command line takes; tests go below it.
pub const SHORTEST_LEASE: Duration = Duration::from_secs(60 * 60);

/// What the use cases need to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long what a client was told stays true: a blob it pushed or asked for is not collected.
    pub lease: Duration,
    /// How long a removed object's bytes stay on disk.
    pub trash_delay: Duration,
    /// How long what was deleted, and what a tag has left, can be had back.
    pub undo: Duration,
    /// How long a referrer stays after its subject.
    pub referrers: Duration,
    /// How long an upload session may rest.
    pub upload_idle: Duration,
    /// How long a node keeps an upload session to itself without a sign of life, where nodes share a
    /// database.
    pub claim: Duration,
    /// How often it gives one.
    pub claim_renewal: Duration,
    /// Largest manifest in bytes.
    pub manifest_bytes: usize,
    /// Largest blob in bytes.
    pub blob_bytes: u64,
    /// Open upload sessions of one account.
    pub open_uploads: u32,
    /// Whether manifests may name blobs and children that the repository lacks.
    pub sparse: bool,
    /// How often manifests may be pulled.
    pub pulls: PullLimits,
}

impl Default for Limits {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            lease: DAY,
            trash_delay: DAY,
            undo: 14 * DAY,
            referrers: 7 * DAY,
            upload_idle: DAY,
            claim: Duration::from_secs(60),
            claim_renewal: Duration::from_secs(20),
            manifest_bytes: 4 << 20,
            blob_bytes: 1 << 40,
            open_uploads: 64,
            sparse: false,
            pulls: PullLimits::default(),
        }
    }
}

/// Where a registry keeps its things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The registry's directory.
    pub root: PathBuf,
    /// The database; `None` is SQLite in the directory.
    pub database: Option<Location>,
    /// Where the blobs are; `None` is the registry's directory.
    pub store: Option<StoreLocation>,
}

impl Places {
    /// Where the blobs are.
    #[must_use]
    pub fn store(&self) -> StoreLocation {
        self.store.clone().unwrap_or_else(|| StoreLocation::Directory(self.root.clone()))
    }

    /// The file with the keys that sign bearer tokens.
    #[must_use]
    pub fn token_keys(&self) -> PathBuf {
        self.root.join("token-keys.json")
    }

    /// Where the database is.
    #[must_use]
    pub fn database(&self) -> Location {
        let local = || Location::Sqlite(self.root.join("registry.db"));
        self.database.clone().unwrap_or_else(local)
    }
}
