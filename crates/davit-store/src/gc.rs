//! Garbage collection: what no root reaches goes, at once.
//!
//! Roots are tags, untagged images, containers, live leases and build records. Reachability is one
//! recursive query; nothing counts references. Rows go in one transaction; their files then go
//! out of sight in a second one that asks again whether a row names them, so that a writer who
//! brings the same content back in between keeps it.

use std::{collections::BTreeMap, path::PathBuf};

use davit_image::{DiffId, Digest, ImageId};
use rusqlite::{Connection, Params, Transaction};

use crate::{
    Store, StoreError,
    database::{Class, parsed, size},
};

/// What becomes of build records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BuildCache {
    /// They all keep what they name.
    #[default]
    Keep,
    /// The least valuable go until what only they keep is at most this many bytes.
    Budget(u64),
    /// They all go.
    Drop,
}

/// How to collect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcOptions {
    /// What becomes of build records.
    pub build_cache: BuildCache,
}

/// What a collection removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Bytes on disk.
    pub freed_bytes: u64,
    /// Images, by their configs.
    pub images: Vec<ImageId>,
    /// Layers.
    pub layers: Vec<DiffId>,
    /// Blobs, configs and manifests included.
    pub blobs: Vec<Digest>,
    /// Trees.
    pub trees: Vec<String>,
    /// Build records, by their keys.
    pub build_records: Vec<String>,
}

/// What images take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageSizes {
    /// Bytes of layers, blobs and trees.
    pub total: u64,
    /// Bytes that removing all images without a container would free.
    pub reclaimable: u64,
}

/// Digests that a root reaches; images, blobs and layers share one namespace.
const LIVE: &str = "
CREATE TEMP TABLE live AS
WITH RECURSIVE reached(digest) AS (
    SELECT digest FROM main.tags
    UNION SELECT image_id FROM main.tags WHERE image_id IS NOT NULL
    UNION SELECT digest FROM main.untagged
    UNION SELECT image_id FROM main.untagged WHERE image_id IS NOT NULL
    UNION SELECT image_id FROM main.containers WHERE image_id IS NOT NULL
    UNION SELECT digest FROM main.container_items
    UNION SELECT digest FROM main.lease_items
    UNION SELECT digest FROM main.build_record_items
    UNION SELECT child FROM main.blob_refs JOIN reached ON parent = reached.digest
    UNION SELECT r.digest FROM main.repo_digests r JOIN reached ON r.image_id = reached.digest
    UNION SELECT diff_id FROM main.image_layers JOIN reached ON image_id = reached.digest
)
SELECT digest FROM reached;
CREATE UNIQUE INDEX temp.live_digest ON live(digest);
";

/// A second of work for each MiB extends a record's life by this many seconds: what was dear for
/// the room that it takes goes later, yet among common steps what was used last stays.
const SECONDS_PER_SECOND: u128 = 60;
/// No record is taken for smaller than this, which a file and its rows need at least.
const LEAST_BYTES: u64 = 64 << 10;
/// No record lives longer than this for its cost.
const LONGEST_BONUS_NS: u128 = 24 * 3600 * 1_000_000_000;

impl Store {
    /// Removes what no root reaches.
    ///
    /// # Errors
    /// What the disk or the database says; rows and files stay consistent.
    pub fn collect(&self, options: &GcOptions) -> Result<GcReport, StoreError> {
        let sql = |e| self.database.error("collect garbage", e);
        self.make_room()?;
        let report = self.database.write(Class::Normal, "collect garbage", |tx| {
            self.drop_dead_leases(tx)?;
            let build_records = shrink(tx, options.build_cache).map_err(sql)?;
            mark(tx).map_err(sql)?;
            let mut report = garbage(tx).map_err(sql)?;
            report.build_records = build_records;
            delete_rows(tx).map_err(sql)?;
            Ok(report)
        })?;
        self.remove_unnamed(&self.paths_of(&report))?;
        self.keep_reserve()?;
        Ok(report)
    }

