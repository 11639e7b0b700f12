//! Deleting a tag or a manifest. What loses its last reference gets a lease, so that a client that was
//! told of it may still build upon it.

use davit_image::{Digest, Tag};

use super::{
    put::{check_movable, lock_tag, tell},
    queue,
};
use crate::{
    db::{Connection, DbError, Lock, Transaction, ms, values},
    events::{EventKind, Happened, emit},
    fault::Fault,
    name::RepositoryName,
    registry::{Registry, Repo, find_repo},
    trash,
};

/// Deletes a tag; the manifest stays until the collector finds it unwanted.
///
/// `expected` is what the tag must name, when the client said so.
///
/// # Errors
/// [`Fault::MANIFEST_UNKNOWN`], [`Fault::Precondition`].
pub async fn delete_tag(
    registry: &Registry,
    name: &RepositoryName,
    tag: &Tag,
    (expected, by): (Option<Vec<Digest>>, Option<i64>),
) -> Result<(), Fault> {
    let transaction = DeleteTag {
        name: name.clone(),
        tag: tag.clone(),
        expected,
        by,
        lease_ms: registry.lease_ms(),
    };
    registry.database.write(transaction).await
}

struct DeleteTag {
    name: RepositoryName,
    tag: Tag,
    expected: Option<Vec<Digest>>,
    by: Option<i64>,
    lease_ms: i64,
}

impl Transaction for DeleteTag {
    type Output = ();
    type Error = Fault;

    async fn run(&self, connection: &mut Connection) -> Result<(), Fault> {
        let repo = find_repo(connection, &self.name).await?.ok_or(Fault::NAME_UNKNOWN)?;
        let digest = lock_tag(connection, repo, &self.tag).await?.ok_or(Fault::MANIFEST_UNKNOWN)?;
        if self.expected.as_ref().is_some_and(|expected| !expected.contains(&digest)) {
            return Err(Fault::Precondition);
        }
        check_movable(connection, repo, [self.tag.as_str()]).await?;
        let sql = "DELETE FROM tag WHERE repo_id = $1 AND name = $2";
        connection.execute(sql, values![repo.id, self.tag.as_str()]).await?;
        tell(connection, repo, self.tag.as_str(), (Some(&digest), None, self.by)).await?;
        let lease = connection.now_ms() + self.lease_ms;
        let sql = "UPDATE manifest SET lease_until = $1 \
                   WHERE repo_id = $2 AND digest = $3 AND lease_until < $1";
        connection.execute(sql, values![lease, repo.id, &digest]).await?;
        Ok(queue(connection, repo.id, &digest, lease).await?)
    }
}

/// Deletes a manifest with all its tags; one that an index names is refused, unless the repository takes
/// sparse indexes. It can be had back while what it names stays linked: see [`trash`](crate::trash).
///
/// # Errors
/// [`Fault::MANIFEST_UNKNOWN`], [`Fault::Unsupported`].
pub async fn delete(
    registry: &Registry,
    name: &RepositoryName,
    digest: &Digest,
    by: Option<i64>,
) -> Result<(), Fault> {
    let transaction = DeleteManifest {
        name: name.clone(),
        digest: *digest,
        by,
        sparse: registry.limits.sparse,
        delays: Delays {
            lease_ms: registry.lease_ms().max(ms(registry.limits.undo)),
            referrers_ms: ms(registry.limits.referrers),
        },
    };
    registry.database.write(transaction).await
}

struct DeleteManifest {
    name: RepositoryName,
    digest: Digest,
    by: Option<i64>,
    sparse: bool,
    delays: Delays,
}

impl Transaction for DeleteManifest {
    type Output = ();
    type Error = Fault;

    async fn run(&self, connection: &mut Connection) -> Result<(), Fault> {
        let repo = find_repo(connection, &self.name).await?.ok_or(Fault::NAME_UNKNOWN)?;
        let sql = "SELECT id FROM manifest WHERE repo_id = $1 AND digest = $2";
        let found = values![repo.id, &self.digest];
        let rows = connection.rows_locked(sql, found, Lock::Update).await?;
        let id: i64 = rows.first().ok_or(Fault::MANIFEST_UNKNOWN)?.get(0)?;
        self.leave_parents(connection, repo, id).await?;
        let tags = self.delete_tags(connection, repo, id).await?;
        trash::keep_manifest(connection, id, &tags).await?;
        unlink(connection, repo.id, (id, &self.digest), self.delays).await?;
        let delete = Happened { by: self.by, ..Happened::of(EventKind::Delete) };
        Ok(emit(connection, repo, Happened { digest: Some(&self.digest), ..delete }).await?)
    }
}

