//! Pushing a manifest, and the tags that shall name it.

use davit_image::{Algorithm, Descriptor, Digest, Tag};

use super::{Content, queue};
use crate::{
    auth::{Action, Rights},
    db::{Connection, DbError, Lock, Transaction, values},
    events::{EventKind, Happened, emit},
    fault::Fault,
    name::RepositoryName,
    registry::{Registry, Repo, ensure_repo},
    settings::RepositorySettings,
};

/// What must be true of each tag before it is moved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    #[default]
    None,
    /// It exists (`If-Match: *`).
    Exists,
    /// It does not exist (`If-None-Match: *`).
    Absent,
    /// It names one of these (`If-Match`).
    Names(Vec<Digest>),
}

/// A manifest to push.
#[derive(Clone, Debug)]
pub struct Put {
    /// Where to.
    pub name: RepositoryName,
    /// Its parsed bytes.
    pub content: Content,
    /// The digest that the client gave; the bytes have it. `None` for a push by tag.
    pub digest: Option<Digest>,
    /// Tags that shall name it.
    pub tags: Vec<Tag>,
    /// What must be true of them.
    pub condition: Condition,
    /// What the one who pushes may do with tags.
    pub rights: Rights,
    /// The account that pushes.
    pub by: Option<i64>,
}

/// Pushes a manifest; all tags move, or none.
///
/// # Errors
/// [`Fault::Missing`] where the repository must have what the manifest names, [`Fault::Precondition`].
pub async fn put(registry: &Registry, put: Put) -> Result<Digest, Fault> {
    let transaction =
        PutManifest { put, sparse: registry.limits.sparse, lease_ms: registry.lease_ms() };
    registry.database.write(transaction).await
}

struct PutManifest {
    put: Put,
    sparse: bool,
    lease_ms: i64,
}

impl Transaction for PutManifest {
    type Output = Digest;
    type Error = Fault;

    async fn run(&self, connection: &mut Connection) -> Result<Digest, Fault> {
        let repo = ensure_repo(connection, &self.put.name).await?;
        let digest = self.digest(connection, repo).await?;
        let (id, is_new) = self.add(connection, repo, &digest).await?;
        if !repo.sparse.map_or(self.sparse, |sparse| sparse != 0) {
            self.check_complete(connection, id).await?;
        }
        for tag in &self.put.tags {
            self.move_tag(connection, repo, tag, (id, &digest)).await?;
        }
        if self.put.tags.is_empty() {
            let after = connection.now_ms() + self.lease_ms;
            queue(connection, repo.id, &digest, after).await?;
            if is_new {
                let push = Happened { by: self.put.by, ..Happened::of(EventKind::Push) };
                emit(connection, repo, Happened { digest: Some(&digest), ..push }).await?;
            }
        }
        Ok(digest)
    }
}

impl PutManifest {
    /// The digest to store it by: the client's, or for a push by tag SHA-256, unless the repository
    /// has these bytes by SHA-512 already.
    async fn digest(&self, connection: &mut Connection, repo: Repo) -> Result<Digest, DbError> {
        if let Some(digest) = self.put.digest {
            return Ok(digest);
        }
        let body = &self.put.content.body;
        let usual = Digest::of(body);
        let long = Digest::of_with(Algorithm::Sha512, body);
        let sql = "SELECT digest FROM manifest WHERE repo_id = $1 AND digest IN ($2, $3) \
                   ORDER BY digest LIMIT 1";
        let row = connection.row(sql, values![repo.id, &usual, &long]).await?;
        row.map_or(Ok(usual), |row| row.get(0))
    }