    /// Forgets those of these build records that keep what nothing else does; yields their keys.
    /// Collect afterwards to free it.
    ///
    /// # Errors
    /// What the database says.
    pub fn forget_unused_build_records(&self, keys: &[String]) -> Result<Vec<String>, StoreError> {
        let sql = |e| self.database.error("forget build records", e);
        self.make_room()?;
        self.database.write(Class::Normal, "forget build records", |tx| {
            self.drop_dead_leases(tx)?;
            forget_unused(tx, keys).map_err(sql)
        })
    }

    /// Bytes that only build records keep: what dropping them all would free.
    ///
    /// # Errors
    /// What the database says.
    pub fn build_cache_size(&self) -> Result<u64, StoreError> {
        let sql = |e| self.database.error("measure the build cache", e);
        self.database.write(Class::Normal, "measure the build cache", |tx| {
            let total = reclaimable(tx).map_err(sql)?;
            Ok(total)
        })
    }

    /// Bytes of what build records name, each layer and blob once.
    ///
    /// # Errors
    /// What the database says.
    pub fn build_items_size(&self) -> Result<u64, StoreError> {
        self.database.read("measure the build cache", |c| {
            c.query_row(
                "SELECT (SELECT COALESCE(SUM(tar_size + table_size), 0) FROM layers
                         WHERE diff_id IN (SELECT digest FROM build_record_items))
                      + (SELECT COALESCE(SUM(size), 0) FROM blobs
                         WHERE digest IN (SELECT digest FROM build_record_items))",
                [],
                |row| size(row, 0),
            )
            .map_err(|e| self.database.error("measure the build cache", e))
        })
    }

    /// Bytes of everything that images keep, and how many of them would be free again without the
    /// images that no container uses: what is not worth a name, trees included.
    ///
    /// # Errors
    /// What the database says.
    pub fn image_sizes(&self) -> Result<ImageSizes, StoreError> {
        let sql = |e| self.database.error("measure the images", e);
        self.database.write(Class::Normal, "measure the images", |tx| {
            let cached = reclaimable(tx).map_err(sql)?;
            tx.execute_batch(&live_without_unused_images()).map_err(sql)?;
            let reclaimable = garbage(tx).map_err(sql)?.freed_bytes;
            tx.execute_batch("DROP TABLE temp.live").map_err(sql)?;
            let all = tx.query_row(ALL_CONTENT, [], |row| size(row, 0)).map_err(sql)?;
            Ok(ImageSizes { total: all.saturating_sub(cached), reclaimable })
        })
    }

    /// Bytes of all layers and blobs: what the build cache takes at most. One cheap query.
    ///
    /// # Errors
    /// What the database says.
    pub fn content_size(&self) -> Result<u64, StoreError> {
        self.database.read("measure the store", |c| {
            c.prepare_cached(
                "SELECT (SELECT COALESCE(SUM(tar_size + table_size), 0) FROM layers)
                      + (SELECT COALESCE(SUM(size), 0) FROM blobs)",
            )
            .and_then(|mut s| s.query_row([], |row| size(row, 0)))
            .map_err(|e| self.database.error("measure the store", e))
        })
    }

    /// Drops layers whose content is gone or wrong, with everything derived from them.
    pub(crate) fn drop_layers(&self, layers: &[DiffId]) -> Result<(), StoreError> {
        let sql = |e| self.database.error("drop layers", e);
        let mut report = GcReport { layers: layers.to_vec(), ..GcReport::default() };
        report.trees = self.database.write(Class::Full, "drop layers", |tx| {
            let mut trees = Vec::new();
            for diff_id in layers {
                let key = diff_id.to_string();
                trees.extend(trees_over(tx, &key).map_err(sql)?);
                tx.execute("DELETE FROM layers WHERE diff_id = ?", [&key]).map_err(sql)?;
            }
            for tree in &trees {
                tx.execute("DELETE FROM trees WHERE id = ?", [tree]).map_err(sql)?;
            }
            Ok(trees)
        })?;
        self.remove_unnamed(&self.paths_of(&report)).map(|_| ())
    }

    /// Drops blobs whose content is gone or wrong; a layer's compressed form is missed from now on.
    pub(crate) fn drop_blobs(&self, digests: &[Digest]) -> Result<(), StoreError> {
        let sql = |e| self.database.error("drop blobs", e);
        self.database.write(Class::Full, "drop blobs", |tx| {
            for digest in digests {
                let key = digest.to_string();
                tx.execute("DELETE FROM blobs WHERE digest = ?", [&key]).map_err(sql)?;
                tx.execute("UPDATE layer_blobs SET lost = 1 WHERE digest = ?", [&key])
                    .map_err(sql)?;
            }
            Ok(())
        })?;
        let paths: Vec<_> = digests.iter().map(|digest| self.layout().blob(digest)).collect();
        self.remove_unnamed(&paths).map(|_| ())
    }

    fn paths_of(&self, report: &GcReport) -> Vec<PathBuf> {
        let layout = self.layout();
        let layers = report.layers.iter().map(|id| layout.layer(id));
        let blobs = report.blobs.iter().map(|digest| layout.blob(digest));
        let trees = report.trees.iter().flat_map(|id| [layout.tree(id), layout.extracted(id)]);
        layers.chain(blobs).chain(trees).collect()
    }
}

