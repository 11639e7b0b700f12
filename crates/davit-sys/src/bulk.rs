//! Appending past the page cache: what is written once and not read soon.
//!
//! A pull of some hundred MB would push the pages of running programs out of memory, and each fresh
//! page costs more than the disk's own time. So large files are written with `O_DIRECT` (open(2)),
//! the first [`PLAIN`] bytes, unless these too are not read soon, and the odd end as usual; where the
//! file system refuses it, all.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::{fs::OFlags, io::Errno};

/// Files up to this size are written as usual; programs that are small start from memory.
const PLAIN: u64 = 4 << 20;
/// What is written at a time.
const CHUNK: usize = 512 << 10;
/// Buffers of that size that are kept.
const KEPT: usize = 4;
/// Suits every logical block size of disks.
const ALIGNMENT: usize = 4096;

/// Appends to one file; give it the same one in every call.
#[derive(Debug)]
pub struct BulkAppender {
    /// Bytes of the file, without those that wait.
    written: u64,
    /// Empty until needed; then with room to align a chunk in it.
    buffer: Vec<u8>,
    waiting: usize,
    /// Bytes at the file's start that are written as usual.
    plain: u64,
    mode: Mode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Plain,
    Direct,
    /// The file system does not know it.
    Refused,
}

impl BulkAppender {
    /// Appends to a file of `written` bytes.
    #[must_use]
    pub const fn new(written: u64) -> Self {
        Self::with_plain(written, PLAIN)
    }

    /// Appends past the cache from the first byte on.
    #[must_use]
    pub const fn from_start(written: u64) -> Self {
        Self::with_plain(written, 0)
    }

    const fn with_plain(written: u64, plain: u64) -> Self {
        Self { written, buffer: Vec::new(), waiting: 0, plain, mode: Mode::Plain }
    }

    /// Appends bytes; some wait until [`Self::flush`].
    ///
    /// # Errors
    /// What writing reports.
    pub fn append(&mut self, file: &File, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = match self.mode {
                Mode::Direct => self.collect(file, bytes)?,
                Mode::Plain => match self.before_direct() {
                    0 => {
                        self.begin(file);
                        0
                    }
                    length => self.write(file, &bytes[..length.min(bytes.len())])?,
                },
                Mode::Refused => self.write(file, bytes)?,
            };
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// What writing reports.
    pub fn flush(&mut self, file: &File) -> io::Result<()> {
        if self.mode != Mode::Direct {
            return Ok(());
        }
        set_direct(file, Direct::Off)?;
        self.mode = Mode::Plain;
        let waiting = std::mem::take(&mut self.waiting);
        let start = self.start();
        file.write_all_at(&self.buffer[start..][..waiting], self.written)?;
        self.written += waiting as u64;
        Ok(())
    }

    /// Bytes to write as usual before direct writing may begin.
    fn before_direct(&self) -> usize {
        let odd = self.written % ALIGNMENT as u64;
        let left = match self.plain.checked_sub(self.written) {
            Some(left) if left > 0 => left,
            _ if odd > 0 => ALIGNMENT as u64 - odd,
            _ => 0,
        };
        usize::try_from(left).expect("it is a few MiB")
    }

    fn begin(&mut self, file: &File) {
        if set_direct(file, Direct::On).is_err() {
            self.mode = Mode::Refused;
            return;
        }
        self.mode = Mode::Direct;
        if self.buffer.is_empty() {
            let used = spare().pop();
            self.buffer = used.unwrap_or_else(|| vec![0; CHUNK + ALIGNMENT]);
        }
    }

    /// Where the aligned chunk begins in the buffer.
    fn start(&self) -> usize {
        self.buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT)
    }

    fn collect(&mut self, file: &File, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(CHUNK - self.waiting);
        let start = self.start();
        self.buffer[start + self.waiting..][..length].copy_from_slice(&bytes[..length]);
        self.waiting += length;
        if self.waiting == CHUNK {
            self.write_chunk(file, start)?;
        }
        Ok(length)
    }

    fn write_chunk(&mut self, file: &File, start: usize) -> io::Result<()> {
        let chunk = &self.buffer[start..][..CHUNK];
        match file.write_all_at(chunk, self.written) {
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                set_direct(file, Direct::Off)?;
                self.mode = Mode::Refused;
                file.write_all_at(chunk, self.written)?;
            }
            result => result?,
        }
        self.written += CHUNK as u64;
        self.waiting = 0;
        Ok(())
    }

    fn write(&mut self, file: &File, bytes: &[u8]) -> io::Result<usize> {
        file.write_all_at(bytes, self.written)?;
        self.written += bytes.len() as u64;
        Ok(bytes.len())
    }
}

impl Drop for BulkAppender {
    fn drop(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let mut spare = spare();
        if spare.len() < KEPT {
            spare.push(std::mem::take(&mut self.buffer));
        }
    }
}

/// Buffers to use again: a fresh one costs a page fault for each 4 KiB.
fn spare() -> MutexGuard<'static, Vec<Vec<u8>>> {
    static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Copy)]
enum Direct {
    On,
    Off,
}

fn set_direct(file: &File, direct: Direct) -> Result<(), Errno> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    let flags = match direct {
        Direct::On => flags | OFlags::DIRECT,
        Direct::Off => flags - OFlags::DIRECT,
    };
    rustix::fs::fcntl_setfl(file, flags)
}

/// A new file that is written from its start, past the page cache.
#[derive(Debug)]
pub struct BulkFile {
    file: File,
    appender: BulkAppender,
}

impl BulkFile {
    /// Writes to an empty file.
    #[must_use]
    pub const fn new(file: File) -> Self {
        Self { file, appender: BulkAppender::new(0) }
    }
}

impl io::Write for BulkFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.appender.append(&self.file, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.appender.flush(&self.file)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// A file on disk without a name.
    fn temporary() -> File {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        rustix::fs::open(std::env::temp_dir(), flags, rustix::fs::Mode::RUSR).unwrap().into()
    }

    #[test]
    fn everything_arrives_in_order() {
        let all: Vec<u8> = (0..(7 << 20) + 1234_u32).map(|i| (i % 251) as u8).collect();
        for piece in [1 << 20, 4095, 600_000, 7 << 20] {
            let file = temporary();
            let mut appender = BulkAppender::new(0);
            for (number, bytes) in all.chunks(piece).enumerate() {
                appender.append(&file, bytes).unwrap();
                // An interrupted download is flushed at any point and goes on.
                if number % 5 == 4 {
                    appender.flush(&file).unwrap();
                }
            }
            appender.flush(&file).unwrap();
            let mut written = Vec::new();
            (&file).read_to_end(&mut written).unwrap();
            assert!(written == all, "pieces of {piece}");
        }
    }

    #[test]
    fn goes_on_behind_what_is_there() {
        let file = temporary();
        file.write_all_at(&vec![1; (5 << 20) + 7], 0).unwrap();
        let mut appender = BulkAppender::new((5 << 20) + 7);
        appender.append(&file, &vec![2; 3 << 20]).unwrap();
        appender.flush(&file).unwrap();
        let mut written = Vec::new();
        (&file).read_to_end(&mut written).unwrap();
        assert_eq!(written.len(), (8 << 20) + 7);
        assert!(written[(5 << 20) + 7..].iter().all(|byte| *byte == 2));
    }

    #[test]
    fn memory_files_are_written_too() {
        let name = "bulk";
        let file = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(file);
        let mut appender = BulkAppender::new(0);
        appender.append(&file, &vec![3; 6 << 20]).unwrap();
        appender.flush(&file).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 6 << 20);
    }
}
