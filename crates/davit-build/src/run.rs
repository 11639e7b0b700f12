//! `RUN`: what is launched, and the build's end of the connection to its supervisor.
//!
//! The build process has threads, so it neither forks nor changes namespaces. One supervisor per
//! build (see [`supervisor`](crate::supervise)) mounts and clones; it dies with the connection,
//! and every command of the build dies with it.

pub(crate) mod network;
pub(crate) mod protocol;
pub(crate) mod supervisor;

use std::{
    collections::HashMap,
    ffi::OsString,
    io,
    net::{IpAddr, Ipv4Addr},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::JoinHandle,
    time::Duration,
};

use davit_runtime::plan::{
    Access, BindSource, Mount, MountKind, MountOptions, Namespace, Plan, UserChoice,
};
use davit_snapshot::{Stack, Upper};

use self::{
    network::Place,
    protocol::{Reply, Request},
};
use crate::{
    event::LogStream,
    plan::{Network, RunSpec},
};

/// Host name inside a `RUN`, as BuildKit's.
const HOSTNAME: &str = "buildkitsandbox";
/// Stands for the machine's address in `--add-host`, as Docker's.
const HOST_GATEWAY: &str = "host-gateway";
/// How soon a cancelled build is noticed while a command runs.
const CANCEL_POLL: Duration = Duration::from_millis(50);

/// How `RUN` steps are launched.
#[derive(Clone, Debug)]
pub struct RunSettings {
    /// The program that becomes the supervisor.
    pub executable: PathBuf,
    /// Its arguments; the program then calls [`supervise`](crate::supervise).
    pub arguments: Vec<OsString>,
    /// Cgroup below which each build has its own, without leading `/`.
    pub cgroup_parent: String,
    /// What commands find in `/etc/resolv.conf`.
    pub resolv_conf: Vec<u8>,
    /// The same with the host's network.
    pub host_resolv_conf: Vec<u8>,
}

