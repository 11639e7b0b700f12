//! The network in namespaces of the test's own: nothing of the machine is touched.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bridge;
mod names;
mod namespace;
