//! Manifests of a repository: find, put (with tags), delete. Bodies lie in the database as pushed.

use std::sync::Arc;

use bytes::Bytes;
use davit_image::{Digest, Tag};

use crate::{
    db::{Connection, DbError, values},
    fault::Fault,
    memory::{Known, Memory},
    name::RepositoryName,
    registry::Registry,
};

mod content;
mod delete;
mod history;
mod put;

pub use content::Content;
pub(crate) use delete::{Delays, unlink};
pub use delete::{delete, delete_tag};
pub use history::{TagMove, history, undo};
pub use put::{Condition, Put, put};

/// A manifest as it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its digest, by the algorithm that it was pushed with.
    pub digest: Digest,
    /// Its type as pushed.
    pub media_type: String,
    /// Its bytes as pushed.
    pub body: Bytes,
}

/// What names a manifest in its repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A tag.
    Tag(Tag),
    /// A digest.
    Digest(Digest),
}

/// What the manifests in memory may weigh together.
const MOST_BYTES: usize = 8 << 20;
/// What one weighs beside its body.
const OVERHEAD_BYTES: usize = 512;

/// Manifests in memory by repository and tag or digest.
pub(crate) type Cache = Memory<(RepositoryName, Target), Arc<Stored>>;

impl Cache {
    pub(crate) fn of_manifests() -> Self {
        Self::new(MOST_BYTES)
    }
}

/// Finds a manifest, in memory if nothing can have changed.
///
/// # Errors
/// [`Fault::MANIFEST_UNKNOWN`].
pub async fn find(
    registry: &Registry,
    name: &RepositoryName,
    target: &Target,
) -> Result<Arc<Stored>, Fault> {
    let (cache, mark) = (&registry.manifests, registry.database.change_mark());
    let key = (name.clone(), target.clone());
    let seen = match cache.get(&key, mark) {
        Some(Known::Good(stored)) => return Ok(stored),
        Some(Known::Old(stored)) => Some(stored),
        None => None,
    };
    let mut reader = registry.database.lookup().await?;
    let digest = resolve(&mut reader, name, target).await?.ok_or(Fault::MANIFEST_UNKNOWN)?;
    // The bytes of a manifest never change, and the repository has it.
    let by_digest = || cache.get(&(name.clone(), Target::Digest(digest)), mark);
    let stored = match seen.or_else(|| by_digest().map(Known::into_inner)) {
        Some(stored) if stored.digest == digest => stored,
        _ => load(&mut reader, name, &digest).await?.ok_or(Fault::MANIFEST_UNKNOWN)?,
    };
    cache.keep(&key, Arc::clone(&stored), mark, stored.body.len() + OVERHEAD_BYTES);
    Ok(stored)
}

/// Which manifest is meant, when the repository has it.
async fn resolve(
    reader: &mut Connection,
    name: &RepositoryName,
    target: &Target,
) -> Result<Option<Digest>, Fault> {
    let row = match target {
        Target::Tag(tag) => {
            let sql = "SELECT m.digest FROM repo r JOIN tag t ON t.repo_id = r.id \
                       JOIN manifest m ON m.id = t.manifest_id WHERE r.path = $1 AND t.name = $2";
            reader.row(sql, values![name.as_str(), tag.as_str()]).await?
        }
        Target::Digest(digest) => {
            let sql = "SELECT m.digest FROM repo r JOIN manifest m ON m.repo_id = r.id \
                       WHERE r.path = $1 AND m.digest = $2";
            reader.row(sql, values![name.as_str(), digest]).await?
        }
    };
    Ok(row.map(|row| row.get(0)).transpose()?)
}

async fn load(
    reader: &mut Connection,
    name: &RepositoryName,
    digest: &Digest,
) -> Result<Option<Arc<Stored>>, Fault> {
    let sql = "SELECT m.media_type, m.body FROM repo r JOIN manifest m ON m.repo_id = r.id \
               WHERE r.path = $1 AND m.digest = $2";
    let Some(row) = reader.row(sql, values![name.as_str(), digest]).await? else { return Ok(None) };
    Ok(Some(Arc::new(Stored {
        digest: *digest,
        media_type: row.get(0)?,
        body: row.get::<Vec<u8>>(1)?.into(),
    })))
}

/// Tells the collector to look whether a manifest is still wanted, not before `after_ms`.
pub(crate) async fn queue(
    connection: &mut Connection,
    repo_id: i64,
    digest: &Digest,
    after_ms: i64,
) -> Result<(), DbError> {
    let sql = "INSERT INTO gc_queue (repo_id, digest, after_ms) VALUES ($1, $2, $3) \
               ON CONFLICT (repo_id, digest) DO UPDATE SET after_ms = excluded.after_ms \
               WHERE gc_queue.after_ms < excluded.after_ms";
    connection.execute(sql, values![repo_id, digest, after_ms]).await?;
    Ok(())
}
