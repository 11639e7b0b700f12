//! The image model of davit: everything an image is made of, as plain data.
//!
//! ```text
//! Reference -> Descriptor -> Index -> Manifest -> Config + layers (Descriptor, DiffId)
//! ```
//!
//! Types follow the OCI image-spec 1.1 and Docker's image manifest version 2, schema 2; both are
//! native. Anything with a grammar is a newtype whose only door is [`str::parse`]; only a [`MediaType`]
//! takes any text, for it must be passed on as received. Unknown JSON fields survive, and [`Raw`] keeps the received bytes, so that only received or once-written
//! bytes are ever hashed.
//!
//! **Invariant:** this crate does no IO.

#![forbid(unsafe_code)]

mod config;
mod descriptor;
mod digest;
mod id;
mod manifest;
mod media_type;
mod platform;
mod raw;
mod reference;
#[cfg(test)]
mod strategies;
mod timestamp;

pub use config::{ContainerConfig, Empty, HealthConfig, HistoryEntry, ImageConfig, RootFs};
pub use descriptor::Descriptor;
pub use digest::{Algorithm, Digest, DigestError, Digester};
pub use id::{ChainId, DiffId, ImageId};
pub use manifest::{Document, DocumentError, Index, Manifest};
pub use media_type::{Compression, MediaType};
pub use platform::{Platform, PlatformError};
pub use raw::Raw;
pub use reference::{Reference, ReferenceError, Repository, Tag};
pub use timestamp::{Timestamp, TimestampError};
