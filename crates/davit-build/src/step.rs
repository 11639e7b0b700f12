//! Does one step: finds its earlier result, or makes its layer.

use std::{
    fs::File,
    io,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::AtomicBool, atomic::Ordering},
    time::{Duration, Instant},
};

use davit_image::{Digest, Timestamp};
use davit_layer::{Change, Lower, Merged, Opener, WriteOptions};
use davit_snapshot::{Mountpoints, PrepareOptions, Snapshots, Upper};
use davit_store::{Flight, Lease, Store};

use crate::{
    BuildEvent, CachePolicy, EventSink, StepId,
    archives::FileArchives,
    cache::{Cache, Made, StepRecord},
    context_files::ContextFiles,
    copy::{
        Archives, CopyJob, CopyProblem, Finished, NoArchives, Output, Owner, OwnerError,
        content_key, copy, files_of, make_directory, resolve_owner, reuse, same_content, shape_key,
    },
    definition::{components, definition_key},
    error::{BuildError, BuildErrorKind},
    explain::first_difference,
    files::FileSet,
    key::{Component, ContentKey, DefinitionKey, Miss},
    layers::{LayerError, Layers, State, StateFiles, source_of},
    log::BuildLog,
    plan::{
        CopyOrigin, CopySpec, MakeDirectory, Network, Node, NodeId, Op, Ownership, Plan, RunSpec,
        Unpack,
    },
    run::{RunError, RunSettings, StepCommand, Supervisor, network::StepNetworks},
    writer::Writer,
};

/// How long a process waits for another one before it looks again.
const FLIGHT_POLL: Duration = Duration::from_millis(100);
/// How often trees are prepared for one command.
const MOUNT_ATTEMPTS: usize = 3;
/// Last lines of a failed command's output that are kept for the error.
const TAIL_LINES: usize = 20;

/// What all steps of a build share.
pub(crate) struct Session<'b, 's> {
    pub(crate) id: &'b str,
    pub(crate) store: &'s Store,
    pub(crate) lease: &'s Lease<'s>,
    pub(crate) snapshots: &'b Snapshots<'s>,
    pub(crate) layers: Layers<'s>,
    pub(crate) plan: &'b Plan,
    pub(crate) context: &'b ContextFiles,
    /// A directory of the build for what has no other place.
    pub(crate) scratch: &'b Path,
    pub(crate) policy: CachePolicy,
    pub(crate) epoch: Option<i64>,
    pub(crate) started: Timestamp,
    pub(crate) events: EventSink<'b>,
    pub(crate) log: &'b BuildLog,
    pub(crate) cancelled: &'b AtomicBool,
    /// A step failed: the others stop.
    pub(crate) stopped: AtomicBool,
    pub(crate) run: &'b RunSettings,
    pub(crate) networks: StepNetworks<'b, 's>,
    pub(crate) supervisor: OnceLock<Mutex<Option<Arc<Supervisor>>>>,
    /// Distinguishes this Dockerfile's steps from those of others, for explanations.
    pub(crate) family: String,
    pub(crate) threads: usize,
    /// Whether the first file that differs is looked for.
    pub(crate) explain: bool,
}

