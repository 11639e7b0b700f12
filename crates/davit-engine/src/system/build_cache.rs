//! `builder prune` with filters.

use davit_image::Timestamp;
use davit_store::{BuildCache, BuildRecord, CacheMount, GcReport, StoreError};

use crate::Engine;

const NANOSECONDS: i64 = 1_000_000_000;

/// Type of cache mounts among build records, BuildKit's word.
pub(super) const CACHE_MOUNT: &str = "exec.cachemount";

/// Which build records and cache mounts to remove.
#[derive(Clone, Debug, Default)]
pub struct BuildCachePrune {
    /// Those of existing images, and cache mounts, too.
    pub all: bool,
    /// Only records last used before this time.
    pub until: Option<Timestamp>,
    /// Only records whose key begins with one of these, if there are any.
    pub ids: Vec<String>,
    /// Only records of one of these kinds, if there are any.
    pub kinds: Vec<String>,
}

impl Engine {
    /// Removes the build records that fit, and frees what nothing names any more.
    ///
    /// # Errors
    /// What the store says.
    pub fn prune_build_cache(&self, request: &BuildCachePrune) -> Result<GcReport, StoreError> {
        let records = self.store().build_records()?;
        let keys: Vec<String> = records
            .into_iter()
            .filter(|record| request.selects(record))
            .map(|record| record.key)
            .collect();
        let forgotten = if request.all {
            self.store().forget_build_records(&keys)?
        } else {
            self.store().forget_unused_build_records(&keys)?
        };
        let mut report = self.prune_store(BuildCache::Keep)?;
        report.build_records = forgotten;
        self.prune_cache_mounts(request, &mut report)?;
        Ok(report)
    }

    /// Removes the cache mounts that fit and that no step uses, and adds them to the report. They
    /// go only if all is asked for, or their type.
    ///
    /// # Errors
    /// What the store says.
    pub fn prune_cache_mounts(
        &self,
        request: &BuildCachePrune,
        report: &mut GcReport,
    ) -> Result<(), StoreError> {
        for mount in self.store().cache_mounts()? {
            if request.selects_mount(&mount) && self.store().remove_cache_mount(&mount)? {
                report.freed_bytes += mount.size;
                report.build_records.push(format!("{CACHE_MOUNT} {}", mount.name));
            }
        }
        Ok(())
    }
}

impl Engine {
    /// Brings cache mounts under their budget, if they have one: those that were not used for
    /// longest go, unless a step uses them.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) fn collect_cache_mounts(&self) -> Result<(), StoreError> {
        let Some(budget) = self.config().settings.gc.keep_cache_mounts else { return Ok(()) };
        let mounts = self.store().cache_mounts()?;
        let mut total: u64 = mounts.iter().map(|mount| mount.size).sum();
        for mount in mounts {
            if total <= budget {
                break;
            }
            if self.store().remove_cache_mount(&mount)? {
                total -= mount.size;
            }
        }
        Ok(())
    }
}

impl BuildCachePrune {
    fn selects_mount(&self, mount: &CacheMount) -> bool {
        let asked = self.kinds.iter().any(|kind| kind == CACHE_MOUNT);
        let named = |id: &String| mount.key.starts_with(id) || mount.name.starts_with(id);
        (asked || (self.all && self.kinds.is_empty()))
            && self.until.is_none_or(|until| mount.last_used / NANOSECONDS < until.unix_seconds())
            && (self.ids.is_empty() || self.ids.iter().any(named))
    }

    fn selects(&self, record: &BuildRecord) -> bool {
        let last_used = record.last_used / NANOSECONDS;
        self.until.is_none_or(|until| last_used < until.unix_seconds())
            && (self.ids.is_empty() || self.ids.iter().any(|id| record.key.starts_with(id)))
            && (self.kinds.is_empty() || self.kinds.contains(&record.kind))
    }
}
