//! Signals and pauses: stop, kill, restart, pause, unpause, wait, rename.

use std::time::{Duration, Instant};

use davit_runtime::{
    Cgroups, Identity, Process,
    monitor::{
        protocol::Request,
        state::{Event, StateFile, Summary},
    },
};

use super::{
    Container, ContainerError, LogFollow, Phase, StartMode, Started, name,
    status::{LockHolder, lock_holder},
};
use crate::Engine;

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
/// Docker's default time between the signal and SIGKILL.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the kernel may take to end killed processes.
const KILL_PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at a lock.
const LOOK: Duration = Duration::from_micros(500);

/// How to stop a container.
#[derive(Clone, Debug, Default)]
pub struct StopRequest {
    /// Signal; the container's own when `None`.
    pub signal: Option<String>,
    /// Seconds before SIGKILL: the container's own when `None`, endless when negative.
    pub timeout_seconds: Option<i64>,
}

impl Engine {
    /// Asks a container to end, and ends it when it does not; one that does not run is left alone.
    ///
    /// # Errors
    /// [`ContainerError::NotFound`]; an unknown signal.
    pub fn stop_container(
        &self,
        name: &str,
        request: &StopRequest,
    ) -> Result<Container, ContainerError> {
        let mut container = self.container(name)?;
        if !container.status.phase.is_alive() {
            return Ok(container);
        }
        let own = container.spec.config.stop_signal.as_deref();
        let signal = match request.signal.as_deref().or(own) {
            Some(text) => signal_number(text)?,
            None => SIGTERM,
        };
        let seconds = request.timeout_seconds.or(container.spec.config.stop_timeout);
        let deadline = match seconds {
            None => Some(Instant::now() + PATIENCE),
            Some(seconds) => {
                u64::try_from(seconds).ok().map(|s| Instant::now() + Duration::from_secs(s))
            }
        };
        self.request_stop(&mut container)?;
        self.send_signal(&container, signal)?;
        if container.status.phase == Phase::Paused {
            self.thaw(&container)?;
        }
        if !self.await_end(&container.id, deadline)? {
            self.send_signal(&container, SIGKILL)?;
            self.await_end(&container.id, Some(Instant::now() + KILL_PATIENCE))?;
        }
        self.append_event("container", "stop", &container.id, &[("name", container.name.clone())]);
        self.container(&container.id).or(Ok(container))
    }

    /// Sends a signal to a container's first process.
    ///
    /// # Errors
    /// [`ContainerError::Conflict`] when it does not run.
    pub fn kill_container(&self, name: &str, signal: &str) -> Result<(), ContainerError> {
        let mut container = self.container(name)?;
        let number = signal_number(signal)?;
        if !container.status.phase.is_alive() {
            return Err(not_running("kill", name, &container));
        }
        let own = container.spec.config.stop_signal.as_deref().map(signal_number).transpose()?;
        if number == SIGKILL || number == own.unwrap_or(SIGTERM) {
            self.request_stop(&mut container)?;
        }
        self.send_signal(&container, number)?;
        if number == SIGKILL {
            if container.status.phase == Phase::Paused {
                self.thaw(&container)?;
            }
            self.await_end(&container.id, Some(Instant::now() + KILL_PATIENCE))?;
        }
        let attributes = [("name", container.name.clone()), ("signal", number.to_string())];
        self.append_event("container", "kill", &container.id, &attributes);
        Ok(())
    }

    /// Stops a container if it runs, and starts it.
    ///
    /// # Errors
    /// As [`Engine::stop_container`] and [`Engine::start_container`].
    pub fn restart_container(
        &self,
        name: &str,
        request: &StopRequest,
    ) -> Result<Option<Started>, ContainerError> {
        let id = self.container(name)?.id;
        let _lock = self.lock_restart(&id)?;
        let container = self.stop_container(&id, request)?;
        self.start_container(&container.id, StartMode::Detached)
    }

    /// Freezes all processes of a container.
    ///
    /// # Errors
    /// [`ContainerError::Conflict`] when it does not run or is paused already.
    pub fn pause_container(&self, name: &str) -> Result<(), ContainerError> {
        let container = self.container(name)?;
        match container.status.phase {
            Phase::Running => {}
            Phase::Paused => {
                return Err(ContainerError::Conflict(format!(
                    "Container {name} is already paused"
                )));
            }
            _ => return Err(not_running("pause", name, &container)),
        }
        Cgroups::discover()?.open(&self.cgroup_of(&container.id))?.freeze()?;
        self.note(&container.id, Event::Paused)?;
        self.append_event("container", "pause", &container.id, &[("name", container.name.clone())]);
        Ok(())
    }

    /// Lets the processes of a paused container go on.
    ///
    /// # Errors
    /// [`ContainerError::Conflict`] when it is not paused.
    pub fn unpause_container(&self, name: &str) -> Result<(), ContainerError> {
        let container = self.container(name)?;
        if container.status.phase != Phase::Paused {
            return Err(ContainerError::Conflict(format!("Container {name} is not paused")));
        }
        self.thaw(&container)?;
        self.append_event(
            "container",
            "unpause",
            &container.id,
            &[("name", container.name.clone())],
        );
        Ok(())
    }

    fn thaw(&self, container: &Container) -> Result<(), ContainerError> {
        Cgroups::discover()?.open(&self.cgroup_of(&container.id))?.thaw()?;
        self.note(&container.id, Event::Resumed)
    }

