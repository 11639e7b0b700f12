//! Volumes: rows; their content lies in `volumes/NAME/_data`.

use std::{collections::BTreeMap, path::PathBuf};

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::{
    Store, StoreError,
    database::{Class, json, to_json},
    store::now,
};

/// A volume to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewVolume {
    /// Its name, already checked against Docker's grammar.
    pub name: String,
    /// `local`.
    pub driver: String,
    /// Made for a container that did not name it.
    pub anonymous: bool,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
    /// The driver's options.
    pub options: BTreeMap<String, String>,
}

/// A volume's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeRow {
    /// What it was made with.
    pub volume: NewVolume,
    /// Nanoseconds since 1970.
    pub created: i64,
    /// Containers that use it.
    pub containers: Vec<String>,
}

/// Mark beside `_data` of a volume that is being removed.
const REMOVED: &str = "removed";
const SELECT: &str = "SELECT name, driver, anonymous, labels, options, created FROM volumes";

impl Store {
    /// Makes a volume: row and empty `_data` directory (0755, root's), durably. One that is there
    /// stays as it is; `false` then. A directory that has lost its row gets one again, as it is.
    ///
    /// # Errors
    /// What the disk or the database says.
    pub fn create_volume(&self, volume: &NewVolume) -> Result<bool, StoreError> {
        let directory = self.layout().volume(&volume.name);
        let (added, former) = self.database.write(Class::Full, "create a volume", |tx| {
            let added =
                insert(tx, volume).map_err(|e| self.database.error("create a volume", e))?;
            // Inside the transaction, so that a removal of the same name cannot come between.
            let is_removed = added && directory.join(REMOVED).symlink_metadata().is_ok();
            // Its remover was killed: what it held is not the new volume's.
            let former = is_removed.then(|| self.move_to_trash(&directory)).transpose()?;
            self.make_volume_dir(&volume.name)?;
            Ok((added, former))
        })?;
        former.map_or(Ok(()), |path| crate::sweep::remove_any(&path))?;
        Ok(added)
    }

    fn make_volume_dir(&self, name: &str) -> Result<(), StoreError> {
        let data = self.layout().volume_data(name);
        if data.symlink_metadata().is_ok() {
            return Ok(());
        }
        // Under another name until its mode is right.
        let new = data.with_extension("new");
        self.make_dir(&new)?;
        rustix::fs::chmod(&new, rustix::fs::Mode::from_raw_mode(0o755))
            .map_err(|e| StoreError::io("protect", &new, e))?;
        fs_err::rename(&new, &data).map_err(|e| StoreError::io("create", &data, e))?;
        crate::durable::sync_dir(&self.layout().volume(name))?;
        crate::durable::sync_dir(&self.layout().root().join("volumes"))
    }

    /// Looks up a volume.
    ///
    /// # Errors
    /// What the database says.
    pub fn volume(&self, name: &str) -> Result<Option<VolumeRow>, StoreError> {
        self.database.read("look up a volume", |c| {
            c.prepare_cached(&format!("{SELECT} WHERE name = ?"))
                .and_then(|mut s| s.query_row([name], |row| of_row(c, row)).optional())
                .map_err(|e| self.database.error("look up a volume", e))
        })
    }

    /// All volumes, by name.
    ///
    /// # Errors
    /// What the database says.
    pub fn volumes(&self) -> Result<Vec<VolumeRow>, StoreError> {
        let sql = |e| self.database.error("list the volumes", e);
        self.database.snapshot("list the volumes", |c| {
            let mut statement =
                c.prepare_cached(&format!("{SELECT} ORDER BY name")).map_err(sql)?;
            let rows = statement.query_map([], |row| of_row(c, row)).map_err(sql)?;
            rows.collect::<Result<_, _>>().map_err(sql)
        })
    }

    /// Removes a volume and its content. One that a container uses stays: its users are returned.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or what the disk or the database says.
    pub fn remove_volume(&self, name: &str) -> Result<Vec<String>, StoreError> {
        let sql = |e| self.database.error("remove a volume", e);
        let directory = self.layout().volume(name);
        self.make_room()?;
        let users = self.database.write(Class::Full, "remove a volume", |tx| {
            let users = users_of(tx, name).map_err(sql)?;
            if users.is_empty() {
                if tx.execute("DELETE FROM volumes WHERE name = ?", [name]).map_err(sql)? == 0 {
                    return Err(StoreError::not_found("volume", name));
                }
                // Should this process be killed now. Where even a file without bytes finds no room,
                // the removal is what makes some.
                let marked = fs_err::File::create(directory.join(REMOVED));
                drop(marked.map(|_| crate::durable::sync_dir(&directory)));
            }
            Ok(users)
        })?;
        if users.is_empty() {
            self.remove_unnamed(&[directory])?;
        }
        Ok(users)
    }

    /// Directories of volumes whose removal was asked for. Others without a row may be all that is
    /// left after the loss of the database.
    pub(crate) fn removed_volumes(&self) -> Result<Vec<PathBuf>, StoreError> {
        let mut directories = crate::sweep::list(&self.layout().root().join("volumes"))?;
        directories.retain(|directory| directory.join(REMOVED).symlink_metadata().is_ok());
        Ok(directories)
    }
}

fn insert(tx: &Transaction<'_>, volume: &NewVolume) -> rusqlite::Result<bool> {
    tx.prepare_cached(
        "INSERT OR IGNORE INTO volumes (name, driver, anonymous, labels, options, created)
         VALUES (?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        volume.name,
        volume.driver,
        volume.anonymous,
        to_json(&volume.labels),
        to_json(&volume.options),
        now(),
    ])
    .map(|rows| rows > 0)
}

fn users_of(c: &Connection, name: &str) -> rusqlite::Result<Vec<String>> {
    c.prepare_cached("SELECT container_id FROM volume_uses WHERE volume = ? ORDER BY 1")?
        .query_map([name], |row| row.get(0))?
        .collect()
}

fn of_row(c: &Connection, row: &rusqlite::Row<'_>) -> rusqlite::Result<VolumeRow> {
    let name: String = row.get(0)?;
    Ok(VolumeRow {
        containers: users_of(c, &name)?,
        created: row.get(5)?,
        volume: NewVolume {
            name,
            driver: row.get(1)?,
            anonymous: row.get(2)?,
            labels: json(row, 3)?,
            options: json(row, 4)?,
        },
    })
}
