//! A command by hand: in the file system of a step that failed, or in the state behind a step. What
//! it changes is thrown away.

use std::sync::{Arc, Mutex, PoisonError, atomic::Ordering};

use davit_layer::Merged;
use davit_snapshot::Upper;
use davit_store::LayerIngest;

use super::{
    Done, Session, failed,
    mounts::ReadyMounts,
    run::{Job, Work, Written},
    store_failed,
};
use crate::{
    BuildEvent,
    build::at::shell,
    error::BuildError,
    layers::State,
    plan::{Node, NodeId, RunSpec},
    run::console::{self, Console, ConsoleKind},
};

/// A variable that programs on a terminal ask for, and what it is by Docker.
const TERM: &str = "TERM=";
const TERM_VALUE: &str = "TERM=xterm";

/// A step that failed, with all that its command had. The fields go in this order: the scratch
/// directory says where on a volume the command has written.
pub(crate) struct FailedStep<'s> {
    pub(super) id: NodeId,
    pub(super) mounts: ReadyMounts,
    pub(super) written: Written,
    pub(super) upper: Upper,
    pub(super) scratch: LayerIngest<'s>,
    pub(super) state: Arc<State>,
    pub(super) merged: Arc<Merged>,
}

/// The first step that failed, if somebody wants to look at it.
pub(crate) type FailedSlot<'s> = Mutex<Option<FailedStep<'s>>>;

impl<'s> Session<'_, 's> {
    /// Keeps what a failed step left, if somebody wants to look at it.
    pub(super) fn keep_failed(&self, step: FailedStep<'s>) {
        if self.on_error.is_some() {
            let mut slot = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            slot.get_or_insert(step);
        }
    }

    /// Lets somebody work in the file system of the step that failed.
    ///
    /// # Errors
    /// The shell cannot be started.
    pub(crate) fn open_failed(&self) -> Result<(), BuildError> {
        let slot = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (Some(step), Some(console)) = (slot, self.on_error) else { return Ok(()) };
        if self.cancelled.load(Ordering::Relaxed) {
            return Ok(());
        }
        let node = self.plan.node(step.id);
        let crate::plan::Op::Run(spec) = &node.op else { return Ok(()) };
        let spec = by_hand(spec, vec![shell(&spec.args)], console.kind());
        let (emulator, devices) = (self.emulator(&spec)?, self.devices(node, &spec)?);
        let job = Job {
            node,
            id: step.id,
            spec: &spec,
            state: &step.state,
            merged: &step.merged,
            directory: step.scratch.dir(),
            emulator: &emulator,
            devices: &devices,
        };
        (self.events)(BuildEvent::ByHand(Some(node.name.clone())));
        let ended = self.work_by_hand(&job, (&step.upper, &step.mounts), console);
        drop(step.mounts);
        drop(step.written);
        ended.map(drop)
    }

    /// Runs the command of a node by hand, upon what its inputs gave; yields its exit code.
    ///
    /// # Errors
    /// It cannot be launched; the build was cancelled.
    pub(crate) fn run_by_hand(
        &self,
        (node, id): (&Node, NodeId),
        inputs: &[&Done],
        console: &dyn Console,
    ) -> Result<i32, BuildError> {
        let crate::plan::Op::Run(spec) = &node.op else { return Ok(0) };
        let spec = by_hand(spec, spec.args.clone(), console.kind());
        let state = &inputs[0].state;
        let merged = self.layers.merged(state).map_err(|error| failed(node, error))?;
        let scratch = self.store.begin_layer(self.lease).map_err(store_failed)?;
        let work = self.work(node, &scratch)?;
        let (emulator, devices) = (self.emulator(&spec)?, self.devices(node, &spec)?);
        let job = Job {
            node,
            id,
            spec: &spec,
            state,
            merged: &merged,
            directory: scratch.dir(),
            emulator: &emulator,
            devices: &devices,
        };
        let mounts = self.ready_mounts(&job, inputs, work.pid)?;
        let Work { upper, written, .. } = work;
        (self.events)(BuildEvent::ByHand(None));
        let ended = self.work_by_hand(&job, (&upper, &mounts), console);
        drop(mounts);
        drop(written);
        ended
    }

    fn work_by_hand(
        &self,
        job: &Job<'_>,
        place: (&Upper, &ReadyMounts),
        console: &dyn Console,
    ) -> Result<i32, BuildError> {
        let (passed, kept) =
            console::open(console.kind()).map_err(|error| failed(job.node, error))?;
        std::thread::scope(|scope| {
            let relay = scope.spawn(move || kept.relay(console));
            // Whatever failed before: only who works here ends it.
            let cancelled = || self.cancelled.load(Ordering::Relaxed);
            let ended = self.launch(job, place, (&mut |_, _| (), &cancelled, Some(&passed)));
            // The last ones: who relays sees the end.
            drop(passed);
            if relay.join().is_err() {
                tracing::error!("who moves bytes to and from a command panicked");
            }
            ended
        })
    }
}

/// A command with the environment of another one, or of a step.
fn by_hand(spec: &RunSpec, args: Vec<String>, kind: ConsoleKind) -> RunSpec {
    let mut spec = RunSpec { args, ..spec.clone() };
    let has_terminal = matches!(kind, ConsoleKind::Terminal { .. });
    if has_terminal && !spec.env.iter().any(|variable| variable.starts_with(TERM)) {
        spec.env.push(TERM_VALUE.to_owned());
    }
    spec
}
