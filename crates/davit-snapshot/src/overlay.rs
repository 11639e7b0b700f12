//! Overlay mounts, with every option that changes what a container sees named.

use std::os::fd::{AsFd, OwnedFd};

use davit_sys::mount::{FsContext, MountAttributes, MountError};
use rustix::io::Errno;

use crate::{SnapshotError, namespace::Lowers, stack::proc_path};

/// The kernel's `OVL_MAX_STACK`.
pub(crate) const MAX_LOWERS: usize = 500;

/// What `st_ino` a container sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InodeNumbers {
    /// Unique over all layers and stable (`xino=on`); those of lower files are 2^63 and above.
    #[default]
    Unique,
    /// As the layers have them (`xino=off`): for 32-bit images, whose programs fail on large ones.
    Narrow,
}

/// What a power loss may do to the upper directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// `sync` and `fsync` reach the disk.
    #[default]
    Durable,
    /// They are ignored (`volatile`): for `--rm` and builds.
    Volatile,
}

/// How overlay is told of its directories. Each falls back to the next where the kernel refuses;
/// the later ones are there so that tests can ask for what an older kernel leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interface {
    /// By descriptor (Linux 6.13).
    #[default]
    Descriptors,
    /// By a path for each (6.8).
    Paths,
    /// All in one string, which holds about a dozen.
    OneString,
}

/// How an overlay is mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OverlayOptions {
    /// The inode numbers.
    pub inode_numbers: InodeNumbers,
    /// The durability of the upper directory.
    pub durability: Durability,
    /// The first interface that is tried.
    pub interface: Interface,
}

/// The writable layer of an overlay, opened.
pub(crate) struct Writable {
    pub(crate) upper: OwnedFd,
    pub(crate) work: OwnedFd,
}

/// Mounts an overlay that is attached nowhere.
pub(crate) fn mount(
    lowers: &Lowers,
    writable: &Writable,
    options: OverlayOptions,
) -> Result<OwnedFd, SnapshotError> {
    if lowers.mounts.len() > MAX_LOWERS {
        return Err(SnapshotError::TooManyLowers(lowers.mounts.len()));
    }
    compose(lowers, writable, options).map_err(|source| SnapshotError::mount("overlay", source))
}

fn compose(
    lowers: &Lowers,
    writable: &Writable,
    options: OverlayOptions,
) -> Result<OwnedFd, MountError> {
    let context = FsContext::open(c"overlay")?;
    context.string(c"source", b"overlay")?;
    let interface = add_lowers(&context, lowers, options.interface)?;
    directory(&context, c"upperdir", &writable.upper, interface)?;
    directory(&context, c"workdir", &writable.work, interface)?;
    if options.durability == Durability::Volatile {
        context.flag(c"volatile")?;
    }
    context.string(c"index", b"off")?.string(c"redirect_dir", b"off")?;
    context.string(c"metacopy", b"off")?;
    let xino: &[u8] = match options.inode_numbers {
        InodeNumbers::Unique => b"on",
        InodeNumbers::Narrow => b"off",
    };
    context.string(c"xino", xino)?;
    context.mount(MountAttributes::empty())
}

/// Adds the lower directories, topmost first; returns the interface that the kernel took.
fn add_lowers(
    context: &FsContext,
    lowers: &Lowers,
    interface: Interface,
) -> Result<Interface, MountError> {
    if interface == Interface::OneString {
        return one_string(context, lowers);
    }
    for (done, lower) in lowers.mounts.iter().enumerate() {
        match directory(context, c"lowerdir+", lower, interface) {
            // Before Linux 6.8 there is no such option. Before 6.5 overlay takes no descriptor, and
            // every string, of which it refuses what it does not know at the very end.
            Err(error)
                if done == 0 && matches!(error.errno(), Some(Errno::INVAL | Errno::OPNOTSUPP)) =>
            {
                return one_string(context, lowers);
            }
            result => result?,
        }
    }
    Ok(interface)
}

fn directory(
    context: &FsContext,
    key: &std::ffi::CStr,
    directory: &OwnedFd,
    interface: Interface,
) -> Result<(), MountError> {
    if interface == Interface::Descriptors {
        match context.fd(key, directory.as_fd()) {
            // Linux 6.5 to 6.12, the second for descriptors that are paths.
            Err(error) if matches!(error.errno(), Some(Errno::INVAL | Errno::BADF)) => {}
            result => return result.map(drop),
        }
    }
    let path = proc_path(directory);
    context.string(key, path.as_os_str().as_encoded_bytes()).map(drop)
}

fn one_string(context: &FsContext, lowers: &Lowers) -> Result<Interface, MountError> {
    let paths: Vec<_> =
        lowers.mounts.iter().map(|lower| proc_path(lower).display().to_string()).collect();
    context.string(c"lowerdir", paths.join(":").as_bytes())?;
    Ok(Interface::OneString)
}
