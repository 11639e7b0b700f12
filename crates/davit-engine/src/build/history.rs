//! What is remembered of builds: a record of each in the store, and its log.
//!
//! ```text
//! Engine::build -> Recorder -> builds row: asked, steps, result     (at begin, first step, end)
//!                           -> builds/ID.zst: every event           (as it happens)
//! ```

mod facts;
mod find;
mod follow;
mod log;
mod recorder;
mod repository;

use std::{collections::BTreeMap, io, path::PathBuf};

use davit_build::{BuildEvent, StepId, StepInfo};
use davit_image::{Digest, Timestamp};
pub use davit_store::BuildStatus;
use davit_store::{BuildRow, HistoryLimits, StoreError};
use serde::{Deserialize, Serialize};

pub use self::{
    facts::dockerfile_path,
    find::{HistoryError, find_build},
    repository::{Repository, repository_of},
};
pub(super) use self::{find::full_reference, recorder::Recorder};
use crate::{BuildCacheUsage, Engine, container::inspect::from_nanoseconds};

/// Builds that are remembered, if nothing else is set.
const BUILDS: u32 = 100;
/// Bytes of all logs on disk, if nothing else is set.
const LOG_BYTES: u64 = 256 << 20;
/// Days that a build is remembered, if nothing else is set.
const DAYS: u32 = 30;
/// Type of the records of builds among build records.
pub(crate) const HISTORY: &str = "history";
const SECONDS_PER_DAY: u64 = 86_400;

/// A build that is remembered.
#[derive(Clone, Debug, PartialEq)]
pub struct PastBuild {
    /// Its id.
    pub id: String,
    /// How it ended.
    pub status: BuildStatus,
    /// When it began.
    pub started: Timestamp,
    /// When it ended; `None` if it runs, or nobody knows.
    pub finished: Option<Timestamp>,
    /// What was asked, and what came of it.
    pub spec: BuildSpec,
}

/// What a build was asked, and what came of it. Secrets are no part of it, and neither are accounts
/// and queries of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildSpec {
    /// What buildx calls it.
    pub name: String,
    /// The context: an absolute path, an address, or nothing.
    pub context: String,
    /// The Dockerfile: a path below the context or an absolute one, or an address.
    pub dockerfile: String,
    /// The stage that was asked for.
    pub target: Option<String>,
    /// The platforms.
    pub platforms: Vec<String>,
    /// Named contexts.
    pub named_contexts: BTreeMap<String, String>,
    /// Build arguments.
    pub build_args: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The repository that the context is part of.
    pub repository: Option<Repository>,
    /// Options, under the names that buildx gives them.
    pub options: BTreeMap<String, String>,
    /// Steps, in the order of the Dockerfile.
    pub steps: Vec<BuildStep>,
    /// Warnings.
    pub warnings: Vec<String>,
    /// What it read.
    pub materials: Vec<BuildMaterial>,
    /// Documents that it gave.
    pub results: Vec<BuildResult>,
    /// Why it failed.
    pub problem: Option<BuildProblem>,
    /// Bytes of output that the log had no room for.
    pub dropped_bytes: u64,
}

/// One step of a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildStep {
    /// Its number.
    pub id: StepId,
    /// Its name.
    pub name: String,
    /// First and last line in the Dockerfile; 0 if it stands nowhere there.
    pub lines: (u32, u32),
    /// How far it came.
    pub state: StepState,
    /// When it began, in µs after the build did.
    pub started_us: u64,
    /// How long it took in µs.
    pub took_us: u64,
}

/// How far a step came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepState {
    /// It was not looked at.
    Waiting,
    /// Its earlier result was used.
    Cached,
    /// It began.
    Running,
    /// It ran.
    Done,
    /// It failed.
    Failed,
}

/// What a build read that is not the caller's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildMaterial {
    /// Where it is: an address, or an image's package URL.
    pub uri: String,
    /// What tells it from others there, as `ALGORITHM:HEX`.
    pub digests: Vec<String>,
}

