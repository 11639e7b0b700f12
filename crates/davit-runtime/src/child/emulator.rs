//! The process that registers an emulator in a user namespace of its own.
//!
//! It lives until its namespaces are opened; a container then takes them.

use std::{
    ffi::CStr,
    os::fd::{AsFd as _, OwnedFd},
};

use davit_sys::mount::{AttributeChange, Extent, MountAttributes, try_set_attributes};
use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags},
};

use super::{
    At,
    channel::{ChildEnd, Release},
};
use crate::error::Step;

/// Registers the emulator, hands over what the registration lasts as long as, and waits for the end.
pub(crate) fn serve(emulator: &CStr, registration: &[u8], channel: &ChildEnd) -> u8 {
    let signal = Some(rustix::process::Signal::KILL);
    let registered = rustix::process::set_parent_process_death_signal(signal)
        // Its users are mapped when this is released.
        .and_then(|()| channel.wait(Release::Network))
        .and_then(|()| register(emulator, registration));
    let told = match registered.at(Step::Namespace) {
        Ok(programs) => channel.send_descriptor(&programs).at(Step::Namespace),
        Err(failure) => Err(failure),
    };
    if let Err(failure) = told {
        channel.failed(failure);
    }
    // Never released: whoever has opened the namespaces ends it.
    u8::from(channel.wait(Release::Start).is_err())
}

fn register(emulator: &CStr, registration: &[u8]) -> Result<OwnedFd, Errno> {
    protect(emulator)?;
    let context = rustix::mount::fsopen(c"binfmt_misc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let programs =
        rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&programs, c"register", flags, Mode::empty())?;
    rustix::io::write(&file, registration)?;
    Ok(programs)
}

/// Covers the emulator with a read-only view of itself: the container sees it as `/proc/self/exe`,
/// and must not write to it (as in CVE-2019-5736).
fn protect(emulator: &CStr) -> Result<(), Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let view = rustix::mount::open_tree(CWD, emulator, flags)?;
    let set = Some(MountAttributes::MOUNT_ATTR_RDONLY);
    try_set_attributes(&view, Extent::Single, AttributeChange { set, ..Default::default() })?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&view, c"", CWD, emulator, flags)
}
