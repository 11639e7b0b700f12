//! Rows that contradict themselves or the content that they were made of.
//!
//! SQLite keeps what was once written into it; who edits it by hand, or a bug, may leave words that
//! are no digests, parts of what is gone, references that no longer keep what a manifest names, and
//! images that are not what their configs say. A document is content with a digest of its own, so
//! it is believed rather than its rows.

use std::collections::HashSet;

use davit_image::{Digest, ImageId, MediaType, Reference};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{CheckOptions, CheckReport, DroppedName, Fault, FaultKind, Repair};
use crate::{
    Store, StoreError, StoredDocument,
    archive::MAX_DOCUMENT_BYTES,
    database::{Class, parsed},
    document::{ImageFacts, Understood},
    image,
};

/// Words with a grammar.
struct Words {
    table: &'static str,
    /// How a row is named.
    key: &'static str,
    /// The words, as SQL.
    value: &'static str,
    problem: fn(&str) -> Option<String>,
    /// Makes the row `?1` right again where the other rows tell how; else nothing.
    mend: Option<&'static str>,
}

const TAG_DIGEST: &str = "
UPDATE tags SET (digest, media_type, size) = (SELECT b.digest, b.media_type, b.size
    FROM blob_refs JOIN blobs b ON b.digest = parent WHERE child = image_id ORDER BY 1 LIMIT 1)
WHERE reference = ?1 AND image_id IN (SELECT child FROM blob_refs JOIN blobs ON digest = parent
    WHERE media_type IS NOT NULL)";

const TAG_IMAGE: &str = "
UPDATE tags SET image_id = (SELECT child FROM blob_refs JOIN images ON id = child
    WHERE parent = digest)
WHERE reference = ?1 AND digest IN (SELECT parent FROM blob_refs JOIN images ON id = child)";

const fn words(table: &'static str, key: &'static str, value: &'static str) -> Words {
    Words { table, key, value, problem: digest_problem, mend: None }
}

/// Owners of parts come before their parts.
const WORDS: [Words; 12] = [
    Words { problem: reference_problem, ..words("tags", "reference", "reference") },
    Words { mend: Some(TAG_DIGEST), ..words("tags", "reference", "digest") },
    Words { mend: Some(TAG_IMAGE), ..words("tags", "reference", "image_id") },
    words("untagged", "digest", "digest"),
    words("untagged", "digest", "image_id"),
    Words {
        problem: reference_problem,
        ..words("repo_digests", "repository || '@' || digest", "repository || '@' || digest")
    },
    words("repo_digests", "repository || '@' || digest", "image_id"),
    words("blobs", "digest", "digest"),
    words("layers", "diff_id", "diff_id"),
    words("images", "id", "id"),
    words("image_layers", "image_id || ' ' || position", "diff_id"),
    words("tree_layers", "tree_id || ' ' || position", "diff_id"),
];

fn digest_problem(text: &str) -> Option<String> {
    text.parse::<Digest>().err().map(|error| error.to_string())
}

fn reference_problem(text: &str) -> Option<String> {
    text.parse::<Reference>().err().map(|error| error.to_string())
}

impl Store {
    /// Names rows that cannot be read, and parts whose owner is gone; `false` when the first are
    /// still there, so that nothing more can be asked.
    pub(super) fn check_rows(
        &self,
        options: &CheckOptions<'_>,
        report: &mut CheckReport,
    ) -> Result<bool, StoreError> {
        let sql = |e| self.database.error("check the rows", e);
        let mut is_readable = true;
        for words in &WORDS {
            for (key, problem) in
                self.database.read("check the rows", |c| malformed(c, words).map_err(sql))?
            {
                let subject = format!("{} {key}", words.table);
                let mut fault = Fault::new(FaultKind::RowDamaged, subject, problem);
                is_readable &= options.repair;
                if options.repair {
                    fault.repair = self.repair_words(words, &key)?;
                }
                if let (Repair::Dropped, "tags", Ok(reference)) =
                    (fault.repair, words.table, key.parse())
                {
                    report.dropped_names.push(DroppedName { reference, in_registry: false });
                }
                report.faults.push(fault);
            }
        }
        self.check_owners(options, report)?;
        Ok(is_readable)
    }

    fn repair_words(&self, words: &Words, key: &str) -> Result<Repair, StoreError> {
        let sql = |e| self.database.error("mend a row", e);
        self.database.write(Class::Full, "mend a row", |tx| {
            let mended = words.mend.map_or(Ok(0), |mend| tx.execute(mend, [key])).map_err(sql)?;
            if mended > 0 {
                return Ok(Repair::Rebuilt);
            }
            let drop = format!("DELETE FROM {} WHERE {} = ?1", words.table, words.key);
            tx.execute(&drop, [key]).map_err(sql)?;
            Ok(Repair::Dropped)
        })
    }

