//! `system check`: reads everything again, names what is wrong, and mends what can be mended.
//!
//! Repair removes only what was read and found wrong, and what cannot be used without it; content
//! that can be made from healthy content (trees, tables) is made again.

use std::{io, path::Path};

use davit_image::{Digest, Digester, Reference};
use fs_err as fs;

use crate::{
    BlobRecord, LayerRow, Partials, Presence, Store, StoreError, TreeForm, TreeRow, blob,
    database::{Class, parsed_option},
    durable,
    format::random_hex,
    layer,
};

/// What is wrong with something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// The database's own check fails.
    DatabaseDamaged,
    /// A blob's file is not there.
    BlobMissing,
    /// A blob's file has another size than its row says.
    BlobSize,
    /// A blob's bytes have another digest.
    BlobDigest,
    /// The medium cannot read a blob.
    BlobUnreadable,
    /// A layer's tar is not there.
    TarMissing,
    /// A layer's tar has another size than its row says.
    TarSize,
    /// A layer's tar has another digest than the DiffID.
    TarDigest,
    /// The medium cannot read a layer's tar.
    TarUnreadable,
    /// A layer's table is not there.
    TableMissing,
    /// A layer's table differs from what was written.
    TableDamaged,
    /// A tree's file is not there or has another size.
    TreeDamaged,
    /// A tag or untagged image names a manifest that is not there.
    ManifestMissing,
    /// An image's config is not there.
    ConfigMissing,
    /// A layer of an image is not there.
    ImageLayerMissing,
    /// A layer that a container stands on is not there.
    ContainerLayerMissing,
    /// A volume's directory is not there.
    VolumeMissing,
}

/// What was done about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Nothing: no repair was asked for, or only the user can decide.
    Nothing,
    /// The row and what is left of the content were removed.
    Dropped,
    /// The content was made again from healthy content.
    Rebuilt,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub kind: FaultKind,
    /// Digest, id or name of the thing.
    pub subject: String,
    /// More facts for the reader.
    pub detail: String,
    /// What was done about it.
    pub repair: Repair,
}

/// Makes the table of a tar again: reads the first path, writes the second, yields the number of
/// entries.
pub type RebuildTable<'a> =
    &'a (dyn Fn(&Path, &Path) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> + Sync);

/// How to check.
#[derive(Clone, Copy, Default)]
pub struct CheckOptions<'a> {
    /// Mend what is found.
    pub repair: bool,
    /// Makes tables again; without it a layer with a damaged table is dropped.
    pub rebuild_table: Option<RebuildTable<'a>>,
}

impl std::fmt::Debug for CheckOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckOptions")
            .field("repair", &self.repair)
            .field("rebuild_table", &self.rebuild_table.is_some())
            .finish()
    }
}

/// What a check read and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Blobs read.
    pub blobs: u64,
    /// Layers read.
    pub layers: u64,
    /// Trees looked at.
    pub trees: u64,
    /// Images looked at.
    pub images: u64,
    /// Bytes digested.
    pub bytes: u64,
    /// Leftovers of killed processes, which are removed in any case.
    pub leftovers: u64,
    /// What is wrong.
    pub faults: Vec<Fault>,
    /// Names that repair removed with their images; a pull brings them back.
    pub dropped_names: Vec<Reference>,
}

impl CheckReport {
    /// Faults that are still there.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.faults.iter().filter(|fault| fault.repair == Repair::Nothing).count()
    }
}

impl Store {
    /// Reads everything again. Safe beside other commands: what they remove meanwhile is no fault.
    ///
    /// # Errors
    /// When the check itself cannot be done.
    pub fn check(&self, options: &CheckOptions<'_>) -> Result<CheckReport, StoreError> {
        let mut report = CheckReport::default();
        let swept = self.sweep_orphans(Partials::Old)?;
        report.leftovers = swept.unfinished + swept.orphans;
        self.check_database(&mut report)?;
        if !report.faults.is_empty() {
            // What a damaged database says about the rest is worth nothing.
            return Ok(report);
        }
        self.check_blobs(options, &mut report)?;
        self.check_layers(options, &mut report)?;
        self.check_trees(options, &mut report)?;
        self.check_volumes(&mut report)?;
        self.check_images(options, &mut report)?;
        Ok(report)
    }

