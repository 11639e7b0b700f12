//! Does one step: finds its earlier result, or makes its layer.

mod beneath;
pub(crate) mod by_hand;
mod caches;
mod clamp;
mod content;
mod copy;
mod devices;
mod elsewhere;
mod mount_layers;
mod mounts;
mod run;
mod squash;
mod writers;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::AtomicBool, atomic::Ordering},
    time::{Duration, Instant},
};

use davit_image::{DiffId, Digest, Timestamp};
use davit_layer::{Change, Merged, Opener, WriteOptions};
use davit_snapshot::Snapshots;
use davit_store::{Flight, Lease, Store};

use self::by_hand::FailedSlot;
pub(crate) use self::elsewhere::in_result;
use crate::{
    BuildEvent, CachePolicy, EventSink, FinalSteps, StepId,
    admission::{Class, Place, Places},
    build::drafts::Drafts,
    cache::{Cache, Made, StepRecord},
    copy::{Times, same_content, shape_key},
    definition::{components, definition_key, input_number, stands_alone},
    error::{BuildError, BuildErrorKind},
    inputs::Inputs,
    key::{Component, ContentKey, DefinitionKey, Miss},
    layers::{LayerError, Layers, State},
    plan::{Node, NodeId, Op, Plan},
    run::{
        RunSettings, Supervisor,
        console::Console,
        network::{JoinedNetwork, StepNetworks},
    },
    sandbox::Sandbox,
    shared::{SharedCache, SharedRecord},
    writer::Writer,
};

/// How long a process waits for another one before it looks again.
const FLIGHT_POLL: Duration = Duration::from_millis(20);

/// What all steps of a build share.
pub(crate) struct Session<'b, 's> {
    pub(crate) id: &'b str,
    pub(crate) store: &'s Store,
    pub(crate) lease: &'s Lease<'s>,
    pub(crate) snapshots: &'b Snapshots<'s>,
    pub(crate) layers: Layers<'s>,
    pub(crate) plan: &'b Plan,
    pub(crate) inputs: &'b Inputs,
    /// Layers that are written already, in case that steps want them.
    pub(crate) drafts: &'b Drafts<'s>,
    /// A directory of the build for what has no other place.
    pub(crate) scratch: &'b Path,
    pub(crate) policy: CachePolicy,
    /// Age from which on a result does not count.
    pub(crate) ttl: Option<Duration>,
    pub(crate) epoch: Option<i64>,
    pub(crate) started: Timestamp,
    pub(crate) events: EventSink<'b>,
    pub(crate) cancelled: &'b AtomicBool,
    /// A step failed: the others stop.
    pub(crate) stopped: AtomicBool,
    pub(crate) run: &'b RunSettings,
    pub(crate) sandbox: &'b Sandbox,
    pub(crate) networks: StepNetworks<'b, 's>,
    /// The container whose network commands join, if they do.
    pub(crate) joined: Option<&'b JoinedNetwork>,
    pub(crate) places: Places,
    /// How much waits for each node.
    pub(crate) weights: Vec<u64>,
    pub(crate) supervisor: OnceLock<Mutex<Option<Arc<Supervisor>>>>,
    /// Distinguishes this Dockerfile's steps from those of others, for explanations.
    pub(crate) family: String,
    pub(crate) threads: usize,
    /// Caches of others.
    pub(crate) shared: Option<&'b dyn SharedCache>,
    /// Steps whose results are elsewhere, where they may stay.
    pub(crate) elsewhere: BTreeMap<NodeId, StepRecord>,
    /// Steps that images of the build consist of.
    pub(crate) in_result: BTreeSet<NodeId>,
    /// The layers of the steps that are done.
    pub(crate) done: Mutex<BTreeMap<NodeId, DiffId>>,
    /// Told of bases and steps as they become final.
    pub(crate) finals: Option<FinalSteps<'b>>,
    /// Cache mounts that commands used.
    pub(crate) used_mounts: Mutex<BTreeSet<String>>,
    /// Whether cache mounts can show other owners, once somebody asked.
    pub(crate) exchanges_owners: OnceLock<bool>,
    /// Whether what cache mounts hold counts.
    pub(crate) mount_policy: CachePolicy,
    /// Whether the first file that differs is looked for.
    pub(crate) explain: bool,
    /// Who looks at a step that failed.
    pub(crate) on_error: Option<&'b dyn Console>,
    /// What that step left.
    pub(crate) failed: FailedSlot<'s>,
    /// The node that is not done with the others, but by hand.
    pub(crate) by_hand: Option<NodeId>,
}