/// What a node gave.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) state: Arc<State>,
    pub(crate) layer: Option<StepRecord>,
    pub(crate) cached: bool,
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

    const fn cache(&self) -> Cache<'_> {
        Cache { store: self.store, lease: self.lease }
    }

    const fn writer(&self) -> Writer<'_, '_> {
        Writer { store: self.store, lease: self.lease, layers: &self.layers }
    }

    /// Does a node whose inputs are done.
    pub(crate) fn node(&self, id: NodeId, inputs: &[&Done]) -> Result<Done, BuildError> {
        let node = self.plan.node(id);
        let base = |layers| Done { state: State::image(layers), layer: None, cached: true };
        match &node.op {
            Op::Scratch => return Ok(base(Vec::new())),
            Op::Image(image) => {
                (self.events)(BuildEvent::Cached(StepId(id.0)));
                return Ok(base(image.config.rootfs.diff_ids.clone()));
            }
            _ => {}
        }
        let states: Vec<String> = inputs.iter().map(|input| input.state.key()).collect();
        let (key, parts) = definition_key(components(node, self.context.set()), &states);
        let below = &inputs[0].state;
        if let Some(record) = self.find(key)? {
            (self.events)(BuildEvent::Cached(StepId(id.0)));
            let state = below.push(record.layer);
            return Ok(Done { state, layer: Some(record), cached: true });
        }
        let miss = self.miss(node, id, &parts)?;
        (self.events)(BuildEvent::Missed(StepId(id.0), miss));
        let _guard = match self.claim(key)? {
            Claim::Found(record) => {
                (self.events)(BuildEvent::Cached(StepId(id.0)));
                let state = below.push(record.layer);
                return Ok(Done { state, layer: Some(record), cached: true });
            }
            Claim::Ours(guard) => guard,
        };
        let begun = Instant::now();
        (self.events)(BuildEvent::Started(StepId(id.0)));
        let layer = self.make(node, id, inputs)?;
        let cost_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.remember(node, id, (key, &parts), &layer, cost_us)?;
        if layer.same {
            (self.events)(BuildEvent::SameResult(StepId(id.0)));
        }
        (self.events)(BuildEvent::Finished(StepId(id.0), begun.elapsed()));
        let state = below.push(layer.record.layer);
        Ok(Done { state, layer: Some(layer.record), cached: false })
    }

    fn find(&self, key: DefinitionKey) -> Result<Option<StepRecord>, BuildError> {
        match self.policy {
            CachePolicy::Ignore => Ok(None),
            CachePolicy::Use => self.cache().step(key).map_err(store_failed),
        }
    }

    /// Waits until no other process does the same step.
    fn claim(&self, key: DefinitionKey) -> Result<Claim, BuildError> {
        if self.policy == CachePolicy::Ignore {
            return Ok(Claim::Ours(None));
        }
        loop {
            let flight = self.store.single_flight("build", &key.0.to_string());
            match flight.map_err(store_failed)? {
                Flight::Owner(guard) => {
                    // The one before may have ended between the two looks.
                    let found = self.find(key)?;
                    return Ok(found.map_or(Claim::Ours(Some(guard)), Claim::Found));
                }
                Flight::Busy(wait) => {
                    wait.wait(FLIGHT_POLL).map_err(store_failed)?;
                    if self.is_cancelled() {
                        return Err(BuildError::new(BuildErrorKind::Cancelled));
                    }
                    if let Some(record) = self.find(key)? {
                        return Ok(Claim::Found(record));
                    }
                }
            }
        }
    }

    fn family_of(&self, node: &Node, id: NodeId) -> Digest {
        // Steps that no instruction stands for are told apart by their number.
        let nodes = &self.plan.nodes[..id.0 as usize];
        let ordinal = nodes.iter().filter(|other| other.stage == node.stage).count();
        Digest::of(format!("{}\0{}\0{ordinal}", self.family, node.stage.0).as_bytes())
    }

    fn miss(&self, node: &Node, id: NodeId, parts: &[Component]) -> Result<Miss, BuildError> {
        if self.policy == CachePolicy::Ignore {
            return Ok(Miss::NotAsked);
        }
        let family = self.cache().family(self.family_of(node, id)).map_err(store_failed)?;
        let Some(before) = family else { return Ok(Miss::First) };
        Ok(match Miss::between(&before.components, parts) {
            Some(Miss::Component { label, .. }) if label == "state below" => Miss::Below,
            Some(miss) => miss,
            None => Miss::Gone,
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
        let kind = match &node.op {
            Op::Run(_) => "run",
            _ => "copy",
        };
        let made = Made {
            definition,
            kind,
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
            Op::Run(spec) => self.run(node, id, spec, below),
            Op::Copy(spec) => self.copy(node, id, spec, inputs),
            Op::MakeDirectory(spec) => self.directory((node, id), spec, below),
            Op::Scratch | Op::Image(_) => unreachable!("bases make no layer"),
        }
    }

    fn record(&self, layer: davit_image::DiffId, size_bytes: u64) -> StepRecord {
        let epoch = self.epoch.and_then(|epoch| Timestamp::from_unix_seconds(epoch).ok());
        StepRecord { layer, size_bytes, created: epoch.unwrap_or_else(Timestamp::now) }
    }

    fn now(&self) -> i64 {
        self.epoch.unwrap_or_else(|| self.started.unix_seconds())
    }

    /// What the state shows; `None` for the empty one.
    fn below(&self, state: &State) -> Result<Option<Arc<Merged>>, LayerError> {
        if state.layers.is_empty() { Ok(None) } else { self.layers.merged(state).map(Some) }
    }

    fn owner(
        &self,
        owner: Option<&Ownership>,
        state: &State,
        merged: Option<&Merged>,
    ) -> Result<Option<Owner>, BuildErrorKind> {
        let Some(Ownership(text)) = owner else { return Ok(None) };
        let empty = Merged::new(Vec::new()).expect("no layers fit together");
        let tars = self.layers.tars(state).map_err(layer_failed)?;
        let files = StateFiles { merged: merged.unwrap_or(&empty), tars: &tars };
        resolve_owner(text, &files).map(Some).map_err(|error| match error {
            OwnerError::Unknown { what, name, file, known } => BuildErrorKind::Owner {
                what,
                near: davit_dockerfile::nearest(&name, known.iter().map(String::as_str))
                    .map(str::to_owned),
                name,
                file,
            },
            OwnerError::Io(source) => {
                BuildErrorKind::Step { step: "owner".to_owned(), source: Box::new(source) }
            }
        })
    }

    fn directory(
        &self,
        (node, id): (&Node, NodeId),
        spec: &MakeDirectory,
        state: &Arc<State>,
    ) -> Result<Layer, BuildError> {
        let merged = self.below(state).map_err(|error| failed(node, error))?;
        let merged = merged.as_deref();
        let owner = self.owner(spec.owner.as_ref(), state, merged)?.unwrap_or_default();
        let outputs = make_directory(spec, merged, owner, self.now())
            .map_err(|problem| copy_failed("WORKDIR", &problem))?;
        self.store_outputs((node, id), outputs, &FileSet::default(), &[])
    }

    fn copy(
        &self,
        node: &Node,
        id: NodeId,
        spec: &CopySpec,
        inputs: &[&Done],
    ) -> Result<Layer, BuildError> {
        let state = &inputs[0].state;
        let error = |error: LayerError| failed(node, error);
        let merged = if spec.link { None } else { self.below(state).map_err(error)? };
        let owner_state = if spec.link { State::image(Vec::new()) } else { Arc::clone(state) };
        let owner = self.owner(spec.owner.as_ref(), &owner_state, merged.as_deref())?;
        let from = match (spec.origin, inputs.get(1)) {
            (CopyOrigin::Input, Some(from)) => Some(self.source_files(node, spec, &from.state)?),
            _ => None,
        };
        let context_open = |entry: &_| self.context.open_file(entry, self.scratch);
        let unpacker = FileArchives { open: &context_open, directory: self.scratch };
        let archives: &dyn Archives = match spec.unpack {
            Unpack::Archives => &unpacker,
            Unpack::Never => &NoArchives,
        };
        let files = from.as_ref().map_or_else(|| self.context.set(), |(files, _)| files);
        let now = self.now();
        let below = merged.as_deref();
        let outputs = copy(&CopyJob { spec, files, below, owner, archives, now });
        let keyword = if spec.unpack == Unpack::Never { "COPY" } else { "ADD" };
        let outputs = outputs.map_err(|problem| copy_failed(keyword, &problem))?;
        let layers = from.as_ref().map_or_else(|| self.context.layers(), |(_, layers)| layers);
        self.store_outputs((node, id), outputs, files, layers)
    }

    /// The files of another state that a copy reaches, and the layers that hold them.
    fn source_files(
        &self,
        node: &Node,
        spec: &CopySpec,
        state: &State,
    ) -> Result<(FileSet, Vec<Arc<crate::layers::OpenLayer>>), BuildError> {
        let error = |error: LayerError| failed(node, error);
        let merged = self.layers.merged(state).map_err(error)?;
        let merged = match merged.base() {
            None => merged,
            Some(_) => Arc::new(merged.flattened().map_err(|source| error(source.into()))?),
        };
        let layers = state.layers.iter().map(|layer| self.layers.open(*layer));
        let layers = layers.collect::<Result<_, _>>().map_err(error)?;
        let set = crate::selection::select(&spec.sources, |selectors| {
            Ok::<_, std::convert::Infallible>(files_of(&merged, selectors))
        });
        let set = match set {
            Ok(set) => set,
            Err(never) => match never {},
        };
        Ok((set, layers))
    }

    /// Writes outputs as a layer, unless a layer that holds the same is there.
    fn store_outputs(
        &self,
        (node, id): (&Node, NodeId),
        mut outputs: Vec<Output>,
        files: &FileSet,
        layers: &[Arc<crate::layers::OpenLayer>],
    ) -> Result<Layer, BuildError> {
        let content = content_key(&outputs);
        if let (Some(content), CachePolicy::Use) = (content, self.policy)
            && let Some(record) = self.cache().content(content).map_err(store_failed)?
        {
            return Ok(Layer { record, content: Some(content), shape: None, same: true });
        }
        let digests: Vec<_> = outputs.iter().map(|output| output.content.digest()).collect();
        self.reuse((node, id), &mut outputs)?;
        let finished =
            Finished::new(outputs, |layer, entry| source_of(&layers[layer as usize], entry));
        let opener = ContextOpener {
            context: self.context,
            files,
            positions: &finished.files,
            scratch: self.scratch,
        };
        if self.explain {
            self.explain_files((node, id), &finished.changes, &opener)?;
        }
        let mut layer = self.store_changes(node, &finished.changes, &opener, content.is_none())?;
        layer.content = content;
        if content.is_some() {
            let remembered =
                self.writer().remember_digests(layer.record.layer, &finished.changes, &digests);
            remembered.map_err(|error| failed(node, error))?;
        }
        Ok(layer)
    }

    /// Lets a copy take what did not change from the layer that it made before.
    fn reuse(&self, (node, id): (&Node, NodeId), outputs: &mut [Output]) -> Result<(), BuildError> {
        if self.policy == CachePolicy::Ignore {
            return Ok(());
        }
        let family = self.cache().family(self.family_of(node, id)).map_err(store_failed)?;
        let Some(before) = family.map(|family| family.layer) else { return Ok(()) };
        // It may have been pruned.
        let Ok(layer) = self.layers.open(before) else { return Ok(()) };
        if let Some(digests) = self.layers.digests(before, &layer) {
            reuse(outputs, &layer, &digests);
        }
        Ok(())
    }

    /// Tells the first file in which a copy differs from its last result, if that is still here.
    fn explain_files(
        &self,
        (node, id): (&Node, NodeId),
        changes: &[Change],
        opener: &dyn Opener,
    ) -> Result<(), BuildError> {
        let family = self.cache().family(self.family_of(node, id)).map_err(store_failed)?;
        let Some(before) = family.and_then(|family| self.layers.open(family.layer).ok()) else {
            return Ok(());
        };
        let found = first_difference(changes, opener, &before).map_err(|e| failed(node, e))?;
        if let Some(miss) = found {
            (self.events)(BuildEvent::Missed(StepId(id.0), miss));
        }
        Ok(())
    }

    /// Writes changes as a layer; with `by_shape`, an earlier layer of equal content is reused.
    fn store_changes(
        &self,
        node: &Node,
        changes: &[Change],
        opener: &dyn Opener,
        by_shape: bool,
    ) -> Result<Layer, BuildError> {
        let shape = by_shape.then(|| shape_key(changes));
        if let (Some(shape), CachePolicy::Use) = (shape, self.policy) {
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

    fn run(
        &self,
        node: &Node,
        id: NodeId,
        spec: &RunSpec,
        state: &Arc<State>,
    ) -> Result<Layer, BuildError> {
        let merged = self.layers.merged(state).map_err(|error| failed(node, error))?;
        let scratch = self.store.begin_layer(self.lease).map_err(store_failed)?;
        let upper = self.snapshots.upper(scratch.dir().to_path_buf());
        self.run_command(node, id, (spec, state, &merged), &upper, scratch.dir())?;
        let supervisor = self.supervisor().map_err(|error| failed(node, error))?;
        let pid = supervisor.pid();
        let written = Written {
            keep: !matches!(upper, Upper::Tmpfs { .. }),
            directory: upper.directory(self.snapshots.location(), pid),
        };
        let tars = self.layers.tars(state).map_err(|error| failed(node, error))?;
        let xattrs = WriteOptions::default().xattrs;
        let lower = Lower { merged: &merged, tars: &tars, xattrs };
        let changes = self.snapshots.changes((&upper, pid), &lower, Mountpoints::Build);
        let changes = changes.map_err(|error| failed(node, error))?;
        let changes =
            changes.ok_or_else(|| failed(node, io::Error::from(io::ErrorKind::NotFound)))?;
        let stored = self.store_changes(node, &changes.changes, &changes, true);
        drop(written);
        stored
    }

    fn run_command(
        &self,
        node: &Node,
        id: NodeId,
        (spec, state, merged): (&RunSpec, &State, &Arc<Merged>),
        upper: &Upper,
        directory: &Path,
    ) -> Result<(), BuildError> {
        let supervisor = self.supervisor().map_err(|error| failed(node, error))?;
        let place = match spec.network {
            Network::Default => Some(self.networks.place()),
            Network::None | Network::Host => None,
        };
        let place = place.transpose().map_err(|error| unconnected(node, error))?;
        let mut options = PrepareOptions::new(Mountpoints::Build);
        options.view = Some(Arc::clone(merged));
        let mut tail = Tail::default();
        let mut output = |stream, bytes: &[u8]| {
            self.log.output(StepId(id.0), bytes);
            tail.push(bytes);
            (self.events)(BuildEvent::Output(StepId(id.0), stream, bytes.to_vec()));
        };
        let mut attempts = 0;
        let code = loop {
            attempts += 1;
            let stack = self.snapshots.prepare(&state.layers, &options);
            let stack = stack.map_err(|error| failed(node, error))?;
            let command = StepCommand {
                spec,
                stack: &stack,
                upper: upper.clone(),
                directory,
                place: place.as_ref(),
            };
            match supervisor.run(&command, &mut output, &|| self.is_cancelled()) {
                Err(RunError::Stale(_)) if attempts < MOUNT_ATTEMPTS => {}
                Err(RunError::Cancelled) => {
                    return Err(BuildError::new(BuildErrorKind::Cancelled));
                }
                Err(error @ RunError::Unconnected(_)) => return Err(unconnected(node, error)),
                result => break result.map_err(|error| failed(node, error))?,
            }
        };
        if code == 0 { Ok(()) } else { Err(command_failed(spec, code, &tail)) }
    }

    fn supervisor(&self) -> Result<Arc<Supervisor>, RunError> {
        let slot = self.supervisor.get_or_init(|| Mutex::new(None));
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Some(supervisor) => Ok(Arc::clone(supervisor)),
            None => {
                let supervisor = Arc::new(Supervisor::start(self.run, self.id)?);
                Ok(Arc::clone(slot.insert(supervisor)))
            }
        }
    }
}

/// Whose turn a step is.
/// What a command wrote. On a tmpfs it is removed when the layer is made, since the supervisor has
/// that memory mounted as long as the build runs; a directory goes with its scratch directory.
struct Written {
    directory: std::path::PathBuf,
    keep: bool,
}

impl Drop for Written {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = fs_err::remove_dir_all(self.directory.join("upper"))
        {
            tracing::debug!(%error, "what a command wrote stays in memory until the build ends");
        }
    }
}

enum Claim {
    Found(StepRecord),
    /// Ours; `None` where nobody is to be kept out.
    Ours(Option<davit_store::FlightGuard>),
}

/// Opens the context's files for the layer writer.
struct ContextOpener<'a> {
    context: &'a ContextFiles,
    files: &'a FileSet,
    positions: &'a [Option<usize>],
    scratch: &'a Path,
}

