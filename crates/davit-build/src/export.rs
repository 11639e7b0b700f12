//! A result as files: a directory or one tar, without config and history.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use davit_image::DiffId;
use davit_layer::{
    Change, ChangeKind, ExtractError, ExtractOptions, Kind, Merged, Mtime, Opener, Source,
    WriteError, WriteOptions, XattrPolicy, extract, write_layer,
};
use davit_store::{Lease, Store};

use crate::{
    cancel::check,
    layers::{LayerError, Layers, State},
};

/// Why a result cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A layer cannot be read.
    #[error(transparent)]
    Layer(#[from] LayerError),
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
}

/// Writes the files of `layers` into the directory `target`, which is made if it is missing. What
/// it holds stays where the result has nothing of the same path. All of it is the caller's, as with
/// Docker's clients: people take files out, and a tar keeps the owners. `epoch` in seconds is the
/// time of all, if it is given.
///
/// Blocks; nothing is synced. Fails once `cancelled` is set.
///
/// # Errors
/// [`ExportError`]; some files may be written then.
pub fn export_directory(
    store: &Store,
    lease: &Lease<'_>,
    layers: &[DiffId],
    epoch: Option<i64>,
    target: &Path,
    cancelled: &AtomicBool,
) -> Result<(), ExportError> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| ExportError::Write { path, source }
    };
    fs_err::create_dir_all(target).map_err(failed(target))?;
    let (merged, tars) = open(store, lease, layers)?;
    // Files are made anew below a directory that is empty, and only then take their places.
    let staging = target.join(format!(".davit-export-{}", lease.id()));
    fs_err::create_dir(&staging).map_err(failed(&staging))?;
    let moved = || -> Result<(), ExportError> {
        let directory = File::from(
            rustix::fs::open(
                &staging,
                rustix::fs::OFlags::RDONLY
                    | rustix::fs::OFlags::DIRECTORY
                    | rustix::fs::OFlags::CLOEXEC,
                rustix::fs::Mode::empty(),
            )
            .map_err(|errno| failed(&staging)(errno.into()))?,
        );
        let caller = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let options = ExtractOptions {
            workers: 2,
            owner: Some(caller),
            mtime: epoch.map(Mtime::from_seconds),
            cancelled: Some(cancelled),
            ..ExtractOptions::default()
        };
        extract(&merged, &tars, directory.as_fd(), &options)?;
        move_into(&staging, target, cancelled)
    };
    let outcome = moved();
    let removed = fs_err::remove_dir_all(&staging).map_err(failed(&staging));
    outcome.and(removed)
}

/// Moves what `from` holds into `to`; directories that both have are merged.
fn move_into(from: &Path, to: &Path, cancelled: &AtomicBool) -> Result<(), ExportError> {
    let mut stack = vec![(from.to_path_buf(), to.to_path_buf())];
    while let Some((from, to)) = stack.pop() {
        let failed = |source| ExportError::Write { path: to.clone(), source };
        for entry in fs_err::read_dir(&from).map_err(failed)? {
            check(cancelled).map_err(failed)?;
            let source = entry.map_err(failed)?.path();
            let name = source.file_name().unwrap_or_default();
            let target = to.join(name);
            let is_directory =
                |path: &Path| path.symlink_metadata().is_ok_and(|found| found.is_dir());
            if is_directory(&source) && is_directory(&target) {
                stack.push((source, target));
                continue;
            }
            fs_err::rename(&source, &target).map_err(failed)?;
        }
    }
    Ok(())
}

/// Writes the files of `layers` as one tar; `epoch` in seconds is the time of all, if it is given.
///
/// Blocks.
///
/// # Errors
/// [`ExportError`]; what was written is worthless then.
pub fn export_tar(
    store: &Store,
    lease: &Lease<'_>,
    layers: &[DiffId],
    epoch: Option<i64>,
    sink: &mut dyn Write,
) -> Result<(), ExportError> {
    let (merged, tars) = open(store, lease, layers)?;
    Ok(write_tree(&merged, &tars, epoch, sink)?)
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
    let source = |node: &davit_layer::Node<'_>| {
        let extents = match merged.layer(node.layer).at(node.index).kind {
            Kind::File { extents, .. } => extents.iter().collect(),
            _ => Vec::new(),
        };
        Source::Tar { tar: Arc::clone(&tars[node.layer]), extents }
    };
    let changes: Vec<Change> = merged
        .iter()
        .filter(|node| !node.entry.path.is_empty())
        .filter_map(|node| {
            let kind = change_kind(merged, &node, source(&node))?;
            let entry = node.entry;
            let (mode, uid, gid) = (entry.mode, entry.uid, entry.gid);
            let mtime = epoch.map_or(entry.mtime, Mtime::from_seconds);
            let (path, xattrs) = (entry.path.to_vec(), entry.xattrs.to_map());
            Some(Change { path, kind, mode, uid, gid, mtime, xattrs })
        })
        .collect();
    let options = WriteOptions { xattrs: XattrPolicy::All, readers: 2, ..WriteOptions::default() };
    write_layer(&changes, &NoFiles, sink, &options)?;
    Ok(())
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

/// What layers show, and their tars.
type Opened = (Arc<Merged>, Vec<Arc<File>>);

fn open(store: &Store, lease: &Lease<'_>, layers: &[DiffId]) -> Result<Opened, LayerError> {
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
