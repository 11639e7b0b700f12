//! Online garbage collection: short transactions, no lock that a user waits for, safe on many nodes.
//!
//! ```text
//! deleted      repositories, for long enough          -> what they hold, then their rows, removed
//! retention    tags that no rule keeps               -> tag removed, its manifest queued
//! A manifests  queued, without tag, parent, subject  -> removed; their links get a lease
//! B links      unreferenced, lease over              -> removed
//! C blobs      without a link                        -> row removed, key into the trash
//! D objects    in the trash for long enough          -> removed from the store
//! E orphans    old keys that no row names            -> into the trash; lost objects are marked
//! F uploads    expired                               -> row removed, then what is stored
//! G parts      of a server that was killed           -> ended in the object store
//! ```
//!
//! Candidates are found by a reader, outside of any transaction. What is removed is locked and looked
//! at again in a transaction of at most [`BATCH`] rows, with a fresh statement after the lock: what was
//! referenced meanwhile stays. Foreign keys refuse what a wrong query would remove. A crash between
//! any two steps leaves an object too many, never a row too many. `tests/it/gc_model.rs` searches all
//! orders of these steps.
//!
//! Two promises: **I1** a manifest's link, the link's blob and the blob's object exist; **I2** a client
//! that was told that a repository holds a blob finds it there for a lease (half of one after HEAD).

use std::time::Duration;

use crate::{
    config::Limits,
    db::{Connection, Database, DbError, Transaction, ms, values},
    settings::SettingsError,
    store::{Store, StoreError},
};

mod blobs;
mod deleted;
mod explain;
mod links;
mod manifests;
mod objects;
mod parts;
mod tags;

pub use explain::explain;
pub(crate) use objects::Suspect;
pub(crate) use tags::RemoveTags;
pub use tags::RetentionVerdict;

/// Rows that one transaction removes at most.
const BATCH: usize = 200;

/// Times and extent of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GcSettings {
    /// How long what a client was told stays true.
    pub lease: Duration,
    /// How long the bytes of a removed blob stay: a backup of the database of that age is whole.
    pub trash_delay: Duration,
    /// How long a deleted repository stays, and the manifest that a tag has left: so that either can
    /// be undone.
    pub undo: Duration,
    /// How long a referrer stays after its subject.
    pub referrers: Duration,
    /// How old a key or session must be for the scan to judge it: longer than any request lives.
    pub orphan_age: Duration,
    /// When the whole store is scanned.
    pub scan: Scan,
}

impl GcSettings {
    /// The delays that the use cases promise, and the usual others.
    #[must_use]
    pub fn of(limits: &Limits) -> Self {
        let Limits { lease, trash_delay, undo, referrers, .. } = *limits;
        Self { lease, trash_delay, undo, referrers, ..Self::default() }
    }
}

/// When phase E runs, which lists the whole store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// In no run.
    Never,
    /// In the first run of a day, on one of the nodes.
    Daily,
    /// In each run.
    Always,
}

impl Default for GcSettings {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            lease: DAY,
            trash_delay: DAY,
            undo: 14 * DAY,
            referrers: 7 * DAY,
            orphan_age: 2 * DAY,
            scan: Scan::Daily,
        }
    }
}

/// What a run removed, or would remove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Repositories that were deleted for long enough.
    pub repositories: u64,
    /// Tags that no rule keeps.
    pub tags: u64,
    /// Manifests.
    pub manifests: u64,
    /// Links of blobs to repositories.
    pub links: u64,
    /// Blobs that no repository has any more.
    pub blobs: u64,
    /// Bytes of those blobs.
    pub blob_bytes: u64,
    /// Objects that were in the trash for long enough.
    pub objects: u64,
    /// Old objects and sessions that no row named.
    pub orphans: u64,
    /// Blobs whose object is lost.
    pub lost: u64,
    /// Upload sessions that expired, and uploads that a killed server left in an object store.
    pub uploads: u64,
}

/// A run could not go on; what it did before is done.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// The database is out of order.
    #[error("the database failed during garbage collection")]
    Database(#[from] DbError),
    /// The store is out of order.
    #[error("the blob store failed during garbage collection")]
    Store(#[from] StoreError),
    /// A repository's settings cannot be read, so nothing is known of its retention.
    #[error("cannot read the settings of repository `{repository}`")]
    Settings {
        /// Its name.
        repository: String,
        /// Why.
        #[source]
        source: SettingsError,
    },
}

/// What a run may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Remove.
    Collect,
    /// Only count, as things are now: what one phase frees for the next is not followed.
    DryRun,
}

/// Collects garbage: retention and all phases, once through.
///
/// Any number of nodes may do so at once. Cost: one walk over the links and blobs by index, on a reader;
/// with a scan, one listing of the store.
///
/// # Errors
/// [`GcError`]; the next run goes on where this one ended.
pub async fn run_once(
    database: &Database,
    store: &Store,
    settings: &GcSettings,
    mode: Mode,
) -> Result<GcReport, GcError> {
    run_watched((database, store), settings, mode, |_, _| ()).await
}

/// As [`run_once`]; `tell` learns each phase as it begins, and what was removed so far.
///
/// # Errors
/// [`GcError`]; the next run goes on where this one ended.
pub(crate) async fn run_watched(
    (database, store): (&Database, &Store),
    settings: &GcSettings,
    mode: Mode,
    tell: impl Fn(&'static str, &GcReport),
) -> Result<GcReport, GcError> {
    let mut report = GcReport::default();
    tell("repositories", &report);
    report.repositories = deleted::collect(database, settings, mode).await?;
    tell("tags", &report);
    report.tags = tags::collect(database, mode).await?;
    tell("manifests", &report);
    report.manifests = manifests::collect(database, settings, mode).await?;
    tell("uploads", &report);
    report.uploads = objects::end_uploads(database, store, mode).await?;
    report.uploads += parts::collect(database, store, settings, mode).await?;
    tell("links", &report);
    report.links = links::collect(database, mode).await?;
    tell("blobs", &report);
    (report.blobs, report.blob_bytes) = blobs::collect(database, settings, mode).await?;
    if mode == Mode::Collect && scan_is_due(database, settings.scan).await? {
        tell("store", &report);
        let found = objects::scan(database, store, settings).await?;
        (report.orphans, report.lost) = (found.orphans, found.lost);
    }
    tell("objects", &report);
    report.objects = objects::empty_trash(database, store, mode).await?;
    Ok(report)
}

async fn scan_is_due(database: &Database, scan: Scan) -> Result<bool, DbError> {
    match scan {
        Scan::Never => Ok(false),
        Scan::Always => Ok(true),
        Scan::Daily => database.write(ClaimScan).await,
    }
}

/// Writes down that the day's scan begins, unless one did.
struct ClaimScan;

impl Transaction for ClaimScan {
    type Output = bool;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<bool, DbError> {
        const CLAIM: &str = "INSERT INTO setting (name, value) VALUES ('gc.scan_day', $1) \
             ON CONFLICT (name) DO UPDATE SET value = excluded.value \
             WHERE setting.value <> excluded.value";
        let day = connection.now_ms() / ms(Duration::from_secs(24 * 60 * 60));
        Ok(connection.execute(CLAIM, values![day.to_string()]).await? == 1)
    }
}

/// Judges every tag of every repository that has rules, for `--dry-run`.
///
/// # Errors
/// [`GcError`].
pub async fn retention_verdicts(database: &Database) -> Result<Vec<RetentionVerdict>, GcError> {
    tags::verdicts(database).await
}
