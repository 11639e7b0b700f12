//! The namespaces of a container whose programs an emulator executes.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use davit_sys::process::{CloneOptions, NamespaceKind, NewNamespaces, clone, close_copy};
use rustix::thread::LinkNameSpaceType;

use super::{end, namespace};
use crate::child::{
    self,
    channel::{ParentEnd, Release, Report, channel},
};
use crate::emulation::Emulator;
use crate::error::LaunchError;
use crate::plan::{Namespace, Namespaces};
use crate::process::Process;

/// Which users and groups the caller knows, as (first, first outside, how many).
const OWN_MAPS: [(&str, &str); 2] =
    [("uid_map", "/proc/thread-self/uid_map"), ("gid_map", "/proc/thread-self/gid_map")];

/// A user namespace with an emulator, and what it owns.
#[derive(Debug)]
pub(crate) struct EmulatedSpaces {
    /// All users and groups of the caller, each as itself.
    pub(crate) user: OwnedFd,
    /// The emulator is registered as long as this is open.
    pub(crate) registration: OwnedFd,
    network: OwnedFd,
    ipc: OwnedFd,
    uts: OwnedFd,
}

impl EmulatedSpaces {
    /// Makes them by a process that ends before this returns.
    pub(crate) fn new(emulator: &Emulator) -> Result<Self, LaunchError> {
        let program = emulator.program.display().to_string();
        Self::make(emulator).map_err(|source| LaunchError::Emulator { program, source })
    }

    fn make(emulator: &Emulator) -> io::Result<Self> {
        let unusable = || io::Error::from(io::ErrorKind::InvalidInput);
        let path = emulator.path().ok_or_else(unusable)?;
        let registration = emulator.registration().ok_or_else(unusable)?;
        let (parent_end, child_end) = channel()?;
        child::hide_from_tracers()?;
        // What they own, the container may use its capabilities on.
        let namespaces = [NewNamespaces::NETWORK, NewNamespaces::IPC, NewNamespaces::UTS]
            .into_iter()
            .fold(NewNamespaces::USER.and(NewNamespaces::MOUNT), NewNamespaces::and);
        let cloned = clone(CloneOptions { namespaces, cgroup: None }, || {
            // Its own copy would hide that the parent is gone.
            close_copy(parent_end.as_fd());
            child::emulator::serve(&path, &registration, &child_end)
        })?;
        drop(child_end);
        let process = Process::from_cloned(cloned)?;
        let made = Self::gather(&process, &parent_end);
        end(&process);
        made
    }

    fn gather(process: &Process, channel: &ParentEnd) -> io::Result<Self> {
        for (name, own) in OWN_MAPS {
            let map = identity(&fs_err::read_to_string(own)?);
            fs_err::write(format!("/proc/{}/{name}", process.identity().pid), map)?;
        }
        channel.release(Release::Network);
        let registration = match channel.receive()? {
            Report::Descriptor(descriptor) => descriptor,
            Report::Failed(failure) => return Err(failure.errno.into()),
            Report::Prepared | Report::Closed => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        Ok(Self {
            user: namespace(process, NamespaceKind::User)?,
            registration,
            network: namespace(process, NamespaceKind::Network)?,
            ipc: namespace(process, NamespaceKind::Ipc)?,
            uts: namespace(process, NamespaceKind::Uts)?,
        })
    }

    /// The network namespace, for a container that is to have one of its own.
    pub(crate) fn network(&self) -> BorrowedFd<'_> {
        self.network.as_fd()
    }

    /// Those besides the network that a plan wants new.
    pub(crate) fn others(&self, plan: Namespaces) -> Vec<(BorrowedFd<'_>, LinkNameSpaceType)> {
        [
            (plan.ipc, &self.ipc, LinkNameSpaceType::InterProcessCommunication),
            (plan.uts, &self.uts, LinkNameSpaceType::HostNameAndNISDomainName),
        ]
        .into_iter()
        .filter(|(wanted, ..)| *wanted == Namespace::New)
        .map(|(_, made, kind)| (made.as_fd(), kind))
        .collect()
    }
}

/// The map of a namespace in which those of this one are themselves.
fn identity(own: &str) -> String {
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        let (first, count) = (fields.next()?, fields.nth(1)?);
        Some(format!("{first} {first} {count}\n"))
    };
    own.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_mapped_to_themselves() {
        assert_eq!(identity("         0          0 4294967295\n"), "0 0 4294967295\n");
        assert_eq!(identity(" 0 1000 1\n 1 100000 65536\n"), "0 0 1\n1 1 65536\n");
    }
}
