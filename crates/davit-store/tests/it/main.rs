//! Integration tests of the store, on a real disk with real processes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod archive;
mod check;
mod claims;
mod collect;
mod crash;
mod fixture;
mod images;
mod ingest;
mod processes;
mod trace;
