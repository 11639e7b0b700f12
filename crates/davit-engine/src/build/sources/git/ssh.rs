//! Repositories over ssh: by the keys of an agent that the caller gave, and no others.
//!
//! A host that was never seen is trusted, and its key kept; one that shows another key later is
//! refused, as it is if the user's own `known_hosts` says otherwise. Nothing of `~/.ssh/config` counts.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
};

use davit_build::{Agent, AgentSocket};
use rustix::{
    fs::{Mode, OFlags},
    process::{getegid, geteuid},
};

use super::program::PROTOCOLS;

/// Name of the agent's socket in the directory of a fetch.
const SOCKET: &str = "agent";
/// What ssh is told; the keys of hosts follow.
const OPTIONS: &str = "ssh -F none -o BatchMode=yes -o IdentityFile=none -o ForwardAgent=no \
                       -o StrictHostKeyChecking=accept-new -o ConnectTimeout=30 \
                       -o ServerAliveInterval=15";

/// A way for git to use ssh, as long as it lives.
pub(super) struct Ssh {
    _agent: AgentSocket,
    /// Both are named by their descriptors: a socket's path is short, and neither needs quotes.
    scratch: OwnedFd,
    cache: OwnedFd,
}

impl Ssh {
    /// Lets an agent listen in `scratch`; keys of hosts are kept in `cache`.
    pub(super) fn new(agent: &Agent, scratch: &Path, cache: &Path) -> io::Result<Self> {
        // Whoever runs git, and nobody else.
        let owner = (0o600, geteuid().as_raw(), getegid().as_raw());
        Ok(Self {
            _agent: AgentSocket::listen(agent, (scratch, SOCKET), owner)?,
            scratch: directory(scratch)?,
            cache: directory(cache)?,
        })
    }

    /// What git's environment needs.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        let at = |directory: &OwnedFd, name| {
            format!("/proc/{}/fd/{}/{name}", std::process::id(), directory.as_raw_fd())
        };
        let hosts = format!("{} ~/.ssh/known_hosts", at(&self.cache, "known_hosts"));
        let command = format!("{OPTIONS} -o 'UserKnownHostsFile={hosts}'");
        let pairs = [
            ("SSH_AUTH_SOCK", at(&self.scratch, SOCKET)),
            ("GIT_SSH_COMMAND", command),
            ("GIT_SSH_VARIANT", "ssh".to_owned()),
            ("GIT_ALLOW_PROTOCOL", format!("{PROTOCOLS}:ssh")),
        ];
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

fn directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}
