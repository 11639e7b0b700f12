//! `build`: from a Dockerfile to an image in the store, a file or a directory.

mod attest;
mod bases;
mod cache;
mod classic;
mod early;
mod failure;
mod form;
mod history;
mod machine;
mod output;
mod pack;
mod results;
mod sources;

use std::sync::{Arc, OnceLock, atomic::AtomicBool};

pub use davit_build::{
    Agent, Aspect, At, Attest, BuildError, BuildErrorKind, BuildEvent, BuildOutcome, BuildRequest,
    CachePolicy, Checked, Checks, Component, Console, ConsoleKind, ConsoleStreams, ContextModes,
    ContextSource, Detail, Difference, DockerfilePlace, DockerfileText, Entitlement, Excerpt,
    ExportMode, GitReferenceError, GitSource, HttpSource, IgnoreText, ImageSource, Invalidation,
    KeyError, Keys, LayoutImage, LogStream, Miss, MountAccess, NamedContext, NamedSource, Network,
    PullPolicy, RemoteSource, Repeat, Sandbox, Sbom, Secret, Squash, StepId, StepInfo, StepVolume,
    TarStream, VolumeSource, context_name, looks_like_archive,
};
use davit_build::{BuildEnvironment, CallEnvironment, SharedCache};
pub use davit_dockerfile::{
    Span, Stage,
    lint::{Mended, Rule, Warning},
    outline::{Outline, OutlineArgument, OutlineInput},
    parse_duration,
};
use davit_image::{Platform, Timestamp};
pub use davit_runtime::{
    emulation::runnable,
    plan::{Limits, Origin, Rlimit},
};
use davit_store::Lease;

pub use self::history::{
    BuildMaterial, BuildProblem, BuildResult, BuildSpec, BuildStatus, BuildStep, HistoryError,
    PastBuild, Repository, StepState, dockerfile_path, find_build, repository_of,
};
use self::{
    attest::Begun,
    bases::{Bases, Wanted},
    cache::{Caches, Surroundings},
    early::EarlyPush,
    history::Recorder,
    results::Results,
    sources::Fetcher,
};
pub use self::{
    attest::{AttestationScope, Attestations, ProvenanceOptions, SbomError, SlsaVersion},
    cache::{
        ActionsPlace, ActionsProtocol, CacheError, CacheExport, CacheFailure, CacheImport,
        CachePlace, CacheScope, MountSharing, S3Account, S3Place,
    },
    classic::{ClassicBuild, ClassicError, ClassicParameters},
    failure::BuildFailure,
    form::{
        Annotation, AnnotationLevel, AttestationPlace, FormError, ImageForm, IndexUse, MediaTypes,
    },
    output::{
        BuildOutput, BuildSink, Exported, FileForm, ImageOutput, ImagePlace, PlatformFolders,
    },
    pack::PackError,
};
pub(crate) use self::{
    attest::{
        document::{PREDICATE_TYPE, REFERENCE_DIGEST, STATEMENT, STATEMENT_BYTES, about},
        is_attestation, referrers,
    },
    form::Formed,
    history::HISTORY,
    sources::{GIT_CHECKOUT, guard_helper, remote_of},
};
use crate::{
    Engine, Progress,
    compressed::{CompressedLayers, Scratch},
};

/// Name of the helper that supervises the commands of a build.
pub(crate) const SUPERVISOR: &str = "__build-supervisor";

/// A build and what becomes of its result.
#[expect(missing_debug_implementations, reason = "a stream has nothing to show")]
pub struct BuildCommand {
    /// What to build.
    pub request: BuildRequest,
    /// When base images are looked for in a registry.
    pub pull: PullPolicy,
    /// Whether anybody is asked for anything.
    pub reach: Reach,
    /// Where the result goes.
    pub outputs: Vec<BuildOutput>,
    /// Caches whose results count, too.
    pub cache_from: Vec<CacheImport>,
    /// Caches that get the results.
    pub cache_to: Vec<CacheExport>,
    /// What images carry of their own results.
    pub inline_cache: InlineCache,
    /// Who looks at the file system of a step that failed.
    pub on_error: Option<Arc<dyn Console>>,
    /// A place in the Dockerfile and who works there, instead of a result.
    pub at: Option<(At, Arc<dyn Console>)>,
    /// What is attested of the results.
    pub attestations: Attestations,
    /// The repository that the context is part of, where that is told.
    pub repository: Option<Repository>,
}

