//! Namespaces made without a process for them.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

/// Gives the calling thread a cgroup namespace whose root is the cgroup that it is in.
///
/// # Errors
/// `EPERM`.
pub fn unshare_cgroup_namespace() -> Result<(), Errno> {
    // SAFETY: only CLONE_FILES could break other threads.
    unsafe { unshare_unsafe(UnshareFlags::NEWCGROUP) }
}

/// Makes a network namespace that nobody is in yet and that lasts as long as its descriptor (0.6 ms).
/// The calling thread enters it for a moment.
///
/// # Errors
/// `EPERM`; `ENOSPC` at the limit of `user.max_net_namespaces`.
///
/// # Panics
/// If the thread could not return: it must not go on elsewhere.
pub fn new_network_namespace() -> Result<OwnedFd, Errno> {
    let open = || {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::open(c"/proc/thread-self/ns/net", flags, Mode::empty())
    };
    let own = open()?;
    // SAFETY: only CLONE_FILES could break other threads.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    let made = open();
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("a thread may always return to its own network namespace");
    made
}
