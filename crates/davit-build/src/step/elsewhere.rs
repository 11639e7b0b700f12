//! Results that are only elsewhere: which of them are needed here, and how they come.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::resume_unwind,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use davit_image::DiffId;

use super::{Layer, Session, kind_of, store_failed};
use crate::{
    CachePolicy,
    admission::Class,
    cache::StepRecord,
    definition::{components, definition_key, stands_alone},
    error::BuildError,
    key::{Component, DefinitionKey, Miss},
    layers::State,
    plan::{Node, NodeId, Op, Plan},
    shared::{SharedCache, SharedRecord, hidden, place_of},
};

/// Layers that are fetched at a time.
const PARALLEL: usize = 3;

/// What is known of a node before anything has run.
enum Known {
    /// A base, or a step whose result is here.
    Here(Arc<State>),
    Elsewhere(Arc<State>, StepRecord),
    /// It has to run, or stands upon what has to.
    No,
}

impl Known {
    const fn state(&self) -> Option<&Arc<State>> {
        match self {
            Self::Here(state) | Self::Elsewhere(state, _) => Some(state),
            Self::No => None,
        }
    }
}

impl Session<'_, '_> {
    /// Brings the layers that the build needs of elsewhere, and tells the steps whose layers it does
    /// not need: all that read these are done, too.
    pub(crate) fn bring_needed(&self) -> Result<BTreeMap<NodeId, StepRecord>, BuildError> {
        let Some(shared) = self.shared.filter(|shared| !shared.is_empty()) else {
            return Ok(BTreeMap::new());
        };
        loop {
            let known = self.look_ahead()?;
            let needed = self.needed(&known);
            let (mut layers, mut unneeded) = (BTreeSet::new(), BTreeMap::new());
            for (number, known) in (0..).zip(&known) {
                let Known::Elsewhere(_, record) = known else { continue };
                if needed.contains(&NodeId(number)) {
                    layers.insert(record.layer);
                } else {
                    unneeded.insert(NodeId(number), record.clone());
                }
            }
            let queue = Mutex::new(layers.into_iter());
            let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let all = |bring: &dyn Fn(&DiffId) -> bool| {
                let mut whole = true;
                while let Some(layer) = next() {
                    whole &= !self.is_cancelled() && bring(&layer);
                }
                whole
            };
            let whole = thread::scope(|scope| {
                let work = || scope.spawn(|| all(&|layer| shared.bring(layer)));
                let threads: Vec<_> = (0..PARALLEL).map(|_| work()).collect();
                threads.into_iter().all(|it| it.join().unwrap_or_else(|panic| resume_unwind(panic)))
            });
            // What is gone changes what has to run, and so what that needs.
            if whole || self.is_cancelled() {
                return Ok(unneeded);
            }
        }
    }

    fn look_ahead(&self) -> Result<Vec<Known>, BuildError> {
        let mut all: Vec<Known> = Vec::new();
        for node in &self.plan.nodes {
            let known = match &node.op {
                Op::Scratch => Known::Here(State::image(Vec::new())),
                Op::Image(image) => Known::Here(State::image(image.config.rootfs.diff_ids.clone())),
                Op::Source(source) => Known::Here(State::image(vec![self.inputs.layer(source)])),
                _ => self.look_at(node, &all)?,
            };
            all.push(known);
        }
        Ok(all)
    }

    fn look_at(&self, node: &Node, before: &[Known]) -> Result<Known, BuildError> {
        let inputs = node.inputs.iter().map(|input| before[input.0 as usize].state());
        let Some(inputs) = inputs.collect::<Option<Vec<_>>>() else { return Ok(Known::No) };
        let mut states: Vec<String> = inputs.iter().map(|state| state.key()).collect();
        if stands_alone(&node.op) {
            "any".clone_into(&mut states[0]);
        }
        let (key, _) = definition_key(components(node, self.inputs), &states);
        if let Some(record) = self.find(node, key)? {
            return Ok(Known::Here(inputs[0].push(record.layer)));
        }
        Ok(self
            .listed(node, key)
            .map_or(Known::No, |record| Known::Elsewhere(inputs[0].push(record.layer), record)))
    }

