//! Runs of changes that one thread turns into finished bytes.

use std::{
    fs::File,
    io::{self, Read},
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
};

use davit_image::{Algorithm, Digest, Digester};

use super::{Change, ChangeKind, Opener, Source, WriteError, WriteOptions, header, window::Window};
use crate::{Extent, ordered::Work, table::printable};

/// A batch is closed when it holds this much.
const BATCH_BYTES: u64 = 512 << 10;
/// What an entry costs beside its content.
pub(super) const ENTRY_BYTES: u64 = 1 << 10;
/// Larger files are streamed by the writing thread.
const LARGE: u64 = 1 << 20;
/// Pieces in which large files are streamed.
const PIECE: usize = 256 << 10;

/// Everything that is to be written.
pub(super) struct Plan<'a> {
    pub(super) changes: &'a [Change],
    pub(super) opener: &'a dyn Opener,
    pub(super) options: &'a WriteOptions,
}

/// One unit of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Changes that become one batch.
    Batch(Range<usize>),
    /// A large file.
    Large(usize),
}

/// Finished bytes.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    /// For each change: its position, and where its content begins in `bytes`.
    pub(super) contents: Vec<(usize, u64)>,
    window: Window,
}

impl Plan<'_> {
    /// Cuts the changes into tasks, in order.
    pub(super) fn tasks(&self) -> Vec<Task> {
        let mut tasks = Vec::new();
        let (mut start, mut bytes) = (0, 0);
        for (position, change) in self.changes.iter().enumerate() {
            let size = match &change.kind {
                ChangeKind::File { size, .. } => *size,
                _ => 0,
            };
            if size > LARGE || bytes > BATCH_BYTES {
                if start < position {
                    tasks.push(Task::Batch(start..position));
                }
                (start, bytes) = (position, 0);
            }
            if size > LARGE {
                tasks.push(Task::Large(position));
                start = position + 1;
            } else {
                bytes += ENTRY_BYTES + size;
            }
        }
        if start < self.changes.len() {
            tasks.push(Task::Batch(start..self.changes.len()));
        }
        tasks
    }

    /// Makes the bytes of a run of changes, in the given buffers.
    pub(super) fn fill(&self, range: Range<usize>, mut batch: Batch) -> Result<Batch, WriteError> {
        batch.bytes.clear();
        batch.contents.clear();
        batch.window.read(&self.changes[range.clone()]);
        for position in range {
            let change = &self.changes[position];
            header::append(&mut batch.bytes, change, self.options);
            batch.contents.push((position, batch.bytes.len() as u64));
            if let ChangeKind::File { size, source } = &change.kind {
                self.append_content((position, *size), source, &mut batch)?;
                let padded = batch.bytes.len() + header::padding(*size);
                batch.bytes.resize(padded, 0);
            }
        }
        Ok(batch)
    }

    fn append_content(
        &self,
        (position, size): (usize, u64),
        source: &Source,
        batch: &mut Batch,
    ) -> Result<(), WriteError> {
        let into = &mut batch.bytes;
        let start = into.len();
        let length = usize::try_from(size).expect("only small files are put into batches");
        match source {
            Source::Bytes(bytes) => {
                into.extend_from_slice(bytes);
                if bytes.len() != length {
                    return Err(self.changed(position));
                }
            }
            Source::Tar { tar, extents } => {
                into.resize(start + length, 0);
                if batch.window.copy(tar, extents, &mut into[start..]) {
                    return Ok(());
                }
                read_extents(tar, extents, 0, &mut into[start..])
                    .map_err(|error| self.content(position, error))?;
            }
            Source::Opened => {
                let mut file = self.open(position, size)?;
                let read = file.take(into, length);
                self.ended(position, &file, read)?;
                if self.opener.learns() {
                    self.opener.learn(position, Digest::of(&into[start..]));
                }
            }
        }
        Ok(())
    }

    /// Passes the content of a large file on, piece by piece.
    pub(super) fn stream_content(
        &self,
        position: usize,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        let ChangeKind::File { size, source } = &self.changes[position].kind else {
            return Ok(());
        };
        match source {
            Source::Bytes(bytes) if bytes.len() as u64 == *size => sink(bytes),
            Source::Bytes(_) => Err(self.changed(position)),
            Source::Tar { tar, extents } => {
                let mut buffer = vec![0; PIECE];
                let mut offset = 0;
                while offset < *size {
                    let piece = piece_of(&mut buffer, *size - offset);
                    piece.fill(0);
                    read_extents(tar, extents, offset, piece)
                        .map_err(|error| self.content(position, error))?;
                    sink(piece)?;
                    offset += piece.len() as u64;
                }
                Ok(())
            }
            Source::Opened => {
                let mut file = self.open(position, *size)?;
                let mut buffer = Vec::with_capacity(PIECE);
                let mut left = *size;
                let mut digester = self.opener.learns().then(|| Digester::new(Algorithm::Sha256));
                while left > 0 {
                    buffer.clear();
                    let length = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
                    let read = file.take(&mut buffer, length);
                    if left == length as u64 || read.is_err() {
                        self.ended(position, &file, read)?;
                    }
                    sink(&buffer)?;
                    if let Some(digester) = &mut digester {
                        digester.update(&buffer);
                    }
                    left -= length as u64;
                }
                if let Some(digester) = digester {
                    self.opener.learn(position, digester.finish());
                }
                Ok(())
            }
        }
    }

    fn open(&self, position: usize, size: u64) -> Result<Watched, WriteError> {
        let opened = self.opener.open(position, &self.changes[position]);
        let watched = opened.and_then(Watched::new);
        let watched = watched.map_err(|error| self.content(position, error))?;
        if watched.before.size == size { Ok(watched) } else { Err(self.changed(position)) }
    }

    /// After the last read: did everything come, and is the file still the same?
    fn ended(
        &self,
        position: usize,
        file: &Watched,
        read: io::Result<()>,
    ) -> Result<(), WriteError> {
        match read.and_then(|()| file.is_unchanged()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.changed(position)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.changed(position))
            }
            Err(error) => Err(self.content(position, error)),
        }
    }

    fn changed(&self, position: usize) -> WriteError {
        WriteError::Changed { path: printable(&self.changes[position].path) }
    }

    fn content(&self, position: usize, source: io::Error) -> WriteError {
        WriteError::Content { path: printable(&self.changes[position].path), source }
    }
}

