//! Container life cycle: launch plan, namespaces, limits, seccomp, exec and the build supervisor.
//!
//! A [`Plan`] is pure data. [`launch()`] turns it into a process in one `clone3`; [`exec()`] joins a running container.
//!
//! ```text
//! Plan + Launch (fds) -> prepare (C strings, fds, filters) -> clone3 -> child: mounts, pivot, user, caps, seccomp
//!                                                              |                 |            |
//!                                        Launched <------------+     network_ready            start -> exec
//! ```
//!
//! The callers are single-threaded processes (the container's monitor, the build supervisor) or a command that joins a container;
//! nothing here starts a thread.

#![forbid(unsafe_code)]

pub mod capability;
pub mod cdi;
pub mod cgroup;
mod child;
pub mod emulation;
pub mod error;
pub mod exec;
pub mod launch;
pub mod monitor;
pub mod plan;
pub mod process;
pub mod seccomp;
pub mod user;

pub use cgroup::{Cgroup, Cgroups};
pub use emulation::{Emulator, Execution};
pub use error::{ExecFailure, LaunchError, Step};
pub use exec::{ExecPlan, Executed, Target, exec, root};
pub use launch::{Launch, Launched, Running, StdioPlan, Streams, launch};
pub use plan::Plan;
pub use process::{Identity, Process};
