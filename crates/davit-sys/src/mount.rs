//! The file-descriptor mount API (`fsopen(2)` and its family, Linux 5.2) with the kernel's own
//! words in each error.
//!
//! ```text
//! FsContext::open -> string / flag / fd -> mount ----> detached mount (OwnedFd) -> attach
//!                                  clone_tree(path) --^        \-> set_attributes (read-only)
//! ```
//!
//! Nothing here needs a path in the caller's mount namespace, so a mount that is never attached
//! goes with its last descriptor: there is nothing to undo.

use std::{
    ffi::CStr,
    fmt, io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
    ptr,
};

use rustix::{
    fs::CWD,
    mount::{FsMountFlags, FsOpenFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags},
};

pub use rustix::mount::MountAttrFlags as MountAttributes;

/// Longest value, in bytes, that one `fsconfig(2)` string may have; a longer one is `EINVAL`.
pub const MAX_OPTION_BYTES: usize = 255;

/// A call of the mount API that the kernel refused.
#[derive(Debug, thiserror::Error)]
pub struct MountError {
    /// The system call.
    pub call: &'static str,
    /// What it was called on: `FILESYSTEM: KEY=VALUE` or a path.
    pub object: String,
    /// What the kernel wrote into the context's log, in order; often empty.
    pub log: Vec<String>,
    /// The error number.
    #[source]
    pub source: io::Error,
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.call, self.object)?;
        for line in &self.log {
            write!(f, ": {line}")?;
        }
        Ok(())
    }
}

impl MountError {
    fn new(call: &'static str, object: impl Into<String>, source: rustix::io::Errno) -> Self {
        Self { call, object: object.into(), log: Vec::new(), source: source.into() }
    }

    pub(crate) fn of_io(call: &'static str, object: &str, source: io::Error) -> Self {
        Self { call, object: object.to_owned(), log: Vec::new(), source }
    }

    /// The error number, as `rustix` knows it.
    #[must_use]
    pub fn errno(&self) -> Option<rustix::io::Errno> {
        rustix::io::Errno::from_io_error(&self.source)
    }
}

/// A file system under construction (`fsopen(2)`).
#[derive(Debug)]
pub struct FsContext {
    filesystem: &'static CStr,
    fd: OwnedFd,
}

