//! The monitor's socket, for the monitor and for its clients.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
        listen as listen_on, socket_with,
    },
};

const NAME: &str = "sock";
const BACKLOG: i32 = 16;

/// The socket's address through its directory's descriptor, since a path may be longer than the
/// 108 bytes of an address.
fn address(directory: &OwnedFd) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd()))?)
}

fn open_directory(directory: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, directory, flags, Mode::empty())?)
}

fn socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags | SocketFlags::CLOEXEC, None)?)
}

/// Listens in a container's run directory, whose lock the caller holds.
pub(crate) fn listen(directory: &Path) -> io::Result<OwnedFd> {
    let directory = open_directory(directory)?;
    // A dead monitor's.
    match rustix::fs::unlinkat(&directory, NAME, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let listener = socket(SocketFlags::NONBLOCK)?;
    bind(&listener, &address(&directory)?)?;
    listen_on(&listener, BACKLOG)?;
    Ok(listener)
}

/// Takes the next connection, if there is one.
pub(crate) fn accept(listener: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    match accept_with(listener.as_fd(), SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
        Ok(socket) => Ok(Some(socket)),
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Connects to the monitor of the container with this run directory.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when there is none.
pub fn dial(directory: &Path) -> io::Result<OwnedFd> {
    let directory = open_directory(directory)?;
    let connection = socket(SocketFlags::empty())?;
    connect(&connection, &address(&directory)?)?;
    Ok(connection)
}
