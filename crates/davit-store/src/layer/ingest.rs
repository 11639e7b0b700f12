//! Writing a layer: files under `tmp/`, visible when they are whole.

use std::path::{Path, PathBuf};

use fs_err as fs;

use super::{LayerFacts, LayerIngest, LayerRow, Presence, checksum, parent_of, rows};
use crate::{Durability, StoreError, durable, lock::Lock};

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
            if rows::find(&self.store.database, tx, &row.diff_id)?.is_some() {
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
            rows::insert(&self.store.database, tx, row)?;
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

fn file_size(path: &Path) -> Result<u64, StoreError> {
    Ok(fs::metadata(path).map_err(|e| StoreError::io("examine", path, e))?.len())
}
