//! One build from beginning to end.

pub(crate) mod call;
mod context;
mod epoch;
mod remote;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use davit_dockerfile::{Dockerfile, ParseError};
use davit_image::{Digest, Timestamp};
use davit_snapshot::Snapshots;
use davit_store::{Lease, Store, StoredDocument};

use self::{
    call::CallEnvironment,
    context::{main_ignore, open_contexts, read_tar_context},
    remote::read_remote,
};
use crate::{
    BaseImages, BuildEvent, BuildOutcome, BuildRequest, BuiltLayer, CachePolicy, EventSink,
    SharedCache, Sources, StepId, StepInfo,
    cache::{Cache, ImageRecord},
    checks::Checks,
    definition::components,
    error::{BuildError, BuildErrorKind, Excerpt},
    executor::execute,
    frontend,
    image::{Image, assemble},
    inputs::{Inputs, fetch_sources},
    layers::Layers,
    log::BuildLog,
    plan::{
        NodeId, Op, Plan, Target,
        platforms::{self, Asked},
    },
    request::ContextSource,
    run::{
        RunSettings,
        network::{FindNetwork, StepNetworks},
    },
    step::{Done, Session, store_failed},
};

/// What a build works with.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "callbacks have nothing to show")]
pub struct BuildEnvironment<'b, 's> {
    /// The store.
    pub store: &'s Store,
    /// Keeps what the build needs and makes; outlives the commit of its result.
    pub lease: &'s Lease<'s>,
    /// Root filesystems.
    pub snapshots: &'b Snapshots<'s>,
    /// Base images.
    pub images: &'b dyn BaseImages,
    /// What lies elsewhere.
    pub sources: &'b dyn Sources,
    /// Caches that are shared with others.
    pub shared: Option<&'b dyn SharedCache>,
    /// How commands are launched.
    pub run: &'b RunSettings,
    /// The network of commands.
    pub network: FindNetwork<'b>,
    /// Where events go.
    pub events: EventSink<'b>,
    /// Set by another thread to cancel.
    pub cancelled: &'b AtomicBool,
}

impl<'b, 's> BuildEnvironment<'b, 's> {
    /// What is needed before there is a plan.
    const fn for_calls(&self) -> CallEnvironment<'b, 's> {
        CallEnvironment {
            store: self.store,
            lease: self.lease,
            images: self.images,
            sources: self.sources,
            cancelled: self.cancelled,
        }
    }
}

/// Builds an image for each platform, in the order of the request: their layers are in the store,
/// committed lazily; their documents are returned and not stored yet.
///
/// Blocks until done.
///
/// # Errors
/// [`BuildError`] with the place in the Dockerfile where there is one.
pub fn build(
    request: &mut BuildRequest,
    environment: &BuildEnvironment<'_, '_>,
) -> Result<Vec<Built>, BuildError> {
    build_whole(request, environment).map_err(|error| {
        // Whatever was given up for it.
        let cancelled = environment.cancelled.load(Ordering::Relaxed);
        if cancelled { BuildError::new(BuildErrorKind::Cancelled) } else { error }
    })
}

