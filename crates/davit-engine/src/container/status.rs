//! What state a container is in: the kernel's truth first, the row second.

use std::{path::Path, time::SystemTime};

use davit_image::Timestamp;
use davit_runtime::{
    Cgroups, Process,
    monitor::state::{self, BootId, Event, Health, Summary},
    process::{ExitStatus, Identity},
};
use davit_store::{ContainerRow, ContainerUpdate, Durability};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::{Container, ContainerError, StartMode, boot::is_wanted, plan::health};
use crate::Engine;

/// Docker's word for what a container does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Never started.
    #[default]
    Created,
    /// Its command runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Its monitor waits to start it again.
    Restarting,
    /// Its command has ended.
    Exited,
    /// It is being removed.
    Removing,
}

impl Phase {
    /// The word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Removing => "removing",
        }
    }

    /// Whether a monitor looks after it.
    #[must_use]
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }
}

/// What became of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// What it does.
    pub phase: Phase,
    /// The first process while it runs.
    #[serde(skip)]
    pub process: Option<Identity>,
    /// Exit code of the last run.
    pub exit_code: i32,
    /// Whether that run lacked memory.
    pub out_of_memory: bool,
    /// Why the last start failed.
    pub error: String,
    /// When the last run began.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// Whether somebody stopped it.
    pub stopped: bool,
    /// How often its monitor started it again.
    pub restarts: u32,
    /// Health and consecutive failures.
    #[serde(skip)]
    pub health: Option<(Health, u32)>,
}

/// Exit code of a container whose monitor died: its output went with it, so it was killed.
const ORPHANED: i32 = 137;

/// Who holds a container's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockHolder {
    /// Its monitor, or a command that is starting or removing it.
    Somebody,
    /// Nobody.
    Nobody,
}

pub(crate) fn timestamp(time: SystemTime) -> Option<Timestamp> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Timestamp::from_unix(i64::try_from(since.as_secs()).ok()?, since.subsec_nanos()).ok()
}

/// Asks without taking the lock for longer than the question.
pub(crate) fn lock_holder(path: &Path) -> Result<LockHolder, ContainerError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(LockHolder::Nobody),
        Err(errno) => return Err(ContainerError::io("open", path, errno)),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(LockHolder::Nobody),
        Err(Errno::WOULDBLOCK) => Ok(LockHolder::Somebody),
        Err(errno) => Err(ContainerError::io("lock", path, errno)),
    }
}

impl Engine {
    /// A container's row with its present state. What a dead monitor or another boot left behind is
    /// settled on the way; `None` if that removed it.
    pub(crate) fn examine(&self, row: ContainerRow) -> Result<Option<Container>, ContainerError> {
        let mut container = Container::of_row(row)?;
        if !container.status.phase.is_alive() {
            return Ok(Some(container));
        }
        let lock = self.store().layout().run_container(&container.id).join("lock");
        let records = self.records(&container.id)?;
        let summary = Summary::of(&records);
        match lock_holder(&lock)? {
            LockHolder::Somebody => {
                present(&mut container.status, &summary);
                if container.status.health.is_none() && health(&container.spec.config).is_some() {
                    // The first check is still to come.
                    container.status.health = Some((Health::Starting, 0));
                }
                Ok(Some(container))
            }
            LockHolder::Nobody => self.settle_unwatched(&container.id),
        }
    }

    /// Settles a container whose monitor is gone. One that the monitor left alive is ended, and
    /// started again where its restart policy says so. One command alone does it, the others see
    /// what it has done.
    fn settle_unwatched(&self, id: &str) -> Result<Option<Container>, ContainerError> {
        let (row, lock) = match self.lock_row(id) {
            Err(error) if error.is_not_found() => return Ok(None),
            Ok(Some(locked)) => locked,
            // It runs again.
            Ok(None) => {
                return match self.store().container(id) {
                    Err(error) if error.is_not_found() => Ok(None),
                    row => self.examine(row?),
                };
            }
            Err(error) => return Err(error),
        };
        let container = Container::of_row(row)?;
        let records = self.records(id)?;
        let summary = Summary::of(&records);
        if !container.status.phase.is_alive() {
            return Ok(Some(container));
        }
        if summary.ended.is_some() {
            return self.settle_container(container, &summary);
        }
        self.end_orphan(&container, &summary)?;
        let Some(container) = self.settle_container(container, &summary)? else { return Ok(None) };
        drop(lock);
        let boot = BootId::current().map_err(|error| ContainerError::io("read", "/proc", error))?;
        // What another boot left is started by `davit boot`.
        let is_of_this_boot = records.iter().any(|record| record.boot == boot);
        if !is_of_this_boot || !is_wanted(&container) {
            return Ok(Some(container));
        }
        match self.start_ended(container.clone(), StartMode::Detached) {
            Ok(_) => self.examine(self.store().container(id)?),
            Err(error) => {
                tracing::warn!(%error, "cannot start a container again");
                Ok(Some(container))
            }
        }
    }

