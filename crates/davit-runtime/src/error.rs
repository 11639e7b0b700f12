//! Why a process could not be launched: the step and the kernel's answer.

use std::io;

use thiserror::Error;

use crate::cgroup::CgroupError;
use crate::user::UserError;

/// What the child was doing. The numbers are part of the report pipe only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Making or joining namespaces.
    Namespace,
    /// Entering a cgroup v1 hierarchy.
    CgroupAttach,
    /// Attaching the root filesystem.
    Root,
    /// A mount of the plan.
    Mount,
    /// A device node or link below `/dev`.
    Device,
    /// The pseudo-terminal.
    Terminal,
    /// Hiding or protecting a path.
    Mask,
    /// `pivot_root`.
    Pivot,
    /// Host or domain name.
    Hostname,
    /// A kernel parameter.
    Sysctl,
    /// A resource limit.
    Rlimit,
    /// `oom_score_adj`.
    OomScore,
    /// User or groups.
    User,
    /// Capabilities.
    Capability,
    /// The system call filter.
    Seccomp,
    /// The working directory.
    WorkingDirectory,
    /// Descriptors and signals.
    Descriptors,
    /// Starting the reaper.
    Init,
    /// `execve` of the command.
    Exec,
}

/// A failed launch or exec.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The plan itself cannot be carried out.
    #[error("{what}")]
    Plan {
        /// What is wrong with it, naming the object.
        what: String,
    },
    /// The user cannot be had.
    #[error("user of the container")]
    User(#[from] UserError),
    /// The cgroup cannot be made.
    #[error("cgroup of the container")]
    Cgroup(#[from] CgroupError),
    /// A descriptor or file that the launch needs.
    #[error("{object}")]
    Prepare {
        /// What was being prepared.
        object: String,
        /// Cause.
        source: io::Error,
    },
    /// The child failed before `execve`.
    #[error("{step:?} {object}")]
    Child {
        /// Step.
        step: Step,
        /// The object of the step: a path, a name.
        object: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The command cannot be executed.
    #[error("exec: {command:?}: {failure}")]
    Exec {
        /// First argument.
        command: String,
        /// Why.
        failure: ExecFailure,
    },
    /// The child ended without a report (killed, or out of memory).
    #[error("the container's first process ended before it ran the command")]
    Died,
}

/// Why a command cannot be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ExecFailure {
    /// A bare name that no directory of `PATH` has.
    #[error("executable file not found in $PATH")]
    NotFoundInPath,
    /// The file, or its interpreter, is missing.
    #[error("no such file or directory")]
    NotFound,
    /// Not executable, or a directory.
    #[error("permission denied")]
    PermissionDenied,
    /// Another error of `execve`.
    #[error("{}", io::Error::from_raw_os_error(*.0))]
    Other(i32),
}

impl LaunchError {
    /// Docker's exit code: 127 not found, 126 not executable, 125 everything else.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Exec { failure: ExecFailure::NotFoundInPath | ExecFailure::NotFound, .. } => 127,
            Self::Exec { .. } => 126,
            _ => 125,
        }
    }
}
