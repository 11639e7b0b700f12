//! A process by pidfd, and its identity that survives a restart of the observer.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

/// A process by number and start time; both together never repeat within one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Process number in the caller's PID namespace.
    pub pid: i32,
    /// Start in clock ticks after boot (`/proc/PID/stat` field 22).
    pub start_time: u64,
}

/// A process held by descriptor.
#[derive(Debug)]
pub struct Process {
    pidfd: OwnedFd,
    identity: Identity,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It exited with this code.
    Exited(u8),
    /// This signal ended it.
    Signaled(u8),
}

impl ExitStatus {
    /// The code as Docker reports it: 128 + signal for a signal.
    pub fn code(self) -> i32 {
        match self {
            Self::Exited(code) => i32::from(code),
            Self::Signaled(signal) => 128 + i32::from(signal),
        }
    }
}

impl Process {
    pub(crate) fn from_parts(pidfd: OwnedFd, identity: Identity) -> Self {
        Self { pidfd, identity }
    }

    /// Opens a running process and makes sure that it is the one meant, not a later one with its number.
    ///
    /// # Errors
    /// `NotFound` if it is gone.
    pub fn open(identity: Identity) -> io::Result<Self> {
        let _ = identity;
        unimplemented!()
    }

    /// Number and start time.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// `NotFound` (ESRCH) if it has ended.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let _ = signal;
        unimplemented!()
    }

    /// Waits for the end of a child and reaps it. Blocks.
    ///
    /// # Errors
    /// `waitid` failed: the process is not the caller's child.
    pub fn wait(&self) -> io::Result<ExitStatus> {
        unimplemented!()
    }

    /// Reaps a child if it has ended. The descriptor polls readable at that time.
    ///
    /// # Errors
    /// As [`Process::wait`].
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        unimplemented!()
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}
