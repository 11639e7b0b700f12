//! Starting a container's first process.

pub(crate) mod emulator;
pub(crate) mod mounts;
pub(crate) mod paths;
pub(crate) mod prepare;
pub(crate) mod process;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use davit_sys::process::{
    CloneOptions, Cloned, NamespaceKind, NewNamespaces, clone, close_copy, pidfd_namespace,
};
use rustix::{
    fs::{CWD, Mode, OFlags},
    thread::LinkNameSpaceType,
};

use self::emulator::EmulatedSpaces;
use crate::cgroup::{Cgroup, Cgroups};
use crate::child::{
    self,
    channel::{ParentEnd, Release, Report, channel},
};
use crate::error::{LaunchError, Objects};
use crate::plan::{Namespace, Plan};
use crate::process::Process;
use crate::user;

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
    /// The network namespace for [`Namespace::New`] where it was made beforehand; else `clone3`
    /// makes it.
    pub network: Option<BorrowedFd<'a>>,
    /// The mount namespace whose mounts a bind of [`Propagation::Shared`] shares; the caller's own
    /// without. The caller must have one thread.
    ///
    /// [`Propagation::Shared`]: crate::plan::Propagation::Shared
    pub sharing: Option<BorrowedFd<'a>>,
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

/// A cloned first process that prepares itself. Dropping it kills the process and its cgroup's
/// members, and removes the cgroup.
#[derive(Debug)]
pub struct Launched {
    /// `None` once it was started.
    inner: Option<Inner>,
    objects: Objects,
    is_prepared: bool,
    is_wired: bool,
}

#[derive(Debug)]
struct Inner {
    process: Process,
    cgroup: Cgroup,
    channel: ParentEnd,
    streams: Streams,
    mount_namespace: OwnedFd,
    network_namespace: OwnedFd,
    emulation: Option<OwnedFd>,
}

/// A container whose command runs.
#[derive(Debug)]
pub struct Running {
    /// The first process; a child of the caller.
    pub process: Process,
    /// The container's cgroup; not removed on drop.
    pub cgroup: Cgroup,
    /// Holding it keeps the mounts, so that tearing them down happens after the exit was reported
    /// (0.9 ms).
    pub mount_namespace: OwnedFd,
    /// The network namespace.
    pub network_namespace: OwnedFd,
    /// What the emulator of its programs is registered as long as; with it they could not be
    /// executed any more.
    pub emulation: Option<OwnedFd>,
    /// The caller's ends of the streams.
    pub streams: Streams,
}

/// Makes the cgroup and clones the first process, which begins to mount at once.
///
/// # Errors
/// [`LaunchError`]; nothing is left behind.
pub fn launch(launch: Launch<'_>) -> Result<Launched, LaunchError> {
    let Launch { plan, root, descriptors, stdio, cgroups, network, sharing } = launch;
    let emulated = plan.emulator.as_ref().map(EmulatedSpaces::new).transpose()?;
    let own = emulated.as_ref().map(EmulatedSpaces::network);
    let network = own.or(network).filter(|_| plan.namespaces.network == Namespace::New);
    let mut beforehand: Vec<_> =
        emulated.as_ref().map(|made| made.others(plan.namespaces)).unwrap_or_default();
    beforehand.extend(network.map(|network| (network, LinkNameSpaceType::Network)));
    let user = user::resolve(root, &plan.process.user)?;
    let (stdio, streams) = process::streams(stdio).map_err(|errno| failed("pipes", errno))?;
    let process = process::PreparedProcess::new(&plan.process, &user, stdio)?;
    let sources = mounts::Sources { descriptors, cgroups, sharing };
    let mut prepared = prepare::prepare(plan, process, root, sources)?;
    prepared.joined.extend(beforehand.iter().copied());
    prepared.process.user_namespace = emulated.as_ref().map(|made| made.user.as_fd());
    let mut cgroup = cgroups.create(&plan.cgroup.path, &plan.cgroup.limits)?;
    let cloned = cgroup.attachments().map_err(LaunchError::from).and_then(|attachments| {
        prepared.v1_procs = attachments;
        let namespaces = prepare::new_namespaces(plan, &beforehand);
        clone_first((plan, namespaces), &prepared, descriptors, &cgroup)
    });
    let objects = Objects::of_plan(plan);
    let inner = cloned.and_then(|(cloned, channel)| {
        let held = hold(plan.namespaces.network, (descriptors, network), cloned).and_then(|held| {
            let member = held.0.identity().pid;
            match cgroups.filter_devices(&mut cgroup, &plan.cgroup.devices, member) {
                Ok(()) => Ok(held),
                Err(error) => {
                    end(&held.0);
                    Err(error.into())
                }
            }
        });
        match held {
            Ok(held) => Ok((held, channel)),
            Err(error) => Err(reported(&channel, &objects).unwrap_or(error)),
        }
    });
    let inner = match inner {
        Ok(((process, mount_namespace, network_namespace), channel)) => {
            let emulation = emulated.map(|made| made.registration);
            Inner {
                process,
                cgroup,
                channel,
                streams,
                mount_namespace,
                network_namespace,
                emulation,
            }
        }
        Err(error) => {
            discard(cgroup);
            return Err(error);
        }
    };
    Ok(Launched { inner: Some(inner), objects, is_prepared: false, is_wired: false })
}