impl FsContext {
    /// Begins a file system of the type `filesystem`.
    ///
    /// # Errors
    /// [`MountError`]: `ENODEV` where the kernel does not have that type, `EPERM` without
    /// `CAP_SYS_ADMIN`.
    pub fn open(filesystem: &'static CStr) -> Result<Self, MountError> {
        let fd = rustix::mount::fsopen(filesystem, FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(|errno| MountError::new("fsopen", filesystem.to_string_lossy(), errno))?;
        Ok(Self { filesystem, fd })
    }

    /// Sets an option without a value.
    ///
    /// # Errors
    /// [`MountError`] where the file system does not know it.
    pub fn flag(&self, key: &CStr) -> Result<&Self, MountError> {
        rustix::mount::fsconfig_set_flag(&self.fd, key).map_err(|errno| {
            self.refused("fsconfig", format!("{}", key.to_string_lossy()), errno)
        })?;
        Ok(self)
    }

    /// Sets `key=value`.
    ///
    /// # Errors
    /// [`MountError`] where the file system refuses it, or where `value` is longer than
    /// [`MAX_OPTION_BYTES`] or holds a NUL (both `EINVAL`).
    pub fn string(&self, key: &CStr, value: &[u8]) -> Result<&Self, MountError> {
        rustix::mount::fsconfig_set_string(&self.fd, key, value)
            .map_err(|errno| self.refused("fsconfig", pair(key, value), errno))?;
        Ok(self)
    }

    /// Sets `key` to an open descriptor (`FSCONFIG_SET_FD`).
    ///
    /// # Errors
    /// [`MountError`]: `EINVAL` where the file system takes this option only as a string.
    pub fn fd(&self, key: &CStr, value: impl AsFd) -> Result<&Self, MountError> {
        let value = value.as_fd();
        let number = format!("fd {}", value.as_raw_fd());
        rustix::mount::fsconfig_set_fd(&self.fd, key, value)
            .map_err(|errno| self.refused("fsconfig", pair(key, number.as_bytes()), errno))?;
        Ok(self)
    }

    /// Creates the file system and returns a mount of it that is attached nowhere.
    ///
    /// # Errors
    /// [`MountError`] with the kernel's explanation.
    pub fn mount(self, attributes: MountAttributes) -> Result<OwnedFd, MountError> {
        rustix::mount::fsconfig_create(&self.fd)
            .map_err(|errno| self.refused("fsconfig", "create".into(), errno))?;
        rustix::mount::fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(|errno| self.refused("fsmount", String::new(), errno))
    }

    fn refused(&self, call: &'static str, what: String, errno: rustix::io::Errno) -> MountError {
        let object = format!("{}: {what}", self.filesystem.to_string_lossy());
        MountError { call, object, log: self.log(), source: errno.into() }
    }

    /// Reads the messages of the context; each `read(2)` yields one.
    fn log(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut buffer = [0_u8; 1024];
        while let Ok(length @ 1..) = rustix::io::read(&self.fd, &mut buffer) {
            let line = String::from_utf8_lossy(&buffer[..length]);
            // The first two bytes are the level: "e ", "w " or "i ".
            lines.push(line.get(2..).unwrap_or(&line).trim_end().to_owned());
            if lines.len() == 16 {
                break;
            }
        }
        lines
    }
}

fn pair(key: &CStr, value: &[u8]) -> String {
    format!("{}={}", key.to_string_lossy(), String::from_utf8_lossy(value))
}

/// How much of a tree of mounts a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The one mount.
    Single,
    /// The mount and everything mounted below it.
    Recursive,
}

/// Attaches a detached mount at `target`, which is resolved in the caller's mount namespace.
///
/// # Errors
/// [`MountError`]: `ENOENT`, or `EINVAL` where `mount` is attached elsewhere already.
pub fn attach(mount: impl AsFd, target: &Path) -> Result<(), MountError> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(mount, c"", CWD, target, flags)
        .map_err(|errno| MountError::new("move_mount", target.display().to_string(), errno))
}

/// Attaches a detached mount on the open file or directory `target`.
///
/// This cannot be led astray by a symbolic link, unlike [`attach`].
///
/// # Errors
/// [`MountError`].
pub fn attach_at(mount: impl AsFd, target: impl AsFd) -> Result<(), MountError> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    let target = target.as_fd();
    rustix::mount::move_mount(mount, c"", target, c"", flags).map_err(|errno| {
        MountError::new("move_mount", format!("on fd {}", target.as_raw_fd()), errno)
    })
}

/// Makes a detached copy of the mount at `path`: a bind mount that is attached nowhere.
///
/// # Errors
/// [`MountError`]: `EINVAL` where the mount is not one of the caller's mount namespace.
pub fn clone_tree(path: &Path, extent: Extent) -> Result<OwnedFd, MountError> {
    rustix::mount::open_tree(CWD, path, clone_flags(extent))
        .map_err(|errno| MountError::new("open_tree", path.display().to_string(), errno))
}

/// Makes a detached copy of what the descriptor `file` names; see [`clone_tree`].
///
/// # Errors
/// [`MountError`].
pub fn clone_tree_at(file: impl AsFd, extent: Extent) -> Result<OwnedFd, MountError> {
    let file = file.as_fd();
    let flags = clone_flags(extent) | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(file, c"", flags)
        .map_err(|errno| MountError::new("open_tree", format!("fd {}", file.as_raw_fd()), errno))
}