/// What images carry of the results that they consist of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InlineCache {
    /// Nothing.
    #[default]
    Nothing,
    /// What another build needs to use them.
    Records,
}

impl BuildCommand {
    /// Lets `BUILDKIT_MULTI_PLATFORM` decide whether the result has the form of several.
    fn form_as_asked(&mut self) -> Result<(), FormError> {
        const ARGUMENT: &str = "BUILDKIT_MULTI_PLATFORM";
        let Some(value) = self.request.build_args.get(ARGUMENT).filter(|it| !it.is_empty()) else {
            return Ok(());
        };
        match truth(value) {
            Some(true) => self.outputs.iter_mut().for_each(BuildOutput::form_as_several),
            Some(false) if !self.request.more_platforms.is_empty() => {
                return Err(FormError::OneForSeveral);
            }
            Some(false) => {}
            None => return Err(FormError::NoTruth { name: ARGUMENT, value: value.clone() }),
        }
        Ok(())
    }

    /// The platforms to build for, if outputs can have images of them.
    fn platforms(&self) -> Result<Vec<Platform>, FormError> {
        let platforms = platforms(&self.request);
        let mut forms = self.outputs.iter().filter_map(BuildOutput::form);
        forms.try_for_each(|form| form.check(&platforms))?;
        Ok(platforms)
    }
}

/// How far a build looks for images and for sources that lie elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// As far as the network goes.
    #[default]
    Network,
    /// To what is in the store, as it was when it came there.
    Offline,
}

impl Reach {
    /// When base images are looked for, as far as anybody may be asked.
    const fn limit(self, pull: PullPolicy) -> PullPolicy {
        match self {
            Self::Network => pull,
            Self::Offline => PullPolicy::Never,
        }
    }
}

/// What a build gave.
#[derive(Clone, Debug, Default)]
pub struct BuildReport {
    /// Its name among all builds that are remembered: `BUILDER/NODE/ID`.
    pub reference: String,
    /// The images, one for each platform, in the order asked for.
    pub images: Vec<BuildOutcome>,
    /// Where the last output that is an image went; `None` if none is one.
    pub exported: Option<Exported>,
    /// How the command of [`BuildCommand::at`] ended.
    pub exit_code: Option<i32>,
    /// Where each image comes from, as a predicate of SLSA, as far as that was to be told.
    pub provenance: Vec<serde_json::Value>,
    /// What was read for the images.
    pub materials: Vec<BuildMaterial>,
}

impl BuildReport {
    /// What is told of images themselves.
    fn of(reference: String, built: Vec<davit_build::Built>) -> Self {
        let materials = attest::materials(&built);
        let images = built.into_iter().map(|built| built.outcome).collect();
        Self { reference, images, materials, ..Self::default() }
    }
}

/// A question about a build; of base images that are not here only the configs are fetched.
#[expect(missing_debug_implementations, reason = "a callback has nothing to show")]
pub struct Question<'a> {
    /// The build.
    pub request: BuildRequest,
    /// When base images are looked for in a registry.
    pub pull: PullPolicy,
    /// Whether anybody is asked.
    pub reach: Reach,
    /// Told of what is fetched.
    pub progress: &'a dyn Progress,
    /// Set by another thread to give up.
    pub cancelled: &'a Arc<AtomicBool>,
}

/// Who is told what a build does, and who may end it.
type Callbacks<'c> = (&'c (dyn Fn(BuildEvent) + Sync), &'c dyn Progress, &'c Arc<AtomicBool>);

/// A truth value in Go's words.
fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// All platforms that are built for, in the order asked for.
fn platforms(request: &BuildRequest) -> Vec<Platform> {
    std::iter::once(&request.platform).chain(&request.more_platforms).cloned().collect()
}

/// Serves one build on standard input until it ends.
pub(crate) fn supervisor_helper() -> u8 {
    let Ok(connection) = rustix::io::dup(rustix::stdio::stdin()) else { return 1 };
    match davit_build::supervise(connection) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(%error, "the build's supervisor ends");
            1
        }
    }
}

