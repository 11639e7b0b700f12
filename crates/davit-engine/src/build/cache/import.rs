//! Records of caches, and layers when they are needed.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
};

use davit_build::{BuildEvent, DefinitionKey, SharedCache, SharedMount, SharedRecord, one_line};
use davit_image::{Descriptor, DiffId};
use davit_store::Lease;

use super::{
    CacheError, CacheExport, CacheImport, CachePlace, MountSharing, format::Contents, place::Source,
};
use crate::{
    Engine, Progress,
    build::{BuildFailure, Reach, results::Results},
    origin::Stop,
    pull::{Naming, Pull},
    registry::Registries,
};

/// The caches of one build.
pub(in crate::build) struct Caches<'e> {
    pub(super) engine: &'e Engine,
    pub(super) lease: &'e Lease<'e>,
    pub(super) progress: &'e dyn Progress,
    pub(super) cancelled: &'e Arc<AtomicBool>,
    pub(super) events: &'e (dyn Fn(BuildEvent) + Sync),
    pub(super) registries: Registries,
    sources: Vec<(Source, Contents)>,
    /// Cache mounts that the build used; `None` if nobody wants them.
    pub(super) mounts: Option<Mutex<Vec<SharedMount>>>,
    /// Layers that a source turned out not to have.
    gone: Mutex<BTreeSet<(usize, DiffId)>>,
    /// Layers that are needed and cannot be had: what gave them has to run.
    missing: Mutex<BTreeSet<DiffId>>,
    /// What the build gives; `None` if nobody wants it.
    pub(super) results: Option<&'e Results>,
}

/// Where a build runs, and whom it tells what.
#[derive(Clone, Copy)]
pub(in crate::build) struct Surroundings<'e> {
    pub(in crate::build) engine: &'e Engine,
    pub(in crate::build) lease: &'e Lease<'e>,
    pub(in crate::build) progress: &'e dyn Progress,
    pub(in crate::build) cancelled: &'e Arc<AtomicBool>,
    pub(in crate::build) events: &'e (dyn Fn(BuildEvent) + Sync),
}

impl<'e> Caches<'e> {
    /// Reads the records of all caches; one that cannot be had is told and left out.
    pub(in crate::build) fn open(
        surroundings: Surroundings<'e>,
        imports: &[CacheImport],
        (reach, results): (Reach, Option<&'e Results>),
    ) -> Result<Self, BuildFailure> {
        let Surroundings { engine, lease, progress, cancelled, events } = surroundings;
        let registries = engine
            .registries()
            .map_err(|source| CacheError::Setup { place: "at a registry".to_owned(), source })?;
        let mut sources = Vec::new();
        for CacheImport { place, mounts } in imports {
            if place.is_far() && reach == Reach::Offline {
                tell(events, format!("the build cache {place} is not asked: --offline"));
                continue;
            }
            let source = match place {
                CachePlace::Image(name) => Source::stored(name, engine.store(), lease),
                place => Source::open(place, &registries, cancelled),
            };
            match source.and_then(|source| Ok((source.read_any()?, source))) {
                Ok((mut contents, source)) => {
                    if *mounts == MountSharing::Stay {
                        contents.mounts.clear();
                    }
                    sources.push((source, contents));
                }
                Err(error) if error.is_absent() => {
                    tell(events, format!("there is no build cache {place}"));
                }
                Err(error) => tell(events, format!("{}; it is passed over", one_line(&error))),
            }
        }
        Ok(Self {
            engine,
            lease,
            progress,
            cancelled,
            events,
            registries,
            sources,
            mounts: None,
            gone: Mutex::default(),
            missing: Mutex::default(),
            results,
        })
    }

    /// Lets the build give its cache mounts if one of these wants them.
    pub(in crate::build) fn taking_mounts(self, exports: &[CacheExport]) -> Self {
        let wanted = exports.iter().any(|export| export.mounts == MountSharing::Go);
        Self { mounts: wanted.then(Mutex::default), ..self }
    }

    fn is_gone(&self, source: usize, layer: DiffId) -> bool {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).contains(&(source, layer))
    }

    /// Whether what is of a layer where a place has its blobs turned out to be of no use.
    pub(super) fn is_useless(&self, blobs: &str, layer: DiffId) -> bool {
        let mut sources = self.sources.iter().enumerate();
        sources.any(|(number, (source, _))| source.blobs == blobs && self.is_gone(number, layer))
    }

    /// The blobs that a layer is said to be, each with the number of its source.
    fn blobs(&self, layer: DiffId) -> Vec<(usize, &Descriptor)> {
        let sources = self.sources.iter().enumerate();
        let blobs = sources
            .filter_map(|(number, (_, contents))| Some((number, contents.layers.get(&layer)?)));
        blobs.filter(|(number, _)| !self.is_gone(*number, layer)).collect()
    }

    fn bring_from(
        &self,
        source: &Source,
        blob: &Descriptor,
        layer: DiffId,
    ) -> Result<(), crate::PullError> {
        let pull = Pull {
            engine: self.engine,
            origin: &*source.origin,
            name: source.name.clone(),
            remote: None,
            naming: Naming::Nothing(self.lease),
            platform: None,
            parallel: 0,
            stop: Stop::with(Some(self.cancelled)),
            progress: self.progress,
        };
        pull.bring_layer(self.lease, blob, layer)
    }
}

impl SharedCache for Caches<'_> {
    fn is_empty(&self) -> bool {
        self.sources.iter().all(|(_, contents)| contents.records.is_empty())
    }

    fn find(&self, key: DefinitionKey) -> Option<SharedRecord> {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let found = self.sources.iter().filter_map(|(_, contents)| contents.records.get(&key));
        found
            .filter(|record| !missing.contains(&record.layer))
            .max_by_key(|record| (!self.blobs(record.layer).is_empty(), record.made))
            .cloned()
    }

    fn bring(&self, layer: &DiffId) -> bool {
        if matches!(self.lease.hold_layer(layer), Ok(Some(_))) {
            return true;
        }
        for (number, blob) in self.blobs(*layer) {
            let source = &self.sources[number].0;
            let Err(error) = self.bring_from(source, blob, *layer) else { return true };
            if self.cancelled.load(std::sync::atomic::Ordering::Relaxed) {
                return false;
            }
            let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
            if gone.insert((number, *layer)) {
                let text = format!("a layer of the build cache {} is of no use", source.name);
                let cause = one_line(&error);
                tell(self.events, format!("{text}: {cause}; its steps run"));
            }
        }
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).insert(*layer);
        false
    }

    fn near(&self, step: &str) -> Vec<SharedRecord> {
        let records = self.sources.iter().flat_map(|(_, contents)| contents.records.values());
        records.filter(|record| !step.is_empty() && record.step == step).cloned().collect()
    }

    fn wants_results(&self) -> bool {
        self.results.is_some()
    }

    fn mount(&self, name: &str) -> Option<SharedMount> {
        let found = self.sources.iter().filter_map(|(_, contents)| contents.mounts.get(name));
        let found = found.filter(|mount| !self.blobs(mount.layer).is_empty());
        found.max_by_key(|mount| mount.made).cloned()
    }

    fn wants_mounts(&self) -> bool {
        self.mounts.is_some()
    }

    fn offer_mount(&self, mount: SharedMount) {
        if let Some(mounts) = &self.mounts {
            mounts.lock().unwrap_or_else(PoisonError::into_inner).push(mount);
        }
    }
}

/// Tells the user what changes nothing about the result.
pub(super) fn tell(events: &(dyn Fn(BuildEvent) + Sync), text: String) {
    events(BuildEvent::Warning(text));
}
