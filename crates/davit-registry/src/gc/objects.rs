//! Phases D, E and F: what is stored.

use davit_image::Digest;

use crate::{
    db::{Connection, Database, DbError, Transaction, ms, values},
    gc::{BATCH, GcError, GcSettings, Mode, blobs::discard},
    store::{Key, Store},
};

/// First and longest wait before an object is tried again that could not be removed.
const BACKOFF_MS: (i64, i64) = (1000, 3_600_000);

/// Phase D: removes objects that have been in the trash for long enough.
///
/// Keys are unique per upload: no row can name one of them again, so no lock is held meanwhile.
pub(super) async fn empty_trash(
    database: &Database,
    store: &Store,
    mode: Mode,
) -> Result<u64, GcError> {
    const DUE: &str = "SELECT store_key FROM trash t WHERE not_before <= $1 AND store_key > $2 \
         AND NOT EXISTS (SELECT 1 FROM blob b WHERE b.store_key = t.store_key) \
         ORDER BY store_key LIMIT 200";
    let mut at = String::new();
    let mut removed = 0;
    loop {
        let mut reader = database.reader().await?;
        let rows = reader.rows(DUE, values![reader.now_ms(), &at]).await?;
        drop(reader);
        let keys: Result<Vec<String>, DbError> = rows.iter().map(|row| row.get(0)).collect();
        let keys = keys?;
        let Some(last) = keys.last() else { return Ok(removed) };
        debug_assert!(keys.len() <= BATCH);
        at.clone_from(last);
        if mode == Mode::DryRun {
            removed += keys.len() as u64;
            continue;
        }
        let (mut gone, mut failed) = (Vec::new(), Vec::new());
        for key in keys {
            match remove(store, &key).await {
                Ok(()) => gone.push(key),
                Err(error) => {
                    tracing::warn!(key, error = &*error, "an object cannot be removed yet");
                    failed.push(key);
                }
            }
        }
        removed += gone.len() as u64;
        database.write(Emptied { gone, failed }).await?;
    }
}

async fn remove(store: &Store, key: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    Ok(store.remove(&key.parse::<Key>()?).await?)
}

struct Emptied {
    gone: Vec<String>,
    failed: Vec<String>,
}

impl Transaction for Emptied {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        const ATTEMPTS: &str = "SELECT attempts FROM trash WHERE store_key = $1";
        const LATER: &str =
            "UPDATE trash SET attempts = attempts + 1, not_before = $2 WHERE store_key = $1";
        let now = connection.now_ms();
        for key in &self.gone {
            connection.execute("DELETE FROM trash WHERE store_key = $1", values![key]).await?;
        }
        for key in &self.failed {
            let row = connection.row(ATTEMPTS, values![key]).await?;
            let attempts: i64 = row.map_or(Ok(0), |row| row.get(0))?;
            let (first, longest) = BACKOFF_MS;
            let wait = first.saturating_mul(1 << attempts.clamp(0, 20)).min(longest);
            connection.execute(LATER, values![key, now + wait]).await?;
        }
        Ok(())
    }
}

/// What the scan of the store found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Scanned {
    pub(super) orphans: u64,
    pub(super) lost: u64,
}

/// Phase E: puts old objects that no row names into the trash, marks blobs whose object is lost.
pub(super) async fn scan(
    database: &Database,
    store: &Store,
    settings: &GcSettings,
) -> Result<Scanned, GcError> {
    let mut found = Scanned::default();
    for shard in store.shards().await? {
        let listed = store.keys(&shard).await?;
        found.orphans += orphans(database, store, settings, &listed).await?;
    }
    for blob in lost(database, store).await? {
        found.lost += 1;
        tracing::error!(digest = %blob.0, key = blob.1, "the object of a blob is lost");
        database.write(Suspect { blob }).await?;
    }
    for (session, made_ms) in store.sessions().await? {
        let mut reader = database.reader().await?;
        let row = reader.row("SELECT id FROM upload WHERE id = $1", values![session]).await?;
        if row.is_none() && is_old(made_ms, reader.now_ms(), settings) {
            found.orphans += 1;
            store.remove_session(session, "").await?;
        }
    }
    Ok(found)
}

fn is_old(made_ms: u64, now_ms: i64, settings: &GcSettings) -> bool {
    i64::try_from(made_ms).is_ok_and(|made_ms| made_ms <= now_ms - ms(settings.orphan_age))
}

