//! Mending: broken content goes, then comes back from where it can be had.
//!
//! While it lasts, a lease keeps everything else: a manifest that has gone must not cost the
//! healthy layers below it.

use std::{collections::BTreeSet, path::Path};

use davit_image::{DiffId, Digest, ImageId, Platform, Reference};
use fs_err as fs;
use rusqlite::{Connection, params};

use super::{CheckOptions, CheckReport, DroppedName, Fault, FaultKind, Repair, Unrestored};
use crate::{
    LayerRow, Lease, Store, StoreError, Target,
    database::{Class, parsed, parsed_option, to_sql_size},
    durable,
    format::random_hex,
    image, layer,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Reads the table at the path by its format's rules.
pub type CheckTable<'a> = &'a (dyn Fn(&Path) -> Result<(), Failure> + Sync);

/// Makes the table of a layer again: reads the tar at the first path, writes the second, yields
/// the number of entries. The tar was read and is the layer's.
pub type RebuildTable<'a> = &'a (dyn Fn(&LayerRow, &Path, &Path) -> Result<u64, Failure> + Sync);

/// Makes an image whole again: what it lacks is written as any other content is. After an error
/// the image is as it was.
pub type Restore<'a> = &'a (dyn Fn(&Lacking) -> Result<(), Failure> + Sync);

/// An image that lacks content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking {
    /// The image.
    pub id: ImageId,
    /// A name of it, or its ID.
    pub name: String,
    /// What it runs on.
    pub platform: Option<Platform>,
    /// Under which digests registries know it.
    pub known: Vec<(Reference, Target)>,
    /// What else leads to it here.
    pub targets: Vec<Target>,
}

