//! One build from beginning to end.

pub(crate) mod at;
pub(crate) mod call;
mod context;
pub(crate) mod drafts;
mod epoch;
mod found;
mod made;
mod remote;
mod repeat;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use davit_dockerfile::{Dockerfile, ParseError};
use davit_image::{Descriptor, DiffId, Digest, ImageId, Manifest};
use davit_snapshot::Snapshots;
use davit_store::{Lease, Store, StoredDocument};

use self::{
    at::At,
    call::CallEnvironment,
    context::{main_ignore, open_contexts, read_tar_context},
    drafts::{Drafting, Drafts},
    remote::read_remote,
};
use crate::{
    BaseImages, BuildEvent, BuildOutcome, BuildRequest, CachePolicy, EventSink, Repeat,
    SharedCache, Sources, StepId, StepInfo,
    cache::{Cache, ImageRecord},
    checks::Checks,
    error::{BuildError, BuildErrorKind, Excerpt},
    frontend,
    inputs::{Inputs, fetch_sources},
    plan::{
        NodeId, Op, Plan,
        platforms::{self, Asked},
    },
    provenance::{Origins, Provenance, gather},
    request::ContextSource,
    run::{
        RunSettings,
        console::Console,
        network::{FindNetwork, JoinedNetwork},
    },
    shared::FinalStep,
    step::store_failed,
};

/// Takes note of what is final; called from several threads, and must be quick.
pub type FinalSteps<'b> = &'b (dyn Fn(FinalStep) + Sync);

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
    /// The container's for those that are to be in one's.
    pub joined: Option<&'b JoinedNetwork>,
    /// Told of bases and steps as they become final.
    pub finals: Option<FinalSteps<'b>>,
    /// Where events go.
    pub events: EventSink<'b>,
    /// Set by another thread to cancel.
    pub cancelled: &'b AtomicBool,
    /// Who looks at the file system of a step that failed.
    pub on_error: Option<&'b dyn Console>,
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
    match build_whole(request, environment, None) {
        Ok(Reached::Images(images)) => Ok(images),
        Ok(Reached::Exited(_)) => unreachable!("only a command gives an exit code"),
        Err(error) => Err(or_cancelled(error, environment)),
    }
}

/// Builds up to a place, and runs a command in what there is then; yields its exit code. What it
/// changes is thrown away.
///
/// Blocks until done.
///
/// # Errors
/// As [`build`].
pub fn build_at(
    request: &mut BuildRequest,
    environment: &BuildEnvironment<'_, '_>,
    at: (&At, &dyn Console),
) -> Result<i32, BuildError> {
    match build_whole(request, environment, Some(at)) {
        Ok(Reached::Exited(code)) => Ok(code),
        Ok(Reached::Images(_)) => unreachable!("a command gives an exit code"),
        Err(error) => Err(or_cancelled(error, environment)),
    }
}

/// What a build that was given up says, whatever failed for it.
fn or_cancelled(error: BuildError, environment: &BuildEnvironment<'_, '_>) -> BuildError {
    let cancelled = environment.cancelled.load(Ordering::Relaxed);
    if cancelled { BuildError::new(BuildErrorKind::Cancelled) } else { error }
}

/// What a build came to.
enum Reached {
    Images(Vec<Built>),
    /// The exit code of a command.
    Exited(i32),
}

fn build_whole(
    request: &mut BuildRequest,
    environment: &BuildEnvironment<'_, '_>,
    at: Option<(&At, &dyn Console)>,
) -> Result<Reached, BuildError> {
    let begun = Instant::now();
    let scratch = environment.store.begin_layer(environment.lease).map_err(store_failed)?;
    let origins = Origins::of(request);
    let mut remote = read_remote(request, &environment.for_calls(), scratch.dir())?;
    let origins = origins.fetched(request);
    let archive = match remote.archive.take() {
        Some(archive) => Some(archive),
        None => read_tar_context(request, &scratch, environment.cancelled)?,
    };
    frontend::check(request)?;
    let mut dockerfile = Dockerfile::parse(&request.dockerfile.bytes)
        .map_err(|error| parse_failed(request, error))?;
    if let Some((at, _)) = at {
        dockerfile = at::cut(dockerfile, &request.dockerfile, at)?;
        request.target = None;
    }
    (environment.events)(BuildEvent::Read(request.dockerfile.bytes.as_slice().into()));
    add_salt(request, environment.store)?;
    request.open_volumes();
    let known = (&mut remote, archive.as_ref(), scratch.dir());
    epoch::resolve(request, &dockerfile, &environment.for_calls(), known)?;
    let ignore = main_ignore(request)?;
    let mut found = Vec::new();
    let asked = Asked { images: environment.images, ignore: ignore.as_ref() };
    let plan = platforms::plan(request, &dockerfile, &asked, &mut found);
    if let Some(checks) = Checks::of(request, found).filter(|_| at.is_none()) {
        (environment.events)(BuildEvent::Checked(Arc::new(checks)));
    }
    let mut plan = plan?;
    let by_hand = at.map(|(at, console)| (at::arm(&mut plan, at, &request.sandbox), console));
    keep_images(&plan, environment)?;
    let steps = step_infos(&plan, by_hand.map(|(id, _)| id));
    (environment.events)(BuildEvent::Planned(steps.clone()));
    warn(request, &plan, environment);
    let drafts = Drafts::default();
    let drafting = Drafting { request, plan: &plan, environment, drafts: &drafts };
    let contexts = open_contexts(drafting, archive)?;
    let sources = fetch_sources(&plan, request, environment, remote.sources)?;
    let inputs = Inputs::new(contexts, sources);
    let gathered = request.attest.provenance.map(|detail| {
        let known = (&*request, &origins);
        let facts = |target| Arc::new(gather(known, (&plan, target), &inputs, detail));
        plan.targets().map(facts).collect::<Vec<_>>()
    });
    let (plan, inputs, drafts) = (&plan, &inputs, &drafts);
    std::thread::scope(|scope| {
        // The next build can use the digests even if this one fails.
        scope.spawn(|| inputs.save());
        let build = Build { request, plan, inputs, drafts, environment, begun };
        if let Some((id, console)) = by_hand {
            return build.run_at(scratch.dir(), id, console).map(Reached::Exited);
        }
        let found = match request.cache {
            CachePolicy::Use if build.may_be_whole() => build.find_all(&steps)?,
            _ => None,
        };
        let mut built = match found {
            Some(built) => built,
            None => build.run(&steps, scratch.dir(), Round::First)?,
        };
        for (built, facts) in built.iter_mut().zip(gathered.into_iter().flatten()) {
            built.provenance = Some(facts);
        }
        if request.repeat == Repeat::Compared {
            build.repeat(&steps, &built)?;
        }
        Ok(Reached::Images(built))
    })
}

