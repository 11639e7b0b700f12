//! Multipart uploads that are under way, as rows of the database: what a killed server began stays in
//! the bucket, and `object_store` cannot list it.

use crate::{
    db::{Connection, Database, DbError, Transaction, values},
    store::StoreError,
};

use super::Multipart;

/// Where they are written down; nowhere until the store is given a database.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger(Option<Database>);

impl Ledger {
    pub(super) fn of(database: &Database) -> Self {
        Self(Some(database.clone()))
    }

    /// Says that somebody is at work on it.
    pub(super) async fn note(&self, multipart: &Multipart) -> Result<(), StoreError> {
        let Some(database) = &self.0 else { return Ok(()) };
        let note = Note { key: multipart.key.clone(), id: multipart.id.clone() };
        database.write(note).await.map_err(|source| StoreError::Ledger(Box::new(source)))
    }

    /// Says that it has ended. A row that stays costs the collector a request.
    pub(super) async fn forget(&self, multipart: &Multipart) {
        let Some(database) = &self.0 else { return };
        if let Err(error) = database.write(ForgetUpload { key: multipart.key.clone() }).await {
            tracing::warn!(%error, key = multipart.key, "the end of an upload was not noted");
        }
    }
}

struct Note {
    key: String,
    id: String,
}

impl Transaction for Note {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let sql = "INSERT INTO multipart (store_key, upload_id, alive_at) VALUES ($1, $2, $3) \
                   ON CONFLICT (store_key) DO UPDATE SET alive_at = excluded.alive_at";
        let now = connection.now_ms();
        connection.execute(sql, values![&self.key, &self.id, now]).await?;
        Ok(())
    }
}

/// Forgets an upload in parts that has ended.
pub(crate) struct ForgetUpload {
    pub(crate) key: String,
}

impl Transaction for ForgetUpload {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let sql = "DELETE FROM multipart WHERE store_key = $1";
        connection.execute(sql, values![&self.key]).await?;
        Ok(())
    }
}
