//! Ctrl-C and its kin, taken by a thread of their own instead of a handler.

use std::io;

use libc::{SIGHUP, SIGINT, SIGTERM};

use crate::signals::is_ignored;

const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Signals that ask a command to stop, blocked in the thread that made it and in those that it
/// starts afterwards; make it before any other thread. `SIGHUP` is not among them where the process
/// was started to outlive its terminal (`nohup`).
///
/// Programs that are executed afterwards inherit the mask unless they reset it.
#[derive(Debug)]
pub struct Interrupts {
    set: libc::sigset_t,
}

impl Interrupts {
    /// Blocks the signals.
    ///
    /// # Errors
    /// What `pthread_sigmask` reports.
    pub fn block() -> io::Result<Self> {
        let set = set();
        // SAFETY: `set` is initialised, and no old mask is asked for.
        let result =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if result == 0 { Ok(Self { set }) } else { Err(io::Error::from_raw_os_error(result)) }
    }

    /// Waits for one of the signals and gives its number. Blocks.
    ///
    /// # Errors
    /// What `sigwait` reports.
    pub fn wait(&self) -> io::Result<i32> {
        let mut signal = 0;
        // SAFETY: both point to initialised memory of this frame and of `self`.
        let result = unsafe { libc::sigwait(&raw const self.set, &raw mut signal) };
        if result == 0 { Ok(signal) } else { Err(io::Error::from_raw_os_error(result)) }
    }

    /// Lets the signals end the calling thread's process again.
    ///
    /// # Errors
    /// What `pthread_sigmask` reports.
    pub fn unblock(&self) -> io::Result<()> {
        // SAFETY: `self.set` is initialised, and no old mask is asked for.
        let result = unsafe {
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const self.set, std::ptr::null_mut())
        };
        if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
    }
}

fn set() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set, and the signals are valid numbers.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in SIGNALS.into_iter().filter(|it| *it != SIGHUP || !is_ignored(SIGHUP)) {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_blocked_signal() {
        std::thread::spawn(|| {
            let interrupts = Interrupts::block().unwrap();
            // SAFETY: a signal to the own thread, which has it blocked.
            let sent = unsafe { libc::pthread_kill(libc::pthread_self(), SIGHUP) };
            assert_eq!(sent, 0);
            assert_eq!(interrupts.wait().unwrap(), SIGHUP);
            interrupts.unblock().unwrap();
        })
        .join()
        .unwrap();
    }
}
