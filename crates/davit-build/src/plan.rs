//! A build as plain data: what has to be done, in which order, for which image.
//!
//! ```text
//! stage 0   Image(golang) - MakeDirectory(/src) - Copy(context) - Run(go build) --.
//! stage 1   Scratch ------------------------------------------- Copy(from) <------'
//!                                                               ^ target.state
//! ```
//!
//! A node makes one layer (or is a stage's base) and reads the states of the nodes before it;
//! `inputs[0]` is the state that it adds its layer to.

mod checks;
mod contexts;
mod fresh;
mod images;
mod mounts;
mod origins;
pub(crate) mod planner;
pub(crate) mod platforms;
mod remote;
pub(crate) mod run;
pub(crate) mod scans;
mod stage;
mod steps;
mod triggers;

use std::{collections::BTreeSet, fmt};

use davit_dockerfile::{Security, Span};
use davit_image::{Digest, HistoryEntry, ImageConfig, Platform};
use davit_runtime::plan::Rlimit;

pub use self::mounts::{
    BindOrigin, CacheMount, ClientMount, MountAccess, MountSource, RunMount, SecretVariable,
};
pub use self::scans::Scans;

use crate::{CachePolicy, source::RemoteSource};

/// Index of a node in its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// Index of a stage in its Dockerfile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StageId(pub u32);

/// A context that is a directory, a tar or nothing: the main one, or a directory among the named
/// ones of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContextId(u32);

/// Everything that one build does; nodes stand behind those they read.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// What the build gives.
    pub target: Target,
    /// What it gives for further platforms, in their order.
    pub more_targets: Vec<Target>,
    /// Stages whose steps run again whatever the cache has.
    pub fresh: BTreeSet<StageId>,
    /// `SOURCE_DATE_EPOCH`, in seconds.
    pub epoch: Option<i64>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// The image that a build gives.
#[derive(Clone, Debug)]
pub struct Target {
    /// Node whose state is the image's file system.
    pub state: NodeId,
    /// Its config without `created`, `rootfs` and `history`.
    pub config: ImageConfig,
    /// Its history; the entry of a layer names the node that makes it.
    pub history: Vec<(HistoryEntry, Option<NodeId>)>,
    /// What its SBOM needs beside it.
    pub scans: Scans,
}

/// One node of a plan.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// What it reads; the first is the state that it builds upon.
    pub inputs: Vec<NodeId>,
    /// The stage that it belongs to.
    pub stage: StageId,
    /// Its name for people, as `[build 2/5] RUN make`.
    pub name: String,
    /// Where it stands in the Dockerfile; `None` for what an `ONBUILD` trigger or a flag added.
    pub span: Option<Span>,
    /// Whether an earlier result of it counts.
    pub cache: CachePolicy,
}

/// What a node does.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "a plan has few nodes")]
pub enum Op {
    /// The empty file system.
    Scratch,
    /// An image's file system.
    Image(BaseImage),
    /// What was fetched from elsewhere.
    Source(RemoteSource),
    /// Runs a command.
    Run(RunSpec),
    /// Copies files.
    Copy(CopySpec),
    /// Makes a directory and those above it, where they are missing.
    MakeDirectory(MakeDirectory),
}

/// A base image that is present in the store.
#[derive(Clone, Debug)]
pub struct BaseImage {
    /// Its name, normalised; as written for messages.
    pub name: String,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Its config; `rootfs` names its layers.
    pub config: ImageConfig,
}

/// A `RUN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunSpec {
    /// Program and arguments, the shell included.
    pub args: Vec<String>,
    /// `NAME=value`, the image's and the arguments'.
    pub env: Vec<String>,
    /// Proxy variables: given to the process, in no key and no history.
    pub proxy_env: Vec<String>,
    /// Working directory.
    pub working_dir: String,
    /// `user[:group]`; empty = root.
    pub user: String,
    /// Network.
    pub network: Network,
    /// Host name.
    pub hostname: String,
    /// Sandbox.
    pub security: Security,
    /// Mounts, parents before their children.
    pub mounts: Vec<RunMount>,
    /// Devices that it gets, by name.
    pub devices: Vec<RunDevice>,
    /// Variables that hold secrets; their values are in no key.
    pub secrets: Vec<SecretVariable>,
    /// Size of `/dev/shm` in bytes; `None` = 64 MiB.
    pub shm_size_bytes: Option<u64>,
    /// Resource limits of processes.
    pub ulimits: Vec<Rlimit>,
    /// Cgroup below which it runs; `None` = davit's own.
    pub cgroup_parent: Option<String>,
    /// Scripts that the process finds below `/dev/pipes`.
    pub scripts: Vec<ScriptFile>,
    /// Hosts that it knows, as (name, address); the address is in no key.
    pub hosts: Vec<(String, String)>,
    /// What it runs on.
    pub platform: Platform,
}