/// The plan as work for several threads.
pub(super) struct Batches<'a> {
    pub(super) plan: &'a Plan<'a>,
    pub(super) tasks: &'a [Task],
}

impl Work for Batches<'_> {
    type Product = Batch;
    type Error = WriteError;

    fn count(&self) -> usize {
        self.tasks.len()
    }

    fn is_consumers(&self, task: usize) -> bool {
        matches!(self.tasks[task], Task::Large(_))
    }

    fn produce(&self, task: usize, batch: Batch) -> Result<Batch, WriteError> {
        match &self.tasks[task] {
            Task::Batch(range) => self.plan.fill(range.clone(), batch),
            Task::Large(_) => Ok(batch),
        }
    }

    fn panicked(&self) -> WriteError {
        WriteError::Write(io::Error::other("a thread that reads contents panicked"))
    }
}

/// An open file and what it looked like before it was read.
struct Watched {
    file: File,
    before: Stamp,
}

#[derive(PartialEq, Eq)]
struct Stamp {
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Watched {
    fn new(file: File) -> io::Result<Self> {
        let before = Stamp::of(&file)?;
        Ok(Self { file, before })
    }

    /// Appends exactly `length` bytes.
    fn take(&mut self, into: &mut Vec<u8>, length: usize) -> io::Result<()> {
        let start = into.len();
        into.resize(start + length, 0);
        self.file.read_exact(&mut into[start..])
    }

    fn is_unchanged(&self) -> io::Result<bool> {
        Ok(Stamp::of(&self.file)? == self.before)
    }
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            size: metadata.len(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

fn piece_of(buffer: &mut [u8], left: u64) -> &mut [u8] {
    let length = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
    &mut buffer[..length]
}

/// Reads the part of a file that begins at `offset` into `into`, which is zeroed: holes stay so.
pub(crate) fn read_extents(
    tar: &File,
    extents: &[Extent],
    offset: u64,
    into: &mut [u8],
) -> io::Result<()> {
    let end = offset + into.len() as u64;
    let first = extents.partition_point(|extent| extent.file_offset + extent.length <= offset);
    for extent in extents[first..].iter().take_while(|extent| extent.file_offset < end) {
        let from = extent.file_offset.max(offset);
        let to = (extent.file_offset + extent.length).min(end);
        let at = |position: u64| usize::try_from(position - offset).expect("it is in the buffer");
        let part = &mut into[at(from)..at(to)];
        tar.read_exact_at(part, extent.tar_offset + (from - extent.file_offset))?;
    }
    Ok(())
}