    /// The nodes whose layers are read: those of the results, and below whatever has to run.
    fn needed(&self, known: &[Known]) -> BTreeSet<NodeId> {
        let mut tops: Vec<NodeId> = self.plan.targets().map(|target| target.state).collect();
        for (node, known) in self.plan.nodes.iter().zip(known) {
            if matches!(known, Known::No) {
                tops.extend(&node.inputs);
            }
        }
        let mut needed = BTreeSet::new();
        for mut id in tops {
            while needed.insert(id) {
                let Some(below) = self.plan.node(id).inputs.first() else { break };
                id = *below;
            }
        }
        needed
    }

    /// What others say that a step gave.
    fn listed(&self, node: &Node, key: DefinitionKey) -> Option<StepRecord> {
        if self.policy(node) == CachePolicy::Ignore {
            return None;
        }
        let record = self.shared?.find(key)?.step_record();
        (!self.is_expired(&record)).then_some(record)
    }

    /// A result from elsewhere by one of its keys; it is this step's here from now on.
    pub(super) fn find_elsewhere(
        &self,
        (node, id): (&Node, NodeId),
        by: DefinitionKey,
        (key, parts): (DefinitionKey, &[Component]),
    ) -> Result<Option<StepRecord>, BuildError> {
        let (Some(shared), Some(mut record)) = (self.shared, self.listed(node, by)) else {
            return Ok(None);
        };
        let place = self.place(Class::Network, id)?;
        if !shared.bring(&record.layer) {
            return Ok(None);
        }
        drop(place);
        let Some(row) = self.store.layer(&record.layer).map_err(store_failed)? else {
            return Ok(None);
        };
        record.size_bytes = row.tar_size;
        let layer = Layer { record, content: None, shape: None, same: false };
        self.remember(node, id, (key, parts), &layer, 0)?;
        if by != key {
            let by = (by, kind_of(node));
            self.cache().remember_step(by, &layer.record, 0).map_err(store_failed)?;
        }
        Ok(Some(layer.record))
    }

    /// Why a step that never ran here has no result elsewhere.
    pub(super) fn miss_elsewhere(&self, node: &Node, parts: &[Component]) -> Miss {
        let near = self.shared.map(|shared| shared.near(place_of(&node.name)));
        let now: Vec<Component> = parts.iter().map(hidden).collect();
        let differences = |record: &SharedRecord| {
            now.iter().filter(|component| !record.components.contains(component)).count()
        };
        let nearest = near.unwrap_or_default().into_iter().min_by_key(differences);
        let Some(nearest) = nearest.filter(|record| !record.components.is_empty()) else {
            return Miss::First;
        };
        match Miss::between(&nearest.components, &now) {
            Some(Miss::Component { label, before, now: Some(_) }) => {
                let own = parts.iter().find(|part| part.label == label);
                Miss::Component { label, before, now: own.map(|part| part.value.clone()) }
            }
            Some(miss) => miss,
            None => Miss::Gone,
        }
    }

    /// A result under each of its keys, for the caches that want it.
    pub(super) fn shared_records(
        &self,
        id: NodeId,
        (key, by_content): (DefinitionKey, Option<DefinitionKey>),
        (parts, record): (&[Component], &StepRecord),
    ) -> Vec<SharedRecord> {
        if !self.shared.is_some_and(SharedCache::wants_results) {
            return Vec::new();
        }
        let own = SharedRecord::new(key, record, (&self.plan.node(id).name, parts));
        let further = by_content.map(|key| SharedRecord::new(key, record, ("", &[])));
        [own].into_iter().chain(further).collect()
    }
}

/// The steps that images of a plan consist of.
pub(crate) fn in_result(plan: &Plan) -> BTreeSet<NodeId> {
    let mut found = BTreeSet::new();
    for target in plan.targets() {
        let mut next = Some(target.state);
        while let Some(id) = next.filter(|id| found.insert(*id)) {
            next = plan.node(id).inputs.first().copied();
        }
    }
    found
}
