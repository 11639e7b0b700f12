//! Reads files of a context: never through a symlink, and never a mixture of two states.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};
use sha2::{Digest as _, Sha256};

use super::walk::{entry as entry_of, stamp, stamp_of};
use crate::{
    cancel::check,
    files::{FileEntry, FileKind, FileSet},
};

/// How often a file that changes while it is read is tried.
const ATTEMPTS: usize = 3;
/// Files that a thread takes at a time.
const BATCH: usize = 64;
const BUFFER: usize = 256 * 1024;

/// Files that are to be read, and what ends it.
#[derive(Clone, Copy)]
pub(crate) struct Files<'a> {
    pub(crate) root: &'a Root,
    pub(crate) set: &'a FileSet,
    pub(crate) cancelled: &'a AtomicBool,
}

/// Why a file could not be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    Io(io::Error),
    /// It is not what it was when the context was walked.
    Changed,
}

impl From<Errno> for ReadError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => error,
            ReadError::Changed => Self::other("it changed while the build read it"),
        }
    }
}

/// Opens a regular file below `root`; a symlink anywhere on the way is an error.
fn open_any(root: &Root, path: &[u8]) -> Result<File, Errno> {
    let (directory, name) = root.parent(path)?;
    let open = |flags| open_beneath(&directory, name, flags);
    match open(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        // Of a socket, which cannot be opened, nothing is read.
        Err(Errno::NXIO) => open(OFlags::PATH),
        opened => opened,
    }
    .map(File::from)
}

fn open_beneath(directory: &OwnedFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(directory, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Directories that a [`Root`] keeps open; each thread that reads is in one or two at a time.
const KEPT: usize = 16;

/// The root of a context, with the directories that files were opened in last: files come directory
/// by directory, and none is looked for from the root.
#[derive(Debug)]
pub(crate) struct Root {
    directory: Arc<OwnedFd>,
    recent: Mutex<VecDeque<Recent>>,
}

/// The path of a directory below the root, and the directory.
type Recent = (Box<[u8]>, Arc<OwnedFd>);

impl Root {
    pub(crate) fn new(directory: OwnedFd) -> Self {
        Self { directory: Arc::new(directory), recent: Mutex::default() }
    }

    pub(crate) fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// The directory of a path, and the name in it.
    fn parent<'p>(&self, path: &'p [u8]) -> Result<(Arc<OwnedFd>, &'p [u8]), Errno> {
        let Some(slash) = path.iter().rposition(|&byte| byte == b'/') else {
            return Ok((Arc::clone(&self.directory), path));
        };
        let (parent, name) = (&path[..slash], &path[slash + 1..]);
        let lock = || self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().iter().find(|(at, _)| **at == *parent).map(|(_, it)| Arc::clone(it));
        if let Some(known) = known {
            return Ok((known, name));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let opened = Arc::new(open_beneath(&self.directory, parent, flags)?);
        let mut recent = lock();
        recent.truncate(KEPT - 1);
        recent.push_front((parent.into(), Arc::clone(&opened)));
        Ok((opened, name))
    }
}

/// Opens the file of an entry and checks that it is in the state that was walked.
pub(crate) fn open(root: &Root, entry: &FileEntry) -> Result<File, ReadError> {
    let file = open_any(root, &entry.path).map_err(gone_is_changed)?;
    if is_same(&file, entry)? { Ok(file) } else { Err(ReadError::Changed) }
}

/// Reads an opened file of the context, exactly as long as the walk found it, into `sink`, piece
/// by piece; checks at the end that it did not change meanwhile.
pub(crate) fn read_file<E: From<ReadError>>(
    mut file: &File,
    entry: &FileEntry,
    buffer: &mut [u8],
    mut sink: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut left = entry.size;
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        match file.read(&mut buffer[..wanted]) {
            Ok(0) => return Err(ReadError::Changed.into()),
            Ok(length) => {
                sink(&buffer[..length])?;
                left -= length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ReadError::Io(error).into()),
        }
    }
    if is_same(file, entry)? { Ok(()) } else { Err(ReadError::Changed.into()) }
}

fn gone_is_changed(errno: Errno) -> ReadError {
    match errno {
        Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::XDEV => ReadError::Changed,
        other => other.into(),
    }
}

fn is_same(file: &File, entry: &FileEntry) -> Result<bool, ReadError> {
    Ok(stamp(&rustix::fs::fstat(file)?) == stamp_of(entry))
}

/// Reads the files at `indices` of the set; gives them back with digest and capability, and with
/// newer metadata where they changed since the walk.
pub(crate) fn digest_all(
    files: Files<'_>,
    indices: &[usize],
    threads: usize,
) -> Result<Vec<(usize, FileEntry)>, (usize, ReadError)> {
    in_parallel(indices, threads, |index, buffer| {
        digest_one(files, index, buffer).map(|entry| (index, entry))
    })
}

/// Calls `work` for each index, several at a time; the first error ends all.
fn in_parallel<T: Send>(
    indices: &[usize],
    threads: usize,
    work: impl Fn(usize, &mut [u8]) -> Result<T, ReadError> + Sync,
) -> Result<Vec<T>, (usize, ReadError)> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let run = || {
        let mut buffer = vec![0; BUFFER];
        let mut done = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let start = next.fetch_add(BATCH, Ordering::Relaxed);
            let Some(batch) = indices.get(start..).filter(|batch| !batch.is_empty()) else { break };
            for &index in batch.iter().take(BATCH) {
                match work(index, &mut buffer) {
                    Ok(result) => done.push(result),
                    Err(error) => {
                        failed.store(true, Ordering::Relaxed);
                        return Err((index, error));
                    }
                }
            }
        }
        Ok(done)
    };
    let threads = threads.clamp(1, indices.len().div_ceil(BATCH).max(1));
    let parts: Vec<Result<Vec<T>, _>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        workers.into_iter().map(|worker| worker.join().expect("a reader does not panic")).collect()
    });
    let mut all = Vec::with_capacity(indices.len());
    for part in parts {
        all.extend(part?);
    }
    Ok(all)
}

fn digest_one(files: Files<'_>, index: usize, buffer: &mut [u8]) -> Result<FileEntry, ReadError> {
    let mut entry = files.set.entries[index].clone();
    for _ in 0..ATTEMPTS {
        let file = open_any(files.root, &entry.path).map_err(gone_is_changed)?;
        let now = entry_of(entry.path.to_vec(), &rustix::fs::fstat(&file)?);
        let Some(now) = now.filter(|now| now.kind == FileKind::Regular) else { break };
        entry = now;
        let mut digester = Sha256::new();
        let sink = |piece: &[u8]| -> Result<(), ReadError> {
            digester.update(piece);
            check(files.cancelled).map_err(ReadError::Io)
        };
        match read_file(&file, &entry, buffer, sink) {
            Ok(()) => {
                entry.digest = Some(digester.finalize().into());
                entry.capability = capability(&file)?;
                return Ok(entry);
            }
            Err(ReadError::Changed) => {}
            Err(error) => return Err(error),
        }
    }
    Err(ReadError::Changed)
}

/// The value of `security.capability`, if the file has one.
pub(super) fn capability(file: &File) -> Result<Option<Box<[u8]>>, ReadError> {
    let mut value = [0; 64];
    match rustix::fs::fgetxattr(file, c"security.capability", &mut value[..]) {
        Ok(length) => Ok(Some(value[..length].into())),
        Err(Errno::BADF | Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => {
            Ok(None)
        }
        Err(errno) => Err(errno.into()),
    }
}
