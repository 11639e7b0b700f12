//! What runs between `clone3` and `execve`: system calls only, on things prepared before.
//!
//! **Invariant:** nothing in this module or below allocates, locks, logs or panics; a test with an
//! allocator that aborts in children guards it. Failures leave as (step, number, errno) through the
//! channel; the parent, which has the plan, finds the words.

pub(crate) mod channel;
pub(crate) mod dev;
pub(crate) mod emulator;
pub(crate) mod finish;
pub(crate) mod mounts;
pub(crate) mod reaper;
pub(crate) mod resolve;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use davit_sys::process as sys;
use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags},
    process::DumpableBehavior,
    thread::{LinkNameSpaceType, ThreadNameSpaceType},
};

use self::channel::{ChildEnd, Release};
use crate::error::Step;
use crate::launch::prepare::Prepared;

/// A step that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Step.
    pub(crate) step: Step,
    /// Number of the object among those of the step.
    pub(crate) number: u16,
    /// The kernel's answer.
    pub(crate) errno: Errno,
}

/// Names the step of a failed system call.
pub(crate) trait At<T> {
    /// The failure of `step`.
    fn at(self, step: Step) -> Result<T, Failure>;

    /// The failure of `step` on its object `number`.
    fn at_number(self, step: Step, number: usize) -> Result<T, Failure>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, step: Step) -> Result<T, Failure> {
        self.at_number(step, 0)
    }

    fn at_number(self, step: Step, number: usize) -> Result<T, Failure> {
        let number = u16::try_from(number).unwrap_or(u16::MAX);
        self.map_err(|errno| Failure { step, number, errno })
    }
}

/// The first process of a container; returns its exit code if it does not execute the command.
pub(crate) fn first_process(prepared: &Prepared<'_>, channel: &ChildEnd) -> u8 {
    match prepare_container(prepared, channel)
        .and_then(|proc| finish::finish(&prepared.process, Some(proc), channel))
    {
        Ok(code) => code,
        Err(failure) => {
            channel.failed(failure);
            failed_code()
        }
    }
}

/// The exit code of a process that never ran its command; the parent goes by the report.
const fn failed_code() -> u8 {
    125
}

/// Everything that concerns the container rather than its process. Returns the private procfs.
fn prepare_container(prepared: &Prepared<'_>, channel: &ChildEnd) -> Result<OwnedFd, Failure> {
    // A parent that is gone already is noticed at the first barrier.
    let signal = Some(rustix::process::Signal::KILL);
    rustix::process::set_parent_process_death_signal(signal).at(Step::Descriptors)?;
    sys::reset_signals();
    rustix::process::umask(Mode::empty());
    join_namespaces(&prepared.joined)?;
    attach_v1(&prepared.v1_procs)?;
    if prepared.new_cgroup_namespace {
        sys::unshare_cgroup_namespace().at(Step::Namespace)?;
    }
    let proc = open_procfs().at(Step::Root)?;
    let sys_directory = open_at(&proc, c"sys").at(Step::Root)?;
    let terminal = mounts::build_root(prepared)?;
    if let Some(terminal) = terminal {
        channel.send_descriptor(&terminal.master).at(Step::Terminal)?;
        finish::adopt_terminal(&terminal.slave)?;
    }
    set_names(prepared)?;
    channel.wait(Release::Network).at(Step::Descriptors)?;
    write_sysctls(prepared, &sys_directory)?;
    channel.prepared().at(Step::Descriptors)?;
    channel.wait(Release::Start).at(Step::Descriptors)?;
    Ok(proc)
}

/// A further process in a running container.
pub(crate) fn joining_process(join: &Join<'_>, channel: &ChildEnd) -> u8 {
    match enter_container(join, channel)
        .and_then(|proc| finish::finish(join.process, proc, channel))
    {
        Ok(code) => code,
        Err(failure) => {
            channel.failed(failure);
            failed_code()
        }
    }
}

/// What [`joining_process`] needs.
pub(crate) struct Join<'a> {
    /// The container's first process.
    pub(crate) target: BorrowedFd<'a>,
    /// The namespaces of it that are not the caller's.
    pub(crate) namespaces: ThreadNameSpaceType,
    /// `cgroup.procs` or `tasks` of the container's cgroups of version 1.
    pub(crate) v1_procs: &'a [OwnedFd],
    /// What to run.
    pub(crate) process: &'a crate::launch::process::PreparedProcess<'a>,
}

fn enter_container(join: &Join<'_>, channel: &ChildEnd) -> Result<Option<OwnedFd>, Failure> {
    sys::reset_signals();
    rustix::process::umask(Mode::empty());
    attach_v1(join.v1_procs)?;
    rustix::thread::move_into_thread_name_spaces(join.target, join.namespaces)
        .at(Step::Namespace)?;
    let proc = if join.process.needs_procfs() { Some(open_procfs().at(Step::Root)?) } else { None };
    if let Some(size) = join.process.terminal_size() {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, c"/", flags, Mode::empty()).at(Step::Terminal)?;
        let terminal = dev::open_terminal(&root, size).at(Step::Terminal)?;
        channel.send_descriptor(&terminal.master).at(Step::Terminal)?;
        finish::adopt_terminal(&terminal.slave)?;
    }
    Ok(proc)
}

/// Makes the calling process unreadable for others until it executes (CVE-2016-9962).
pub(crate) fn hide_from_tracers() -> Result<(), Errno> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

fn join_namespaces(joined: &[(BorrowedFd<'_>, LinkNameSpaceType)]) -> Result<(), Failure> {
    for (number, (descriptor, kind)) in joined.iter().enumerate() {
        rustix::thread::move_into_link_name_space(*descriptor, Some(*kind))
            .at_number(Step::Namespace, number)?;
    }
    Ok(())
}

/// Enters hierarchies of version 1, each by a write that waits for a grace period.
fn attach_v1(procs: &[OwnedFd]) -> Result<(), Failure> {
    for (number, file) in procs.iter().enumerate() {
        rustix::io::write(file, b"0").at_number(Step::CgroupAttach, number)?;
    }
    Ok(())
}

/// A procfs instance of the process's PID namespace that nothing in the container can cover.
fn open_procfs() -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn open_at(directory: impl AsFd, name: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

fn set_names(prepared: &Prepared<'_>) -> Result<(), Failure> {
    if let Some(name) = &prepared.hostname {
        rustix::system::sethostname(name.to_bytes()).at(Step::Hostname)?;
    }
    if let Some(name) = &prepared.domainname {
        rustix::system::setdomainname(name.to_bytes()).at_number(Step::Hostname, 1)?;
    }
    Ok(())
}

/// Writes kernel parameters below an own `/proc/sys` that no mount of the container covers
/// (CVE-2025-52881).
fn write_sysctls(prepared: &Prepared<'_>, directory: &OwnedFd) -> Result<(), Failure> {
    for (number, (path, value)) in prepared.sysctls.iter().enumerate() {
        resolve::open_fixed(directory, path, OFlags::WRONLY)
            .and_then(|file| rustix::io::write(&file, value.to_bytes()))
            .at_number(Step::Sysctl, number)?;
    }
    Ok(())
}
