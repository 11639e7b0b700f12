//! The registry server: repositories of manifests and blobs, accounts, online garbage collection.
//!
//! - [`config`]: settings, as plain structs
//! - [`db`]: SQLite or PostgreSQL, and the schema
//! - [`name`]: a repository's name
#![forbid(unsafe_code)]

pub mod config;
pub mod db;
pub mod name;
