//! Layers that several takers of one build get: each is compressed once, into a file that lasts as
//! long as the build.

use std::{
    collections::{BTreeSet, HashMap},
    io::{self, BufWriter, Write as _},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use davit_build::Cancellable;
use davit_image::{DiffId, Digest};
use davit_layer::{CompressOptions, compress, compressor_name};
use davit_store::{LayerIngest, Layout, Lease, Store, StoreError};

use crate::build::PackError;

const BUFFER: usize = 1 << 20;

/// Yields a directory of the build's own, which is made when it is wanted first.
pub(crate) type FindDirectory<'a> = &'a (dyn Fn() -> Result<PathBuf, StoreError> + Sync);

/// A file that is being written.
pub(crate) type Sink<'a> = Cancellable<'a, BufWriter<fs_err::File>>;

/// A layer as a compressed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CompressedLayer {
    pub(crate) digest: Digest,
    pub(crate) size_bytes: u64,
    pub(crate) path: PathBuf,
}

/// A layer's place; empty until somebody has compressed it.
type Slot = Arc<Mutex<Option<CompressedLayer>>>;

/// The directory of a build for files that nobody else sees; it goes with this.
pub(crate) struct Scratch<'a> {
    store: &'a Store,
    lease: &'a Lease<'a>,
    made: Mutex<Option<LayerIngest<'a>>>,
}

impl<'a> Scratch<'a> {
    pub(crate) const fn new(store: &'a Store, lease: &'a Lease<'a>) -> Self {
        Self { store, lease, made: Mutex::new(None) }
    }

    /// The directory, made now if it was not.
    pub(crate) fn directory(&self) -> Result<PathBuf, StoreError> {
        let mut place = lock(&self.made);
        if place.is_none() {
            *place = Some(self.store.begin_layer(self.lease)?);
        }
        Ok(place.as_ref().map(|made| made.dir().to_path_buf()).unwrap_or_default())
    }
}

/// The compressed layers of one build.
pub(crate) struct CompressedLayers<'a> {
    layout: &'a Layout,
    directory: FindDirectory<'a>,
    cancelled: &'a AtomicBool,
    /// How those compress who need files, by the compressors' names.
    wanted: BTreeSet<String>,
    count: AtomicUsize,
    slots: Mutex<HashMap<(DiffId, String), Slot>>,
}

impl<'a> CompressedLayers<'a> {
    /// None so far; `wanted` is how those compress who need files.
    pub(crate) fn new(
        layout: &'a Layout,
        directory: FindDirectory<'a>,
        cancelled: &'a AtomicBool,
        wanted: impl IntoIterator<Item = CompressOptions>,
    ) -> Self {
        Self {
            layout,
            directory,
            cancelled,
            wanted: wanted.into_iter().map(|options| compressor_name(&options)).collect(),
            count: AtomicUsize::new(0),
            slots: Mutex::default(),
        }
    }

    /// A layer, compressed so; waits for another one who does it already.
    ///
    /// # Errors
    /// [`PackError`]; the next one who asks tries again.
    pub(crate) fn take(
        &self,
        diff_id: DiffId,
        options: &CompressOptions,
    ) -> Result<CompressedLayer, PackError> {
        let slot = self.slot((diff_id, compressor_name(options)));
        let mut place = lock(&slot);
        match &*place {
            Some(made) => Ok(made.clone()),
            None => Ok(place.insert(self.compress(diff_id, options)?).clone()),
        }
    }

    /// The file for one who could do without, which is made only where somebody else needs it, too.
    pub(crate) fn offer(
        &self,
        diff_id: DiffId,
        options: &CompressOptions,
    ) -> Option<CompressedLayer> {
        let name = compressor_name(options);
        if !self.wanted.contains(&name) {
            return lock(&self.slot((diff_id, name))).clone();
        }
        match self.take(diff_id, options) {
            Ok(made) => Some(made),
            Err(error) => {
                tracing::debug!(%error, "the layer is compressed without a file");
                None
            }
        }
    }

    /// A file of the build's own.
    pub(crate) fn file(&self) -> Result<(PathBuf, Sink<'_>), FileError> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let path = self.directory()?.join(format!("packed-{number}"));
        let file = fs_err::File::create_new(&path).map_err(FileError::File)?;
        let inner = BufWriter::with_capacity(BUFFER, file);
        Ok((path, Cancellable { inner, cancelled: self.cancelled }))
    }

    /// A directory of the build's own.
    pub(crate) fn directory(&self) -> Result<PathBuf, StoreError> {
        (self.directory)()
    }

    fn slot(&self, key: (DiffId, String)) -> Slot {
        Arc::clone(lock(&self.slots).entry(key).or_default())
    }

    fn compress(
        &self,
        diff_id: DiffId,
        options: &CompressOptions,
    ) -> Result<CompressedLayer, PackError> {
        let failed = |source| PackError::Write { diff_id, source };
        let tar = fs_err::File::open(self.layout.layer_tar(&diff_id)).map_err(failed)?;
        let (path, mut sink) = self.file().map_err(|error| error.of(diff_id))?;
        note_compressing(&diff_id);
        let made = compress(tar.file(), &mut sink, options)
            .map_err(|source| PackError::Compress { diff_id, source })
            .and_then(|made| sink.inner.flush().map(|()| made).map_err(failed));
        if made.is_err() {
            // What is left of it goes with the build in any case.
            drop(fs_err::remove_file(&path));
        }
        let made = made?;
        Ok(CompressedLayer { digest: made.digest, size_bytes: made.size, path })
    }
}

/// Why there is no file.
pub(crate) enum FileError {
    Store(StoreError),
    File(io::Error),
}

impl From<StoreError> for FileError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl FileError {
    /// For that layer.
    pub(crate) fn of(self, diff_id: DiffId) -> PackError {
        match self {
            Self::Store(error) => error.into(),
            Self::File(source) => PackError::Write { diff_id, source },
        }
    }
}

/// Says for whoever debugs a build that a layer costs time now.
pub(crate) fn note_compressing(diff_id: &DiffId) {
    tracing::debug!(layer = %diff_id.digest().short_hex(), "compressing");
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
