//! Trees: derived, disposable images of runs of layers, under `trees/` and `dirs/`.

mod checksum;

use std::path::{Path, PathBuf};

use davit_image::{ChainId, DiffId};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::{
    BootId, Store, StoreError,
    database::{Class, json, parsed, parsed_option, size, to_json, to_sql_size},
    durable,
    layer::{self, UnknownWord, column_enum},
    lock::Lock,
    store::now,
};

/// What a tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeForm {
    /// Layers of a chain from its bottom, merged: `trees/ID.erofs`.
    Base,
    /// Layers above the bottom of a chain, with overlay whiteouts: `trees/ID.erofs`.
    Step,
    /// Mount points of a chain: `trees/ID.erofs`.
    Init,
    /// An extracted tree: `dirs/ID/`.
    Extracted,
}

column_enum!(TreeForm { Base = "base", Step = "step", Init = "init", Extracted = "extracted" });

/// A tree to be recorded.
#[derive(Clone, Debug)]
pub struct NewTree {
    /// Its id: lower-case hex for `trees/`, hex and `-` for `dirs/`.
    pub id: String,
    /// What it is.
    pub form: TreeForm,
    /// The chain that ends with its uppermost layer.
    pub chain_id: Option<ChainId>,
    /// Layers that it covers, bottom first; it goes when one of these goes. Without a chain: the
    /// topmost layer of a chain that uses it; it goes with the last such chain.
    pub layers: Vec<DiffId>,
    /// What else its maker wants to find again.
    pub spec: serde_json::Value,
}

/// A tree's row.
#[derive(Clone, Debug, PartialEq)]
pub struct TreeRow {
    /// Its id.
    pub id: String,
    /// What it is.
    pub form: TreeForm,
    /// The chain that ends with its uppermost layer.
    pub chain_id: Option<ChainId>,
    /// Layers that it covers, bottom first.
    pub layers: Vec<DiffId>,
    /// Size of the file in bytes, or of all files of an extracted tree.
    pub size: u64,
    /// CRC-32C of what was written, unless an earlier version wrote it.
    pub crc32c: Option<u32>,
    /// The boot in which it was written: it is never synced.
    pub boot: Option<BootId>,
    /// What else its maker wants to find again.
    pub spec: serde_json::Value,
}

/// A tree being written: a locked directory under `tmp/`, removed unless it is committed.
#[derive(Debug)]
pub struct TreeIngest<'a> {
    store: &'a Store,
    lock: Option<Lock>,
}

impl Store {
    /// Starts a tree.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn begin_tree(&self) -> Result<TreeIngest<'_>, StoreError> {
        self.sweep_once();
        Ok(TreeIngest { store: self, lock: Some(self.make_locked_dir("tree")?) })
    }

    /// Looks up a tree. Its file may be gone or torn all the same: it is then dropped by
    /// [`Self::drop_tree`] and made again.
    ///
    /// # Errors
    /// What the database says.
    pub fn tree(&self, id: &str) -> Result<Option<TreeRow>, StoreError> {
        self.database.read("look up a tree", |c| {
            c.prepare_cached(
                "SELECT id, form, chain_id, size, spec, crc32c, boot FROM trees WHERE id = ?",
            )
            .and_then(|mut s| s.query_row([id], |row| of_row(c, row)).optional())
            .map_err(|e| self.database.error("look up a tree", e))
        })
    }

    /// Trees whose uppermost layer ends one of these chains, in the order of `chains`.
    ///
    /// # Errors
    /// What the database says.
    pub fn trees_of_chains(&self, chains: &[ChainId]) -> Result<Vec<TreeRow>, StoreError> {
        let sql = |e| self.database.error("look up trees", e);
        self.database.snapshot("look up trees", |c| {
            let mut found = Vec::new();
            let mut statement = c
                .prepare_cached(
                    "SELECT id, form, chain_id, size, spec, crc32c, boot FROM trees WHERE chain_id = ?
                     ORDER BY created, id",
                )
                .map_err(sql)?;
            for chain in chains {
                let rows =
                    statement.query_map([chain.to_string()], |row| of_row(c, row)).map_err(sql)?;
                for row in rows {
                    found.push(row.map_err(sql)?);
                }
            }
            Ok(found)
        })
    }

    /// All trees.
    ///
    /// # Errors
    /// What the database says.
    pub fn trees(&self) -> Result<Vec<TreeRow>, StoreError> {
        let sql = |e| self.database.error("list the trees", e);
        self.database.snapshot("list the trees", |c| {
            let mut statement = c
                .prepare_cached(
                    "SELECT id, form, chain_id, size, spec, crc32c, boot FROM trees ORDER BY id",
                )
                .map_err(sql)?;
            let rows = statement.query_map([], |row| of_row(c, row)).map_err(sql)?;
            rows.collect::<Result<_, _>>().map_err(sql)
        })
    }

    /// Lets a tree without a chain stay as long as this layer; `false` if there is no such tree.
    ///
    /// # Errors
    /// What the database says.
    pub fn use_tree(&self, id: &str, top: &DiffId) -> Result<bool, StoreError> {
        let top = top.to_string();
        let sql = |e| self.database.error("use a tree", e);
        let known = self.database.read("use a tree", |c| {
            c.prepare_cached("SELECT 1 FROM tree_layers WHERE tree_id = ? AND diff_id = ?")
                .and_then(|mut s| s.exists([id, &top]))
                .map_err(sql)
        })?;
        if known {
            return Ok(true);
        }
        self.database.write(Class::Normal, "use a tree", |tx| {
            tx.execute(
                "INSERT INTO tree_layers (tree_id, position, diff_id)
                 SELECT id, (SELECT COUNT(*) FROM tree_layers WHERE tree_id = id), ?2
                 FROM trees WHERE id = ?1",
                [id, &top],
            )
            .map(|added| added > 0)
            .map_err(sql)
        })
    }

    /// Removes a tree, row first. Who has it mounted keeps it.
    ///
    /// # Errors
    /// What the disk or the database says.
    pub fn drop_tree(&self, id: &str) -> Result<(), StoreError> {
        let paths = [self.layout().tree(id), self.layout().extracted(id)];
        self.database.write(Class::Normal, "drop a tree", |tx| {
            tx.execute("DELETE FROM trees WHERE id = ?", [id])
                .map_err(|e| self.database.error("drop a tree", e))
        })?;
        self.remove_unnamed(&paths).map(|_| ())
    }
}

