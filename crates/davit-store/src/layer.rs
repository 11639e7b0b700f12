//! Layers: `layers/ALG/HEX/{tar,table,digests}` and their rows.

use std::path::{Path, PathBuf};

use davit_image::{DiffId, Digest, MediaType};
use fs_err as fs;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::{
    BootId, Durability, Lease, Store, StoreError,
    database::{Class, Database, parsed, parsed_option, size, to_sql_size},
    durable,
    format::random_hex,
    lock::Lock,
    store::now,
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

impl LayerIngest<'_> {
    /// The directory; nobody else writes in it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.lock().path()
    }

    /// Where the uncompressed tar is to be written.
    #[must_use]
    pub fn tar_path(&self) -> PathBuf {
        self.dir().join("tar")
    }

    /// Where the table is to be written.
    #[must_use]
    pub fn table_path(&self) -> PathBuf {
        self.dir().join("table")
    }

    /// Creates the tar, to be written and read.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create_tar(&self) -> Result<fs::File, StoreError> {
        create(&self.tar_path())
    }

    /// Creates the table, to be written and read.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create_table(&self) -> Result<fs::File, StoreError> {
        create(&self.table_path())
    }

    /// Makes the written layer visible under its DiffID and keeps it by the lease. The caller has
    /// digested the tar; its size is checked here. When the layer is there already, what was
    /// written is dropped; a durable commit then makes the present one durable.
    ///
    /// # Errors
    /// [`StoreError::Size`] when the tar is not as long as `facts` say; otherwise what the disk or
    /// the database says. Nothing is left behind.
    pub fn commit(mut self, facts: &LayerFacts) -> Result<LayerRow, StoreError> {
        let row = self.row(facts)?;
        self.seal(facts.durability)?;
        let lock = self.lock.take().expect("only commit and drop take the lock");
        let published = self.publish(&lock, &row, facts.durability);
        if !matches!(published, Ok(true)) {
            self.store.discard(lock)?;
        }
        if !published? && facts.durability == Durability::Durable {
            self.store.make_durable(&[row.diff_id])?;
        }
        let found = self.store.layer(&row.diff_id)?;
        found.ok_or(StoreError::MissingLayer(row.diff_id))
    }

    fn lock(&self) -> &Lock {
        self.lock.as_ref().expect("only commit and drop take the lock")
    }

    fn row(&self, facts: &LayerFacts) -> Result<LayerRow, StoreError> {
        let actual = file_size(&self.tar_path())?;
        if actual != facts.tar_size && facts.presence == Presence::Full {
            let digest = facts.diff_id.digest();
            return Err(StoreError::Size { digest, expected: facts.tar_size, actual });
        }
        let (table_size, table_crc32c) = checksum(&self.table_path())?;
        let durable_boot = match facts.durability {
            Durability::Durable => None,
            Durability::Lazy => Some(self.store.boot_id().clone()),
        };
        Ok(LayerRow {
            diff_id: facts.diff_id,
            tar_size: facts.tar_size,
            table_size,
            table_crc32c,
            entries: facts.entries,
            diffid_state: facts.diffid_state,
            presence: facts.presence,
            durable_boot,
            verity_digest: None,
        })
    }

    /// Makes the files read-only and, if asked, durable.
    fn seal(&self, durability: Durability) -> Result<(), StoreError> {
        for path in [self.tar_path(), self.table_path()] {
            let mode = rustix::fs::Mode::RUSR;
            rustix::fs::chmod(&path, mode).map_err(|e| StoreError::io("protect", &path, e))?;
            if durability == Durability::Durable {
                durable::sync_file(&path)?;
            }
        }
        match durability {
            Durability::Durable => durable::sync_dir(self.dir()),
            Durability::Lazy => Ok(()),
        }
    }

    /// Renames and commits while no other process writes; `false` when the layer is there.
    fn publish(
        &self,
        lock: &Lock,
        row: &LayerRow,
        durability: Durability,
    ) -> Result<bool, StoreError> {
        let target = self.store.layout().layer(&row.diff_id);
        self.store.settle_layer(&row.diff_id)?;
        self.store.database.write(durability.into(), "record a layer", |tx| {
            self.lease.keep_in(tx, &row.diff_id.digest())?;
            if find(&self.store.database, tx, &row.diff_id)?.is_some() {
                return Ok(false);
            }
            if !durable::rename_new(lock.path(), &target)? {
                // A directory without a row: its writer was killed before the commit. Ours is
                // verified, that one is not.
                self.store.move_to_trash(&target)?;
                if !durable::rename_new(lock.path(), &target)? {
                    return Err(StoreError::Exists {
                        kind: "layer",
                        name: row.diff_id.to_string(),
                    });
                }
            }
            if durability == Durability::Durable {
                durable::sync_dir(parent_of(&target))?;
            }
            insert(&self.store.database, tx, row)?;
            Ok(true)
        })
    }
}

impl Drop for LayerIngest<'_> {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.lock.take().map(|lock| self.store.discard(lock)) {
            tracing::debug!(%error, "the next sweep removes the layer");
        }
    }
}

fn create(path: &Path) -> Result<fs::File, StoreError> {
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(|e| StoreError::io("create", path, e))
}

fn parent_of(path: &Path) -> &Path {
    path.parent().expect("content lies below ROOT")
}

fn file_size(path: &Path) -> Result<u64, StoreError> {
    Ok(fs::metadata(path).map_err(|e| StoreError::io("examine", path, e))?.len())
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

fn insert(database: &Database, tx: &Transaction<'_>, row: &LayerRow) -> Result<(), StoreError> {
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

fn record_layer_blob(
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

fn layer_blob_of_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<LayerBlob> {
    Ok(LayerBlob {
        digest: parsed(row, 0)?,
        diff_id: parsed(row, 1)?,
        size: size(row, 2)?,
        media_type: MediaType::new(row.get::<_, String>(3)?),
        encoding: row.get(4)?,
    })
}
