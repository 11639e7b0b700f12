//! What a container changed: `diff`, `export` and `commit`.
//!
//! ```text
//! what was written --(diff)-----> changes --+--> lines (diff)
//! image's layers ---(tables)---^            +--> layer -> tree -> tar (export)
//!                                           +--> layer + config -> image (commit)
//! ```

mod commit;
mod frozen;

use std::{
    fs::File,
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
};

use davit_image::DiffId;
use davit_layer::{
    ChangeKind, Changes, Lower, MergeError, Merged, Table, TableError, WriteError, WriteOptions,
    write_layer,
};
use davit_snapshot::{Mountpoints, SnapshotError, Upper};
use davit_store::{LayerIngest, Lease, StoreError};

pub use self::commit::{CommitRequest, Pause};
use super::{Container, ContainerError};
use crate::{ChangeError, Engine, Hint, ImageError};
pub(crate) use frozen::thaw_helper;

/// What is mounted over in every container: nothing there is the container's own.
const MOUNTED_TREES: [&[u8]; 3] = [b"dev", b"proc", b"sys"];
const MOUNTED_FILES: [&[u8]; 4] =
    [b".dockerenv", b"etc/hostname", b"etc/hosts", b"etc/resolv.conf"];

/// Why a container's changes cannot be told or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangesError {
    /// There is no such container, or its state forbids it.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The container's image cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A `--change` is refused.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The container's root file system is in no form that is known here.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The container wrote to a tmpfs, which ended with it.
    #[error("what container {0} changed lay in memory and ended with it")]
    Vanished(String),
    /// A layer of the image is gone.
    #[error("layer {0} is not in the store")]
    Missing(DiffId),
    /// A layer's table is damaged.
    #[error("the table of layer {layer} is damaged")]
    Table {
        /// The layer.
        layer: DiffId,
        /// How.
        #[source]
        source: TableError,
    },
    /// The layers make no tree.
    #[error("the layers do not fit together")]
    Merge(#[from] MergeError),
    /// A layer or tar cannot be written.
    #[error("cannot write the files of container {id}")]
    Write {
        /// Its id.
        id: String,
        /// Why.
        #[source]
        source: WriteError,
    },
    /// A file of the store cannot be used.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Hint for ChangesError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Container(error) => error.hints(),
            Self::Image(error) => error.hints(),
            Self::Snapshot(error) => error.hints(),
            Self::Store(error) => error.hints(),
            Self::Vanished(_) => vec![
                "set `upper` under [store] in the configuration to a folder that is not on an overlay"
                    .to_owned(),
            ],
            Self::Missing(_) | Self::Table { .. } => {
                vec!["davit system check --repair".to_owned()]
            }
            _ => Vec::new(),
        }
    }
}

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// The image has it, and it, or something in it, is different now.
    Changed,
    /// The image does not have it.
    Added,
    /// The image has it, the container does not.
    Deleted,
}

/// One path that differs from the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedPath {
    /// What happened to it.
    pub change: PathChange,
    /// Its absolute path; bytes that are no UTF-8 are replaced.
    pub path: String,
}

/// The layers of a container's image, open.
struct Image {
    layers: Vec<(DiffId, u64)>,
    tables: Vec<Arc<Table>>,
    tars: Vec<Arc<File>>,
    merged: Merged,
}

impl Engine {
    /// Lists what a container changed in its image's files, by path; directories on the way to a
    /// change count as changed, what is mounted does not.
    ///
    /// # Errors
    /// See [`ChangesError`].
    pub fn diff_container(&self, name: &str) -> Result<Vec<ChangedPath>, ChangesError> {
        let container = self.container(name)?;
        let lease = self.store().lease("diff")?;
        let image = self.layers_of(&container, &lease)?;
        let Some(changes) = self.changes_of(&container, &image)? else { return Ok(Vec::new()) };
        let mut paths = Vec::new();
        for change in changes.changes.iter().filter(|change| !change.path.is_empty()) {
            let kind = match change.kind {
                ChangeKind::Whiteout => PathChange::Deleted,
                _ if image.merged.find(&change.path).is_some() => PathChange::Changed,
                _ => PathChange::Added,
            };
            let path = format!("/{}", String::from_utf8_lossy(&change.path));
            paths.push(ChangedPath { change: kind, path });
        }
        paths.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        Ok(paths)
    }