fn build_whole(
    request: &mut BuildRequest,
    environment: &BuildEnvironment<'_, '_>,
) -> Result<Vec<Built>, BuildError> {
    let begun = Instant::now();
    let scratch = environment.store.begin_layer(environment.lease).map_err(store_failed)?;
    let mut remote = read_remote(request, &environment.for_calls(), scratch.dir())?;
    let archive = match remote.archive.take() {
        Some(archive) => Some(archive),
        None => read_tar_context(request, &scratch, environment.cancelled)?,
    };
    frontend::check(request)?;
    let dockerfile = Dockerfile::parse(&request.dockerfile.bytes)
        .map_err(|error| parse_failed(request, error))?;
    if request.sandbox.needs_salt() {
        // Random bytes that stay in the store: without them nobody guesses a value from a key.
        let salt = environment.store.secret_salt().map_err(store_failed)?;
        request.sandbox.salt(&salt);
    }
    let known = (&mut remote, archive.as_ref(), scratch.dir());
    epoch::resolve(request, &dockerfile, &environment.for_calls(), known)?;
    let ignore = main_ignore(request)?;
    let mut found = Vec::new();
    let asked = Asked { images: environment.images, ignore: ignore.as_ref() };
    let plan = platforms::plan(request, &dockerfile, &asked, &mut found);
    if let Some(checks) = Checks::of(request, found) {
        (environment.events)(BuildEvent::Checked(Arc::new(checks)));
    }
    let plan = plan?;
    keep_images(&plan, environment)?;
    let steps = step_infos(&plan);
    (environment.events)(BuildEvent::Planned(steps.clone()));
    if request.rewrite_timestamp && plan.epoch.is_none() {
        let text = "rewrite-timestamp has no effect without SOURCE_DATE_EPOCH".to_owned();
        (environment.events)(BuildEvent::Warning(text));
    }
    for warning in &plan.warnings {
        (environment.events)(BuildEvent::Warning(warning.clone()));
    }
    let contexts = open_contexts(request, &plan, environment, archive)?;
    let sources = fetch_sources(&plan, request, environment, remote.sources)?;
    let inputs = Inputs { contexts, sources };
    let build = Build { request, plan: &plan, inputs: &inputs, environment, begun };
    std::thread::scope(|scope| {
        // The next build can use the digests even if this one fails.
        scope.spawn(|| inputs.save());
        let found = match request.cache {
            CachePolicy::Use if build.may_be_whole() => build.find_all(&steps)?,
            _ => None,
        };
        match found {
            Some(built) => Ok(built),
            None => build.run(&steps, scratch.dir()),
        }
    })
}

/// A finished build.
#[derive(Clone, Debug)]
pub struct Built {
    /// What it gave.
    pub outcome: BuildOutcome,
    /// The config.
    pub config: StoredDocument,
    /// The manifest.
    pub manifest: StoredDocument,
    key: Digest,
    cost_us: u64,
}

impl Built {
    /// Remembers the image for the next build of the same plan; its documents are in the store.
    ///
    /// # Errors
    /// What the store says.
    pub fn remember(&self, store: &Store, lease: &Lease<'_>) -> Result<(), BuildError> {
        let layers = self.outcome.layers.iter();
        let record = ImageRecord {
            manifest: self.manifest.digest,
            image: self.outcome.image,
            layers: layers.map(|layer| (layer.diff_id, layer.size_bytes)).collect(),
        };
        Cache { store, lease }.remember_image(self.key, &record, self.cost_us).map_err(store_failed)
    }
}

struct Build<'b, 's> {
    request: &'b BuildRequest,
    plan: &'b Plan,
    inputs: &'b Inputs,
    environment: &'b BuildEnvironment<'b, 's>,
    begun: Instant,
}

impl Build<'_, '_> {
    /// Key of the whole plan: everything that an image of it depends on.
    fn key(&self, target: &Target) -> Digest {
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
        Digest::of(parts.join("\n").as_bytes())
    }

    /// Whether the record of a whole image says no less than those of its steps.
    fn may_be_whole(&self) -> bool {
        let counts = |node: &crate::plan::Node| node.cache == CachePolicy::Use;
        let wanted = self.environment.shared.is_some_and(SharedCache::wants_results);
        !wanted && self.request.cache_ttl.is_none() && self.plan.nodes.iter().all(counts)
    }