    /// Adds the manifest and what it names; one that is there only gets a new lease. Tells its row,
    /// and whether it is new.
    async fn add(
        &self,
        connection: &mut Connection,
        repo: Repo,
        digest: &Digest,
    ) -> Result<(i64, bool), DbError> {
        let (content, now) = (&self.put.content, connection.now_ms());
        let lease = now + self.lease_ms;
        let insert = "INSERT INTO manifest (repo_id, digest, media_type, artifact_type, subject, \
                      body, size_bytes, pushed_at, pushed_by, lease_until) \
                      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
                      ON CONFLICT (repo_id, digest) DO NOTHING";
        let row = values![
            repo.id,
            digest,
            content.media_type.as_str(),
            content.artifact_type.as_deref(),
            content.subject,
            content.body.as_ref(),
            content.body.len() as u64,
            now,
            self.put.by,
            lease
        ];
        let renew = "UPDATE manifest SET lease_until = $1 WHERE repo_id = $2 AND digest = $3";
        let is_new = loop {
            if connection.execute(insert, row.clone()).await? == 1 {
                break true;
            }
            // The collector may remove it between the two statements.
            if connection.execute(renew, values![lease, repo.id, digest]).await? == 1 {
                break false;
            }
        };
        let find = "SELECT id FROM manifest WHERE repo_id = $1 AND digest = $2";
        let row = connection.row(find, values![repo.id, digest]).await?;
        let id = row.ok_or(sqlx::Error::RowNotFound)?.get(0)?;
        if is_new {
            self.add_edges(connection, repo, id).await?;
            let adopt = "UPDATE manifest_child SET child_id = $1 \
                         WHERE repo_id = $2 AND digest = $3 AND child_id IS NULL";
            connection.execute(adopt, values![id, repo.id, digest]).await?;
        }
        Ok((id, is_new))
    }

    async fn add_edges(
        &self,
        connection: &mut Connection,
        repo: Repo,
        id: i64,
    ) -> Result<(), DbError> {
        let blob = "INSERT INTO manifest_blob (manifest_id, position, repo_id, digest, role, linked) \
                    VALUES ($1, $2, $3, $4, $5, \
                    (SELECT digest FROM repo_blob WHERE repo_id = $6 AND digest = $7))";
        for (position, entry) in self.put.content.blobs.iter().enumerate() {
            let role =
                if position == 0 && self.put.content.has_config { "config" } else { "layer" };
            let digest = &entry.digest;
            let position = position as u64;
            let row = values![id, position, repo.id, digest, role, repo.id, digest];
            connection.execute(blob, row).await?;
        }
        let child = "INSERT INTO manifest_child \
                     (parent_id, position, repo_id, digest, child_id, platform) \
                     VALUES ($1, $2, $3, $4, \
                     (SELECT id FROM manifest WHERE repo_id = $5 AND digest = $6), $7)";
        for (position, entry) in self.put.content.children.iter().enumerate() {
            let platform = entry.platform.as_ref().map(ToString::to_string);
            let digest = &entry.digest;
            let position = position as u64;
            let row = values![id, position, repo.id, digest, repo.id, digest, platform];
            connection.execute(child, row).await?;
        }
        Ok(())
    }

    /// Refuses a manifest that names what the repository lacks; layers that are not to be
    /// distributed need not be there.
    async fn check_complete(&self, connection: &mut Connection, id: i64) -> Result<(), Fault> {
        let sql = "SELECT digest FROM manifest_blob WHERE manifest_id = $1 AND linked IS NULL \
                   UNION SELECT digest FROM manifest_child WHERE parent_id = $1 AND child_id IS NULL";
        let rows = connection.rows(sql, values![id]).await?;
        let lacking: Vec<Digest> = rows.iter().map(|row| row.get(0)).collect::<Result<_, _>>()?;
        let blobs = self.put.content.blobs.iter();
        let exempt: Vec<&Descriptor> =
            blobs.filter(|blob| blob.media_type.is_nondistributable()).collect();
        let is_exempt = |digest: &Digest| exempt.iter().any(|blob| blob.digest == *digest);
        let missing: Vec<Digest> =
            lacking.into_iter().filter(|digest| !is_exempt(digest)).collect();
        if missing.is_empty() { Ok(()) } else { Err(Fault::Missing(missing)) }
    }

