//! Blobs of a repository: find, link (commit and mount), delete. `repo_blob` rows are the links.

use std::sync::Arc;

use davit_image::Digest;

use crate::{
    db::{Connection, DbError, Lock, Transaction, ms, values},
    events::{EventKind, Happened, emit},
    fault::Fault,
    memory::Known,
    name::RepositoryName,
    quota::{self, Charge},
    registry::{Registry, ensure_repo, find_repo},
    store::{Adopted, Key},
};

/// Repositories that an anonymous mount tries at most.
const MOUNT_SOURCES: i64 = 50;

/// A blob that can be pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Where its bytes are.
    pub key: Key,
    /// How many.
    pub size_bytes: u64,
}

/// Finds a blob of a repository, and renews its lease when nothing else keeps it.
///
/// One whose bytes were found lost or corrupt answers as absent, so that clients push it again.
///
/// What this tells holds for a lease: a manifest that names the blob may be pushed so long.
///
/// # Errors
/// [`Fault::BLOB_UNKNOWN`], or the database's.
pub async fn find(
    registry: &Registry,
    name: &RepositoryName,
    digest: &Digest,
) -> Result<Blob, Fault> {
    let (key, mark) = ((name.clone(), *digest), registry.database.change_mark());
    let linked = match registry.blobs.get(&key, mark) {
        Some(Known::Good(linked)) => linked,
        _ => {
            let linked = load(registry, name, digest).await?.ok_or(Fault::BLOB_UNKNOWN)?;
            let linked = Arc::new(linked);
            registry.blobs.keep(&key, Arc::clone(&linked), mark, 1);
            linked
        }
    };
    let half = registry.database.now_ms() + registry.lease_ms() / 2;
    if !linked.is_referenced && linked.lease_until < half {
        let renewal = Renew { name: name.clone(), digest: *digest, lease_ms: registry.lease_ms() };
        if !registry.database.write(renewal).await? {
            return Err(Fault::BLOB_UNKNOWN);
        }
    }
    Ok(linked.blob.clone())
}

/// What ties a blob to a repository.
#[derive(Debug)]
pub(crate) struct Linked {
    blob: Blob,
    lease_until: i64,
    /// Whether a manifest of the repository names it.
    is_referenced: bool,
}

async fn load(
    registry: &Registry,
    name: &RepositoryName,
    digest: &Digest,
) -> Result<Option<Linked>, Fault> {
    let sql = "SELECT b.store_key, b.size_bytes, l.lease_until, \
               CASE WHEN EXISTS (SELECT 1 FROM manifest_blob e \
                   WHERE e.repo_id = l.repo_id AND e.linked = l.digest) \
               THEN CAST(1 AS BIGINT) ELSE CAST(0 AS BIGINT) END \
               FROM repo r JOIN repo_blob l ON l.repo_id = r.id JOIN blob b ON b.digest = l.digest \
               WHERE r.path = $1 AND l.digest = $2 AND b.state = 'live'";
    let mut reader = registry.database.lookup().await?;
    let row = reader.row(sql, values![name.as_str(), digest]).await?;
    let Some(row) = row else { return Ok(None) };
    let key: String = row.get(0)?;
    // A key that nobody can read names nothing.
    let Ok(key) = key.parse() else { return Ok(None) };
    let blob = Blob { key, size_bytes: row.get(1)? };
    Ok(Some(Linked { blob, lease_until: row.get(2)?, is_referenced: row.get(3)? }))
}

struct Renew {
    name: RepositoryName,
    digest: Digest,
    lease_ms: i64,
}

impl Transaction for Renew {
    type Output = bool;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<bool, DbError> {
        let sql = "UPDATE repo_blob SET lease_until = $1 \
                   WHERE repo_id = (SELECT id FROM repo WHERE path = $2) AND digest = $3";
        let until = connection.now_ms() + self.lease_ms;
        let changed =
            connection.execute(sql, values![until, self.name.as_str(), &self.digest]).await?;
        Ok(changed == 1)
    }
}

/// A durable object becomes a blob of a repository; its upload session, if any, ends.
pub(crate) struct Commit {
    pub(crate) name: RepositoryName,
    pub(crate) digest: Digest,
    pub(crate) size_bytes: u64,
    pub(crate) key: Key,
    /// With the version that its claim gave it.
    pub(crate) session: Option<(uuid::Uuid, i64)>,
    pub(crate) lease_ms: i64,
    pub(crate) trash_ms: i64,
}

impl Transaction for Commit {
    type Output = ();
    type Error = Fault;

