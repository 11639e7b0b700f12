//! Writing back early: what will be synced in the end starts its way to the disk at once.

use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd as _},
        unix::fs::FileExt as _,
    },
    time::{Duration, Instant},
};

use crate::bulk::BulkAppender;

/// Bytes that are written before the disk is told to begin.
const PIECE: u64 = 8 << 20;
/// Time for a piece, 4 µs a page, from which on memory is dearer than the disk: a virtual machine
/// whose host takes free memory back waits for the host at each page that is new to it (measured:
/// 10 µs a page, against 2.5 past the cache). Elsewhere a piece takes a quarter of this; a disk
/// that cannot follow shows in the same way, and is not helped by the cache either.
const DEAR: Duration = Duration::from_millis(8);

/// Writes a file from its start and lets the disk begin while more is still coming, so that the
/// sync in the end is short. What it wrote stays in the page cache for the steps that read it; but
/// where memory is dear, what follows the first piece goes past it.
#[derive(Debug)]
pub struct EarlyWriteback {
    file: File,
    written: u64,
    started: u64,
    /// Time spent on what is written but not started.
    spent: Duration,
    /// Once memory turned out to be dear.
    past_cache: Option<BulkAppender>,
}

impl EarlyWriteback {
    /// A file that is empty.
    #[must_use]
    pub const fn new(file: File) -> Self {
        Self { file, written: 0, started: 0, spent: Duration::ZERO, past_cache: None }
    }

    /// The file; flushed before.
    #[must_use]
    pub fn into_file(self) -> File {
        self.file
    }
}

impl Write for EarlyWriteback {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(appender) = &mut self.past_cache {
            appender.append(&self.file, bytes)?;
            return Ok(bytes.len());
        }
        let start = Instant::now();
        let count = self.file.write_at(bytes, self.written)?;
        self.spent += start.elapsed();
        self.written += count as u64;
        let pending = self.written - self.started;
        if pending >= PIECE {
            // The sync that follows in the end is what counts.
            let _hint = begin(&self.file, self.started, pending);
            self.started = self.written;
            if std::mem::take(&mut self.spent) > DEAR {
                self.past_cache = Some(BulkAppender::new(self.written));
            }
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.past_cache.as_mut().map_or(Ok(()), |appender| appender.flush(&self.file))
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
fn begin(file: impl AsFd, offset: u64, length: u64) -> io::Result<()> {
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
    fn begins_on_files_and_refuses_pipes() {
        let mut file = std::fs::File::from(
            rustix::fs::memfd_create("writeback", rustix::fs::MemfdFlags::CLOEXEC).unwrap(),
        );
        file.write_all(&[0; 8192]).unwrap();
        begin(&file, 0, 4096).unwrap();
        begin(&file, 4096, 0).unwrap();
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        assert_eq!(begin(&pipe, 0, 0).unwrap_err().raw_os_error(), Some(libc::ESPIPE));
        assert!(begin(&file, u64::MAX, 0).is_err());
        let mut early = EarlyWriteback::new(file.try_clone().unwrap());
        early.write_all(&vec![1; 9 << 20]).unwrap();
        assert_eq!((early.written, early.started), (9 << 20, 9 << 20));
        early.past_cache = Some(BulkAppender::new(9 << 20));
        early.write_all(&[2; 5]).unwrap();
        early.flush().unwrap();
        let mut end = [0; 6];
        file.read_exact_at(&mut end, (9 << 20) - 1).unwrap();
        assert_eq!(end, [1, 2, 2, 2, 2, 2]);
    }
}