    /// The images that the same plan gave before, if all of them are here.
    fn find_all(&self, steps: &[StepInfo]) -> Result<Option<Vec<Built>>, BuildError> {
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
        Ok(Some(Built {
            outcome: BuildOutcome {
                manifest: record.manifest,
                image: record.image,
                config: parsed,
                layers: record.layers.iter().map(layer).collect(),
                epoch: self.plan.epoch,
                cached_steps: steps.len(),
                steps: steps.len(),
                log: None,
            },
            config: StoredDocument::new(davit_image::MediaType::OCI_CONFIG, config),
            manifest: StoredDocument::new(davit_image::MediaType::OCI_MANIFEST, manifest),
            key,
            cost_us: 0,
        }))
    }

    fn run(&self, steps: &[StepInfo], scratch: &Path) -> Result<Vec<Built>, BuildError> {
        let environment = self.environment;
        let id = environment.lease.id().to_owned();
        // The next build tries again.
        if let Err(error) = environment.store.trim_build_files() {
            tracing::warn!(%error, "old logs of builds remain");
        }
        let path = environment.store.layout().build_log(&id);
        let log = BuildLog::create(&path).map_err(|source| {
            BuildError::new(BuildErrorKind::Result {
                what: "write the build's log",
                source: Box::new(source),
            })
        })?;
        let logged = |event: BuildEvent| {
            note(&log, steps, &event);
            (environment.events)(event);
        };
        let mut session = Session {
            id: &id,
            store: environment.store,
            lease: environment.lease,
            snapshots: environment.snapshots,
            layers: Layers::new(environment.store, environment.lease),
            plan: self.plan,
            inputs: self.inputs,
            scratch,
            policy: self.request.cache,
            ttl: self.request.cache_ttl,
            epoch: self.plan.epoch,
            started: Timestamp::now(),
            events: &logged,
            log: &log,
            cancelled: environment.cancelled,
            stopped: AtomicBool::new(false),
            run: environment.run,
            sandbox: &self.request.sandbox,
            networks: StepNetworks::new(environment.lease, environment.network),
            supervisor: std::sync::OnceLock::new(),
            family: family(self.request),
            shared: environment.shared,
            elsewhere: BTreeMap::new(),
            results: Mutex::default(),
            explain: self.request.explain,
            threads: cores(),
        };
        session.elsewhere = session.bring_needed()?;
        let jobs = if self.request.jobs == 0 { cores() } else { self.request.jobs };
        let done = execute(&session, &self.request.dockerfile, jobs);
        log.flush();
        let done = done?;
        session.offer_results();
        let finish = |target| self.finish(target, &session, &done, steps.len());
        self.plan.targets().map(finish).collect()
    }

    fn finish(
        &self,
        target: &Target,
        session: &Session<'_, '_>,
        done: &[Done],
        steps: usize,
    ) -> Result<Built, BuildError> {
        let state = &done[target.state.0 as usize].state;
        let mut sizes: BTreeMap<_, u64> = done
            .iter()
            .filter_map(|done| done.layer.as_ref())
            .map(|record| (record.layer, record.size_bytes))
            .collect();
        let mut layers = Vec::new();
        for &layer in &state.layers {
            let size = match sizes.get(&layer) {
                Some(size) => *size,
                None => {
                    let row = session.store.layer(&layer).map_err(store_failed)?;
                    row.map_or(0, |row| row.tar_size)
                }
            };
            sizes.insert(layer, size);
            layers.push((layer, size));
        }
        let epoch = self.plan.epoch;
        if let Some(epoch) = epoch.filter(|_| self.request.rewrite_timestamp) {
            let base = self.plan.base_of(target);
            let kept = base.map_or(0, |base| base.config.rootfs.diff_ids.len());
            for layer in layers.iter_mut().skip(kept) {
                *layer = session.clamp(*layer, epoch)?;
            }
        }
        let epoch = epoch.and_then(|seconds| Timestamp::from_unix_seconds(seconds).ok());
        let image: Image =
            assemble(target, &layers, epoch, |node: NodeId| done[node.0 as usize].layer.clone());
        let layer = |&(diff_id, size_bytes): &(_, u64)| BuiltLayer { diff_id, size_bytes };
        // A base image is there in any case, which is not the cache's doing.
        let from_cache = |node: &crate::plan::Node| match node.op {
            Op::Scratch | Op::Source(_) => false,
            Op::Image(_) => self.request.cache == CachePolicy::Use,
            _ => true,
        };
        let cached = self.plan.nodes.iter().zip(done);
        let cached = cached.filter(|(node, done)| done.cached && from_cache(node)).count();
        Ok(Built {
            outcome: BuildOutcome {
                manifest: image.manifest.digest,
                image: image.id,
                config: image.config,
                layers: layers.iter().map(layer).collect(),
                epoch: self.plan.epoch,
                cached_steps: cached,
                steps,
                log: Some(session.log.path().to_path_buf()),
            },
            config: image.config_document,
            manifest: image.manifest,
            key: self.key(target),
            cost_us: u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX),
        })
    }
}

