//! Writing a layer: changes in path order -> deterministic tar + table + DiffID in one pass.
//!
//! The bytes depend on the changes alone: ustar headers, PAX records only where ustar cannot say
//! it, whole seconds, no user names (`docs/formats/layer.md`; golden tests freeze them).

mod batch;
mod header;
mod window;

use std::{cmp::Ordering, fs::File, io, sync::Arc};

use davit_image::{Algorithm, DiffId, Digest, Digester};

use self::{
    batch::{Batch, Batches, Plan, Task},
    header::WHITEOUT_PREFIX,
};
use crate::{
    BuildError, Entry, Extent, Extents, Kind, LayerFacts, Mtime, Table, TableBuilder, TableLimits,
    XattrMap, Xattrs, ordered,
    path::{self, PathLimits},
    table::{is_allowed_xattr, printable},
};
pub(crate) use batch::read_extents;

/// Tasks that may be under way: each about 0.5 MiB, at most 1.5, beside at most 1 MiB of the
/// tar that it takes files from.
const WINDOW: usize = 6;

/// One path of a layer to write.
#[derive(Clone, Debug)]
pub struct Change {
    /// Path as in [`Entry::path`](crate::Entry::path).
    pub path: Vec<u8>,
    /// What is to be there.
    pub kind: ChangeKind,
    /// Permission bits, `0o7777` at most.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification; written as whole seconds.
    pub mtime: Mtime,
    /// Extended attributes; [`WriteOptions::xattrs`] says which are written.
    pub xattrs: XattrMap,
}

impl Change {
    /// What makes an entry; `source` says where the bytes of a file come from.
    #[must_use]
    pub fn of_entry(entry: &Entry<'_>, source: impl FnOnce() -> Source) -> Self {
        let kind = match entry.kind {
            Kind::File { size, .. } => ChangeKind::File { size, source: source() },
            Kind::Directory { opaque: true, .. } => ChangeKind::OpaqueDirectory,
            Kind::Directory { .. } => ChangeKind::Directory,
            Kind::Symlink { target } => ChangeKind::Symlink { target: target.to_vec() },
            Kind::HardLink { target, .. } => ChangeKind::HardLink { target: target.to_vec() },
            Kind::CharDevice { major, minor } => ChangeKind::CharDevice { major, minor },
            Kind::BlockDevice { major, minor } => ChangeKind::BlockDevice { major, minor },
            Kind::Fifo => ChangeKind::Fifo,
            Kind::Whiteout => ChangeKind::Whiteout,
        };
        Self {
            path: entry.path.to_vec(),
            kind,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: entry.xattrs.to_map(),
        }
    }

    /// Removes what the layers below hold at `path`.
    #[must_use]
    pub const fn whiteout(path: Vec<u8>) -> Self {
        Self {
            path,
            kind: ChangeKind::Whiteout,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Mtime::EPOCH,
            xattrs: XattrMap::new(),
        }
    }
}

/// What a [`Change`] puts at its path.
#[derive(Clone, Debug)]
pub enum ChangeKind {
    /// A regular file of `size` bytes.
    File {
        /// Length in bytes.
        size: u64,
        /// Where the bytes come from.
        source: Source,
    },
    /// A directory; what the layers below have in it stays.
    Directory,
    /// A directory that hides what the layers below have in it.
    OpaqueDirectory,
    /// A symbolic link.
    Symlink {
        /// Its target.
        target: Vec<u8>,
    },
    /// A further name for the file at `target`, an earlier path of this layer.
    HardLink {
        /// Path of the file.
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// What the layers below have here goes.
    Whiteout,
}

/// Where the content of a file comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Bytes in memory.
    Bytes(Arc<[u8]>),
    /// Ranges of another layer's tar; holes read as zeros.
    Tar {
        /// The tar.
        tar: Arc<File>,
        /// The ranges, in file order.
        extents: Vec<Extent>,
    },
    /// A file that [`Opener::open`] gives when its turn comes.
    Opened,
}

/// Opens files whose change says [`Source::Opened`]; called from several threads.
pub trait Opener: Sync {
    /// Opens the content of `changes[position]` for reading from its start.
    ///
    /// # Errors
    /// Whatever keeps it from being opened.
    fn open(&self, position: usize, change: &Change) -> io::Result<File>;

    /// Whether [`learn`](Self::learn) is to be called.
    fn learns(&self) -> bool {
        false
    }

    /// Gets the digest of what was read of `changes[position]`, for who has not read it before.
    fn learn(&self, _position: usize, _sha256: Digest) {}
}

