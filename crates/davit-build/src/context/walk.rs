//! The parallel walk of a context: one `stat` per file, nothing read but directories.
//!
//! Threads take directories from a shared stack; a directory is opened by its parent's descriptor
//! with `O_NOFOLLOW`, so that a component swapped for a symlink meanwhile is an error and never a
//! way out of the context.

use std::{
    ffi::CStr,
    mem::MaybeUninit,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use davit_dockerfile::{Above, Patterns, Verdict};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RawDir},
    io::Errno,
};
use sha2::{Digest as _, Sha256};

use super::{
    selectors::{Reach, Selectors},
    stat_cache::{Stamp, StatCache},
};
use crate::files::{Data, FileEntry, FileKind, FileSet, Identity, join};

/// What is walked and which part of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope<'a> {
    pub(crate) selectors: &'a Selectors,
    pub(crate) ignore: Option<&'a Patterns>,
    pub(crate) cache: &'a StatCache,
    pub(crate) threads: usize,
    pub(crate) cancelled: &'a AtomicBool,
    /// The store, by device and inode: it changes while it is read, and is never part of an image.
    pub(crate) store: Option<(u64, u64)>,
}

/// A path that could not be read.
#[derive(Debug)]
pub(crate) struct WalkError {
    pub(crate) path: PathBuf,
    pub(crate) errno: Errno,
}

/// One directory that waits to be read.
struct Task {
    id: usize,
    parent: Arc<OwnedFd>,
    path: Vec<u8>,
    name_length: usize,
    reach: Reach,
    above: Above,
}

/// An entry of a directory; a directory that is walked has the index of its own result.
type Listed = (FileEntry, Option<usize>, Keep);

/// What a directory holds.
#[derive(Default)]
struct Listing {
    entries: Vec<Listed>,
}

/// What a thread uses for one directory after the other.
struct Buffers {
    raw: Box<[MaybeUninit<u8>]>,
    entries: Vec<Listed>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { raw: Box::new_uninit_slice(32 * 1024), entries: Vec::new() }
    }
}

/// Whether an entry is part of the result.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Always,
    /// Only as the way to something that is kept.
    AsParent,
}

/// The shared stack of directories, and how many are not done.
#[derive(Default)]
struct Queue {
    tasks: Vec<Task>,
    open: usize,
    /// Threads that wait for one.
    waiting: usize,
    failed: Option<WalkError>,
}

struct Walk<'a> {
    scope: Scope<'a>,
    queue: Mutex<Queue>,
    changed: Condvar,
    next_id: AtomicUsize,
}

/// Walks the selected part of the directory `root`; the result always holds the root itself.
pub(crate) fn walk(root: &OwnedFd, scope: Scope<'_>) -> Result<FileSet, WalkError> {
    let stat = rustix::fs::fstat(root).map_err(|errno| failure(b"", errno))?;
    let mut root_entry = entry(Vec::new(), &stat).ok_or_else(|| failure(b"", Errno::NOTDIR))?;
    root_entry.path = Box::default();
    let Some(reach) = scope.selectors.root() else {
        return Ok(FileSet { entries: vec![root_entry] });
    };
    let descriptor = root.try_clone().map_err(|_| failure(b"", Errno::MFILE))?;
    let first = Task {
        id: 0,
        parent: Arc::new(descriptor),
        path: Vec::new(),
        name_length: 0,
        reach,
        above: Above::default(),
    };
    let walk = Walk {
        scope,
        queue: Mutex::new(Queue { tasks: vec![first], open: 1, ..Queue::default() }),
        changed: Condvar::new(),
        next_id: AtomicUsize::new(1),
    };
    let parts: Vec<Vec<(usize, Listing)>> = std::thread::scope(|threads| {
        let workers: Vec<_> =
            (0..scope.threads.max(1)).map(|_| threads.spawn(|| walk.work())).collect();
        workers.into_iter().map(|worker| worker.join().expect("a walker does not panic")).collect()
    });
    let queue = walk.queue.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = queue.failed {
        return Err(error);
    }
    let mut listings: Vec<Listing> = Vec::new();
    listings.resize_with(walk.next_id.into_inner(), Listing::default);
    for (id, listing) in parts.into_iter().flatten() {
        listings[id] = listing;
    }
    Ok(FileSet { entries: flatten(root_entry, listings) })
}

