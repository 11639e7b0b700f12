//! The registry server: repositories of manifests and blobs, accounts, online garbage collection.
//!
//! - [`config`]: settings, as plain structs
//! - [`db`]: SQLite or PostgreSQL, and the schema
//! - [`store`]: the bytes of blobs
//! - [`registry`]: what use cases share; [`blobs`], [`uploads`], [`manifests`], [`lists`]: the use cases
//! - [`fault`]: why a request is refused
//! - [`name`]: a repository's name
#![forbid(unsafe_code)]

pub mod blobs;
pub mod config;
pub mod db;
pub mod fault;
pub mod lists;
pub mod manifests;
pub mod name;
pub mod oci;
pub mod registry;
pub mod store;
pub mod uploads;
