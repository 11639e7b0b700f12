//! `builder prune` with filters.

use davit_image::Timestamp;
use davit_store::{BuildCache, BuildRecord, GcReport, StoreError};

use crate::Engine;

/// Which build records to remove.
#[derive(Clone, Debug, Default)]
pub struct BuildCachePrune {
    /// Those of existing images, too.
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
        let report = self.prune_store(BuildCache::Keep)?;
        Ok(GcReport { build_records: forgotten, ..report })
    }
}

impl BuildCachePrune {
    fn selects(&self, record: &BuildRecord) -> bool {
        let last_used = record.last_used / 1_000_000_000;
        self.until.is_none_or(|until| last_used < until.unix_seconds())
            && (self.ids.is_empty() || self.ids.iter().any(|id| record.key.starts_with(id)))
            && (self.kinds.is_empty() || self.kinds.contains(&record.kind))
    }
}
