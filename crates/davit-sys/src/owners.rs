//! Mounts that show files with other owners (`mount_setattr(2)` § ID-mapped mounts, Linux 5.12).

use std::{
    fmt::Write as _,
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags},
    pipe::{PipeFlags, pipe_with},
    process::{WaitId, WaitIdOptions, waitid},
};

use crate::{
    mount::{MountError, map_owners},
    process::{CloneOptions, NewNamespaces, clone, close_copy},
};

/// Users, and groups, of which each is shown as the other; everybody else is themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Two users; the same one twice exchanges none.
    pub users: (u32, u32),
    /// Two groups.
    pub groups: (u32, u32),
}

/// Exchanges owners in what a detached mount shows, and in what is written through it.
///
/// Costs a process that ends before this returns (0.5 ms).
///
/// # Errors
/// [`MountError`]: `EINVAL` where the file system has no such mounts (overlayfs; tmpfs before Linux
/// 6.3) or the mount has other owners already, `EPERM` where the caller is not root of the machine,
/// `ENOSYS` before Linux 5.12.
pub fn exchange_owners(mount: impl AsFd, exchange: Exchange) -> Result<(), MountError> {
    let Exchange { users, groups } = exchange;
    let space = user_namespace(&map(users), &map(groups));
    let space = space.map_err(|error| MountError::of_io("clone3", "user namespace", error))?;
    map_owners(mount, space)
}

/// All numbers but the last, which is nobody's; two are exchanged.
fn map((one, other): (u32, u32)) -> String {
    let (low, high) = (one.min(other), one.max(other));
    let mut map = String::new();
    let mut extent = |first: u32, shown: u32, count: u32| {
        if count > 0 {
            writeln!(map, "{first} {shown} {count}").expect("a string takes all");
        }
    };
    if low == high {
        extent(0, 0, u32::MAX);
        return map;
    }
    extent(0, 0, low);
    extent(low, high, 1);
    extent(low + 1, low + 1, high - low - 1);
    extent(high, low, 1);
    extent(high + 1, high + 1, u32::MAX - 1 - high);
    map
}

/// A user namespace with these maps that nobody is in.
fn user_namespace(users: &str, groups: &str) -> io::Result<OwnedFd> {
    let (held, holding) = pipe_with(PipeFlags::CLOEXEC)?;
    let options = CloneOptions { namespaces: NewNamespaces::USER, cgroup: None };
    let child = clone(options, || {
        // It ends when the parent has closed this, or is gone.
        close_copy(holding.as_fd());
        let ended = rustix::io::retry_on_intr(|| rustix::io::read(&held, &mut [0_u8; 1]));
        u8::from(ended.is_err())
    })?;
    let process = format!("/proc/{}", child.pid);
    let made = write(&format!("{process}/uid_map"), users)
        .and_then(|()| write(&format!("{process}/gid_map"), groups))
        .and_then(|()| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            Ok(rustix::fs::open(format!("{process}/ns/user"), flags, Mode::empty())?)
        });
    drop(holding);
    let pidfd = WaitId::PidFd(child.pidfd.as_fd());
    rustix::io::retry_on_intr(|| waitid(pidfd.clone(), WaitIdOptions::EXITED))?;
    made
}

/// Writes a map, which the kernel takes in one piece.
fn write(path: &str, map: &str) -> io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, map.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_are_exchanged_and_nobody_is_lost() {
        assert_eq!(map((7, 7)), "0 0 4294967295\n");
        assert_eq!(map((1000, 0)), "0 1000 1\n1 1 999\n1000 0 1\n1001 1001 4294966294\n");
        assert_eq!(map((0, 1)), "0 1 1\n1 0 1\n2 2 4294967293\n");
        let last = u32::MAX - 1;
        assert_eq!(map((3, last)), format!("0 0 3\n3 {last} 1\n4 4 4294967290\n{last} 3 1\n"));
    }
}
