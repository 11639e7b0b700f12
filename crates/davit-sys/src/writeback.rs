//! Writing back early: what will be synced in the end starts its way to the disk at once.

use std::{io, os::fd::AsFd, os::fd::AsRawFd as _};

/// Starts writing a range of dirty pages to the disk, without waiting for it and without making
/// anything durable; zero `length` means to the end of the file.
///
/// A later `fdatasync` then finds little left to do. It may block for a moment where the disk's
/// queue is full (sync_file_range(2), Linux 2.6.17).
///
/// # Errors
/// What the kernel says; a file system that does not know the call does no harm.
pub fn start(file: impl AsFd, offset: u64, length: u64) -> io::Result<()> {
    let position = |value: u64| {
        libc::off64_t::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
    };
    let (offset, length) = (position(offset)?, position(length)?);
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed, hence open, for the whole call, and the call reads or
    // writes no memory of this process.
    let result = unsafe { libc::sync_file_range(fd, offset, length, libc::SYNC_FILE_RANGE_WRITE) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn starts_on_files_and_refuses_pipes() {
        let mut file = std::fs::File::from(
            rustix::fs::memfd_create("writeback", rustix::fs::MemfdFlags::CLOEXEC).unwrap(),
        );
        file.write_all(&[0; 8192]).unwrap();
        start(&file, 0, 4096).unwrap();
        start(&file, 4096, 0).unwrap();
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        assert_eq!(start(&pipe, 0, 0).unwrap_err().raw_os_error(), Some(libc::ESPIPE));
        assert!(start(&file, u64::MAX, 0).is_err());
    }
}
