//! Signals as something to poll.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr,
};

/// Signals that arrive at a descriptor instead of interrupting the process (`signalfd(2)`).
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

/// Size of `struct signalfd_siginfo`.
const INFO_BYTES: usize = 128;

impl SignalFd {
    /// Blocks `signals` in the calling thread and delivers them here. Programs started later must
    /// unblock them, as [`crate::process::spawn`] does.
    ///
    /// # Errors
    /// A number that is no signal.
    pub fn new(signals: impl IntoIterator<Item = i32>) -> io::Result<Self> {
        let mut mask = 0_u64;
        for signal in signals {
            let bit = u32::try_from(signal - 1).ok().filter(|bit| *bit < 64);
            mask |= 1 << bit.ok_or(io::ErrorKind::InvalidInput)?;
        }
        let (how, size) = (libc::SIG_BLOCK, size_of::<u64>());
        // SAFETY: the kernel reads 8 bytes of `mask` and writes nothing.
        let blocked = unsafe {
            libc::syscall(
                libc::SYS_rt_sigprocmask,
                how,
                &raw const mask,
                ptr::null_mut::<u64>(),
                size,
            )
        };
        if blocked < 0 {
            return Err(io::Error::last_os_error());
        }
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: the kernel reads 8 bytes of `mask`; -1 asks for a new descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const mask, size, flags) };
        let fd =
            i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: a new descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next signal that has arrived, if any.
    ///
    /// # Errors
    /// The descriptor cannot be read.
    pub fn next(&self) -> io::Result<Option<i32>> {
        let mut info = [0_u8; INFO_BYTES];
        match rustix::io::read(&self.0, &mut info) {
            Ok(_) => Ok(Some(i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Lets the process wait for its children, whoever executed it: where `SIGCHLD` is ignored, which
/// `execve` hands on, the kernel reaps them itself.
pub fn keep_children() {
    // SAFETY: no handler is installed; the default action of the signal is to do nothing.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Whether the process was told to ignore a signal, as by `nohup`.
pub(crate) fn is_ignored(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: nothing is changed; the old action is written into memory of this frame, and is a
    // plain structure, valid when all zero.
    unsafe {
        let asked = libc::sigaction(signal, ptr::null(), action.as_mut_ptr());
        asked == 0 && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_arrives() {
        let signals = SignalFd::new([libc::SIGUSR2]).unwrap();
        assert_eq!(signals.next().unwrap(), None);
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        // SAFETY: plain numbers; the signal is blocked in this thread.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGUSR2) };
        assert_eq!(signals.next().unwrap(), Some(libc::SIGUSR2));
        assert!(SignalFd::new([0]).is_err() && SignalFd::new([65]).is_err());
    }
}
