//! Starting a further process in a running container, without its monitor.

use std::os::fd::OwnedFd;

use crate::error::LaunchError;
use crate::launch::{StdioPlan, Streams};
use crate::plan::ProcessPlan;
use crate::process::{Identity, Process};

/// A running container to join.
#[derive(Debug)]
pub struct Target {
    /// Its first process.
    pub process: Identity,
    /// Its cgroup, as in [`crate::plan::CgroupPlan::path`].
    pub cgroup: String,
}

/// What to run there.
#[derive(Debug)]
pub struct ExecPlan {
    /// The process.
    pub process: ProcessPlan,
    /// Its standard streams.
    pub stdio: StdioPlan,
}

/// A running process in a container.
#[derive(Debug)]
pub struct Executed {
    /// The process; a child of the caller.
    pub process: Process,
    /// The caller's ends of the streams.
    pub streams: Streams,
}

/// Joins the container's namespaces and cgroup, and executes. Blocks until the command runs or failed.
///
/// The calling process must have been started from a sealed executable (`davit_sys::sealed`), so that the container cannot
/// overwrite it (CVE-2019-5736).
///
/// # Errors
/// [`LaunchError`].
pub fn exec(target: &Target, plan: ExecPlan) -> Result<Executed, LaunchError> {
    let _ = (target, plan, None::<OwnedFd>);
    unimplemented!()
}
