//! The registry server: repositories of manifests and blobs, accounts, online garbage collection.
//!
//! - [`api`]: the JSON API; [`web`]: pages
//! - [`auth`]: accounts, credentials, roles, the policy gate
//! - [`autobuild`]: images built from git repositories
//! - [`config`]: settings, as plain structs
//! - [`db`]: SQLite or PostgreSQL, and the schema
//! - [`store`]: the bytes of blobs
//! - [`registry`]: what use cases share; [`blobs`], [`uploads`], [`manifests`], [`lists`]: the use cases
//! - [`fault`]: why a request is refused
//! - [`oci`]: the distribution-spec's HTTP protocol
//! - [`server`]: the listener
//! - [`events`]: what happened, for those who listen; [`webhooks`]: those who are told by HTTP
//! - [`gc`]: online garbage collection; [`check`]: the database compared with itself and the store
//! - [`bandwidth`]: how fast bytes come from other registries and go to them
//! - [`backup`]: copies of a registry that serves, and registries from them
//! - [`import`]: repositories of other registries and tools, from their directories
//! - [`jobs`]: work that any process on the database may do
//! - [`mirror`]: repositories of other registries, fetched when they are pulled
//! - [`name`]: a repository's name
//! - [`pulls`]: when manifests were pulled
//! - [`quota`]: bytes of an account; [`ratelimit`]: how often is pulled
//! - [`replication`]: images that go to other registries, and come from them
//! - [`retention`]: which tags stay
//! - [`settings`]: what a repository's owner sets
//! - [`trash`]: what was deleted, and the way back
#![forbid(unsafe_code)]

pub mod api;
pub mod auth;
pub mod autobuild;
pub mod backup;
pub mod bandwidth;
mod ber;
pub mod blobs;
mod buckets;
pub mod check;
pub mod config;
pub mod db;
pub mod events;
pub mod fault;
pub mod gc;
pub mod import;
pub mod jobs;
pub mod lists;
pub mod manifests;
mod memory;
pub mod mirror;
pub mod name;
pub mod oci;
mod pieces;
pub mod pulls;
pub mod quota;
pub mod ratelimit;
pub mod registry;
pub mod replication;
pub mod retention;
pub mod server;
pub mod settings;
pub mod store;
pub mod trash;
pub mod uploads;
pub mod web;
pub mod webhooks;
