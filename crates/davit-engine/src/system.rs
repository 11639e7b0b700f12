//! The whole store: `system df`, `system prune`, `system check`.

mod build_cache;
mod info;
mod traces;
mod usage;

use std::path::Path;

use davit_layer::{Limits, read_table};
use davit_store::{
    BuildCache, CheckOptions, CheckReport, GcOptions, GcReport, Lacking, LayerRow, Partials,
    StoreError,
};

pub use build_cache::{BuildCachePrune, CacheBounds};
pub use info::SystemInfo;
pub use usage::{
    BuildCacheTotal, BuildCacheUsage, ContainerUsage, DiskUsage, ImageUsage, VolumeUsage,
};

use crate::{Engine, Progress};

/// How to check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CheckMode {
    /// Tell what is wrong.
    #[default]
    Report,
    /// Mend it, too.
    Repair,
}

/// Volumes that a prune removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrunedVolumes {
    /// Their names.
    pub names: Vec<String>,
    /// Bytes on disk.
    pub freed_bytes: u64,
}

impl Engine {
    /// Reads everything in the store again and names what is wrong. Repair fetches what a registry
    /// is known to have.
    ///
    /// # Errors
    /// When the check itself cannot be done.
    pub fn check(
        &self,
        mode: CheckMode,
        progress: &dyn Progress,
    ) -> Result<CheckReport, StoreError> {
        let restore = |image: &Lacking| self.restore(image, progress).map_err(Into::into);
        self.store().check(&CheckOptions {
            repair: mode == CheckMode::Repair,
            check_table: Some(&check_table),
            rebuild_table: Some(&rebuild_table),
            restore: Some(&restore),
            keeps_blobs: self.keeps_blobs(),
        })
    }

    /// Removes what was left unfinished, and build records as asked (with all of them, the logs of
    /// builds and what is known of contexts), and frees what nothing names any more.
    ///
    /// # Errors
    /// What the store says.
    pub fn prune_store(&self, build_cache: BuildCache) -> Result<GcReport, StoreError> {
        let swept = self.store().sweep_orphans(Partials::All)?;
        let mut report = self.store().collect(&GcOptions { build_cache })?;
        report.freed_bytes += swept.bytes;
        if build_cache == BuildCache::Drop {
            report.freed_bytes += self.store().drop_build_files()?;
            report.freed_bytes += self.forget_all_builds()?;
        }
        Ok(report)
    }

    /// Frees what nothing names, after work that failed for want of space. That a full disk refuses
    /// even this is not what the user must be told first.
    pub(crate) fn free_unnamed(&self) {
        if let Err(error) = self.store().collect(&GcOptions::default()) {
            tracing::warn!(error = &error as &dyn std::error::Error, "nothing could be freed");
        }
    }

    /// Removes volumes that were made without a name and that no container uses.
    ///
    /// # Errors
    /// What the store says.
    pub fn prune_anonymous_volumes(&self) -> Result<PrunedVolumes, StoreError> {
        let mut pruned = PrunedVolumes::default();
        for row in self.store().volumes()? {
            let name = row.volume.name;
            if !row.volume.anonymous || !row.containers.is_empty() {
                continue;
            }
            let size = usage::tree_size(&self.store().layout().volume_data(&name));
            // A container may have taken it since.
            if self.store().remove_volume(&name)?.is_empty() {
                pruned.freed_bytes += size;
                pruned.names.push(name);
            }
        }
        Ok(pruned)
    }

    /// Bytes that the build cache may take.
    ///
    /// # Errors
    /// What the file system says.
    pub fn build_cache_budget(&self) -> Result<u64, StoreError> {
        match self.config().settings.gc.keep_storage {
            Some(bytes) => Ok(bytes),
            None => fifth_of(self.store().layout().root()),
        }
    }

    /// Brings the build cache under its budget; cheap when it is.
    ///
    /// # Errors
    /// What the store says.
    pub fn collect_build_cache(&self) -> Result<GcReport, StoreError> {
        let budget = self.build_cache_budget()?;
        if self.store().content_size()? <= budget {
            return Ok(GcReport::default());
        }
        self.store().collect(&GcOptions { build_cache: BuildCache::Budget(budget) })
    }
}

fn fifth_of(root: &Path) -> Result<u64, StoreError> {
    let facts = rustix::fs::statvfs(root).map_err(|e| StoreError::Io {
        action: "examine",
        path: root.to_path_buf(),
        source: e.into(),
    })?;
    Ok(facts.f_blocks.saturating_mul(facts.f_frsize) / 5)
}

fn check_table(table: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    davit_layer::Table::open(fs_err::File::open(table)?.file())?;
    Ok(())
}

fn rebuild_table(
    layer: &LayerRow,
    tar: &Path,
    table: &Path,
) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
    let source = fs_err::File::open(tar)?;
    let facts = davit_layer::LayerFacts { diff_id: layer.diff_id, tar_size: layer.tar_size };
    let made = read_table(source.file(), facts, &Limits::default())?;
    let mut file = fs_err::File::create(table)?;
    made.write_to(&mut file)?;
    Ok(made.len() as u64)
}
