//! From a finished container to the command: limits, user, capabilities, filter, `execve`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use davit_sys::process as sys;
use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
    process::{Resource, Rlimit},
    thread::{CapabilitySet, CapabilitySets, LinkNameSpaceType},
};

use super::channel::ChildEnd;
use super::resolve::{Links, Shape, open_fixed, open_in_root, open_or_make};
use super::{At, Failure, reaper};
use crate::error::Step;
use crate::launch::process::{PreparedProcess, PreparedRlimit, PreparedStdio};

/// Largest capability number that a kernel may know.
const LAST_CAPABILITY: u32 = 63;

/// Becomes the command; returns only as a reaper, with the command's exit code.
pub(crate) fn finish(
    process: &PreparedProcess<'_>,
    proc: Option<OwnedFd>,
    channel: &ChildEnd,
) -> Result<u8, Failure> {
    set_rlimits(&process.rlimits)?;
    if let Some(proc) = proc {
        set_labels(process, &proc)?;
    }
    if let Some(space) = process.user_namespace {
        rustix::thread::move_into_link_name_space(space, Some(LinkNameSpaceType::User))
            .at(Step::Namespace)?;
    }
    sys::join_session_keyring(&process.keyring).at(Step::Keyring)?;
    set_session(process).at(Step::Terminal)?;
    connect_stdio(process).at(Step::Descriptors)?;
    sys::close_on_exec_from(3).at(Step::Descriptors)?;
    drop_bounding_set(process.capabilities).at(Step::Capability)?;
    rustix::process::umask(process.umask);
    let entered = enter_directory(process)?;
    // The filter may forbid it.
    lower_descriptors(&process.rlimits)?;
    if !process.no_new_privileges {
        // Loading it needs CAP_SYS_ADMIN, which goes next.
        load_filter(process).at(Step::Seccomp)?;
    }
    set_user(process)?;
    // `execve` takes them from a user; the reaper stays, and needs none to serve its own.
    let is_users_reaper = process.reaper && process.uid.as_raw() != 0;
    let kept = if is_users_reaper { CapabilitySet::empty() } else { process.capabilities };
    set_capabilities(kept).at(Step::Capability)?;
    // Until here every first process dies with its parent. A change of user takes that away, so
    // those that go on so get it here.
    let signal = process.dies_with_parent.then_some(rustix::process::Signal::KILL);
    rustix::process::set_parent_process_death_signal(signal).at(Step::Capability)?;
    if !entered {
        try_enter(process).at(Step::WorkingDirectory)?;
    }
    check_directory().at(Step::WorkingDirectory)?;
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true).at(Step::Capability)?;
        load_filter(process).at(Step::Seccomp)?;
    }
    if process.reaper { reaper::run(process, channel) } else { Err(execute(process)) }
}

/// Tries every candidate for the command as a shell does; returns the failure.
pub(crate) fn execute(process: &PreparedProcess<'_>) -> Failure {
    let mut reported = Errno::NOENT;
    for candidate in &process.candidates {
        match sys::execve(candidate, &process.arguments, &process.environment) {
            Errno::NOENT | Errno::NOTDIR if process.candidates.len() > 1 => {}
            // A directory of PATH holds something else by that name: go on, but say so at the end.
            Errno::ACCESS if process.candidates.len() > 1 => reported = Errno::ACCESS,
            errno => return Failure { step: Step::Exec, number: 0, errno },
        }
    }
    Failure { step: Step::Exec, number: 0, errno: reported }
}

/// Sets the limits, for which privilege is there now. That of descriptors is only raised: those that
/// are open would leave none for what is still to be opened.
fn set_rlimits(limits: &[PreparedRlimit]) -> Result<(), Failure> {
    for (number, limit) in limits.iter().enumerate() {
        let mut wanted = Rlimit { current: limit.soft, maximum: limit.hard };
        if limit.resource == Resource::Nofile {
            let now = rustix::process::getrlimit(limit.resource);
            let higher = |one: Option<u64>, other: Option<u64>| Some(one?.max(other?));
            wanted.current = higher(wanted.current, now.current);
            wanted.maximum = higher(wanted.maximum, now.maximum);
        }
        let result = match rustix::process::setrlimit(limit.resource, wanted) {
            Err(Errno::PERM) if limit.clamps => {
                rustix::process::setrlimit(limit.resource, permitted(limit))
            }
            result => result,
        };
        result.at_number(Step::Rlimit, number)?;
    }
    Ok(())
}

/// Sets the limit of descriptors, which is not above what it is now unless that could not be raised.
fn lower_descriptors(limits: &[PreparedRlimit]) -> Result<(), Failure> {
    for (number, limit) in limits.iter().enumerate() {
        if limit.resource != Resource::Nofile {
            continue;
        }
        let wanted = permitted(limit);
        rustix::process::setrlimit(limit.resource, wanted).at_number(Step::Rlimit, number)?;
    }
    Ok(())
}

/// What of a limit needs no privilege.
fn permitted(limit: &PreparedRlimit) -> Rlimit {
    let most = rustix::process::getrlimit(limit.resource).maximum;
    let within = |value: Option<u64>| match (value, most) {
        (Some(value), Some(most)) => Some(value.min(most)),
        (value, most) => value.or(most),
    };
    Rlimit { current: within(limit.soft), maximum: within(limit.hard) }
}

