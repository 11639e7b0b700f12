//! `system check`: reads everything again, names what is wrong, and mends what can be mended.
//!
//! Repair ([`repair`]) removes only what was read and found wrong. What can be made from healthy
//! content (tables, trees, a layer of its blob) is made again, what a registry is known to have is
//! fetched; only a name that still leads nowhere goes.

mod referrers;
mod repair;
mod rows;

use std::{io, path::Path};

use davit_image::{ChainId, Digest, Digester, Reference};
use fs_err as fs;

use crate::{
    BlobRecord, BootId, LayerRow, Partials, Presence, Store, StoreError, TreeForm, TreeRow, blob,
    layer, regular, tree,
};

pub use repair::{CheckTable, Lacking, RebuildTable, Restore};

/// What is wrong with something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// The database's own check fails.
    DatabaseDamaged,
    /// A row cannot be read, has lost its owner, or contradicts the content it was made of.
    RowDamaged,
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
    /// A layer's table differs from what was written, or breaks a rule of its format.
    TableDamaged,
    /// A tree's file is not there or has another size.
    TreeDamaged,
    /// A tag or untagged image names a manifest that is not there.
    ManifestMissing,
    /// An image's config is not there.
    ConfigMissing,
    /// A layer of an image is not there.
    ImageLayerMissing,
    /// A layer of an image is there, but no longer in the compressed form that was kept.
    ImageBlobMissing,
    /// A layer that a container stands on is not there.
    ContainerLayerMissing,
    /// A volume's directory is not there.
    VolumeMissing,
}

/// In plain words, to be followed by the subject.
impl std::fmt::Display for FaultKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::DatabaseDamaged => "damaged database",
            Self::RowDamaged => "damaged row in",
            Self::BlobMissing => "missing blob",
            Self::BlobSize | Self::BlobDigest => "damaged blob",
            Self::BlobUnreadable => "unreadable blob",
            Self::TarMissing => "missing layer",
            Self::TarSize | Self::TarDigest => "damaged layer",
            Self::TarUnreadable => "unreadable layer",
            Self::TableMissing => "missing table of layer",
            Self::TableDamaged => "damaged table of layer",
            Self::TreeDamaged => "damaged tree",
            Self::ManifestMissing => "image without its manifest",
            Self::ConfigMissing => "image without its config",
            Self::ImageLayerMissing => "image without a layer",
            Self::ImageBlobMissing => "image without a compressed layer",
            Self::ContainerLayerMissing => "container without a layer",
            Self::VolumeMissing => "missing volume",
        })
    }
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
    /// The content was brought here again.
    Restored,
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

/// How to check.
#[derive(Clone, Copy, Default)]
pub struct CheckOptions<'a> {
    /// Mend what is found.
    pub repair: bool,
    /// Says what is wrong with a table that is as it was written.
    pub check_table: Option<CheckTable<'a>>,
    /// Makes tables again; without it a layer with a damaged table is dropped.
    pub rebuild_table: Option<RebuildTable<'a>>,
    /// Brings back what images lack; without it they are dropped.
    pub restore: Option<Restore<'a>>,
    /// Compressed layers are kept: one that was and is gone is a fault.
    pub keeps_blobs: bool,
}

impl std::fmt::Debug for CheckOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckOptions")
            .field("repair", &self.repair)
            .field("check_table", &self.check_table.is_some())
            .field("rebuild_table", &self.rebuild_table.is_some())
            .field("restore", &self.restore.is_some())
            .field("keeps_blobs", &self.keeps_blobs)
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
    /// Leftovers of killed processes and of power loss, which are removed in any case.
    pub leftovers: u64,
    /// What is wrong.
    pub faults: Vec<Fault>,
    /// Names that repair removed, since what they name is broken.
    pub dropped_names: Vec<DroppedName>,
    /// Images that lacked something and could not be restored.
    pub unrestored: Vec<Unrestored>,
}

/// A name that led to something broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedName {
    /// The name.
    pub reference: Reference,
    /// A registry knows the image, so that a pull brings it back.
    pub in_registry: bool,
}

