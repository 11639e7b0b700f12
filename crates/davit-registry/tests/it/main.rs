//! Tests of the registry server.
#![allow(clippy::unwrap_used, reason = "a failed fixture is a failed test")]
#![allow(clippy::print_stderr, reason = "a soak tells what it did")]

mod api;
mod auth;
mod automation;
mod backup;
mod bench;
mod blobs;
mod builds;
mod database;
mod db;
mod failures;
mod fixture;
mod front;
mod gc;
mod gc_model;
mod import;
mod manifests;
mod mirror;
mod nodes;
mod objects;
mod operation;
mod races;
mod replication;
mod secrets;
mod soak;
mod trash;
mod web;
mod webhooks;
