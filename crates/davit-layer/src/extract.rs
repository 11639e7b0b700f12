//! Writing a merged tree into a directory, where EROFS cannot be mounted.
//!
//! Directories are made first, then everything else by several threads, then further names of files,
//! and directories get their metadata last, so that nothing touches their times afterwards. Every
//! parent is opened below the target without following a symlink, every name is created anew: what
//! is there already is an error, never a way out.

mod node;

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};

use crate::{Kind, Merged, Mtime, Node, NodeId, path, table::printable};
pub(crate) use node::proc_path;

/// Nodes that a worker takes at once.
const CHUNK: u32 = 128;

/// How to extract.
#[derive(Clone, Debug, Default)]
pub struct ExtractOptions<'a> {
    /// Threads that write files; 0 counts as 1.
    pub workers: usize,
    /// What to do where the process lacks a privilege.
    pub privilege: Privilege,
    /// User and group that own everything; `None` = those that the tree names.
    pub owner: Option<(u32, u32)>,
    /// Time of everything; `None` = those that the tree names.
    pub mtime: Option<Mtime>,
    /// Set by another thread to end the work with an error.
    pub cancelled: Option<&'a AtomicBool>,
}

/// What the process may do on the target file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Privilege {
    /// Everything; what fails is an error.
    #[default]
    Full,
    /// No foreign owners, devices or `trusted.`/`security.` xattrs: they are left out.
    Unprivileged,
}

/// Why a tree cannot be extracted.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// A path cannot be made.
    #[error("cannot write `{path}`")]
    Write {
        /// The path below the target directory.
        path: String,
        /// What the system reports.
        #[source]
        source: io::Error,
    },
}

/// Writes the own nodes of `merged` into the empty directory `target`: content from `tars` (those
/// of all layers, bottom first), owners, modes, times, xattrs, devices, hard links. In a tree on a
/// base, whiteouts and opaque marks are written in overlayfs' form. Needs `/proc`.
///
/// Blocks; nothing is synced.
///
/// # Errors
/// [`ExtractError`] names the path.
pub fn extract(
    merged: &Merged,
    tars: &[Arc<File>],
    target: BorrowedFd<'_>,
    options: &ExtractOptions<'_>,
) -> Result<(), ExtractError> {
    let job = Job { merged, tars, target, options };
    job.each_in_order(|kind| kind.is_directory(), Parent::make_directory)?;
    job.leaves(options.workers.clamp(1, 64))?;
    job.each_in_order(|kind| !kind.is_directory(), Parent::link)?;
    job.finish_directories()
}

impl ExtractOptions<'_> {
    /// Fails once the work is not wanted any more; whoever cancelled it knows why.
    fn check(&self) -> io::Result<()> {
        match self.cancelled {
            Some(cancelled) if cancelled.load(Ordering::Relaxed) => {
                Err(io::Error::other("cancelled"))
            }
            _ => Ok(()),
        }
    }
}

/// Everything that all threads share.
struct Job<'a> {
    merged: &'a Merged,
    tars: &'a [Arc<File>],
    target: BorrowedFd<'a>,
    options: &'a ExtractOptions<'a>,
}

/// A worker's view: the directory that it works in, kept open.
struct Parent<'a> {
    job: &'a Job<'a>,
    path: Vec<u8>,
    directory: Option<OwnedFd>,
    buffer: Vec<u8>,
}

