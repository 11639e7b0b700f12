//! `RUN`: what is launched, and the build's end of the connection to its supervisor.
//!
//! The build process has threads, so it neither forks nor changes namespaces. One supervisor per
//! build (see [`supervisor`](crate::supervise)) mounts and clones; it dies with the connection,
//! and every command of the build dies with it.

pub(crate) mod agent;
pub(crate) mod console;
pub(crate) mod mounts;
pub(crate) mod network;
mod plan;
pub(crate) mod protocol;
pub(crate) mod stubs;
pub(crate) mod supervisor;

use std::{
    collections::HashMap,
    ffi::OsString,
    io::{self, Read},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use davit_runtime::{
    Emulator,
    cdi::{CdiDevice, CdiError, inject},
    plan::Limits,
};
use davit_snapshot::{Stack, Upper};

use self::{
    console::Passed,
    mounts::StepMount,
    network::{JoinedNetwork, Place},
    protocol::{Reply, Request, RunRequest},
};
use crate::{event::LogStream, plan::RunSpec};

/// How soon a cancelled build is noticed while a command runs.
const CANCEL_POLL: Duration = Duration::from_millis(20);
/// Replies of a command that wait to be shown, of 64 KiB at most; a command that writes more than
/// is shown then waits.
const MOST_WAITING: usize = 16;

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
    /// Directories of what is known of devices, a later one before an earlier one.
    pub devices: Vec<PathBuf>,
    /// Directories in which emulators are looked for; empty: where programs usually are.
    pub programs: Vec<PathBuf>,
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
    /// A device cannot be given to it.
    #[error(transparent)]
    Device(#[from] CdiError),
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
    /// The container whose network it joins.
    pub(crate) joined: Option<&'a JoinedNetwork>,
    pub(crate) mounts: Vec<StepMount>,
    /// Variables that hold secrets, as `NAME=value`.
    pub(crate) secrets: &'a [String],
    pub(crate) limits: &'a Limits,
    /// What executes its programs, where that is not the machine itself.
    pub(crate) emulator: Option<Emulator>,
    /// Devices that it gets.
    pub(crate) devices: &'a [CdiDevice],
    /// Its streams, if somebody works with it by hand.
    pub(crate) console: Option<&'a Passed>,
}

/// Who waits for replies; `None` once there are no more.
type Waiters = Mutex<Option<HashMap<u32, SyncSender<Reply>>>>;

/// The connection to a build's supervisor.
#[derive(Debug)]
pub(crate) struct Supervisor {
    child: Child,
    writer: Mutex<UnixStream>,
    waiters: Arc<Waiters>,
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
        let waiters: Arc<Waiters> = Arc::new(Mutex::new(Some(HashMap::new())));
        let stream = ours.try_clone().map_err(RunError::Spawn)?;
        let others = Arc::clone(&waiters);
        let reader = thread::spawn(move || distribute(stream, &others));
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
        command: StepCommand<'_>,
        output: &mut dyn FnMut(LogStream, &[u8]),
        cancelled: &dyn Fn() -> bool,
    ) -> Result<i32, RunError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut plan = self.plan(&command, id).map_err(RunError::Files)?;
        inject(&mut plan, command.devices)?;
        let replies = self.register(id)?;
        let request = Request::Run(Box::new(RunRequest {
            id,
            stack: command.stack.clone(),
            upper: command.upper.clone(),
            plan,
            mounts: command.mounts,
            network: command.place.map(Place::attachment),
            joined: command.joined.map(|joined| joined.process),
            console: command.console.map(|passed| passed.kind),
        }));
        let descriptors = command.console.map_or(&[][..], |passed| &passed.descriptors);
        let sent = self.send(&request, descriptors);
        let outcome = sent.and_then(|()| {
            thread::scope(|scope| {
                let kill = || {
                    // The supervisor reads nothing while it waits to tell more: what it tells must
                    // go on being taken.
                    scope.spawn(|| self.send(&Request::Kill { id }, &[]));
                };
                follow(&replies, output, cancelled, kill)
            })
        });
        if let Some(waiters) = self.waiters.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
        {
            waiters.remove(&id);
        }
        outcome
    }

    fn register(&self, id: u32) -> Result<Receiver<Reply>, RunError> {
        let (sender, replies) = mpsc::sync_channel(MOST_WAITING);
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        waiters.as_mut().ok_or(RunError::Gone)?.insert(id, sender);
        Ok(replies)
    }

    fn send(&self, request: &Request, descriptors: &[OwnedFd]) -> Result<(), RunError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        protocol::write_request(&mut writer, request, descriptors).map_err(|_broken| RunError::Gone)
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

