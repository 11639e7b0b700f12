//! The build context: the files that `COPY` and `ADD` may read, and their digests.
//!
//! One walk per build, pruned by the ignore file and by what the plan can reach. Content is read
//! only where the [stat cache](stat_cache) does not know it.

mod read;
mod selectors;
mod stat_cache;
mod walk;

use std::{
    fs::File,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    time::{SystemTime, UNIX_EPOCH},
};

use davit_dockerfile::Patterns;
use rustix::fs::{Mode, OFlags};

pub(crate) use self::selectors::Selectors;
use self::{
    read::Root,
    stat_cache::StatCache,
    walk::{Scope, WalkError, stamp_of, walk},
};
use crate::{
    error::BuildErrorKind,
    files::{ContentDigest, FileEntry, FileKind, FileSet},
    selection::select,
};

pub(crate) use read::ReadError;

/// A file is remembered only if it is older than its reading by this much; the kernel's clock for
/// file times ticks every 1 to 10 ms.
const RACY_NS: i64 = 20_000_000;
/// The same for file systems whose times come from elsewhere or are coarse.
const RACY_REMOTE_NS: i64 = 3_000_000_000;

/// A directory as build context.
#[derive(Debug)]
pub(crate) struct Context {
    root: Root,
    path: PathBuf,
    /// The selected files.
    pub(crate) set: FileSet,
    cache: StatCache,
    cache_path: PathBuf,
    threads: usize,
    /// Whether digests were computed that the cache does not have.
    dirty: bool,
    read_at_ns: i64,
}

/// How a context is opened.
#[derive(Debug)]
pub(crate) struct ContextOptions<'a> {
    /// The directory.
    pub(crate) path: &'a Path,
    /// Sources of all copies, cleaned; patterns allowed.
    pub(crate) sources: Vec<String>,
    /// The ignore file.
    pub(crate) ignore: Option<&'a Patterns>,
    /// Directory of the stat caches, in that of the store.
    pub(crate) cache: &'a Path,
    /// Threads that walk and read.
    pub(crate) threads: usize,
    /// Set by another thread to end the walk.
    pub(crate) cancelled: &'a AtomicBool,
}