/// A device of a `RUN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDevice {
    /// Its name, `vendor.com/class[=name]`.
    pub name: String,
    /// Whether the step fails without it.
    pub required: bool,
}

/// A script of a `RUN` heredoc that begins with `#!`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptFile {
    /// Its name below `/dev/pipes`.
    pub name: String,
    /// Its text.
    pub content: String,
}

/// Network of `RUN` steps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Network {
    /// A private network with a way out.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The host's.
    Host,
    /// That of a container, which runs.
    Container(String),
    /// One that a user made, by name.
    Named(String),
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::None => f.write_str("none"),
            Self::Host => f.write_str("host"),
            Self::Container(name) => write!(f, "container:{name}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// A `COPY` or `ADD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopySpec {
    /// Where its sources are.
    pub origin: CopyOrigin,
    /// Paths and patterns, cleaned, without leading `/`; empty = the root.
    pub sources: Vec<String>,
    /// Sources that lie elsewhere.
    pub remotes: Vec<RemoteCopy>,
    /// Files that stand in the Dockerfile.
    pub files: Vec<InlineFile>,
    /// Where it copies to.
    pub destination: Destination,
    /// Owner; `None` keeps the source's (root for the context).
    pub owner: Option<Ownership>,
    /// `--chmod`, octal or symbolic, checked.
    pub mode: Option<String>,
    /// With `--parents`, for each source the pattern of what is copied below it together with the
    /// directories on the way; else empty.
    pub parents: Vec<String>,
    /// Patterns of what is left out below each source.
    pub exclude: Vec<String>,
    /// Whether the layers below count for nothing: no symlink of theirs is followed, and parent
    /// directories are made anew.
    pub link: bool,
    /// Whether archives are unpacked.
    pub unpack: Unpack,
    /// Time of what it writes, in seconds; `None` = that of the sources.
    pub epoch: Option<i64>,
}

/// A source of an `ADD` that lies elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteCopy {
    /// How many of the other sources are copied before it.
    pub after: usize,
    /// Index among the node's inputs of the state that holds it.
    pub input: usize,
    /// How it is copied: the one source is a path in that state.
    pub spec: CopySpec,
}

/// Where the sources of a `COPY` are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyOrigin {
    /// A context.
    Context(ContextId),
    /// The state of the node's second input.
    Input,
}

/// Destination of a `COPY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Absolute path, cleaned, without leading `/`; empty = the root.
    pub path: String,
    /// Whether it was written as a directory: by a `/` or `/.` at its end.
    pub directory: bool,
}

/// A file that stands in the Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InlineFile {
    /// Its name.
    pub name: String,
    /// Its content, variables expanded.
    pub content: String,
}

/// `--chown`, or the user of a `WORKDIR`: `user[:group]`, by name or number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ownership(pub String);

/// Whether a copy unpacks archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpack {
    /// No.
    Never,
    /// Every source file that is a tar, compressed or not.
    Archives,
}

/// A `WORKDIR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MakeDirectory {
    /// Absolute path, cleaned, without leading `/`.
    pub path: String,
    /// Owner of what it makes; `None` = root.
    pub owner: Option<Ownership>,
    /// Time of what it makes, in seconds; `None` = that of the build.
    pub epoch: Option<i64>,
}

impl Ownership {
    /// Whether it holds numbers alone, so that no `/etc/passwd` is asked.
    #[must_use]
    pub fn is_numeric(&self) -> bool {
        self.0.split(':').all(|part| part.is_empty() || part.parse::<u32>().is_ok())
    }
}

impl ContextId {
    /// The context that has no name.
    pub const MAIN: Self = Self(0);

    /// The context at this position of the request's named ones.
    pub(crate) fn named(position: usize) -> Self {
        Self(u32::try_from(position + 1).expect("contexts are few"))
    }

    /// Its position among the request's named contexts; `None` for the main one.
    pub(crate) fn position(self) -> Option<usize> {
        self.0.checked_sub(1).map(|position| position as usize)
    }
}

impl Plan {
    /// The node with this index.
    ///
    /// # Panics
    /// If the index is of another plan.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// What the build gives, the first platform's image first.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        std::iter::once(&self.target).chain(&self.more_targets)
    }

    /// The nodes that a state is made from, itself included: not what only looks at it.
    #[must_use]
    pub fn made_from(&self, state: NodeId) -> BTreeSet<NodeId> {
        let mut found = BTreeSet::new();
        let mut open = vec![state];
        while let Some(id) = open.pop() {
            if found.insert(id) {
                open.extend(&self.node(id).inputs);
            }
        }
        found
    }

    /// The image that a target stands upon, if it stands upon one.
    #[must_use]
    pub fn base_of(&self, target: &Target) -> Option<&BaseImage> {
        let mut node = self.node(target.state);
        loop {
            match (&node.op, node.inputs.first()) {
                (Op::Image(image), _) => return Some(image),
                (_, Some(below)) => node = self.node(*below),
                (_, None) => return None,
            }
        }
    }
}