    pub(crate) fn records(&self, id: &str) -> Result<Vec<state::Record>, ContainerError> {
        let path = self.store().layout().container(id).join("state");
        state::read(&path).map_err(|error| ContainerError::io("read", &path, error))
    }

    /// Brings a container whose monitor is gone up to date: row, addresses, `--rm`. The caller holds
    /// its lock.
    pub(crate) fn settle_container(
        &self,
        mut container: Container,
        summary: &Summary,
    ) -> Result<Option<Container>, ContainerError> {
        ended(&mut container.status, summary);
        self.finish(container)
    }

    /// Kills what a dead monitor left running.
    pub(crate) fn end_orphan(
        &self,
        container: &Container,
        summary: &Summary,
    ) -> Result<(), ContainerError> {
        let boot = BootId::current().map_err(|error| ContainerError::io("read", "/proc", error))?;
        if summary.started.is_some_and(|record| record.boot != boot) {
            return Ok(());
        }
        let cgroups = Cgroups::discover()?;
        let path = self.cgroup_of(&container.id);
        if let Ok(cgroup) = cgroups.open(&path) {
            cgroup.kill()?;
        }
        if let Some(process) = summary.process().and_then(|identity| Process::open(identity).ok()) {
            // Without its cgroup (somebody removed it) the process is still known by its start.
            drop(process.signal(9));
        }
        cgroups.remove(&path)?;
        self.unpublish(container)
    }

    /// Records a container's end, frees what it held, and removes it if it was to go.
    pub(crate) fn finish(
        &self,
        mut container: Container,
    ) -> Result<Option<Container>, ContainerError> {
        if container.spec.auto_remove.is_on() {
            self.erase(&container)?;
            self.tell_names(&container.spec.network);
            return Ok(None);
        }
        container.status.process = None;
        let recorded = self
            .record_status(&container.id, &container.status, Durability::Lazy)
            .and_then(|()| Ok(self.store().release_endpoints(&container.id)?));
        match recorded {
            // Its records still tell it to the next command, which may be the one that makes room.
            Err(ContainerError::Store(error)) if error.is_no_space() => return Ok(Some(container)),
            recorded => recorded?,
        }
        self.tell_names(&container.spec.network);
        self.append_event(
            "container",
            "die",
            &container.id,
            &[
                ("exitCode", container.status.exit_code.to_string()),
                ("image", container.spec.image.clone()),
                ("name", container.name.clone()),
            ],
        );
        Ok(Some(container))
    }

    pub(crate) fn record_status(
        &self,
        id: &str,
        status: &Status,
        durability: Durability,
    ) -> Result<(), ContainerError> {
        let state = serde_json::to_value(status)
            .map_err(|source| ContainerError::Row { id: id.to_owned(), source })?;
        let update = ContainerUpdate {
            status: Some(status.phase.word().to_owned()),
            state: Some(state),
            ..ContainerUpdate::default()
        };
        Ok(self.store().update_container(id, &update, durability)?)
    }
}

/// State while somebody holds the lock.
fn present(status: &mut Status, summary: &Summary) {
    status.restarts = summary.restarts;
    status.health = summary.health;
    status.started = summary.started.and_then(|record| timestamp(record.time));
    match summary.ended {
        // The monitor is cleaning up.
        Some(_) if !summary.restarting => ended(status, summary),
        Some(_) => {
            ended(status, summary);
            status.phase = Phase::Restarting;
        }
        // A command is still starting it.
        None if summary.started.is_none() => status.phase = Phase::Created,
        None if summary.paused => status.phase = Phase::Paused,
        None => status.phase = Phase::Running,
    }
    if summary.ended.is_none() {
        status.process = summary.process();
    }
}

/// State after the end that the records tell, or that nobody saw.
fn ended(status: &mut Status, summary: &Summary) {
    status.phase = Phase::Exited;
    status.process = None;
    status.restarts = summary.restarts;
    status.stopped = summary.stop_requested;
    status.started = summary.started.and_then(|record| timestamp(record.time)).or(status.started);
    let when = summary.ended.map_or_else(SystemTime::now, |record| record.time);
    status.finished = timestamp(when);
    match summary.ended.map(|record| record.event) {
        Some(Event::Exited { status: exit, out_of_memory }) => {
            status.exit_code = ExitStatus::code(exit);
            status.out_of_memory = out_of_memory;
        }
        Some(Event::Failed(code)) => {
            status.exit_code = i32::from(code);
            if summary.started.is_none() {
                status.phase = Phase::Created;
            }
        }
        _ => {
            status.exit_code = ORPHANED;
            status.error = "its monitor ended before it".to_owned();
        }
    }
}
