//! A task's process, as its worker has it: started, watched, ended with all that it started.

use std::{
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal, kill_process_group},
};
use tokio::net::unix::pipe;

use super::task::Task;

/// Directories where programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Bytes that are read of the log at once.
const PIECE: usize = 32 << 10;

/// The file that a worker's folder is locked by.
const LOCK: &str = "lock";

/// The hidden verb that a task is.
pub const VERB: &str = "__build-task";

/// How tasks are started.
#[derive(Clone, Debug)]
pub struct Program {
    /// This program.
    pub executable: PathBuf,
    /// Variables of the network: proxies and certificates.
    pub environment: Vec<(String, String)>,
}

/// A task's process; dropping this kills it, and its children.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    /// Its end tells the task that the worker is gone.
    _stdin: ChildStdin,
    log: pipe::Receiver,
}

impl Running {
    /// Starts a task in its directory.
    pub(super) fn start(program: &Program, task: &Task) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let log = pipe::Receiver::from_owned_fd(reader.into())?;
        let mut command = Command::new(&program.executable);
        command.arg(VERB).env_clear().env("PATH", PATH).env("HOME", &task.directory);
        command.envs(program.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(&task.directory).process_group(0);
        command.stdin(Stdio::piped()).stdout(writer.try_clone()?).stderr(writer);
        let mut child = command.spawn()?;
        drop(command);
        let mut stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut text = serde_json::to_vec(task)?;
        text.push(b'\n');
        stdin.write_all(&text)?;
        Ok(Self { child, _stdin: stdin, log })
    }

    /// Waits until there is something of the log, at most so long.
    pub(super) async fn wait(&self, most: Duration) {
        // Whatever comes of it is found by reading.
        let _elapsed = tokio::time::timeout(most, self.log.readable()).await;
    }

    /// What there is of the log.
    pub(super) fn read(&self) -> Vec<u8> {
        let mut piece = vec![0; PIECE];
        let read = self.log.try_read(&mut piece).unwrap_or(0);
        piece.truncate(read);
        piece
    }

    /// Tells whether the process has ended.
    pub(super) fn has_ended(&mut self) -> io::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Asks all of it to end.
    pub(super) fn ask(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends all of it.
    pub(super) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(Err(error)) = group.map(|group| kill_process_group(group, signal)) {
            tracing::debug!(%error, "the task has ended just now");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its children may be there when it is not.
        self.kill();
        if let Err(error) = self.child.wait() {
            tracing::debug!(%error, "the task is gone");
        }
    }
}

/// Runs a task whose words nobody reads; what it left.
pub(super) async fn ask<T: serde::de::DeserializeOwned>(
    program: &Program,
    task: &Task,
    most: Duration,
) -> io::Result<T> {
    let mut running = Running::start(program, task)?;
    let until = tokio::time::Instant::now() + most;
    while !running.has_ended()? {
        if tokio::time::Instant::now() > until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        while !running.read().is_empty() {}
    }
    super::task::result(&task.directory)
}

/// A worker's directory for its tasks, locked while the worker lives.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: fs_err::File,
}

impl Folder {
    pub(super) fn new(path: PathBuf) -> io::Result<Self> {
        private_dir(&path)?;
        let lock = fs_err::File::create(path.join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs_err::remove_dir_all(&self.path) {
            tracing::warn!(%error, "a worker's folder stays until the next one starts");
        }
    }
}

/// Removes the directories of workers that were killed.
pub(super) fn sweep(tasks: &Path) -> io::Result<()> {
    private_dir(tasks)?;
    for entry in fs_err::read_dir(tasks)? {
        let path = entry?.path();
        // One without a lock is of a worker that was killed, or that is just beginning.
        let Ok(lock) = fs_err::File::open(path.join(LOCK)) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            fs_err::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

fn private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;

    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// A directory for one task, removed when dropped.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes it anew.
    pub(super) fn new(directory: PathBuf) -> io::Result<Self> {
        match fs_err::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        private_dir(&directory)?;
        Ok(Self(directory))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs_err::remove_dir_all(&self.0) {
            tracing::warn!(%error, "a task's directory stays");
        }
    }
}