/// The failure that a dead child has reported. Of one that lives it would wait for the end.
fn reported(channel: &ParentEnd, objects: &Objects) -> Option<LaunchError> {
    loop {
        match channel.receive() {
            Ok(Report::Failed(failure)) => return Some(objects.describe(failure)),
            Ok(Report::Prepared | Report::Descriptor(_)) => {}
            Ok(Report::Closed) | Err(_) => return None,
        }
    }
}

fn failed(object: &str, source: impl Into<io::Error>) -> LaunchError {
    LaunchError::Prepare { object: object.to_owned(), source: source.into() }
}

/// Ends what is in a cgroup and removes it; a container that failed leaves nothing.
fn discard(cgroup: Cgroup) {
    let removed = cgroup.kill().and_then(|()| cgroup.remove());
    if let Err(error) = removed {
        tracing::warn!(%error, "the cgroup of a failed container stays");
    }
}

fn clone_first(
    (plan, namespaces): (&Plan, NewNamespaces),
    prepared: &prepare::Prepared<'_>,
    descriptors: &[BorrowedFd<'_>],
    cgroup: &Cgroup,
) -> Result<(Cloned, ParentEnd), LaunchError> {
    let (parent_end, child_end) = channel().map_err(|errno| failed("the start channel", errno))?;
    child::hide_from_tracers().map_err(|errno| failed("the calling process", errno))?;
    let options = CloneOptions { namespaces, cgroup: Some(cgroup.as_fd()) };
    let clone = || {
        clone(options, || {
            // Its own copy would hide that the parent is gone.
            close_copy(parent_end.as_fd());
            child::first_process(prepared, &child_end)
        })
    };
    let cloned = match plan.namespaces.pid {
        Namespace::Join(number) => {
            let space =
                descriptors.get(number).ok_or_else(|| mounts::missing_descriptor(number))?;
            within_pid_namespace(*space, PidNamespace::Link, clone)?
        }
        Namespace::New | Namespace::Host => clone(),
    };
    let cloned = cloned.map_err(|errno| failed("the container's first process", errno))?;
    Ok((cloned, parent_end))
}

/// What names a PID namespace.
#[derive(Clone, Copy)]
pub(crate) enum PidNamespace {
    /// A descriptor of the namespace.
    Link,
    /// A pidfd of a process in it.
    Process,
}

/// Runs `work` while children of the calling thread are born in another PID namespace.
pub(crate) fn within_pid_namespace<T>(
    space: BorrowedFd<'_>,
    kind: PidNamespace,
    work: impl FnOnce() -> T,
) -> Result<T, LaunchError> {
    use rustix::thread::{
        ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces,
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own = rustix::fs::openat(CWD, c"/proc/thread-self/ns/pid", flags, Mode::empty())
        .map_err(|errno| failed("the caller's PID namespace", errno))?;
    match kind {
        PidNamespace::Link => move_into_link_name_space(space, Some(LinkNameSpaceType::ProcessID)),
        PidNamespace::Process => {
            move_into_thread_name_spaces(space, ThreadNameSpaceType::PROCESS_ID)
        }
    }
    .map_err(|errno| failed("the PID namespace to join", errno))?;
    let result = work();
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID))
        .expect("a thread may always return to its own PID namespace");
    Ok(result)
}