fn mark(tx: &Connection) -> rusqlite::Result<()> {
    tx.execute_batch("DROP TABLE IF EXISTS temp.live")?;
    tx.execute_batch(LIVE)
}

fn garbage(tx: &Transaction<'_>) -> rusqlite::Result<GcReport> {
    let mut report = GcReport::default();
    let mut freed = 0;
    each(
        tx,
        "SELECT diff_id, tar_size + table_size FROM layers WHERE diff_id NOT IN live",
        |row| {
            freed += size(row, 1)?;
            report.layers.push(parsed(row, 0)?);
            Ok(())
        },
    )?;
    each(tx, "SELECT digest, size FROM blobs WHERE digest NOT IN live", |row| {
        freed += size(row, 1)?;
        report.blobs.push(parsed(row, 0)?);
        Ok(())
    })?;
    each(tx, DEAD_TREES, |row| {
        freed += size(row, 1)?;
        report.trees.push(row.get(0)?);
        Ok(())
    })?;
    each(tx, "SELECT id FROM images WHERE id NOT IN live", |row| {
        report.images.push(parsed(row, 0)?);
        Ok(())
    })?;
    report.freed_bytes = freed;
    Ok(report)
}

/// Trees go with the first of their layers. One without a chain, which several may use, goes with
/// the last of those it knows; one over nothing when nothing is reachable any more.
const DEAD_TREES: &str = "SELECT id, size FROM trees WHERE CASE
     WHEN NOT EXISTS (SELECT 1 FROM tree_layers WHERE tree_id = trees.id)
       THEN NOT EXISTS (SELECT 1 FROM live)
     WHEN chain_id IS NULL
       THEN NOT EXISTS (SELECT 1 FROM tree_layers WHERE tree_id = trees.id AND diff_id IN
         (SELECT diff_id FROM layers WHERE diff_id IN live))
     ELSE EXISTS (SELECT 1 FROM tree_layers WHERE tree_id = trees.id AND diff_id NOT IN
         (SELECT diff_id FROM layers WHERE diff_id IN live))
     END";

fn delete_rows(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute(&format!("DELETE FROM trees WHERE id IN (SELECT id FROM ({DEAD_TREES}))"), [])?;
    tx.execute_batch(
        "DELETE FROM layers WHERE diff_id NOT IN live;
         DELETE FROM blobs WHERE digest NOT IN live;
         DELETE FROM images WHERE id NOT IN live;
         DELETE FROM repo_digests WHERE image_id NOT IN live;
         DELETE FROM layer_blobs WHERE diff_id NOT IN (SELECT diff_id FROM layers);
         DROP TABLE temp.live;",
    )
}

fn forget_unused(tx: &Transaction<'_>, keys: &[String]) -> rusqlite::Result<Vec<String>> {
    mark_without_records(tx)?;
    let mut removed = Vec::new();
    for key in keys {
        let unused = "key = ?1 AND EXISTS
               (SELECT 1 FROM build_record_items WHERE key = ?1 AND digest NOT IN live)";
        removed.extend(delete_records(tx, unused, [key])?);
    }
    tx.execute_batch("DROP TABLE temp.live")?;
    Ok(removed)
}

