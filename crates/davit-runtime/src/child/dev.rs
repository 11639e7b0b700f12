//! `/dev` of a container: nodes, links, pseudo-terminal.

use std::{
    ffi::CStr,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{FileType, Mode, OFlags, makedev},
    io::Errno,
    pty::OpenptFlags,
    termios::Winsize,
};

use super::resolve::{Links, Shape, open_in_root, open_or_make};
use super::{At, Failure};
use crate::error::Step;
use crate::launch::prepare::PreparedDevice;

/// Nodes of every container: name, major, minor; mode 0666.
const NODES: [(&CStr, u32, u32); 6] = [
    (c"null", 1, 3),
    (c"zero", 1, 5),
    (c"full", 1, 7),
    (c"random", 1, 8),
    (c"urandom", 1, 9),
    (c"tty", 5, 0),
];

/// Links of every container: name, target.
const LINKS: [(&CStr, &CStr); 5] = [
    (c"fd", c"/proc/self/fd"),
    (c"stdin", c"/proc/self/fd/0"),
    (c"stdout", c"/proc/self/fd/1"),
    (c"stderr", c"/proc/self/fd/2"),
    (c"ptmx", c"pts/ptmx"),
];

/// The kernel's memory, which not every kernel shows.
const KCORE: &CStr = c"/proc/kcore";

/// `linux/magic.h` `DEVPTS_SUPER_MAGIC`.
const DEVPTS_MAGIC: i64 = 0x1cd1;

/// Fills a fresh tmpfs; the process's file mode creation mask is zero.
pub(crate) fn populate(dev: &OwnedFd) -> Result<(), Errno> {
    for (name, major, minor) in NODES {
        let mode = Mode::from_raw_mode(0o666);
        let device = makedev(major, minor);
        rustix::fs::mknodat(dev, name, FileType::CharacterDevice, mode, device)?;
    }
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, dev, name)?;
    }
    if rustix::fs::access(KCORE, rustix::fs::Access::EXISTS).is_ok() {
        rustix::fs::symlinkat(KCORE, dev, c"core")?;
    }
    for name in [c"pts", c"shm", c"mqueue"] {
        rustix::fs::mkdirat(dev, name, Mode::from_raw_mode(0o755))?;
    }
    Ok(())
}

/// Makes the plan's own nodes inside the root.
pub(crate) fn make_nodes(root: impl AsFd, devices: &[PreparedDevice]) -> Result<(), Failure> {
    for (number, device) in devices.iter().enumerate() {
        make_node(root.as_fd(), device).at_number(Step::Device, number)?;
    }
    Ok(())
}

fn make_node(root: impl AsFd, device: &PreparedDevice) -> Result<(), Errno> {
    let parent = open_or_make(root, &device.parent, Shape::Directory, Links::Follow)?;
    let (kind, number) = (device.kind, makedev(device.major, device.minor));
    let mode = Mode::from_raw_mode(device.mode & 0o7777);
    match rustix::fs::mknodat(&parent, &*device.name, kind, mode, number) {
        Err(Errno::EXIST) => check_node(&parent, &device.name, kind, number),
        result => {
            result?;
            let owner = Some(rustix::fs::Uid::from_raw(device.uid));
            let group = Some(rustix::fs::Gid::from_raw(device.gid));
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(&parent, &*device.name, owner, group, flags)
        }
    }
}

fn check_node(parent: &OwnedFd, name: &CStr, kind: FileType, number: u64) -> Result<(), Errno> {
    let status = rustix::fs::statat(parent, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    let same = FileType::from_raw_mode(status.st_mode) == kind && status.st_rdev == number;
    if same { Ok(()) } else { Err(Errno::EXIST) }
}

/// Opens `null` of a directory and makes sure that it is the null device (CVE-2025-31133).
pub(crate) fn open_null(root: impl AsFd, path: &CStr) -> Result<OwnedFd, Errno> {
    let null = open_in_root(root, path, OFlags::PATH | OFlags::NOFOLLOW, Links::Refuse)?;
    let status = rustix::fs::fstat(&null)?;
    let is_null = FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice
        && status.st_rdev == makedev(1, 3);
    if is_null { Ok(null) } else { Err(Errno::NXIO) }
}

/// Both ends of a pseudo-terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    /// The side of davit.
    pub(crate) master: OwnedFd,
    /// The side of the container.
    pub(crate) slave: OwnedFd,
}

/// Opens a pseudo-terminal of the container's own devpts; whatever else lies at `/dev/pts/ptmx` is
/// refused (CVE-2025-52565).
pub(crate) fn open_terminal(root: impl AsFd, size: Option<(u16, u16)>) -> Result<Terminal, Errno> {
    let found = open_in_root(root.as_fd(), c"dev/pts", OFlags::PATH, Links::Refuse)?;
    if rustix::fs::fstatfs(&found)?.f_type != DEVPTS_MAGIC {
        return Err(Errno::NODEV);
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW;
    let master = open_in_root(&found, c"ptmx", flags, Links::Refuse)?;
    if rustix::fs::fstat(&master)?.st_rdev != makedev(5, 2) {
        return Err(Errno::NODEV);
    }
    rustix::pty::unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    if let Some((rows, columns)) = size {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&master, size)?;
    }
    Ok(Terminal { master, slave })
}

/// Binds the pseudo-terminal at `/dev/console`.
pub(crate) fn bind_console(root: impl AsFd, slave: &OwnedFd) -> Result<(), Failure> {
    let bind = || {
        let target = open_or_make(root.as_fd(), c"dev/console", Shape::File, Links::Refuse)?;
        super::mounts::bind(slave, &target)
    };
    bind().at_number(Step::Terminal, 1)
}
