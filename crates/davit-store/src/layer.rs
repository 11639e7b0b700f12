//! Layers: `layers/ALG/HEX/{tar,table,digests}` and their rows.

mod ingest;
mod rows;

use std::path::Path;

use davit_image::{DiffId, Digest, MediaType};
use fs_err as fs;
use rusqlite::OptionalExtension;

pub(crate) use self::rows::{all, clear_marks, find};
use self::rows::{layer_blob_of_row, record_layer_blob};
use crate::{
    BootId, Durability, Lease, Store, StoreError, database::Class, durable, format::random_hex,
    lock::Lock,
};

/// What is known about a layer's DiffID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiffIdState {
    /// All bytes were digested and fit.
    Verified,
    /// A table of contents vouches for each file; the whole was never digested.
    Toc,
    /// Nothing was verified.
    None,
}

/// How much of a layer's tar is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// All of it.
    Full,
    /// Some ranges; readers must ask which.
    Partial,
}

/// What the writer of a layer found out about it.
#[derive(Clone, Debug)]
pub struct LayerFacts {
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// Size of the tar in bytes.
    pub tar_size: u64,
    /// Number of entries in its table.
    pub entries: u64,
    /// What vouches for the digest.
    pub diffid_state: DiffIdState,
    /// How much of the tar is here.
    pub presence: Presence,
    /// When it must survive power loss.
    pub durability: Durability,
}

/// A layer's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerRow {
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// Size of the tar in bytes.
    pub tar_size: u64,
    /// Size of the table in bytes.
    pub table_size: u64,
    /// CRC-32C of the table.
    pub table_crc32c: u32,
    /// Number of entries in its table.
    pub entries: u64,
    /// What vouches for the digest.
    pub diffid_state: DiffIdState,
    /// How much of the tar is here.
    pub presence: Presence,
    /// The boot that wrote it, while it is not yet safe from power loss.
    pub durable_boot: Option<BootId>,
    /// fs-verity digest of the tar, where the filesystem keeps one.
    pub verity_digest: Option<String>,
}

/// A layer being written: a locked directory under `tmp/`, removed unless it is committed.
#[derive(Debug)]
pub struct LayerIngest<'a> {
    store: &'a Store,
    lease: &'a Lease<'a>,
    lock: Option<Lock>,
}

macro_rules! column_enum {
    ($name:ident { $($variant:ident = $text:literal),* }) => {
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $text),* })
            }
        }

        impl std::str::FromStr for $name {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(UnknownWord(text.to_owned())),
                }
            }
        }
    };
}
pub(crate) use column_enum;

/// A column holds a word of a later davit.
#[derive(Debug, thiserror::Error)]
#[error("unknown word `{0}`")]
pub struct UnknownWord(pub(crate) String);

column_enum!(DiffIdState { Verified = "verified", Toc = "toc", None = "none" });
column_enum!(Presence { Full = "full", Partial = "partial" });

