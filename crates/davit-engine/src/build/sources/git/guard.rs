//! A process that lives as long as the build, and with it git and all that git started.
//!
//! ```text
//! build -- pipe --> guard, the leader of a process group
//!   '-- spawns --> git -- ssh, remote-http: members of that group
//! ```
//!
//! A build that is killed can stop nobody, and git may wait for a server without an end. The pipe
//! tells the guard.

use std::{
    io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_current_process_group, kill_process_group};

/// The hidden verb that it is.
const VERB: &str = "__git-guard";

/// The guard of one fetch; dropping this ends it, and whatever of git is left.
#[derive(Debug)]
pub(super) struct Guard(Child);

impl Guard {
    /// Starts the guard, which is this program.
    pub(super) fn start(executable: &Path) -> io::Result<Self> {
        let mut command = Command::new(executable);
        command.arg(VERB).env_clear().current_dir("/").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(Self)
    }

    /// The process group that git belongs to.
    pub(super) fn group(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap_or_default()
    }

    /// Kills git and all that it started.
    pub(super) fn kill(&self) {
        let group = Pid::from_raw(self.group());
        if let Some(Err(error)) = group.map(|group| kill_process_group(group, Signal::KILL)) {
            tracing::debug!(%error, "git has ended just now");
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.kill();
        if let Err(error) = self.0.wait() {
            tracing::debug!(%error, "the guard of git is gone");
        }
    }
}

/// Waits for the end of the build, or to be killed by it.
pub(crate) fn guard_helper() -> u8 {
    // Nobody writes to it: whatever ends the reading, the build is not there.
    let ended = io::copy(&mut io::stdin().lock(), &mut io::sink());
    tracing::debug!(?ended, "the build is gone, and git with it");
    u8::from(kill_current_process_group(Signal::KILL).is_err())
}