/// A document that a build gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildResult {
    /// Its digest.
    pub digest: Digest,
    /// What it is: a media type, or what a statement about an image says.
    pub kind: String,
    /// What it is for; `None` for what is for all.
    pub platform: Option<String>,
}

/// Why a build failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildProblem {
    /// The error with its causes.
    pub message: String,
    /// The step that failed.
    pub step: String,
    /// The last lines of its output.
    pub tail: Vec<String>,
    /// The place in the Dockerfile, as text.
    pub source: String,
}

impl BuildStep {
    fn new(info: &StepInfo) -> Self {
        Self {
            id: info.id,
            name: facts::step_name(&info.name),
            lines: (info.line, info.last_line),
            state: StepState::Waiting,
            started_us: 0,
            took_us: 0,
        }
    }

    fn info(&self) -> StepInfo {
        let (line, last_line) = self.lines;
        StepInfo { id: self.id, name: self.name.clone(), line, last_line }
    }
}

impl BuildSpec {
    /// Steps that are done, and those of them whose earlier result was used.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let is = |state| self.steps.iter().filter(|step| step.state == state).count();
        let cached = is(StepState::Cached);
        (is(StepState::Done) + cached, cached)
    }

    /// Takes note of what happened to a step, so many µs after the build began.
    fn note(&mut self, event: &BuildEvent, at_us: u64) {
        let mut set = |id: StepId, state: StepState| {
            let Ok(index) = self.steps.binary_search_by_key(&id, |step| step.id) else { return };
            let step = &mut self.steps[index];
            step.state = state;
            match state {
                StepState::Running => step.started_us = at_us,
                StepState::Cached => (step.started_us, step.took_us) = (at_us, 0),
                _ => step.took_us = at_us.saturating_sub(step.started_us),
            }
        };
        match event {
            BuildEvent::Planned(steps) => {
                let most = steps.iter().take(facts::MOST_STEPS);
                self.steps = most.map(BuildStep::new).collect();
            }
            BuildEvent::Started(id) => set(*id, StepState::Running),
            BuildEvent::Cached(id) => set(*id, StepState::Cached),
            BuildEvent::Finished(id, _) => set(*id, StepState::Done),
            BuildEvent::Failed(id) => set(*id, StepState::Failed),
            _ => {}
        }
    }
}

impl PastBuild {
    fn of(row: BuildRow) -> Self {
        Self {
            id: row.id,
            status: row.status,
            started: from_nanoseconds(row.started),
            finished: row.finished.map(from_nanoseconds),
            // What a later davit wrote otherwise is not known, but the build was there.
            spec: serde_json::from_value(row.spec).unwrap_or_default(),
        }
    }
}

impl Engine {
    /// The builds that are remembered, the newest first.
    ///
    /// # Errors
    /// What the store says.
    pub fn past_builds(&self) -> Result<Vec<PastBuild>, StoreError> {
        Ok(self.store().builds()?.into_iter().map(PastBuild::of).collect())
    }

    /// Forgets builds; yields the ids of those that are forgotten. One that runs stays.
    ///
    /// # Errors
    /// What the store says.
    pub fn forget_builds(&self, ids: &[String]) -> Result<Vec<String>, StoreError> {
        self.store().forget_builds(ids)
    }

    /// Tells all that happened in a build again, with the times of then. Of one that runs it tells
    /// what happens as well, until it ends, however it does.
    ///
    /// Blocks so long.
    ///
    /// # Errors
    /// The log cannot be read, or a later davit wrote it.
    pub fn replay_build(
        &self,
        build: &PastBuild,
        sink: &mut dyn FnMut(Timestamp, BuildEvent),
    ) -> io::Result<()> {
        let path = self.store().layout().build_log(&build.id);
        let runs = || self.store().is_lease_live(&build.id).map_err(io::Error::other);
        let log = follow::open(&path, &runs)?;
        let has_log = log.is_some();
        if let Some(log) = log {
            let mut sink = |at_us, event| sink(after(build.started, at_us), event);
            log::read(log, &mut sink)?;
        }
        // It may have run until now.
        let ended = self.past_builds().map_err(io::Error::other)?;
        let build = ended.iter().find(|it| it.id == build.id).unwrap_or(build);
        if !has_log {
            from_record(build, sink);
        }
        if build.spec.dropped_bytes > 0 {
            let bytes = build.spec.dropped_bytes;
            let text = format!("{bytes} bytes of output are not in the log, which was full");
            sink(build.finished.unwrap_or(build.started), BuildEvent::Warning(text));
        }
        Ok(())
    }