impl Store {
    /// Starts a layer: an empty locked directory in which the caller writes `tar` and `table`.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn begin_layer<'a>(&'a self, lease: &'a Lease<'a>) -> Result<LayerIngest<'a>, StoreError> {
        let lock = self.make_locked_dir("layer")?;
        Ok(LayerIngest { store: self, lease, lock: Some(lock) })
    }

    /// Looks up a layer. Hold it by [`Lease::hold_layer`] to work with its files.
    ///
    /// # Errors
    /// What the database says.
    pub fn layer(&self, diff_id: &DiffId) -> Result<Option<LayerRow>, StoreError> {
        self.database.read("look up a layer", |c| find(&self.database, c, diff_id))
    }

    /// Remembers that blob `digest` is layer `diff_id` in another form, as received or pushed;
    /// `encoding` tells how it was compressed (codec, level, library), empty when received.
    ///
    /// # Errors
    /// What the database says.
    pub fn record_layer_blob(&self, blob: &LayerBlob, class: Durability) -> Result<(), StoreError> {
        self.database.write(class.into(), "record a compressed layer", |tx| {
            record_layer_blob(&self.database, tx, blob)
        })
    }

    /// The known forms of a layer other than its plain tar, newest knowledge last.
    ///
    /// # Errors
    /// What the database says.
    pub fn layer_blobs(&self, diff_id: &DiffId) -> Result<Vec<LayerBlob>, StoreError> {
        let sql = |e| self.database.error("read compressed layers", e);
        self.database.read("read compressed layers", |c| {
            let mut statement = c
                .prepare_cached(
                    "SELECT digest, diff_id, size, media_type, encoding FROM layer_blobs
                     WHERE diff_id = ? ORDER BY digest",
                )
                .map_err(sql)?;
            let rows =
                statement.query_map([diff_id.to_string()], layer_blob_of_row).map_err(sql)?;
            rows.collect::<Result<_, _>>().map_err(sql)
        })
    }

    /// The layer that a compressed blob unpacks to, if that was ever found out.
    ///
    /// # Errors
    /// What the database says.
    pub fn layer_of_blob(&self, digest: &Digest) -> Result<Option<LayerBlob>, StoreError> {
        let sql = |e| self.database.error("read compressed layers", e);
        self.database.read("read compressed layers", |c| {
            c.prepare_cached(
                "SELECT digest, diff_id, size, media_type, encoding FROM layer_blobs
                 WHERE digest = ? LIMIT 1",
            )
            .and_then(|mut s| s.query_row([digest.to_string()], layer_blob_of_row).optional())
            .map_err(sql)
        })
    }

    /// Adds the `digests` file to a committed layer; the first writer wins.
    ///
    /// # Errors
    /// When the file cannot be written or the layer is gone.
    pub fn put_layer_digests(&self, diff_id: &DiffId, bytes: &[u8]) -> Result<(), StoreError> {
        let temp = self.layout().tmp().join(format!("digests-{}", random_hex(8)));
        let lock = self.make_locked_file(&temp)?;
        fs::write(&temp, bytes).map_err(|e| StoreError::io("write", &temp, e))?;
        let target = self.layout().layer_digests(diff_id);
        if !durable::rename_new(&temp, &target)? {
            lock.remove_file()?;
        }
        Ok(())
    }

    /// Writes a fact about a layer beside it, in the place of an earlier one. It is not synced: who
    /// reads it must notice a damaged one, and do without.
    ///
    /// # Errors
    /// What the disk says.
    pub fn put_layer_note(
        &self,
        diff_id: &DiffId,
        name: &str,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let temp = self.layout().tmp().join(format!("note-{}", random_hex(8)));
        let lock = self.make_locked_file(&temp)?;
        fs::write(&temp, bytes).map_err(|e| StoreError::io("write", &temp, e))?;
        let target = self.layout().layer_note(diff_id, name);
        fs::rename(&temp, &target).map_err(|e| StoreError::io("rename to", &target, e))?;
        drop(lock);
        Ok(())
    }

    /// Syncs lazily committed layers and clears their marks in one durable transaction.
    ///
    /// # Errors
    /// [`StoreError::MissingLayer`] for one that is not there; otherwise what the disk or the
    /// database says.
    pub fn make_durable(&self, layers: &[DiffId]) -> Result<(), StoreError> {
        let pending = self.lazy_layers(layers)?;
        if pending.is_empty() {
            return Ok(());
        }
        self.sync_layers(&pending)?;
        self.database.write(Class::Full, "mark layers durable", |tx| {
            clear_marks(&self.database, tx, &pending)
        })
    }

    /// Of `layers`, those that are not yet safe from power loss.
    pub(crate) fn lazy_layers(&self, layers: &[DiffId]) -> Result<Vec<DiffId>, StoreError> {
        let mut lazy = Vec::new();
        for diff_id in layers {
            self.settle_layer(diff_id)?;
            let row = self.layer(diff_id)?.ok_or(StoreError::MissingLayer(*diff_id))?;
            if row.durable_boot.is_some() {
                lazy.push(*diff_id);
            }
        }
        Ok(lazy)
    }

    /// Syncs the files and names of lazily committed layers, all data first.
    pub(crate) fn sync_layers(&self, layers: &[DiffId]) -> Result<(), StoreError> {
        for diff_id in layers {
            durable::sync_file(&self.layout().layer_tar(diff_id))?;
            durable::sync_file(&self.layout().layer_table(diff_id))?;
            durable::sync_dir(&self.layout().layer(diff_id))?;
        }
        let mut parents: Vec<_> =
            layers.iter().map(|id| parent_of(&self.layout().layer(id)).to_path_buf()).collect();
        parents.sort();
        parents.dedup();
        parents.iter().try_for_each(|parent| durable::sync_dir(parent))
    }

    /// Decides about a layer that an earlier boot committed lazily: verified content stays and
    /// becomes durable, anything else goes.
    pub(crate) fn settle_layer(&self, diff_id: &DiffId) -> Result<(), StoreError> {
        let Some(row) = self.layer(diff_id)? else { return Ok(()) };
        if row.durable_boot.as_ref().is_none_or(|boot| boot == self.boot_id()) {
            return Ok(());
        }
        if self.verify_layer(&row)?.is_empty() {
            self.sync_layers(&[*diff_id])?;
            return self.database.write(Class::Full, "mark layers durable", |tx| {
                clear_marks(&self.database, tx, &[*diff_id])
            });
        }
        tracing::info!(%diff_id, "a layer that was not yet synced did not survive the reboot");
        self.drop_layers(&[*diff_id])
    }
}

impl From<Durability> for Class {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Durable => Self::Full,
            Durability::Lazy => Self::Normal,
        }
    }
}

/// A layer in the form in which a registry has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerBlob {
    /// Digest of the compressed blob.
    pub digest: Digest,
    /// Digest of the tar in it.
    pub diff_id: DiffId,
    /// Size of the compressed blob in bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: MediaType,
    /// Codec, level and library when davit compressed it, else empty.
    pub encoding: String,
}

fn parent_of(path: &Path) -> &Path {
    path.parent().expect("content lies below ROOT")
}

/// Size and CRC-32C of a file.
pub(crate) fn checksum(path: &Path) -> Result<(u64, u32), StoreError> {
    let mut file = crate::regular::open(path).map_err(|e| StoreError::io("open", path, e))?;
    let mut buffer = vec![0; 128 * 1024];
    let (mut size_bytes, mut crc) = (0, 0);
    loop {
        let got = std::io::Read::read(&mut file, &mut buffer)
            .map_err(|e| StoreError::io("read", path, e))?;
        if got == 0 {
            return Ok((size_bytes, crc));
        }
        size_bytes += got as u64;
        crc = crc32c::crc32c_append(crc, &buffer[..got]);
    }
}