/// What a node gave.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) state: Arc<State>,
    pub(crate) layer: Option<StepRecord>,
    pub(crate) cached: bool,
    /// The step that made the state another than before, as far as is known.
    pub(crate) cause: NodeId,
    /// What caches are told of it, until they are.
    pub(crate) records: Vec<SharedRecord>,
}

impl Done {
    /// What a base gives: its layers, bottom first.
    pub(crate) fn base(id: NodeId, layers: Vec<DiffId>) -> Self {
        let state = State::image(layers);
        Self { state, layer: None, cached: true, cause: id, records: Vec::new() }
    }

    /// What a node gave upon nothing, upon a state that it does not depend on.
    pub(crate) fn upon(self, below: &Self) -> Self {
        let layer = self.layer.as_ref().expect("who stands alone makes a layer").layer;
        let cause = if self.cached { below.cause } else { self.cause };
        Self { state: below.state.push(layer), cause, ..self }
    }
}

/// A layer that a step made, or found by its content.
struct Layer {
    record: StepRecord,
    content: Option<ContentKey>,
    shape: Option<Digest>,
    same: bool,
}

impl Session<'_, '_> {
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed) || self.stopped.load(Ordering::Relaxed)
    }

    /// Waits for a place to do what a node needs.
    pub(crate) fn place(&self, class: Class, id: NodeId) -> Result<Place<'_>, BuildError> {
        let weight = self.weights[id.0 as usize];
        let place = self.places.enter(class, weight, &|| self.is_cancelled());
        place.ok_or_else(|| BuildError::new(BuildErrorKind::Cancelled))
    }

    const fn cache(&self) -> Cache<'_> {
        Cache { store: self.store, lease: self.lease }
    }

    const fn writer(&self) -> Writer<'_, '_> {
        let (store, lease, cancelled) = (self.store, self.lease, self.cancelled);
        Writer { store, lease, layers: &self.layers, cancelled }
    }

    /// Does a node whose inputs are done; in the place of the state below one that stands alone is
    /// the empty one.
    pub(crate) fn node(&self, id: NodeId, inputs: &[&Done]) -> Result<Done, BuildError> {
        let done = self.result(id, inputs)?;
        if let Some(record) = &done.layer {
            self.done.lock().unwrap_or_else(PoisonError::into_inner).insert(id, record.layer);
        }
        Ok(done)
    }

    fn result(&self, id: NodeId, inputs: &[&Done]) -> Result<Done, BuildError> {
        let node = self.plan.node(id);
        let base = |layers| Done::base(id, layers);
        match &node.op {
            Op::Scratch => return Ok(base(Vec::new())),
            Op::Image(image) => {
                (self.events)(BuildEvent::Cached(StepId(id.0)));
                return Ok(base(image.config.rootfs.diff_ids.clone()));
            }
            Op::Source(source) => return Ok(base(vec![self.inputs.layer(source)])),
            _ if self.by_hand == Some(id) => return Ok(base(inputs[0].state.layers.clone())),
            _ => {}
        }
        let mut states: Vec<String> = inputs.iter().map(|input| input.state.key()).collect();
        if stands_alone(&node.op) {
            "any".clone_into(&mut states[0]);
        }
        let (key, parts) = definition_key(components(node, self.inputs), &states);
        let below = &inputs[0].state;
        let cached = |record: StepRecord, cause| {
            (self.events)(BuildEvent::Cached(StepId(id.0)));
            let records = self.shared_records(id, (key, None), (&parts, &record));
            let state = below.push(record.layer);
            Done { state, layer: Some(record), cached: true, cause, records }
        };
        if let Some(record) = self.elsewhere.get(&id) {
            return Ok(cached(record.clone(), id));
        }
        if let Some(record) = self.find(node, key)? {
            return Ok(cached(record, id));
        }
        if let Some(record) = self.find_elsewhere((node, id), key, (key, &parts))? {
            return Ok(cached(record, id));
        }
        let by_content = self.content_definition(node, inputs)?;
        if let Some(found) = self.find_by_content(node, key, by_content)? {
            return Ok(cached(found, id));
        }
        if let Some(by_content) = by_content
            && let Some(record) = self.find_elsewhere((node, id), by_content, (key, &parts))?
        {
            return Ok(cached(record, id));
        }
        let (miss, cause) = self.miss((node, id), inputs, (key, &parts))?;
        let _guard = match self.claim(node, key)? {
            Claim::Found(record) => return Ok(cached(record, cause)),
            Claim::Ours(guard) => guard,
        };
        (self.events)(BuildEvent::Missed(StepId(id.0), miss));
        let begun = Instant::now();
        (self.events)(BuildEvent::Started(StepId(id.0)));
        let layer = self.make(node, id, inputs)?;
        let cost_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let layer =
            Layer { record: StepRecord { made: Some(Timestamp::now()), ..layer.record }, ..layer };
        self.remember(node, id, (key, &parts), &layer, cost_us)?;
        if let Some(by_content) = by_content {
            let record = &layer.record;
            let by_content = (by_content, kind_of(node));
            self.cache().remember_step(by_content, record, cost_us).map_err(store_failed)?;
        }
        let records = self.shared_records(id, (key, by_content), (&parts, &layer.record));
        if layer.same {
            (self.events)(BuildEvent::SameResult(StepId(id.0)));
        }
        (self.events)(BuildEvent::Finished(StepId(id.0), begun.elapsed()));
        let state = below.push(layer.record.layer);
        Ok(Done { state, layer: Some(layer.record), cached: false, cause, records })
    }

    /// Whether earlier results count for a node.
    fn policy(&self, node: &Node) -> CachePolicy {
        if node.cache == CachePolicy::Ignore { node.cache } else { self.policy }
    }

    fn find(&self, node: &Node, key: DefinitionKey) -> Result<Option<StepRecord>, BuildError> {
        match self.policy(node) {
            CachePolicy::Ignore => Ok(None),
            CachePolicy::Use => {
                let found = self.cache().step(key).map_err(store_failed)?;
                Ok(found.filter(|record| !self.is_expired(record)))
            }
        }
    }

    fn is_expired(&self, record: &StepRecord) -> bool {
        self.ttl.is_some_and(|ttl| record.age() >= ttl)
    }

    /// A result of a step that saw the same, which is this step's from now on.
    fn find_by_content(
        &self,
        node: &Node,
        key: DefinitionKey,
        by_content: Option<DefinitionKey>,
    ) -> Result<Option<StepRecord>, BuildError> {
        let Some(by_content) = by_content else { return Ok(None) };
        let found = self.find(node, by_content)?;
        if let Some(record) = &found {
            self.cache().remember_step((key, kind_of(node)), record, 0).map_err(store_failed)?;
        }
        Ok(found)
    }

    /// Waits until no other process does the same step.
    fn claim(&self, node: &Node, key: DefinitionKey) -> Result<Claim, BuildError> {
        if self.policy(node) == CachePolicy::Ignore {
            return Ok(Claim::Ours(None));
        }
        loop {
            let flight = self.store.single_flight("build", &key.0.to_string());
            match flight.map_err(store_failed)? {
                Flight::Owner(guard) => {
                    // The one before may have ended between the two looks.
                    let found = self.find(node, key)?;
                    return Ok(found.map_or(Claim::Ours(Some(guard)), Claim::Found));
                }
                Flight::Busy(wait) => {
                    wait.wait(FLIGHT_POLL).map_err(store_failed)?;
                    if self.is_cancelled() {
                        return Err(BuildError::new(BuildErrorKind::Cancelled));
                    }
                    if let Some(record) = self.find(node, key)? {
                        return Ok(Claim::Found(record));
                    }
                }
            }
        }
    }

    fn family_of(&self, node: &Node, id: NodeId) -> Digest {
        family_of(self.plan, &self.family, (node, id))
    }

    /// Why a step has to run, and the step where that began.
    fn miss(
        &self,
        (node, id): (&Node, NodeId),
        inputs: &[&Done],
        (key, parts): (DefinitionKey, &[Component]),
    ) -> Result<(Miss, NodeId), BuildError> {
        if self.policy(node) == CachePolicy::Ignore {
            return Ok((Miss::NotAsked, id));
        }
        if self.ttl.is_some()
            && let Some(record) = self.cache().step(key).map_err(store_failed)?
            && self.is_expired(&record)
        {
            return Ok((Miss::Expired { age: record.age() }, id));
        }
        let family = self.cache().family(self.family_of(node, id)).map_err(store_failed)?;
        let miss = match family.nearest(parts) {
            None => self.miss_elsewhere(node, parts),
            Some(before) => Miss::between(&before.components, parts).unwrap_or(Miss::Gone),
        };
        let changed = match &miss {
            Miss::Component { label, .. } => input_number(label).and_then(|at| inputs.get(at)),
            _ => None,
        };
        Ok(match changed {
            Some(input) => (Miss::Before(self.plan.node(input.cause).name.clone()), input.cause),
            None => (miss, id),
        })
    }

    fn remember(
        &self,
        node: &Node,
        id: NodeId,
        (definition, components): (DefinitionKey, &[Component]),
        layer: &Layer,
        cost_us: u64,
    ) -> Result<(), BuildError> {
        let made = Made {
            definition,
            kind: kind_of(node),
            name: &node.name,
            components,
            family: self.family_of(node, id),
            content: layer.content,
            shape: layer.shape,
            step: &layer.record,
            cost_us,
        };
        self.cache().remember(&made).map_err(store_failed)
    }

    fn make(&self, node: &Node, id: NodeId, inputs: &[&Done]) -> Result<Layer, BuildError> {
        let below = &inputs[0].state;
        match &node.op {
            Op::Run(spec) => self.run(node, id, spec, inputs),
            Op::Copy(spec) => {
                let _place = self.place(Class::Disk, id)?;
                self.copy(node, id, spec, inputs)
            }
            Op::MakeDirectory(spec) => {
                let _place = self.place(Class::Disk, id)?;
                self.directory((node, id), spec, below)
            }
            Op::Scratch | Op::Image(_) | Op::Source(_) => unreachable!("bases make no layer"),
        }
    }

    fn record(&self, layer: davit_image::DiffId, size_bytes: u64) -> StepRecord {
        let epoch = self.epoch.and_then(|epoch| Timestamp::from_unix_seconds(epoch).ok());
        let now = Timestamp::now();
        StepRecord { layer, size_bytes, created: epoch.unwrap_or(now), made: Some(now) }
    }

    fn now(&self) -> i64 {
        self.epoch.unwrap_or_else(|| self.started.unix_seconds())
    }

    /// What the state shows; `None` for the empty one.
    fn below(&self, state: &State) -> Result<Option<Arc<Merged>>, LayerError> {
        if state.layers.is_empty() { Ok(None) } else { self.layers.merged(state).map(Some) }
    }

    /// Writes changes as a layer; with `times`, an earlier layer that is equal in these and in all
    /// else is reused.
    fn store_changes(
        &self,
        node: &Node,
        changes: &[Change],
        opener: &dyn Opener,
        times: Option<Times>,
    ) -> Result<Layer, BuildError> {
        let shape = times.map(|times| shape_key(changes, times));
        if let (Some(shape), CachePolicy::Use) = (shape, self.policy(node)) {
            for record in self.cache().shape(shape).map_err(store_failed)? {
                let candidate = self.layers.open(record.layer).map_err(|e| failed(node, e))?;
                if same_content(changes, opener, &candidate).map_err(|e| failed(node, e))? {
                    return Ok(Layer { record, content: None, shape: Some(shape), same: true });
                }
            }
        }
        let options = WriteOptions { readers: self.threads, ..WriteOptions::default() };
        let written = self.writer().write(changes, opener, &options);
        let written = written.map_err(|error| failed(node, error))?;
        let record = self.record(written.diff_id, written.size_bytes);
        Ok(Layer { record, content: None, shape, same: false })
    }
}