    /// Waits until a container does not run; its exit code.
    ///
    /// # Errors
    /// [`ContainerError::NotFound`].
    pub fn wait_container(&self, name: &str) -> Result<i32, ContainerError> {
        let container = self.container(name)?;
        if !container.status.phase.is_alive() {
            return Ok(container.status.exit_code);
        }
        // The monitor's word comes before its end, and also for containers that it removes.
        if let Ok(mut connection) = self.connect(&container.id, &[])
            && let Ok(status) = connection.wait_for_end()
        {
            return Ok(status.code());
        }
        self.await_end(&container.id, None)?;
        Ok(self.container(&container.id)?.status.exit_code)
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// [`ContainerError::Claim`] when that is taken; [`ContainerError::Invalid`].
    pub fn rename_container(&self, old: &str, new: &str) -> Result<(), ContainerError> {
        let container = self.container(old)?;
        let new = new.trim_start_matches('/');
        name::check("container", new)?;
        if new == container.name {
            return Err(ContainerError::invalid(
                "Renaming a container with the same name as its current name",
            ));
        }
        self.store().rename_container(&container.id, new)?;
        self.tell_names(&container.spec.network);
        let attributes = [("name", new.to_owned()), ("oldName", format!("/{}", container.name))];
        self.append_event("container", "rename", &container.id, &attributes);
        Ok(())
    }

    /// Tells the monitor that no restart is wanted. `container` then has the process that runs:
    /// one that starts later is ended by the monitor, which reads the same record.
    pub(crate) fn request_stop(&self, container: &mut Container) -> Result<(), ContainerError> {
        let is_full = match self.note(&container.id, Event::StopRequested) {
            Err(ContainerError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::StorageFull =>
            {
                true
            }
            noted => noted.map(|()| false)?,
        };
        let summary = Summary::of(&self.records(&container.id)?);
        container.status.process = summary.process().filter(|_| summary.ended.is_none());
        if (is_full || summary.ended.is_some())
            && let Ok(connection) = self.connect(&container.id, &[])
        {
            // It may leave this very moment, which is what was wanted.
            drop(connection.send(&Request::Stop));
        }
        Ok(())
    }

    /// Appends a record to a container's state file.
    fn note(&self, id: &str, event: Event) -> Result<(), ContainerError> {
        let path = self.store().layout().container(id).join("state");
        let failed = |error| ContainerError::io("append to", &path, error);
        StateFile::append_to(&path).and_then(|mut file| file.append(event)).map_err(failed)?;
        Ok(())
    }

    /// Signals the first process; one that is gone is no error.
    pub(crate) fn send_signal(
        &self,
        container: &Container,
        signal: i32,
    ) -> Result<(), ContainerError> {
        let Some(process) = container.status.process.and_then(open) else { return Ok(()) };
        match process.signal(signal) {
            Err(error) if error.raw_os_error() != Some(3) => {
                Err(ContainerError::io("signal", container.id.clone(), error))
            }
            _ => Ok(()),
        }
    }

    /// Waits until nobody holds the container's lock; `false` when that takes too long.
    pub(crate) fn await_end(
        &self,
        id: &str,
        deadline: Option<Instant>,
    ) -> Result<bool, ContainerError> {
        let lock = self.store().layout().run_container(id).join("lock");
        loop {
            if matches!(lock_holder(&lock)?, LockHolder::Nobody) {
                return Ok(true);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(false);
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Whether a log that is followed may still grow.
    pub(crate) fn may_grow(&self, id: &str, follow: LogFollow) -> Result<bool, ContainerError> {
        let lock = self.store().layout().run_container(id).join("lock");
        Ok(follow == LogFollow::Yes && matches!(lock_holder(&lock)?, LockHolder::Somebody))
    }
}

fn open(identity: Identity) -> Option<Process> {
    Process::open(identity).ok()
}

fn not_running(action: &str, name: &str, container: &Container) -> ContainerError {
    ContainerError::Conflict(format!(
        "cannot {action} container: {name}: container {} is not running",
        container.id
    ))
}

/// Number of a signal by `9`, `KILL`, `SIGKILL` or `RTMIN+3`, in any case.
///
/// # Errors
/// [`ContainerError::Invalid`] with Docker's sentence.
pub(crate) fn signal_number(text: &str) -> Result<i32, ContainerError> {
    let invalid = || ContainerError::Invalid(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(invalid()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return real_time(34, offset, 1).ok_or_else(invalid);
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        return real_time(64, offset, -1).ok_or_else(invalid);
    }
    let found = SIGNALS.iter().position(|known| *known == name);
    found.and_then(|index| i32::try_from(index + 1).ok()).ok_or_else(invalid)
}

fn real_time(base: i32, offset: &str, sign: i32) -> Option<i32> {
    if offset.is_empty() {
        return Some(base);
    }
    let digits = offset.strip_prefix(if sign > 0 { '+' } else { '-' })?;
    let number = base + sign * digits.parse::<i32>().ok()?;
    (34..=64).contains(&number).then_some(number)
}

const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_every_name() {
        let cases = [
            ("9", 9),
            ("kill", 9),
            ("SIGTERM", 15),
            ("sigusr1", 10),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("WINCH", 28),
        ];
        for (text, number) in cases {
            assert_eq!(signal_number(text).unwrap(), number, "{text}");
        }
        for bad in ["", "0", "65", "NOPE", "RTMIN-1", "RTMIN+99", "-9"] {
            assert!(signal_number(bad).is_err(), "{bad:?}");
        }
    }
}
