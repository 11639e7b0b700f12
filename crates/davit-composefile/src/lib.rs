//! Compose files: YAML texts to one tree of services, secrets and the rest.
//!
//! ```text
//! text -> yaml (anchors, tags) -> interpolate -> include -> extends -> merge with the files before
//!      -> tree
//! ```
//!
//! [`Loader::load`] does it; what the keys of a service mean is its caller's. Nothing here reads a
//! file or the environment: both come as functions. Files come from anywhere: their size, depth,
//! aliases and the files that they name are bounded.
//!
//! Format: compose-spec `spec.md`, `05-services.md`, `12-interpolation.md`, `13-merge.md`.

#![forbid(unsafe_code)]

mod dotenv;
mod error;
mod interpolate;
mod load;
mod merge;
mod node;
mod yaml;

pub use self::{
    dotenv::read as read_dotenv,
    error::{ComposeError, Place},
    interpolate::interpolate,
    load::{ComposeText, Loader},
    node::{Mark, Node, Shape},
    yaml::has_key,
};
