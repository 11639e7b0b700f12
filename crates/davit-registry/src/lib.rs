//! The registry server: repositories of manifests and blobs, accounts, online garbage collection.
//!
//! - [`auth`]: accounts, credentials, roles, the policy gate
//! - [`config`]: settings, as plain structs
//! - [`db`]: SQLite or PostgreSQL, and the schema
//! - [`gc`]: online garbage collection
//! - [`name`]: a repository's name
//! - [`quota`]: bytes of an account
//! - [`retention`]: which tags stay
//! - [`settings`]: what a repository's owner sets
#![forbid(unsafe_code)]

pub mod auth;
pub mod config;
pub mod db;
pub mod gc;
pub mod name;
pub mod quota;
pub mod retention;
pub mod settings;
