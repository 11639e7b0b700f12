//! One build from beginning to end.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use davit_dockerfile::{Dockerfile, Glob, ParseError, Patterns, Span};
use davit_image::{Digest, Timestamp};
use davit_snapshot::Snapshots;
use davit_store::{LayerIngest, Lease, Store, StoredDocument};

use crate::{
    BaseImages, BuildEvent, BuildOutcome, BuildRequest, BuiltLayer, CachePolicy, EventSink, StepId,
    StepInfo,
    archives::read_archive,
    cache::{Cache, ImageRecord},
    context::ContextOptions,
    context_files::{ContextFiles, read_archived},
    copy::Archive,
    definition::{components, selected},
    error::{BuildError, BuildErrorKind, Excerpt},
    executor::execute,
    files::FileSet,
    image::{Image, assemble},
    layers::Layers,
    log::BuildLog,
    missing,
    plan::{CopyOrigin, CopySpec, Node, NodeId, Op, Plan, planner},
    request::{ContextSource, IgnoreText},
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
    /// How commands are launched.
    pub run: &'b RunSettings,
    /// The network of commands.
    pub network: FindNetwork<'b>,
    /// Where events go.
    pub events: EventSink<'b>,
    /// Set by another thread to cancel.
    pub cancelled: &'b AtomicBool,
}

/// Builds an image: its layers are in the store, committed lazily; its documents are returned and
/// not stored yet.
///
/// Blocks until done.
///
/// # Errors
/// [`BuildError`] with the place in the Dockerfile where there is one.
pub fn build(
    request: &mut BuildRequest,
    environment: &BuildEnvironment<'_, '_>,
) -> Result<Built, BuildError> {
    let begun = Instant::now();
    let scratch = environment.store.begin_layer(environment.lease).map_err(store_failed)?;
    let archive = read_tar_context(request, &scratch)?;
    let dockerfile = Dockerfile::parse(&request.dockerfile.bytes)
        .map_err(|error| parse_failed(request, error))?;
    let plan = planner::plan(request, &dockerfile, environment.images)?;
    keep_images(&plan, environment)?;
    let steps = step_infos(&plan);
    (environment.events)(BuildEvent::Planned(steps.clone()));
    for warning in &plan.warnings {
        (environment.events)(BuildEvent::Warning(warning.clone()));
    }
    let context = open_context(request, &plan, environment, archive)?;
    let build = Build { request, plan: &plan, context: &context, environment, begun };
    let key = build.key();
    let found = match request.cache {
        CachePolicy::Use => build.find(key, &steps)?,
        CachePolicy::Ignore => None,
    };
    let built = match found {
        Some(built) => built,
        None => build.run(key, &steps, scratch.dir())?,
    };
    context.save();
    Ok(built)
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
    context: &'b ContextFiles,
    environment: &'b BuildEnvironment<'b, 's>,
    begun: Instant,
}

