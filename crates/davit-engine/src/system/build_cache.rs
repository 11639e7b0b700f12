//! `builder prune` with filters.

use davit_image::Timestamp;
use davit_store::{BuildCache, BuildRecord, CacheMount, GcOptions, GcReport, StoreError};

use crate::{
    Engine,
    build::{GIT_CHECKOUT, HISTORY, remote_of},
};

const NANOSECONDS: i64 = 1_000_000_000;

/// Type of cache mounts among build records, BuildKit's word.
pub(super) const CACHE_MOUNT: &str = "exec.cachemount";

/// Bytes that repositories of git sources may take where no setting says so.
const GIT_BYTES: u64 = 2 << 30;

/// The type of a cache mount of this name, or of a repository that is kept like one.
pub(super) fn mount_kind(name: &str) -> &'static str {
    if remote_of(name).is_some() { GIT_CHECKOUT } else { CACHE_MOUNT }
}

/// How much of the build cache stays, in bytes; 0 is no bound, and without any bound nothing stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheBounds {
    /// This much stays in any case.
    pub reserved_space: u64,
    /// No more than this stays.
    pub max_used_space: u64,
    /// No more stays than leaves this much of the file system free.
    pub min_free_space: u64,
}

impl CacheBounds {
    /// What may stay of so many bytes, with so many free.
    #[must_use]
    pub fn keep(&self, total: u64, free: u64) -> u64 {
        let most = match (self.max_used_space, self.min_free_space) {
            (0, 0) => 0,
            (0, _) => total,
            (most, _) => most,
        };
        let missing = self.min_free_space.saturating_sub(free);
        let most = if missing > 0 { most.min(total.saturating_sub(missing)) } else { most };
        most.max(self.reserved_space)
    }
}

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
    /// How much stays of what fits; that which was not used for longest goes first.
    pub bounds: CacheBounds,
}

impl Engine {
    /// Removes the build records that fit, and frees what nothing names any more.
    ///
    /// # Errors
    /// What the store says.
    pub fn prune_build_cache(&self, request: &BuildCachePrune) -> Result<GcReport, StoreError> {
        let mounts = self.prunable_mounts(request)?;
        let of_mounts: u64 = mounts.iter().map(|mount| mount.size).sum();
        let total = self.store().build_cache_size()? + of_mounts;
        let keep = request.bounds.keep(total, self.free_bytes()?);
        let mut report = GcReport::default();
        let left = self.prune_mounts(mounts, (total, keep), &mut report)?;
        let mounts_left = of_mounts - (total - left);
        let keep = keep.saturating_sub(mounts_left);
        let collected = match (request.is_filtered(), request.all && keep == 0) {
            (false, true) => self.prune_store(BuildCache::Drop)?,
            (false, false) => self.prune_store(BuildCache::Budget(keep))?,
            (true, _) => self.prune_records(request, keep)?,
        };
        report.build_records.extend(collected.build_records);
        report.freed_bytes += collected.freed_bytes;
        if request.kinds.iter().any(|kind| kind == HISTORY) {
            report.freed_bytes += self.forget_all_builds()?;
        }
        let GcReport { build_records, freed_bytes, .. } = report;
        Ok(GcReport { build_records, freed_bytes, ..collected })
    }

    /// Removes the build records that fit, least recently used first, until no more than that is
    /// left.
    fn prune_records(&self, request: &BuildCachePrune, keep: u64) -> Result<GcReport, StoreError> {
        let records = self.store().build_records()?.into_iter();
        let keys = records.filter(|record| request.selects(record)).map(|record| record.key);
        let forgotten = self.forget_cache_records(&keys.collect::<Vec<_>>(), request, keep)?;
        let collected = self.prune_store(BuildCache::Keep)?;
        let freed_bytes = collected.freed_bytes + forgotten.freed_bytes;
        Ok(GcReport { build_records: forgotten.build_records, freed_bytes, ..collected })
    }

    fn forget_cache_records(
        &self,
        keys: &[String],
        request: &BuildCachePrune,
        keep: u64,
    ) -> Result<GcReport, StoreError> {
        let store = self.store();
        let forget = |keys: &[String]| match request.all {
            true => store.forget_build_records(keys),
            false => store.forget_unused_build_records(keys),
        };
        let mut report = GcReport::default();
        if keep == 0 {
            report.build_records = forget(keys)?;
            return Ok(report);
        }
        for record in keys {
            if store.build_cache_size()? <= keep {
                break;
            }
            report.build_records.extend(forget(std::slice::from_ref(record))?);
            let freed = store.collect(&GcOptions { build_cache: BuildCache::Keep })?.freed_bytes;
            report.freed_bytes += freed;
        }
        Ok(report)
    }

