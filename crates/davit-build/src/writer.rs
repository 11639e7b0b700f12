//! Writes a layer into the store, lazily: nothing is synced before the build is done.

use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    sync::{Arc, atomic::AtomicBool},
};

use davit_image::DiffId;
use davit_layer::{Change, Digests, Opener, Table, WriteOptions, write_layer};
use davit_store::{DiffIdState, Durability, LayerFacts, LayerIngest, Lease, Presence, Store};
use davit_sys::{behind::Behind, writeback::EarlyWriteback};

use crate::{
    cancel::Cancellable,
    files::ContentDigest,
    layers::{Layers, OpenLayer},
};

/// Why a layer cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum LayerWriteError {
    /// The content cannot be read, or the tar cannot be written.
    #[error("cannot write the step's layer")]
    Write(#[from] davit_layer::WriteError),
    /// The table cannot be written.
    #[error("cannot write the table of the step's layer")]
    Table(#[source] io::Error),
    /// The store refuses it.
    #[error("cannot store the step's layer")]
    Store(#[from] davit_store::StoreError),
}

/// A layer that was written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) diff_id: DiffId,
    pub(crate) size_bytes: u64,
}

/// A layer that is written, and of no effect until it is committed.
#[derive(Debug)]
pub(crate) struct Draft<'s> {
    ingest: LayerIngest<'s>,
    tar: File,
    table: Table,
}

impl<'s> Draft<'s> {
    /// Writes a layer of sorted changes; `cancelled` is set by another thread to end the writing.
    pub(crate) fn write(
        ingest: LayerIngest<'s>,
        (changes, opener): (&[Change], &dyn Opener),
        options: &WriteOptions,
        cancelled: &AtomicBool,
    ) -> Result<Self, LayerWriteError> {
        let written = |error| LayerWriteError::Write(davit_layer::WriteError::Write(error));
        let tar = EarlyWriteback::new(ingest.create_tar()?.into_parts().0);
        let inner = Behind::new(tar).map_err(written)?;
        let mut tar = Cancellable { inner, cancelled };
        let table = write_layer(changes, opener, &mut tar, options)?;
        let tar = tar.inner.finish().map_err(written)?.into_file();
        Ok(Self { ingest, tar, table })
    }

    /// The digests of its files, one given for each change that is one; `None` without all of them.
    pub(crate) fn digests(
        &self,
        changes: &[Change],
        digests: &[Option<ContentDigest>],
    ) -> Option<Digests> {
        known_digests(&self.table, changes, digests)
    }
}

/// Where layers are written to.
#[derive(Clone, Copy)]
pub(crate) struct Writer<'a, 's> {
    pub(crate) store: &'s Store,
    pub(crate) lease: &'s Lease<'s>,
    pub(crate) layers: &'a Layers<'s>,
    /// Set by another thread to end the writing.
    pub(crate) cancelled: &'a AtomicBool,
}

impl Writer<'_, '_> {
    /// Writes a layer of sorted changes and makes it visible.
    pub(crate) fn write(
        &self,
        changes: &[Change],
        opener: &dyn Opener,
        options: &WriteOptions,
    ) -> Result<Written, LayerWriteError> {
        let ingest = self.store.begin_layer(self.lease)?;
        self.commit(Draft::write(ingest, (changes, opener), options, self.cancelled)?)
    }

    /// Makes a written layer visible.
    pub(crate) fn commit(&self, draft: Draft<'_>) -> Result<Written, LayerWriteError> {
        let Draft { ingest, tar, table } = draft;
        let facts = table.facts();
        let mut file = BufWriter::with_capacity(1 << 20, ingest.create_table()?);
        table.write_to(&mut file).and_then(|()| file.flush()).map_err(LayerWriteError::Table)?;
        drop(file);
        let (diff_id, size_bytes) = (facts.diff_id, facts.tar_size);
        ingest.commit(&LayerFacts {
            diff_id,
            tar_size: size_bytes,
            entries: table.len() as u64,
            diffid_state: DiffIdState::Verified,
            presence: Presence::Full,
            durability: Durability::Lazy,
        })?;
        self.layers.add(diff_id, OpenLayer { tar: Arc::new(tar), table: Arc::new(table) });
        Ok(Written { diff_id, size_bytes })
    }

    /// Remembers the digests of the files of a layer that was just written, one for each change
    /// that is a file; without all of them nothing is remembered. The next build can do without.
    pub(crate) fn remember_digests(
        &self,
        diff_id: DiffId,
        changes: &[Change],
        digests: &[Option<ContentDigest>],
    ) -> Result<(), LayerWriteError> {
        let Ok(layer) = self.layers.open(diff_id) else { return Ok(()) };
        match known_digests(&layer.table, changes, digests) {
            Some(known) => self.put_digests(diff_id, &known),
            None => Ok(()),
        }
    }

    /// Remembers the digests of the files of a layer that was just written.
    pub(crate) fn put_digests(
        &self,
        diff_id: DiffId,
        digests: &Digests,
    ) -> Result<(), LayerWriteError> {
        let Ok(layer) = self.layers.open(diff_id) else { return Ok(()) };
        let mut bytes = Vec::new();
        digests.write_to(&layer.table, &mut bytes).map_err(LayerWriteError::Table)?;
        Ok(self.store.put_layer_digests(&diff_id, &bytes)?)
    }
}

fn known_digests(
    table: &Table,
    changes: &[Change],
    digests: &[Option<ContentDigest>],
) -> Option<Digests> {
    let mut made = changes.iter().zip(digests);
    Digests::known(table, |path| {
        let (_, digest) = made.find(|(change, _)| change.path == path)?;
        *digest
    })
}
