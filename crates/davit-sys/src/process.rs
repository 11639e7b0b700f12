//! New processes: `clone3(2)` with a closure as the child, `execve(2)`, signals, namespaces.
//!
//! A closure that runs in a cloned child sees a copy of the parent's memory of which locks may be
//! held by threads that do not exist there. It must not allocate, lock, log or panic: prepare
//! [`CStringArray`]s and descriptors before, and only make system calls after. Should it panic
//! nevertheless, the child ends with status 70 instead of returning into the parent's code.

mod namespace;
mod spawn;

use std::{
    ffi::{CStr, CString, NulError, c_char},
    mem,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    ptr,
};

use rustix::io::Errno;

pub use namespace::{new_network_namespace, unshare_cgroup_namespace};
pub use spawn::{Handover, Session, Spawn, Spawned, spawn};

/// `linux/sched.h`; the constant of `libc` has the wrong type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Namespaces that a child gets of its own (`clone(2)` `CLONE_NEW*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewNamespaces(u64);

impl NewNamespaces {
    /// Mounts.
    pub const MOUNT: Self = Self(libc::CLONE_NEWNS as u64);
    /// Processes.
    pub const PID: Self = Self(libc::CLONE_NEWPID as u64);
    /// Network.
    pub const NETWORK: Self = Self(libc::CLONE_NEWNET as u64);
    /// System V IPC and message queues.
    pub const IPC: Self = Self(libc::CLONE_NEWIPC as u64);
    /// Host name.
    pub const UTS: Self = Self(libc::CLONE_NEWUTS as u64);
    /// Users and groups; it owns those that are made with it.
    pub const USER: Self = Self(libc::CLONE_NEWUSER as u64);

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// How to clone.
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneOptions<'a> {
    /// New namespaces.
    pub namespaces: NewNamespaces,
    /// The cgroup (a directory of cgroup v2) in which the child is born (Linux 5.7); entering it
    /// later would wait for a grace period of 10 ms.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// A cloned child.
#[derive(Debug)]
pub struct Cloned {
    /// Number in the caller's PID namespace.
    pub pid: i32,
    /// Descriptor, close-on-exec.
    pub pidfd: OwnedFd,
}

/// Ends the child should its closure unwind.
struct EndOnUnwind;

impl Drop for EndOnUnwind {
    fn drop(&mut self) {
        exit_now(70);
    }
}

/// Clones the calling thread; `child` runs in the new process, which then ends with the code that
/// it returns. See the module's text for what `child` may do.
///
/// # Errors
/// The kernel's: `EPERM`, `EAGAIN` (limit of processes), `EBUSY` (the cgroup has children and
/// controllers), `ENOMEM` (the PID namespace has no process 1 any more).
pub fn clone(options: CloneOptions<'_>, child: impl FnOnce() -> u8) -> Result<Cloned, Errno> {
    let mut pidfd: RawFd = -1;
    let mut flags = options.namespaces.0 | libc::CLONE_PIDFD as u64;
    let mut cgroup = 0;
    if let Some(directory) = options.cgroup {
        flags |= CLONE_INTO_CGROUP;
        cgroup = u64::from(directory.as_raw_fd().unsigned_abs());
    }
    let arguments = libc::clone_args {
        flags,
        pidfd: (&raw mut pidfd).addr() as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD.unsigned_abs().into(),
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup,
    };
    // SAFETY: without CLONE_VM the child has a copy of all memory and goes on upon its copy of this
    // stack; the kernel reads `arguments` and writes `pidfd`, both alive. The child runs `child`
    // and ends; it never returns from this function.
    let result = unsafe {
        libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>())
    };
    match result {
        0 => {
            let guard = EndOnUnwind;
            let code = child();
            mem::forget(guard);
            exit_now(code)
        }
        -1 => Err(last_errno()),
        pid => {
            // SAFETY: the kernel has put a descriptor there that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned { pid: i32::try_from(pid).expect("process numbers are 22 bits"), pidfd })
        }
    }
}

/// Ends the process without running anything of the parent's.
fn exit_now(code: u8) -> ! {
    loop {
        // SAFETY: plain number.
        unsafe { libc::syscall(libc::SYS_exit_group, libc::c_int::from(code)) };
    }
}

