//! A layer that was read becomes visible in the store.

use davit_layer::ReadLayer;
use davit_store::{DiffIdState, Durability, LayerFacts, LayerIngest, Presence, StoreError};

/// Writes the table beside the tar that was read, and commits both lazily.
///
/// # Errors
/// What the store says.
pub(crate) fn commit(layer: LayerIngest<'_>, read: &ReadLayer) -> Result<(), StoreError> {
    let path = layer.table_path();
    let mut table = layer.create_table()?;
    let written = read.table.write_to(&mut table);
    written.map_err(|source| StoreError::Io { action: "write", path, source })?;
    drop(table);
    let facts = read.table.facts();
    layer.commit(&LayerFacts {
        diff_id: facts.diff_id,
        tar_size: facts.tar_size,
        entries: read.table.len() as u64,
        diffid_state: DiffIdState::Verified,
        presence: Presence::Full,
        durability: Durability::Lazy,
    })?;
    Ok(())
}