impl DeleteManifest {
    async fn leave_parents(
        &self,
        connection: &mut Connection,
        repo: Repo,
        id: i64,
    ) -> Result<(), Fault> {
        let sql = "SELECT p.digest FROM manifest_child c JOIN manifest p ON p.id = c.parent_id \
                   WHERE c.child_id = $1 AND c.parent_id <> $1 LIMIT 1";
        let Some(parent) = connection.row(sql, values![id]).await? else { return Ok(()) };
        if !repo.sparse.map_or(self.sparse, |sparse| sparse != 0) {
            let parent: String = parent.get(0)?;
            let why = format!("index {parent} names this manifest; delete that first");
            return Err(Fault::Unsupported(why));
        }
        let sql = "UPDATE manifest_child SET child_id = NULL WHERE child_id = $1";
        connection.execute(sql, values![id]).await?;
        Ok(())
    }

    async fn delete_tags(
        &self,
        connection: &mut Connection,
        repo: Repo,
        id: i64,
    ) -> Result<Vec<String>, Fault> {
        let sql = "SELECT name FROM tag WHERE manifest_id = $1 ORDER BY name";
        let rows = connection.rows(sql, values![id]).await?;
        let tags: Vec<String> = rows.iter().map(|row| row.get(0)).collect::<Result<_, _>>()?;
        if tags.is_empty() {
            return Ok(tags);
        }
        check_movable(connection, repo, tags.iter().map(String::as_str)).await?;
        for tag in &tags {
            tell(connection, repo, tag, (Some(&self.digest), None, self.by)).await?;
        }
        connection.execute("DELETE FROM tag WHERE manifest_id = $1", values![id]).await?;
        Ok(tags)
    }
}

/// How long what a manifest held stays after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delays {
    /// Blobs and children.
    pub(crate) lease_ms: i64,
    /// What refers to it.
    pub(crate) referrers_ms: i64,
}

/// Deletes a manifest that no tag and no index names: its blobs get a lease; its children and what
/// refers to it are looked at by the collector.
///
/// # Errors
/// The database's; a foreign key refuses it while something names the manifest.
pub(crate) async fn unlink(
    connection: &mut Connection,
    repo_id: i64,
    (id, digest): (i64, &Digest),
    delays: Delays,
) -> Result<(), DbError> {
    let now = connection.now_ms();
    let lease = now + delays.lease_ms;
    let sql = "UPDATE repo_blob SET lease_until = $1 WHERE repo_id = $2 AND lease_until < $1 \
               AND digest IN (SELECT linked FROM manifest_blob \
               WHERE manifest_id = $3 AND linked IS NOT NULL)";
    connection.execute(sql, values![lease, repo_id, id]).await?;
    let sql = "UPDATE manifest SET lease_until = $1 WHERE lease_until < $1 AND id IN \
               (SELECT child_id FROM manifest_child WHERE parent_id = $2 AND child_id IS NOT NULL)";
    connection.execute(sql, values![lease, id]).await?;
    let sql = "SELECT digest FROM manifest_child WHERE parent_id = $1 AND child_id IS NOT NULL";
    for row in connection.rows(sql, values![id]).await? {
        queue(connection, repo_id, &row.get(0)?, lease).await?;
    }
    let sql = "SELECT digest FROM manifest WHERE repo_id = $1 AND subject = $2";
    for row in connection.rows(sql, values![repo_id, digest]).await? {
        let after = lease.max(now + delays.referrers_ms);
        queue(connection, repo_id, &row.get(0)?, after).await?;
    }
    // An index that names itself would refuse its own end.
    let sql = "UPDATE manifest_child SET child_id = NULL WHERE parent_id = $1 AND child_id = $1";
    connection.execute(sql, values![id]).await?;
    connection.execute("DELETE FROM manifest WHERE id = $1", values![id]).await?;
    Ok(())
}