fn clone_flags(extent: Extent) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    match extent {
        Extent::Single => flags,
        Extent::Recursive => flags | OpenTreeFlags::AT_RECURSIVE,
    }
}

/// Where mount events of a tree go (`mount_namespaces(7)` § Shared subtrees).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Nowhere, and none come in.
    Private,
    /// They come in, none go out. The right one for a copy of the host's mounts: what the host
    /// unmounts is not kept busy.
    Slave,
    /// Both ways among the peers.
    Shared,
}

/// What [`set_attributes`] changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttributeChange {
    /// Attributes to set.
    pub set: Option<MountAttributes>,
    /// Attributes to clear.
    pub clear: Option<MountAttributes>,
    /// New propagation.
    pub propagation: Option<Propagation>,
}

/// Changes a mount (`mount_setattr(2)`).
///
/// # Errors
/// [`MountError`]: `EPERM` where a locked attribute would be cleared, `ENOSYS` before Linux 5.12.
pub fn set_attributes(
    mount: impl AsFd,
    extent: Extent,
    change: AttributeChange,
) -> Result<(), MountError> {
    let mount = mount.as_fd();
    try_set_attributes(mount, extent, change).map_err(|errno| {
        MountError::new("mount_setattr", format!("fd {}", mount.as_raw_fd()), errno)
    })
}

/// [`set_attributes`] for code between clone and exec: it allocates nothing, even when it fails.
///
/// # Errors
/// As [`set_attributes`].
pub fn try_set_attributes(
    mount: impl AsFd,
    extent: Extent,
    change: AttributeChange,
) -> Result<(), rustix::io::Errno> {
    let mount = mount.as_fd();
    let attributes = libc::mount_attr {
        attr_set: u64::from(change.set.unwrap_or(MountAttributes::empty()).bits()),
        attr_clr: u64::from(change.clear.unwrap_or(MountAttributes::empty()).bits()),
        propagation: match change.propagation {
            None => 0,
            Some(Propagation::Private) => libc::MS_PRIVATE,
            Some(Propagation::Slave) => libc::MS_SLAVE,
            Some(Propagation::Shared) => libc::MS_SHARED,
        },
        userns_fd: 0,
    };
    let flags = match extent {
        Extent::Single => libc::AT_EMPTY_PATH,
        Extent::Recursive => libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
    };
    mount_setattr(mount, flags, &attributes)
}

/// Lets a detached mount show owners as the maps of a user namespace have them: who is a number
/// within it there is shown as the number outside.
///
/// # Errors
/// As [`crate::owners::exchange_owners`].
pub(crate) fn map_owners(mount: impl AsFd, space: impl AsFd) -> Result<(), MountError> {
    let mount = mount.as_fd();
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::from(space.as_fd().as_raw_fd().unsigned_abs()),
    };
    mount_setattr(mount, libc::AT_EMPTY_PATH, &attributes).map_err(|errno| {
        MountError::new("mount_setattr", format!("owners of fd {}", mount.as_raw_fd()), errno)
    })
}

/// Allocates nothing.
fn mount_setattr(
    mount: BorrowedFd<'_>,
    flags: libc::c_int,
    attributes: &libc::mount_attr,
) -> Result<(), rustix::io::Errno> {
    // SAFETY: the path is a NUL-terminated literal, `attributes` outlives the call and its size
    // is passed; the kernel writes to neither.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    let number = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    Err(rustix::io::Errno::from_raw_os_error(number))
}

/// Takes the mount at `target` out of the caller's mount namespace; it goes with its last user.
///
/// # Errors
/// [`MountError`]: `EINVAL` where `target` is no mount point.
pub fn detach(target: &Path) -> Result<(), MountError> {
    rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
        .map_err(|errno| MountError::new("umount2", target.display().to_string(), errno))
}