/// Opens what the caller holds of a first process; kills it on failure.
fn hold(
    wanted: Namespace,
    (descriptors, network): (&[BorrowedFd<'_>], Option<BorrowedFd<'_>>),
    cloned: Cloned,
) -> Result<(Process, OwnedFd, OwnedFd), LaunchError> {
    let process =
        Process::from_cloned(cloned).map_err(|source| failed("the first process", source))?;
    let held = namespace(&process, NamespaceKind::Mount).and_then(|mount| {
        let network = match (wanted, network) {
            // It joins by itself, a little later.
            (Namespace::Join(number), _) => {
                let space = descriptors.get(number).ok_or(io::ErrorKind::NotFound)?;
                space.try_clone_to_owned()?
            }
            (Namespace::New, Some(made)) => made.try_clone_to_owned()?,
            (Namespace::New | Namespace::Host, _) => namespace(&process, NamespaceKind::Network)?,
        };
        Ok((mount, network))
    });
    match held {
        Ok((mount, network)) => Ok((process, mount, network)),
        Err(source) => {
            end(&process);
            Err(if is_gone(&source) {
                LaunchError::Died
            } else {
                failed("namespaces of the first process", source)
            })
        }
    }
}

/// Whether an error says that a process has ended. One that is not reaped yet answers signals, but
/// has no namespaces any more: `ESRCH` by its pidfd, `ENOENT` below `/proc`.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// Opens a namespace of a process.
///
/// # Errors
/// The process has ended ([`is_gone`]).
pub fn namespace(process: &Process, kind: NamespaceKind) -> io::Result<OwnedFd> {
    match pidfd_namespace(process, kind) {
        Err(rustix::io::Errno::NOTTY | rustix::io::Errno::INVAL) => {
            let path = format!("/proc/{}/ns/{}", process.identity().pid, kind.name());
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let found = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
            // Still the same process, then the number was not reused before.
            process.signal(0)?;
            Ok(found)
        }
        result => Ok(result?),
    }
}

/// Kills and reaps a child.
pub(crate) fn end(process: &Process) {
    const SIGKILL: i32 = 9;
    // It may have ended by itself, and may have been reaped.
    drop(process.signal(SIGKILL));
    drop(process.wait());
}

impl Launched {
    fn inner(&self) -> &Inner {
        self.inner.as_ref().expect("taken only by start, which consumes")
    }

    /// The first process, waiting.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.inner().process
    }

    /// The container's cgroup.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.inner().cgroup
    }

    /// The container's network namespace, for wiring it while the process mounts.
    #[must_use]
    pub fn network_namespace(&self) -> BorrowedFd<'_> {
        self.inner().network_namespace.as_fd()
    }

    /// Releases the first barrier: links and addresses are there, kernel parameters may be written.
    ///
    /// # Errors
    /// None today: a failure of the child is reported by [`Launched::wait_prepared`].
    pub fn network_ready(&mut self) -> Result<(), LaunchError> {
        if !self.is_wired {
            self.inner().channel.release(Release::Network);
            self.is_wired = true;
        }
        Ok(())
    }

    /// Waits until everything but the command is in place; releases the first barrier if the caller
    /// has not. Blocks.
    ///
    /// # Errors
    /// What the child reports.
    pub fn wait_prepared(&mut self) -> Result<(), LaunchError> {
        self.network_ready()?;
        while !self.is_prepared {
            match self.next_report()? {
                Report::Prepared => self.is_prepared = true,
                Report::Descriptor(master) => self.set_terminal(master),
                Report::Failed(failure) => return Err(self.objects.describe(failure)),
                Report::Closed => return Err(LaunchError::Died),
            }
        }
        Ok(())
    }

    /// Releases the second barrier and waits until the command runs. Implies the steps before.
    /// Blocks.
    ///
    /// # Errors
    /// What the child reports; then the process and its cgroup are gone.
    pub fn start(mut self) -> Result<Running, LaunchError> {
        self.network_ready()?;
        // Both barriers at once: one hand-over less.
        self.inner().channel.release(Release::Start);
        self.wait_prepared()?;
        match self.next_report()? {
            Report::Closed => {}
            Report::Failed(failure) => return Err(self.objects.describe(failure)),
            Report::Prepared | Report::Descriptor(_) => return Err(LaunchError::Died),
        }
        let inner = self.inner.take().expect("present until here");
        Ok(Running {
            process: inner.process,
            cgroup: inner.cgroup,
            mount_namespace: inner.mount_namespace,
            network_namespace: inner.network_namespace,
            emulation: inner.emulation,
            streams: inner.streams,
        })
    }

    fn next_report(&self) -> Result<Report, LaunchError> {
        self.inner().channel.receive().map_err(|errno| failed("the start channel", errno))
    }

    fn set_terminal(&mut self, master: OwnedFd) {
        if let Some(inner) = &mut self.inner {
            inner.streams = Streams::Terminal(master);
        }
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            abandon(&inner.process, inner.cgroup);
        }
    }
}

/// Ends a process that nobody will look after, and removes its cgroup.
pub(crate) fn abandon(process: &Process, cgroup: Cgroup) {
    end(process);
    discard(cgroup);
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use rustix::process::{WaitId, WaitIdOptions, waitid};

    use super::*;

    #[test]
    fn a_first_process_that_has_ended_is_told_as_that() {
        let cloned = clone(CloneOptions::default(), || 0).unwrap();
        // It stays as it is between its end and the look of a parent that comes late.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::PidFd(cloned.pidfd.as_fd()), options).unwrap();
        let path = format!("/proc/{}/ns/mnt", cloned.pid);
        let by_name = fs_err::File::open(path).map(drop).unwrap_err();
        assert!(is_gone(&by_name), "as before Linux 6.11: {by_name}");
        let held = hold(Namespace::New, (&[], None), cloned);
        assert!(matches!(held, Err(LaunchError::Died)), "{held:?}");
    }
}