    fn check_database(&self, report: &mut CheckReport) -> Result<(), StoreError> {
        let sql = |e| self.database.error("check the database", e);
        let problems: Vec<String> = self.database.read("check the database", |c| {
            let mut statement = c.prepare("PRAGMA integrity_check(20)").map_err(sql)?;
            let rows = statement.query_map([], |row| row.get(0)).map_err(sql)?;
            Ok(rows.map(|row| row.unwrap_or_else(|error| error.to_string())).collect())
        })?;
        for detail in problems.into_iter().filter(|line| line != "ok") {
            let subject = self.layout().database().display().to_string();
            report.faults.push(Fault::new(FaultKind::DatabaseDamaged, subject, detail));
        }
        Ok(())
    }

    fn check_blobs(
        &self,
        options: &CheckOptions<'_>,
        report: &mut CheckReport,
    ) -> Result<(), StoreError> {
        for record in blob::all(&self.database)? {
            report.blobs += 1;
            report.bytes += record.size;
            let Some(mut fault) = self.verify_blob(&record)? else { continue };
            if self.blob(&record.digest)?.is_none() {
                continue;
            }
            if options.repair {
                self.drop_blobs(&[record.digest])?;
                fault.repair = Repair::Dropped;
            }
            report.faults.push(fault);
        }
        Ok(())
    }

    fn check_layers(
        &self,
        options: &CheckOptions<'_>,
        report: &mut CheckReport,
    ) -> Result<(), StoreError> {
        for row in layer::all(&self.database)? {
            report.layers += 1;
            report.bytes += row.tar_size;
            let mut faults = self.verify_layer(&row)?;
            if faults.is_empty() || self.layer(&row.diff_id)?.is_none() {
                continue;
            }
            if options.repair {
                let repair = self.repair_layer(options, &row, &faults)?;
                faults.iter_mut().for_each(|fault| fault.repair = repair);
            }
            report.faults.extend(faults);
        }
        Ok(())
    }

    fn repair_layer(
        &self,
        options: &CheckOptions<'_>,
        row: &LayerRow,
        faults: &[Fault],
    ) -> Result<Repair, StoreError> {
        let only_table = faults
            .iter()
            .all(|fault| matches!(fault.kind, FaultKind::TableMissing | FaultKind::TableDamaged));
        if let (true, Some(rebuild)) = (only_table, options.rebuild_table)
            && self.rebuild_table(row, rebuild)?
        {
            return Ok(Repair::Rebuilt);
        }
        self.drop_layers(&[row.diff_id])?;
        Ok(Repair::Dropped)
    }