fn parse_failed(request: &BuildRequest, error: ParseError) -> BuildError {
    let text = &request.dockerfile;
    let excerpt = Excerpt::new(&text.name, &text.bytes, error.span, error.kind.to_string());
    let suggestion = error.suggestion.clone();
    let failed = BuildError::new(BuildErrorKind::Parse(error)).at(excerpt);
    match suggestion {
        Some(near) => failed.hint(format!("did you mean `{near}`?")),
        None => failed,
    }
}

/// Lets the lease keep the layers of all bases.
fn keep_images(plan: &Plan, environment: &BuildEnvironment<'_, '_>) -> Result<(), BuildError> {
    for node in &plan.nodes {
        let Op::Image(image) = &node.op else { continue };
        for layer in &image.config.rootfs.diff_ids {
            let row = environment.lease.hold_layer(layer).map_err(store_failed)?;
            if row.is_none() {
                let source = Box::new(crate::LayerError::Missing(*layer));
                let reference = image.name.clone();
                return Err(BuildError::new(BuildErrorKind::Base { reference, source }));
            }
        }
    }
    Ok(())
}

fn step_infos(plan: &Plan) -> Arc<[StepInfo]> {
    let is_step = |node: &crate::plan::Node| !matches!(node.op, Op::Scratch | Op::Source(_));
    let steps = (0..).zip(&plan.nodes).filter(|(_, node)| is_step(node));
    steps
        .map(|(id, node)| StepInfo {
            id: StepId(id),
            name: node.name.clone(),
            line: node.span.map_or(0, |span| span.first_line),
        })
        .collect()
}

fn note(log: &BuildLog, steps: &[StepInfo], event: &BuildEvent) {
    let name =
        |id: StepId| steps.iter().find(|step| step.id == id).map_or("", |step| step.name.as_str());
    match event {
        BuildEvent::Started(id) => log.line(*id, name(*id)),
        BuildEvent::Cached(id) => log.line(*id, &format!("CACHED {}", name(*id))),
        BuildEvent::SameResult(id) => log.line(*id, "same result as before"),
        BuildEvent::Finished(id, time) => {
            log.line(*id, &format!("DONE {:.3}s", time.as_secs_f64()))
        }
        BuildEvent::Failed(id) => log.line(*id, "FAILED"),
        BuildEvent::Missed(..)
        | BuildEvent::Checked(_)
        | BuildEvent::Planned(_)
        | BuildEvent::Output(..)
        | BuildEvent::Progress { .. }
        | BuildEvent::Warning(_) => {}
    }
}

/// What tells this Dockerfile from others.
fn family(request: &BuildRequest) -> String {
    let context = match &request.context {
        ContextSource::Directory(path) => {
            fs_err::canonicalize(path).unwrap_or_else(|_| path.clone()).display().to_string()
        }
        ContextSource::Remote(source) => source.to_string(),
        _ => "-".to_owned(),
    };
    format!("{context}\0{}", request.dockerfile.name)
}

/// Threads that walk, read and run: one per core.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