    /// The build with what its log says of the steps, if it could not say so itself.
    ///
    /// # Errors
    /// As [`Self::replay_build`].
    pub fn complete_build(&self, mut build: PastBuild) -> io::Result<PastBuild> {
        if !matches!(build.status, BuildStatus::Running | BuildStatus::Killed) {
            return Ok(build);
        }
        let path = self.store().layout().build_log(&build.id);
        if let Ok(file) = fs_err::File::open(path) {
            log::read(file, &mut |at_us, event| build.spec.note(&event, at_us))?;
        }
        Ok(build)
    }

    /// Where a document that a build gave is, if it is here.
    #[must_use]
    pub fn build_document(&self, digest: &Digest) -> Option<PathBuf> {
        Some(self.store().layout().blob(digest)).filter(|path| path.exists())
    }

    /// What all records of builds and their logs take; `None` if there are none.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) fn build_history_usage(&self) -> Result<Option<BuildCacheUsage>, StoreError> {
        let builds = self.store().builds()?;
        let (Some(newest), Some(oldest)) = (builds.first(), builds.last()) else {
            return Ok(None);
        };
        Ok(Some(BuildCacheUsage {
            key: HISTORY.to_owned(),
            kind: HISTORY.to_owned(),
            description: format!("records and logs of {} builds", builds.len()),
            size: self.store().build_history_size()?,
            uses: 0,
            created: from_nanoseconds(oldest.started),
            last_used: from_nanoseconds(newest.started),
        }))
    }

    /// Forgets all builds but those that run; yields the bytes that this frees.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) fn forget_all_builds(&self) -> Result<u64, StoreError> {
        let before = self.store().build_history_size()?;
        let ids: Vec<String> = self.store().builds()?.into_iter().map(|build| build.id).collect();
        self.store().forget_builds(&ids)?;
        self.store().trim_builds(&self.history_limits())?;
        Ok(before.saturating_sub(self.store().build_history_size()?))
    }

    fn history_limits(&self) -> HistoryLimits {
        let gc = &self.config().settings.gc;
        let days = u64::from(gc.keep_build_days.unwrap_or(DAYS));
        HistoryLimits {
            builds: gc.keep_builds.unwrap_or(BUILDS),
            log_bytes: gc.keep_build_logs.unwrap_or(LOG_BYTES),
            age_seconds: days * SECONDS_PER_DAY,
        }
    }
}

/// What happened in a build that ran nothing, and so has no log.
fn from_record(build: &PastBuild, sink: &mut dyn FnMut(Timestamp, BuildEvent)) {
    let infos: Vec<StepInfo> = build.spec.steps.iter().map(BuildStep::info).collect();
    sink(build.started, BuildEvent::Planned(infos.into()));
    for warning in &build.spec.warnings {
        sink(build.started, BuildEvent::Warning(warning.clone()));
    }
    let cached = build.spec.steps.iter().filter(|step| step.state == StepState::Cached);
    for step in cached {
        sink(after(build.started, step.started_us), BuildEvent::Cached(step.id));
    }
}

/// A time so many µs after another.
fn after(start: Timestamp, us: u64) -> Timestamp {
    const MILLION: u64 = 1_000_000;
    let nanoseconds = u64::from(start.nanoseconds()) + us % MILLION * 1000;
    let seconds = i64::try_from(us / MILLION + nanoseconds / 1_000_000_000).unwrap_or(i64::MAX);
    let rest = u32::try_from(nanoseconds % 1_000_000_000).unwrap_or(0);
    Timestamp::from_unix(start.unix_seconds().saturating_add(seconds), rest).unwrap_or(start)
}
