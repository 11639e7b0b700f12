//! `RUN`: a command on an overlay, and the layer of what it changed.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use davit_dockerfile::Security;
use davit_image::{Platform, Timestamp};
use davit_layer::{Lower, Merged, WriteOptions};
use davit_runtime::{
    Emulator, Execution,
    cdi::CdiDevice,
    emulation::{Impossible, execution},
};
use davit_snapshot::{Mountpoints, PrepareOptions, Upper};
use davit_store::LayerIngest;

use super::{Done, Layer, Session, by_hand::FailedStep, failed, mounts::ReadyMounts, store_failed};
use crate::{
    BuildEvent, LogStream, StepId,
    admission::Class,
    copy::Times,
    error::{BuildError, BuildErrorKind},
    layers::State,
    plan::{Network, Node, NodeId, RunSpec},
    run::{RunError, StepCommand, Supervisor, console::Passed, stubs::remove_stubs},
};

/// How often trees are prepared for one command.
const MOUNT_ATTEMPTS: usize = 3;
/// Last lines of a failed command's output that are kept for the error.
const TAIL_LINES: usize = 20;

impl Session<'_, '_> {
    pub(super) fn run(
        &self,
        node: &Node,
        id: NodeId,
        spec: &RunSpec,
        inputs: &[&Done],
    ) -> Result<Layer, BuildError> {
        let state = &inputs[0].state;
        let (emulator, devices) = (self.emulator(spec)?, self.devices(node, spec)?);
        let merged = self.layers.merged(state).map_err(|error| failed(node, error))?;
        let scratch = self.store.begin_layer(self.lease).map_err(store_failed)?;
        let Work { upper, pid, written } = self.work(node, &scratch)?;
        let job = Job {
            node,
            id,
            spec,
            state,
            merged: &merged,
            directory: scratch.dir(),
            emulator: &emulator,
            devices: &devices,
        };
        let mounts = self.ready_mounts(&job, inputs, pid)?;
        let begun = file_clock_seconds();
        if let Err(error) = self.run_command(&job, &upper, &mounts) {
            if matches!(error.kind, BuildErrorKind::Command { .. }) {
                let state = Arc::clone(state);
                self.keep_failed(FailedStep { id, scratch, upper, mounts, state, merged, written });
            }
            return Err(error);
        }
        drop(mounts);
        let place = self.place(Class::Disk, id)?;
        let times = Times::Made(begun, Timestamp::now().unix_seconds());
        let tars = self.layers.tars(state).map_err(|error| failed(node, error))?;
        let xattrs = WriteOptions::default().xattrs;
        let lower = Lower { merged: &merged, tars: &tars, xattrs };
        let changes = self.snapshots.changes((&upper, pid), &lower, Mountpoints::Build);
        let changes = changes.map_err(|error| failed(node, error))?;
        let mut changes =
            changes.ok_or_else(|| failed(node, io::Error::from(io::ErrorKind::NotFound)))?;
        let of_devices = devices.iter().flat_map(CdiDevice::mount_targets);
        let targets = spec.mounts.iter().map(|mount| mount.target.as_str()).chain(of_devices);
        remove_stubs(&mut changes.changes, &merged, targets);
        let stored = self.store_changes(node, &changes.changes, &changes, Some(times));
        drop((written, place));
        stored
    }

    fn run_command(
        &self,
        job: &Job<'_>,
        upper: &Upper,
        mounts: &ReadyMounts,
    ) -> Result<(), BuildError> {
        let mut tail = Tail::default();
        let mut output = |stream, bytes: &[u8]| {
            tail.push(bytes);
            (self.events)(BuildEvent::Output(StepId(job.id.0), stream, bytes.to_vec()));
        };
        let cancelled = || self.is_cancelled();
        // All that it waits for but a processor it has by now.
        let _processor = self.place(Class::Processor, job.id)?;
        let code = self.launch(job, (upper, mounts), (&mut output, &cancelled, None))?;
        if code == 0 { Ok(()) } else { Err(command_failed(job.spec, code, &tail)) }
    }

