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

mod error;
mod event;
mod key;
mod outcome;
mod plan;
mod request;

pub use error::{BuildError, BuildErrorKind, Excerpt};
pub use event::{BuildEvent, EventSink, LogStream, StepId, StepInfo};
pub use key::{Component, ContentKey, DefinitionKey, KeyBuilder, Miss};
pub use outcome::{BuildOutcome, BuiltLayer};
pub use plan::{
    BaseImage, CopyOrigin, CopySpec, Destination, InlineFile, MakeDirectory, Network, Node, NodeId,
    Op, Ownership, Plan, RunSpec, ScriptFile, StageId, Target, Unpack,
};
pub use request::{
    BaseImages, BuildRequest, CachePolicy, ContextSource, DockerfileText, IgnoreText, PullPolicy,
};