impl Store {
    /// Keeps all content from being collected.
    pub(super) fn hold_all(&self) -> Result<Lease<'_>, StoreError> {
        let lease = self.lease("repair")?;
        self.database.write(Class::Normal, "hold everything", |tx| {
            tx.execute(
                "INSERT OR IGNORE INTO lease_items (lease_id, digest)
                 SELECT ?1, digest FROM blobs UNION SELECT ?1, diff_id FROM layers",
                [lease.id()],
            )
            .map_err(|e| self.database.error("hold everything", e))
        })?;
        Ok(lease)
    }

    pub(super) fn repair_layer(
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
        let entries = match rebuild(row, &tar, &temp) {
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
                params![
                    to_sql_size(table_size),
                    table_crc32c,
                    to_sql_size(entries),
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

    /// Brings back what was dropped, now or by a repair that was interrupted.
    pub(super) fn restore(
        &self,
        options: &CheckOptions<'_>,
        report: &mut CheckReport,
    ) -> Result<(), StoreError> {
        let Some(restore) = options.restore else { return Ok(()) };
        let broken = self.broken_targets(options)?;
        let dropped = report.faults.iter().filter(|fault| fault.repair == Repair::Dropped);
        let mut told: BTreeSet<String> = dropped.map(|fault| fault.subject.clone()).collect();
        let lost = broken.iter().filter(|b| b.kind == FaultKind::ImageBlobMissing);
        let gone = told.iter().chain(lost.map(|b| &b.missing)).cloned().collect();
        for image in self.lacking(&gone)? {
            if let Err(error) = restore(&image) {
                let (image, problem) = (image.name, chain(&*error));
                report.unrestored.push(Unrestored { image, problem });
            }
        }
        for fault in report.faults.iter_mut().filter(|f| f.repair == Repair::Dropped) {
            if let Ok(digest) = fault.subject.parse::<Digest>()
                && (self.blob(&digest)?.is_some() || self.layer(&DiffId::new(digest))?.is_some())
            {
                fault.repair = Repair::Restored;
            }
        }
        // What an earlier repair had dropped is a fault of its own.
        let still: BTreeSet<_> =
            self.broken_targets(options)?.into_iter().map(|b| b.missing).collect();
        for target in broken.into_iter().filter(|b| !still.contains(&b.missing)) {
            if told.insert(target.missing.clone()) {
                let mut fault = Fault::new(target.kind, target.name(), target.detail());
                fault.repair = Repair::Restored;
                report.faults.push(fault);
            }
        }
        Ok(())
    }

    /// Images that are not whole, or that name something of `gone`.
    fn lacking(&self, gone: &BTreeSet<String>) -> Result<Vec<Lacking>, StoreError> {
        let sql = |e| self.database.error("find what images lack", e);
        self.database.snapshot("find what images lack", |c| {
            let mut found = Vec::new();
            for id in image_ids(c).map_err(sql)? {
                let image = lacking(c, id).map_err(sql)?;
                if is_lacking(c, &image, gone).map_err(sql)? {
                    found.push(image);
                }
            }
            Ok(found)
        })
    }

    /// Looks for names that lead nowhere; after the content, so that what repair dropped shows.
    pub(super) fn check_images(
        &self,
        options: &CheckOptions<'_>,
        report: &mut CheckReport,
    ) -> Result<(), StoreError> {
        let broken = self.broken_targets(options)?;
        report.images = self.images()?.len() as u64;
        let mut dropped = BTreeSet::new();
        let (lost, broken): (Vec<_>, Vec<_>) =
            broken.into_iter().partition(|b| b.kind == FaultKind::ImageBlobMissing);
        for target in broken {
            let mut fault = Fault::new(target.kind, target.name(), target.detail());
            if options.repair && target.kind != FaultKind::ContainerLayerMissing {
                self.drop_target(&target.digest)?;
                fault.repair = Repair::Dropped;
                let in_registry = target.in_registry;
                let name = target.reference.map(|reference| DroppedName { reference, in_registry });
                if name.as_ref().is_some_and(|name| !report.dropped_names.contains(name)) {
                    report.dropped_names.extend(name);
                }
                dropped.insert(target.digest);
            }
            report.faults.push(fault);
        }
        // These images still run; that a blob of theirs was dropped just now does not mend them.
        for target in lost.into_iter().filter(|target| !dropped.contains(&target.digest)) {
            match report.faults.iter_mut().find(|fault| fault.subject == target.missing) {
                Some(known) => known.repair = Repair::Nothing,
                None => {
                    let (name, detail) = (target.name(), target.detail());
                    report.faults.push(Fault::new(target.kind, name, detail));
                }
            }
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

    fn broken_targets(&self, options: &CheckOptions<'_>) -> Result<Vec<Broken>, StoreError> {
        let sql = |e| self.database.error("check the images", e);
        self.database.snapshot("check the images", |c| {
            let mut statement = c.prepare(BROKEN).map_err(sql)?;
            let rows = statement.query_map([options.keeps_blobs], broken_of_row).map_err(sql)?;
            rows.collect::<Result<_, _>>().map_err(sql)
        })
    }
}

const BROKEN: &str = "
WITH RECURSIVE names(digest, reference, image_id) AS (
    SELECT digest, reference, image_id FROM tags
    UNION ALL SELECT digest, NULL, image_id FROM untagged
    UNION ALL SELECT digest, NULL, image_id FROM repo_digests
), above(missing, digest) AS (
    SELECT digest, digest FROM layer_blobs
        WHERE ?1 AND lost = 1 AND digest NOT IN (SELECT digest FROM blobs)
    UNION SELECT missing, parent FROM blob_refs JOIN above ON child = above.digest
), broken(kind, digest, reference, missing, image_id) AS (
SELECT 'manifest', digest, reference, digest, image_id FROM names
    WHERE digest NOT IN (SELECT digest FROM blobs)
UNION SELECT 'config', digest, reference, image_id, image_id FROM names WHERE image_id IS NOT NULL
    AND image_id NOT IN (SELECT digest FROM blobs)
UNION SELECT 'layer', digest, reference, diff_id, image_id
    FROM names JOIN image_layers USING (image_id)
    WHERE diff_id NOT IN (SELECT diff_id FROM layers)
UNION SELECT 'blob', digest, reference, missing, image_id FROM above JOIN
    (SELECT digest, reference, image_id FROM tags
     UNION ALL SELECT digest, NULL, image_id FROM untagged) USING (digest)
UNION SELECT 'container', c.id, NULL, il.diff_id, c.image_id FROM containers c JOIN image_layers il
    ON il.image_id = c.image_id WHERE il.diff_id NOT IN (SELECT diff_id FROM layers)
)
SELECT kind, digest, reference, missing,
    EXISTS (SELECT 1 FROM repo_digests r WHERE r.image_id = broken.image_id)
FROM broken ORDER BY digest, kind, missing, reference";

/// Something that leads nowhere.
struct Broken {
    kind: FaultKind,
    digest: String,
    reference: Option<Reference>,
    missing: String,
    in_registry: bool,
}

impl Broken {
    fn name(&self) -> String {
        self.reference.as_ref().map_or_else(|| self.digest.clone(), Reference::familiar)
    }

    fn detail(&self) -> String {
        format!("{} is not there", self.missing)
    }
}

fn broken_of_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Broken> {
    let kind = match row.get_ref(0)?.as_str()? {
        "manifest" => FaultKind::ManifestMissing,
        "config" => FaultKind::ConfigMissing,
        "layer" => FaultKind::ImageLayerMissing,
        "blob" => FaultKind::ImageBlobMissing,
        _ => FaultKind::ContainerLayerMissing,
    };
    Ok(Broken {
        kind,
        digest: row.get(1)?,
        reference: parsed_option(row, 2)?,
        missing: row.get(3)?,
        in_registry: row.get(4)?,
    })
}

fn image_ids(c: &Connection) -> rusqlite::Result<Vec<ImageId>> {
    c.prepare("SELECT id FROM images ORDER BY id")?.query_map([], |row| parsed(row, 0))?.collect()
}

fn lacking(c: &Connection, id: ImageId) -> rusqlite::Result<Lacking> {
    let image = image::row_of_image(c, &id)?;
    let platform = image.as_ref().map(|image| image.platform.clone());
    let targets: Vec<Target> =
        image.iter().flat_map(|image| &image.targets).map(|(target, _)| target.clone()).collect();
    let name = image
        .iter()
        .flat_map(|image| image.targets.iter().flat_map(|(_, names)| names))
        .map(Reference::familiar)
        .next();
    Ok(Lacking {
        id,
        name: name.unwrap_or_else(|| id.to_string()),
        platform: platform.filter(|platform| !platform.os.is_empty()),
        known: image::repo_targets(c, &id)?,
        targets,
    })
}

fn is_lacking(c: &Connection, image: &Lacking, gone: &BTreeSet<String>) -> rusqlite::Result<bool> {
    let incomplete: bool = c
        .prepare_cached(
            "SELECT ?1 NOT IN (SELECT digest FROM blobs) OR EXISTS (SELECT 1 FROM image_layers
               WHERE image_id = ?1 AND diff_id NOT IN (SELECT diff_id FROM layers))",
        )?
        .query_row([image.id.to_string()], |row| row.get(0))?;
    if incomplete {
        return Ok(true);
    }
    let targets = image.known.iter().map(|(_, target)| target).chain(&image.targets);
    for target in targets {
        let mut below = c.prepare_cached(
            "WITH RECURSIVE below(digest) AS (VALUES (?1) UNION
             SELECT child FROM blob_refs JOIN below ON parent = below.digest)
             SELECT digest FROM below",
        )?;
        let mut rows = below.query([target.digest.to_string()])?;
        while let Some(row) = rows.next()? {
            if gone.contains(row.get_ref(0)?.as_str()?) {
                return Ok(true);
            }
        }
        let known: bool = c
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM blobs WHERE digest = ?)")?
            .query_row([target.digest.to_string()], |row| row.get(0))?;
        if !known {
            return Ok(true);
        }
    }
    Ok(false)
}

/// An error with all its causes, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