impl TreeIngest<'_> {
    /// The directory; nobody else writes in it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.lock().path()
    }

    /// Where an EROFS image is to be written.
    #[must_use]
    pub fn image_path(&self) -> PathBuf {
        self.dir().join("image")
    }

    /// Where an extracted tree is to be written: a directory that the caller makes.
    #[must_use]
    pub fn extracted_path(&self) -> PathBuf {
        self.dir().join("tree")
    }

    /// Makes the tree visible; when one with this id is there, that one stays. A tree is not
    /// synced: after power loss its reader finds it torn and makes it again.
    ///
    /// # Errors
    /// [`StoreError::MissingLayer`] when a layer that it covers is no longer there; otherwise what
    /// the disk or the database says. Nothing is left behind.
    pub fn commit(mut self, tree: &NewTree, size_bytes: u64) -> Result<(), StoreError> {
        let extracted = tree.form == TreeForm::Extracted;
        let (from, to) = match tree.form {
            TreeForm::Extracted => (self.extracted_path(), self.store.layout().extracted(&tree.id)),
            _ => (self.image_path(), self.store.layout().tree(&tree.id)),
        };
        if !extracted {
            rustix::fs::chmod(&from, rustix::fs::Mode::RUSR)
                .map_err(|e| StoreError::io("protect", &from, e))?;
        }
        let crc32c = checksum(tree.form, &from)?;
        let lock = self.lock.take().expect("only commit and drop take the lock");
        let published = self.store.publish_tree((&from, &to), tree, (size_bytes, crc32c));
        self.store.discard(lock)?;
        published
    }

    fn lock(&self) -> &Lock {
        self.lock.as_ref().expect("only commit and drop take the lock")
    }
}

impl Drop for TreeIngest<'_> {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.lock.take().map(|lock| self.store.discard(lock)) {
            tracing::debug!(%error, "the next sweep removes the tree");
        }
    }
}

impl Store {
    fn publish_tree(
        &self,
        (from, to): (&Path, &Path),
        tree: &NewTree,
        (size_bytes, crc32c): (u64, u32),
    ) -> Result<(), StoreError> {
        let sql = |e| self.database.error("record a tree", e);
        self.database.write(Class::Normal, "record a tree", |tx| {
            for diff_id in &tree.layers {
                if layer::find(&self.database, tx, diff_id)?.is_none() {
                    return Err(StoreError::MissingLayer(*diff_id));
                }
            }
            let known = tx
                .prepare_cached("SELECT 1 FROM trees WHERE id = ?")
                .and_then(|mut s| s.exists([&tree.id]))
                .map_err(sql)?;
            if known && to.symlink_metadata().is_ok() {
                return Ok(());
            }
            if to.symlink_metadata().is_ok() {
                self.move_to_trash(to)?;
            }
            durable::rename_new(from, to)?;
            insert(tx, tree, (size_bytes, crc32c), self.boot_id()).map_err(sql)
        })
    }
}

/// CRC-32C of a tree as it lies there.
pub(crate) fn checksum(form: TreeForm, path: &Path) -> Result<u32, StoreError> {
    match form {
        TreeForm::Extracted => {
            checksum::extracted(path).map_err(|e| StoreError::io("read", path, e))
        }
        _ => layer::checksum(path).map(|(_, crc32c)| crc32c),
    }
}

fn insert(
    tx: &Transaction<'_>,
    tree: &NewTree,
    (size_bytes, crc32c): (u64, u32),
    boot: &BootId,
) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM trees WHERE id = ?", [&tree.id])?;
    tx.execute(
        "INSERT INTO trees (id, form, chain_id, size, spec, created, crc32c, boot)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            tree.id,
            tree.form.to_string(),
            tree.chain_id.map(|chain| chain.to_string()),
            to_sql_size(size_bytes),
            to_json(&tree.spec),
            now(),
            crc32c,
            boot.as_str(),
        ],
    )?;
    for (position, diff_id) in (0_u32..).zip(&tree.layers) {
        tx.execute(
            "INSERT INTO tree_layers (tree_id, position, diff_id) VALUES (?, ?, ?)",
            params![tree.id, position, diff_id.to_string()],
        )?;
    }
    Ok(())
}

fn of_row(c: &Connection, row: &rusqlite::Row<'_>) -> rusqlite::Result<TreeRow> {
    let id: String = row.get(0)?;
    let layers = c
        .prepare_cached("SELECT diff_id FROM tree_layers WHERE tree_id = ? ORDER BY position")?
        .query_map([&id], |row| parsed(row, 0))?
        .collect::<Result<_, _>>()?;
    Ok(TreeRow {
        form: parsed(row, 1)?,
        chain_id: parsed_option(row, 2)?,
        size: size(row, 3)?,
        spec: json(row, 4)?,
        crc32c: row.get(5)?,
        boot: row.get::<_, Option<String>>(6)?.as_deref().map(BootId::new),
        layers,
        id,
    })
}