/// The header of a file that no layer has, but a form of one.
pub(crate) fn file_header(path: &str, size: u64) -> Vec<u8> {
    let change = Change {
        path: path.as_bytes().to_vec(),
        kind: ChangeKind::File { size, source: Source::Opened },
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: Mtime::EPOCH,
        xattrs: XattrMap::new(),
    };
    let mut header = Vec::new();
    header::append(&mut header, &change, &WriteOptions::default());
    header
}

/// Which xattrs a layer carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XattrPolicy {
    /// `security.capability` only, as BuildKit's layers.
    #[default]
    Capability,
    /// All that a layer may carry.
    All,
}

/// How to write a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Times after this are written as this (`SOURCE_DATE_EPOCH`), in seconds since 1970.
    pub epoch: Option<i64>,
    /// Which xattrs are written.
    pub xattrs: XattrPolicy,
    /// Threads that read contents; 0 counts as 1. The bytes do not depend on it.
    pub readers: usize,
}

impl WriteOptions {
    /// The time that is written for `mtime`.
    #[must_use]
    pub fn clamped(&self, mtime: Mtime) -> Mtime {
        Mtime::from_seconds(self.epoch.map_or(mtime.seconds, |epoch| mtime.seconds.min(epoch)))
    }

    /// Whether the attribute `name` is written.
    #[must_use]
    pub fn keeps_xattr(&self, name: &[u8]) -> bool {
        match self.xattrs {
            XattrPolicy::Capability => name == b"security.capability",
            XattrPolicy::All => is_allowed_xattr(name),
        }
    }
}

/// Why a layer cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The tar cannot be written.
    #[error("cannot write the layer")]
    Write(#[source] io::Error),
    /// The content of a file cannot be read.
    #[error("cannot read `{path}`")]
    Content {
        /// Its path in the layer.
        path: String,
        /// What the system reports.
        #[source]
        source: io::Error,
    },
    /// A file is not what it was when the layer was planned.
    #[error("`{path}` changed while it was read")]
    Changed {
        /// Its path in the layer.
        path: String,
    },
    /// A path comes before one that it should follow, or twice.
    #[error("the change of `{path}` is out of order")]
    Order {
        /// The later one.
        path: String,
    },
    /// The directory of a path is not part of the layer.
    #[error("the change of `{path}` lacks its directory")]
    MissingParent {
        /// The path.
        path: String,
    },
    /// A name means something else in a layer.
    #[error("`{path}` begins with `.wh.`, which marks removed files in a layer")]
    ReservedName {
        /// The path.
        path: String,
    },
    /// The path names nothing that a reader of the layer would take.
    #[error("`{path}` cannot be in a layer: {fault}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        fault: path::PathError,
    },
    /// The changes contradict each other or pass a limit.
    #[error("the changes make no layer")]
    Build(#[from] BuildError),
}

/// Writes a layer of `changes`, which are sorted by [`path::compare`], each path once, each with its
/// parents before it, to `tar`.
///
/// Small files are read by [`WriteOptions::readers`] threads, a few MiB ahead; the calling thread
/// digests and writes. Blocks; nothing is synced.
///
/// # Errors
/// [`WriteError`] if a content cannot be read, changes while it is read, or the changes are no
/// valid layer.
pub fn write_layer(
    changes: &[Change],
    opener: &dyn Opener,
    tar: &mut dyn io::Write,
    options: &WriteOptions,
) -> Result<Table, WriteError> {
    check_order(changes)?;
    let plan = Plan { changes, opener, options };
    let mut sink = Sink {
        plan: &plan,
        tar,
        digester: Digester::new(Algorithm::Sha256),
        size: 0,
        builder: TableBuilder::new(TableLimits::default()),
    };
    let tasks = plan.tasks();
    let batches = Batches { plan: &plan, tasks: &tasks };
    ordered::run(
        &batches,
        options.readers,
        WINDOW,
        &mut |task, batch| match (&tasks[task], batch) {
            (Task::Large(position), _) => sink.stream(*position),
            (Task::Batch(_), Some(batch)) => sink.write(batch),
            (Task::Batch(_), None) => Ok(()),
        },
    )?;
    sink.finish()
}

