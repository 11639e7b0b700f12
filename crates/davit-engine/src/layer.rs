//! A layer that was read or written becomes visible in the store.

use std::io::{BufWriter, Write as _};

use davit_layer::Table;
use davit_store::{DiffIdState, Durability, LayerFacts, LayerIngest, Presence, StoreError};

/// Writes the table beside the tar that is there, and commits both lazily.
///
/// # Errors
/// What the store says.
pub(crate) fn commit(layer: LayerIngest<'_>, table: &Table) -> Result<(), StoreError> {
    let path = layer.table_path();
    let mut file = BufWriter::with_capacity(1 << 20, layer.create_table()?);
    let written = table.write_to(&mut file).and_then(|()| file.flush());
    written.map_err(|source| StoreError::Io { action: "write", path, source })?;
    drop(file);
    let facts = table.facts();
    layer.commit(&LayerFacts {
        diff_id: facts.diff_id,
        tar_size: facts.tar_size,
        entries: table.len() as u64,
        diffid_state: DiffIdState::Verified,
        presence: Presence::Full,
        durability: Durability::Lazy,
    })?;
    Ok(())
}
