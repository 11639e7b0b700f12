//! Distribution specification: wire types and the registry client.
//!
//! ```text
//! Client (one per process: connections, tokens, what each host answered)
//!   └ Session (one repository, one access) ── resolve, manifest, blob, upload, mount, tags
//!        └ transport: mirrors -> endpoint -> auth -> redirects -> retry -> bounded body
//! ```
//!
//! [`wire`] holds what crosses the network and is shared with the registry server. The rest is the
//! client: everything that a registry sends is hostile until its size and digest match, every
//! body has a limit before it is read, and credentials go to no host but the one they belong to.
//!
//! **Invariant:** nothing here reads the environment; paths and settings arrive in [`ClientConfig`].

#![forbid(unsafe_code)]

mod auth;
mod blob;
mod client;
mod config;
mod credentials;
mod download;
mod endpoint;
mod error;
mod list;
mod manifest;
mod redirect;
mod referrers;
mod retry;
mod secret;
mod tls;
mod transport;
mod upload;
mod warning;
mod web;
pub mod wire;

pub use blob::{BlobReader, VerifiedBlob};
pub use client::{Access, Client, Login, Session};
pub use config::{
    ClientConfig, CredentialConfig, Limits, Mirror, ProxyConfig, RegistryConfig, RetryConfig,
    TimeoutConfig, TlsConfig,
};
pub use credentials::{Credential, CredentialError, CredentialStore, Saved};
pub use download::{Download, Wanted};
pub use error::{ConfigError, ConnectionError, Error};
pub use manifest::{Fetched, Target};
pub use secret::Secret;
pub use upload::{BlobSource, SourceError, SourceReader, Uploaded};
pub use web::{WebReply, WebRequest};