/// Order, parents and paths, by the reader's rules; everything else is checked as it is written.
fn check_order(changes: &[Change]) -> Result<(), WriteError> {
    let mut open: Vec<&[u8]> = Vec::new();
    let mut previous: Option<&[u8]> = None;
    for change in changes {
        let here = change.path.as_slice();
        let named = || printable(here);
        if previous.is_some_and(|previous| path::compare(previous, here) != Ordering::Less) {
            return Err(WriteError::Order { path: named() });
        }
        path::check(here, PathLimits::default())
            .map_err(|fault| WriteError::Path { path: named(), fault })?;
        if path::file_name(here).starts_with(WHITEOUT_PREFIX) {
            return Err(WriteError::ReservedName { path: named() });
        }
        while open.last().is_some_and(|directory| !path::is_below(here, directory)) {
            open.pop();
        }
        let parent = path::parent(here).unwrap_or_default();
        if !parent.is_empty() && open.last().is_none_or(|directory| *directory != parent) {
            return Err(WriteError::MissingParent { path: named() });
        }
        if change.kind.is_directory() && !here.is_empty() {
            open.push(here);
        }
        previous = Some(here);
    }
    Ok(())
}

impl ChangeKind {
    /// Whether this is a directory, opaque or not.
    #[must_use]
    pub const fn is_directory(&self) -> bool {
        matches!(self, Self::Directory | Self::OpaqueDirectory)
    }
}

/// The one place where bytes of the layer are digested and written.
struct Sink<'a> {
    plan: &'a Plan<'a>,
    tar: &'a mut dyn io::Write,
    digester: Digester,
    size: u64,
    builder: TableBuilder,
}

impl Sink<'_> {
    /// Writes a batch and enters its changes into the table.
    fn write(&mut self, batch: &Batch) -> Result<(), WriteError> {
        let start = self.size;
        self.bytes(&batch.bytes)?;
        for (position, offset) in &batch.contents {
            self.enter(*position, start + offset)?;
        }
        Ok(())
    }

    /// Writes a file that is too large for a batch.
    fn stream(&mut self, position: usize) -> Result<(), WriteError> {
        let plan = self.plan;
        let change = &plan.changes[position];
        let mut buffer = Vec::new();
        header::append(&mut buffer, change, plan.options);
        self.bytes(&buffer)?;
        let start = self.size;
        plan.stream_content(position, &mut |bytes| self.bytes(bytes))?;
        let padding = header::padding(self.size - start);
        self.bytes(&[0; header::BLOCK_SIZE][..padding])?;
        self.enter(position, start)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.digester.update(bytes);
        self.size += bytes.len() as u64;
        self.tar.write_all(bytes).map_err(WriteError::Write)
    }

    /// Enters a change whose content, if it has one, begins at `offset`.
    fn enter(&mut self, position: usize, offset: u64) -> Result<(), WriteError> {
        let change = &self.plan.changes[position];
        let options = self.plan.options;
        let kind = match &change.kind {
            ChangeKind::File { size, .. } => {
                Kind::File { size: *size, extents: Extents::contiguous(offset, *size) }
            }
            ChangeKind::Directory => Kind::Directory { opaque: false, implied: false },
            ChangeKind::OpaqueDirectory => Kind::Directory { opaque: true, implied: false },
            ChangeKind::Symlink { target } => Kind::Symlink { target },
            ChangeKind::HardLink { target } => Kind::HardLink { target, index: None },
            ChangeKind::CharDevice { major, minor } => {
                Kind::CharDevice { major: *major, minor: *minor }
            }
            ChangeKind::BlockDevice { major, minor } => {
                Kind::BlockDevice { major: *major, minor: *minor }
            }
            ChangeKind::Fifo => Kind::Fifo,
            ChangeKind::Whiteout => {
                return Ok(self.builder.push(&Entry::whiteout(&change.path))?);
            }
        };
        let mut xattrs = XattrMap::new();
        if !change.xattrs.is_empty() {
            let kept = change.xattrs.iter().filter(|(name, _)| options.keeps_xattr(name));
            xattrs.extend(kept.map(|(name, value)| (name.clone(), value.clone())));
        }
        let entry = Entry {
            path: &change.path,
            kind,
            mode: change.mode & 0o7777,
            uid: change.uid,
            gid: change.gid,
            mtime: options.clamped(change.mtime),
            xattrs: Xattrs::from(&xattrs),
        };
        Ok(self.builder.push(&entry)?)
    }

    fn finish(mut self) -> Result<Table, WriteError> {
        self.bytes(&[0; 2 * header::BLOCK_SIZE])?;
        self.tar.flush().map_err(WriteError::Write)?;
        let diff_id = DiffId::new(self.digester.finish());
        Ok(self.builder.finish(LayerFacts { diff_id, tar_size: self.size })?)
    }
}
