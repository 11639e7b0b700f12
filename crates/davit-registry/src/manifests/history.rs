//! The history of a tag, and the way back.

use davit_image::{Digest, Tag};

use super::{
    put::{check_movable, lock_tag, move_to, tell},
    queue,
};
use crate::{
    db::{Connection, Transaction, values},
    fault::Fault,
    name::RepositoryName,
    registry::{Registry, find_repo},
};

/// One move of a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagMove {
    /// What it named before; nothing when it was made.
    pub old: Option<Digest>,
    /// What it named after; nothing when it was deleted.
    pub new: Option<Digest>,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// The account that did it.
    pub by: Option<i64>,
}

/// The newest moves of a tag, newest first.
///
/// # Errors
/// The database's.
pub async fn history(
    registry: &Registry,
    name: &RepositoryName,
    tag: &Tag,
    most: u32,
) -> Result<Vec<TagMove>, Fault> {
    let sql = "SELECT e.old_digest, e.new_digest, e.at, e.by_id FROM tag_event e \
               JOIN repo r ON r.id = e.repo_id WHERE r.path = $1 AND e.name = $2 \
               ORDER BY e.id DESC LIMIT $3";
    let mut reader = registry.database.reader().await?;
    let rows = reader.rows(sql, values![name.as_str(), tag.as_str(), most]).await?;
    let moves = rows.iter().map(|row| {
        Ok(TagMove { old: row.get(0)?, new: row.get(1)?, at_ms: row.get(2)?, by: row.get(3)? })
    });
    moves.collect()
}

/// Takes the last move of a tag back; undone twice, it is as it was. Tells what the tag names then.
///
/// # Errors
/// [`Fault::MANIFEST_UNKNOWN`] for a tag without history, [`Fault::Unsupported`] when what it named has
/// been collected, [`Fault::Denied`] when the tag is immutable.
pub async fn undo(
    registry: &Registry,
    name: &RepositoryName,
    tag: &Tag,
    by: Option<i64>,
) -> Result<Option<Digest>, Fault> {
    let undo = Undo { name: name.clone(), tag: tag.clone(), by, lease_ms: registry.lease_ms() };
    registry.database.write(undo).await
}

struct Undo {
    name: RepositoryName,
    tag: Tag,
    by: Option<i64>,
    lease_ms: i64,
}

impl Transaction for Undo {
    type Output = Option<Digest>;
    type Error = Fault;

    async fn run(&self, connection: &mut Connection) -> Result<Option<Digest>, Fault> {
        let tag = self.tag.as_str();
        let repo = find_repo(connection, &self.name).await?.ok_or(Fault::NAME_UNKNOWN)?;
        let now_named = lock_tag(connection, repo, &self.tag).await?;
        let last = "SELECT old_digest FROM tag_event WHERE repo_id = $1 AND name = $2 \
                    ORDER BY id DESC LIMIT 1";
        let row = connection.row(last, values![repo.id, tag]).await?;
        let wanted: Option<Digest> = row.ok_or(Fault::MANIFEST_UNKNOWN)?.get(0)?;
        if now_named.is_some() {
            check_movable(connection, repo, [tag]).await?;
        }
        match &wanted {
            None => {
                let sql = "DELETE FROM tag WHERE repo_id = $1 AND name = $2";
                connection.execute(sql, values![repo.id, tag]).await?;
            }
            Some(digest) => {
                let sql = "SELECT id FROM manifest WHERE repo_id = $1 AND digest = $2";
                let row = connection.row(sql, values![repo.id, digest]).await?;
                let gone = || Fault::Unsupported(format!("manifest {digest} has been collected"));
                let id: i64 = row.ok_or_else(gone)?.get(0)?;
                move_to(connection, repo, &self.tag, (id, self.by)).await?;
            }
        }
        tell(connection, repo, tag, (now_named.as_ref(), wanted.as_ref(), self.by)).await?;
        if let Some(old) = now_named {
            let after = connection.now_ms() + self.lease_ms;
            queue(connection, repo.id, &old, after).await?;
        }
        Ok(wanted)
    }
}