    /// Parts that would have gone with their owner and are in the way of a new one.
    fn check_owners(
        &self,
        options: &CheckOptions<'_>,
        report: &mut CheckReport,
    ) -> Result<(), StoreError> {
        let sql = |e| self.database.error("check the rows", e);
        let lost = self.database.read("check the rows", |c| ownerless(c).map_err(sql))?;
        for Ownerless { table, parent, goes, count, condition } in lost {
            let detail = format!("{count} of them name none of the {parent}");
            let mut fault = Fault::new(FaultKind::RowDamaged, table.clone(), detail);
            if options.repair && goes {
                self.database.write(Class::Full, "mend the rows", |tx| {
                    tx.execute(&format!("DELETE FROM {table} WHERE {condition}"), []).map_err(sql)
                })?;
                fault.repair = Repair::Dropped;
            }
            report.faults.push(fault);
        }
        Ok(())
    }

    /// Compares what manifests and indexes name with their rows, by which garbage is told.
    pub(super) fn check_reference_rows(
        &self,
        options: &CheckOptions<'_>,
        report: &mut CheckReport,
    ) -> Result<(), StoreError> {
        let sql = |e| self.database.error("check what documents name", e);
        let documents =
            self.database.read("check what documents name", |c| committed(c).map_err(sql))?;
        for (digest, media_type) in documents {
            // Of a blob that cannot be read another fault tells.
            let Ok(bytes) = self.read_blob(&digest, MAX_DOCUMENT_BYTES) else { continue };
            let document = StoredDocument { bytes, media_type, digest };
            let Ok(document) = document.understand() else { continue };
            let lacks = |c: &Connection| lacks_references(c, &document);
            if !self.database.snapshot("check what documents name", |c| lacks(c).map_err(sql))? {
                continue;
            }
            let detail = "the database lacks what it names".to_owned();
            let subject = format!("blob_refs {digest}");
            let mut fault = Fault::new(FaultKind::RowDamaged, subject, detail);
            if options.repair {
                self.database.write(Class::Full, "mend what a document names", |tx| {
                    self.record_document(tx, &document)
                })?;
                fault.repair = Repair::Rebuilt;
            }
            report.faults.push(fault);
        }
        Ok(())
    }

    /// Compares images with their configs, which were read and found right before.
    pub(super) fn check_image_rows(
        &self,
        options: &CheckOptions<'_>,
        report: &mut CheckReport,
    ) -> Result<(), StoreError> {
        let sql = |e| self.database.error("check the images", e);
        let ids = self.database.read("check the images", |c| with_config(c).map_err(sql))?;
        for id in ids {
            // Of a blob that cannot be read another fault tells.
            let Ok(bytes) = self.read_blob(&id.digest(), MAX_DOCUMENT_BYTES) else { continue };
            let digest = id.digest();
            let document = StoredDocument { bytes, media_type: MediaType::OCI_CONFIG, digest };
            let Ok(config) = document.understand() else { continue };
            let problem = self
                .database
                .snapshot("check the images", |c| contradiction(c, &id, &config).map_err(sql))?;
            let Some(problem) = problem else { continue };
            let subject = format!("images {id}");
            let mut fault = Fault::new(FaultKind::RowDamaged, subject, problem.to_owned());
            if options.repair {
                self.database.write(Class::Full, "mend an image", |tx| {
                    self.record_again(tx, &id, &config)
                })?;
                fault.repair = Repair::Rebuilt;
            }
            report.faults.push(fault);
        }
        Ok(())
    }

    fn record_again(
        &self,
        tx: &Transaction<'_>,
        id: &ImageId,
        config: &Understood,
    ) -> Result<(), StoreError> {
        let sql = |e| self.database.error("mend an image", e);
        let key = id.to_string();
        let stored: Option<i64> = tx
            .query_row("SELECT stored FROM images WHERE id = ?", [&key], |row| row.get(0))
            .optional()
            .map_err(sql)?;
        tx.execute("DELETE FROM images WHERE id = ?", [&key]).map_err(sql)?;
        self.record_document(tx, config)?;
        if let Some(stored) = stored {
            tx.execute("UPDATE images SET stored = ? WHERE id = ?", params![stored, key])
                .map_err(sql)?;
        }
        Ok(())
    }