/// Puts the listings into the order of components; directories that are only a way to nothing go.
fn flatten(root: FileEntry, mut listings: Vec<Listing>) -> Vec<FileEntry> {
    let total: usize = listings.iter().map(|listing| listing.entries.len()).sum();
    let mut entries = Vec::with_capacity(total + 1);
    entries.push(root);
    let take = |listings: &mut Vec<Listing>, id: usize| {
        std::mem::take(&mut listings[id]).entries.into_iter()
    };
    // (entries left, length of the result before the directory's own entry if it may go)
    let mut stack = vec![(take(&mut listings, 0), None)];
    while let Some((rest, _)) = stack.last_mut() {
        let Some((entry, listing, keep)) = rest.next() else {
            if let Some((_, Some(before))) = stack.pop()
                && entries.len() == before + 1
            {
                entries.truncate(before);
            }
            continue;
        };
        let before = (keep == Keep::AsParent).then_some(entries.len());
        match listing {
            Some(id) => {
                entries.push(entry);
                stack.push((take(&mut listings, id), before));
            }
            None if keep == Keep::Always => entries.push(entry),
            None => {}
        }
    }
    entries
}

impl Walk<'_> {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) -> Vec<(usize, Listing)> {
        let mut listings = Vec::new();
        let mut buffers = Buffers::default();
        let mut next = self.take(self.lock());
        while let Some(task) = next {
            let mut found = Vec::new();
            let outcome = self.read(&task, &mut buffers, &mut found);
            let mut queue = self.lock();
            match outcome {
                Ok(listing) => listings.push((task.id, listing)),
                Err(error) => {
                    queue.failed.get_or_insert(error);
                }
            }
            queue.open += found.len();
            queue.open -= 1;
            // The first child is taken first: few descriptors are open at a time.
            queue.tasks.extend(found.into_iter().rev());
            // To wake nobody is a system call all the same.
            let is_news = queue.tasks.len() > 1 || queue.open == 0 || queue.failed.is_some();
            if queue.waiting > 0 && is_news {
                self.changed.notify_all();
            }
            next = self.take(queue);
        }
        listings
    }

    /// Waits for a directory; `None` when all are done or one failed.
    fn take<'q>(&'q self, mut queue: MutexGuard<'q, Queue>) -> Option<Task> {
        loop {
            if queue.failed.is_some() || queue.open == 0 {
                return None;
            }
            if let Some(task) = queue.tasks.pop() {
                return Some(task);
            }
            queue.waiting += 1;
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.waiting -= 1;
        }
    }

    fn read(
        &self,
        task: &Task,
        Buffers { raw, entries }: &mut Buffers,
        found: &mut Vec<Task>,
    ) -> Result<Listing, WalkError> {
        let fail = |errno| failure(&task.path, errno);
        if self.scope.cancelled.load(Ordering::Relaxed) {
            return Err(fail(Errno::CANCELED));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name: &[u8] = match task.name_length {
            0 => b".",
            length => &task.path[task.path.len() - length..],
        };
        let directory =
            rustix::fs::openat(&*task.parent, name, flags, Mode::empty()).map_err(fail)?;
        let directory = Arc::new(directory);
        entries.clear();
        let mut items = RawDir::new(directory.as_fd(), raw);
        while let Some(item) = items.next() {
            let item = item.map_err(fail)?;
            let name = item.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.visit(task, &directory, name, (entries, found))?;
        }
        entries.sort_unstable_by(|(left, ..), (right, ..)| left.path.cmp(&right.path));
        let mut listing = Listing { entries: Vec::with_capacity(entries.len()) };
        listing.entries.append(entries);
        Ok(listing)
    }

    fn visit(
        &self,
        task: &Task,
        directory: &Arc<OwnedFd>,
        name: &CStr,
        (entries, found): (&mut Vec<Listed>, &mut Vec<Task>),
    ) -> Result<(), WalkError> {
        let Some(reach) = self.scope.selectors.child(&task.reach, name.to_bytes()) else {
            return Ok(());
        };
        let path = join(&task.path, name.to_bytes());
        let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // Removed since the directory was read.
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(failure(&path, errno)),
        };
        if self.scope.store == Some((stat.st_dev, stat.st_ino)) {
            return Ok(());
        }
        let name_length = name.to_bytes().len();
        let Some(mut entry) = entry(path, &stat) else { return Ok(()) };
        let is_directory = entry.kind == FileKind::Directory;
        let Some((ignored, above)) = self.ignored(&entry, &task.above) else { return Ok(()) };
        match entry.kind {
            FileKind::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new())
                    .map_err(|errno| failure(&entry.path, errno))?;
                entry.target = target.into_bytes().into();
            }
            FileKind::Regular if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => {
                entry.digest = Some(Sha256::digest(b"").into());
            }
            FileKind::Regular => {
                entry.digest = stamp_of(&entry).and_then(|stamp| self.scope.cache.get(&stamp));
            }
            _ => {}
        }
        let id = is_directory.then(|| self.next_id.fetch_add(1, Ordering::Relaxed));
        if let Some(id) = id {
            let parent = Arc::clone(directory);
            let path = entry.path.to_vec();
            found.push(Task { id, parent, path, name_length, reach: reach.clone(), above });
        }
        let partly = is_directory && matches!(reach, Reach::Partly { .. });
        let keep = if ignored || partly { Keep::AsParent } else { Keep::Always };
        entries.push((entry, id, keep));
        Ok(())
    }
}

