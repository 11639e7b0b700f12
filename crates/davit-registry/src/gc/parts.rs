//! Phase G: what a killed server had begun to send to an object store.

use crate::{
    db::{Database, ms, values},
    gc::{GcError, GcSettings, Mode},
    store::{ForgetUpload, Store},
};

/// Ends multipart uploads that no session has and nobody was at work on for a lease.
pub(super) async fn collect(
    database: &Database,
    store: &Store,
    settings: &GcSettings,
    mode: Mode,
) -> Result<u64, GcError> {
    const LEFT: &str = "SELECT store_key, upload_id FROM multipart m \
         WHERE alive_at <= $1 AND store_key > $2 \
         AND NOT EXISTS (SELECT 1 FROM upload u WHERE u.store_ref = m.store_key) \
         ORDER BY store_key LIMIT 200";
    let mut at = String::new();
    let mut ended = 0;
    loop {
        let mut reader = database.reader().await?;
        let before = reader.now_ms() - ms(settings.lease);
        let rows = reader.rows(LEFT, values![before, &at]).await?;
        drop(reader);
        let Some(last) = rows.last() else { return Ok(ended) };
        at = last.get(0)?;
        for row in rows {
            let (key, id): (String, String) = (row.get(0)?, row.get(1)?);
            if mode == Mode::Collect {
                // Whoever stood still for a lease and goes on now finds its parts gone, and begins anew.
                if let Err(error) = store.end_upload(&key, &id).await {
                    tracing::warn!(%error, key, "an upload's parts cannot be removed yet");
                    continue;
                }
                database.write(ForgetUpload { key }).await?;
            }
            ended += 1;
        }
    }
}