impl Build<'_, '_> {
    /// Key of the whole plan: everything that the image depends on.
    fn key(&self) -> Digest {
        let mut parts = Vec::new();
        for node in &self.plan.nodes {
            let (key, _) = components(node, self.context.set()).finish();
            parts.push(format!("{} {:?}", key.0, node.inputs));
        }
        let target = &self.plan.target;
        parts.push(format!("target {}", target.state.0));
        parts.push(serde_json::to_string(&target.config).expect("a config is JSON"));
        for (entry, node) in &target.history {
            let entry = serde_json::to_string(entry).expect("history is JSON");
            parts.push(format!("{entry} {node:?}"));
        }
        parts.push(format!("epoch {:?}", self.request.source_date_epoch));
        Digest::of(parts.join("\n").as_bytes())
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
        for step in steps {
            (self.environment.events)(BuildEvent::Cached(step.id));
        }
        let layer = |&(diff_id, size_bytes): &(_, u64)| BuiltLayer { diff_id, size_bytes };
        Ok(Some(Built {
            outcome: BuildOutcome {
                manifest: record.manifest,
                image: record.image,
                config: parsed,
                layers: record.layers.iter().map(layer).collect(),
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

    fn run(&self, key: Digest, steps: &[StepInfo], scratch: &Path) -> Result<Built, BuildError> {
        let environment = self.environment;
        let id = environment.lease.id().to_owned();
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
        let session = Session {
            id: &id,
            store: environment.store,
            lease: environment.lease,
            snapshots: environment.snapshots,
            layers: Layers::new(environment.store, environment.lease),
            plan: self.plan,
            context: self.context,
            scratch,
            policy: self.request.cache,
            epoch: self.request.source_date_epoch,
            started: Timestamp::now(),
            events: &logged,
            log: &log,
            cancelled: environment.cancelled,
            stopped: AtomicBool::new(false),
            run: environment.run,
            networks: StepNetworks::new(environment.lease, environment.network),
            supervisor: std::sync::OnceLock::new(),
            family: family(self.request),
            explain: self.request.explain,
            threads: cores(),
        };
        let jobs = if self.request.jobs == 0 { cores() } else { self.request.jobs };
        let done = execute(&session, &self.request.dockerfile, jobs);
        log.flush();
        let done = done.map_err(|error| self.cancelled_or(error))?;
        self.finish(key, &session, &done, steps.len(), &log)
    }

    fn cancelled_or(&self, error: BuildError) -> BuildError {
        if self.environment.cancelled.load(Ordering::Relaxed) {
            return BuildError::new(BuildErrorKind::Cancelled);
        }
        error
    }

    fn finish(
        &self,
        key: Digest,
        session: &Session<'_, '_>,
        done: &[Done],
        steps: usize,
        log: &BuildLog,
    ) -> Result<Built, BuildError> {
        let target = &self.plan.target;
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
        let epoch = self.request.source_date_epoch;
        let epoch = epoch.and_then(|seconds| Timestamp::from_unix_seconds(seconds).ok());
        let image: Image =
            assemble(target, &layers, epoch, |node: NodeId| done[node.0 as usize].layer.clone());
        let layer = |&(diff_id, size_bytes): &(_, u64)| BuiltLayer { diff_id, size_bytes };
        let cached = self.plan.nodes.iter().zip(done);
        let cached =
            cached.filter(|(node, done)| done.cached && !matches!(node.op, Op::Scratch)).count();
        Ok(Built {
            outcome: BuildOutcome {
                manifest: image.manifest.digest,
                image: image.id,
                config: image.config,
                layers: layers.iter().map(layer).collect(),
                cached_steps: cached,
                steps,
                log: Some(log.path().to_path_buf()),
            },
            config: image.config_document,
            manifest: image.manifest,
            key,
            cost_us: u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX),
        })
    }
}

/// Reads a context that is a tar, and the Dockerfile where it is in there.
fn read_tar_context(
    request: &mut BuildRequest,
    scratch: &LayerIngest<'_>,
) -> Result<Option<Archive>, BuildError> {
    let ContextSource::Tar(stream) = &mut request.context else { return Ok(None) };
    let archive = read_archive(&mut *stream.0, scratch.dir())
        .map_err(|error| tar_failed(std::io::Error::other(error)))?;
    if request.dockerfile.in_context {
        let names = [request.dockerfile.name.clone(), request.dockerfile.name.to_lowercase()];
        let found = names.iter().find_map(|name| read_archived(&archive, name).transpose());
        let Some(bytes) = found.transpose().map_err(tar_failed)? else {
            let message = format!("the context holds no `{}`", request.dockerfile.name);
            return Err(BuildError::new(BuildErrorKind::Plan(message)));
        };
        request.dockerfile.bytes = bytes;
    }
    Ok(Some(archive))
}

fn tar_failed(source: std::io::Error) -> BuildError {
    BuildError::new(BuildErrorKind::Context { path: "-".into(), source })
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
    let steps = (0..).zip(&plan.nodes).filter(|(_, node)| !matches!(node.op, Op::Scratch));
    steps
        .map(|(id, node)| StepInfo {
            id: StepId(id),
            name: node.name.clone(),
            line: node.span.map_or(0, |span| span.first_line),
        })
        .collect()
}

fn context_copies(plan: &Plan) -> impl Iterator<Item = (&Node, &CopySpec)> {
    plan.nodes.iter().filter_map(|node| match &node.op {
        Op::Copy(spec) if spec.origin == CopyOrigin::Context => Some((node, spec)),
        _ => None,
    })
}

fn open_context(
    request: &BuildRequest,
    plan: &Plan,
    environment: &BuildEnvironment<'_, '_>,
    archive: Option<Archive>,
) -> Result<ContextFiles, BuildError> {
    let sources: Vec<String> =
        context_copies(plan).flat_map(|(_, spec)| spec.sources.iter().cloned()).collect();
    let ignore = ignore_file(request, archive.as_ref())?;
    let patterns = match &ignore {
        Some(text) => Some(Patterns::read(&text.bytes).map_err(|error| {
            let kind = BuildErrorKind::Ignore { file: text.name.clone(), source: error };
            BuildError::new(kind)
        })?),
        None => None,
    };
    let cache = environment.store.layout().cache();
    environment.store.make_dir(&cache).map_err(store_failed)?;
    let options = ContextOptions {
        path: Path::new(""),
        sources,
        ignore: patterns.as_ref(),
        cache: &cache,
        threads: cores(),
    };
    let mut context = ContextFiles::open(&request.context, options, archive)?;
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for (node, spec) in context_copies(plan) {
        for source in &spec.sources {
            let found = selected(source, context.set());
            if found.is_empty() && !Glob::has_wildcards(source) {
                let lost = Lost { request, node, source, ignore: ignore.as_ref() };
                return Err(lost.error(patterns.as_ref(), context.set()));
            }
            ranges.extend(found.iter().map(|(_, at)| *at..context.set().subtree_end(*at)));
        }
    }
    context.digest(&ranges)?;
    Ok(context)
}

/// The ignore file: the one beside the Dockerfile, else the context's own.
fn ignore_file(
    request: &BuildRequest,
    archive: Option<&Archive>,
) -> Result<Option<IgnoreText>, BuildError> {
    if let Some(ignore) = &request.dockerfile.ignore {
        return Ok(Some(ignore.clone()));
    }
    if let Some(archive) = archive {
        let own = format!("{}.dockerignore", request.dockerfile.name);
        for name in [own.as_str(), ".dockerignore"] {
            if let Some(bytes) = read_archived(archive, name).map_err(tar_failed)? {
                return Ok(Some(IgnoreText { name: name.to_owned(), bytes }));
            }
        }
        return Ok(None);
    }
    let ContextSource::Directory(path) = &request.context else { return Ok(None) };
    let path = path.join(".dockerignore");
    match fs_err::read(&path) {
        Ok(bytes) => Ok(Some(IgnoreText { name: ".dockerignore".to_owned(), bytes })),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(BuildError::new(BuildErrorKind::Context { path, source })),
    }
}

/// A source that is not in the context.
struct Lost<'a> {
    request: &'a BuildRequest,
    node: &'a Node,
    source: &'a str,
    ignore: Option<&'a IgnoreText>,
}

impl Lost<'_> {
    fn error(&self, patterns: Option<&Patterns>, set: &FileSet) -> BuildError {
        let step = match &self.node.op {
            Op::Copy(spec) if spec.unpack == crate::plan::Unpack::Archives => "ADD",
            _ => "COPY",
        };
        let source = self.source;
        let deciding = patterns.and_then(|patterns| patterns.deciding(source.as_bytes()));
        let excluded = deciding.filter(|pattern| !pattern.negated);
        let problem = match (excluded, self.ignore) {
            (Some(pattern), Some(file)) => {
                format!("source {source:?} is excluded by {}:{}", file.name, pattern.line)
            }
            _ => format!("source {source:?} is not in the context"),
        };
        let mut error = BuildError::new(BuildErrorKind::Copy { step, problem });
        if let Some(span) = self.node.span {
            error = error.at(self.excerpt(span));
        }
        let near = match &self.request.context {
            ContextSource::Directory(root) => missing::near_in_directory(root, source),
            _ => missing::near_in_set(set, source),
        };
        match (excluded, near) {
            (Some(pattern), _) => error.hint(format!(
                "remove the pattern `{}`, or add `!{source}` below it",
                pattern.text
            )),
            (None, Some(near)) => error.hint(format!("did you mean `{near}`?")),
            (None, None) => error.hint("sources are paths below the context's directory"),
        }
    }

    fn excerpt(&self, span: Span) -> Excerpt {
        let text = &self.request.dockerfile;
        // The source itself is what is wrong, not the whole instruction.
        let whole = Excerpt::new(&text.name, &text.bytes, span, "");
        let part = &whole.text[whole.range.clone()];
        match part.find(self.source).filter(|_| !self.source.is_empty()) {
            Some(at) => {
                let start = whole.range.start + at;
                Excerpt { range: start..start + self.source.len(), ..whole }
            }
            None => whole,
        }
    }
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
        _ => "-".to_owned(),
    };
    format!("{context}\0{}", request.dockerfile.name)
}

/// Threads that walk, read and run: one per core.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
