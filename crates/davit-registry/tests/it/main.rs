//! Tests of the registry server.
#![allow(clippy::unwrap_used, reason = "a failed fixture is a failed test")]

mod auth;
mod bench;
mod blobs;
mod db;
mod fixture;
mod gc;
mod gc_model;
mod manifests;
