//! Loading a system call filter.

use rustix::io::Errno;

/// One instruction of classic BPF (`linux/filter.h` `sock_filter`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip if the comparison holds.
    pub jump_true: u8,
    /// Instructions to skip if it does not.
    pub jump_false: u8,
    /// Operand.
    pub operand: u32,
}

/// Longest program that the kernel takes.
pub const MAX_INSTRUCTIONS: usize = 4096;

/// Filters all further system calls of the calling thread and its children. Allocates nothing.
///
/// `flags` are `SECCOMP_FILTER_FLAG_*`.
///
/// # Errors
/// `EACCES` with neither `CAP_SYS_ADMIN` nor `no_new_privs`, `EINVAL` for a program that the kernel
/// refuses.
pub fn load(program: &[Instruction], flags: u32) -> Result<(), Errno> {
    #[repr(C)]
    struct Program {
        length: u16,
        instructions: *const Instruction,
    }
    const SECCOMP_SET_MODE_FILTER: u32 = 1;
    let Ok(length) = u16::try_from(program.len()) else { return Err(Errno::INVAL) };
    let program = Program { length, instructions: program.as_ptr() };
    // SAFETY: the kernel copies `length` instructions from the slice, which is alive.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    if result == 0 {
        return Ok(());
    }
    // SAFETY: the pointer that it returns is valid for the calling thread.
    Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() }))
}
