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

mod archives;
mod build;
mod cache;
mod cancel;
mod checks;
mod context;
mod context_files;
mod copy;
mod definition;
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
mod log;
mod missing;
mod outcome;
mod plan;
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
    BuildEnvironment, Built, build,
    call::{CallEnvironment, Checked, check, outline, targets},
};
pub use cancel::Cancellable;
pub use checks::Checks;
pub use error::{BuildError, BuildErrorKind, Excerpt, one_line};
pub use event::{BuildEvent, EventSink, LogStream, StepId, StepInfo};
pub use export::{
    ExportError, ExportMode, ExportPart, ExportTarget, export_directory, export_tar, write_tree,
};
pub use key::{Component, ContentKey, DefinitionKey, KeyBuilder, Miss};
pub use layers::LayerError;
pub use outcome::{BuildOutcome, BuiltLayer};
pub use plan::{
    BaseImage, BindOrigin, CacheMount, ClientMount, ContextId, CopyOrigin, CopySpec, Destination,
    InlineFile, MakeDirectory, MountAccess, MountSource, Network, Node, NodeId, Op, Ownership,
    Plan, RemoteCopy, RunMount, RunSpec, ScriptFile, SecretVariable, StageId, Target, Unpack,
};
pub use request::{
    BaseImages, BuildRequest, CachePolicy, ContextSource, DockerfilePlace, DockerfileText,
    IgnoreText, ImageSource, LayoutImage, NamedContext, NamedSource, PullPolicy, TarStream,
    context_name,
};
pub use run::{
    RunError, RunSettings,
    agent::{
        Agent, AgentSocket,
        keys::{KeyError, Keys},
    },
    emulation::runnable,
    network::{BridgeNetwork, FindNetwork, StepNetworkError},
    supervisor::supervise,
};
pub use sandbox::{Entitlement, Invalidation, Sandbox, Secret};
pub use shared::{Shareable, SharedCache, SharedRecord};
pub use source::{
    FetchedSource, GitMtime, GitReferenceError, GitSource, HttpSource, RemoteSource, Sources,
    account, host_name, public_address,
};
pub use writer::LayerWriteError;
