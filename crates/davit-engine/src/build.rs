//! `build`: from a Dockerfile to an image in the store, a file or a directory.

mod bases;
mod cache;
mod form;
mod output;
mod pack;
mod sources;

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

pub use davit_build::{
    Agent, BuildError, BuildErrorKind, BuildEvent, BuildOutcome, BuildRequest, CachePolicy,
    Checked, Checks, Component, ContextSource, DockerfilePlace, DockerfileText, Entitlement,
    Excerpt, ExportMode, GitReferenceError, GitSource, HttpSource, IgnoreText, ImageSource,
    Invalidation, KeyError, Keys, LayoutImage, LogStream, Miss, NamedContext, NamedSource, Network,
    PullPolicy, RemoteSource, Sandbox, Secret, StepId, StepInfo, TarStream, context_name,
    looks_like_archive, runnable,
};
use davit_build::{BridgeNetwork, BuildEnvironment, CallEnvironment, ExportError, RunSettings};
pub use davit_dockerfile::{
    Span, Stage,
    lint::{Mended, Rule, Warning},
    outline::{Outline, OutlineArgument, OutlineInput},
    parse_duration,
};
use davit_image::Platform;
use davit_runtime::Cgroups;
pub use davit_runtime::plan::{Limits, Origin, Rlimit};
use davit_store::{Lease, StoreError, is_no_space};

use self::{
    bases::{Bases, Wanted},
    cache::{Caches, Collect, Surroundings},
    sources::Fetcher,
};
pub use self::{
    cache::{CacheError, CacheExport, CacheFailure, CachePlace, CacheScope},
    form::{Annotation, AnnotationLevel, FormError, ImageForm, MediaTypes},
    output::{BuildOutput, BuildSink, Exported, ImageOutput, ImagePlace, PlatformFolders},
    pack::PackError,
};
pub(crate) use self::{form::Formed, sources::guard_helper};
use crate::{
    Engine, Hint, Progress,
    container::{ContainerError, files},
};

