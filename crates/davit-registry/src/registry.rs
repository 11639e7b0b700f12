//! What every use case needs: the database, the store, the limits, and what is kept in memory.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use davit_image::Digest;
use uuid::Uuid;

use crate::{
    blobs::Linked,
    config::Limits,
    db::{Connection, Database, DbError, Row, values},
    events::{self, EventKind, Happened, Listeners},
    manifests::Cache,
    memory::Memory,
    name::RepositoryName,
    pulls::Pulls,
    store::Store,
    uploads::Begun,
};

/// Links of blobs that are kept in memory.
const BLOBS: usize = 4096;

/// A registry; cheap to clone.
#[derive(Clone, Debug)]
pub struct Registry {
    /// What is known.
    pub database: Database,
    /// The bytes of blobs.
    pub store: Store,
    /// What is allowed.
    pub limits: Limits,
    pub(crate) manifests: Arc<Cache>,
    pub(crate) blobs: Arc<Memory<(RepositoryName, Digest), Arc<Linked>>>,
    pub(crate) listeners: Arc<Listeners>,
    /// Manifests that were pulled lately.
    pub pulls: Arc<Pulls>,
    pub(crate) begun: Arc<Begun>,
    /// Bytes of blobs that came in since the start.
    received: Arc<AtomicU64>,
    /// Upload sessions that a request of this process works on.
    busy: Arc<Mutex<HashSet<Uuid>>>,
}

/// A repository's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Repo {
    pub(crate) id: i64,
    /// Its own rule about sparse manifests, when it has one.
    pub(crate) sparse: Option<i64>,
    /// What of it somebody listens to: 0 nothing, 1 its changes, 2 its blobs too.
    pub(crate) listened: i64,
}

impl Registry {
    /// Puts the parts together.
    #[must_use]
    pub fn new(database: Database, store: Store, limits: Limits) -> Self {
        let manifests = Arc::new(Cache::of_manifests());
        let blobs = Arc::new(Memory::new(BLOBS));
        let listeners = Arc::default();
        Self {
            store: store.noting_in(&database),
            database,
            limits,
            manifests,
            blobs,
            listeners,
            pulls: Arc::default(),
            begun: Arc::default(),
            received: Arc::default(),
            busy: Arc::default(),
        }
    }

    /// The lease in milliseconds.
    pub(crate) fn lease_ms(&self) -> i64 {
        i64::try_from(self.limits.lease.as_millis()).unwrap_or(i64::MAX / 4)
    }

    /// Bytes of blobs that came in since the start.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Counts bytes of blobs that came in.
    pub(crate) fn count_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Claims an upload session within this process until the claim is dropped.
    pub(crate) fn claim(&self, session: Uuid) -> Option<Busy> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.insert(session).then(|| Busy { busy: Arc::clone(&self.busy), session })
    }
}

/// An upload session that a request of this process works on.
#[derive(Debug)]
pub(crate) struct Busy {
    busy: Arc<Mutex<HashSet<Uuid>>>,
    session: Uuid,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.session);
    }
}

/// Finds a repository.
pub(crate) async fn find_repo(
    connection: &mut Connection,
    name: &RepositoryName,
) -> Result<Option<Repo>, DbError> {
    // Who listens is found by the way: where nobody does, an event costs no statement.
    let sql = "SELECT id, sparse, COALESCE((SELECT MAX(s.level) FROM subscription s \
               WHERE s.state = 'active' AND s.prefix = substr(path, 1, length(s.prefix))), \
               CAST(0 AS BIGINT)) FROM repo WHERE path = $1";
    let row = connection.row(sql, values![name.as_str()]).await?;
    let repo = |row: Row| Ok(Repo { id: row.get(0)?, sparse: row.get(1)?, listened: row.get(2)? });
    row.map(repo).transpose()
}

/// Finds a repository, or makes it: it belongs to the account of its first part, if there is one.
pub(crate) async fn ensure_repo(
    connection: &mut Connection,
    name: &RepositoryName,
) -> Result<Repo, DbError> {
    let mut made = 0;
    loop {
        if let Some(repo) = find_repo(connection, name).await? {
            if made > 0 {
                events::emit(connection, repo, Happened::of(EventKind::RepositoryCreate)).await?;
            }
            return Ok(repo);
        }
        let sql = "INSERT INTO repo (path, owner_id, created_at) \
                   VALUES ($1, (SELECT id FROM account WHERE name = $2), $3) \
                   ON CONFLICT (path) DO NOTHING";
        let created = connection.now_ms();
        made = connection.execute(sql, values![name.as_str(), name.namespace(), created]).await?;
    }
}
