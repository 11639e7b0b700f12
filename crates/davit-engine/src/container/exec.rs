//! Running a further command in a running container.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use davit_runtime::{
    ExecPlan, Executed, LaunchError, StdioPlan, Target,
    plan::{ProcessPlan, UserChoice},
    process::Identity,
    seccomp::Profile,
};
use davit_sys::process::CStringArray;
use serde::{Deserialize, Serialize};

use super::{
    ContainerError, Phase, Tty,
    monitor::BIRTH,
    newborn::{sealed_executable, told},
    plan::merge_environment,
};
use crate::Engine;

/// A command to run in a container.
#[derive(Clone, Debug, Default)]
pub struct ExecRequest {
    /// Command and arguments.
    pub command: Vec<String>,
    /// Variables beside the container's.
    pub env: Vec<String>,
    /// `user[:group]`; the container's own when `None`.
    pub user: Option<String>,
    /// Working directory; the container's own when `None`.
    pub working_dir: Option<String>,
    /// Whether it gets a terminal.
    pub tty: Tty,
    /// Whether it reads standard input.
    pub interactive: bool,
    /// Whether nobody waits for it.
    pub detach: bool,
    /// Whether it gets all capabilities.
    pub privileged: bool,
    /// Keys that detach from a terminal.
    pub detach_keys: Vec<u8>,
}

/// What the helper that joins the container is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExecOrder {
    /// The container's first process.
    pub process: Identity,
    /// The container's cgroup.
    pub cgroup: String,
    /// The command.
    pub plan: ProcessPlan,
    /// Whether it gets a terminal.
    pub tty: Tty,
    /// Whether it reads standard input.
    pub interactive: bool,
    /// Whether nobody waits for it.
    pub detach: bool,
    /// Keys that detach from a terminal.
    pub detach_keys: Vec<u8>,
}

impl ExecOrder {
    /// Reads the order that [`Engine::exec`] left for the helper.
    ///
    /// # Errors
    /// The process was not started by it.
    pub fn read() -> io::Result<Self> {
        let file = davit_sys::inherit::take(BIRTH)?;
        let file = fs_err::File::from_parts(file.into(), "order");
        Ok(serde_json::from_reader(io::BufReader::new(file))?)
    }

    /// Joins the container and executes the command. Blocks until it runs or failed.
    ///
    /// # Errors
    /// Why it cannot be run; Docker's exit code is its [`LaunchError::exit_code`].
    pub fn carry_out(&self, stdio: StdioPlan) -> Result<Executed, LaunchError> {
        let target = Target { process: self.process, cgroup: self.cgroup.clone() };
        davit_runtime::exec(&target, ExecPlan { process: self.plan.clone(), stdio })
    }
}

impl Engine {
    /// Replaces this process by the helper that runs the command: a process that a container can
    /// see must run from a sealed executable. Returns only on failure.
    ///
    /// # Errors
    /// [`ContainerError::NotFound`]; [`ContainerError::Conflict`] when the container does not run.
    pub fn exec(
        self,
        name: &str,
        request: ExecRequest,
    ) -> Result<std::convert::Infallible, ContainerError> {
        let order = self.exec_order(name, request)?;
        // Closes the database before the process changes.
        drop(self);
        let failed = |error: io::Error| ContainerError::io("start", "davit __exec", error);
        let json = serde_json::to_vec(&order)
            .map_err(|source| ContainerError::Row { id: name.to_owned(), source })?;
        let told = told("davit-exec", &json).map_err(failed)?;
        Err(failed(become_helper(&told)))
    }

    fn exec_order(&self, name: &str, request: ExecRequest) -> Result<ExecOrder, ContainerError> {
        let container = self.container(name)?;
        let not_running =
            || ContainerError::Conflict(format!("container {} is not running", container.id));
        if container.status.phase == Phase::Paused {
            return Err(ContainerError::Conflict(format!(
                "container {name} is paused, unpause the container before exec"
            )));
        }
        let process = container.status.process.ok_or_else(not_running)?;
        let mut plan = self.plan(&container.spec, &container.id)?.plan.process;
        plan.args = request.command;
        if request.tty.is_on() && !container.spec.tty.is_on() {
            plan.env.push("TERM=xterm".to_owned());
        }
        merge_environment(&mut plan.env, request.env.iter());
        if let Some(directory) = request.working_dir {
            plan.cwd = directory;
        }
        plan.create_cwd = false;
        if let Some(user) = request.user {
            let groups = container.spec.security.groups.clone();
            plan.user = UserChoice::Named { user, groups };
        }
        if request.privileged {
            plan.capabilities = davit_runtime::capability::Capabilities::ALL;
            plan.seccomp = Profile::Unconfined;
        }
        Ok(ExecOrder {
            process,
            cgroup: self.cgroup_of(&container.id),
            plan,
            tty: request.tty,
            interactive: request.interactive,
            detach: request.detach,
            detach_keys: request.detach_keys,
        })
    }
}

/// Executes this binary again, sealed, with the order as its descriptor.
fn become_helper(told: &OwnedFd) -> io::Error {
    let executable = match sealed_executable() {
        Ok(executable) => executable,
        Err(error) => return error,
    };
    let arguments = match CStringArray::new(["davit", "__exec"]) {
        Ok(arguments) => arguments,
        Err(error) => return error.into(),
    };
    let environment = match CStringArray::new::<&str>([]) {
        Ok(environment) => environment,
        Err(error) => return error.into(),
    };
    // Taking the order's number must not close the executable.
    let executable = match rustix::io::fcntl_dupfd_cloexec(&executable, BIRTH + 1) {
        Ok(executable) => executable,
        Err(errno) => return errno.into(),
    };
    if let Err(errno) = davit_sys::process::duplicate_to(told.as_fd(), BIRTH) {
        return errno.into();
    }
    davit_sys::process::fexecve(executable, &arguments, &environment).into()
}
