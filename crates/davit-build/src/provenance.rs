//! What a build was made from, as plain data: the facts of its provenance.
//!
//! ```text
//! request + plan + inputs -> Provenance: where the Dockerfile is from, what was asked for,
//!                            what was read (Material), what was done (ProvenanceStep)
//! ```
//!
//! Whoever attests a result or keeps a record of a build writes its document of these.
//!
//! **Invariant:** no value of a secret is in it, and no account, query or fragment of an address.

mod shown;
mod steps;

use std::collections::{BTreeMap, BTreeSet};

use davit_image::{Digest, Platform, Reference};
use serde_json::Value;

pub(crate) use self::shown::Shown;
use crate::{
    BuildRequest, CachePolicy,
    inputs::Inputs,
    plan::{
        BindOrigin, ContextId, CopyOrigin, MountSource, Network, Node, NodeId, Op, Plan, Target,
    },
    request::{ContextSource, DockerfilePlace, ImageSource, NamedSource},
    source::{RemoteSource, SourceIdentity},
};

/// What is attested of a build's results, beside what they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attest {
    /// How much is told of where a result comes from; `None`: nothing.
    pub provenance: Option<Detail>,
    /// Whether it is told what a result holds.
    pub sbom: Option<Sbom>,
}

/// How much a provenance tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// What was read, and when it was built.
    #[default]
    Min,
    /// All that was asked for and done, too.
    Max,
}

/// How it is found out what a result holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sbom {
    /// The image that looks for it; `None`: davit itself.
    pub generator: Option<Reference>,
    /// What that image is told, as `BUILDKIT_SCAN_NAME` in its environment.
    pub parameters: BTreeMap<String, String>,
}

/// Where one result of a build comes from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Provenance {
    /// Where the Dockerfile is, if it lies elsewhere.
    pub origin: Option<Material>,
    /// Its path there, or its name.
    pub dockerfile: String,
    /// What the caller asked for, under the names that frontends give it.
    pub arguments: BTreeMap<String, String>,
    /// Ids of the secrets that steps see, and whether they do without.
    pub secrets: BTreeMap<String, bool>,
    /// Ids of the agents that steps see, and whether they do without.
    pub agents: BTreeMap<String, bool>,
    /// What was read of the caller's own files.
    pub locals: BTreeSet<String>,
    /// What was read of others.
    pub materials: Vec<Material>,
    /// Whether a step could reach a network.
    pub uses_network: bool,
    /// What was done, where that is told.
    pub details: Option<Details>,
}

/// What a build reads that is not the caller's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Material {
    /// A base image.
    Image {
        /// Its name.
        name: String,
        /// Digest of its manifest.
        digest: Digest,
        /// The platform that was taken.
        platform: Platform,
        /// Whether it is of the caller's own OCI layout.
        local: bool,
    },
    /// A file of a web server.
    Http {
        /// Its address.
        address: String,
        /// Digest of its content.
        digest: Option<Digest>,
    },
    /// A checkout.
    Git {
        /// Address of the repository.
        address: String,
        /// What was asked for there, as `#REFERENCE:DIRECTORY`.
        fragment: String,
        /// Name of the commit.
        commit: Option<String>,
    },
}

/// All that was done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    /// The Dockerfile's text.
    pub text: Vec<u8>,
    /// The steps, each behind those that it reads.
    pub steps: Vec<ProvenanceStep>,
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub struct ProvenanceStep {
    /// Its name, as `step0`.
    pub id: String,
    /// What it reads, as `step0:0`.
    pub inputs: Vec<String>,
    /// What it does, in the words of `BuildKit`'s build definitions.
    pub op: Value,
    /// First and last line in the Dockerfile.
    pub lines: Option<(u32, u32)>,
    /// Of which layers its result consists, as far as images tell.
    pub layers: StepLayers,
}

/// Where the layers of a step's result are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepLayers {
    /// They are so many of the image that is built, from the bottom.
    pub of_image: Option<usize>,
    /// They are those of a base image with this manifest.
    pub of_base: Option<Digest>,
}

/// What lies elsewhere of what the caller named, as it was before anything was fetched.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins {
    context: Option<RemoteSource>,
    dockerfile: Option<RemoteSource>,
}

impl Origins {
    pub(crate) fn of(request: &BuildRequest) -> Self {
        let context = match &request.context {
            ContextSource::Remote(source) => Some(source.clone()),
            _ => None,
        };
        let dockerfile = match &request.dockerfile.place {
            DockerfilePlace::Remote(source) => Some(RemoteSource::Http(source.clone())),
            DockerfilePlace::Given | DockerfilePlace::Context => None,
        };
        Self { context, dockerfile }
    }