/// Name of the helper that supervises the commands of a build.
pub(crate) const SUPERVISOR: &str = "__build-supervisor";
const RESOLV_CONF: &str = "/etc/resolv.conf";

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
    pub cache_from: Vec<CachePlace>,
    /// Caches that get the results.
    pub cache_to: Vec<CacheExport>,
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
#[derive(Clone, Debug)]
pub struct BuildReport {
    /// The images, one for each platform, in the order asked for.
    pub images: Vec<BuildOutcome>,
    /// Where the first output that is an image went; `None` if none is one.
    pub exported: Option<Exported>,
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

/// Why a build gave no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildFailure {
    /// The build itself.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Its result cannot be exported.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// Its result cannot have the form that an output asks for.
    #[error(transparent)]
    Form(#[from] FormError),
    /// Its layers cannot be compressed.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// Its result cannot be saved.
    #[error(transparent)]
    Save(#[from] crate::FileError),
    /// A registry does not take it.
    #[error(transparent)]
    Push(#[from] crate::PushError),
    /// Containers' file systems cannot be made here.
    #[error(transparent)]
    Snapshot(#[from] davit_snapshot::SnapshotError),
    /// A cache does not take it.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BuildFailure {
    /// The build's own error, which knows its place in the Dockerfile.
    #[must_use]
    pub const fn build_error(&self) -> Option<&BuildError> {
        match self {
            Self::Build(error) => Some(error),
            _ => None,
        }
    }

    /// Whether the user stopped the build.
    #[must_use]
    pub const fn is_cancelled(&self) -> bool {
        matches!(self, Self::Build(BuildError { kind: BuildErrorKind::Cancelled, .. }))
    }
}

impl Hint for BuildFailure {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Build(error) => {
                let mut hints = error.hints.clone();
                if let BuildErrorKind::Base { source, .. } = &error.kind {
                    hints.extend(bases::hints(source.as_ref()));
                }
                if let BuildErrorKind::Source { source, .. } = &error.kind {
                    hints.extend(sources::hints(source.as_ref()));
                }
                let more_room = "davit system prune".to_owned();
                if is_no_space(&error.kind) && !hints.contains(&more_room) {
                    hints.push(more_room);
                }
                hints
            }
            Self::Push(error) => error.hints(),
            Self::Cache(error) => error.hints(),
            Self::Store(error) if error.is_no_space() => vec!["davit system prune".to_owned()],
            _ => Vec::new(),
        }
    }
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
        let platforms: Vec<Platform> = std::iter::once(&command.request.platform)
            .chain(&command.request.more_platforms)
            .cloned()
            .collect();
        for output in &command.outputs {
            output.form().map_or(Ok(()), |form| form.check(&platforms))?;
        }
        let store = self.store();
        let lease = store.lease("build")?;
        let snapshots = self.snapshots()?;
        let pull = command.reach.limit(command.pull);
        let (engine, wanted) = (self, Wanted::Image);
        let images = Bases { engine, lease: &lease, pull, wanted, progress, cancelled };
        let sources = Fetcher {
            engine: self,
            lease: &lease,
            progress,
            cancelled,
            reach: command.reach,
            secrets: command.request.sandbox.secrets.clone(),
            agents: command.request.sandbox.agents.clone(),
            registries: OnceLock::new(),
        };
        let caches = self.caches(&lease, &command, events, (progress, cancelled))?;
        let run = self.run_settings();
        let environment = BuildEnvironment {
            store,
            lease: &lease,
            snapshots: &snapshots,
            images: &images,
            sources: &sources,
            shared: caches.as_ref().map(|caches| caches as _),
            run: &run,
            network: &|| Ok(self.build_network()?),
            events,
            cancelled,
        };
        let built = davit_build::build(&mut command.request, &environment)?;
        let delivery = output::Delivery {
            lease: &lease,
            built: &built,
            platforms: &platforms,
            progress,
            cancelled,
        };
        let exported = self.deliver(delivery, command.outputs).map_err(|error| {
            let cancelled = cancelled.load(Ordering::Relaxed);
            if cancelled { BuildError::new(BuildErrorKind::Cancelled).into() } else { error }
        })?;
        caches.map_or(Ok(()), |caches| caches.export(&command.cache_to)).map_err(|error| {
            let cancelled = cancelled.load(Ordering::Relaxed);
            if cancelled {
                BuildError::new(BuildErrorKind::Cancelled).into()
            } else {
                BuildFailure::from(error)
            }
        })?;
        drop(lease);
        let images: Vec<BuildOutcome> = built.into_iter().map(|built| built.outcome).collect();
        if images.iter().any(|image| image.cached_steps < image.steps) {
            // The image is there; a cache that is too big is the next build's matter again.
            if let Err(error) = self.collect_build_cache() {
                tracing::warn!(%error, "the build cache may be over its budget");
            }
            if let Err(error) = self.collect_cache_mounts() {
                tracing::warn!(%error, "cache mounts may be over their budget");
            }
            self.sweep_cgroups();
        }
        Ok(BuildReport { images, exported })
    }

    /// The caches of a build, if it has any.
    fn caches<'e>(
        &'e self,
        lease: &'e Lease<'e>,
        command: &BuildCommand,
        events: &'e (dyn Fn(BuildEvent) + Sync),
        (progress, cancelled): (&'e dyn Progress, &'e Arc<AtomicBool>),
    ) -> Result<Option<Caches<'e>>, BuildFailure> {
        if command.cache_from.is_empty() && command.cache_to.is_empty() {
            return Ok(None);
        }
        let surroundings = Surroundings { engine: self, lease, progress, cancelled, events };
        let none = command.cache_to.is_empty();
        let collect = if none { Collect::Nothing } else { Collect::Results };
        let asked = (command.reach, collect);
        Caches::open(surroundings, &command.cache_from, asked).map(Some)
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
        let sources = Fetcher {
            engine,
            lease: &lease,
            progress,
            cancelled,
            secrets: request.sandbox.secrets.clone(),
            agents: request.sandbox.agents.clone(),
            reach,
            registries: OnceLock::new(),
        };
        let environment =
            CallEnvironment { store, lease: &lease, images: &images, sources: &sources, cancelled };
        Ok(ask(request, &environment)?)
    }

    fn run_settings(&self) -> RunSettings {
        RunSettings {
            executable: self.config().executable.clone(),
            arguments: vec![SUPERVISOR.into()],
            cgroup_parent: self.cgroup_root(),
            resolv_conf: files::private_resolv_conf().into_bytes(),
            // A machine without resolver still builds what needs none.
            host_resolv_conf: fs_err::read(RESOLV_CONF).unwrap_or_default(),
        }
    }

    /// Removes the cgroups of builds that were killed together with their supervisor.
    fn sweep_cgroups(&self) {
        let parent = self.cgroup_root();
        let Ok(cgroups) = Cgroups::discover() else { return };
        for name in cgroups.children(&parent).unwrap_or_default() {
            let id = name.strip_prefix("build-").and_then(|rest| rest.split('-').next());
            let Some(id) = id else { continue };
            if self.store().is_lease_live(id).unwrap_or(true) {
                continue;
            }
            if let Err(error) = cgroups.remove_if_empty(&format!("{parent}/{name}")) {
                tracing::debug!(%error, "the next build tries again");
            }
        }
    }

    /// The bridge network, made where it is missing.
    fn build_network(&self) -> Result<BridgeNetwork, ContainerError> {
        let (row, bridge) = self.ensure_bridge()?;
        Ok(BridgeNetwork { id: row.network.id, bridge })
    }
}