fn last_errno() -> Errno {
    // SAFETY: the pointer that it returns is valid for the calling thread.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}

/// Strings in the form that `execve(2)` takes, made before a clone.
pub struct CStringArray {
    strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

// SAFETY: the pointers go into the heap memory of `strings`, which is never changed.
unsafe impl Send for CStringArray {}
// SAFETY: as above; there is no interior mutability.
unsafe impl Sync for CStringArray {}

impl std::fmt::Debug for CStringArray {
    /// Environments hold secrets: only the number is shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CStringArray({} strings)", self.strings.len())
    }
}

impl CStringArray {
    /// Copies the strings.
    ///
    /// # Errors
    /// One of them holds a NUL.
    pub fn new<S: AsRef<[u8]>>(strings: impl IntoIterator<Item = S>) -> Result<Self, NulError> {
        let strings = strings
            .into_iter()
            .map(|string| CString::new(string.as_ref()))
            .collect::<Result<Vec<_>, _>>()?;
        let pointers = strings
            .iter()
            .map(|string| string.as_ptr())
            .chain(std::iter::once(ptr::null()))
            .collect();
        Ok(Self { strings, pointers })
    }

    /// Number of strings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.strings.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.strings.is_empty()
    }
}

/// Executes the program at `path`; returns only on failure.
#[must_use]
pub fn execve(path: &CStr, arguments: &CStringArray, environment: &CStringArray) -> Errno {
    // SAFETY: both arrays end with a null pointer, and what they point to is alive.
    unsafe {
        libc::syscall(
            libc::SYS_execve,
            path.as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
        );
    }
    last_errno()
}

/// Executes the program behind the descriptor; returns only on failure.
#[must_use]
pub fn fexecve(file: impl AsFd, arguments: &CStringArray, environment: &CStringArray) -> Errno {
    // SAFETY: both arrays end with a null pointer, and what they point to is alive.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_fd().as_raw_fd(),
            c"".as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    last_errno()
}

/// Gives every signal its default action and unblocks all, as a fresh process has it; Rust's
/// runtime ignores `SIGPIPE`, which `execve` would hand on.
pub fn reset_signals() {
    for signal in 1..=64 {
        // The kernel's structure, all zero: default action, no flags, empty mask.
        let default = [0_u64; 4];
        // SAFETY: the kernel reads 32 bytes (handler, flags, restorer, mask of 8 bytes) and
        // refuses SIGKILL and SIGSTOP, which is right.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null::<u64>(),
                size_of::<u64>(),
            );
        }
    }
    set_signal_mask(0);
}

/// Blocks all signals that can be blocked.
pub fn block_signals() {
    set_signal_mask(u64::MAX);
}

fn set_signal_mask(mask: u64) {
    // SAFETY: the kernel reads 8 bytes of `mask`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            ptr::null::<u64>(),
            size_of::<u64>(),
        )
    };
    debug_assert_eq!(result, 0);
}

/// Waits for any blocked signal and takes it.
///
/// # Errors
/// `EINTR`.
pub fn take_signal() -> Result<i32, Errno> {
    let all = u64::MAX;
    // SAFETY: the kernel reads 8 bytes of `all`; no information about the signal is asked for.
    let signal = unsafe {
        libc::syscall(
            libc::SYS_rt_sigtimedwait,
            &raw const all,
            ptr::null::<u64>(),
            ptr::null::<u64>(),
            size_of::<u64>(),
        )
    };
    if signal < 0 { Err(last_errno()) } else { Ok(i32::try_from(signal).unwrap_or(0)) }
}

/// Sends a signal by number; unlike `rustix` also a real-time signal.
///
/// # Errors
/// `ESRCH` if the process has ended, `EINVAL` for no signal.
pub fn kill(pid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_kill, pid, signal) })
}

/// Sends a signal to the process behind the descriptor.
///
/// # Errors
/// `ESRCH` if the process has ended, `EINVAL` for no signal.
pub fn pidfd_signal(pidfd: impl AsFd, signal: i32) -> Result<(), Errno> {
    // SAFETY: plain numbers and a null pointer, which stands for default information.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            ptr::null::<u8>(),
            0,
        )
    })
}

fn check(result: libc::c_long) -> Result<(), Errno> {
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Gives the calling process a session keyring of its own, so that it cannot reach its caller's.
///
/// # Errors
/// `EDQUOT`; a kernel without keyrings is no error.
pub fn join_session_keyring(name: &CStr) -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: the name is NUL-terminated and alive.
    let result =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    match check(result) {
        Err(Errno::NOSYS) => Ok(()),
        other => other,
    }
}

/// Writes the working directory into `buffer` and returns its length without the final NUL.
///
/// A directory outside the process's root reads as `(unreachable)…`.
///
/// # Errors
/// `ENOENT` if it was removed, `ERANGE`.
pub fn working_directory(buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes.
    let length = unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) };
    check(length)?;
    Ok(usize::try_from(length).unwrap_or(0).saturating_sub(1))
}