/// Gives the calling thread a mount namespace of its own, a copy whose mounts are slaves of the
/// old ones: nothing mounted in it is seen outside, and it dies with its last process.
///
/// Call it only from a single-threaded process; the thread's view of `/` and of its working
/// directory moves to the copy.
///
/// # Errors
/// [`MountError`]: `EPERM` without `CAP_SYS_ADMIN`.
pub fn unshare_mounts() -> Result<(), MountError> {
    let flags = rustix::thread::UnshareFlags::NEWNS;
    // SAFETY: only `CLONE_FILES` can break other threads; a mount namespace (with the implied
    // `CLONE_FS`) concerns the calling thread alone.
    unsafe { rustix::thread::unshare_unsafe(flags) }
        .map_err(|errno| MountError::new("unshare", "mount namespace", errno))?;
    let flags = rustix::mount::MountPropagationFlags::DOWNSTREAM
        | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change(c"/", flags)
        .map_err(|errno| MountError::new("mount", "/ as slave", errno))
}

/// Runs `work` inside the mount namespace of the process behind `pidfd`, then comes back to the
/// caller's namespace, root and working directory (about 16 µs for both switches).
///
/// Call it only from a single-threaded process. Absolute paths within `work` start at the root of
/// that namespace, not at a root that its process has changed to.
///
/// # Errors
/// [`MountError`]: `ESRCH` where the process has ended, `EINVAL` from a process with threads.
///
/// # Panics
/// If the way back is refused: the process would go on among foreign mounts.
pub fn within_mounts_of<T>(pidfd: impl AsFd, work: impl FnOnce() -> T) -> Result<T, MountError> {
    use rustix::{
        fs::{Mode, OFlags},
        thread::ThreadNameSpaceType,
    };
    let open = |path: &CStr| {
        rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| MountError::new("open", path.to_string_lossy(), errno))
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let home = rustix::fs::open(c"/proc/thread-self/ns/mnt", flags, Mode::empty())
        .map_err(|errno| MountError::new("open", "/proc/thread-self/ns/mnt", errno))?;
    let (root, cwd) = (open(c"/")?, open(c".")?);
    rustix::thread::move_into_thread_name_spaces(pidfd.as_fd(), ThreadNameSpaceType::MOUNT)
        .map_err(|errno| MountError::new("setns", "mount namespace of a process", errno))?;
    let result = work();
    let back =
        rustix::thread::move_into_thread_name_spaces(home.as_fd(), ThreadNameSpaceType::MOUNT)
            .and_then(|()| rustix::process::fchdir(&root))
            .and_then(|()| rustix::process::chroot(c"."))
            .and_then(|()| rustix::process::fchdir(&cwd));
    back.expect("a process may return to the mount namespace that it came from");
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_carries_the_words_of_the_kernel() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let error = FsContext::open(c"tmpfs").unwrap().string(c"no-such", b"1").unwrap_err();
        assert_eq!(error.errno(), Some(rustix::io::Errno::INVAL));
        assert!(error.to_string().contains("no-such"), "{error}");
        assert!(!error.log.is_empty(), "{error:?}");
    }

    #[test]
    fn long_values_are_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let context = FsContext::open(c"tmpfs").unwrap();
        let error = context.string(c"source", &[b'x'; MAX_OPTION_BYTES + 1]).unwrap_err();
        assert_eq!(error.errno(), Some(rustix::io::Errno::INVAL));
        context.string(c"source", &[b'x'; MAX_OPTION_BYTES]).unwrap();
    }

    #[test]
    fn detached_mounts_need_no_path() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let mount = FsContext::open(c"tmpfs").unwrap().mount(MountAttributes::empty()).unwrap();
        let change =
            AttributeChange { set: Some(MountAttributes::MOUNT_ATTR_RDONLY), ..Default::default() };
        set_attributes(&mount, Extent::Single, change).unwrap();
        let statistics = rustix::fs::fstatvfs(&mount).unwrap();
        assert!(statistics.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    }
}