/// An image that could not be made whole again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unrestored {
    /// A name of it, or its ID.
    pub image: String,
    /// Why not, with all causes.
    pub problem: String,
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
        let lease = options.repair.then(|| self.hold_all()).transpose()?;
        let swept = self.sweep_orphans(Partials::Old)?;
        report.leftovers = swept.unfinished + swept.orphans;
        self.check_database(&mut report)?;
        if !report.faults.is_empty() {
            // What a damaged database says about the rest is worth nothing.
            return Ok(report);
        }
        if !self.check_rows(options, &mut report)? {
            return Ok(report);
        }
        self.check_blobs(options, &mut report)?;
        self.check_layers(options, &mut report)?;
        self.check_trees(options, &mut report)?;
        self.check_volumes(&mut report)?;
        self.check_reference_rows(options, &mut report)?;
        self.check_image_rows(options, &mut report)?;
        if options.repair {
            self.restore(options, &mut report)?;
        }
        self.check_referrers(options, &mut report)?;
        self.check_images(options, &mut report)?;
        drop(lease);
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
            if self.is_of_earlier_boot(record.durable_boot.as_ref()) {
                self.settle_blob(&record.digest)?;
                report.leftovers += u64::from(self.blob(&record.digest)?.is_none());
                continue;
            }
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
            if self.is_of_earlier_boot(row.durable_boot.as_ref()) {
                self.settle_layer(&row.diff_id)?;
                report.leftovers += u64::from(self.layer(&row.diff_id)?.is_none());
                continue;
            }
            let mut faults = self.verify_layer(&row)?;
            if faults.is_empty()
                && let Some(check) = options.check_table
                && let Err(error) = check(&self.layout().layer_table(&row.diff_id))
            {
                let subject = row.diff_id.to_string();
                faults.push(Fault::new(FaultKind::TableDamaged, subject, error.to_string()));
            }
            if faults.is_empty() || self.layer(&row.diff_id)?.is_none() {
                continue;
            }
            if options.repair {
                let is_row = |fault: &Fault| fault.kind == FaultKind::RowDamaged;
                let repair = match faults.iter().all(is_row) {
                    true => self.mark_full(&row.diff_id.to_string()).map(|()| Repair::Rebuilt)?,
                    false => self.repair_layer(options, &row, &faults)?,
                };
                faults.iter_mut().for_each(|fault| fault.repair = repair);
            }
            report.faults.extend(faults);
        }
        Ok(())
    }

    /// Whether content was committed lazily before the machine went down: damage is then no fault.
    fn is_of_earlier_boot(&self, durable_boot: Option<&BootId>) -> bool {
        durable_boot.is_some_and(|boot| boot != self.boot_id())
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
            if self.is_of_earlier_boot(tree.boot.as_ref()) {
                self.drop_tree(&tree.id)?;
                report.leftovers += 1;
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
        let is_it = |facts: &std::fs::Metadata| match extracted {
            true => facts.is_dir(),
            false => facts.is_file() && facts.len() == tree.size,
        };
        let detail = match fs::symlink_metadata(&path) {
            Ok(_) if has_other_layers(tree) => "its layers are not those of its chain".to_owned(),
            Ok(facts) if !is_it(&facts) => {
                format!("has {} bytes, expected {}", facts.len(), tree.size)
            }
            Ok(_) => match tree::checksum(tree.form, &path) {
                Ok(found) if tree.crc32c.is_none_or(|expected| found == expected) => return None,
                Ok(_) => "differs from what was written".to_owned(),
                Err(error) => error.to_string(),
            },
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

    /// Reads a layer again; an empty list means that all is well.
    pub(crate) fn verify_layer(&self, row: &LayerRow) -> Result<Vec<Fault>, StoreError> {
        let mut faults = Vec::new();
        let subject = row.diff_id.to_string();
        let expected = (row.diff_id.digest(), row.tar_size);
        let found = examine(&self.layout().layer_tar(&row.diff_id), expected);
        match (row.presence, found) {
            (Presence::Full, Some((what, detail))) => {
                let kind = match what {
                    Wrong::Missing => FaultKind::TarMissing,
                    Wrong::Size => FaultKind::TarSize,
                    Wrong::Digest => FaultKind::TarDigest,
                    Wrong::Unreadable => FaultKind::TarUnreadable,
                };
                faults.push(Fault::new(kind, subject.clone(), detail));
            }
            (Presence::Partial, None) => {
                let detail = "is marked partial, and all of it is here".to_owned();
                let subject = format!("layers {subject}");
                faults.push(Fault::new(FaultKind::RowDamaged, subject, detail));
            }
            (Presence::Full, None) | (Presence::Partial, Some(_)) => {}
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

/// A tree from the bottom of a chain covers all of it; an init part may belong to no layer.
fn has_other_layers(tree: &TreeRow) -> bool {
    match tree.form {
        TreeForm::Base => ChainId::of(&tree.layers) != tree.chain_id,
        TreeForm::Init => false,
        TreeForm::Step | TreeForm::Extracted => tree.chain_id.is_some() && tree.layers.is_empty(),
    }
}

enum Wrong {
    Missing,
    Size,
    Digest,
    Unreadable,
}

fn examine(path: &Path, (digest, size_bytes): (Digest, u64)) -> Option<(Wrong, String)> {
    let mut file = match regular::open(path) {
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
