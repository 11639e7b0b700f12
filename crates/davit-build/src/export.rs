//! A result as files: a directory or one tar, without config and history.

mod staging;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Write},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, SystemTime},
};

use davit_image::{Algorithm, DiffId, Digest, Digester};
use davit_layer::{
    Change, ChangeKind, ExtractError, ExtractOptions, Kind, Merged, Mtime, Opener, Source,
    WriteError, WriteOptions, XattrMap, XattrPolicy, extract, write_layer,
};
use davit_store::{Lease, Store, StoreError};
use fs_err::os::unix::fs::OpenOptionsExt as _;

use self::staging::{Staging, move_into, remove_others};
use crate::{
    cancel::check,
    copy::Ranges,
    files::{compare_paths, join},
    layers::{LayerError, Layers, State},
};

/// Mode of files that only an export has.
const MORE_MODE: u32 = 0o600;
const DIGEST_BUFFER: usize = 256 << 10;

/// Why a result cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A layer cannot be read.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// What was staged cannot be removed.
    #[error(transparent)]
    Staging(#[from] StoreError),
    /// The directory cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// What was written.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The files cannot be written.
    #[error("cannot write the files of the result")]
    Extract(#[from] ExtractError),
    /// The tar cannot be written.
    #[error("cannot write the tar of the result")]
    Tar(#[from] WriteError),
    /// Two platforms have something else at one path, and both would stand there.
    #[error("two platforms have /{path}, and platform-split=false puts both at one place")]
    Conflict {
        /// The path.
        path: String,
    },
}

impl ExportError {
    /// What helps.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        let Self::Write { source, .. } = self else { return None };
        match source.kind() {
            io::ErrorKind::AlreadyExists => Some(
                "a file or a symlink that leads to no directory stands there; remove it, or name \
                 another directory",
            ),
            io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::DirectoryNotEmpty => Some(
                "what stands there is a directory in one and none in the other; remove it, write \
                 to an empty directory, or let `mode=delete` take away all that is not of the result",
            ),
            _ => None,
        }
    }
}

/// The files of one image among those that are exported.
#[derive(Clone, Debug)]
pub struct ExportPart {
    /// Name of the folder that they go to; `None` for the destination itself.
    pub folder: Option<String>,
    /// Layers, bottom first.
    pub layers: Vec<DiffId>,
    /// Files that stand beside those of the image, in place of any of the same name.
    pub more: Vec<MoreFile>,
}

/// A file that only an export has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoreFile {
    /// Its name; it lies in the folder of its image.
    pub name: String,
    /// Its content.
    pub content: Vec<u8>,
}

/// What becomes of what a directory holds before an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExportMode {
    /// It stays where the result has nothing of the same path.
    #[default]
    Copy,
    /// It goes: the directory is then as the result.
    Delete,
}

/// A directory that results are written to.
#[derive(Clone, Copy, Debug)]
pub struct ExportTarget<'a> {
    /// It is made if it is missing.
    pub path: &'a Path,
    /// What becomes of what it holds.
    pub mode: ExportMode,
    /// Time of all files in seconds, if it is given.
    pub epoch: Option<i64>,
}

/// Writes the files of images into a directory. All of it is the caller's, as with Docker's clients:
/// people take files out, and a tar keeps the owners.
///
/// Blocks; nothing is synced. Fails once `cancelled` is set.
///
/// # Errors
/// [`ExportError`]; some files may be written then.
pub fn export_directory(
    store: &Store,
    lease: &Lease<'_>,
    parts: &[ExportPart],
    target: &ExportTarget<'_>,
    cancelled: &AtomicBool,
) -> Result<(), ExportError> {
    let mut paths = Paths::default();
    let mut opened = Vec::new();
    for part in parts {
        let (merged, tars) = open_layers(store, lease, &part.layers)?;
        if parts.len() > 1 && part.folder.is_none() {
            paths.add(&merged)?;
        }
        opened.push((part, merged, tars));
    }
    fs_err::create_dir_all(target.path).map_err(failed(target.path))?;
    // Files are made anew below directories that are empty, and only then take their places.
    let staging = Staging::create(store, target.path, lease.id())?;
    let staged = || -> Result<(), ExportError> {
        let whole = staging.path().join("whole");
        for (number, (part, merged, tars)) in opened.iter().enumerate() {
            let own = staging.path().join(number.to_string());
            fs_err::create_dir(&own).map_err(failed(&own))?;
            extract_to((merged, tars), &own, target.epoch, cancelled)?;
            write_more(&own, &part.more, target.epoch)?;
            let place = part.folder.as_ref().map_or_else(|| whole.clone(), |it| whole.join(it));
            fs_err::create_dir_all(&place).map_err(failed(&place))?;
            move_into(&own, &place, cancelled)?;
        }
        if target.mode == ExportMode::Delete {
            remove_others(&whole, target.path, cancelled)?;
        }
        move_into(&whole, target.path, cancelled)
    };
    let outcome = staged();
    let removed = staging.remove(store);
    outcome.and(removed)
}

