//! Containers on the real kernel: root file systems are plain directories with a static busybox.
//!
//! Every test has its own directory and cgroup. The allocator of this program aborts a cloned child
//! that allocates before it executes, which guards the invariant of `child.rs`.

#![allow(clippy::disallowed_methods, reason = "tests are configured by the environment")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod allocator;
mod cgroups;
mod defaults;
mod exec;
mod fixture;
mod hostile;
mod limits;
mod process;
mod speed;
mod terminal;