/// Salts the values that keys hold, with random bytes that stay in the store: without them nobody
/// guesses a value from a key.
fn add_salt(request: &mut BuildRequest, store: &Store) -> Result<(), BuildError> {
    if request.sandbox.needs_salt() {
        request.sandbox.salt(&store.secret_salt().map_err(store_failed)?);
    }
    Ok(())
}

fn warn(request: &BuildRequest, plan: &Plan, environment: &BuildEnvironment<'_, '_>) {
    if request.rewrite_timestamp && plan.epoch.is_none() {
        let text = "rewrite-timestamp has no effect without SOURCE_DATE_EPOCH".to_owned();
        (environment.events)(BuildEvent::Warning(text));
    }
    for warning in &plan.warnings {
        (environment.events)(BuildEvent::Warning(warning.clone()));
    }
}

/// Where the generator of an SBOM writes to, without leading `/`.
pub const SBOM_DIRECTORY: &str = crate::plan::scans::DESTINATION;

/// A finished build.
#[derive(Clone, Debug)]
pub struct Built {
    /// What it gave.
    pub outcome: BuildOutcome,
    /// The config.
    pub config: StoredDocument,
    /// The manifest.
    pub manifest: StoredDocument,
    /// Layers of the image before any of them are merged; none if they are not known.
    plain: Vec<DiffId>,
    /// The bases and steps that it was made from; none if they are not known.
    pub made_from: BTreeSet<StepId>,
    /// Where it comes from, if that was asked for.
    pub provenance: Option<Arc<Provenance>>,
    /// Further file systems that its SBOM tells of, by name: their layers, bottom first.
    pub extras: BTreeMap<String, Vec<DiffId>>,
    /// What the generator of its SBOM wrote, below [`SBOM_DIRECTORY`].
    pub generated: Option<DiffId>,
    key: Digest,
    cost_us: u64,
}

/// Which of two builds of the same this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// The one whose result counts.
    First,
    /// One that is only compared: it uses no result of another, and tells nothing.
    Again,
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

impl Built {
    /// Adds a field to the config, which makes it another image.
    pub fn carry(&mut self, name: &str, value: serde_json::Value) {
        let config = &mut self.outcome.config;
        config.extra.insert(name.to_owned(), value);
        let bytes = serde_json::to_vec(config).expect("a config is JSON");
        self.config = StoredDocument::new(self.config.media_type.clone(), bytes);
        let mut manifest: Manifest =
            serde_json::from_slice(&self.manifest.bytes).expect("a manifest of our own is one");
        manifest.config = Descriptor::of(manifest.config.media_type.clone(), &self.config.bytes);
        let bytes = serde_json::to_vec(&manifest).expect("a manifest is JSON");
        self.manifest = StoredDocument::new(self.manifest.media_type.clone(), bytes);
        self.outcome.manifest = self.manifest.digest;
        self.outcome.image = ImageId::new(self.config.digest);
        // The next build without the field is to find one without it.
        self.key = Digest::of(format!("{} {name}", self.key).as_bytes());
    }
}

struct Build<'b, 's> {
    request: &'b BuildRequest,
    plan: &'b Plan,
    inputs: &'b Inputs,
    drafts: &'b Drafts<'s>,
    environment: &'b BuildEnvironment<'b, 's>,
    begun: Instant,
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

fn step_infos(plan: &Plan, by_hand: Option<NodeId>) -> Arc<[StepInfo]> {
    let is_step = |node: &crate::plan::Node| !matches!(node.op, Op::Scratch | Op::Source(_));
    let steps = (0..).zip(&plan.nodes);
    let steps = steps.filter(|(id, node)| is_step(node) && by_hand != Some(NodeId(*id)));
    steps
        .map(|(id, node)| StepInfo {
            id: StepId(id),
            name: node.name.clone(),
            line: node.span.map_or(0, |span| span.first_line),
            last_line: node.span.map_or(0, |span| span.last_line),
        })
        .collect()
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