    /// Cache mounts that fit, least recently used first. They go only if all is asked for, or their
    /// type; one that is pinned goes only by its id.
    fn prunable_mounts(&self, request: &BuildCachePrune) -> Result<Vec<CacheMount>, StoreError> {
        let mut mounts = self.store().cache_mounts()?;
        mounts.retain(|mount| {
            let spared = request.ids.is_empty() && self.is_pinned(mount);
            request.selects_mount(mount) && !spared
        });
        Ok(mounts)
    }

    fn is_pinned(&self, mount: &CacheMount) -> bool {
        let pinned = &self.config().settings.gc.pinned_cache_mounts;
        // A name without a namespace has it empty.
        pinned.iter().any(|name| mount.name == *name || mount.name == format!("/{name}"))
    }

    /// Removes cache mounts that no step uses until no more is left of the total; gives what is.
    fn prune_mounts(
        &self,
        mounts: Vec<CacheMount>,
        (mut total, keep): (u64, u64),
        report: &mut GcReport,
    ) -> Result<u64, StoreError> {
        for mount in mounts {
            if keep > 0 && total <= keep {
                break;
            }
            if self.store().remove_cache_mount(&mount)? {
                total -= mount.size;
                report.freed_bytes += mount.size;
                let shown = remote_of(&mount.name).unwrap_or_else(|| mount.name.clone());
                report.build_records.push(format!("{} {shown}", mount_kind(&mount.name)));
            }
        }
        Ok(total)
    }

    /// Bytes of the root's file system that are free for programs.
    fn free_bytes(&self) -> Result<u64, StoreError> {
        let root = self.store().layout().root();
        let facts = rustix::fs::statvfs(root).map_err(|e| StoreError::Io {
            action: "examine",
            path: root.to_path_buf(),
            source: e.into(),
        })?;
        Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
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
        self.collect_mounts(CACHE_MOUNT, budget)
    }

    /// The same for the repositories of git sources, which always have one.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) fn collect_git_repositories(&self) -> Result<(), StoreError> {
        let budget = self.config().settings.gc.keep_git_repositories;
        self.collect_mounts(GIT_CHECKOUT, budget.unwrap_or(GIT_BYTES))
    }

    fn collect_mounts(&self, kind: &str, budget: u64) -> Result<(), StoreError> {
        let mounts = self.store().cache_mounts()?.into_iter();
        let mounts: Vec<_> = mounts.filter(|mount| mount_kind(&mount.name) == kind).collect();
        let mut total: u64 = mounts.iter().map(|mount| mount.size).sum();
        for mount in mounts {
            if total <= budget {
                break;
            }
            if !self.is_pinned(&mount) && self.store().remove_cache_mount(&mount)? {
                total -= mount.size;
            }
        }
        Ok(())
    }
}

impl BuildCachePrune {
    const fn is_filtered(&self) -> bool {
        self.until.is_some() || !self.ids.is_empty() || !self.kinds.is_empty()
    }

    fn selects_mount(&self, mount: &CacheMount) -> bool {
        let own = mount_kind(&mount.name);
        let asked = self.kinds.iter().any(|kind| kind == own);
        let named = |id: &String| mount.key.starts_with(id) || mount.name.starts_with(id);
        (asked || (self.all && self.kinds.is_empty()))
            && self.until.is_none_or(|until| mount.last_used / NANOSECONDS < until.unix_seconds())
            && (self.ids.is_empty() || self.ids.iter().any(named))
    }

    fn selects(&self, record: &BuildRecord) -> bool {
        let last_used = record.last_used / NANOSECONDS;
        self.until.is_none_or(|until| last_used < until.unix_seconds())
            && (self.ids.is_empty() || self.ids.iter().any(|id| record.key.starts_with(id)))
            && (self.kinds.is_empty()
                || self.kinds.contains(&record.kind)
                || (record.kind == "git" && self.kinds.iter().any(|kind| kind == GIT_CHECKOUT)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_those_of_buildx() {
        let keep = |reserved_space, max_used_space, min_free_space| {
            CacheBounds { reserved_space, max_used_space, min_free_space }.keep(100, 20)
        };
        assert_eq!(keep(0, 0, 0), 0, "nothing is asked to stay");
        assert_eq!((keep(30, 0, 0), keep(0, 40, 0), keep(50, 40, 0)), (30, 40, 50));
        assert_eq!((keep(0, 0, 10), keep(0, 0, 50), keep(0, 80, 50)), (100, 70, 70));
        assert_eq!((keep(90, 0, 50), keep(0, 60, 50), keep(0, 0, 1000)), (90, 60, 0));
    }
}