fn failed(path: &Path) -> impl Fn(io::Error) -> ExportError {
    let path = path.to_path_buf();
    move |source| ExportError::Write { path: path.clone(), source }
}

/// What several parts have at one place: whether it is a directory.
#[derive(Debug, Default)]
struct Paths(HashMap<Vec<u8>, bool>);

impl Paths {
    /// Refuses what would replace something of an earlier part.
    fn add(&mut self, merged: &Merged) -> Result<(), ExportError> {
        for node in merged.iter() {
            let is_directory = matches!(node.entry.kind, Kind::Directory { .. });
            let before = self.0.insert(node.entry.path.to_vec(), is_directory);
            if before.is_some_and(|before| !(before && is_directory)) {
                let path = String::from_utf8_lossy(node.entry.path).into_owned();
                return Err(ExportError::Conflict { path });
            }
        }
        Ok(())
    }
}

fn extract_to(
    (merged, tars): (&Merged, &[Arc<File>]),
    directory: &Path,
    epoch: Option<i64>,
    cancelled: &AtomicBool,
) -> Result<(), ExportError> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty());
    let opened = opened.map_err(|errno| failed(directory)(errno.into()))?;
    let caller = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let options = ExtractOptions {
        workers: 2,
        owner: Some(caller),
        mtime: epoch.map(Mtime::from_seconds),
        cancelled: Some(cancelled),
        ..ExtractOptions::default()
    };
    extract(merged, tars, opened.as_fd(), &options)?;
    Ok(())
}

/// Writes what an image does not have, for the caller alone.
fn write_more(directory: &Path, files: &[MoreFile], epoch: Option<i64>) -> Result<(), ExportError> {
    for MoreFile { name, content } in files {
        let path = directory.join(name);
        let failed = failed(&path);
        // What the image has there may be a symlink.
        match fs_err::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut options = fs_err::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(MORE_MODE).open(&path);
        let mut file = file.map_err(&failed)?;
        file.write_all(content).map_err(&failed)?;
        if let Some(seconds) = epoch.and_then(|seconds| u64::try_from(seconds).ok()) {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            file.file().set_modified(time).map_err(&failed)?;
        }
    }
    Ok(())
}

/// Writes the files of images as one tar; `epoch` in seconds is the time of all, if it is given.
///
/// Blocks.
///
/// # Errors
/// [`ExportError`]; what was written is worthless then.
pub fn export_tar(
    store: &Store,
    lease: &Lease<'_>,
    parts: &[ExportPart],
    epoch: Option<i64>,
    sink: &mut dyn Write,
) -> Result<(), ExportError> {
    let (mut paths, mut changes) = (Paths::default(), Vec::new());
    for part in parts {
        let (merged, tars) = open_layers(store, lease, &part.layers)?;
        if parts.len() > 1 && part.folder.is_none() {
            paths.add(&merged)?;
        }
        let folder = part.folder.as_deref().unwrap_or_default().as_bytes();
        if !folder.is_empty() {
            changes.push(folder_of(folder, epoch));
        }
        // Sorting is stable: of one path the first stays.
        changes.extend(part.more.iter().map(|file| more_change(file, folder, epoch)));
        changes.extend(changes_of(&merged, &tars, epoch, folder));
    }
    changes.sort_by(|one, other| compare_paths(&one.path, &other.path));
    changes.dedup_by(|one, other| one.path == other.path);
    Ok(write_changes(&changes, sink)?)
}

/// The folder of a platform.
fn folder_of(name: &[u8], epoch: Option<i64>) -> Change {
    Change {
        path: name.to_vec(),
        kind: ChangeKind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: epoch.map_or(Mtime::EPOCH, Mtime::from_seconds),
        xattrs: XattrMap::new(),
    }
}

fn more_change(file: &MoreFile, folder: &[u8], epoch: Option<i64>) -> Change {
    let size = file.content.len() as u64;
    Change {
        path: join(folder, file.name.as_bytes()),
        kind: ChangeKind::File { size, source: Source::Bytes(file.content.as_slice().into()) },
        mode: 0o600,
        uid: 0,
        gid: 0,
        mtime: epoch.map_or(Mtime::EPOCH, Mtime::from_seconds),
        xattrs: XattrMap::new(),
    }
}