    async fn run(&self, connection: &mut Connection) -> Result<(), Fault> {
        let repo = ensure_repo(connection, &self.name).await?;
        if let Some((session, version)) = self.session {
            let sql = "DELETE FROM upload WHERE id = $1 AND repo_id = $2 AND version = $3";
            if connection.execute(sql, values![session, repo.id, version]).await? == 0 {
                return Err(Fault::UPLOAD_UNKNOWN);
            }
        }
        self.add_blob(connection).await?;
        if link(connection, repo.id, &self.digest, self.lease_ms).await? {
            let push = Happened::of(EventKind::BlobPush);
            emit(connection, repo, Happened { digest: Some(&self.digest), ..push }).await?;
        }
        Ok(())
    }
}

impl Commit {
    /// Adds the blob, or puts this copy aside when a healthy one exists.
    async fn add_blob(&self, connection: &mut Connection) -> Result<(), DbError> {
        let (key, now) = (self.key.to_string(), connection.now_ms());
        loop {
            let insert = "INSERT INTO blob (digest, size_bytes, store_key, created_at) \
                          VALUES ($1, $2, $3, $4) ON CONFLICT (digest) DO NOTHING";
            let row = values![&self.digest, self.size_bytes, &key, now];
            if connection.execute(insert, row).await? == 1 {
                return Ok(());
            }
            let find = "SELECT store_key, state FROM blob WHERE digest = $1";
            let found = connection.rows_locked(find, values![&self.digest], Lock::Update).await?;
            // The collector may have removed it between the two statements.
            let Some(row) = found.first() else { continue };
            let (old, state): (String, String) = (row.get(0)?, row.get(1)?);
            if state == "live" {
                return self.discard(connection, &key).await;
            }
            let heal = "UPDATE blob SET store_key = $1, size_bytes = $2, state = 'live' \
                        WHERE digest = $3";
            connection.execute(heal, values![&key, self.size_bytes, &self.digest]).await?;
            return self.discard(connection, &old).await;
        }
    }

    async fn discard(&self, connection: &mut Connection, key: &str) -> Result<(), DbError> {
        let sql = "INSERT INTO trash (store_key, size_bytes, not_before) VALUES ($1, $2, $3)";
        let not_before = connection.now_ms() + self.trash_ms;
        connection.execute(sql, values![key, self.size_bytes, not_before]).await?;
        Ok(())
    }
}

/// Makes a blob pullable from a repository for at least a lease, charges it to the owner if it is new
/// there, and completes sparse manifests. Tells whether it is new there.
async fn link(
    connection: &mut Connection,
    repo_id: i64,
    digest: &Digest,
    lease_ms: i64,
) -> Result<bool, Fault> {
    let now = connection.now_ms();
    let insert = "INSERT INTO repo_blob (repo_id, digest, lease_until, created_at) \
                  VALUES ($1, $2, $3, $4) ON CONFLICT (repo_id, digest) DO NOTHING";
    let renew = "UPDATE repo_blob SET lease_until = \
                 CASE WHEN lease_until < $3 THEN $3 ELSE lease_until END \
                 WHERE repo_id = $1 AND digest = $2";
    let is_new = loop {
        if connection.execute(insert, values![repo_id, digest, now + lease_ms, now]).await? == 1 {
            if quota::charge(connection, repo_id, digest).await? == Charge::Exceeds {
                return Err(Fault::Denied("the owner's quota has no room for this".to_owned()));
            }
            break true;
        }
        // The collector may remove it between the two statements.
        if connection.execute(renew, values![repo_id, digest, now + lease_ms]).await? == 1 {
            break false;
        }
    };
    let complete = "UPDATE manifest_blob SET linked = digest \
                    WHERE repo_id = $1 AND digest = $2 AND linked IS NULL";
    connection.execute(complete, values![repo_id, digest]).await?;
    Ok(is_new)
}

/// Makes a file that lies elsewhere a blob of a repository, in place where that can be.
///
/// # Errors
/// [`StoreError::Digest`](crate::store::StoreError::Digest), a quota without room, or the store's.
pub(crate) async fn adopt(
    registry: &Registry,
    name: &RepositoryName,
    digest: Digest,
    file: std::fs::File,
) -> Result<Adopted, Fault> {
    let lease_ms = registry.lease_ms();
    let known = LinkKnown { name: name.clone(), digest, lease_ms };
    if registry.database.write(known).await? {
        return Ok(Adopted::There);
    }
    let (key, size_bytes, how) = registry.store.adopt(file, digest).await?;
    let trash_ms = ms(registry.limits.trash_delay);
    let name = name.clone();
    let commit = Commit { name, digest, size_bytes, key, session: None, lease_ms, trash_ms };
    registry.database.write(commit).await?;
    Ok(how)
}

