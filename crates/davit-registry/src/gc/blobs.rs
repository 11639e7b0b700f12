//! Phase C: blobs that no repository has.

use crate::{
    db::{Connection, Database, DbError, Lock, Transaction, ms, values},
    gc::{BATCH, GcError, GcSettings, Mode},
};

pub(super) async fn collect(
    database: &Database,
    settings: &GcSettings,
    mode: Mode,
) -> Result<(u64, u64), GcError> {
    const UNLINKED: &str = "SELECT digest, size_bytes FROM blob b WHERE digest > $1 \
         AND NOT EXISTS (SELECT 1 FROM repo_blob l WHERE l.digest = b.digest) \
         ORDER BY digest LIMIT 200";
    let mut at = String::new();
    let (mut gone, mut bytes) = (0, 0);
    loop {
        let mut reader = database.reader().await?;
        let rows = reader.rows(UNLINKED, values![&at]).await?;
        drop(reader);
        let Some(last) = rows.last() else { return Ok((gone, bytes)) };
        at = last.get(0)?;
        debug_assert!(rows.len() <= BATCH);
        if mode == Mode::DryRun {
            gone += rows.len() as u64;
            for row in &rows {
                bytes += row.get::<u64>(1)?;
            }
            continue;
        }
        let digests: Result<_, DbError> = rows.iter().map(|row| row.get(0)).collect();
        let not_before_in = ms(settings.trash_delay);
        let removed = database.write(Remove { digests: digests?, not_before_in }).await?;
        gone += removed.0;
        bytes += removed.1;
    }
}

struct Remove {
    digests: Vec<String>,
    not_before_in: i64,
}

impl Transaction for Remove {
    type Output = (u64, u64);
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(u64, u64), DbError> {
        const BLOB: &str = "SELECT digest, store_key, size_bytes FROM blob WHERE digest = $1";
        // Again a statement after the lock: a link may have come before it.
        const DELETE: &str = "DELETE FROM blob WHERE digest = $1 \
             AND NOT EXISTS (SELECT 1 FROM repo_blob l WHERE l.digest = $1)";
        let not_before = connection.now_ms() + self.not_before_in;
        let (mut gone, mut bytes) = (0, 0);
        for digest in &self.digests {
            let locked = connection.rows_locked(BLOB, values![digest], Lock::UpdateSkipLocked);
            let locked = locked.await?;
            let Some(row) = locked.first() else { continue };
            if connection.execute(DELETE, values![digest]).await? == 0 {
                continue;
            }
            let size: u64 = row.get(2)?;
            discard(connection, &row.get::<String>(1)?, size, not_before).await?;
            gone += 1;
            bytes += size;
        }
        Ok((gone, bytes))
    }
}

/// Puts a key that no row names any more into the trash.
///
/// # Errors
/// The database's.
pub(super) async fn discard(
    connection: &mut Connection,
    store_key: &str,
    size_bytes: u64,
    not_before_ms: i64,
) -> Result<(), DbError> {
    const TRASH: &str = "INSERT INTO trash (store_key, size_bytes, not_before) \
                         VALUES ($1, $2, $3) ON CONFLICT (store_key) DO NOTHING";
    connection.execute(TRASH, values![store_key, size_bytes, not_before_ms]).await?;
    Ok(())
}
