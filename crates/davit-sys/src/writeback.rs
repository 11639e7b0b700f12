//! Writing back early: what will be synced in the end starts its way to the disk at once.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, AsRawFd as _},
};

/// Bytes that are written before the disk is told to begin.
const PIECE: u64 = 8 << 20;

/// Writes a file from its start and lets the disk begin while more is still coming, so that the
/// sync in the end is short.
#[derive(Debug)]
pub struct EarlyWriteback {
    file: File,
    written: u64,
    started: u64,
}

impl EarlyWriteback {
    /// A file that is empty.
    #[must_use]
    pub const fn new(file: File) -> Self {
        Self { file, written: 0, started: 0 }
    }

    /// The file.
    #[must_use]
    pub fn into_file(self) -> File {
        self.file
    }
}

impl Write for EarlyWriteback {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.written += count as u64;
        let pending = self.written - self.started;
        if pending >= PIECE {
            // The sync that follows in the end is what counts.
            let _hint = start(&self.file, self.started, pending);
            self.started = self.written;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Starts writing a range of dirty pages to the disk, without waiting for it and without making
/// anything durable; zero `length` means to the end of the file.
///
/// A later `fdatasync` then finds little left to do. It may block for a moment where the disk's
/// queue is full (sync_file_range(2), Linux 2.6.17).
///
/// # Errors
/// What the kernel says; a file system that does not know the call does no harm.
fn start(file: impl AsFd, offset: u64, length: u64) -> io::Result<()> {
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
        let mut early = EarlyWriteback::new(file.try_clone().unwrap());
        early.write_all(&vec![1; 9 << 20]).unwrap();
        assert_eq!((early.written, early.started), (9 << 20, 9 << 20));
    }
}
