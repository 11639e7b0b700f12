//! The supervisor: one single-threaded process per build that mounts and launches.
//!
//! It lives in a mount namespace of its own, so no mount outlives it. When its connection ends it
//! kills every command that still runs, removes their cgroups and ends.

use std::{
    collections::BTreeMap,
    error::Error,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use davit_network::{NetworkError, Resolver};
use davit_runtime::{
    Cgroups, Launch, Plan, Running, StdioPlan, Streams, launch, launch::StdinPlan, plan::Namespace,
};
use davit_snapshot::{Durability, MountNamespace, OverlayOptions, SnapshotError, Stack, Upper};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

use super::{
    console::{ConsoleKind, send_terminal},
    mounts,
    network::{Attachment, JoinedNetwork},
    protocol::{self, Reply, Request, RunRequest},
};
use crate::{error::one_line, event::LogStream};

const BUFFER: usize = 64 * 1024;

/// One command that runs.
struct Step {
    running: Running,
    cgroup: String,
    streams: Vec<(LogStream, OwnedFd)>,
    resolver: Option<Resolver>,
    exit: Option<i32>,
}

struct State {
    connection: UnixStream,
    cgroups: Cgroups,
    namespace: Option<MountNamespace>,
    steps: BTreeMap<u32, Step>,
    buffer: Vec<u8>,
}

/// What became ready.
enum Ready {
    Connection,
    Exit(u32),
    Output(u32, usize),
    Resolver(u32),
}

/// Serves one build on `connection` until it ends; call it early, from a single-threaded process.
///
/// # Errors
/// When the connection breaks or the machine has no cgroups.
pub fn supervise(connection: OwnedFd) -> io::Result<()> {
    let cgroups = Cgroups::discover().map_err(io::Error::other)?;
    let mut state = State {
        connection: connection.into(),
        cgroups,
        namespace: None,
        steps: BTreeMap::new(),
        buffer: vec![0; BUFFER],
    };
    let outcome = state.serve();
    state.kill_all();
    outcome
}

impl State {
    fn serve(&mut self) -> io::Result<()> {
        loop {
            for ready in self.wait()? {
                match ready {
                    Ready::Connection => match protocol::read_request(&mut self.connection)? {
                        None => return Ok(()),
                        Some((request, descriptors)) => self.handle(request, descriptors)?,
                    },
                    Ready::Exit(id) => self.note_exit(id)?,
                    Ready::Output(id, stream) => self.forward(id, stream)?,
                    Ready::Resolver(id) => {
                        let step = self.steps.get_mut(&id);
                        if let Some(resolver) = step.and_then(|step| step.resolver.as_mut()) {
                            resolver.turn();
                        }
                    }
                }
            }
            self.report_ends()?;
        }
    }

    fn wait(&self) -> io::Result<Vec<Ready>> {
        let mut fds = vec![PollFd::new(&self.connection, PollFlags::IN)];
        let mut meanings = vec![Ready::Connection];
        for (&id, step) in &self.steps {
            if step.exit.is_none() {
                fds.push(PollFd::from_borrowed_fd(step.running.process.as_fd(), PollFlags::IN));
                meanings.push(Ready::Exit(id));
            }
            if let Some(resolver) = &step.resolver {
                fds.push(PollFd::new(resolver, PollFlags::IN));
                meanings.push(Ready::Resolver(id));
            }
            for (index, (_, stream)) in step.streams.iter().enumerate() {
                fds.push(PollFd::new(stream, PollFlags::IN));
                meanings.push(Ready::Output(id, index));
            }
        }
        loop {
            match poll(&mut fds, None) {
                Err(Errno::INTR) => {}
                result => {
                    result?;
                    break;
                }
            }
        }
        let ready = fds.iter().zip(meanings).filter(|(fd, _)| !fd.revents().is_empty());
        // One stream a round: closing one moves the others' positions.
        let mut seen = Vec::new();
        Ok(ready
            .map(|(_, meaning)| meaning)
            .filter(|meaning| match meaning {
                Ready::Output(id, _) if seen.contains(id) => false,
                Ready::Output(id, _) => {
                    seen.push(*id);
                    true
                }
                _ => true,
            })
            .collect())
    }

    fn handle(&mut self, request: Request, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        match request {
            Request::Run(mut request) => match self.start(&mut request, descriptors) {
                Ok(step) => {
                    self.steps.insert(request.id, step);
                    Ok(())
                }
                Err(reply) => {
                    let removed = self.cgroups.remove(&request.plan.cgroup.path);
                    if let Err(error) = removed {
                        tracing::debug!(%error, "cannot remove the cgroup of a failed launch");
                    }
                    protocol::write_reply(&mut self.connection, request.id, &reply)
                }
            },
            Request::Kill { id } => {
                if let Some(step) = self.steps.get(&id) {
                    kill(step);
                }
                Ok(())
            }
        }
    }

    fn start(
        &mut self,
        request: &mut RunRequest,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Step, Reply> {
        let refused = |error: SnapshotError| match error.is_stale() {
            true => Reply::Stale(one_line(&error)),
            false => Reply::Failed(one_line(&error)),
        };
        let RunRequest { id, stack, upper, plan, mounts, network, joined, console } = request;
        let namespace = entered(&mut self.namespace, stack).map_err(refused)?;
        let root = overlay(namespace, stack, upper).map_err(refused)?;
        let attached = mounts::add(namespace, *id, mounts, plan).map_err(refused)?;
        let failed = |error: &dyn Error| Reply::Failed(one_line(error));
        let joined = joined.map(JoinedNetwork::open).transpose().map_err(|error| {
            Reply::Unconnected(format!("the container of the network has ended: {error}"))
        })?;
        let (stdio, terminal) = stdio(*console, descriptors)?;
        let descriptors: Vec<_> = joined.iter().map(AsFd::as_fd).collect();
        let mut launched = launch(Launch {
            plan,
            root: root.as_fd(),
            descriptors: &descriptors,
            stdio,
            cgroups: &self.cgroups,
            network: None,
            sharing: None,
        })
        .map_err(|error| failed(&error))?;
        // The launch has copies.
        drop(attached);
        // The command's first process mounts meanwhile.
        let namespace = launched.network_namespace();
        let resolver = connect(network.as_ref(), plan, namespace);
        let resolver = resolver.map_err(|error| Reply::Unconnected(one_line(&error)))?;
        launched.network_ready().map_err(|error| failed(&error))?;
        let mut running = launched.start().map_err(|error| failed(&error))?;
        let streams = match std::mem::replace(&mut running.streams, Streams::None) {
            Streams::Pipes { stdout, stderr, .. } => {
                vec![(LogStream::Stdout, stdout), (LogStream::Stderr, stderr)]
            }
            Streams::Terminal(master) => {
                // Who is gone ends the connection, too, which kills the command.
                if let Some(socket) = terminal
                    && let Err(error) = send_terminal(&socket, &master)
                {
                    tracing::debug!(%error, "nobody takes the terminal");
                }
                Vec::new()
            }
            Streams::None => Vec::new(),
        };
        Ok(Step { running, cgroup: plan.cgroup.path.clone(), streams, resolver, exit: None })
    }

    fn note_exit(&mut self, id: u32) -> io::Result<()> {
        let Some(step) = self.steps.get_mut(&id) else { return Ok(()) };
        if let Some(status) = step.running.process.try_wait()? {
            step.exit = Some(status.code());
            // What it left behind would keep its output open.
            kill(step);
        }
        Ok(())
    }

    fn forward(&mut self, id: u32, index: usize) -> io::Result<()> {
        let Some(step) = self.steps.get_mut(&id) else { return Ok(()) };
        let Some((stream, fd)) = step.streams.get(index) else { return Ok(()) };
        let length = match read(fd.as_fd(), &mut self.buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(_) | Ok(0) => {
                step.streams.remove(index);
                return Ok(());
            }
            Ok(length) => length,
        };
        let reply = Reply::Output(*stream, self.buffer[..length].to_vec());
        protocol::write_reply(&mut self.connection, id, &reply)
    }

    /// Tells of commands that have ended and whose output is complete.
    fn report_ends(&mut self) -> io::Result<()> {
        let ended = |(_, step): &(&u32, &Step)| step.exit.is_some() && step.streams.is_empty();
        let ids: Vec<u32> = self.steps.iter().filter(ended).map(|(&id, _)| id).collect();
        for id in ids {
            let Some(step) = self.steps.remove(&id) else { continue };
            let code = step.exit.unwrap_or_default();
            let cgroup = step.cgroup;
            drop(step.running);
            protocol::write_reply(&mut self.connection, id, &Reply::Exited(code))?;
            if let Err(error) = self.cgroups.remove(&cgroup) {
                tracing::debug!(%error, "cannot remove a step's cgroup");
            }
        }
        Ok(())
    }

    fn kill_all(&mut self) {
        for (_, step) in std::mem::take(&mut self.steps) {
            kill(&step);
            if step.exit.is_none()
                && let Err(error) = step.running.process.wait()
            {
                tracing::debug!(%error, "cannot wait for a killed command");
            }
            drop(step.running);
            if let Err(error) = self.cgroups.remove(&step.cgroup) {
                tracing::debug!(%error, "cannot remove a step's cgroup");
            }
        }
    }
}

/// Connects a command to its network, if it has one.
fn connect(
    network: Option<&Attachment>,
    plan: &Plan,
    namespace: BorrowedFd<'_>,
) -> Result<Option<Resolver>, NetworkError> {
    match network {
        Some(Attachment { bridge, endpoint, names }) => {
            bridge.attach(endpoint, namespace)?;
            names.as_ref().map(|names| Resolver::start(namespace, names)).transpose()
        }
        None if plan.namespaces.network == Namespace::New => {
            davit_network::loopback_up_in(namespace).map(|()| None)
        }
        None => Ok(None),
    }
}

/// The streams of a command, and where its terminal is to go.
fn stdio(
    console: Option<ConsoleKind>,
    descriptors: Vec<OwnedFd>,
) -> Result<(StdioPlan, Option<OwnedFd>), Reply> {
    let wrong = |_| Reply::Failed("its streams did not come with the command".to_owned());
    match console {
        None => Ok((StdioPlan::Pipes { stdin: StdinPlan::Null }, None)),
        Some(ConsoleKind::Pipes) => {
            let streams = <[OwnedFd; 3]>::try_from(descriptors).map_err(wrong)?;
            Ok((StdioPlan::Descriptors(streams), None))
        }
        Some(ConsoleKind::Terminal { size }) => {
            let [socket] = <[OwnedFd; 1]>::try_from(descriptors).map_err(wrong)?;
            Ok((StdioPlan::Terminal { size }, Some(socket)))
        }
    }
}

/// The mount namespace, entered when the first command needs it.
fn entered<'n>(
    namespace: &'n mut Option<MountNamespace>,
    stack: &Stack,
) -> Result<&'n mut MountNamespace, SnapshotError> {
    match namespace {
        Some(namespace) => Ok(namespace),
        none => Ok(none.insert(MountNamespace::enter(stack.location.clone())?)),
    }
}

/// Mounts a stack with an upper directory that need not survive a power loss.
pub(super) fn overlay(
    namespace: &mut MountNamespace,
    stack: &Stack,
    upper: &Upper,
) -> Result<OwnedFd, SnapshotError> {
    let lowers = namespace.lowers(stack)?;
    let options = OverlayOptions { durability: Durability::Volatile, ..Default::default() };
    namespace.overlay(&lowers, upper, options)
}

fn kill(step: &Step) {
    if let Err(error) = step.running.cgroup.kill() {
        tracing::debug!(%error, "cannot kill a step's cgroup");
    }
    if step.exit.is_none()
        && let Err(error) = step.running.process.signal(9)
    {
        tracing::debug!(%error, "the command has ended already");
    }
}

fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::read(fd, buffer)?)
}
