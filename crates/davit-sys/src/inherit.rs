//! Descriptors that a parent left for its child under fixed numbers.

use std::{
    io,
    os::fd::{BorrowedFd, FromRawFd as _, OwnedFd},
};

use rustix::io::{FdFlags, fcntl_setfd};

/// Takes ownership of the descriptor `number` and keeps it from programs executed later.
///
/// Call it once for each number, at the start of a process whose parent opened them for it.
///
/// # Errors
/// There is no such descriptor.
pub fn take(number: i32) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: only borrowed for the question whether it is open; the kernel answers EBADF if not.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    // SAFETY: it is open, was opened by the parent, and nothing in this process owns it yet: the
    // caller promises to take each number once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
