//! Phase B: links that no manifest uses and no client was promised.

use davit_image::Digest;

use crate::{
    db::{Connection, Database, DbError, Lock, Transaction, values},
    gc::{BATCH, GcError, Mode},
    quota,
};

type Key = (i64, Digest);

pub(super) async fn collect(database: &Database, mode: Mode) -> Result<u64, GcError> {
    const UNUSED: &str = "SELECT repo_id, digest, lease_until FROM repo_blob l \
         WHERE lease_until <= $1 AND (lease_until, repo_id, digest) > ($2, $3, $4) \
         AND NOT EXISTS (SELECT 1 FROM manifest_blob e \
                         WHERE e.repo_id = l.repo_id AND e.linked = l.digest) \
         ORDER BY lease_until, repo_id, digest LIMIT 200";
    let mut at = (i64::MIN, 0_i64, String::new());
    let mut gone = 0;
    loop {
        let mut reader = database.reader().await?;
        let rows = reader.rows(UNUSED, values![reader.now_ms(), at.0, at.1, &at.2]).await?;
        drop(reader);
        let Some(last) = rows.last() else { return Ok(gone) };
        at = (last.get(2)?, last.get(0)?, last.get::<String>(1)?);
        let keys: Result<Vec<Key>, DbError> =
            rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect();
        let keys = keys?;
        debug_assert!(keys.len() <= BATCH);
        gone += match mode {
            Mode::DryRun => keys.len() as u64,
            Mode::Collect => database.write(Remove { keys }).await?,
        };
    }
}

struct Remove {
    keys: Vec<Key>,
}

impl Transaction for Remove {
    type Output = u64;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<u64, DbError> {
        const LINK: &str = "SELECT digest FROM repo_blob \
                            WHERE repo_id = $1 AND digest = $2 AND lease_until <= $3";
        let now = connection.now_ms();
        let mut locked = Vec::new();
        for key in &self.keys {
            let values = values![key.0, &key.1, now];
            if !connection.rows_locked(LINK, values, Lock::UpdateSkipLocked).await?.is_empty() {
                locked.push(key);
            }
        }
        let mut removed = 0;
        for (repo_id, digest) in locked {
            removed += u64::from(remove_unused(connection, *repo_id, digest).await?);
        }
        Ok(removed)
    }
}

/// Removes a link that the caller has locked, unless a manifest uses it; gives its bytes back.
///
/// # Errors
/// The database's.
async fn remove_unused(
    connection: &mut Connection,
    repo_id: i64,
    digest: &Digest,
) -> Result<bool, DbError> {
    // A statement of its own, so that it sees what was committed before the lock was had.
    const DELETE: &str = "DELETE FROM repo_blob WHERE repo_id = $1 AND digest = $2 \
         AND NOT EXISTS (SELECT 1 FROM manifest_blob e WHERE e.repo_id = $1 AND e.linked = $2)";
    if connection.execute(DELETE, values![repo_id, digest]).await? == 0 {
        return Ok(false);
    }
    quota::refund(connection, repo_id, digest).await?;
    Ok(true)
}