    /// Runs the command of a job to its end and gives its exit code.
    pub(super) fn launch(
        &self,
        job: &Job<'_>,
        (upper, mounts): (&Upper, &ReadyMounts),
        (output, cancelled, console): Streams<'_>,
    ) -> Result<i32, BuildError> {
        let &Job { node, spec, state, merged, directory, emulator, devices, .. } = job;
        let supervisor = self.supervisor().map_err(|error| failed(node, error))?;
        let place = match spec.network {
            Network::Default | Network::Named(_) => Some(self.networks.place()),
            Network::None | Network::Host | Network::Container(_) => None,
        };
        let place = place.transpose().map_err(|error| unconnected(node, error))?;
        let mut options = PrepareOptions::new(Mountpoints::Build);
        options.view = Some(Arc::clone(merged));
        let mut attempts = 0;
        loop {
            attempts += 1;
            let stack = self.snapshots.prepare(&state.layers, &options);
            let stack = stack.map_err(|error| failed(node, error))?;
            let command = StepCommand {
                spec,
                stack: &stack,
                upper: upper.clone(),
                directory,
                place: place.as_ref(),
                joined: self.joined,
                mounts: self.step_mounts(node, mounts)?,
                secrets: &mounts.secrets,
                limits: &self.sandbox.limits,
                emulator: emulator.clone(),
                devices,
                console,
            };
            match supervisor.run(command, output, cancelled) {
                Err(RunError::Stale(_)) if attempts < MOUNT_ATTEMPTS => {}
                Err(RunError::Cancelled) => {
                    return Err(BuildError::new(BuildErrorKind::Cancelled));
                }
                Err(error @ RunError::Unconnected(_)) => return Err(unconnected(node, error)),
                result => return result.map_err(|error| not_run(node, error)),
            }
        }
    }

    /// A place for what a command writes.
    pub(super) fn work(&self, node: &Node, scratch: &LayerIngest<'_>) -> Result<Work, BuildError> {
        let upper = self.snapshots.upper(scratch.dir().to_path_buf());
        let upper = upper.map_err(|error| failed(node, error))?;
        let supervisor = self.supervisor().map_err(|error| failed(node, error))?;
        let pid = supervisor.pid();
        let in_memory = matches!(upper, Upper::Tmpfs { .. });
        let written = Written {
            scratch: scratch.dir().to_path_buf(),
            memory: in_memory.then(|| upper.directory(self.snapshots.location(), pid)),
        };
        Ok(Work { upper, pid, written })
    }

    /// What executes the programs of a step, where that is not the machine itself.
    pub(super) fn emulator(&self, spec: &RunSpec) -> Result<Option<Emulator>, BuildError> {
        match execution(&spec.platform, &self.run.programs) {
            Execution::Machine => Ok(None),
            Execution::Private(_) if spec.security == Security::Insecure => {
                let problem = "an insecure command of another architecture needs an emulator that \
                    the machine has registered";
                let hint = "Debian's qemu-user-binfmt, or qemu-user-static with binfmt-support, registers one";
                Err(BuildError::new(BuildErrorKind::Plan(problem.to_owned())).hint(hint))
            }
            Execution::Private(emulator) => Ok(Some(emulator)),
            Execution::Impossible(reason) => Err(impossible(&spec.platform, &reason)),
        }
    }

    fn supervisor(&self) -> Result<Arc<Supervisor>, RunError> {
        let slot = self.supervisor.get_or_init(|| Mutex::new(None));
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Some(supervisor) => Ok(Arc::clone(supervisor)),
            None => {
                let supervisor = Arc::new(Supervisor::start(self.run, self.id)?);
                Ok(Arc::clone(slot.insert(supervisor)))
            }
        }
    }
}

/// Where a command's output goes, what ends it, and its streams if they are somebody's own.
type Streams<'a> = (&'a mut dyn FnMut(LogStream, &[u8]), &'a dyn Fn() -> bool, Option<&'a Passed>);

/// Where a command writes to.
pub(super) struct Work {
    pub(super) upper: Upper,
    /// The supervisor, which mounts it.
    pub(super) pid: u32,
    pub(super) written: Written,
}