    /// Writes a new table beside the verified tar; `false` when the tar's reader refuses.
    fn rebuild_table(&self, row: &LayerRow, rebuild: RebuildTable<'_>) -> Result<bool, StoreError> {
        let tar = self.layout().layer_tar(&row.diff_id);
        let temp = self.layout().tmp().join(format!("table-{}", random_hex(8)));
        let entries = match rebuild(&tar, &temp) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::info!(diff_id = %row.diff_id, %error, "its table cannot be made again");
                crate::sweep::remove_any(&temp)?;
                return Ok(false);
            }
        };
        let (table_size, table_crc32c) = layer::checksum(&temp)?;
        rustix::fs::chmod(&temp, rustix::fs::Mode::RUSR)
            .map_err(|e| StoreError::io("protect", &temp, e))?;
        durable::sync_file(&temp)?;
        let target = self.layout().layer_table(&row.diff_id);
        self.database.write(Class::Full, "record a table", |tx| {
            fs::rename(&temp, &target).map_err(|e| StoreError::io("rename to", &target, e))?;
            durable::sync_dir(&self.layout().layer(&row.diff_id))?;
            tx.execute(
                "UPDATE layers SET table_size = ?, table_crc32c = ?, entries = ? WHERE diff_id = ?",
                rusqlite::params![
                    crate::database::to_sql_size(table_size),
                    table_crc32c,
                    crate::database::to_sql_size(entries),
                    row.diff_id.to_string()
                ],
            )
            .map_err(|e| self.database.error("record a table", e))
        })?;
        // Trees were made from the table that is gone.
        for tree in self.trees()?.iter().filter(|tree| tree.layers.contains(&row.diff_id)) {
            self.drop_tree(&tree.id)?;
        }
        Ok(true)
    }

    fn check_trees(
        &self,
        options: &CheckOptions<'_>,
        report: &mut CheckReport,
    ) -> Result<(), StoreError> {
        for tree in self.trees()? {
            report.trees += 1;
            let Some(mut fault) = self.verify_tree(&tree) else { continue };
            if self.tree(&tree.id)?.is_none() {
                continue;
            }
            if options.repair {
                self.drop_tree(&tree.id)?;
                fault.repair = Repair::Dropped;
            }
            report.faults.push(fault);
        }
        Ok(())
    }

    fn verify_tree(&self, tree: &TreeRow) -> Option<Fault> {
        let (path, extracted) = match tree.form {
            TreeForm::Extracted => (self.layout().extracted(&tree.id), true),
            _ => (self.layout().tree(&tree.id), false),
        };
        let detail = match fs::symlink_metadata(&path) {
            Ok(facts) if extracted && facts.is_dir() => return None,
            Ok(facts) if !extracted && facts.len() == tree.size => return None,
            Ok(facts) => format!("has {} bytes, expected {}", facts.len(), tree.size),
            Err(error) => error.to_string(),
        };
        Some(Fault::new(FaultKind::TreeDamaged, tree.id.clone(), detail))
    }

    fn check_volumes(&self, report: &mut CheckReport) -> Result<(), StoreError> {
        for row in self.volumes()? {
            let data = self.layout().volume_data(&row.volume.name);
            if row.volume.driver == "local" && !data.is_dir() {
                let detail = format!("{} is not there", data.display());
                report.faults.push(Fault::new(FaultKind::VolumeMissing, row.volume.name, detail));
            }
        }
        Ok(())
    }

    /// Looks for names that lead nowhere; after the content, so that what repair dropped shows.
    fn check_images(
        &self,
        options: &CheckOptions<'_>,
        report: &mut CheckReport,
    ) -> Result<(), StoreError> {
        let broken = self.broken_targets()?;
        report.images = self.images()?.len() as u64;
        for target in broken {
            let mut fault = Fault::new(target.kind, target.name(), target.detail);
            if options.repair && target.kind != FaultKind::ContainerLayerMissing {
                self.drop_target(&target.digest)?;
                report.dropped_names.extend(target.reference);
                fault.repair = Repair::Dropped;
            }
            report.faults.push(fault);
        }
        Ok(())
    }

    fn drop_target(&self, digest: &str) -> Result<(), StoreError> {
        let sql = |e| self.database.error("drop an image", e);
        self.database.write(Class::Full, "drop an image", |tx| {
            tx.execute("DELETE FROM tags WHERE digest = ?", [digest]).map_err(sql)?;
            tx.execute("DELETE FROM untagged WHERE digest = ?", [digest]).map_err(sql)?;
            tx.execute("DELETE FROM repo_digests WHERE digest = ?", [digest]).map_err(sql)?;
            Ok(())
        })
    }

    fn broken_targets(&self) -> Result<Vec<Broken>, StoreError> {
        let sql = |e| self.database.error("check the images", e);
        self.database.snapshot("check the images", |c| {
            let mut statement = c.prepare(BROKEN).map_err(sql)?;
            let rows = statement
                .query_map([], |row| {
                    let kind = match row.get_ref(0)?.as_str()? {
                        "manifest" => FaultKind::ManifestMissing,
                        "config" => FaultKind::ConfigMissing,
                        "layer" => FaultKind::ImageLayerMissing,
                        _ => FaultKind::ContainerLayerMissing,
                    };
                    Ok(Broken {
                        kind,
                        digest: row.get(1)?,
                        reference: parsed_option(row, 2)?,
                        detail: format!("{} is not there", row.get_ref(3)?.as_str()?),
                    })
                })
                .map_err(sql)?;
            rows.collect::<Result<_, _>>().map_err(sql)
        })
    }

    /// Reads a layer again; an empty list means that all is well.
    pub(crate) fn verify_layer(&self, row: &LayerRow) -> Result<Vec<Fault>, StoreError> {
        let mut faults = Vec::new();
        let subject = row.diff_id.to_string();
        if row.presence == Presence::Full {
            let expected = (row.diff_id.digest(), row.tar_size);
            if let Some((what, detail)) = examine(&self.layout().layer_tar(&row.diff_id), expected)
            {
                let kind = match what {
                    Wrong::Missing => FaultKind::TarMissing,
                    Wrong::Size => FaultKind::TarSize,
                    Wrong::Digest => FaultKind::TarDigest,
                    Wrong::Unreadable => FaultKind::TarUnreadable,
                };
                faults.push(Fault::new(kind, subject.clone(), detail));
            }
        }
        let table = self.layout().layer_table(&row.diff_id);
        match layer::checksum(&table) {
            Ok(found) if found == (row.table_size, row.table_crc32c) => {}
            Ok(_) => {
                let detail = "differs from what was written".to_owned();
                faults.push(Fault::new(FaultKind::TableDamaged, subject, detail));
            }
            Err(error) => {
                let kind = match table.symlink_metadata() {
                    Ok(_) => FaultKind::TableDamaged,
                    Err(_) => FaultKind::TableMissing,
                };
                faults.push(Fault::new(kind, subject, error.to_string()));
            }
        }
        Ok(faults)
    }

    /// Reads a blob again.
    pub(crate) fn verify_blob(&self, record: &BlobRecord) -> Result<Option<Fault>, StoreError> {
        let found = examine(&self.layout().blob(&record.digest), (record.digest, record.size));
        Ok(found.map(|(what, detail)| {
            let kind = match what {
                Wrong::Missing => FaultKind::BlobMissing,
                Wrong::Size => FaultKind::BlobSize,
                Wrong::Digest => FaultKind::BlobDigest,
                Wrong::Unreadable => FaultKind::BlobUnreadable,
            };
            Fault::new(kind, record.digest.to_string(), detail)
        }))
    }
}