/// Digests of all regular files that layers show, by path; a file of several names has each.
///
/// Blocks; reads them all.
///
/// # Errors
/// [`ExportError`].
pub fn file_digests(
    opened: &OpenedLayers,
    cancelled: &AtomicBool,
) -> Result<Vec<(String, Digest)>, ExportError> {
    let (merged, tars) = opened;
    let mut found = Vec::new();
    for node in merged.iter() {
        let Kind::File { size, extents } = node.entry.kind else { continue };
        let path = String::from_utf8_lossy(node.entry.path).into_owned();
        let failed = |source| failed(Path::new(&path))(source);
        let mut content = Ranges::new(&tars[node.layer], size, extents.iter().collect());
        let mut digester = Digester::new(Algorithm::Sha256);
        let mut buffer = vec![0; DIGEST_BUFFER];
        loop {
            check(cancelled).map_err(failed)?;
            match io::Read::read(&mut content, &mut buffer).map_err(failed)? {
                0 => break,
                length => digester.update(&buffer[..length]),
            }
        }
        found.push((path, digester.finish()));
    }
    Ok(found)
}

/// Writes all files that layers show as one tar; `tars` are those of the layers, bottom first, and
/// `epoch` in seconds is the time of all, if it is given.
///
/// Blocks.
///
/// # Errors
/// [`WriteError`]; what was written is worthless then.
pub fn write_tree(
    merged: &Merged,
    tars: &[Arc<File>],
    epoch: Option<i64>,
    sink: &mut dyn Write,
) -> Result<(), WriteError> {
    write_changes(&changes_of(merged, tars, epoch, b""), sink)
}

fn write_changes(changes: &[Change], sink: &mut dyn Write) -> Result<(), WriteError> {
    let options = WriteOptions { xattrs: XattrPolicy::All, readers: 2, ..WriteOptions::default() };
    write_layer(changes, &NoFiles, sink, &options)?;
    Ok(())
}

/// All files that layers show, below `folder`.
fn changes_of(
    merged: &Merged,
    tars: &[Arc<File>],
    epoch: Option<i64>,
    folder: &[u8],
) -> Vec<Change> {
    let source = |node: &davit_layer::Node<'_>| {
        let extents = match merged.layer(node.layer).at(node.index).kind {
            Kind::File { extents, .. } => extents.iter().collect(),
            _ => Vec::new(),
        };
        Source::Tar { tar: Arc::clone(&tars[node.layer]), extents }
    };
    merged
        .iter()
        .filter(|node| !node.entry.path.is_empty())
        .filter_map(|node| {
            let kind = match change_kind(merged, &node, source(&node))? {
                ChangeKind::HardLink { target } => {
                    ChangeKind::HardLink { target: join(folder, &target) }
                }
                kind => kind,
            };
            let entry = node.entry;
            let (mode, uid, gid) = (entry.mode, entry.uid, entry.gid);
            let mtime = epoch.map_or(entry.mtime, Mtime::from_seconds);
            let (path, xattrs) = (join(folder, entry.path), entry.xattrs.to_map());
            Some(Change { path, kind, mode, uid, gid, mtime, xattrs })
        })
        .collect()
}

fn change_kind(
    merged: &Merged,
    node: &davit_layer::Node<'_>,
    source: Source,
) -> Option<ChangeKind> {
    Some(match node.entry.kind {
        _ if node.inode != node.id => {
            ChangeKind::HardLink { target: merged.path(node.inode).to_vec() }
        }
        Kind::File { size, .. } => ChangeKind::File { size, source },
        Kind::Directory { .. } => ChangeKind::Directory,
        Kind::Symlink { target } => ChangeKind::Symlink { target: target.to_vec() },
        Kind::CharDevice { major, minor } => ChangeKind::CharDevice { major, minor },
        Kind::BlockDevice { major, minor } => ChangeKind::BlockDevice { major, minor },
        Kind::Fifo => ChangeKind::Fifo,
        Kind::HardLink { .. } | Kind::Whiteout => return None,
    })
}

/// What layers show, and their tars, bottom first.
pub type OpenedLayers = (Arc<Merged>, Vec<Arc<File>>);

/// Opens layers, bottom first, and keeps them for the lease.
///
/// # Errors
/// [`LayerError`] for one that is not here or cannot be read.
pub fn open_layers(
    store: &Store,
    lease: &Lease<'_>,
    layers: &[DiffId],
) -> Result<OpenedLayers, LayerError> {
    let open_layers = Layers::new(store, lease);
    let state = State::image(layers.to_vec());
    Ok((open_layers.merged(&state)?, open_layers.tars(&state)?))
}

/// No change is read from a file.
struct NoFiles;

impl Opener for NoFiles {
    fn open(&self, _position: usize, _change: &Change) -> io::Result<File> {
        Err(io::ErrorKind::NotFound.into())
    }
}