/// A command that is to run, and what it stands upon.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub(super) node: &'a Node,
    pub(super) id: NodeId,
    pub(super) spec: &'a RunSpec,
    pub(super) state: &'a State,
    pub(super) merged: &'a Arc<Merged>,
    /// A directory of the step, which goes with it.
    pub(super) directory: &'a Path,
    /// What executes its programs, where that is not the machine itself.
    pub(super) emulator: &'a Option<Emulator>,
    /// Devices that it gets.
    pub(super) devices: &'a [CdiDevice],
}

/// The time that a file system would give now: it lags behind that of programs.
fn file_clock_seconds() -> i64 {
    rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse).tv_sec
}

/// What a command wrote, removed when the layer is made or the command has failed: on a tmpfs
/// since the supervisor has that memory mounted as long as the build runs, and on a volume. A
/// directory of the store goes with the scratch directory.
pub(super) struct Written {
    pub(super) scratch: PathBuf,
    pub(super) memory: Option<PathBuf>,
}

impl Drop for Written {
    fn drop(&mut self) {
        if let Some(memory) = &self.memory
            && let Err(error) = fs_err::remove_dir_all(memory.join("upper"))
        {
            tracing::debug!(%error, "what a command wrote stays in memory until the build ends");
        }
        if let Err(error) = Upper::discard(&self.scratch) {
            tracing::warn!(%error, "what a command wrote stays on the volume");
        }
    }
}

/// The last lines of a command's output.
#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
}

impl Tail {
    const LIMIT: usize = 16 * 1024;

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > 2 * Self::LIMIT {
            self.bytes.drain(..self.bytes.len() - Self::LIMIT);
        }
    }

    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(|&it| it.to_owned()).collect()
    }
}

fn command_failed(spec: &RunSpec, code: i32, tail: &Tail) -> BuildError {
    let command = spec.args.join(" ");
    let lines = tail.lines();
    let text = lines.join("\n").to_lowercase();
    let error = BuildError::new(BuildErrorKind::Command { command, code, tail: lines });
    if text.contains("invalid cross-device link") || text.contains("exdev") {
        return error.hint(
            "directories of the layers below cannot be renamed (EXDEV); copy and remove instead",
        );
    }
    match code {
        137 => error.hint("the command was killed; the machine may be short of memory"),
        127 => error.hint("the shell did not find a program; is its package installed?"),
        _ => error,
    }
}

fn not_run(node: &Node, error: RunError) -> BuildError {
    let hint = match &error {
        RunError::Launch(message) => launch_hint(message),
        _ => None,
    };
    let failed = failed(node, error);
    match hint {
        Some(hint) => failed.hint(hint),
        None => failed,
    }
}

/// What helps where a command cannot be started.
fn launch_hint(message: &str) -> Option<&'static str> {
    if message.starts_with("exec: ") && message.ends_with("no such file or directory") {
        return Some(
            "neither `scratch` nor a copied program brings what runs it: a shell, an interpreter, \
             a loader",
        );
    }
    if message.contains("unable to find user") || message.contains("unable to find group") {
        return Some("add it in an earlier RUN, or give its number");
    }
    if message.ends_with("ended before it ran the command") {
        return Some("something killed it; is what --resource gives it enough to begin with?");
    }
    let problem = message.strip_prefix("mounting ")?;
    let hints = [
        ("Too many levels of symbolic links", "a symlink on the way leads nowhere or in a circle"),
        ("Not a directory", "a directory is to be mounted where there is a file, or below one"),
        ("Is a directory", "a file is to be mounted where there is a directory: name the file"),
        (
            "Read-only file system",
            "the mount around it is read-only and has no such path: add `rw` to that, or make the \
             path in its source",
        ),
    ];
    hints.into_iter().find(|(text, _)| problem.contains(text)).map(|(_, hint)| hint)
}

fn unconnected(node: &Node, source: impl std::error::Error + Send + Sync + 'static) -> BuildError {
    failed(node, source)
        .hint("--network none builds without a network, --network host with the machine's own")
}

fn impossible(platform: &Platform, reason: &Impossible) -> BuildError {
    let host = Platform::host();
    let problem = format!("a command for {platform} cannot run here, on {host}: {reason}");
    let error = BuildError::new(BuildErrorKind::Plan(problem));
    match reason.hint() {
        Some(hint) => error.hint(hint),
        None => error,
    }
}
