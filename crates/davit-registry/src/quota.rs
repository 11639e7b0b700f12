//! Bytes that the repositories of an account hold: each blob counts once per account.

use davit_image::Digest;

use crate::db::{Connection, DbError, Lock, values};

/// Whether a blob may be linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Charge {
    /// It fits, or it was there already, or nobody owns the repository.
    Taken,
    /// It would exceed the account's quota; nothing was changed.
    Exceeds,
}

const OWNER: &str = "SELECT owner_id FROM repo WHERE id = $1";
/// Serialises what is charged to one account; SQLite has one writer.
const ACCOUNT: &str = "SELECT id FROM account WHERE id = $1";
/// Whether another repository of the account has it.
const HELD: &str = "SELECT CAST(1 AS BIGINT) WHERE EXISTS (SELECT 1 FROM repo_blob l \
     JOIN repo r ON r.id = l.repo_id WHERE l.digest = $1 AND r.owner_id = $2 AND r.id <> $3)";

/// Charges a blob to the repository's owner, unless one of its repositories has it already.
///
/// To be called in the transaction that links the blob, right after the link was inserted: rows are
/// locked in the same order as by the collector, the link first.
///
/// # Errors
/// The database's.
pub async fn charge(
    connection: &mut Connection,
    repo_id: i64,
    digest: &Digest,
) -> Result<Charge, DbError> {
    const SIZE: &str = "SELECT size_bytes FROM blob WHERE digest = $1";
    const CHARGE: &str = "UPDATE account SET used_bytes = used_bytes + $2 WHERE id = $1 \
                          AND (quota_bytes IS NULL OR used_bytes + $2 <= quota_bytes)";
    let Some(owner) = owner_locked(connection, repo_id).await? else { return Ok(Charge::Taken) };
    if connection.row(HELD, values![digest, owner, repo_id]).await?.is_some() {
        return Ok(Charge::Taken);
    }
    let size: i64 = connection.row(SIZE, values![digest]).await?.map_or(Ok(0), |row| row.get(0))?;
    let charged = connection.execute(CHARGE, values![owner, size]).await?;
    Ok(if charged == 1 { Charge::Taken } else { Charge::Exceeds })
}

/// Gives the bytes of a blob back, when the owner's last link has just been removed.
///
/// # Errors
/// The database's.
pub async fn refund(
    connection: &mut Connection,
    repo_id: i64,
    digest: &Digest,
) -> Result<(), DbError> {
    const REFUND: &str = "UPDATE account SET used_bytes = used_bytes - \
         (SELECT size_bytes FROM blob WHERE digest = $2) WHERE id = $1";
    let Some(owner) = owner_locked(connection, repo_id).await? else { return Ok(()) };
    if connection.row(HELD, values![digest, owner, repo_id]).await?.is_none() {
        connection.execute(REFUND, values![owner, digest]).await?;
    }
    Ok(())
}

async fn owner_locked(connection: &mut Connection, repo_id: i64) -> Result<Option<i64>, DbError> {
    let row = connection.row(OWNER, values![repo_id]).await?;
    let Some(owner) = row.map(|row| row.get::<Option<i64>>(0)).transpose()?.flatten() else {
        return Ok(None);
    };
    connection.rows_locked(ACCOUNT, values![owner], Lock::NoKeyUpdate).await?;
    Ok(Some(owner))
}