/// Sets close-on-exec on every descriptor from `first` on (Linux 5.11).
///
/// # Errors
/// `EINVAL` or `ENOSYS` on older kernels.
pub fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: no descriptor is closed here, only flags are set.
    check(unsafe {
        libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
    })
}

/// Forks a cloned child once more and closes all but the standard streams in the caller, which
/// from then on only waits for processes: it must not use, or drop, any other descriptor.
///
/// It is the old `clone(2)`, which a system call filter can see through and therefore permits.
///
/// # Errors
/// The kernel's: `EAGAIN` (limit of processes).
pub fn fork_and_let_go(child: impl FnOnce() -> u8) -> Result<i32, Errno> {
    // SAFETY: without CLONE_VM the child has a copy of all memory and goes on upon its copy of this
    // stack; it runs `child`, ends, and never returns from this function.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    if pid == 0 {
        let guard = EndOnUnwind;
        let code = child();
        mem::forget(guard);
        exit_now(code);
    }
    check(pid)?;
    // SAFETY: the caller promises not to use a descriptor again.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) })?;
    Ok(i32::try_from(pid).unwrap_or(0))
}

/// A namespace of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceKind {
    /// Mounts.
    Mount,
    /// Network.
    Network,
    /// Processes.
    Pid,
    /// System V IPC and message queues.
    Ipc,
    /// Host name.
    Uts,
    /// Cgroup root.
    Cgroup,
    /// Users.
    User,
}

impl NamespaceKind {
    /// The name below `/proc/PID/ns`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mount => "mnt",
            Self::Network => "net",
            Self::Pid => "pid",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Cgroup => "cgroup",
            Self::User => "user",
        }
    }

    /// Number of the request `PIDFD_GET_*_NAMESPACE` (`linux/pidfd.h`).
    const fn request(self) -> u32 {
        match self {
            Self::Cgroup => 1,
            Self::Ipc => 2,
            Self::Mount => 3,
            Self::Network => 4,
            Self::Pid => 5,
            Self::User => 9,
            Self::Uts => 10,
        }
    }
}

/// Opens a namespace of the process behind `pidfd`, by `ioctl` (Linux 6.11).
///
/// # Errors
/// `ENOTTY` on older kernels (open `/proc/PID/ns/…` there), `ESRCH` if the process has ended.
pub fn pidfd_namespace(pidfd: impl AsFd, kind: NamespaceKind) -> Result<OwnedFd, Errno> {
    const PIDFS_IOCTL_MAGIC: u32 = 0xff;
    let request = (PIDFS_IOCTL_MAGIC << 8) | kind.request();
    // SAFETY: the request takes no argument and returns a new descriptor.
    let fd = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), request.into(), 0) };
    if fd < 0 {
        return Err(last_errno());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Closes a descriptor that a cloned child has a copy of and no use for. For cloned children only:
/// the parent's value must not be used, or dropped, there.
pub fn close_copy(descriptor: BorrowedFd<'_>) {
    // SAFETY: a plain number; in this process nobody uses it again.
    unsafe { libc::syscall(libc::SYS_close, descriptor.as_raw_fd()) };
}

/// Makes `number` refer to what `descriptor` refers to, without close-on-exec. For cloned children
/// only: whatever was open as `number` is closed.
///
/// # Errors
/// `EBADF`, `EMFILE`.
pub fn duplicate_to(descriptor: BorrowedFd<'_>, number: RawFd) -> Result<(), Errno> {
    if descriptor.as_raw_fd() == number {
        return rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty());
    }
    // SAFETY: both are plain numbers; the one overwritten belongs to a child that only makes
    // system calls until it executes.
    check(unsafe { libc::syscall(libc::SYS_dup3, descriptor.as_raw_fd(), number, 0) })
}

#[cfg(test)]
mod tests {
    use rustix::process::{WaitId, WaitIdOptions, waitid};

    use super::*;

    fn exit_code(cloned: &Cloned) -> Option<i32> {
        let status = waitid(WaitId::PidFd(cloned.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
        status.unwrap().exit_status()
    }

    #[test]
    fn child_runs_the_closure() {
        let cloned = clone(CloneOptions::default(), || 42).unwrap();
        assert_eq!(exit_code(&cloned), Some(42));
    }

    #[test]
    fn execve_reports_failure() {
        let none = CStringArray::new::<&str>([]).unwrap();
        let arguments = CStringArray::new(["x"]).unwrap();
        assert_eq!(execve(c"/nowhere/at/all", &arguments, &none), Errno::NOENT);
    }
}
