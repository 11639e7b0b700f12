//! The monitor's life: launch, pump, report the end, launch again or leave.

mod turn;

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::Command,
    time::{Duration, Instant},
};

use davit_network::{Endpoint, Reservation, Resolver};

use super::{
    client::Client,
    health::Health,
    log::LogWriter,
    protocol::Reply,
    socket,
    spec::{BackOff, Network, Root, Spec, Stdin, StdioKind},
    state::{Event, StateFile, Summary},
    streams::Channels,
};
use crate::{
    Cgroup, Cgroups, Launch, LaunchError, Process, Running, StdioPlan,
    launch::{StdinPlan, abandon, launch},
    plan::Namespace,
    process::{ExitStatus, Identity},
};

/// Bytes read from the container at once.
const READ_BYTES: usize = 32 * 1024;
/// How long output is awaited after the end of the first process: a process that left its PID
/// namespace may keep the pipes open for ever.
const DRAIN: Duration = Duration::from_secs(2);
/// Chunks that may still lie in a pipe (1 MiB is the largest one) when its end is awaited no more.
const REST_READS: usize = (1 << 20) / READ_BYTES;
/// How long clients may take to read the last output.
const FAREWELL: Duration = Duration::from_secs(10);

/// Why a container could not be started, in the order of a start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("cannot mount the root filesystem")]
    Root(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Network(#[from] davit_network::NetworkError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error("cannot set up standard streams")]
    Streams(#[source] io::Error),
    #[error("cannot open the log")]
    Log(#[source] io::Error),
    #[error("cannot join a namespace")]
    Join(#[source] io::Error),
}

impl StartError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Launch(error) => u8::try_from(error.exit_code()).unwrap_or(125),
            _ => 125,
        }
    }

    /// The error with its causes in one line.
    fn text(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

/// A container whose first process runs, or has ended and is being drained.
#[derive(Debug)]
struct Child {
    process: Process,
    cgroup: Cgroup,
    channels: Channels,
    /// Keeps the mounts until the end was reported: tearing them down takes 0.9 ms.
    _mounts: OwnedFd,
    _emulation: Option<OwnedFd>,
    endpoint: Option<Endpoint>,
    resolver: Option<Resolver>,
    ports: Vec<Reservation>,
    started: Instant,
    ended: Option<(ExitStatus, Instant)>,
    health: Option<Health>,
}

/// A monitor; [`run`] is its whole life.
struct Monitor<'a> {
    spec: &'a Spec,
    root: &'a mut dyn Root,
    cgroups: Cgroups,
    state: StateFile,
    log: Option<LogWriter>,
    listener: Option<OwnedFd>,
    clients: Vec<Client>,
    back_off: BackOff,
    stop: bool,
    buffer: Vec<u8>,
    network: Option<OwnedFd>,
}

/// What a monitor is handed.
#[derive(Debug)]
pub struct Beginning {
    /// The connection of the command that starts the container.
    pub starter: OwnedFd,
    /// The container's lock, kept until the end.
    pub lock: OwnedFd,
    /// The network namespace of the first start, where it was made beforehand.
    pub network: Option<OwnedFd>,
}

/// Runs the container to its end, restarts included, and serves everyone who attaches.
///
/// Returns when the database is to be brought up to date by [`settle`], or need not be.
///
/// # Errors
/// The state file cannot be written, or the machine has no cgroups: nothing was started.
pub fn run(spec: &Spec, root: &mut dyn Root, beginning: Beginning) -> io::Result<Settlement> {
    let Beginning { starter, lock, network } = beginning;
    let mut state = StateFile::append_to(&spec.directory.join("state"))?;
    let own = Identity::of(rustix::process::getpid().as_raw_nonzero().get())?;
    state.append(Event::Monitor(own))?;
    let mut monitor = Monitor {
        spec,
        root,
        cgroups: Cgroups::discover().map_err(io::Error::other)?,
        state,
        log: None,
        listener: None,
        clients: vec![Client::new(starter)],
        back_off: BackOff::new(),
        stop: false,
        buffer: vec![0; READ_BYTES],
        network,
    };
    let settlement = monitor.live();
    drop(lock);
    settlement
}

/// Who brings the database up to date after a container's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// The command that waited for the end.
    Client,
    /// Nobody yet: execute [`Spec::settle`].
    Monitor,
}

/// Replaces the monitor by the installed davit, which brings the database up to date.
///
/// Returns only if that cannot be executed; the next command then finds the records.
pub fn settle(spec: &Spec) {
    if let Some((program, arguments)) = spec.settle.split_first() {
        let error = Command::new(program).args(arguments).env_clear().exec();
        tracing::warn!(program, %error, "cannot settle the container's end");
    }
}

impl Monitor<'_> {
    fn live(&mut self) -> io::Result<Settlement> {
        let mut is_first = true;
        loop {
            // Whoever starts the container has attached before it lives, so that it misses nothing.
            self.serve_clients_now();
            let child = match self.start() {
                Ok(child) => child,
                Err(error) => {
                    self.state.append(Event::Failed(error.exit_code()))?;
                    let reply = Reply::Failed(error.exit_code(), error.text());
                    self.clients.iter_mut().for_each(|client| client.reply(&reply));
                    return Ok(self.farewell());
                }
            };
            if !is_first && self.is_stopped_meanwhile()? {
                // Whoever asked could not know this process, so it is not signalled by them.
                self.note(Event::StopRequested);
                drop(child.cgroup.kill());
            }
            let Some(delay) = self.attend(child)? else { return Ok(self.farewell()) };
            if !self.pause(delay) || self.is_stopped_meanwhile()? {
                return Ok(self.farewell());
            }
            is_first = false;
        }
    }

    /// Whether the records say that somebody stopped it since its last end, before a next start.
    fn is_stopped_meanwhile(&self) -> io::Result<bool> {
        let (mut is_between, mut is_stopped) = (false, false);
        for record in self.state.read()? {
            match record.event {
                Event::Exited { .. } | Event::Failed(_) => (is_between, is_stopped) = (true, false),
                Event::Started(_) => is_between = false,
                Event::StopRequested => is_stopped |= is_between,
                _ => {}
            }
        }
        Ok(is_stopped)
    }

    fn start(&mut self) -> Result<Child, StartError> {
        let log = LogWriter::open(&self.spec.directory.join("log"), &self.spec.log);
        self.log = log.map_err(StartError::Log)?;
        let ports = self.reserve_ports()?;
        let root = self.root.mount().map_err(StartError::Root)?;
        let stdio = self.stdio();
        let joins = self.open_joins()?;
        let joins: Vec<_> = joins.iter().map(AsFd::as_fd).collect();
        let network = self.network.take();
        let mut launched = launch(Launch {
            plan: &self.spec.plan,
            root: root.as_fd(),
            descriptors: &joins,
            stdio,
            cgroups: &self.cgroups,
            network: network.as_ref().map(AsFd::as_fd),
            sharing: self.root.sharing(),
        })?;
        let endpoint = self.wire(launched.network_namespace())?;
        let resolver = self.resolver(launched.network_namespace());
        let resolver = resolver.inspect_err(|_| self.unwire(endpoint.as_ref()))?;
        let running = launched.network_ready().and_then(|()| launched.start());
        let running = running.inspect_err(|_| self.unwire(endpoint.as_ref()))?;
        drop(root);
        let Running { process: first, cgroup, mount_namespace, emulation, streams, .. } = running;
        let channels = match Channels::new(streams) {
            Ok(channels) => channels,
            Err(error) => {
                abandon(&first, cgroup);
                self.unwire(endpoint.as_ref());
                return Err(StartError::Streams(error));
            }
        };
        let process = first.identity();
        let child = Child {
            process: first,
            cgroup,
            channels,
            _mounts: mount_namespace,
            _emulation: emulation,
            endpoint,
            resolver,
            ports,
            started: Instant::now(),
            ended: None,
            health: self.health(),
        };
        self.note(Event::Started(process));
        self.listen();
        let reply = Reply::Started(process);
        self.clients.iter_mut().for_each(|client| client.reply(&reply));
        self.flush_clients();
        Ok(child)
    }

    fn health(&self) -> Option<Health> {
        let check = self.spec.health.clone()?;
        Some(Health::new(check, &self.spec.run_directory))
    }

    fn stdio(&self) -> StdioPlan {
        match self.spec.stdio.kind {
            StdioKind::Terminal => StdioPlan::Terminal { size: self.spec.stdio.size },
            StdioKind::Pipes => StdioPlan::Pipes {
                stdin: match self.spec.stdio.stdin {
                    Stdin::Closed => StdinPlan::Null,
                    Stdin::Once | Stdin::Open => StdinPlan::Pipe,
                },
            },
        }
    }

    fn open_joins(&self) -> Result<Vec<fs_err::File>, StartError> {
        self.spec
            .joins
            .iter()
            .map(|path| fs_err::File::open(path).map_err(StartError::Join))
            .collect()
    }

    fn reserve_ports(&self) -> Result<Vec<Reservation>, StartError> {
        let Network::Bridge { ports, .. } = &self.spec.network else { return Ok(Vec::new()) };
        ports.iter().map(|port| davit_network::reserve(port).map_err(Into::into)).collect()
    }

    fn wire(&self, namespace: BorrowedFd<'_>) -> Result<Option<Endpoint>, StartError> {
        match &self.spec.network {
            Network::Shared => Ok(None),
            Network::Loopback => {
                davit_network::loopback_up_in(namespace)?;
                Ok(None)
            }
            Network::Bridge { bridge, ipv4, ipv6, ports, .. } => {
                let endpoint = Endpoint::new((*ipv4, *ipv6), Endpoint::random()?, ports.clone());
                bridge.attach(&endpoint, namespace)?;
                Ok(Some(endpoint))
            }
        }
    }

    fn resolver(&self, namespace: BorrowedFd<'_>) -> Result<Option<Resolver>, StartError> {
        let Network::Bridge { names: Some(names), .. } = &self.spec.network else {
            return Ok(None);
        };
        Ok(Some(Resolver::start(namespace, names)?))
    }

    fn unwire(&self, endpoint: Option<&Endpoint>) {
        if let (Network::Bridge { bridge, .. }, Some(endpoint)) = (&self.spec.network, endpoint) {
            // The interface itself goes with the namespace.
            if let Err(error) = bridge.unpublish(endpoint) {
                tracing::warn!(%error, "cannot withdraw published ports");
            }
        }
    }

    /// Opens the socket for further clients; without it the container is still worth running.
    fn listen(&mut self) {
        if self.listener.is_none() {
            self.listener = socket::listen(&self.spec.run_directory)
                .inspect_err(|error| tracing::warn!(%error, "cannot listen for clients"))
                .ok();
        }
    }

    fn note(&mut self, event: Event) {
        if let Err(error) = self.state.append(event) {
            tracing::warn!(%error, "cannot append to the state file");
        }
    }

    /// Pumps until the container has ended; the delay before its restart, if it gets one.
    fn attend(&mut self, mut child: Child) -> io::Result<Option<Duration>> {
        while !self.is_over(&child) {
            let deadline = self.deadline(&child);
            self.turn(Some(&mut child), deadline)?;
        }
        self.pump_rest(&mut child);
        let (status, _) = child.ended.expect("is_over() has seen it");
        if let Some(log) = &mut self.log {
            // A full disk costs the log's last line, not the container's exit code.
            drop(log.finish());
        }
        if !matches!(self.spec.plan.namespaces.pid, Namespace::New) {
            // Without a PID namespace of its own the container's other processes live on.
            drop(child.cgroup.kill());
        }
        let out_of_memory = child.cgroup.oom_killed();
        self.unwire(child.endpoint.as_ref());
        // Whoever hears of the end may publish the same ports at once.
        child.ports.clear();
        self.note(Event::Exited { status, out_of_memory });
        let delay = self.delay(status, child.started.elapsed())?;
        if let Some(delay) = delay {
            self.note(Event::Restarting(u32::try_from(delay.as_millis()).unwrap_or(u32::MAX)));
        }
        let reply = Reply::Exited { status, out_of_memory, restarting: delay.is_some() };
        self.clients.iter_mut().for_each(|client| client.reply(&reply));
        self.flush_clients();
        child.channels.close();
        if let Err(error) = child.cgroup.remove() {
            tracing::warn!(%error, "cannot remove the container's cgroup");
        }
        Ok(delay)
    }

    /// Delay before the next start, unless the policy or somebody's stop forbids one.
    fn delay(&mut self, status: ExitStatus, ran: Duration) -> io::Result<Option<Duration>> {
        let summary = Summary::of(&self.state.read()?);
        let again = self.spec.restart.restarts(status.code(), summary.restarts);
        let delay = self.back_off.next(ran);
        Ok((again && !self.stop && !summary.stop_requested).then_some(delay))
    }

    /// Whether the container has ended and its output is drained, or awaited for long enough. A
    /// client that reads slowly is waited for, as in [`Monitor::farewell`].
    fn is_over(&mut self, child: &Child) -> bool {
        let Some((_, when)) = child.ended else { return false };
        if when.elapsed() >= FAREWELL {
            self.clients.retain(|client| client.settles || !client.is_full());
        }
        let held_up = self.clients.iter().any(Client::is_full);
        child.channels.is_drained() || (when.elapsed() >= DRAIN && !held_up)
    }

    fn deadline(&self, child: &Child) -> Option<Instant> {
        let Some((_, when)) = child.ended else {
            return child.health.as_ref().map(Health::deadline);
        };
        let held_up = self.clients.iter().any(Client::is_full);
        match held_up {
            false => Some(when + DRAIN),
            true => Some(when + FAREWELL).filter(|farewell| *farewell > Instant::now()),
        }
    }

    /// Waits before a restart, serving clients; `false` if somebody stopped it.
    fn pause(&mut self, delay: Duration) -> bool {
        let deadline = Instant::now() + delay;
        while Instant::now() < deadline && !self.stop {
            if self.turn(None, Some(deadline)).is_err() {
                return false;
            }
        }
        !self.stop
    }

    /// Lets clients read what waits for them; who settles the end. The command that started the
    /// container may take its time (its own reader may be a pager), others ten seconds.
    fn farewell(&mut self) -> Settlement {
        self.listener = None;
        self.flush_clients();
        let deadline = Instant::now() + FAREWELL;
        while self.clients.iter().any(Client::has_output) {
            let patient = self.clients.iter().any(|client| client.settles && client.has_output());
            if !patient && Instant::now() >= deadline {
                break;
            }
            if self.turn(None, (!patient).then_some(deadline)).is_err() {
                break;
            }
        }
        let settles = self.clients.iter().any(|client| client.settles);
        self.clients.clear();
        if settles { Settlement::Client } else { Settlement::Monitor }
    }
}