    async fn move_tag(
        &self,
        connection: &mut Connection,
        repo: Repo,
        tag: &Tag,
        (id, digest): (i64, &Digest),
    ) -> Result<(), Fault> {
        let old = lock_tag(connection, repo, tag).await?;
        let holds = match (&self.put.condition, &old) {
            (Condition::None, _) | (Condition::Exists, Some(_)) | (Condition::Absent, None) => true,
            (Condition::Names(wanted), Some(old)) => wanted.contains(old),
            _ => false,
        };
        if !holds {
            return Err(Fault::Precondition);
        }
        if old.as_ref() == Some(digest) {
            return Ok(());
        }
        if old.is_some() {
            check_movable(connection, repo, [tag.as_str()]).await?;
        }
        let action = if old.is_some() { Action::MoveTag } else { Action::CreateTag };
        if !self.put.rights.allows(action) {
            return Err(Fault::Denied(format!("the account may not move the tag {tag}")));
        }
        move_to(connection, repo, tag, (id, self.put.by)).await?;
        tell(connection, repo, tag.as_str(), (old.as_ref(), Some(digest), self.put.by)).await?;
        if let Some(old) = old {
            let after = connection.now_ms() + self.lease_ms;
            queue(connection, repo.id, &old, after).await?;
        }
        Ok(())
    }
}

/// Makes a tag name a manifest of its repository.
pub(super) async fn move_to(
    connection: &mut Connection,
    repo: Repo,
    tag: &Tag,
    (manifest_id, by): (i64, Option<i64>),
) -> Result<(), DbError> {
    let upsert = "INSERT INTO tag (repo_id, name, manifest_id, version, updated_at, updated_by) \
                  VALUES ($1, $2, $3, 1, $4, $5) ON CONFLICT (repo_id, name) DO UPDATE \
                  SET manifest_id = excluded.manifest_id, version = tag.version + 1, \
                  updated_at = excluded.updated_at, updated_by = excluded.updated_by";
    let row = values![repo.id, tag.as_str(), manifest_id, connection.now_ms(), by];
    connection.execute(upsert, row).await?;
    Ok(())
}

/// What a tag names now; nobody else moves it until the transaction ends.
pub(super) async fn lock_tag(
    connection: &mut Connection,
    repo: Repo,
    tag: &Tag,
) -> Result<Option<Digest>, DbError> {
    // The repository's row is locked: a tag that does not exist yet has none.
    let sql = "SELECT id FROM repo WHERE id = $1";
    connection.rows_locked(sql, values![repo.id], Lock::NoKeyUpdate).await?;
    let sql = "SELECT m.digest FROM tag t JOIN manifest m ON m.id = t.manifest_id \
               WHERE t.repo_id = $1 AND t.name = $2";
    let row = connection.row(sql, values![repo.id, tag.as_str()]).await?;
    row.map(|row| row.get(0)).transpose()
}

/// Refuses to move or delete tags that the repository keeps as they are.
pub(super) async fn check_movable<'t>(
    connection: &mut Connection,
    repo: Repo,
    tags: impl IntoIterator<Item = &'t str>,
) -> Result<(), Fault> {
    let sql = "SELECT settings FROM repo WHERE id = $1";
    let row = connection.row(sql, values![repo.id]).await?.ok_or(Fault::NAME_UNKNOWN)?;
    let settings: String = row.get(0)?;
    // Settings that cannot be read forbid: they may have kept the tag.
    let settings: Option<RepositorySettings> = settings.parse().ok();
    let is_kept = |tag: &&str| settings.as_ref().is_none_or(|settings| settings.is_immutable(tag));
    match tags.into_iter().find(is_kept) {
        Some(tag) => Err(Fault::Denied(format!("the tag {tag} is immutable in this repository"))),
        None => Ok(()),
    }
}

/// Writes a move of a tag into its history, and tells those who listen.
pub(super) async fn tell(
    connection: &mut Connection,
    repo: Repo,
    tag: &str,
    (old, new, by): (Option<&Digest>, Option<&Digest>, Option<i64>),
) -> Result<(), DbError> {
    let sql = "INSERT INTO tag_event (repo_id, name, old_digest, new_digest, at, by_id) \
               VALUES ($1, $2, $3, $4, $5, $6)";
    let at = connection.now_ms();
    connection.execute(sql, values![repo.id, tag, old, new, at, by]).await?;
    let happened = match new {
        Some(_) => Happened { digest: new, previous: old, ..Happened::of(EventKind::Push) },
        None => Happened { digest: old, ..Happened::of(EventKind::TagDelete) },
    };
    emit(connection, repo, Happened { tag: Some(tag), by, ..happened }).await
}
