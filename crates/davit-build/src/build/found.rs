//! The images that an equal plan gave before.

use std::collections::{BTreeMap, BTreeSet};

use davit_image::Digest;
use davit_store::StoredDocument;

use super::{Build, Built};
use crate::{
    BuildEvent, BuildOutcome, BuiltLayer, CachePolicy, SharedCache, Squash, StepInfo, cache::Cache,
    definition::components, error::BuildError, plan::Target, step::store_failed,
};

impl Build<'_, '_> {
    /// Key of the whole plan: everything that an image of it depends on.
    pub(super) fn key(&self, target: &Target) -> Digest {
        let mut parts = Vec::new();
        for node in &self.plan.nodes {
            let (key, _) = components(node, self.inputs).finish();
            parts.push(format!("{} {:?}", key.0, node.inputs));
        }
        parts.push(format!("target {}", target.state.0));
        parts.push(serde_json::to_string(&target.config).expect("a config is JSON"));
        for (entry, node) in &target.history {
            let entry = serde_json::to_string(entry).expect("history is JSON");
            parts.push(format!("{entry} {node:?}"));
        }
        parts.push(format!("epoch {:?}", self.plan.epoch));
        if self.request.rewrite_timestamp {
            parts.push("rewritten".to_owned());
        }
        if self.request.squash != Squash::Nothing {
            parts.push(format!("squash {:?}", self.request.squash));
        }
        Digest::of(parts.join("\n").as_bytes())
    }

    /// Whether the record of a whole image says no less than those of its steps.
    pub(super) fn may_be_whole(&self) -> bool {
        let counts = |node: &crate::plan::Node| node.cache == CachePolicy::Use;
        let wanted = self.environment.shared.is_some_and(SharedCache::wants_results);
        let scans = self.plan.targets().any(|target| !target.scans.is_empty());
        !wanted && !scans && self.request.cache_ttl.is_none() && self.plan.nodes.iter().all(counts)
    }

    /// The images that the same plan gave before, if all of them are here.
    pub(super) fn find_all(&self, steps: &[StepInfo]) -> Result<Option<Vec<Built>>, BuildError> {
        let mut all = Vec::new();
        for target in self.plan.targets() {
            match self.find(self.key(target), steps)? {
                Some(built) => all.push(built),
                None => return Ok(None),
            }
        }
        for step in steps {
            (self.environment.events)(BuildEvent::Cached(step.id));
        }
        Ok(Some(all))
    }

    /// The image that the same plan gave before.
    fn find(&self, key: Digest, steps: &[StepInfo]) -> Result<Option<Built>, BuildError> {
        let store = self.environment.store;
        let cache = Cache { store, lease: self.environment.lease };
        let Some(record) = cache.image(key).map_err(store_failed)? else { return Ok(None) };
        let read = |digest: &Digest| fs_err::read(store.layout().blob(digest)).ok();
        let (Some(config), Some(manifest)) = (read(&record.image.digest()), read(&record.manifest))
        else {
            return Ok(None);
        };
        let Ok(parsed) = serde_json::from_slice(&config) else { return Ok(None) };
        let layer = |&(diff_id, size_bytes): &(_, u64)| BuiltLayer { diff_id, size_bytes };
        let is_merged = self.request.squash != Squash::Nothing;
        let plain = record.layers.iter().map(|(layer, _)| *layer).filter(|_| !is_merged).collect();
        Ok(Some(Built {
            plain,
            made_from: BTreeSet::new(),
            outcome: BuildOutcome {
                manifest: record.manifest,
                image: record.image,
                config: parsed,
                layers: record.layers.iter().map(layer).collect(),
                epoch: self.plan.epoch,
                cached_steps: steps.len(),
                steps: steps.len(),
            },
            config: StoredDocument::new(davit_image::MediaType::OCI_CONFIG, config),
            manifest: StoredDocument::new(davit_image::MediaType::OCI_MANIFEST, manifest),
            provenance: None,
            extras: BTreeMap::new(),
            generated: None,
            key,
            cost_us: 0,
        }))
    }
}