/// Removes build records until `keep` is met; yields their keys.
fn shrink(tx: &Transaction<'_>, keep: BuildCache) -> rusqlite::Result<Vec<String>> {
    let budget = match keep {
        BuildCache::Keep => return Ok(Vec::new()),
        BuildCache::Drop => return delete_records(tx, "true", []),
        BuildCache::Budget(budget) => budget,
    };
    mark_without_records(tx)?;
    let mut removed = Vec::new();
    loop {
        let excess = cached(tx)?.saturating_sub(budget);
        let victims = if excess > 0 { least_valuable(tx, excess)? } else { Vec::new() };
        if victims.is_empty() {
            break;
        }
        for digest in victims {
            let named = "key IN (SELECT key FROM build_record_items WHERE digest = ?)";
            removed.extend(delete_records(tx, named, [digest])?);
        }
    }
    if !removed.is_empty() {
        // What tells something without keeping anything goes when nothing of its age is left.
        let older = "key NOT IN (SELECT key FROM build_record_items)
               AND last_used < COALESCE((SELECT MIN(last_used) FROM build_records WHERE key IN
                 (SELECT key FROM build_record_items)), ?)";
        removed.extend(delete_records(tx, older, [i64::MAX])?);
    }
    tx.execute_batch("DROP TABLE temp.live")?;
    Ok(removed)
}

/// Removes the build records that fit; yields their keys.
pub(crate) fn delete_records(
    tx: &Transaction<'_>,
    condition: &'static str,
    parameters: impl Params,
) -> rusqlite::Result<Vec<String>> {
    let query = format!("DELETE FROM build_records WHERE {condition} RETURNING key");
    let mut statement = tx.prepare_cached(&query)?;
    let keys = statement.query_map(parameters, |row| row.get(0))?;
    keys.collect()
}

/// Content to give up next: as much, by least value, as holds `excess` bytes. It is worth what the
/// dearest of its records is, for only their common end frees it; what something else keeps, such
/// as a build that uses it or an image, is none of it.
fn least_valuable(tx: &Transaction<'_>, excess: u64) -> rusqlite::Result<Vec<String>> {
    let mut contents = BTreeMap::<String, (i64, u64)>::new();
    each(
        tx,
        "SELECT i.digest,
           COALESCE((SELECT tar_size + table_size FROM layers WHERE diff_id = i.digest),
             (SELECT size FROM blobs b WHERE b.digest = i.digest), 0),
           r.last_used, r.cost_us, r.size
         FROM build_record_items i JOIN build_records r USING (key)
         WHERE i.digest NOT IN live",
        |row| {
            let worth = value(row.get(2)?, size(row, 3)?, size(row, 4)?);
            let content = contents.entry(row.get(0)?).or_insert((worth, size(row, 1)?));
            content.0 = content.0.max(worth);
            Ok(())
        },
    )?;
    let mut contents: Vec<_> = contents.into_iter().collect();
    // Stable: what is worth the same goes by digest.
    contents.sort_by_key(|(_, (worth, _))| *worth);
    let mut named = 0;
    let enough = contents.iter().position(|(_, (_, bytes))| {
        named += bytes;
        named >= excess
    });
    contents.truncate(enough.map_or(contents.len(), |last| last + 1));
    Ok(contents.into_iter().map(|(digest, _)| digest).collect())
}

/// Until when a record is worth its room, in nanoseconds since 1970: its last use, and a bonus for
/// what each of its bytes cost (GreedyDual-Size, with the clock as its inflation).
fn value(last_used: i64, cost_us: u64, bytes: u64) -> i64 {
    let per_mib = u128::from(cost_us) * 1000 * (1 << 20) / u128::from(bytes.max(LEAST_BYTES));
    let bonus = (per_mib * SECONDS_PER_SECOND).min(LONGEST_BONUS_NS);
    last_used.saturating_add(i64::try_from(bonus).unwrap_or(i64::MAX))
}

/// Bytes that only build records keep.
fn reclaimable(tx: &Transaction<'_>) -> rusqlite::Result<u64> {
    mark_without_records(tx)?;
    let total = cached(tx)?;
    tx.execute_batch("DROP TABLE temp.live")?;
    Ok(total)
}

const ALL_CONTENT: &str = "
SELECT (SELECT COALESCE(SUM(tar_size + table_size), 0) FROM layers)
     + (SELECT COALESCE(SUM(size), 0) FROM blobs) + (SELECT COALESCE(SUM(size), 0) FROM trees)";