const BROKEN: &str = "
WITH names(digest, reference, image_id) AS (
    SELECT digest, reference, image_id FROM tags
    UNION ALL SELECT digest, NULL, image_id FROM untagged
    UNION ALL SELECT digest, NULL, image_id FROM repo_digests
)
SELECT 'manifest', digest, reference, digest FROM names WHERE digest NOT IN (SELECT digest FROM blobs)
UNION SELECT 'config', digest, reference, image_id FROM names WHERE image_id IS NOT NULL
    AND (image_id NOT IN (SELECT digest FROM blobs) OR image_id NOT IN (SELECT id FROM images))
UNION SELECT 'layer', digest, reference, diff_id FROM names JOIN image_layers USING (image_id)
    WHERE diff_id NOT IN (SELECT diff_id FROM layers)
UNION SELECT 'container', c.id, NULL, il.diff_id FROM containers c JOIN image_layers il
    ON il.image_id = c.image_id WHERE il.diff_id NOT IN (SELECT diff_id FROM layers)
ORDER BY 2, 1, 4";

struct Broken {
    kind: FaultKind,
    digest: String,
    reference: Option<Reference>,
    detail: String,
}

impl Broken {
    fn name(&self) -> String {
        self.reference.as_ref().map_or_else(|| self.digest.clone(), Reference::familiar)
    }
}

enum Wrong {
    Missing,
    Size,
    Digest,
    Unreadable,
}

fn examine(path: &Path, (digest, size_bytes): (Digest, u64)) -> Option<(Wrong, String)> {
    let mut file = match fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Some((Wrong::Missing, e.to_string()));
        }
        Err(e) => return Some((Wrong::Unreadable, e.to_string())),
    };
    let actual = file.metadata().map_or(0, |facts| facts.len());
    if actual != size_bytes {
        return Some((Wrong::Size, format!("has {actual} bytes, expected {size_bytes}")));
    }
    let mut digester = Digester::new(digest.algorithm());
    if let Err(error) = blob::digest_stream(&mut file, path, &mut digester) {
        return Some((Wrong::Unreadable, error.to_string()));
    }
    let actual = digester.finish();
    (actual != digest).then(|| (Wrong::Digest, format!("has digest {actual}")))
}

impl Fault {
    const fn new(kind: FaultKind, subject: String, detail: String) -> Self {
        Self { kind, subject, detail, repair: Repair::Nothing }
    }
}