/// Hands the supervisor's replies to those who wait for them, until it has no more.
fn distribute(mut stream: impl Read, waiters: &Waiters) {
    while let Ok(Some((id, reply))) = protocol::read_reply(&mut stream) {
        let all = waiters.lock().unwrap_or_else(PoisonError::into_inner);
        let waiter = all.as_ref().and_then(|all| all.get(&id)).cloned();
        // One that is slow must not keep the others from coming and going.
        drop(all);
        if let Some(waiter) = waiter {
            // A waiter that gave up does not want to know.
            let _gave_up = waiter.send(reply);
        }
    }
    waiters.lock().unwrap_or_else(PoisonError::into_inner).take();
}

/// Takes what a command writes until it has ended; `kill` is called once if it is cancelled.
fn follow(
    replies: &Receiver<Reply>,
    output: &mut dyn FnMut(LogStream, &[u8]),
    cancelled: &dyn Fn() -> bool,
    kill: impl Fn(),
) -> Result<i32, RunError> {
    let mut killed = false;
    loop {
        if !killed && cancelled() {
            kill();
            killed = true;
        }
        match replies.recv_timeout(CANCEL_POLL) {
            // What is still on its way is taken, but nobody waits for it to be shown.
            Ok(Reply::Output(..)) if killed => {}
            Ok(Reply::Output(stream, bytes)) => output(stream, &bytes),
            Ok(Reply::Exited(_) | Reply::Failed(_)) if killed => return Err(RunError::Cancelled),
            Ok(Reply::Exited(code)) => return Ok(code),
            Ok(Reply::Failed(message)) => return Err(RunError::Launch(message)),
            Ok(Reply::Unconnected(message)) => return Err(RunError::Unconnected(message)),
            Ok(Reply::Stale(message)) => return Err(RunError::Stale(message)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(RunError::Gone),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts the replies that were begun to be read.
    struct Counted<R>(R, Arc<AtomicU32>);

    impl<R: Read> Read for Counted<R> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            // Each reply is its length and what follows it.
            self.1.fetch_add(u32::from(buffer.len() == 4), Ordering::SeqCst);
            self.0.read(buffer)
        }
    }

    /// A stream of output of the command 0, and one that ends the command 1.
    fn replies(count: usize) -> Vec<u8> {
        let mut stream = Vec::new();
        for _ in 0..count {
            let reply = Reply::Output(LogStream::Stdout, b"x".to_vec());
            protocol::write_reply(&mut stream, 0, &reply).unwrap();
        }
        protocol::write_reply(&mut stream, 1, &Reply::Exited(3)).unwrap();
        stream
    }

    fn waiters(ids: [u32; 2]) -> (Arc<Waiters>, [Receiver<Reply>; 2]) {
        let (senders, receivers): (Vec<_>, Vec<_>) =
            ids.iter().map(|_| mpsc::sync_channel(MOST_WAITING)).unzip();
        let waiting = ids.into_iter().zip(senders).collect();
        (Arc::new(Mutex::new(Some(waiting))), receivers.try_into().unwrap())
    }

    #[test]
    fn output_that_nobody_takes_waits_with_the_supervisor() {
        const REPLIES: usize = 20_000;
        let (waiters, [slow, other]) = waiters([0, 1]);
        let read = Arc::new(AtomicU32::new(0));
        let stream = Counted(io::Cursor::new(replies(REPLIES)), Arc::clone(&read));
        let all = Arc::clone(&waiters);
        let reader = thread::spawn(move || distribute(stream, &all));
        let most = u32::try_from(MOST_WAITING).unwrap() + 2;
        for taken in 0..u32::try_from(REPLIES).unwrap() / 2 {
            assert!(matches!(slow.recv().unwrap(), Reply::Output(..)));
            assert!(read.load(Ordering::SeqCst) <= taken + most, "only a few wait");
        }
        // Who is done can leave while the reader waits for one who is slow.
        waiters.lock().unwrap().as_mut().unwrap().remove(&0);
        drop(slow);
        let end = follow(&other, &mut |_, _| (), &|| false, || ());
        assert_eq!(end.unwrap(), 3, "another command's end arrives");
        reader.join().unwrap();
        assert!(waiters.lock().unwrap().is_none(), "nobody waits in vain");
    }

    #[test]
    fn a_cancelled_command_is_killed_once_and_its_output_taken() {
        let (waiters, [replies_of_it, _other]) = waiters([0, 1]);
        let mut stream = replies(100);
        protocol::write_reply(&mut stream, 0, &Reply::Exited(137)).unwrap();
        let reader = thread::spawn(move || distribute(&stream[..], &waiters));
        let (kills, mut seen) = (AtomicU32::new(0), 0);
        let end = follow(&replies_of_it, &mut |_, _| seen += 1, &|| true, || {
            kills.fetch_add(1, Ordering::Relaxed);
        });
        assert!(matches!(end, Err(RunError::Cancelled)));
        assert_eq!((kills.into_inner(), seen), (1, 0), "nothing is shown any more");
        reader.join().unwrap();
        let replies = mpsc::sync_channel(1).1;
        let end = follow(&replies, &mut |_, _| (), &|| false, || ());
        assert!(matches!(end, Err(RunError::Gone)), "the supervisor's end is seen");
    }
}
