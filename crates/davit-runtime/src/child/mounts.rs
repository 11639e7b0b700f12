//! The container's mounts, made in its own mount namespace by descriptor.
//!
//! The root filesystem is attached over `/` of the copied namespace, everything else is mounted in
//! it, then `pivot_root` drops the rest. Targets are resolved inside the root and used through
//! their descriptors; a mount never goes to a path.

use std::{
    ffi::CStr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use davit_sys::mount::{AttributeChange, Extent, try_set_attributes};
use rustix::{
    fs::{CWD, FileType, OFlags},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
        OpenTreeFlags, UnmountFlags,
    },
};

use super::dev::{self, Terminal};
use super::resolve::{Links, Shape, is_procfs, open_in_root, open_or_make};
use super::{At, Failure};
use crate::error::Step;
use crate::launch::mounts::{PreparedKind, PreparedMount};
use crate::launch::prepare::Prepared;

/// Where programs look for memory that they share.
const SHARED_MEMORY: &CStr = c"dev/shm";

/// Puts the root together and makes it the process's.
pub(crate) fn build_root(prepared: &Prepared<'_>) -> Result<Option<Terminal>, Failure> {
    let root = prepared.root;
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change(c"/", flags).at(Step::Root)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(root, c"", CWD, c"/", flags).at(Step::Root)?;
    for (number, mount) in prepared.mounts.iter().enumerate() {
        make_mount(root, mount).at_number(Step::Mount, number)?;
    }
    let terminal = match prepared.process.terminal_size() {
        Some(size) => {
            let terminal = dev::open_terminal(root, size).at(Step::Terminal)?;
            dev::bind_console(root, &terminal.slave)?;
            Some(terminal)
        }
        None => None,
    };
    dev::make_nodes(root, &prepared.devices)?;
    if prepared.process.creates_cwd() {
        let cwd = prepared.process.cwd_in_root();
        // A path that cannot be made is reported when it is entered.
        drop(open_or_make(root, cwd, Shape::Directory, Links::Follow));
    }
    protect_paths(root, &prepared.readonly_paths)?;
    mask_paths(root, &prepared.masked_paths)?;
    finish_root(prepared).at(Step::Root)?;
    pivot(root).at(Step::Pivot)?;
    Ok(terminal)
}

fn make_mount(root: BorrowedFd<'_>, mount: &PreparedMount) -> Result<(), Errno> {
    let attributes = mount.attributes;
    let target = |shape| {
        let target = open_or_make(root, &mount.target, shape, mount.links)?;
        // A link of the image may lead there, whatever the plan says.
        match mount.covers_proc || !is_procfs(&target)? {
            true => Ok(target),
            false => Err(Errno::PERM),
        }
    };
    match &mount.kind {
        PreparedKind::Fresh { filesystem, options } => {
            let fresh = new_filesystem(
                filesystem,
                filesystem,
                options.iter().map(|(k, v)| (&**k, &**v)),
                attributes,
            )?;
            attach(&fresh, &target(Shape::Directory)?)
        }
        PreparedKind::Tmpfs { options, keeps_mode } => {
            // A directory that is made for it says nothing of a mode.
            let covers = open_existing(root, &mount.target)?.is_some();
            let target = target(Shape::Directory)?;
            let pairs = options.iter().map(|(key, value)| (&**key, &**value));
            let source = if *mount.target == *SHARED_MEMORY { c"shm" } else { c"tmpfs" };
            let fresh = new_filesystem(c"tmpfs", source, pairs, attributes)?;
            if *keeps_mode && covers {
                copy_mode(&target, &fresh)?;
            }
            attach(&fresh, &target)
        }
        PreparedKind::Dev { size } => {
            let pairs = [(c"mode", c"755"), (c"size", &**size)];
            let fresh = new_filesystem(c"tmpfs", c"tmpfs", pairs.into_iter(), attributes)?;
            dev::populate(&fresh)?;
            attach(&fresh, &target(Shape::Directory)?)
        }
        PreparedKind::Detached { mount, shape } => attach(mount, &target(*shape)?),
    }
}

