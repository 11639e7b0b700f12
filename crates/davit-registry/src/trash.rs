//! What was deleted, and the way back: repositories and manifests, for [`Limits::undo`].
//!
//! A deleted repository keeps its row and all it holds, under a path that is no repository's name, so
//! that no use case meets it and the name is free at once. A deleted manifest is kept aside with its
//! tags, and its blobs stay linked for as long. Tags have their history ([`manifests::undo`]).
//! The collector removes what nobody asked for in time.
//!
//! [`Limits::undo`]: crate::config::Limits::undo
//! [`manifests::undo`]: crate::manifests::undo

use davit_image::{Digest, MediaType, Tag};
use serde_json::json;

use crate::{
    auth::{
        Rights,
        audit::{self, Actor, Entry},
    },
    db::{Connection, Database, DbError, Lock, Transaction, values},
    events::{EventKind, Happened, emit},
    fault::Fault,
    manifests::{self, Condition, Content, Put},
    name::RepositoryName,
    registry::{Registry, find_repo},
};

/// First byte of the path of a deleted repository; it follows all that names are made of.
const DELETED: char = '~';
/// Rows that a list has at most.
const MOST: i64 = 1000;

/// What can be had back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// The repository.
    pub repository: String,
    /// The manifest; `None` for the repository itself.
    pub digest: Option<Digest>,
    /// When it was deleted, in milliseconds since 1970.
    pub at_ms: i64,
}

/// How long a deleted repository stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// As long as anything that can be undone.
    Usual,
    /// Until the collector comes.
    Nothing,
}

/// Deletes a repository with all that it holds.
#[derive(Clone, Debug)]
pub struct DeleteRepository {
    /// Who deletes it.
    pub by: Actor,
    /// The repository.
    pub name: RepositoryName,
    /// How long it can be had back.
    pub keep: Keep,
}

impl Transaction for DeleteRepository {
    type Output = ();
    type Error = Fault;

    async fn run(&self, connection: &mut Connection) -> Result<(), Fault> {
        let sql = "SELECT id FROM repo WHERE path = $1";
        let rows = connection.rows_locked(sql, values![self.name.as_str()], Lock::Update).await?;
        let id: i64 = rows.first().ok_or(Fault::NAME_UNKNOWN)?.get(0)?;
        if let Some(repo) = find_repo(connection, &self.name).await? {
            let gone = Happened::of(EventKind::RepositoryDelete);
            emit(connection, repo, Happened { by: self.by.id, ..gone }).await?;
        }
        let at = if self.keep == Keep::Usual { connection.now_ms() } else { 0 };
        let sql = "INSERT INTO deleted_repo (repo_id, path, deleted_at) VALUES ($1, $2, $3)";
        connection.execute(sql, values![id, self.name.as_str(), at]).await?;
        let aside = format!("{DELETED}{id}/{}", self.name);
        connection.execute("UPDATE repo SET path = $1 WHERE id = $2", values![aside, id]).await?;
        // Nobody can go on with them: the collector ends them first, for their bytes.
        let sql = "UPDATE upload SET expires_at = 0 WHERE repo_id = $1";
        connection.execute(sql, values![id]).await?;
        let entry = Entry { action: "repo.delete", object: self.name.as_str(), detail: "{}" };
        Ok(audit::append(connection, &self.by, entry).await?)
    }
}

/// Has a deleted repository back, the one that was deleted last; under another name where that is taken.
#[derive(Clone, Debug)]
pub struct RestoreRepository {
    /// Who restores it.
    pub by: Actor,
    /// Its name when it was deleted.
    pub name: RepositoryName,
    /// Its name from now on.
    pub to: RepositoryName,
}

impl Transaction for RestoreRepository {
    type Output = ();
    type Error = Fault;

