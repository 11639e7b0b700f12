//! Starting a container's first process.

use std::os::fd::{BorrowedFd, OwnedFd};

use crate::cgroup::{Cgroup, Cgroups};
use crate::error::LaunchError;
use crate::plan::Plan;
use crate::process::Process;

/// What a launch needs besides the [`Plan`].
#[derive(Debug)]
pub struct Launch<'a> {
    /// What to launch.
    pub plan: &'a Plan,
    /// The root filesystem: a detached mount (from `fsmount` or `open_tree`), which is moved into the container.
    pub root: BorrowedFd<'a>,
    /// Descriptors that the plan refers to by number: namespaces, bind sources.
    pub descriptors: &'a [BorrowedFd<'a>],
    /// Standard streams.
    pub stdio: StdioPlan,
    /// The machine's cgroup hierarchies.
    pub cgroups: &'a Cgroups,
}

/// Standard streams of a process.
#[derive(Debug)]
pub enum StdioPlan {
    /// A pseudo-terminal from the container's devpts; its controlling terminal.
    Terminal {
        /// Rows and columns; `None` = the kernel's zero.
        size: Option<(u16, u16)>,
    },
    /// Pipes to the caller. Without standard input it is `/dev/null`.
    Pipes {
        /// Whether there is a pipe for standard input.
        stdin: StdinPlan,
    },
    /// Descriptors of the caller for standard input, output and error.
    Descriptors([OwnedFd; 3]),
}

/// Standard input with [`StdioPlan::Pipes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StdinPlan {
    /// `/dev/null`.
    Null,
    /// A pipe.
    Pipe,
}

/// The caller's ends of the streams.
#[derive(Debug)]
pub enum Streams {
    /// Master of the pseudo-terminal.
    Terminal(OwnedFd),
    /// Pipes: write end of standard input, read ends of output and error.
    Pipes {
        /// Standard input, if asked.
        stdin: Option<OwnedFd>,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// The caller gave its own descriptors.
    None,
}

/// A cloned first process that prepares itself. Dropping it kills the process and its cgroup's members.
#[derive(Debug)]
pub struct Launched {
    process: Process,
}

/// A container whose command runs.
#[derive(Debug)]
pub struct Running {
    /// The first process; a child of the caller.
    pub process: Process,
    /// The container's cgroup; not removed on drop.
    pub cgroup: Cgroup,
    /// Holding it keeps the mounts, so that tearing them down happens after the exit was reported (0.9 ms).
    pub mount_namespace: OwnedFd,
    /// The network namespace.
    pub network_namespace: OwnedFd,
    /// The caller's ends of the streams.
    pub streams: Streams,
}

/// Makes the cgroup and clones the first process, which begins to mount at once.
///
/// # Errors
/// [`LaunchError`]; nothing is left behind.
pub fn launch(launch: Launch<'_>) -> Result<Launched, LaunchError> {
    let _ = launch;
    unimplemented!()
}

impl Launched {
    /// The first process, waiting.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The new (or joined) network namespace, for wiring it while the process mounts.
    pub fn network_namespace(&self) -> BorrowedFd<'_> {
        unimplemented!()
    }

    /// Releases the first barrier: links and addresses are there, kernel parameters may be written.
    ///
    /// # Errors
    /// The child has failed.
    pub fn network_ready(&mut self) -> Result<(), LaunchError> {
        unimplemented!()
    }

    /// Waits until everything but the command is in place. Blocks.
    ///
    /// # Errors
    /// What the child reports.
    pub fn wait_prepared(&mut self) -> Result<(), LaunchError> {
        unimplemented!()
    }

    /// Releases the second barrier and waits until the command runs. Implies the steps before. Blocks.
    ///
    /// # Errors
    /// What the child reports; then the process and its cgroup are gone.
    pub fn start(self) -> Result<Running, LaunchError> {
        unimplemented!()
    }
}
