//! The builder: from a Dockerfile and a context to an image.
//!
//! ```text
//! Dockerfile -> Plan (pure) -> keys -> build records: hit -> the layer that is there
//!     context ---^                        miss -> COPY (tables) or RUN (overlay) -> new layer
//!                                                             -> config, manifest -> exporter
//! ```
//!
//! A [`Plan`] is data: nodes that make one layer each, the edges between them and the configs of
//! the result. Keys are made of it and of content, never of times. `COPY` and `ADD` read tables
//! and write a tar with its table; only `RUN` mounts anything.
//!
//! **Invariants:** a layer is reused only by the digest of its entries without times; nothing is
//! read outside the context's root; this crate blocks and knows no registry, no terminal.

#![forbid(unsafe_code)]

mod admission;
mod archives;
mod build;
mod cache;
mod cancel;
mod checks;
mod context;
mod context_files;
mod copy;
mod definition;
mod difference;
mod error;
mod event;
mod executor;
mod explain;
mod export;
mod files;
mod frontend;
mod image;
mod inputs;
mod key;
mod layers;
mod missing;
mod outcome;
mod plan;
mod provenance;
mod request;
mod run;
mod sandbox;
mod selection;
mod shared;
mod source;
mod step;
mod symbolic_mode;
mod writer;

pub use archives::looks_like_archive;
pub use build::{
    BuildEnvironment, Built, FinalSteps, SBOM_DIRECTORY,
    at::At,
    build, build_at,
    call::{CallEnvironment, Checked, check, outline, targets},
};
pub use cache::STEP_NAME;
pub use cancel::Cancellable;
pub use checks::Checks;
pub use difference::{Aspect, Difference};
pub use error::{BuildError, BuildErrorKind, Excerpt, one_line};
pub use event::{BuildEvent, EventSink, LogStream, StepId, StepInfo};
pub use export::{
    ExportError, ExportMode, ExportPart, ExportTarget, MoreFile, OpenedLayers, export_directory,
    export_tar, file_digests, open_layers, write_tree,
};
pub use key::{Component, ContentKey, DefinitionKey, KeyBuilder, Miss};
pub use layers::LayerError;
pub use outcome::{BuildOutcome, BuiltLayer};
pub use plan::{
    BaseImage, BindOrigin, CacheMount, ClientMount, ContextId, CopyOrigin, CopySpec, Destination,
    InlineFile, MakeDirectory, MountAccess, MountSource, Network, Node, NodeId, Op, Ownership,
    Plan, RemoteCopy, RunDevice, RunMount, RunSpec, Scans, ScriptFile, SecretVariable, StageId,
    Target, Unpack,
};
pub use provenance::{
    Attest, Detail, Details, Material, Provenance, ProvenanceStep, Sbom, StepLayers,
};
pub use request::{
    BaseImages, BuildRequest, CachePolicy, ContextModes, ContextSource, DockerfilePlace,
    DockerfileText, IgnoreText, ImageSource, LayoutImage, NamedContext, NamedSource, PullPolicy,
    Repeat, Squash, TarStream, context_name,
};
pub use run::{
    RunError, RunSettings,
    agent::{
        Agent, AgentSocket,
        keys::{KeyError, Keys},
    },
    console::{Console, ConsoleKind, ConsoleStreams},
    network::{BridgeNetwork, FindNetwork, JoinedNetwork, StepNetworkError},
    supervisor::supervise,
};
pub use sandbox::{Entitlement, Invalidation, Sandbox, Secret, StepVolume, VolumeSource};
pub use shared::{FinalStep, INLINE_RECORDS, SharedCache, SharedMount, SharedRecord};
pub use source::{
    FetchedSource, GitMtime, GitReferenceError, GitSource, HttpSource, RemoteSource,
    SourceIdentity, Sources, account, host_name, public_address, without_secrets,
};
pub use writer::LayerWriteError;