/// Why a command could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The supervisor cannot be started.
    #[error("cannot start the build's supervisor")]
    Spawn(#[source] io::Error),
    /// The supervisor is gone.
    #[error("the build's supervisor ended unexpectedly")]
    Gone,
    /// The command could not be launched.
    #[error("{0}")]
    Launch(String),
    /// The command's network is missing.
    #[error("{0}")]
    Unconnected(String),
    /// A tree that was prepared is gone or damaged: prepare again.
    #[error("{0}")]
    Stale(String),
    /// Files of the step cannot be written.
    #[error("cannot prepare the step")]
    Files(#[source] io::Error),
    /// The build was cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// A command to run.
pub(crate) struct StepCommand<'a> {
    pub(crate) spec: &'a RunSpec,
    pub(crate) stack: &'a Stack,
    pub(crate) upper: Upper,
    /// A directory of the step, for the files that are bound into it.
    pub(crate) directory: &'a Path,
    /// Its place in the network, if it is to be in one.
    pub(crate) place: Option<&'a Place<'a>>,
}

type Waiters = Arc<Mutex<Option<HashMap<u32, Sender<Reply>>>>>;

/// The connection to a build's supervisor.
#[derive(Debug)]
pub(crate) struct Supervisor {
    child: Child,
    writer: Mutex<UnixStream>,
    waiters: Waiters,
    reader: Option<JoinHandle<()>>,
    next: AtomicU32,
    cgroup: String,
    resolv_conf: [Vec<u8>; 2],
}

impl Supervisor {
    /// Starts the supervisor of the build `id`.
    pub(crate) fn start(settings: &RunSettings, id: &str) -> Result<Self, RunError> {
        let (ours, theirs) = UnixStream::pair().map_err(RunError::Spawn)?;
        let child = Command::new(&settings.executable)
            .args(&settings.arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .env_clear()
            // Ctrl-C at the terminal is for the build, which then closes the connection.
            .process_group(0)
            .spawn()
            .map_err(RunError::Spawn)?;
        let waiters: Waiters = Arc::new(Mutex::new(Some(HashMap::new())));
        let mut stream = ours.try_clone().map_err(RunError::Spawn)?;
        let others = Arc::clone(&waiters);
        let reader = std::thread::spawn(move || {
            while let Ok(Some((id, reply))) = protocol::read_reply(&mut stream) {
                let waiters = others.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(waiter) = waiters.as_ref().and_then(|waiters| waiters.get(&id)) {
                    // A waiter that gave up does not want to know.
                    let _gave_up = waiter.send(reply);
                }
            }
            others.lock().unwrap_or_else(PoisonError::into_inner).take();
        });
        Ok(Self {
            child,
            writer: Mutex::new(ours),
            waiters,
            reader: Some(reader),
            next: AtomicU32::new(0),
            cgroup: format!("{}/build-{id}", settings.cgroup_parent),
            resolv_conf: [settings.resolv_conf.clone(), settings.host_resolv_conf.clone()],
        })
    }

    /// Its process, which has mounted what its commands write to.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs a command to its end and gives its exit code; what it writes goes to `output`.
    pub(crate) fn run(
        &self,
        command: &StepCommand<'_>,
        output: &mut dyn FnMut(LogStream, &[u8]),
        cancelled: &dyn Fn() -> bool,
    ) -> Result<i32, RunError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let plan = self.plan(command, id).map_err(RunError::Files)?;
        let replies = self.register(id)?;
        let request = Request::Run {
            id,
            stack: command.stack.clone(),
            upper: command.upper.clone(),
            plan: Box::new(plan),
            network: command.place.map(|place| Box::new(place.attachment())),
        };
        let sent = self.send(&request);
        let outcome = sent.and_then(|()| self.follow(id, &replies, output, cancelled));
        if let Some(waiters) = self.waiters.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
        {
            waiters.remove(&id);
        }
        outcome
    }

    fn register(&self, id: u32) -> Result<Receiver<Reply>, RunError> {
        let (sender, replies) = mpsc::channel();
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        waiters.as_mut().ok_or(RunError::Gone)?.insert(id, sender);
        Ok(replies)
    }

    fn send(&self, request: &Request) -> Result<(), RunError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        protocol::write_request(&mut *writer, request).map_err(|_broken| RunError::Gone)
    }

    fn follow(
        &self,
        id: u32,
        replies: &Receiver<Reply>,
        output: &mut dyn FnMut(LogStream, &[u8]),
        cancelled: &dyn Fn() -> bool,
    ) -> Result<i32, RunError> {
        let mut killed = false;
        loop {
            if !killed && cancelled() {
                self.send(&Request::Kill { id })?;
                killed = true;
            }
            match replies.recv_timeout(CANCEL_POLL) {
                Ok(Reply::Output(stream, bytes)) => output(stream, &bytes),
                Ok(Reply::Exited(_)) if killed => return Err(RunError::Cancelled),
                Ok(Reply::Exited(code)) => return Ok(code),
                Ok(Reply::Failed(_)) if killed => return Err(RunError::Cancelled),
                Ok(Reply::Failed(message)) => return Err(RunError::Launch(message)),
                Ok(Reply::Unconnected(message)) => return Err(RunError::Unconnected(message)),
                Ok(Reply::Stale(message)) => return Err(RunError::Stale(message)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(RunError::Gone),
            }
        }
    }

    /// The runtime's plan, and the files that it binds.
    fn plan(&self, command: &StepCommand<'_>, id: u32) -> io::Result<Plan> {
        let spec = command.spec;
        let mut plan = Plan::container(spec.args.clone(), format!("{}-{id}", self.cgroup));
        plan.process.env = spec.env.iter().chain(&spec.proxy_env).cloned().collect();
        plan.process.cwd.clone_from(&spec.working_dir);
        if !spec.user.is_empty() {
            plan.process.user = UserChoice::Named { user: spec.user.clone(), groups: Vec::new() };
        }
        // Nobody could follow it any more.
        plan.process.dies_with_parent = true;
        plan.hostname = Some(HOSTNAME.to_owned());
        let [private, shared] = &self.resolv_conf;
        let resolv_conf = if spec.network == Network::Host { shared } else { private };
        if spec.network == Network::Host {
            // Parameters of a shared network namespace are the host's.
            plan.namespaces.network = Namespace::Host;
            plan.sysctls.retain(|name, _| !name.starts_with("net."));
        }
        let mut bind = |name: &str, content: &[u8], mode, target: String| -> io::Result<()> {
            let path = command.directory.join(name);
            write_file(&path, content, mode)?;
            plan.mounts.push(bind_read_only(path, target));
            Ok(())
        };
        let gateway = command.place.map(Place::gateway);
        bind("hosts", hosts(spec, gateway).as_bytes(), 0o644, "/etc/hosts".to_owned())?;
        bind("resolv.conf", resolv_conf, 0o644, "/etc/resolv.conf".to_owned())?;
        for (index, script) in spec.scripts.iter().enumerate() {
            let target = format!("/dev/pipes/{}", script.name);
            bind(&format!("script-{index}"), script.content.as_bytes(), 0o755, target)?;
        }
        Ok(plan)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner);
        // The supervisor kills what still runs, removes its cgroups and ends.
        if let Err(error) = writer.shutdown(std::net::Shutdown::Both) {
            tracing::debug!(%error, "the build's supervisor is gone already");
        }
        if let Err(error) = self.child.wait() {
            tracing::debug!(%error, "cannot wait for the build's supervisor");
        }
        if let Some(reader) = self.reader.take()
            && reader.join().is_err()
        {
            tracing::error!("the reader of the build's supervisor panicked");
        }
    }
}

fn bind_read_only(source: PathBuf, target: String) -> Mount {
    Mount {
        target,
        kind: MountKind::Bind { source: BindSource::Path(source), recursive: false },
        options: MountOptions { access: Access::ReadOnly, ..MountOptions::default() },
    }
}

fn write_file(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs_err::write(path, content)?;
    // The process's umask must not show inside.
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// What commands find in `/etc/hosts`; `gateway` is where they reach the machine, by themselves
/// without one.
fn hosts(spec: &RunSpec, gateway: Option<IpAddr>) -> String {
    let mut text =
        format!("127.0.0.1\tlocalhost {HOSTNAME}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    let gateway = gateway.unwrap_or(Ipv4Addr::LOCALHOST.into()).to_string();
    for (name, address) in &spec.hosts {
        text.push_str(if address == HOST_GATEWAY { &gateway } else { address });
        text.push('\t');
        text.push_str(name);
        text.push('\n');
    }
    text
}