impl Context {
    /// Walks the part of the directory that the sources reach.
    pub(crate) fn open(options: ContextOptions<'_>) -> Result<Self, BuildErrorKind> {
        let path = options.path;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| unreadable(path, errno.into()))?;
        let absolute = fs_err::canonicalize(path).map_err(|error| unreadable(path, error))?;
        let cache_path = options.cache.join(cache_name(&absolute));
        let cache = StatCache::load(&cache_path);
        let store = options.cache.parent().and_then(|store| rustix::fs::stat(store).ok());
        let store = store.map(|facts| (facts.st_dev, facts.st_ino));
        let set = select(&options.sources, |selectors| {
            let ContextOptions { ignore, threads, cancelled, .. } = options;
            walk(&root, Scope { selectors, ignore, cache: &cache, threads, cancelled, store })
        })
        .map_err(|error| walk_failed(path, error))?;
        let threads = options.threads;
        let (root, path) = (Root::new(root), path.to_path_buf());
        let read_at_ns = i64::MAX;
        Ok(Self { root, path, set, cache, cache_path, threads, dirty: false, read_at_ns })
    }

    pub(crate) const fn set_mut(&mut self) -> &mut FileSet {
        &mut self.set
    }

    /// Opens a file of the set and checks that it is still the one that was walked.
    pub(crate) fn open_file(&self, entry: &FileEntry) -> Result<File, ReadError> {
        read::open(&self.root, entry)
    }

    /// Computes the digests of all regular files in `ranges` of the set that have none yet.
    pub(crate) fn digest(
        &mut self,
        ranges: &[std::ops::Range<usize>],
        cancelled: &AtomicBool,
    ) -> Result<(), BuildErrorKind> {
        let unknown = |&index: &usize| {
            let entry = &self.set.entries[index];
            entry.kind == FileKind::Regular && entry.digest.is_none()
        };
        let mut todo: Vec<usize> = ranges.iter().cloned().flatten().filter(unknown).collect();
        todo.sort_unstable();
        todo.dedup();
        if todo.is_empty() {
            return Ok(());
        }
        self.dirty = true;
        self.read_at_ns = self.read_at_ns.min(now_ns());
        let files = read::Files { root: &self.root, set: &self.set, cancelled };
        let done = read::digest_all(files, &todo, self.threads)
            .map_err(|(entry, error)| self.read_failed(&self.set.entries[entry], error))?;
        for (index, entry) in done {
            self.set.entries[index] = entry;
        }
        Ok(())
    }

    /// Opens a file that is to be read for the first time; one with a capability, which a digest
    /// does not tell, counts as changed.
    pub(crate) fn open_plain(&self, entry: &FileEntry) -> Result<File, ReadError> {
        let file = read::open(&self.root, entry)?;
        match read::capability(&file)? {
            None => Ok(file),
            Some(_) => Err(ReadError::Changed),
        }
    }

    /// The present moment, as digests are remembered with it.
    pub(crate) fn now() -> i64 {
        now_ns()
    }

    /// Takes digests of files that somebody else has read since the moment `read_at`.
    pub(crate) fn learn(
        &mut self,
        read_at: i64,
        digests: impl Iterator<Item = (usize, ContentDigest)>,
    ) {
        self.dirty = true;
        self.read_at_ns = self.read_at_ns.min(read_at);
        for (index, digest) in digests {
            self.set.entries[index].digest = Some(digest);
        }
    }

    /// Says which file could not be read, and why.
    fn read_failed(&self, entry: &FileEntry, error: ReadError) -> BuildErrorKind {
        let path = self.path.join(&*String::from_utf8_lossy(&entry.path));
        match error {
            ReadError::Io(source) => BuildErrorKind::Context { path, source },
            ReadError::Changed => BuildErrorKind::ContextChanged(path),
        }
    }

    /// Remembers digests for the next build; a cache that cannot be written is only slower.
    pub(crate) fn save(&self) {
        if !self.dirty {
            return;
        }
        let limit = self.read_at_ns.saturating_sub(racy_margin(self.root.directory()));
        let stamped = |entry| Some((stamp_of(entry)?, entry.digest?, entry));
        let seen = self
            .set
            .entries
            .iter()
            .filter_map(stamped)
            .filter(|(stamp, _, entry)| {
                let old = stamp.mtime_ns.max(stamp.ctime_ns) < limit;
                entry.capability.is_none() && (old || self.cache.get(stamp).is_some())
            })
            .map(|(stamp, digest, _)| (stamp, digest));
        if let Err(error) = self.cache.save(&self.cache_path, seen) {
            tracing::warn!(%error, "cannot remember the digests of the build context");
        }
    }
}

/// Name of a context's stat cache.
fn cache_name(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let digest = davit_image::Digest::of(path.as_os_str().as_bytes());
    format!("context-{}", &digest.hex()[..32])
}

fn unreadable(path: &Path, source: std::io::Error) -> BuildErrorKind {
    BuildErrorKind::Context { path: path.to_path_buf(), source }
}

fn walk_failed(path: &Path, error: WalkError) -> BuildErrorKind {
    BuildErrorKind::Context { path: path.join(error.path), source: error.errno.into() }
}

fn now_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

/// How much older than its reading a file must be on this file system.
fn racy_margin(root: &OwnedFd) -> i64 {
    // NFS, SMB, SMB2, FUSE, 9p, Ceph, FAT, exFAT (statfs(2)).
    const COARSE: [i64; 8] =
        [0x6969, 0x517b, 0xfe53_4d42, 0x6573_5546, 0x0102_1997, 0x00c3_6400, 0x4d44, 0x2011_bab0];
    match rustix::fs::fstatfs(root) {
        Ok(stat) if !COARSE.contains(&stat.f_type) => RACY_NS,
        _ => RACY_REMOTE_NS,
    }
}

#[cfg(test)]
mod tests;