impl Opener for ContextOpener<'_> {
    fn open(&self, position: usize, _change: &Change) -> io::Result<File> {
        let index = self.positions.get(position).copied().flatten();
        let index = index.ok_or(io::ErrorKind::NotFound)?;
        self.context.open_file(&self.files.entries[index], self.scratch)
    }
}

/// The last lines of a command's output.
#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
}

impl Tail {
    const LIMIT: usize = 16 * 1024;

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > 2 * Self::LIMIT {
            self.bytes.drain(..self.bytes.len() - Self::LIMIT);
        }
    }

    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(|&it| it.to_owned()).collect()
    }
}

fn command_failed(spec: &RunSpec, code: i32, tail: &Tail) -> BuildError {
    let command = spec.args.join(" ");
    let lines = tail.lines();
    let text = lines.join("\n").to_lowercase();
    let error = BuildError::new(BuildErrorKind::Command { command, code, tail: lines });
    if text.contains("invalid cross-device link") || text.contains("exdev") {
        return error.hint(
            "directories of the layers below cannot be renamed (EXDEV); copy and remove instead",
        );
    }
    match code {
        137 => error.hint("the command was killed; the machine may be short of memory"),
        127 => error.hint("the shell did not find a program; is its package installed?"),
        _ => error,
    }
}

fn copy_failed(keyword: &'static str, problem: &CopyProblem) -> BuildError {
    BuildError::new(BuildErrorKind::Copy { step: keyword, problem: problem.message() })
}

fn failed(node: &Node, source: impl std::error::Error + Send + Sync + 'static) -> BuildError {
    let step = node.name.clone();
    BuildError::new(BuildErrorKind::Step { step, source: Box::new(source) })
}

fn unconnected(node: &Node, source: impl std::error::Error + Send + Sync + 'static) -> BuildError {
    failed(node, source)
        .hint("--network none builds without a network, --network host with the machine's own")
}

fn layer_failed(source: LayerError) -> BuildErrorKind {
    BuildErrorKind::Step { step: "layers".to_owned(), source: Box::new(source) }
}

pub(crate) fn store_failed(source: davit_store::StoreError) -> BuildError {
    let what = "use the store";
    BuildError::new(BuildErrorKind::Result { what, source: Box::new(source) })
}
