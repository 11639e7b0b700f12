//! The targets of a plan, built in one process: as many at a time as may be, each after those that
//! it is built of.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Condvar, Mutex, OnceLock, PoisonError, atomic::Ordering},
    thread,
};

use davit_bake::Plan;
use davit_engine::{
    Progress,
    build::{BuildCommand, BuildEvent, BuildReport, StepId, StepInfo},
};

use super::build::{
    self,
    call::Session,
    display::{self, BuildProgress, Display},
};
use crate::{
    cli::Context,
    error::{CliError, ErrorKind},
    printer,
    progress::ProgressMode,
};

/// Steps of one target have numbers from a range of their own.
const RANGE: u32 = 1 << 16;

/// What building a plan needs.
pub(super) struct Run<'a> {
    pub(super) plan: &'a Plan,
    pub(super) session: &'a Session,
    pub(super) context: &'a Context,
    pub(super) progress: BuildProgress,
}

/// What the threads share.
#[derive(Default)]
struct State {
    waiting: BTreeMap<String, BuildCommand>,
    done: BTreeMap<String, BuildReport>,
    failed: Option<CliError>,
}

/// The steps of all targets, as one build shows them.
struct Shown {
    display: Box<dyn Display>,
    steps: Mutex<BTreeMap<usize, Vec<StepInfo>>>,
}

impl Run<'_> {
    /// Builds all targets; the first that fails ends the others.
    pub(super) fn all(
        &self,
        mut commands: BTreeMap<String, BuildCommand>,
        jobs: usize,
    ) -> Result<BTreeMap<String, BuildReport>, CliError> {
        let cores = || thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let jobs = if jobs == 0 { cores() } else { jobs };
        let threads = jobs.min(commands.len()).max(1);
        for command in commands.values_mut() {
            command.request.jobs = (jobs / threads).max(1);
        }
        let numbers: Vec<String> = commands.keys().cloned().collect();
        let state = Mutex::new(State { waiting: commands, ..State::default() });
        let changed = Condvar::new();
        let display = display::open(self.progress);
        let shown = Shown { display, steps: Mutex::default() };
        let pulls = self.context.progress(match self.progress {
            BuildProgress::Quiet | BuildProgress::None => ProgressMode::Quiet,
            BuildProgress::Rawjson => ProgressMode::Json,
            _ => ProgressMode::Plain,
        });
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some((name, command)) = self.next(&state, &changed) {
                        let number = numbers.iter().position(|it| *it == name).unwrap_or(0);
                        let show = |event| shown.show(number, &name, event);
                        let build = AssertUnwindSafe(|| self.one(&name, command, &show, &*pulls));
                        // Others wait for this one: a panic must not let them wait for ever.
                        let built = catch_unwind(build).unwrap_or_else(|_| Err(broken(&name)));
                        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                        match built {
                            Ok(report) => {
                                state.done.insert(name, report);
                            }
                            Err(error) => {
                                self.session.cancelled.store(true, Ordering::Relaxed);
                                state.failed.get_or_insert(error);
                            }
                        }
                        changed.notify_all();
                    }
                });
            }
        });
        shown.display.end();
        let state = state.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = state.failed {
            return Err(error);
        }
        if !matches!(self.progress, BuildProgress::Rawjson | BuildProgress::None) {
            self.tell(&state.done);
        }
        Ok(state.done)
    }

    /// The next target whose own targets are built; waits for these.
    fn next(&self, state: &Mutex<State>, changed: &Condvar) -> Option<(String, BuildCommand)> {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.failed.is_some() || state.waiting.is_empty() {
                return None;
            }
            let built: BTreeSet<&String> = state.done.keys().collect();
            let is_ready = |name: &&String| self.plan.links(name).all(|it| built.contains(&it));
            let ready = state.waiting.keys().find(is_ready).cloned();
            if let Some(ready) = ready {
                return state.waiting.remove_entry(&ready);
            }
            state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn one(
        &self,
        name: &str,
        command: BuildCommand,
        show: &(dyn Fn(BuildEvent) + Sync),
        pulls: &dyn Progress,
    ) -> Result<BuildReport, CliError> {
        let Session { engine, cancelled, signal } = self.session;
        let record = OnceLock::new();
        let noted = |event| match event {
            BuildEvent::Begun(id) => record.set(id).unwrap_or_default(),
            event => show(event),
        };
        let built = engine.build(command, &noted, pulls, cancelled);
        let signal = signal.load(Ordering::Relaxed);
        built.map_err(|error| build::failed(error, signal, record.get()).of_target(name))
    }

    fn tell(&self, reports: &BTreeMap<String, BuildReport>) {
        for (name, report) in reports {
            let sum = |count: fn(&davit_engine::build::BuildOutcome) -> usize| {
                report.images.iter().map(count).sum::<usize>()
            };
            let (cached, steps) = (sum(|it| it.cached_steps), sum(|it| it.steps));
            let id = build::id(report);
            printer::note(&format!("Built {name}: {id} ({cached} of {steps} steps cached)"));
        }
    }
}

impl Shown {
    fn show(&self, target: usize, name: &str, event: BuildEvent) {
        let base = u32::try_from(target).unwrap_or(u32::MAX).saturating_mul(RANGE);
        let moved = |id: StepId| StepId(base.saturating_add(id.0));
        let event = match event {
            BuildEvent::Planned(steps) => {
                let own = steps.iter().map(|step| StepInfo {
                    id: moved(step.id),
                    name: named(name, &step.name),
                    ..step.clone()
                });
                let mut all = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
                all.insert(target, own.collect());
                let all: Vec<StepInfo> = all.values().flatten().cloned().collect();
                BuildEvent::Planned(all.into())
            }
            BuildEvent::Started(id) => BuildEvent::Started(moved(id)),
            BuildEvent::Cached(id) => BuildEvent::Cached(moved(id)),
            BuildEvent::SameResult(id) => BuildEvent::SameResult(moved(id)),
            BuildEvent::Missed(..) | BuildEvent::Read(_) => return,
            BuildEvent::Output(id, stream, bytes) => BuildEvent::Output(moved(id), stream, bytes),
            BuildEvent::Progress { step, done_bytes, total_bytes } => {
                BuildEvent::Progress { step: moved(step), done_bytes, total_bytes }
            }
            BuildEvent::Finished(id, time) => BuildEvent::Finished(moved(id), time),
            BuildEvent::Failed(id) => BuildEvent::Failed(moved(id)),
            event @ (BuildEvent::Begun(_)
            | BuildEvent::ByHand(_)
            | BuildEvent::Checked(_)
            | BuildEvent::Compared(_)
            | BuildEvent::Warning(_)) => event,
        };
        self.display.show(event);
    }
}

fn broken(target: &str) -> CliError {
    CliError::new(ErrorKind::User, "the build of a target panicked").of_target(target)
}

/// A step's name with its target's.
fn named(target: &str, step: &str) -> String {
    match step.strip_prefix('[') {
        Some(rest) => format!("[{target} {rest}"),
        None => format!("[{target}] {step}"),
    }
}
