//! A process by pidfd, and its identity that survives a restart of the observer.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use davit_sys::process::Cloned;
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus},
};
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
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Exited(code) => i32::from(code),
            Self::Signaled(signal) => 128 + i32::from(signal),
        }
    }
}

impl Identity {
    /// Reads when the process `pid` started.
    ///
    /// # Errors
    /// `NotFound` if it is gone.
    pub fn of(pid: i32) -> io::Result<Self> {
        let stat = fs_err::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name in parentheses may hold anything, also parentheses and spaces.
        let start_time = stat
            .rsplit_once(')')
            .and_then(|(_, fields)| fields.split_whitespace().nth(19)?.parse().ok())
            .ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { pid, start_time })
    }

    /// Whether the process exists and is not a zombie.
    #[must_use]
    pub fn is_alive(self) -> bool {
        let Ok(stat) = fs_err::read_to_string(format!("/proc/{}/stat", self.pid)) else {
            return false;
        };
        let Some((_, fields)) = stat.rsplit_once(')') else { return false };
        let mut fields = fields.split_whitespace();
        let is_dead = matches!(fields.next(), Some("Z" | "X") | None);
        !is_dead && fields.nth(18).and_then(|field| field.parse().ok()) == Some(self.start_time)
    }
}

impl Process {
    /// A child that was cloned just now; it is killed and reaped if it cannot be identified.
    pub(crate) fn from_cloned(cloned: Cloned) -> io::Result<Self> {
        let Cloned { pid, pidfd } = cloned;
        match Identity::of(pid) {
            Ok(identity) => Ok(Self { pidfd, identity }),
            Err(error) => {
                let unknown = Identity { pid, start_time: 0 };
                crate::launch::end(&Self { pidfd, identity: unknown });
                Err(error)
            }
        }
    }

    /// Opens a running process and makes sure that it is the one meant, not a later one with its
    /// number.
    ///
    /// # Errors
    /// `NotFound` if it is gone.
    pub fn open(identity: Identity) -> io::Result<Self> {
        let pid = Pid::from_raw(identity.pid).ok_or(io::ErrorKind::NotFound)?;
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => return Err(io::ErrorKind::NotFound.into()),
            result => result?,
        };
        // The descriptor holds the number: what is read now belongs to the same process.
        if Identity::of(identity.pid)? != identity {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self { pidfd, identity })
    }

    /// Number and start time.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Sends a signal, also a real-time one.
    ///
    /// # Errors
    /// ESRCH if it has ended.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        Ok(davit_sys::process::pidfd_signal(&self.pidfd, signal)?)
    }

    /// Waits for the end of a child and reaps it. Blocks.
    ///
    /// # Errors
    /// `waitid` failed: the process is not the caller's child.
    pub fn wait(&self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.wait_with(WaitIdOptions::EXITED)? {
                return Ok(status);
            }
        }
    }

    /// Reaps a child if it has ended. The descriptor polls readable at that time.
    ///
    /// # Errors
    /// As [`Process::wait`].
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        self.wait_with(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    fn wait_with(&self, options: WaitIdOptions) -> io::Result<Option<ExitStatus>> {
        let id = || WaitId::PidFd(self.pidfd.as_fd());
        let status = rustix::io::retry_on_intr(|| rustix::process::waitid(id(), options))?;
        Ok(status.map(|status| exit_status(&status)))
    }
}

fn exit_status(status: &WaitIdStatus) -> ExitStatus {
    let byte = |number: i32| u8::try_from(number & 0xff).unwrap_or(u8::MAX);
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ExitStatus::Exited(byte(code)),
        (None, Some(signal)) => ExitStatus::Signaled(byte(signal)),
        (None, None) => ExitStatus::Exited(u8::MAX),
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_tells_a_reused_number() {
        let own = Identity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.is_alive());
        assert_eq!(Process::open(own).unwrap().identity(), own);
        let other = Identity { start_time: own.start_time + 1, ..own };
        assert!(!other.is_alive());
        assert_eq!(Process::open(other).unwrap_err().kind(), io::ErrorKind::NotFound);
        let none = Identity { pid: 0, start_time: 0 };
        assert_eq!(Process::open(none).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
