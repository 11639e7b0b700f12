//! Trees and mounts against the kernel, `fsck.erofs` and the peers' unpackers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod erofs;
mod faults;
mod fsck;
mod images;
mod mounts;
mod sharing;
mod support;
