//! Rows of layers and of their compressed forms.

use davit_image::{DiffId, MediaType};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{LayerBlob, LayerRow};
use crate::{
    BootId, StoreError,
    database::{Database, parsed, parsed_option, size, to_sql_size},
    store::now,
};

const COLUMNS: &str =
    "diff_id, tar_size, table_size, table_crc32c, entries, diffid_state, presence,
     durable_boot, verity_digest";

/// Reads a layer's row.
pub(crate) fn find(
    database: &Database,
    connection: &Connection,
    diff_id: &DiffId,
) -> Result<Option<LayerRow>, StoreError> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM layers WHERE diff_id = ?"))
        .and_then(|mut s| s.query_row([diff_id.to_string()], of_row).optional())
        .map_err(|e| database.error("look up a layer", e))
}

/// Reads all layers' rows.
pub(crate) fn all(database: &Database) -> Result<Vec<LayerRow>, StoreError> {
    let sql = |e| database.error("list the layers", e);
    database.read("list the layers", |c| {
        let mut statement =
            c.prepare_cached(&format!("SELECT {COLUMNS} FROM layers")).map_err(sql)?;
        let rows = statement.query_map([], of_row).map_err(sql)?;
        rows.collect::<Result<_, _>>().map_err(sql)
    })
}

fn of_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<LayerRow> {
    let boot: Option<String> = row.get(7)?;
    Ok(LayerRow {
        diff_id: parsed(row, 0)?,
        tar_size: size(row, 1)?,
        table_size: size(row, 2)?,
        table_crc32c: row.get(3)?,
        entries: size(row, 4)?,
        diffid_state: parsed(row, 5)?,
        presence: parsed(row, 6)?,
        durable_boot: boot.as_deref().map(BootId::new),
        verity_digest: parsed_option(row, 8)?,
    })
}

pub(super) fn insert(
    database: &Database,
    tx: &Transaction<'_>,
    row: &LayerRow,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO layers (diff_id, tar_size, table_size, table_crc32c, entries, diffid_state,
         presence, durable_boot, verity_digest, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .and_then(|mut s| {
        s.execute(params![
            row.diff_id.to_string(),
            to_sql_size(row.tar_size),
            to_sql_size(row.table_size),
            row.table_crc32c,
            to_sql_size(row.entries),
            row.diffid_state.to_string(),
            row.presence.to_string(),
            row.durable_boot.as_ref().map(BootId::as_str),
            row.verity_digest,
            now(),
        ])
    })
    .map(|_| ())
    .map_err(|e| database.error("record a layer", e))
}

/// Declares synced layers durable.
pub(crate) fn clear_marks(
    database: &Database,
    tx: &Transaction<'_>,
    layers: &[DiffId],
) -> Result<(), StoreError> {
    for diff_id in layers {
        tx.prepare_cached("UPDATE layers SET durable_boot = NULL WHERE diff_id = ?")
            .and_then(|mut s| s.execute([diff_id.to_string()]))
            .map_err(|e| database.error("mark layers durable", e))?;
    }
    Ok(())
}

pub(super) fn record_layer_blob(
    database: &Database,
    tx: &Transaction<'_>,
    blob: &LayerBlob,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO layer_blobs (digest, diff_id, size, media_type, encoding)
         VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
         size = excluded.size, media_type = excluded.media_type, encoding = excluded.encoding",
    )
    .and_then(|mut s| {
        s.execute(params![
            blob.digest.to_string(),
            blob.diff_id.to_string(),
            to_sql_size(blob.size),
            blob.media_type.as_str(),
            blob.encoding,
        ])
    })
    .map(|_| ())
    .map_err(|e| database.error("record a compressed layer", e))
}

pub(super) fn layer_blob_of_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<LayerBlob> {
    Ok(LayerBlob {
        digest: parsed(row, 0)?,
        diff_id: parsed(row, 1)?,
        size: size(row, 2)?,
        media_type: MediaType::new(row.get::<_, String>(3)?),
        encoding: row.get(4)?,
    })
}