/// Makes a filesystem and a detached mount of it; `source` is its name in `/proc/mounts`.
fn new_filesystem<'a>(
    filesystem: &CStr,
    source: &CStr,
    options: impl Iterator<Item = (&'a CStr, &'a CStr)>,
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen(filesystem, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), c"source", source)?;
    for (key, value) in options {
        if value.is_empty() {
            rustix::mount::fsconfig_set_flag(context.as_fd(), key)?;
        } else {
            rustix::mount::fsconfig_set_string(context.as_fd(), key, value)?;
        }
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Gives a fresh tmpfs the mode of the directory that it covers, as runc does; its owner stays root.
fn copy_mode(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let status = rustix::fs::fstat(from)?;
    let mode = rustix::fs::Mode::from_raw_mode(status.st_mode & 0o7777);
    rustix::fs::chmodat(to, c".", mode, rustix::fs::AtFlags::empty())
}

fn attach(mount: impl AsFd, target: &OwnedFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, c"", target, c"", flags)
}

/// Binds what one descriptor names onto what another names.
pub(crate) fn bind(source: impl AsFd, target: &OwnedFd) -> Result<(), Errno> {
    attach(clone_tree(source, OpenTreeFlags::empty())?, target)
}

fn clone_tree(source: impl AsFd, more: OpenTreeFlags) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(source, c"", flags | more)
}

fn protect_paths(root: BorrowedFd<'_>, paths: &[std::ffi::CString]) -> Result<(), Failure> {
    for (number, path) in paths.iter().enumerate() {
        protect(root, path).at_number(Step::ReadOnly, number)?;
    }
    Ok(())
}

fn protect(root: BorrowedFd<'_>, path: &CStr) -> Result<(), Errno> {
    let Some(target) = open_existing(root, path)? else { return Ok(()) };
    let clone = clone_tree(&target, OpenTreeFlags::AT_RECURSIVE)?;
    let change = AttributeChange {
        set: Some(MountAttrFlags::MOUNT_ATTR_RDONLY),
        ..AttributeChange::default()
    };
    try_set_attributes(&clone, Extent::Recursive, change)?;
    attach(&clone, &target)
}

/// `None` if it is missing: what is not there needs no protection.
fn open_existing(root: BorrowedFd<'_>, path: &CStr) -> Result<Option<OwnedFd>, Errno> {
    match open_in_root(root, path, OFlags::PATH, Links::Follow) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Covers files by the container's null device and directories by one empty read-only tmpfs.
fn mask_paths(root: BorrowedFd<'_>, paths: &[std::ffi::CString]) -> Result<(), Failure> {
    let mut empty = None;
    let mut null = None;
    for (number, path) in paths.iter().enumerate() {
        mask(root, path, &mut empty, &mut null).at_number(Step::Mask, number)?;
    }
    Ok(())
}

fn mask(
    root: BorrowedFd<'_>,
    path: &CStr,
    empty: &mut Option<OwnedFd>,
    null: &mut Option<OwnedFd>,
) -> Result<(), Errno> {
    let Some(target) = open_existing(root, path)? else { return Ok(()) };
    let mode = rustix::fs::fstat(&target)?.st_mode;
    if FileType::from_raw_mode(mode) == FileType::Directory {
        let cover = match empty {
            // The first one is attached by now, so it can be cloned on every kernel.
            Some(first) => clone_tree(&*first, OpenTreeFlags::empty())?,
            None => {
                let pairs = [(c"nr_inodes", c"2"), (c"size", c"4096"), (c"mode", c"755")];
                new_filesystem(
                    c"tmpfs",
                    c"tmpfs",
                    pairs.into_iter(),
                    MountAttrFlags::MOUNT_ATTR_RDONLY,
                )?
            }
        };
        attach(&cover, &target)?;
        empty.get_or_insert(cover);
        return Ok(());
    }
    if null.is_none() {
        *null = Some(dev::open_null(root, c"dev/null")?);
    }
    match null {
        Some(null) => bind(&*null, &target),
        None => Err(Errno::NXIO),
    }
}

fn finish_root(prepared: &Prepared<'_>) -> Result<(), Errno> {
    if !prepared.read_only_root {
        return Ok(());
    }
    let change = AttributeChange {
        set: Some(MountAttrFlags::MOUNT_ATTR_RDONLY),
        ..AttributeChange::default()
    };
    try_set_attributes(prepared.root, Extent::Single, change)
}

fn pivot(root: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(c".", c".")?;
    // The old root lies over the new one now.
    rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
    rustix::process::chdir(c"/")
}
