//! Cgroups: version 2 for tracking, killing, freezing and devices; version 1 only for limits that were asked and that 2 lacks.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::plan::{DeviceRule, Limits};

/// A cgroup operation that failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// No cgroup filesystem is mounted.
    #[error("no cgroup hierarchy is mounted")]
    NoHierarchy,
    /// A limit was asked whose controller the machine lacks.
    #[error("the machine has no cgroup controller for {0}")]
    NoController(&'static str),
    /// A path that would leave the hierarchy.
    #[error("cgroup path {0:?}")]
    Path(String),
    /// A file or directory of the hierarchy.
    #[error("{path}")]
    Io {
        /// File or directory.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A limit that the kernel refuses.
    #[error("{value:?} for {path}")]
    Limit {
        /// File.
        path: PathBuf,
        /// What was written.
        value: String,
        /// Cause.
        source: io::Error,
    },
}

/// The machine's hierarchies; found once per process.
#[derive(Debug)]
pub struct Cgroups {}

/// A cgroup of ours: one directory per hierarchy in use.
#[derive(Debug)]
pub struct Cgroup {
    path: String,
    directory: OwnedFd,
}

/// Usage of a cgroup; what the machine cannot tell is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time.
    pub cpu: Option<Duration>,
    /// CPU time in user mode.
    pub cpu_user: Option<Duration>,
    /// CPU time in the kernel.
    pub cpu_system: Option<Duration>,
    /// Periods in which the quota was used up.
    pub throttled_periods: Option<u64>,
    /// Time spent waiting for quota.
    pub throttled: Option<Duration>,
    /// Memory in bytes, including page cache.
    pub memory_bytes: Option<u64>,
    /// Inactive file pages in bytes, which Docker subtracts for display.
    pub memory_inactive_file_bytes: Option<u64>,
    /// Limit in bytes.
    pub memory_limit_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Limit of processes and threads.
    pub pids_limit: Option<u64>,
    /// Bytes read from block devices.
    pub read_bytes: Option<u64>,
    /// Bytes written to block devices.
    pub write_bytes: Option<u64>,
}

impl Cgroups {
    /// Reads `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// [`CgroupError::NoHierarchy`].
    pub fn discover() -> Result<Self, CgroupError> {
        unimplemented!()
    }

    /// Version as `docker info` shows it: 2 where every controller is in the unified hierarchy, else 1.
    pub fn version(&self) -> u8 {
        unimplemented!()
    }

    /// Makes a cgroup with limits and device filter; parents too.
    ///
    /// # Errors
    /// [`CgroupError`]; nothing is left behind.
    pub fn create(
        &self,
        path: &str,
        limits: &Limits,
        devices: &[DeviceRule],
    ) -> Result<Cgroup, CgroupError> {
        let _ = (path, limits, devices);
        unimplemented!()
    }

    /// Opens an existing cgroup.
    ///
    /// # Errors
    /// [`CgroupError::Io`] with `NotFound` if it is gone.
    pub fn open(&self, path: &str) -> Result<Cgroup, CgroupError> {
        let _ = path;
        unimplemented!()
    }

    /// Moves the calling process into a cgroup without limits, made if missing: the monitor's way out of its caller's scope.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn enter(&self, path: &str) -> Result<(), CgroupError> {
        let _ = path;
        unimplemented!()
    }

    /// Removes a cgroup and those below it from every hierarchy; a missing one is no error.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn remove(&self, path: &str) -> Result<(), CgroupError> {
        let _ = path;
        unimplemented!()
    }
}

impl Cgroup {
    /// Path below the hierarchies' roots.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Changes limits of a running container.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn update(&mut self, limits: &Limits) -> Result<(), CgroupError> {
        let _ = limits;
        unimplemented!()
    }

    /// Kills every member, also of cgroups below.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn kill(&self) -> Result<(), CgroupError> {
        unimplemented!()
    }

    /// Stops every member and waits until all have stopped (at most 10 s).
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn freeze(&self) -> Result<(), CgroupError> {
        unimplemented!()
    }

    /// Lets the members go on.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn thaw(&self) -> Result<(), CgroupError> {
        unimplemented!()
    }

    /// Members in the caller's PID namespace, also of cgroups below.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn processes(&self) -> Result<Vec<i32>, CgroupError> {
        unimplemented!()
    }

    /// Usage.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        unimplemented!()
    }

    /// Whether the kernel killed a member for lack of memory. Ask before [`Cgroup::remove`].
    pub fn oom_killed(&self) -> bool {
        unimplemented!()
    }

    /// Removes it; members must be gone or going (retries for 2 s). Blocks.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn remove(self) -> Result<(), CgroupError> {
        unimplemented!()
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}