/// [`LIVE`] as it would be after all images without a container were removed.
fn live_without_unused_images() -> String {
    let used = "image_id IS NULL OR image_id IN (SELECT image_id FROM main.containers)";
    ["tags", "untagged"].into_iter().fold(LIVE.to_owned(), |query, table| {
        let query = edited(
            &query,
            &format!("SELECT digest FROM main.{table}\n"),
            &format!("SELECT digest FROM main.{table} WHERE {used}\n"),
        );
        edited(
            &query,
            &format!("SELECT image_id FROM main.{table} WHERE image_id IS NOT NULL"),
            &format!("SELECT image_id FROM main.{table} WHERE {used}"),
        )
    })
}

/// `query` with other words for a part of it, which must be there.
fn edited(query: &str, part: &str, words: &str) -> String {
    debug_assert!(query.contains(part), "{part:?} is no part of {query}");
    query.replace(part, words)
}

/// Marks what is kept by anything but build records.
fn mark_without_records(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute_batch("DROP TABLE IF EXISTS temp.live")?;
    tx.execute_batch(&edited(LIVE, "UNION SELECT digest FROM main.build_record_items", ""))
}

/// Bytes that records name and that are not marked.
fn cached(tx: &Transaction<'_>) -> rusqlite::Result<u64> {
    let mut total = 0;
    each(
        tx,
        "WITH cached(digest) AS (SELECT DISTINCT digest FROM build_record_items)
         SELECT tar_size + table_size FROM layers JOIN cached ON diff_id = cached.digest
           WHERE diff_id NOT IN live
         UNION ALL SELECT size FROM blobs JOIN cached USING (digest) WHERE digest NOT IN live",
        |row| {
            total += size(row, 0)?;
            Ok(())
        },
    )?;
    Ok(total)
}

fn trees_over(tx: &Transaction<'_>, diff_id: &str) -> rusqlite::Result<Vec<String>> {
    tx.prepare_cached("SELECT DISTINCT tree_id FROM tree_layers WHERE diff_id = ?")?
        .query_map([diff_id], |row| row.get(0))?
        .collect()
}

fn each(
    tx: &Transaction<'_>,
    query: &str,
    mut take: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut statement = tx.prepare(query)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        take(row)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn a_record_is_worth_its_last_use_and_what_its_bytes_cost() {
        let (s, ms) = (1_000_000, 1000);
        let (kib, mib, gib) = (1 << 10, 1 << 20, 1 << 30);
        // How much later the second was used in seconds, (cost, size) of both, who goes first.
        let cases = [
            ("equals go by use", 1, (s, mib), (s, mib), "older"),
            ("a cheap one, seconds later", 15, (20 * s, 100 * mib), (5 * ms, 100 * kib), "older"),
            ("a dear one, seconds before", 5, (60 * s, 100 * mib), (5 * ms, mib), "newer"),
            ("the same, minutes before", 60, (60 * s, 100 * mib), (5 * ms, mib), "older"),
            ("as dear, but larger", 300, (60 * s, gib), (60 * s, 10 * mib), "older"),
            ("as dear, but smaller", 300, (60 * s, 10 * mib), (60 * s, gib), "newer"),
            ("much work in few bytes", 3600, (60 * s, kib), (s, mib), "newer"),
            ("that, for a day", 25 * 3600, (3600 * s, kib), (0, mib), "older"),
            ("tiny ones are alike", 1, (ms, 1), (ms, 60 * kib), "older"),
            ("what cost nothing", 1, (0, 0), (0, gib), "older"),
            ("no overflow", 1, (u64::MAX, 0), (0, u64::MAX), "newer"),
        ];
        for (case, later, older, newer, first) in cases {
            let now = 1_700_000_000 * SECOND;
            let older = value(now, older.0, older.1);
            let newer = value(now + later * SECOND, newer.0, newer.1);
            let found = if older < newer { "older" } else { "newer" };
            assert_eq!(found, first, "{case}: {}", newer - older);
        }
        assert_eq!(value(i64::MAX, u64::MAX, 0), i64::MAX);
    }
}