impl Walk<'_> {
    /// Whether the entry itself is ignored, and what its entries need; `None` if all of it is.
    fn ignored(&self, entry: &FileEntry, above: &Above) -> Option<(bool, Above)> {
        let Some(patterns) = self.scope.ignore else { return Some((false, Above::default())) };
        if entry.kind != FileKind::Directory {
            return (!patterns.file(&entry.path, above)).then(|| (false, Above::default()));
        }
        match patterns.directory(&entry.path, above) {
            (Verdict::Unmatched, below) => Some((false, below)),
            (Verdict::Descend, below) => Some((true, below)),
            (Verdict::Matched, _) => None,
        }
    }
}

/// What tells the state of a regular file that was walked.
pub(crate) fn stamp_of(entry: &FileEntry) -> Option<Stamp> {
    let Data::Disk(identity) = entry.data else { return None };
    Some(Stamp {
        device: identity.device,
        inode: identity.inode,
        size: entry.size,
        mtime_ns: entry.mtime_ns,
        ctime_ns: identity.ctime_ns,
    })
}

/// What tells the state of a file; `None` if it is not regular.
pub(crate) fn stamp(stat: &rustix::fs::Stat) -> Option<Stamp> {
    kind_of(stat).filter(|kind| *kind == FileKind::Regular).map(|_| Stamp {
        device: stat.st_dev,
        inode: stat.st_ino,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime_ns: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
        ctime_ns: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
    })
}

fn kind_of(stat: &rustix::fs::Stat) -> Option<FileKind> {
    Some(match FileType::from_raw_mode(stat.st_mode) {
        // Nobody can connect to a copy: it is a file without content, as with BuildKit.
        FileType::RegularFile | FileType::Socket => FileKind::Regular,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Fifo => FileKind::Fifo,
        FileType::Unknown => return None,
    })
}

/// Makes an entry; `None` for what is never copied. A context's files belong to root.
pub(crate) fn entry(path: Vec<u8>, stat: &rustix::fs::Stat) -> Option<FileEntry> {
    let kind = kind_of(stat)?;
    let regular = kind == FileKind::Regular;
    let ctime_ns = nanoseconds(stat.st_ctime, stat.st_ctime_nsec);
    let identity = Identity { device: stat.st_dev, inode: stat.st_ino, ctime_ns };
    let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    Some(FileEntry {
        path: path.into(),
        kind,
        mode: u16::try_from(stat.st_mode & 0o7777).unwrap_or(0),
        uid: 0,
        gid: 0,
        size: if regular { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 },
        mtime_ns: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
        target: Box::default(),
        device,
        capability: None,
        linked: regular && stat.st_nlink > 1,
        data: if regular { Data::Disk(identity) } else { Data::None },
        digest: None,
    })
}

/// Nanoseconds since 1970, saturating: times beyond the years 1678 to 2262 are not told apart.
pub(crate) fn nanoseconds(seconds: i64, nanoseconds: u64) -> i64 {
    let fraction = i64::try_from(nanoseconds).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(fraction)
}

fn failure(path: &[u8], errno: Errno) -> WalkError {
    WalkError { path: PathBuf::from(String::from_utf8_lossy(path).into_owned()), errno }
}
