//! One cgroup: its limits, its members, its end.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use super::{
    Cgroup, CgroupError, REMOVE_PATIENCE, Stats,
    directory::Directory,
    remove_tree,
    settings::{self, Controller, Setting},
    stats,
};
use crate::plan::Limits;

/// How long freezing waits for members that are in the kernel.
const FREEZE_PATIENCE: Duration = Duration::from_secs(10);

impl Cgroup {
    /// Path below the hierarchies' roots.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn v1_of(&self, controller: &str) -> Option<&Directory> {
        self.v1
            .iter()
            .find(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller))
            .map(|hierarchy| &hierarchy.directory)
    }

    /// The files by which a process enters the hierarchies of version 1, open for writing.
    pub(crate) fn attachments(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        self.v1
            .iter()
            .map(|hierarchy| hierarchy.directory.open_for_writing("cgroup.procs"))
            .collect()
    }

    /// Where a controller's files are, and in which version's words they are written.
    fn place(&self, controller: Controller) -> Option<(&Directory, settings::Version)> {
        match self.v1_of(controller.v1_name()) {
            Some(directory) => Some((directory, settings::Version::One)),
            None if self.controllers.iter().any(|name| name == controller.v2_name()) => {
                Some((&self.unified, settings::Version::Two))
            }
            None => None,
        }
    }

    pub(super) fn apply(&self, limits: &Limits) -> Result<(), CgroupError> {
        for controller in settings::needed(limits) {
            let (directory, version) =
                self.place(controller).ok_or(CgroupError::NoController(controller.purpose()))?;
            let settings = settings::of(controller, version, limits);
            if apply_all(directory, &settings).is_err() {
                // Memory and memory plus swap bound each other: raising works in the other order.
                let reversed: Vec<_> = settings.into_iter().rev().collect();
                apply_all(directory, &reversed)?;
            }
        }
        Ok(())
    }

    /// Changes limits of a running container. A controller of version 1 that it was not started
    /// with cannot be added.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn update(&mut self, limits: &Limits) -> Result<(), CgroupError> {
        self.apply(limits)
    }

    /// Kills every member, also of cgroups below.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn kill(&self) -> Result<(), CgroupError> {
        match self.unified.write("cgroup.kill", "1") {
            // Before Linux 5.14.
            Err(error) if error.is_not_found() && self.unified.exists() => self.kill_each(),
            result => result,
        }
    }

    fn kill_each(&self) -> Result<(), CgroupError> {
        const SIGKILL: i32 = 9;
        // Frozen members cannot fork; killing works on them.
        drop(self.unified.write("cgroup.freeze", "1"));
        let deadline = Instant::now() + REMOVE_PATIENCE;
        let mut result = Ok(());
        loop {
            match self.processes() {
                Ok(pids) if pids.is_empty() => break,
                Ok(pids) => pids.iter().for_each(|pid| {
                    // One that ended meanwhile is what is wanted.
                    let _ = davit_sys::process::kill(*pid, SIGKILL);
                }),
                Err(error) => result = Err(error),
            }
            if result.is_err() || Instant::now() > deadline {
                break;
            }
            self.unified.wait_for_event(Duration::from_millis(10));
        }
        drop(self.unified.write("cgroup.freeze", "0"));
        result
    }

    /// Stops every member and waits until all have stopped (at most 10 s).
    ///
    /// # Errors
    /// [`CgroupError`]; then the members go on.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        self.unified.write("cgroup.freeze", "1")?;
        let deadline = Instant::now() + FREEZE_PATIENCE;
        while !self.is_frozen()? {
            if Instant::now() > deadline {
                self.thaw()?;
                return Err(CgroupError::Io {
                    path: self.unified.path().join("cgroup.freeze"),
                    source: io::ErrorKind::TimedOut.into(),
                });
            }
            self.unified.wait_for_event(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Whether every member has stopped.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        self.unified.event("frozen")
    }

    /// Whether it or one below it has members.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn is_populated(&self) -> Result<bool, CgroupError> {
        self.unified.is_populated()
    }

    /// Waits until neither it nor one below it has members, at most so long; tells whether it has
    /// come to that. Members that were killed stay while the kernel frees what they held.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn wait_until_empty(&self, patience: Duration) -> Result<bool, CgroupError> {
        let deadline = Instant::now() + patience;
        loop {
            let is_populated = match self.is_populated() {
                Err(error) if error.is_not_found() => false,
                result => result?,
            };
            if !is_populated || Instant::now() > deadline {
                return Ok(!is_populated);
            }
            self.unified.wait_for_event(Duration::from_millis(100));
        }
    }

    /// Lets the members go on.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn thaw(&self) -> Result<(), CgroupError> {
        self.unified.write("cgroup.freeze", "0")
    }

    /// Members in the caller's PID namespace, also of cgroups below, sorted.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn processes(&self) -> Result<Vec<i32>, CgroupError> {
        let mut pids = Vec::new();
        collect(&self.unified, &mut pids)?;
        pids.sort_unstable();
        Ok(pids)
    }

    /// Usage.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        stats::read(self)
    }

    /// Whether the kernel killed a member for lack of memory. Ask before [`Cgroup::remove`].
    #[must_use]
    pub fn oom_killed(&self) -> bool {
        let (directory, file) = match self.v1_of("memory") {
            Some(directory) => (directory, "memory.oom_control"),
            None => (&self.unified, "memory.events"),
        };
        let text = directory.read(file).unwrap_or_default();
        settings::field(&text, "oom_kill").is_some_and(|count| count > 0)
    }

    /// Removes it; members must be gone or going (retries for 2 s). Blocks.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn remove(self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + REMOVE_PATIENCE;
        let mut result = remove_tree(&self.unified, deadline);
        for hierarchy in &self.v1 {
            let removed = remove_tree(&hierarchy.directory, deadline);
            result = result.and(removed);
        }
        result
    }
}

fn apply_all(directory: &Directory, settings: &[Setting]) -> Result<(), CgroupError> {
    for setting in settings {
        match directory.write(setting.file, &setting.value) {
            Err(CgroupError::Io { source, .. })
                if setting.is_optional && source.kind() == io::ErrorKind::NotFound => {}
            Err(CgroupError::Io { path, source }) => {
                return Err(CgroupError::Limit { path, value: setting.value.clone(), source });
            }
            result => result?,
        }
    }
    Ok(())
}

fn collect(directory: &Directory, pids: &mut Vec<i32>) -> Result<(), CgroupError> {
    let text = directory.read("cgroup.procs")?;
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for name in directory.children()? {
        match directory.open(&name).and_then(|child| collect(&child, pids)) {
            Err(error) if error.is_not_found() => {}
            result => result?,
        }
    }
    Ok(())
}

impl AsFd for Cgroup {
    /// The directory of the unified hierarchy.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.unified.as_fd()
    }
}