    /// The same once the context is here: a checkout has got its settings then.
    pub(crate) fn fetched(self, request: &BuildRequest) -> Self {
        Self { context: Self::of(request).context.or(self.context), ..self }
    }
}

/// Gathers the facts of one of a plan's targets.
pub(crate) fn gather(
    (request, origins): (&BuildRequest, &Origins),
    (plan, target): (&Plan, &Target),
    inputs: &Inputs,
    detail: Detail,
) -> Provenance {
    let shown = Shown::new(request);
    let needed: Vec<NodeId> = plan.made_from(target.state).into_iter().collect();
    let nodes = || needed.iter().map(|id| plan.node(*id));
    let mut facts = Provenance {
        dockerfile: shown.text(&dockerfile_name(request, origins)),
        arguments: arguments(request, &shown),
        locals: locals(request, origins, nodes()),
        uses_network: nodes().any(uses_network),
        ..Provenance::default()
    };
    let fetched = |source: &RemoteSource| {
        let identity = inputs.sources.get(source).map(|it| it.identity.clone());
        material_of(source, identity)
    };
    let origin = origins.dockerfile.as_ref().or(origins.context.as_ref());
    facts.origin = origin.map(&fetched);
    for node in nodes() {
        let material = match &node.op {
            Op::Image(image) => Some(Material::of_image(image)),
            Op::Source(source) => Some(fetched(source)),
            Op::Run(run) => {
                // What one step needs is needed.
                for mount in &run.mounts {
                    let (found, ids) = match &mount.source {
                        MountSource::Secret(secret) => (secret, &mut facts.secrets),
                        MountSource::Agent(agent) => (agent, &mut facts.agents),
                        _ => continue,
                    };
                    *ids.entry(found.id.clone()).or_insert(true) &= !found.required;
                }
                for secret in &run.secrets {
                    *facts.secrets.entry(secret.id.clone()).or_insert(true) &= !secret.required;
                }
                None
            }
            _ => None,
        };
        facts.add(material);
    }
    let elsewhere = [&origins.context, &origins.dockerfile].into_iter().flatten();
    elsewhere.for_each(|source| facts.add(Some(fetched(source))));
    facts.materials.sort_by_key(Material::rank);
    if detail == Detail::Max {
        facts.details = Some(Details {
            text: shown.bytes(&request.dockerfile.bytes),
            steps: steps::of((request, plan), (&needed, target.state), &shown),
        });
    }
    facts
}

impl Provenance {
    /// One material is told once, however many steps and platforms read it.
    fn add(&mut self, material: Option<Material>) {
        self.materials.extend(material.filter(|it| !self.materials.contains(it)));
    }
}

impl Material {
    fn of_image(image: &crate::plan::BaseImage) -> Self {
        const LAYOUT: &str = "oci-layout://";
        let name = image.name.strip_prefix(LAYOUT);
        // The caller's directories are nobody's business: the last one is the name.
        let own = name.map(|path| path.rsplit('/').next().unwrap_or_default().to_owned());
        Self::Image {
            local: own.is_some(),
            name: own.unwrap_or_else(|| image.name.clone()),
            digest: image.manifest,
            platform: image.config.platform(),
        }
    }

    /// Images first, then git, then the web, as `BuildKit` lists them.
    const fn rank(&self) -> u8 {
        match self {
            Self::Image { .. } => 0,
            Self::Git { .. } => 1,
            Self::Http { .. } => 2,
        }
    }
}

fn material_of(source: &RemoteSource, identity: Option<SourceIdentity>) -> Material {
    let shown = source.to_string();
    match source {
        RemoteSource::Http(_) => {
            let digest = match identity {
                Some(SourceIdentity::Content(digest)) => Some(digest),
                _ => None,
            };
            Material::Http { address: shown, digest }
        }
        RemoteSource::Git(_) => {
            let (address, fragment) = shown.split_once('#').unwrap_or((&shown, ""));
            let commit = match identity {
                Some(SourceIdentity::Commit(commit)) => Some(commit),
                _ => None,
            };
            let fragment = if fragment.is_empty() { "" } else { &shown[address.len()..] };
            Material::Git { address: address.to_owned(), fragment: fragment.to_owned(), commit }
        }
    }
}