impl Engine {
    /// Builds an image. What it made is durable and named when this returns.
    ///
    /// Blocks. `events` is called from several threads; setting `cancelled` from another thread
    /// ends the build within 0.1 s and leaves nothing of it but finished steps in the cache.
    ///
    /// # Errors
    /// See [`BuildFailure`]; no name has changed then.
    pub fn build(
        &self,
        mut command: BuildCommand,
        events: &(dyn Fn(BuildEvent) + Sync),
        progress: &dyn Progress,
        cancelled: &Arc<AtomicBool>,
    ) -> Result<BuildReport, BuildFailure> {
        davit_sys::heap::expect_much();
        command.form_as_asked()?;
        let platforms = command.platforms()?;
        command.inline_cache = command.inline_cache.or_asked(&command.request.build_args);
        let lease = self.store().lease("build")?;
        let recorder = Recorder::begin(self, &lease, &command);
        events(BuildEvent::Begun(recorder.id().to_owned()));
        let noted = |event: BuildEvent| {
            recorder.note(&event);
            events(event);
        };
        let brings_layers = !(command.cache_from.is_empty() && command.cache_to.is_empty());
        let outcome = self.build_held(&lease, command, (&noted, progress, cancelled), &platforms);
        recorder.end(&outcome, &platforms);
        drop(lease);
        let report = outcome?;
        let has_run = |image: &BuildOutcome| image.cached_steps < image.steps;
        // Layers of a cache that is elsewhere come without a step.
        let may_grow = brings_layers || report.exit_code.is_some();
        if may_grow || report.images.iter().any(has_run) {
            self.collect_after_build();
        }
        Ok(report)
    }

    /// Builds, with a lease that keeps what is needed and made.
    fn build_held(
        &self,
        lease: &Lease<'_>,
        mut command: BuildCommand,
        (events, progress, cancelled): Callbacks<'_>,
        platforms: &[Platform],
    ) -> Result<BuildReport, BuildFailure> {
        self.find_volumes(&mut command.request.sandbox.volumes)?;
        let network = self.find_build_network(&mut command.request.network)?;
        let joined = self.joined_network(&command.request.network)?;
        let (store, id) = (self.store(), lease.id().to_owned());
        let vcs = attest::vcs::facts(&command.request, command.repository.as_ref());
        let begun = Begun { id, at: Timestamp::now(), vcs };
        command.request.attest = command.attestations.asked(&command.outputs);
        let snapshots = self.snapshots()?;
        let told = (progress, cancelled);
        let (engine, wanted, pull) = (self, Wanted::Image, command.reach.limit(command.pull));
        let images = Bases { engine, lease, pull, wanted, progress, cancelled };
        let sources = self.fetcher(lease, &command.request, command.reach, told);
        let results = Results::default();
        let caches = self.caches((lease, &results), &command, events, told)?;
        let (run, on_error) = (self.run_settings(), command.on_error.clone());
        let files = command.cache_to.iter().map(|export| export.compression.options());
        let scratch = Scratch::new(store, lease);
        let directory = || scratch.directory();
        let compressed = CompressedLayers::new(store.layout(), &directory, cancelled, files);
        let early = EarlyPush::new(self, lease, &command, (&results, &compressed), cancelled);
        let is_sent = early.is_wanted() || caches.as_ref().is_some_and(Caches::wants_results);
        let note_final = |step| results.add(step);
        let environment = BuildEnvironment {
            store,
            lease,
            snapshots: &snapshots,
            images: &images,
            sources: &sources,
            shared: caches.as_ref().map(|caches| caches as _),
            run: &run,
            network: &|| Ok(self.build_network(&network)?),
            joined: joined.as_ref(),
            finals: is_sent.then_some(&note_final),
            events,
            cancelled,
            on_error: on_error.as_deref(),
        };
        let reference = history::full_reference(lease.id());
        if let Some((at, console)) = &command.at {
            let at = (at, &**console);
            let code = davit_build::build_at(&mut command.request, &environment, at)?;
            let exit_code = Some(code);
            return Ok(BuildReport { reference, exit_code, ..BuildReport::default() });
        }
        let BuildCommand { mut request, outputs, cache_to, inline_cache, attestations, .. } =
            command;
        let work = || -> Result<_, BuildFailure> {
            let mut built = early.beside(|| davit_build::build(&mut request, &environment))?;
            if let (Some(caches), InlineCache::Records) = (&caches, inline_cache) {
                caches.write_into(&mut built, &request);
            }
            let told = self.tell((&built, &begun), &attestations, (lease, &outputs), cancelled)?;
            let delivery = output::Delivery {
                lease,
                built: &built,
                told: &told,
                platforms,
                progress,
                cancelled,
                compressed: &compressed,
            };
            let exported = self.deliver(delivery, outputs)?;
            Ok((built, exported, told.reported))
        };
        let done = match &caches {
            Some(caches) => caches.writing(&cache_to, &compressed, work),
            None => work(),
        };
        let (built, exported, provenance) = done.map_err(|error| error.unless(cancelled))?;
        Ok(BuildReport { exported, provenance, ..BuildReport::of(reference, built) })
    }