    async fn run(&self, connection: &mut Connection) -> Result<(), Fault> {
        let sql = "SELECT repo_id FROM deleted_repo WHERE path = $1 AND deleted_at > 0 \
                   ORDER BY deleted_at DESC, repo_id DESC LIMIT 1";
        let rows = connection.rows_locked(sql, values![self.name.as_str()], Lock::Update).await?;
        let id: i64 = rows.first().ok_or(Fault::NAME_UNKNOWN)?.get(0)?;
        if find_repo(connection, &self.to).await?.is_some() {
            let why =
                format!("there is a repository {} again; restore it by another name", self.to);
            return Err(Fault::Unsupported(why));
        }
        if self.to.namespace() != self.name.namespace() {
            let why = "a repository stays in its namespace, whose account its bytes are charged to";
            return Err(Fault::Unsupported(why.to_owned()));
        }
        let sql = "UPDATE repo SET path = $1 WHERE id = $2";
        connection.execute(sql, values![self.to.as_str(), id]).await?;
        connection.execute("DELETE FROM deleted_repo WHERE repo_id = $1", values![id]).await?;
        if let Some(repo) = find_repo(connection, &self.to).await? {
            let back = Happened::of(EventKind::RepositoryCreate);
            emit(connection, repo, Happened { by: self.by.id, ..back }).await?;
        }
        let detail = json!({ "was": self.name.as_str() }).to_string();
        let entry = Entry { action: "repo.restore", object: self.to.as_str(), detail: &detail };
        Ok(audit::append(connection, &self.by, entry).await?)
    }
}

/// What can be had back, newest first: repositories, and manifests of those that are there.
///
/// # Errors
/// The database's.
pub async fn deleted(database: &Database) -> Result<Vec<Deleted>, DbError> {
    const ALL: &str = "SELECT path, NULL, deleted_at FROM deleted_repo WHERE deleted_at > 0 \
         UNION ALL SELECT r.path, d.digest, d.deleted_at FROM deleted_manifest d \
         JOIN repo r ON r.id = d.repo_id WHERE r.path < '~' AND NOT EXISTS \
         (SELECT 1 FROM manifest m WHERE m.repo_id = d.repo_id AND m.digest = d.digest) \
         ORDER BY 3 DESC, 1, 2 LIMIT $1";
    let mut reader = database.reader().await?;
    let rows = reader.rows(ALL, values![MOST]).await?;
    let each = rows.iter().map(|row| {
        Ok(Deleted { repository: row.get(0)?, digest: row.get(1)?, at_ms: row.get(2)? })
    });
    each.collect()
}

/// Puts a manifest aside before it is deleted, with its tags.
///
/// # Errors
/// The database's.
pub(crate) async fn keep_manifest(
    connection: &mut Connection,
    id: i64,
    tags: &[String],
) -> Result<(), DbError> {
    let sql = "INSERT INTO deleted_manifest (repo_id, digest, media_type, body, tags, deleted_at) \
               SELECT repo_id, digest, media_type, body, $2, $3 FROM manifest WHERE id = $1 \
               ON CONFLICT (repo_id, digest) DO UPDATE \
               SET tags = excluded.tags, deleted_at = excluded.deleted_at";
    let (tags, now) = (json!(tags).to_string(), connection.now_ms());
    connection.execute(sql, values![id, tags, now]).await?;
    Ok(())
}

/// Has a deleted manifest back, and of its tags those that nobody made again; tells which.
///
/// # Errors
/// [`Fault::MANIFEST_UNKNOWN`], [`Fault::Missing`] when an index's manifests have gone as well.
pub async fn restore_manifest(
    registry: &Registry,
    name: &RepositoryName,
    digest: &Digest,
    by: Option<i64>,
) -> Result<Vec<Tag>, Fault> {
    const KEPT: &str = "SELECT d.media_type, d.body, d.tags, d.repo_id FROM deleted_manifest d \
         JOIN repo r ON r.id = d.repo_id WHERE r.path = $1 AND d.digest = $2";
    const TAKEN: &str = "SELECT 1 FROM tag WHERE repo_id = $1 AND name = $2";
    let mut reader = registry.database.reader().await?;
    let row = reader.row(KEPT, values![name.as_str(), digest]).await?;
    let row = row.ok_or(Fault::MANIFEST_UNKNOWN)?;
    let (media_type, body, tags): (String, Vec<u8>, String) =
        (row.get(0)?, row.get(1)?, row.get(2)?);
    let mut free = Vec::new();
    for tag in serde_json::from_str::<Vec<String>>(&tags).unwrap_or_default() {
        let taken = reader.row(TAKEN, values![row.get::<i64>(3)?, &tag]).await?;
        free.extend(tag.parse().ok().filter(|_: &Tag| taken.is_none()));
    }
    drop(reader);
    let put = Put {
        name: name.clone(),
        content: Content::parse(body.into(), Some(&MediaType::new(media_type)))?,
        digest: Some(*digest),
        tags: free.clone(),
        condition: Condition::Absent,
        rights: Rights::ALL,
        by,
    };
    manifests::put(registry, put).await?;
    Ok(free)
}
