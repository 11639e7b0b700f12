//! What a monitor is told when it is born.

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use davit_network::{Bridge, Names, PortMapping};
use serde::{Deserialize, Serialize};

use super::log::LogConfig;
use crate::plan::Plan;

/// Everything about one container that its monitor needs, serialised by the command that starts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Id of the container.
    pub id: String,
    /// `ROOT/containers/ID`: state and log.
    pub directory: PathBuf,
    /// `RUN_ROOT/ROOTID/c/ID`: socket.
    pub run_directory: PathBuf,
    /// What to launch.
    pub plan: Plan,
    /// Namespaces of other processes (`/proc/PID/ns/net`), which the plan refers to by number.
    pub joins: Vec<PathBuf>,
    /// Standard streams.
    pub stdio: Stdio,
    /// Its network interface.
    pub network: Network,
    /// How its output is kept.
    pub log: LogConfig,
    /// What happens after its end.
    pub restart: RestartPolicy,
    /// How its health is checked.
    pub health: Option<HealthCheck>,
    /// Command that brings the database up to date when nobody waits: the installed davit by
    /// absolute path, with its roots.
    pub settle: Vec<String>,
}

/// Standard streams of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stdio {
    /// A terminal or pipes.
    pub kind: StdioKind,
    /// What standard input is.
    pub stdin: Stdin,
    /// Rows and columns of the terminal at its start.
    pub size: Option<(u16, u16)>,
}

/// Whether the container has a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StdioKind {
    /// A pseudo-terminal (`--tty`).
    Terminal,
    /// Pipes.
    Pipes,
}

/// What a container's standard input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdin {
    /// Empty.
    Closed,
    /// Open, and closed when the first attached client ends it (`run -i`).
    Once,
    /// Open until the container's end (`run -di`).
    Open,
}

/// What the network namespace gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// Nothing to do: the host's, or another container's.
    Shared,
    /// The loopback interface only.
    Loopback,
    /// A place on a bridge.
    Bridge {
        /// The bridge.
        bridge: Box<Bridge>,
        /// Address.
        ipv4: std::net::Ipv4Addr,
        /// IPv6 address.
        ipv6: Option<std::net::Ipv6Addr>,
        /// Published ports.
        ports: Vec<PortMapping>,
        /// What names of other containers are answered by, where they have any.
        names: Option<Names>,
    },
}

/// What happens after a container's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// It is started again unless somebody stopped it.
    Always,
    /// As `Always`; a stopped one also stays so after the machine's next boot.
    UnlessStopped,
    /// It is started again after a failure, at most so many times (0: without limit).
    OnFailure(u32),
}

impl RestartPolicy {
    /// Whether an end with `code` after so many restarts is followed by another start.
    #[must_use]
    pub fn restarts(self, code: i32, restarts: u32) -> bool {
        match self {
            Self::No => false,
            Self::Always | Self::UnlessStopped => true,
            Self::OnFailure(limit) => code != 0 && (limit == 0 || restarts < limit),
        }
    }
}

/// How a container's health is checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// Command and arguments.
    pub command: Vec<String>,
    /// Time between two checks.
    pub interval: Duration,
    /// Time after which a check has failed.
    pub timeout: Duration,
    /// Time in which failures do not count.
    pub start_period: Duration,
    /// Time between two checks within the start period.
    pub start_interval: Duration,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
}

/// Makes root filesystems for a monitor: once, and again for every restart.
pub trait Root {
    /// Mounts the container's root filesystem, attached nowhere.
    ///
    /// # Errors
    /// Why it cannot be mounted.
    fn mount(&mut self) -> Result<OwnedFd, Box<dyn std::error::Error + Send + Sync>>;

    /// See [`crate::Launch::sharing`].
    fn sharing(&self) -> Option<BorrowedFd<'_>>;
}

/// Delay before the next restart: 0.1 s, doubled each time up to a minute, from the start again
/// after ten seconds of running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BackOff(Duration);

impl BackOff {
    const FIRST: Duration = Duration::from_millis(100);
    const LAST: Duration = Duration::from_secs(60);
    const STABLE: Duration = Duration::from_secs(10);

    pub(crate) fn new() -> Self {
        Self(Duration::ZERO)
    }

    /// The delay after an end that followed `ran` of running.
    pub(crate) fn next(&mut self, ran: Duration) -> Duration {
        self.0 = if self.0.is_zero() || ran >= Self::STABLE {
            Self::FIRST
        } else {
            (self.0 * 2).min(Self::LAST)
        };
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_decide() {
        let cases = [
            (RestartPolicy::No, 1, 0, false),
            (RestartPolicy::Always, 0, 99, true),
            (RestartPolicy::UnlessStopped, 1, 99, true),
            (RestartPolicy::OnFailure(0), 1, 99, true),
            (RestartPolicy::OnFailure(0), 0, 0, false),
            (RestartPolicy::OnFailure(2), 1, 1, true),
            (RestartPolicy::OnFailure(2), 1, 2, false),
        ];
        for (policy, code, restarts, expected) in cases {
            assert_eq!(policy.restarts(code, restarts), expected, "{policy:?} {code} {restarts}");
        }
    }

    #[test]
    fn back_off_doubles_and_forgets() {
        let mut back_off = BackOff::new();
        let delays: Vec<_> = (0..12).map(|_| back_off.next(Duration::ZERO).as_millis()).collect();
        assert_eq!(
            delays,
            [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000]
        );
        assert_eq!(back_off.next(Duration::from_secs(11)).as_millis(), 100);
    }
}