fn uses_network(node: &Node) -> bool {
    matches!(&node.op, Op::Run(run) if run.network != Network::None)
}

/// Whether a node sees a directory of the machine.
fn has_volume(node: &Node) -> bool {
    let Op::Run(run) = &node.op else { return false };
    run.mounts.iter().any(|mount| matches!(mount.source, MountSource::Volume { .. }))
}

/// Contexts that a node reads.
fn contexts(node: &Node) -> Vec<ContextId> {
    match &node.op {
        Op::Copy(copy) => match copy.origin {
            CopyOrigin::Context(context) if !copy.sources.is_empty() => vec![context],
            _ => Vec::new(),
        },
        Op::Run(run) => {
            let bound = run.mounts.iter().filter_map(|mount| match &mount.source {
                MountSource::Bind { origin: BindOrigin::Context(context), .. } => Some(*context),
                _ => None,
            });
            bound.collect()
        }
        _ => Vec::new(),
    }
}

fn locals<'p>(
    request: &BuildRequest,
    origins: &Origins,
    nodes: impl Iterator<Item = &'p Node>,
) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for node in nodes {
        if has_volume(node) {
            found.insert("volume".to_owned());
        }
        // An archive of a web server is no file of the caller's.
        let is_own = |it: &ContextId| *it != ContextId::MAIN || origins.context.is_none();
        let read = contexts(node).into_iter().filter(is_own);
        found.extend(read.map(|context| context_name(request, context)));
    }
    let is_local = origins.dockerfile.is_none() && origins.context.is_none();
    if is_local || request.dockerfile.place == DockerfilePlace::Given {
        found.insert("dockerfile".to_owned());
    }
    found
}

/// The name of a context; that of the main one is `context`.
fn context_name(request: &BuildRequest, context: ContextId) -> String {
    let named = context.position().and_then(|position| request.named_contexts.get(position));
    named.map_or_else(|| "context".to_owned(), |named| named.name.clone())
}

/// A path where the context lies elsewhere, else the name alone: no directory of the caller's.
fn dockerfile_name(request: &BuildRequest, origins: &Origins) -> String {
    let name = request.dockerfile.name.as_str();
    match (&request.dockerfile.place, &origins.context) {
        (DockerfilePlace::Context, Some(RemoteSource::Git(_))) => name.to_owned(),
        _ => name.rsplit('/').next().unwrap_or(name).to_owned(),
    }
}

/// What the caller asked for, as frontends are told it.
fn arguments(request: &BuildRequest, shown: &Shown) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut set = |key: String, value: &str| found.insert(key, shown.text(value));
    for (name, value) in &request.build_args {
        set(format!("build-arg:{name}"), value);
    }
    for (name, value) in &request.labels {
        set(format!("label:{name}"), value);
    }
    if let Some(target) = &request.target {
        set("target".to_owned(), target);
    }
    let platforms = std::iter::once(&request.platform).chain(&request.more_platforms);
    let platforms: Vec<String> = platforms.map(ToString::to_string).collect();
    if platforms.len() > 1 || request.platform != request.build_platform {
        set("platform".to_owned(), &platforms.join(","));
    }
    if request.cache == CachePolicy::Ignore {
        set("no-cache".to_owned(), "");
    } else if !request.no_cache_stages.is_empty() {
        set("no-cache".to_owned(), &request.no_cache_stages.join(","));
    }
    if request.network != Network::Default {
        set("force-network-mode".to_owned(), &request.network.to_string());
    }
    if !request.add_hosts.is_empty() {
        let hosts = request.add_hosts.iter().map(|(name, address)| format!("{name}={address}"));
        set("add-hosts".to_owned(), &hosts.collect::<Vec<_>>().join(","));
    }
    for context in &request.named_contexts {
        let platform = context.platform.as_ref().map(|it| format!("::{it}")).unwrap_or_default();
        let value = match &context.source {
            // Its name is its path here.
            NamedSource::Volume(_) => continue,
            NamedSource::Directory(_) => format!("local:{}", context.name),
            NamedSource::Image(ImageSource::Reference(name)) => format!("docker-image://{name}"),
            NamedSource::Image(ImageSource::Layout(layout)) => {
                let name = layout.path.file_name().unwrap_or_default().to_string_lossy();
                format!("oci-layout://{name}")
            }
            NamedSource::Scratch => "docker-image://scratch".to_owned(),
            NamedSource::Remote(source) => source.to_string(),
        };
        set(format!("context:{}{platform}", context.name), &value);
    }
    found
}
