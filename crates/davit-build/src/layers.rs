//! Layers that a build has opened, and the file systems that they make.

use std::{
    collections::HashMap,
    fs::File,
    os::unix::fs::FileExt as _,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use davit_image::{ChainId, DiffId};
use davit_layer::{Digests, Extent, Kind, Merged, Source, Table};
use davit_store::{Lease, Store};

use crate::copy::PasswdFiles;

/// Largest file that is read as a whole (`/etc/passwd`).
const SMALL_FILE: u64 = 16 << 20;

/// Why a layer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// It is not in the store any more.
    #[error("layer {0} is not in the store")]
    Missing(DiffId),
    /// The store failed.
    #[error("cannot read layer {diff_id}")]
    Store {
        /// The layer.
        diff_id: DiffId,
        /// Why.
        #[source]
        source: davit_store::StoreError,
    },
    /// Its files cannot be read.
    #[error("cannot read layer {diff_id}")]
    Io {
        /// The layer.
        diff_id: DiffId,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its table is damaged.
    #[error("the table of layer {diff_id} is damaged")]
    Table {
        /// The layer.
        diff_id: DiffId,
        /// How.
        #[source]
        source: davit_layer::TableError,
    },
    /// The layers make no tree.
    #[error("the layers do not fit together")]
    Merge(#[from] davit_layer::MergeError),
}

/// One layer, open.
#[derive(Debug)]
pub(crate) struct OpenLayer {
    pub(crate) tar: Arc<File>,
    pub(crate) table: Arc<Table>,
}

/// Opens layers of the store, each once.
pub(crate) struct Layers<'s> {
    store: &'s Store,
    lease: &'s Lease<'s>,
    open: Mutex<HashMap<DiffId, Arc<OpenLayer>>>,
}

/// A file system: layers, bottom first.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) layers: Vec<DiffId>,
    /// The state that this one adds its top layer to.
    below: Option<Arc<Self>>,
    merged: OnceLock<Arc<Merged>>,
}

impl State {
    /// The state of an image.
    pub(crate) fn image(layers: Vec<DiffId>) -> Arc<Self> {
        Arc::new(Self { layers, below: None, merged: OnceLock::new() })
    }

    /// This state with one more layer.
    pub(crate) fn push(self: &Arc<Self>, layer: DiffId) -> Arc<Self> {
        let mut layers = self.layers.clone();
        layers.push(layer);
        Arc::new(Self { layers, below: Some(Arc::clone(self)), merged: OnceLock::new() })
    }

    /// What tells it from others: its layers' digests.
    pub(crate) fn key(&self) -> String {
        ChainId::of(&self.layers).map_or_else(|| "scratch".to_owned(), |chain| chain.to_string())
    }
}

impl<'s> Layers<'s> {
    pub(crate) fn new(store: &'s Store, lease: &'s Lease<'s>) -> Self {
        Self { store, lease, open: Mutex::new(HashMap::new()) }
    }

    /// Opens a layer and keeps it for the build.
    pub(crate) fn open(&self, diff_id: DiffId) -> Result<Arc<OpenLayer>, LayerError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layer) = open.get(&diff_id) {
            return Ok(Arc::clone(layer));
        }
        let row = self.lease.hold_layer(&diff_id);
        row.map_err(|source| LayerError::Store { diff_id, source })?
            .ok_or(LayerError::Missing(diff_id))?;
        let layout = self.store.layout();
        let opened = |path: std::path::PathBuf| -> std::io::Result<File> {
            Ok(fs_err::File::open(path)?.into_parts().0)
        };
        let failed = |source| LayerError::Io { diff_id, source };
        let tar = Arc::new(opened(layout.layer_tar(&diff_id)).map_err(failed)?);
        let table = opened(layout.layer_table(&diff_id)).map_err(failed)?;
        let table = Table::open(&table).map_err(|source| LayerError::Table { diff_id, source })?;
        let layer = Arc::new(OpenLayer { tar, table: Arc::new(table) });
        open.insert(diff_id, Arc::clone(&layer));
        Ok(layer)
    }

    /// Digests of the files of an open layer, if they were remembered.
    pub(crate) fn digests(&self, diff_id: DiffId, layer: &OpenLayer) -> Option<Digests> {
        let file = fs_err::File::open(self.store.layout().layer_digests(&diff_id)).ok()?;
        Digests::open(file.file(), &layer.table).ok()
    }

    /// Remembers a layer that was just written.
    pub(crate) fn add(&self, diff_id: DiffId, layer: OpenLayer) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(diff_id, Arc::new(layer));
    }

    /// What a state shows. One that stands upon another costs only its top layer.
    pub(crate) fn merged(&self, state: &State) -> Result<Arc<Merged>, LayerError> {
        if let Some(merged) = state.merged.get() {
            return Ok(Arc::clone(merged));
        }
        let table = |layer: &DiffId| Ok(Arc::clone(&self.open(*layer)?.table));
        let merged = match (&state.below, state.layers.last()) {
            (Some(below), Some(top)) if !below.layers.is_empty() => {
                Merged::on(self.merged(below)?, vec![table(top)?])?
            }
            _ => {
                let tables = state.layers.iter().map(table);
                Merged::new(tables.collect::<Result<_, LayerError>>()?)?
            }
        };
        Ok(Arc::clone(state.merged.get_or_init(|| Arc::new(merged))))
    }

    /// The tars of a state's layers, bottom first.
    pub(crate) fn tars(&self, state: &State) -> Result<Vec<Arc<File>>, LayerError> {
        state.layers.iter().map(|layer| Ok(Arc::clone(&self.open(*layer)?.tar))).collect()
    }
}

/// Content of an entry of a layer.
pub(crate) fn source_of(layer: &OpenLayer, entry: u32) -> Source {
    let extents = match layer.table.at(entry).kind {
        Kind::File { extents, .. } => extents.iter().collect(),
        _ => Vec::new(),
    };
    Source::Tar { tar: Arc::clone(&layer.tar), extents }
}

/// Small files of a state, symlinks followed within it.
pub(crate) struct StateFiles<'a> {
    pub(crate) merged: &'a Merged,
    pub(crate) tars: &'a [Arc<File>],
}

impl PasswdFiles for StateFiles<'_> {
    fn read(&self, path: &str) -> std::io::Result<Option<Vec<u8>>> {
        let Ok(path) = self.merged.follow(path.as_bytes()) else { return Ok(None) };
        let Some(node) = self.merged.find(&path) else { return Ok(None) };
        let Kind::File { size, extents } = node.entry.kind else { return Ok(None) };
        if size > SMALL_FILE {
            return Ok(None);
        }
        let extents: Vec<Extent> = extents.iter().collect();
        read_extents(&self.tars[node.layer], size, &extents).map(Some)
    }
}

/// Reads a whole small file out of a tar; holes are zeros.
pub(crate) fn read_extents(tar: &File, size: u64, extents: &[Extent]) -> std::io::Result<Vec<u8>> {
    let length = |value: u64| usize::try_from(value).map_err(std::io::Error::other);
    let mut bytes = vec![0; length(size)?];
    for extent in extents {
        let start = length(extent.file_offset)?;
        let end = start + length(extent.length)?;
        let range = bytes.get_mut(start..end).ok_or(std::io::ErrorKind::InvalidData)?;
        tar.read_exact_at(range, extent.tar_offset)?;
    }
    Ok(bytes)
}