    /// Brings what builds leave under its budgets.
    fn collect_after_build(&self) {
        // The image is there; a cache that is too big is the next build's matter again.
        if let Err(error) = self.collect_build_cache() {
            tracing::warn!(%error, "the build cache may be over its budget");
        }
        if let Err(error) = self.collect_cache_mounts() {
            tracing::warn!(%error, "cache mounts may be over their budget");
        }
        self.sweep_cgroups();
    }

    fn fetcher<'e>(
        &'e self,
        lease: &'e Lease<'e>,
        request: &BuildRequest,
        reach: Reach,
        (progress, cancelled): (&'e dyn Progress, &'e Arc<AtomicBool>),
    ) -> Fetcher<'e> {
        Fetcher {
            engine: self,
            lease,
            progress,
            cancelled,
            reach,
            secrets: request.sandbox.secrets.clone(),
            agents: request.sandbox.agents.clone(),
            registries: OnceLock::new(),
        }
    }

    /// The caches of a build, if it has any.
    fn caches<'e>(
        &'e self,
        (lease, results): (&'e Lease<'e>, &'e Results),
        command: &BuildCommand,
        events: &'e (dyn Fn(BuildEvent) + Sync),
        (progress, cancelled): (&'e dyn Progress, &'e Arc<AtomicBool>),
    ) -> Result<Option<Caches<'e>>, BuildFailure> {
        let none = command.cache_to.is_empty() && command.inline_cache == InlineCache::Nothing;
        if command.cache_from.is_empty() && none {
            return Ok(None);
        }
        let surroundings = Surroundings { engine: self, lease, progress, cancelled, events };
        let asked = (command.reach, (!none).then_some(results));
        let caches = Caches::open(surroundings, &command.cache_from, asked)?;
        Ok(Some(caches.taking_mounts(&command.cache_to)))
    }

    /// Checks a Dockerfile without building it.
    ///
    /// Blocks.
    ///
    /// # Errors
    /// See [`davit_build::check`].
    pub fn check_build(&self, question: &mut Question<'_>) -> Result<Checked, BuildFailure> {
        self.answer(question, davit_build::check)
    }

    /// Finds what a build can be given.
    ///
    /// Blocks.
    ///
    /// # Errors
    /// See [`davit_build::outline`].
    pub fn outline_build(&self, question: &mut Question<'_>) -> Result<Outline, BuildFailure> {
        self.answer(question, davit_build::outline)
    }

    /// Reads the stages of a Dockerfile.
    ///
    /// Blocks.
    ///
    /// # Errors
    /// See [`davit_build::targets`].
    pub fn build_targets(&self, question: &mut Question<'_>) -> Result<Vec<Stage>, BuildFailure> {
        self.answer(question, davit_build::targets)
    }

    fn answer<T>(
        &self,
        question: &mut Question<'_>,
        ask: impl FnOnce(&mut BuildRequest, &CallEnvironment<'_, '_>) -> Result<T, BuildError>,
    ) -> Result<T, BuildFailure> {
        let (store, lease) = (self.store(), self.store().lease("check")?);
        let Question { request, pull, reach, progress, cancelled } = question;
        let (engine, wanted) = (self, Wanted::Config);
        let (reach, progress, cancelled) = (*reach, *progress, *cancelled);
        let pull = reach.limit(*pull);
        let images = Bases { engine, lease: &lease, pull, wanted, progress, cancelled };
        let sources = self.fetcher(&lease, request, reach, (progress, cancelled));
        let environment =
            CallEnvironment { store, lease: &lease, images: &images, sources: &sources, cancelled };
        Ok(ask(request, &environment)?)
    }
}
