//! Starting a further process in a running container, without its monitor.
//!
//! The caller's child is born in the container's cgroup and PID namespace; it then enters the other
//! namespaces and becomes the command by the same code as a container's first process.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use davit_sys::process::{CloneOptions, NamespaceKind, clone};
use rustix::{
    fs::{CWD, Mode, OFlags},
    thread::ThreadNameSpaceType,
};

use crate::cgroup::{Cgroup, Cgroups};
use crate::child::{
    self, Join,
    channel::{ParentEnd, Report, channel},
};
use crate::error::{LaunchError, Objects, Step};
use crate::launch::process::{PreparedProcess, streams};
use crate::launch::{
    PidNamespace, StdioPlan, Streams, end, is_gone, namespace, within_pid_namespace,
};
use crate::plan::ProcessPlan;
use crate::process::{Identity, Process};
use crate::user;

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

/// Joins the container's namespaces and cgroup, and executes. Blocks until the command runs or
/// failed.
///
/// The process is a child of the caller: the kernel lets the container's first process end only when
/// all of its PID namespace are reaped, so the caller must wait for it (or end).
///
/// The calling process must run from a sealed executable (`davit_sys::sealed`), so that the
/// container cannot overwrite it (CVE-2019-5736).
///
/// # Errors
/// [`LaunchError`]; [`LaunchError::NotRunning`] if the container has ended.
pub fn exec(target: &Target, plan: ExecPlan) -> Result<Executed, LaunchError> {
    let first = Process::open(target.process).map_err(|_| LaunchError::NotRunning)?;
    let root = root_of(&first)?;
    let user = user::resolve(root.as_fd(), &plan.process.user)?;
    let (stdio, mut own) = streams(plan.stdio).map_err(|errno| failed("pipes", errno.into()))?;
    let space = foreign_user_namespace(&first)?;
    let mut prepared = PreparedProcess::new(&plan.process, &user, stdio)?;
    prepared.user_namespace = space.as_ref().map(AsFd::as_fd);
    let cgroup = Cgroups::discover()?.open(&target.cgroup).map_err(of_running)?;
    let (process, channel) = clone_joining(&first, &prepared, &cgroup)?;
    let objects = Objects::of_process(&plan.process);
    // The child's ends of the pipes are closed with it.
    drop(prepared);
    match await_exec(&channel, &objects, &mut own) {
        Ok(()) => Ok(Executed { process, streams: own }),
        Err(error) => {
            end(&process);
            Err(of_running(error))
        }
    }
}

fn failed(object: &str, source: io::Error) -> LaunchError {
    LaunchError::Prepare { object: object.to_owned(), source }
}

/// What a failure means that the end of the container brings about, at whatever instant it comes:
/// its cgroup is missing, and its first process has no namespaces from its end until it is reaped.
fn of_running(error: impl Into<LaunchError>) -> LaunchError {
    match error.into() {
        LaunchError::Cgroup(error) if error.is_not_found() => LaunchError::NotRunning,
        LaunchError::Prepare { source, .. }
        | LaunchError::Child { step: Step::Namespace, source, .. }
            if is_gone(&source) =>
        {
            LaunchError::NotRunning
        }
        error => error,
    }
}

/// The user namespace of a container's first process, unless it is the caller's.
fn foreign_user_namespace(first: &Process) -> Result<Option<OwnedFd>, LaunchError> {
    let own = rustix::fs::stat(c"/proc/thread-self/ns/user");
    let own = own.map_err(|errno| failed("the caller's user namespace", errno.into()))?;
    let space = namespace(first, NamespaceKind::User).map_err(|_ended| LaunchError::NotRunning)?;
    let facts = rustix::fs::fstat(&space);
    let facts = facts.map_err(|errno| failed("the container's user namespace", errno.into()))?;
    Ok((facts.st_ino != own.st_ino).then_some(space))
}

/// Opens the root of a running container, as its first process sees it, with all its mounts.
///
/// Resolve paths below it with `RESOLVE_IN_ROOT` and `RESOLVE_NO_MAGICLINKS` only.
///
/// # Errors
/// [`LaunchError::NotRunning`] if the container has ended.
pub fn root(process: Identity) -> Result<OwnedFd, LaunchError> {
    root_of(&Process::open(process).map_err(|_| LaunchError::NotRunning)?)
}

/// The root of the container, as its first process sees it.
fn root_of(first: &Process) -> Result<OwnedFd, LaunchError> {
    let path = format!("/proc/{}/root", first.identity().pid);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|_| LaunchError::NotRunning)?;
    // It lives, so the number was its own when the link was read.
    first.signal(0).map_err(|_| LaunchError::NotRunning)?;
    Ok(root)
}

fn clone_joining(
    first: &Process,
    prepared: &PreparedProcess<'_>,
    cgroup: &Cgroup,
) -> Result<(Process, ParentEnd), LaunchError> {
    let attachments = cgroup.attachments().map_err(of_running)?;
    let (parent_end, child_end) =
        channel().map_err(|errno| failed("the start channel", errno.into()))?;
    child::hide_from_tracers().map_err(|errno| failed("the calling process", errno.into()))?;
    let join = Join {
        target: first.as_fd(),
        namespaces: ThreadNameSpaceType::MOUNT
            | ThreadNameSpaceType::NETWORK
            | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
            | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
            | ThreadNameSpaceType::CONTROL_GROUP,
        v1_procs: &attachments,
        process: prepared,
    };
    let options = CloneOptions { cgroup: Some(cgroup.as_fd()), ..CloneOptions::default() };
    let cloned = within_pid_namespace(first.as_fd(), PidNamespace::Process, || {
        clone(options, || child::joining_process(&join, &child_end))
    })
    // Between opening and joining the container may end.
    .map_err(of_running)?;
    let cloned = match cloned {
        // The PID namespace has lost its process 1, or the cgroup is gone.
        Err(rustix::io::Errno::NOMEM | rustix::io::Errno::NODEV) => {
            return Err(LaunchError::NotRunning);
        }
        result => result.map_err(|errno| failed("a process in the container", errno.into()))?,
    };
    let process = Process::from_cloned(cloned)
        .map_err(|source| failed("a process in the container", source))?;
    Ok((process, parent_end))
}

fn await_exec(
    channel: &ParentEnd,
    objects: &Objects,
    streams: &mut Streams,
) -> Result<(), LaunchError> {
    loop {
        let report =
            channel.receive().map_err(|errno| failed("the start channel", errno.into()))?;
        match report {
            Report::Descriptor(master) => *streams = Streams::Terminal(master),
            Report::Failed(failure) => return Err(objects.describe(failure)),
            Report::Closed => return Ok(()),
            Report::Prepared => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn a_container_that_ends_meanwhile_is_not_running() {
        let joining = |step, errno: Errno| LaunchError::Child {
            step,
            object: String::new(),
            source: errno.into(),
        };
        for error in [
            joining(Step::Namespace, Errno::SRCH),
            failed("the PID namespace to join", Errno::SRCH.into()),
            failed("namespaces", Errno::NOENT.into()),
        ] {
            assert!(matches!(of_running(error), LaunchError::NotRunning));
        }
        for error in
            [joining(Step::Namespace, Errno::PERM), joining(Step::WorkingDirectory, Errno::NOENT)]
        {
            assert!(matches!(of_running(error), LaunchError::Child { .. }));
        }
        let cgroups = Cgroups::discover().unwrap();
        let gone = cgroups.open("davit-test/none").unwrap_err();
        assert!(matches!(of_running(gone), LaunchError::NotRunning));
    }
}
