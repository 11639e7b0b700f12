//! The keys in use: this node's own, and what the other nodes published in the database.
//!
//! The key file may be shared by several servers and is changed by a command beside them: whoever
//! finds it changed reads it again. Its public halves are in the database, so that a token counts on
//! every node at once, whichever key signed it, until the key ends.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use super::{
    AuthError, Claims, JwtError, Keys,
    audit::{self, Actor, Entry},
    keys::PublicKey,
};
use crate::db::{Connection, Database, DbError, Transaction, values};

/// A key signs for this long.
const KEY_AGE_SECONDS: i64 = 30 * 24 * 3600;

/// Signs tokens, and verifies those of all nodes.
#[derive(Debug)]
pub(super) struct KeyRing {
    database: Database,
    file: PathBuf,
    /// What the file was when it was read.
    seen: Mutex<Option<Stamp>>,
    keys: RwLock<Arc<Keys>>,
}

/// Inode, and time of the last change in seconds and nanoseconds.
type Stamp = (u64, i64, i64);

impl KeyRing {
    /// Reads or makes the key file, and publishes its public halves.
    pub(super) async fn open(database: &Database, file: &Path) -> Result<Self, AuthError> {
        let now = database.now_ms() / 1000;
        let ring = Self {
            database: database.clone(),
            file: file.to_owned(),
            seen: Mutex::default(),
            keys: RwLock::new(Arc::new(Keys::open(file, now)?)),
        };
        ring.refresh().await?;
        Ok(ring)
    }

    /// The keys as they are now.
    pub(super) fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes what was made since: by another process in the file, by other nodes in the database; and
    /// makes a key where the newest has signed for long enough. Cheap when nothing has changed.
    pub(super) async fn refresh(&self) -> Result<(), AuthError> {
        let now = self.database.now_ms() / 1000;
        // Before it is read: a change in between is seen the next time.
        let stamp = stamp(&self.file);
        let is_known = stamp.is_some() && *lock(&self.seen) == stamp;
        let is_old = self.keys().newest_created().saturating_add(KEY_AGE_SECONDS) < now;
        if !is_known || is_old {
            let keys = Keys::rotate_aged(&self.file, now, KEY_AGE_SECONDS + 1)?;
            self.database.write(PublishKeys(keys.public())).await?;
            self.take(keys);
            *lock(&self.seen) = if is_old { None } else { stamp };
        }
        let others = published(&mut self.database.reader().await?).await?;
        self.take_others(others);
        Ok(())
    }

    fn take(&self, keys: Keys) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    fn take_others(&self, others: Vec<PublicKey>) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        *keys = Arc::new(keys.with_others(others));
    }

    /// Verifies a token, by another node's key if need be; `Ok(Err)` is a token that is none.
    pub(super) async fn verify(
        &self,
        text: &str,
        service: &str,
    ) -> Result<Result<Claims, JwtError>, DbError> {
        let now = self.database.now_ms() / 1000;
        match Claims::verify(text, &self.keys(), service, now) {
            Err(JwtError::UnknownKey) => {}
            result => return Ok(result),
        }
        let others = published(&mut self.database.reader().await?).await?;
        self.take_others(others);
        Ok(Claims::verify(text, &self.keys(), service, now))
    }
}

/// Makes a new key in the file, for whichever servers use it; tells its id.
///
/// # Errors
/// See [`AuthError`].
pub async fn rotate_keys(database: &Database, file: &Path) -> Result<String, AuthError> {
    let keys = Keys::rotate(file, database.now_ms() / 1000)?;
    database.write(PublishKeys(keys.public())).await?;
    Ok(keys.newest_id().to_owned())
}

fn stamp(file: &Path) -> Option<Stamp> {
    let found = fs_err::metadata(file).ok()?;
    Some((found.ino(), found.mtime(), found.mtime_nsec()))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is in it is written at once.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets the other nodes verify what this one signs; private keys stay in their file.
struct PublishKeys(Vec<PublicKey>);

impl Transaction for PublishKeys {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        for key in &self.0 {
            let sql = "INSERT INTO signing_key (id, public_key, created_at) VALUES ($1, $2, $3)
                       ON CONFLICT (id) DO NOTHING";
            let values = values![&key.id, key.bytes.clone(), key.created * 1000];
            if connection.execute(sql, values).await? == 1 {
                let entry = Entry { action: "key.add", object: &key.id, detail: "{}" };
                audit::append(connection, &Actor::operator(), entry).await?;
            }
            if let Some(ends) = key.ends {
                let sql = "UPDATE signing_key SET ends_at = $1 WHERE id = $2 AND ends_at IS NULL";
                connection.execute(sql, values![ends.saturating_mul(1000), &key.id]).await?;
            }
        }
        // A node that was not started again for so long is none.
        let now = connection.now_ms();
        let old = now - 12 * KEY_AGE_SECONDS * 1000;
        let sql = "DELETE FROM signing_key WHERE created_at < $1 OR ends_at < $2";
        connection.execute(sql, values![old, now]).await?;
        Ok(())
    }
}

async fn published(connection: &mut Connection) -> Result<Vec<PublicKey>, DbError> {
    let sql = "SELECT id, public_key, created_at, ends_at FROM signing_key
               ORDER BY created_at DESC LIMIT 64";
    let rows = connection.rows(sql, Vec::new()).await?;
    let seconds = |ms: i64| ms / 1000;
    rows.iter()
        .map(|row| {
            Ok(PublicKey {
                id: row.get(0)?,
                bytes: row.get(1)?,
                created: seconds(row.get(2)?),
                ends: row.get::<Option<i64>>(3)?.map(seconds),
            })
        })
        .collect()
}