/// Links a blob that some repository has.
struct LinkKnown {
    name: RepositoryName,
    digest: Digest,
    lease_ms: i64,
}

impl Transaction for LinkKnown {
    /// Whether there is such a blob.
    type Output = bool;
    type Error = Fault;

    async fn run(&self, connection: &mut Connection) -> Result<bool, Fault> {
        let sql = "SELECT digest FROM blob WHERE digest = $1 AND state = 'live'";
        let found = connection.rows_locked(sql, values![&self.digest], Lock::KeyShare).await?;
        if found.is_empty() {
            return Ok(false);
        }
        let repo = ensure_repo(connection, &self.name).await?;
        if link(connection, repo.id, &self.digest, self.lease_ms).await? {
            let push = Happened::of(EventKind::BlobPush);
            emit(connection, repo, Happened { digest: Some(&self.digest), ..push }).await?;
        }
        Ok(true)
    }
}

/// Makes a blob of one repository a blob of another; the caller may pull from the first. `false` when
/// the first lacks it.
///
/// # Errors
/// [`Fault::Denied`] when the quota has no room.
pub async fn mount(
    registry: &Registry,
    from: RepositoryName,
    to: RepositoryName,
    digest: Digest,
) -> Result<bool, Fault> {
    registry.database.write(Mount { from, to, digest, lease_ms: registry.lease_ms() }).await
}

struct Mount {
    from: RepositoryName,
    to: RepositoryName,
    digest: Digest,
    lease_ms: i64,
}

impl Transaction for Mount {
    /// Whether the source has it.
    type Output = bool;
    type Error = Fault;

    async fn run(&self, connection: &mut Connection) -> Result<bool, Fault> {
        let Some(from) = find_repo(connection, &self.from).await? else { return Ok(false) };
        let sql = "SELECT digest FROM repo_blob WHERE repo_id = $1 AND digest = $2";
        let values = values![from.id, &self.digest];
        if connection.rows_locked(sql, values, Lock::KeyShare).await?.is_empty() {
            return Ok(false);
        }
        let to = ensure_repo(connection, &self.to).await?;
        if link(connection, to.id, &self.digest, self.lease_ms).await? {
            let source = Some(self.from.as_str());
            let mount = Happened { source, ..Happened::of(EventKind::BlobMount) };
            emit(connection, to, Happened { digest: Some(&self.digest), ..mount }).await?;
        }
        Ok(true)
    }
}

/// Repositories that have the blob, for a mount that names none.
///
/// # Errors
/// The database's.
pub(crate) async fn holders(
    registry: &Registry,
    digest: &Digest,
) -> Result<Vec<RepositoryName>, Fault> {
    let sql = "SELECT r.path FROM repo_blob l JOIN repo r ON r.id = l.repo_id \
               WHERE l.digest = $1 ORDER BY l.repo_id LIMIT $2";
    let mut reader = registry.database.reader().await?;
    let rows = reader.rows(sql, values![digest, MOUNT_SOURCES]).await?;
    let paths: Vec<String> = rows.iter().map(|row| row.get(0)).collect::<Result<_, _>>()?;
    Ok(paths.iter().filter_map(|path| path.parse().ok()).collect())
}

/// Removes a blob from a repository at once; refused while a manifest names it.
pub(crate) struct Delete {
    pub(crate) name: RepositoryName,
    pub(crate) digest: Digest,
}

impl Transaction for Delete {
    type Output = ();
    type Error = Fault;

    async fn run(&self, connection: &mut Connection) -> Result<(), Fault> {
        let repo = find_repo(connection, &self.name).await?.ok_or(Fault::NAME_UNKNOWN)?;
        let sql = "SELECT digest FROM repo_blob WHERE repo_id = $1 AND digest = $2";
        let values = || values![repo.id, &self.digest];
        if connection.rows_locked(sql, values(), Lock::Update).await?.is_empty() {
            return Err(Fault::BLOB_UNKNOWN);
        }
        let used = "SELECT digest FROM manifest_blob WHERE repo_id = $1 AND linked = $2 LIMIT 1";
        if connection.row(used, values()).await?.is_some() {
            let why = "a manifest of this repository names the blob; delete that first";
            return Err(Fault::Unsupported(why.to_owned()));
        }
        let sql = "DELETE FROM repo_blob WHERE repo_id = $1 AND digest = $2";
        connection.execute(sql, values()).await?;
        quota::refund(connection, repo.id, &self.digest).await?;
        let gone = Happened::of(EventKind::BlobDelete);
        Ok(emit(connection, repo, Happened { digest: Some(&self.digest), ..gone }).await?)
    }
}