/// Writes what procfs takes, through an instance that nothing in the container covers
/// (CVE-2019-19921).
fn set_labels(process: &PreparedProcess<'_>, proc: &OwnedFd) -> Result<(), Failure> {
    let write = |path, value: &std::ffi::CStr| {
        // `self` is a link made by procfs itself.
        let own = open_in_root(proc, c"self", OFlags::PATH | OFlags::DIRECTORY, Links::Follow)?;
        let file = open_fixed(&own, path, OFlags::WRONLY)?;
        rustix::io::write(&file, value.to_bytes()).map(drop)
    };
    if let Some(score) = &process.oom_score {
        write(c"oom_score_adj", score).at(Step::OomScore)?;
    }
    if let Some(profile) = &process.apparmor {
        match write(c"attr/apparmor/exec", profile) {
            Err(Errno::NOENT) => write(c"attr/exec", profile),
            result => result,
        }
        .at(Step::AppArmor)?;
    }
    Ok(())
}

/// A session of its own; the terminal, if there is one, was adopted before.
fn set_session(process: &PreparedProcess<'_>) -> Result<(), Errno> {
    if process.terminal_size().is_some() {
        return Ok(());
    }
    match rustix::process::setsid() {
        // It leads its session already.
        Err(Errno::PERM) => Ok(()),
        result => result.map(drop),
    }
}

/// Makes the pseudo-terminal the controlling one and the standard streams.
pub(crate) fn adopt_terminal(slave: &OwnedFd) -> Result<(), Failure> {
    let adopt = || {
        rustix::process::setsid()?;
        rustix::process::ioctl_tiocsctty(slave)?;
        for number in 0..3 {
            sys::duplicate_to(slave.as_fd(), number)?;
        }
        Ok(())
    };
    adopt().at(Step::Terminal)
}

fn connect_stdio(process: &PreparedProcess<'_>) -> Result<(), Errno> {
    if let PreparedStdio::Descriptors(descriptors) = &process.stdio {
        for (number, descriptor) in (0..).zip(descriptors) {
            sys::duplicate_to(descriptor.as_fd(), number)?;
        }
    }
    if process.uid.as_raw() != 0 {
        give_streams(process)?;
    }
    Ok(())
}

/// Gives the standard streams to the user, so that it can open `/dev/stdout`.
fn give_streams(process: &PreparedProcess<'_>) -> Result<(), Errno> {
    give(rustix::stdio::stdin(), process)?;
    give(rustix::stdio::stdout(), process)?;
    give(rustix::stdio::stderr(), process)
}

fn give(stream: BorrowedFd<'_>, process: &PreparedProcess<'_>) -> Result<(), Errno> {
    let status = rustix::fs::fstat(stream)?;
    let is_null = status.st_rdev == rustix::fs::makedev(1, 3);
    if is_null || status.st_uid == process.uid.as_raw() {
        return Ok(());
    }
    match rustix::fs::fchown(stream, Some(process.uid), None) {
        // A socket, another user's file, a read-only filesystem: it keeps its owner.
        Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => Ok(()),
        result => result,
    }
}

fn drop_bounding_set(keep: CapabilitySet) -> Result<(), Errno> {
    for number in 0..=LAST_CAPABILITY {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if keep.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // Past the last one that the kernel knows.
            Err(Errno::INVAL) => break,
            result => result?,
        }
    }
    Ok(())
}

/// Tries to enter the working directory; `false` if only the user may.
fn enter_directory(process: &PreparedProcess<'_>) -> Result<bool, Failure> {
    match try_enter(process) {
        Ok(()) => Ok(true),
        Err(Errno::ACCESS) => Ok(false),
        Err(errno) => Err(errno).at(Step::WorkingDirectory),
    }
}

fn try_enter(process: &PreparedProcess<'_>) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let root = rustix::fs::openat(CWD, c"/", flags | OFlags::CLOEXEC, Mode::empty())?;
    let path = process.cwd_in_root();
    let directory = match open_in_root(&root, path, flags, Links::Follow) {
        Err(Errno::NOENT) if process.creates_cwd() => {
            open_or_make(&root, path, Shape::Directory, Links::Follow)?
        }
        result => result?,
    };
    rustix::process::fchdir(&directory)
}

/// The kernel marks a working directory outside the root (CVE-2024-21626).
fn check_directory() -> Result<(), Errno> {
    let mut buffer = [0; 4096];
    match sys::working_directory(&mut buffer) {
        Ok(1..) if buffer.first() == Some(&b'/') => Ok(()),
        // Deeper than the buffer, which only a path inside can be: it was resolved in the root.
        Err(Errno::RANGE | Errno::NAMETOOLONG) => Ok(()),
        Ok(_) => Err(Errno::XDEV),
        Err(errno) => Err(errno),
    }
}

fn set_user(process: &PreparedProcess<'_>) -> Result<(), Failure> {
    rustix::thread::set_keep_capabilities(true).at(Step::User)?;
    rustix::thread::set_thread_groups(&process.groups).at(Step::User)?;
    let (uid, gid) = (process.uid, process.gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid).at(Step::User)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).at(Step::User)?;
    rustix::thread::set_keep_capabilities(false).at(Step::User)
}

/// Inheritable and ambient are empty (CVE-2022-24769).
fn set_capabilities(capabilities: CapabilitySet) -> Result<(), Errno> {
    match rustix::thread::clear_ambient_capability_set() {
        // Before Linux 4.3 there is no such set.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(errno) => return Err(errno),
    }
    let sets = CapabilitySets {
        effective: capabilities,
        permitted: capabilities,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets)
}

fn load_filter(process: &PreparedProcess<'_>) -> Result<(), Errno> {
    match &process.filter {
        Some(filter) => davit_sys::seccomp::load(filter.instructions(), filter.flags()),
        None => Ok(()),
    }
}