/// What the results of a step of a Dockerfile's are kept under, whatever they were made of.
pub(crate) fn family_of(plan: &Plan, family: &str, (node, id): (&Node, NodeId)) -> Digest {
    // Steps that no instruction stands for are told apart by their number.
    let nodes = &plan.nodes[..id.0 as usize];
    let ordinal = nodes.iter().filter(|other| other.stage == node.stage).count();
    Digest::of(format!("{family}\0{}\0{ordinal}", node.stage.0).as_bytes())
}

/// Whose turn a step is.
enum Claim {
    Found(StepRecord),
    /// Ours; `None` where nobody is to be kept out.
    Ours(Option<davit_store::FlightGuard>),
}

/// What a step's record is called.
fn kind_of(node: &Node) -> &'static str {
    if matches!(node.op, Op::Run(_)) { "run" } else { "copy" }
}

fn failed(node: &Node, source: impl std::error::Error + Send + Sync + 'static) -> BuildError {
    let step = node.name.clone();
    BuildError::new(BuildErrorKind::Step { step, source: Box::new(source) })
}

pub(crate) fn store_failed(source: davit_store::StoreError) -> BuildError {
    let what = "use the store";
    BuildError::new(BuildErrorKind::Result { what, source: Box::new(source) })
}

impl From<davit_store::StoreError> for BuildError {
    fn from(source: davit_store::StoreError) -> Self {
        store_failed(source)
    }
}
