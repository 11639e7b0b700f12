//! Why a process could not be launched: the step and the kernel's answer.

use std::{fmt, io};

use thiserror::Error;

use crate::cgroup::CgroupError;
use crate::child::Failure;
use crate::plan::{Plan, ProcessPlan};
use crate::seccomp::ProfileError;
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
    /// Protecting a path from writing.
    ReadOnly,
    /// Hiding a path.
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
    /// The session keyring.
    Keyring,
    /// The AppArmor profile.
    AppArmor,
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

impl Step {
    const ALL: [Self; 22] = [
        Self::Namespace,
        Self::CgroupAttach,
        Self::Root,
        Self::Mount,
        Self::Device,
        Self::Terminal,
        Self::ReadOnly,
        Self::Mask,
        Self::Pivot,
        Self::Hostname,
        Self::Sysctl,
        Self::Rlimit,
        Self::OomScore,
        Self::Keyring,
        Self::AppArmor,
        Self::User,
        Self::Capability,
        Self::Seccomp,
        Self::WorkingDirectory,
        Self::Descriptors,
        Self::Init,
        Self::Exec,
    ];

    /// The step whose number a child has reported.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|step| *step as u8 == number)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespace => "joining namespaces",
            Self::CgroupAttach => "entering the cgroup",
            Self::Root => "attaching the root filesystem",
            Self::Mount => "mounting",
            Self::Device => "making the device",
            Self::Terminal => "opening the terminal",
            Self::ReadOnly => "protecting",
            Self::Mask => "masking",
            Self::Pivot => "changing the root",
            Self::Hostname => "setting the",
            Self::Sysctl => "setting the kernel parameter",
            Self::Rlimit => "setting the limit",
            Self::OomScore => "setting the OOM score",
            Self::Keyring => "joining a session keyring",
            Self::AppArmor => "applying the AppArmor profile",
            Self::User => "changing the user",
            Self::Capability => "setting capabilities",
            Self::Seccomp => "loading the system call filter",
            Self::WorkingDirectory => "entering the working directory",
            Self::Descriptors => "preparing descriptors",
            Self::Init => "starting the reaper",
            Self::Exec => "executing",
        })
    }
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
    /// The system call filter cannot be made.
    #[error("seccomp profile")]
    Seccomp(#[from] ProfileError),
    /// What executes programs of another architecture cannot be registered.
    #[error("cannot register the emulator {program} for the container alone")]
    Emulator {
        /// Its path.
        program: String,
        /// Cause.
        source: io::Error,
    },
    /// A descriptor or file that the launch needs.
    #[error("{object}")]
    Prepare {
        /// What was being prepared.
        object: String,
        /// Cause.
        source: io::Error,
    },
    /// The child failed before `execve`.
    #[error("{step}{}{object}", if object.is_empty() { "" } else { " " })]
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
    /// The container to join is not running.
    #[error("the container is not running")]
    NotRunning,
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

/// The words for what a child reports by number.
#[derive(Debug)]
pub(crate) struct Objects {
    command: String,
    cwd: String,
    user: String,
    mounts: Vec<String>,
    devices: Vec<String>,
    readonly: Vec<String>,
    masked: Vec<String>,
    sysctls: Vec<String>,
    rlimits: Vec<String>,
}

impl Objects {
    /// Of a container.
    pub(crate) fn of_plan(plan: &Plan) -> Self {
        let defaults = Plan::default_sysctls();
        let is_new = plan.namespaces.network == crate::plan::Namespace::New;
        Self {
            mounts: plan.mounts.iter().map(|mount| mount.target.clone()).collect(),
            devices: plan.devices.iter().map(|device| device.path.clone()).collect(),
            readonly: plan.readonly_paths.clone(),
            masked: plan.masked_paths.clone(),
            sysctls: plan
                .sysctls
                .iter()
                .filter(|(name, value)| is_new || defaults.get(*name) != Some(*value))
                .map(|(name, _)| name.clone())
                .collect(),
            ..Self::of_process(&plan.process)
        }
    }

    /// Of a process in a running container.
    pub(crate) fn of_process(process: &ProcessPlan) -> Self {
        Self {
            command: process.args.first().cloned().unwrap_or_default(),
            cwd: process.cwd.clone(),
            user: format!("{:?}", process.user),
            mounts: Vec::new(),
            devices: Vec::new(),
            readonly: Vec::new(),
            masked: Vec::new(),
            sysctls: Vec::new(),
            rlimits: process.rlimits.iter().map(|limit| limit.name.clone()).collect(),
        }
    }

    /// The error that the failure stands for.
    pub(crate) fn describe(&self, failure: Failure) -> LaunchError {
        let source = io::Error::from_raw_os_error(failure.errno.raw_os_error());
        if failure.step == Step::Exec {
            let failure = self.exec_failure(&source);
            return LaunchError::Exec { command: self.command.clone(), failure };
        }
        let number = usize::from(failure.number);
        let of = |list: &Vec<String>| list.get(number).cloned().unwrap_or_default();
        let object = match failure.step {
            Step::Mount => of(&self.mounts),
            Step::Device => of(&self.devices),
            Step::ReadOnly => of(&self.readonly),
            Step::Mask => of(&self.masked),
            Step::Sysctl => of(&self.sysctls),
            Step::Rlimit => of(&self.rlimits),
            Step::WorkingDirectory => self.cwd.clone(),
            Step::User => self.user.clone(),
            Step::Hostname if number == 0 => "host name".to_owned(),
            Step::Hostname => "domain name".to_owned(),
            _ => String::new(),
        };
        LaunchError::Child { step: failure.step, object, source }
    }

    fn exec_failure(&self, source: &io::Error) -> ExecFailure {
        const EISDIR: i32 = 21;
        match source.kind() {
            io::ErrorKind::NotFound if self.command.contains('/') => ExecFailure::NotFound,
            io::ErrorKind::NotFound => ExecFailure::NotFoundInPath,
            io::ErrorKind::PermissionDenied => ExecFailure::PermissionDenied,
            _ if source.raw_os_error() == Some(EISDIR) => ExecFailure::PermissionDenied,
            _ => ExecFailure::Other(source.raw_os_error().unwrap_or_default()),
        }
    }
}