async fn orphans(
    database: &Database,
    store: &Store,
    settings: &GcSettings,
    listed: &[Key],
) -> Result<u64, GcError> {
    const NAMED: &str = "SELECT CAST(1 AS BIGINT) WHERE \
         EXISTS (SELECT 1 FROM blob WHERE store_key = $1) \
         OR EXISTS (SELECT 1 FROM trash WHERE store_key = $1) \
         OR EXISTS (SELECT 1 FROM upload WHERE store_ref = $1)";
    let mut reader = database.reader().await?;
    let now = reader.now_ms();
    let mut orphans = Vec::new();
    for key in listed.iter().filter(|key| is_old(key.made_ms(), now, settings)) {
        if reader.row(NAMED, values![key.to_string()]).await?.is_none() {
            orphans.push((key.to_string(), store.size(key).await?.unwrap_or(0)));
        }
    }
    drop(reader);
    let count = orphans.len() as u64;
    for batch in orphans.chunks(BATCH) {
        let delay_ms = ms(settings.trash_delay);
        database.write(Discard { orphans: batch.to_vec(), delay_ms }).await?;
    }
    Ok(count)
}

struct Discard {
    orphans: Vec<(String, u64)>,
    delay_ms: i64,
}

impl Transaction for Discard {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let not_before = connection.now_ms() + self.delay_ms;
        for (key, size_bytes) in &self.orphans {
            discard(connection, key, *size_bytes, not_before).await?;
        }
        Ok(())
    }
}

/// Healthy blobs whose object is not there: digest and key.
async fn lost(database: &Database, store: &Store) -> Result<Vec<(Digest, String)>, GcError> {
    const BLOBS: &str = "SELECT digest, store_key FROM blob \
                         WHERE digest > $1 AND state = 'live' ORDER BY digest LIMIT 200";
    let mut at = String::new();
    let mut lost = Vec::new();
    loop {
        let mut reader = database.reader().await?;
        let rows = reader.rows(BLOBS, values![&at]).await?;
        drop(reader);
        let Some(last) = rows.last() else { return Ok(lost) };
        at = last.get(0)?;
        for row in rows {
            let text: String = row.get(1)?;
            let there = match text.parse::<Key>() {
                Ok(key) => store.size(&key).await?.is_some(),
                Err(_malformed) => false,
            };
            if !there {
                lost.push((row.get(0)?, text));
            }
        }
    }
}

/// Marks a blob whose object is lost or corrupt: the next push of its digest heals it.
pub(crate) struct Suspect {
    pub(crate) blob: (Digest, String),
}

impl Transaction for Suspect {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        const SUSPECT: &str =
            "UPDATE blob SET state = 'suspect' WHERE digest = $1 AND store_key = $2";
        connection.execute(SUSPECT, values![&self.blob.0, &self.blob.1]).await?;
        Ok(())
    }
}

/// Phase F: ends upload sessions that have expired.
pub(super) async fn end_uploads(
    database: &Database,
    store: &Store,
    mode: Mode,
) -> Result<u64, GcError> {
    const EXPIRED: &str = "SELECT id, parts FROM upload WHERE expires_at <= $1 \
                           AND busy_until <= $1 AND id > $2 ORDER BY id LIMIT 200";
    let mut at = String::new();
    let mut ended = 0;
    loop {
        let mut reader = database.reader().await?;
        let rows = reader.rows(EXPIRED, values![reader.now_ms(), &at]).await?;
        drop(reader);
        let Some(last) = rows.last() else { return Ok(ended) };
        at = last.get(0)?;
        for row in rows {
            let (id, parts): (String, String) = (row.get(0)?, row.get(1)?);
            let gone = match mode {
                Mode::DryRun => true,
                // Without the row nothing can be committed; then the bytes may go.
                Mode::Collect => database.write(EndUpload { id: id.clone() }).await?,
            };
            ended += u64::from(gone);
            if let (Mode::Collect, true, Ok(session)) = (mode, gone, id.parse()) {
                store.remove_session(session, &parts).await?;
            }
        }
    }
}

struct EndUpload {
    id: String,
}

impl Transaction for EndUpload {
    type Output = bool;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<bool, DbError> {
        const END: &str =
            "DELETE FROM upload WHERE id = $1 AND expires_at <= $2 AND busy_until <= $2";
        let now = connection.now_ms();
        Ok(connection.execute(END, values![&self.id, now]).await? == 1)
    }
}
