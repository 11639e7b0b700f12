//! Build records: what a cache key led to, and the content that it keeps.

use davit_image::Digest;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::{
    Lease, Store, StoreError,
    database::{Class, json, parsed, size, to_json, to_sql_size},
    gc::delete_records,
    store::now,
};

/// A result to be remembered.
#[derive(Clone, Debug)]
pub struct NewBuildRecord {
    /// The cache key: any text.
    pub key: String,
    /// What it is a key of, for `--filter type=`.
    pub kind: String,
    /// The result, in its maker's words.
    pub spec: serde_json::Value,
    /// Layers and blobs that the result needs.
    pub items: Vec<Digest>,
    /// What it cost to make, in microseconds.
    pub cost_us: u64,
}

/// A remembered result.
#[derive(Clone, Debug, PartialEq)]
pub struct BuildRecord {
    /// The cache key.
    pub key: String,
    /// What it is a key of.
    pub kind: String,
    /// The result, in its maker's words.
    pub spec: serde_json::Value,
    /// Layers and blobs that the result needs.
    pub items: Vec<Digest>,
    /// What it cost to make, in microseconds.
    pub cost_us: u64,
    /// Sum of its items in bytes, those that it shares included.
    pub size: u64,
    /// How often it was used.
    pub uses: u64,
    /// Nanoseconds since 1970.
    pub created: i64,
    /// Nanoseconds since 1970.
    pub last_used: i64,
}

const SELECT: &str =
    "SELECT key, kind, spec, cost_us, size, uses, created, last_used FROM build_records";

impl Store {
    /// Remembers results; a key that is known gets the new result. Survives a kill; power loss may
    /// forget it.
    ///
    /// # Errors
    /// What the database says.
    pub fn put_build_records(&self, records: &[NewBuildRecord]) -> Result<(), StoreError> {
        self.database.write(Class::Normal, "record a build step", |tx| {
            records
                .iter()
                .try_for_each(|record| insert(tx, record))
                .map_err(|e| self.database.error("record a build step", e))
        })
    }

    /// Looks up a result and lets the lease keep what it needs. A result of which something is
    /// missing, or did not survive a reboot, is forgotten: `None`.
    ///
    /// # Errors
    /// What the disk or the database says.
    pub fn use_build_record(
        &self,
        lease: &Lease<'_>,
        key: &str,
    ) -> Result<Option<BuildRecord>, StoreError> {
        let Some(record) = self.build_record(key)? else { return Ok(None) };
        for digest in &record.items {
            self.settle_layer(&davit_image::DiffId::new(*digest))?;
        }
        let sql = |e| self.database.error("use a build record", e);
        self.database.write(Class::Normal, "use a build record", |tx| {
            for digest in &record.items {
                if !is_present(tx, digest).map_err(sql)? {
                    tx.execute("DELETE FROM build_records WHERE key = ?", [key]).map_err(sql)?;
                    return Ok(None);
                }
                lease.keep_in(tx, digest)?;
            }
            tx.prepare_cached(
                "UPDATE build_records SET uses = uses + 1, last_used = ? WHERE key = ?",
            )
            .and_then(|mut s| s.execute(params![now(), key]))
            .map_err(sql)?;
            Ok(Some(record))
        })
    }

    /// Looks up a result without using it.
    ///
    /// # Errors
    /// What the database says.
    pub fn build_record(&self, key: &str) -> Result<Option<BuildRecord>, StoreError> {
        self.database.read("look up a build record", |c| {
            c.prepare_cached(&format!("{SELECT} WHERE key = ?"))
                .and_then(|mut s| s.query_row([key], |row| of_row(c, row)).optional())
                .map_err(|e| self.database.error("look up a build record", e))
        })
    }

    /// All results, least recently used first.
    ///
    /// # Errors
    /// What the database says.
    pub fn build_records(&self) -> Result<Vec<BuildRecord>, StoreError> {
        let sql = |e| self.database.error("list the build records", e);
        self.database.snapshot("list the build records", |c| {
            let mut statement =
                c.prepare_cached(&format!("{SELECT} ORDER BY last_used, key")).map_err(sql)?;
            let rows = statement.query_map([], |row| of_row(c, row)).map_err(sql)?;
            rows.collect::<Result<_, _>>().map_err(sql)
        })
    }

    /// Forgets results and yields the keys of those that there were; collect afterwards to free what they kept.
    ///
    /// # Errors
    /// What the database says.
    pub fn forget_build_records(&self, keys: &[String]) -> Result<Vec<String>, StoreError> {
        let sql = |e| self.database.error("forget build records", e);
        self.make_room()?;
        self.database.write(Class::Normal, "forget build records", |tx| {
            let mut forgotten = Vec::new();
            for key in keys {
                forgotten.extend(delete_records(tx, "key = ?", [key]).map_err(sql)?);
            }
            Ok(forgotten)
        })
    }
}

fn insert(tx: &Transaction<'_>, record: &NewBuildRecord) -> rusqlite::Result<()> {
    let mut total = 0;
    for digest in &record.items {
        total += size_of(tx, digest)?;
    }
    tx.prepare_cached(
        "INSERT INTO build_records (key, kind, spec, cost_us, size, created, last_used)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6) ON CONFLICT (key) DO UPDATE SET kind = ?2, spec = ?3,
         cost_us = ?4, size = ?5, last_used = ?6",
    )?
    .execute(params![
        record.key,
        record.kind,
        to_json(&record.spec),
        to_sql_size(record.cost_us),
        to_sql_size(total),
        now(),
    ])?;
    tx.prepare_cached("DELETE FROM build_record_items WHERE key = ?")?.execute([&record.key])?;
    for digest in &record.items {
        tx.prepare_cached("INSERT OR IGNORE INTO build_record_items (key, digest) VALUES (?, ?)")?
            .execute(params![record.key, digest.to_string()])?;
    }
    Ok(())
}

fn is_present(tx: &Transaction<'_>, digest: &Digest) -> rusqlite::Result<bool> {
    tx.prepare_cached(
        "SELECT 1 FROM layers WHERE diff_id = ?1 UNION ALL SELECT 1 FROM blobs WHERE digest = ?1",
    )?
    .exists([digest.to_string()])
}

fn size_of(tx: &Transaction<'_>, digest: &Digest) -> rusqlite::Result<u64> {
    let found = tx
        .prepare_cached(
            "SELECT tar_size + table_size FROM layers WHERE diff_id = ?1
             UNION ALL SELECT size FROM blobs WHERE digest = ?1",
        )?
        .query_row([digest.to_string()], |row| size(row, 0))
        .optional()?;
    Ok(found.unwrap_or(0))
}

fn of_row(c: &Connection, row: &rusqlite::Row<'_>) -> rusqlite::Result<BuildRecord> {
    let key: String = row.get(0)?;
    let items = c
        .prepare_cached("SELECT digest FROM build_record_items WHERE key = ? ORDER BY digest")?
        .query_map([&key], |row| parsed(row, 0))?
        .collect::<Result<_, _>>()?;
    Ok(BuildRecord {
        key,
        kind: row.get(1)?,
        spec: json(row, 2)?,
        items,
        cost_us: size(row, 3)?,
        size: size(row, 4)?,
        uses: size(row, 5)?,
        created: row.get(6)?,
        last_used: row.get(7)?,
    })
}
