//! The keys in use: this node's own, and what the other nodes published in the database.

use std::{
    path::Path,
    sync::{Arc, PoisonError, RwLock},
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
    keys: RwLock<Arc<Keys>>,
}

impl KeyRing {
    /// Reads or makes the key file, and publishes its public halves.
    pub(super) async fn open(database: &Database, file: &Path) -> Result<Self, AuthError> {
        let now = database.now_ms() / 1000;
        let mut keys = Keys::open(file, now)?;
        if keys.newest_created() + KEY_AGE_SECONDS < now {
            keys = Keys::rotate(file, now)?;
        }
        database.write(PublishKeys(keys.public())).await?;
        Ok(Self { database: database.clone(), keys: RwLock::new(Arc::new(keys)) })
    }

    /// The keys as they are now.
    pub(super) fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
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
        let keys = Arc::new(self.keys().with_others(others));
        let result = Claims::verify(text, &keys, service, now);
        if result.is_ok() {
            *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        }
        Ok(result)
    }
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
        }
        // A node that was not started again for so long is none.
        let old = connection.now_ms() - 12 * KEY_AGE_SECONDS * 1000;
        connection.execute("DELETE FROM signing_key WHERE created_at < $1", values![old]).await?;
        Ok(())
    }
}

async fn published(connection: &mut Connection) -> Result<Vec<PublicKey>, DbError> {
    let sql =
        "SELECT id, public_key, created_at FROM signing_key ORDER BY created_at DESC LIMIT 64";
    let rows = connection.rows(sql, Vec::new()).await?;
    rows.iter()
        .map(|row| {
            Ok(PublicKey {
                id: row.get(0)?,
                bytes: row.get(1)?,
                created: row.get::<i64>(2)? / 1000,
            })
        })
        .collect()
}