impl Job<'_> {
    fn each_in_order<'a>(
        &'a self,
        wanted: fn(&Kind<'_>) -> bool,
        make: fn(&mut Parent<'a>, &Node<'_>) -> io::Result<()>,
    ) -> Result<(), ExtractError> {
        let mut parent = Parent::new(self);
        for node in self.merged.iter().filter(|node| wanted(&node.entry.kind)) {
            let made = self.options.check().and_then(|()| make(&mut parent, &node));
            made.map_err(|source| failed(&node, source))?;
        }
        Ok(())
    }

    /// Makes everything but directories and further names, on several threads.
    fn leaves(&self, workers: usize) -> Result<(), ExtractError> {
        let next = AtomicU32::new(0);
        let stop = AtomicBool::new(false);
        let first_error: Mutex<Option<ExtractError>> = Mutex::new(None);
        let work = || {
            let mut parent = Parent::new(self);
            if let Err(error) = self.work(&mut parent, &next, &stop) {
                stop.store(true, Ordering::Relaxed);
                let mut slot = first_error.lock().unwrap_or_else(PoisonError::into_inner);
                slot.get_or_insert(error);
            }
        };
        thread::scope(|scope| {
            for _ in 1..workers {
                // The calling thread works too: one that cannot be started is not missed.
                let worker = thread::Builder::new().name("layer-extract".into());
                let _started = worker.spawn_scoped(scope, work);
            }
            work();
        });
        let error = first_error.into_inner().unwrap_or_else(PoisonError::into_inner);
        error.map_or(Ok(()), Err)
    }

    fn work(
        &self,
        parent: &mut Parent<'_>,
        next: &AtomicU32,
        stop: &AtomicBool,
    ) -> Result<(), ExtractError> {
        let count = NodeId::try_from(self.merged.node_count()).expect("nodes are counted in u32");
        loop {
            let start = next.fetch_add(CHUNK, Ordering::Relaxed);
            if start >= count || stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            for id in start..count.min(start + CHUNK) {
                let node = self.merged.node(id);
                if node.inode == id && !node.entry.kind.is_directory() {
                    parent.make_leaf(&node).map_err(|source| failed(&node, source))?;
                }
            }
        }
    }

    /// Children before their directories, so that the times stay.
    fn finish_directories(&self) -> Result<(), ExtractError> {
        for node in self.merged.iter().rev().filter(|node| node.entry.kind.is_directory()) {
            let opened = self.open(node.entry.path, OFlags::RDONLY | OFlags::DIRECTORY);
            opened
                .and_then(|directory| node::finish_directory(&directory, &node, self.options))
                .map_err(|source| failed(&node, source))?;
        }
        Ok(())
    }

    /// Opens a path of the target that was made here.
    fn open(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat2(self.target, path, flags, Mode::empty(), inside())?)
    }
}

/// Neither `..` nor a symlink, nor a jump through procfs.
fn inside() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
}

impl<'a> Parent<'a> {
    const fn new(job: &'a Job<'a>) -> Self {
        Self { job, path: Vec::new(), directory: None, buffer: Vec::new() }
    }

    /// The open directory and the name of a node in it.
    fn enter<'p>(&mut self, path: &'p [u8]) -> io::Result<&'p [u8]> {
        let (parent, name) = path::split(path).ok_or(io::ErrorKind::IsADirectory)?;
        if self.directory.is_none() || self.path != parent {
            self.directory = None;
            self.directory = Some(self.job.open(parent, OFlags::PATH | OFlags::DIRECTORY)?);
            self.path.clear();
            self.path.extend_from_slice(parent);
        }
        Ok(name)
    }

    fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_ref().map_or(self.job.target, AsFd::as_fd)
    }

    fn make_directory(&mut self, node: &Node<'_>) -> io::Result<()> {
        if node.entry.path.is_empty() {
            return Ok(());
        }
        let name = self.enter(node.entry.path)?;
        Ok(rustix::fs::mkdirat(self.directory(), name, Mode::RWXU)?)
    }

    fn make_leaf(&mut self, node: &Node<'_>) -> io::Result<()> {
        let name = self.enter(node.entry.path)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let tar = self.job.tars.get(node.layer).map(Arc::as_ref);
        let made =
            node::make_leaf(self.directory(), name, node, tar, self.job.options, &mut buffer);
        self.buffer = buffer;
        made
    }

    /// Makes a further name of a file that was made before.
    fn link(&mut self, node: &Node<'_>) -> io::Result<()> {
        let device = matches!(node.entry.kind, Kind::CharDevice { .. } | Kind::BlockDevice { .. });
        let left_out = device && self.job.options.privilege == Privilege::Unprivileged;
        if node.inode == node.id || left_out {
            return Ok(());
        }
        let first = self.job.merged.path(node.inode);
        let (first_parent, first_name) = path::split(first).ok_or(io::ErrorKind::IsADirectory)?;
        let first_parent = self.job.open(first_parent, OFlags::PATH | OFlags::DIRECTORY)?;
        let name = self.enter(node.entry.path)?;
        let flags = AtFlags::empty();
        Ok(rustix::fs::linkat(first_parent, first_name, self.directory(), name, flags)?)
    }
}

fn failed(node: &Node<'_>, source: io::Error) -> ExtractError {
    ExtractError::Write { path: printable(node.entry.path), source }
}
