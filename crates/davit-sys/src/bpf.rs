//! Loading and attaching the device filter of a cgroup (`bpf(2)`, `BPF_PROG_TYPE_CGROUP_DEVICE`).

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// `union bpf_attr` for `BPF_PROG_LOAD`, up to the fields of Linux 4.15.
#[repr(C)]
#[derive(Default)]
struct Load {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

/// `union bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
}

/// `union bpf_attr` for `BPF_PROG_QUERY`.
#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    identifiers: u64,
    count: u32,
}

/// Calls `bpf(2)` with one of the structures above.
fn bpf<T>(command: libc::c_int, attribute: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attribute` is a live structure of plain numbers; its size is passed, and the
    // addresses in it are of slices that outlive the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attribute), size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn number(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().unsigned_abs()
}

/// Loads a device filter: instructions of eBPF, 8 bytes each.
///
/// # Errors
/// `EPERM` without `CAP_BPF`, `EINVAL` or `EACCES` from the verifier, `ENOSYS` without BPF.
pub fn load_device_filter(instructions: &[u64]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut attribute = Load {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(instructions.len())
            .map_err(|_| io::ErrorKind::InvalidInput)?,
        instructions: instructions.as_ptr().addr() as u64,
        license: license.as_ptr().addr() as u64,
        ..Load::default()
    };
    // The verifier gives up with EAGAIN when a signal is pending.
    let mut attempts = 0;
    let fd = loop {
        match bpf(BPF_PROG_LOAD, &mut attribute) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && attempts < 100 => {
                attempts += 1;
            }
            result => break result?,
        }
    };
    let fd = i32::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: a new descriptor that nobody else owns; the kernel makes it close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a loaded device filter to a cgroup, besides those that are there; every one of them
/// must allow an access.
///
/// # Errors
/// `EPERM`, also where a cgroup above refuses further filters.
pub fn attach_device_filter(cgroup: &impl AsFd, program: &impl AsFd) -> io::Result<()> {
    let mut attribute = Attach {
        target: number(cgroup),
        program: number(program),
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
        ..Attach::default()
    };
    bpf(BPF_PROG_ATTACH, &mut attribute).map(drop)
}

/// Number of device filters attached to the cgroup itself.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN` or `CAP_BPF`.
pub fn device_filter_count(cgroup: &impl AsFd) -> io::Result<u32> {
    let mut attribute =
        Query { target: number(cgroup), kind: BPF_CGROUP_DEVICE, ..Query::default() };
    bpf(BPF_PROG_QUERY, &mut attribute)?;
    Ok(attribute.count)
}