    /// A layer of which all was found, and whose row says otherwise.
    pub(super) fn mark_full(&self, diff_id: &str) -> Result<(), StoreError> {
        let sql = |e| self.database.error("mend a layer's row", e);
        self.database.write(Class::Full, "mend a layer's row", |tx| {
            tx.execute("UPDATE layers SET presence = 'full' WHERE diff_id = ?", [diff_id])
                .map(drop)
                .map_err(sql)
        })
    }
}

fn malformed(c: &Connection, words: &Words) -> rusqlite::Result<Vec<(String, String)>> {
    let Words { table, key, value, problem, .. } = words;
    let mut found = Vec::new();
    let query = format!("SELECT {key}, {value} FROM {table} WHERE {value} IS NOT NULL");
    let mut statement = c.prepare(&query)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(problem) = problem(row.get_ref(1)?.as_str()?) {
            found.push((row.get(0)?, problem));
        }
    }
    Ok(found)
}

struct Ownerless {
    table: String,
    parent: String,
    /// Whether the database itself would have removed them with their owner.
    goes: bool,
    count: i64,
    condition: String,
}

fn ownerless(c: &Connection) -> rusqlite::Result<Vec<Ownerless>> {
    let mut statement = c.prepare(
        r#"SELECT v."table", v.parent, l."from", l."to", l.on_delete, COUNT(*)
           FROM pragma_foreign_key_check v JOIN pragma_foreign_key_list(v."table") l
             ON l.id = v.fkid GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"#,
    )?;
    let rows = statement.query_map([], |row| {
        let (parent, from, to): (String, String, String) = (row.get(1)?, row.get(2)?, row.get(3)?);
        Ok(Ownerless {
            table: row.get(0)?,
            condition: format!("{from} NOT IN (SELECT {to} FROM {parent})"),
            goes: row.get_ref(4)?.as_str()? == "CASCADE",
            count: row.get(5)?,
            parent,
        })
    })?;
    rows.collect()
}

/// Manifests and indexes of committed images; before its commit one has no references yet.
fn committed(c: &Connection) -> rusqlite::Result<Vec<(Digest, MediaType)>> {
    let mut statement = c.prepare(
        "SELECT digest, media_type FROM blobs
         WHERE media_type IS NOT NULL AND durable_boot IS NULL",
    )?;
    let rows = statement.query_map([], |row| {
        let media_type: String = row.get(1)?;
        Ok((parsed(row, 0)?, MediaType::new(media_type)))
    })?;
    let is_kept =
        |(_, media_type): &(_, MediaType)| media_type.is_manifest() || media_type.is_index();
    rows.filter(|row| row.as_ref().map_or(true, is_kept)).collect()
}

/// Whether a document that is still here names more than its rows.
fn lacks_references(c: &Connection, document: &Understood) -> rusqlite::Result<bool> {
    let parent = document.digest.to_string();
    let known: HashSet<String> = c
        .prepare_cached("SELECT child FROM blob_refs WHERE parent = ?")?
        .query_map([&parent], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    if document.refs.iter().all(|child| known.contains(&child.to_string())) {
        return Ok(false);
    }
    // What another command removes meanwhile is not missed.
    c.prepare_cached("SELECT 1 FROM blobs WHERE digest = ?")?.exists([&parent])
}

/// Images that something names or that are recorded, and whose config is here.
fn with_config(c: &Connection) -> rusqlite::Result<Vec<ImageId>> {
    c.prepare_cached(
        "SELECT digest FROM blobs WHERE digest IN (SELECT id FROM images
             UNION SELECT image_id FROM tags UNION SELECT image_id FROM untagged
             UNION SELECT image_id FROM repo_digests UNION SELECT image_id FROM containers)
         ORDER BY digest",
    )?
    .query_map([], |row| parsed(row, 0))?
    .collect()
}

/// In what an image's rows differ from its config.
fn contradiction(
    c: &Connection,
    id: &ImageId,
    config: &Understood,
) -> rusqlite::Result<Option<&'static str>> {
    let Some(config) = &config.config else { return Ok(None) };
    Ok(match ImageFacts::find(c, id)? {
        // What another command removes meanwhile is not missed.
        None if !with_config(c)?.contains(id) => None,
        None => Some("is not there"),
        Some(facts) if facts != ImageFacts::of(config) => Some("is not what its config says"),
        Some(_) if image::layers_of(c, id)? != config.rootfs.diff_ids => {
            Some("has other layers than its config")
        }
        Some(_) => None,
    })
}