    /// Writes a container's whole root file system as a tar, without what is mounted in it.
    ///
    /// A running container is not stopped meanwhile. Its changes are copied before the first byte
    /// is written, so a slow reader of `sink` sees one state.
    ///
    /// # Errors
    /// See [`ChangesError`]; what was written is worthless then.
    pub fn export_container(&self, name: &str, sink: &mut dyn Write) -> Result<(), ChangesError> {
        let container = self.container(name)?;
        let lease = self.store().lease("export")?;
        let mut image = self.layers_of(&container, &lease)?;
        // Never committed, so its files go with it.
        let ingest = self.store().begin_layer(&lease)?;
        if let Some(changes) = self.changes_of(&container, &image)? {
            let (table, tar) = write_changes(&container, &changes, &ingest)?;
            image.tables.push(Arc::new(table));
            image.tars.push(Arc::new(tar));
            image.merged = Merged::new(image.tables)?;
        }
        let written = davit_build::write_tree(&image.merged, &image.tars, None, sink);
        written.map_err(|source| ChangesError::Write { id: container.id.clone(), source })?;
        self.append_event(
            "container",
            "export",
            &container.id,
            &[("name", container.name.clone())],
        );
        Ok(())
    }

    fn layers_of(&self, container: &Container, lease: &Lease<'_>) -> Result<Image, ChangesError> {
        let chain = match &container.image_id {
            Some(id) => self.store().image_layers(id)?,
            None => Vec::new(),
        };
        let layout = self.store().layout();
        let open = |path: PathBuf| match fs_err::File::open(&path) {
            Ok(file) => Ok(file.into_parts().0),
            Err(source) => Err(ChangesError::Io { path, source }),
        };
        let (mut layers, mut tables, mut tars) = (Vec::new(), Vec::new(), Vec::new());
        for layer in chain {
            let row = lease.hold_layer(&layer)?.ok_or(ChangesError::Missing(layer))?;
            let table = Table::open(&open(layout.layer_table(&layer))?);
            let table = table.map_err(|source| ChangesError::Table { layer, source })?;
            layers.push((layer, row.tar_size));
            tables.push(Arc::new(table));
            tars.push(Arc::new(open(layout.layer_tar(&layer))?));
        }
        let merged = Merged::new(tables.clone())?;
        Ok(Image { layers, tables, tars, merged })
    }

    /// What the container wrote; `None` when it never ran.
    fn changes_of(
        &self,
        container: &Container,
        image: &Image,
    ) -> Result<Option<Changes>, ChangesError> {
        let snapshots = self.snapshots()?;
        let upper = snapshots.upper(self.store().layout().container(&container.id))?;
        let monitor = match (&upper, container.status.process) {
            (Upper::Directory(_) | Upper::Copy(_), _) => 0,
            (Upper::Tmpfs { .. }, Some(process)) => parent_of(process.pid).unwrap_or(0),
            (Upper::Tmpfs { .. }, None) if container.status.started.is_none() => return Ok(None),
            (Upper::Tmpfs { .. }, None) => {
                return Err(ChangesError::Vanished(container.name.clone()));
            }
        };
        let xattrs = WriteOptions::default().xattrs;
        let lower = Lower { merged: &image.merged, tars: &image.tars, xattrs };
        let found = snapshots.changes((&upper, monitor), &lower, Mountpoints::Container)?;
        let Some(mut changes) = found else { return Ok(None) };
        changes.changes.retain(|change| !is_mounted(&change.path));
        Ok(Some(changes))
    }
}

/// Writes changes as the tar of `ingest`.
fn write_changes(
    container: &Container,
    changes: &Changes,
    ingest: &LayerIngest<'_>,
) -> Result<(Table, File), ChangesError> {
    let options = WriteOptions { readers: 2, ..WriteOptions::default() };
    let mut tar = ingest.create_tar()?;
    let table = write_layer(&changes.changes, changes, &mut tar, &options)
        .map_err(|source| ChangesError::Write { id: container.id.clone(), source })?;
    Ok((table, tar.into_parts().0))
}

/// Whether every container has something mounted at the path or above it.
fn is_mounted(path: &[u8]) -> bool {
    let top = path.split(|byte| *byte == b'/').next().unwrap_or_default();
    MOUNTED_TREES.contains(&top) || MOUNTED_FILES.contains(&path)
}

/// The monitor of a container's first process.
fn parent_of(pid: i32) -> Option<u32> {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounted_paths() {
        for path in ["dev", "dev/null", "proc", "sys/fs", "etc/hosts", ".dockerenv"] {
            assert!(is_mounted(path.as_bytes()), "{path}");
        }
        for path in ["", "device", "etc", "etc/hosts.d", "home/dev", "var/.dockerenv"] {
            assert!(!is_mounted(path.as_bytes()), "{path}");
        }
    }
}
