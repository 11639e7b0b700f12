//! Results of a build on their way into caches: layers go as soon as they are final, the records
//! when the build is done.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use davit_build::{Shareable, one_line};
use davit_image::{Descriptor, DiffId, Digest};

use super::{
    CacheError, CacheExport, CacheFailure, CachePlace, CacheScope, Caches, MountSharing, Packed,
    format::Contents,
    import::tell,
    place::{Put, Sink, Source},
};
use crate::{Event, build::pack::Packer, origin::OriginError, push::StoredBlob};

/// How often a cache is written that others write at the same time.
const ATTEMPTS: usize = 10;
/// How long is waited at most for those whose writing has begun already.
const LONGEST_SETTLE: Duration = Duration::from_secs(1);

/// What is under a cache's name, and which of its versions that is.
#[derive(Debug, Default)]
struct Present {
    digest: Option<Digest>,
    version: Option<String>,
    contents: Contents,
}

/// A cache that is written while a build runs.
struct CacheWriter<'a> {
    caches: &'a Caches<'a>,
    export: &'a CacheExport,
    place: String,
    folder: &'a Path,
    packer: Mutex<Packer<'a>>,
    /// The next result to look at.
    next: AtomicUsize,
    /// Layers that somebody here takes care of, with their blobs once these are at the place.
    sent: Mutex<BTreeMap<DiffId, Option<Descriptor>>>,
}

impl Caches<'_> {
    /// Runs `work`, which is a build and what becomes of its result, and writes the caches: layers
    /// meanwhile, each as soon as it is final, and the records in the end.
    ///
    /// # Errors
    /// Those of `work`; else the first cache that cannot be written, unless that is only told.
    pub(in crate::build) fn writing<T, E: From<CacheError>>(
        &self,
        exports: &[CacheExport],
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let Some(results) = &self.results else { return work() };
        let scratch = self.engine.store().begin_layer(self.lease).map_err(CacheError::from)?;
        let folders = folders(scratch.dir(), exports.len()).map_err(CacheError::Scratch)?;
        let writers: Vec<_> =
            exports.iter().zip(&folders).map(|it| CacheWriter::new(self, it)).collect();
        let done = thread::scope(|scope| {
            let closing = results.closing();
            for writer in &writers {
                for _ in 0..writer.export.parallel {
                    scope.spawn(|| writer.send_early());
                }
            }
            let done = work();
            if done.is_err() {
                results.abandon();
            }
            drop(closing);
            done
        })?;
        let results = results.all();
        for writer in &writers {
            match (writer.finish(&results), writer.export.failure) {
                (Err(error), CacheFailure::Told) => tell(self.events, one_line(&error)),
                (written, _) => written?,
            }
        }
        Ok(done)
    }
}

/// A folder for the packed layers of each cache.
fn folders(scratch: &Path, count: usize) -> std::io::Result<Vec<PathBuf>> {
    let folder = |number: usize| {
        let folder = scratch.join(format!("cache-{number}"));
        fs_err::create_dir(&folder).map(|()| folder)
    };
    (0..count).map(folder).collect()
}

impl<'a> CacheWriter<'a> {
    fn new(caches: &'a Caches<'a>, (export, folder): (&'a CacheExport, &'a PathBuf)) -> Self {
        let packer = Packer {
            engine: caches.engine,
            directory: folder,
            cancelled: caches.cancelled,
            compression: export.compression,
            known: HashMap::new(),
            renamed: HashMap::new(),
            files: BTreeMap::new(),
        };
        Self {
            caches,
            export,
            place: export.place.to_string(),
            folder,
            packer: Mutex::new(packer),
            next: AtomicUsize::new(0),
            sent: Mutex::default(),
        }
    }

    fn failed(&self, source: OriginError) -> CacheError {
        CacheError::Access { place: self.place.clone(), source }
    }

    fn wants(&self, result: &Shareable) -> bool {
        self.export.scope == CacheScope::All || result.in_result
    }

    /// Sends layers until the build is done. What fails is tried again, and told, at the end.
    fn send_early(&self) {
        let Some(results) = &self.caches.results else { return };
        let sink = match &self.export.place {
            // One that writes into a directory keeps all others out.
            CachePlace::Directory { .. } => None,
            place => Sink::open(place, &self.caches.registries, self.caches.cancelled).ok(),
        };
        let there: BTreeSet<DiffId> = match &sink {
            Some(_) => self.present().map_or_else(|_| BTreeSet::new(), |it| it.layers()),
            None => BTreeSet::new(),
        };
        while let Some(result) = results.wait_for(self.next.fetch_add(1, Ordering::Relaxed)) {
            let layer = result.record.layer;
            if !self.wants(&result) || there.contains(&layer) || self.sent().contains_key(&layer) {
                continue;
            }
            self.sent().insert(layer, None);
            match self.send(sink.as_ref(), layer) {
                Ok(blob) => drop(self.sent().insert(layer, blob)),
                Err(error) => tracing::debug!(%error, "a layer is sent when the build is done"),
            }
        }
    }

    fn sent(&self) -> std::sync::MutexGuard<'_, BTreeMap<DiffId, Option<Descriptor>>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the records to what is there, and what is missing of their layers.
    fn finish(&self, results: &[Shareable]) -> Result<(), CacheError> {
        let mut new = Contents::default();
        let wanted = results.iter().filter(|result| self.wants(result));
        wanted.for_each(|result| new.add(result.record.clone()));
        if let (MountSharing::Go, Some(mounts)) = (self.export.mounts, &self.caches.mounts) {
            let mounts = mounts.lock().unwrap_or_else(PoisonError::into_inner).clone();
            mounts.into_iter().for_each(|mount| new.add_mount(mount));
        }
        let text = format!("Writing the build cache {}", self.place);
        self.caches.progress.report(Event::Message(&text));
        // One writer of a directory waits for the other.
        let sink = Sink::open(&self.export.place, &self.caches.registries, self.caches.cancelled);
        let sink = sink.map_err(|error| self.failed(error))?;
        let mut before = self.present()?;
        for _ in 0..ATTEMPTS {
            let merged = self.merge(before.contents.clone(), &new, &sink)?;
            if merged == before.contents || self.replace(&sink, &before, &merged)? {
                return Ok(());
            }
            before = self.present()?;
        }
        let problem = "others write it all the time".to_owned();
        Err(CacheError::Malformed { place: self.place.clone(), problem })
    }

    /// Puts new contents in the place of those that were there; false if others were faster, or
    /// have replaced them at once.
    fn replace(
        &self,
        sink: &Sink<'_>,
        before: &Present,
        merged: &Contents,
    ) -> Result<bool, CacheError> {
        let written = merged.write();
        sink.prepare(&written, self.folder).map_err(|error| self.failed(error))?;
        if !sink.is_exclusive() && self.top()? != before.digest {
            return Ok(false);
        }
        let begun = Instant::now();
        match sink.put(&written, before.version.as_deref()).map_err(|error| self.failed(error))? {
            Put::Done => Ok(true),
            Put::Refused => Ok(false),
            Put::Overwritten => {
                // Another one may have begun before this one was done: its result is there when as
                // much time has passed again.
                thread::sleep(begun.elapsed().min(LONGEST_SETTLE));
                Ok(self.top()? == Some(written.manifest.digest()))
            }
        }
    }

    fn source(&self) -> Result<Source, CacheError> {
        Source::open(&self.export.place, &self.caches.registries, self.caches.cancelled)
    }

    /// What a cache has now.
    fn present(&self) -> Result<Present, CacheError> {
        let source = match self.source() {
            Err(error) if error.is_absent() => return Ok(Present::default()),
            source => source?,
        };
        let (digest, contents) = match source.read() {
            // What the name stands for may have lost what it names.
            Err(error) if error.is_absent() => (self.top()?, Contents::default()),
            read => read.map(|(digest, contents)| (Some(digest), contents))?,
        };
        Ok(Present { digest, version: source.version, contents })
    }

    /// The digest of what is under the cache's name now.
    fn top(&self) -> Result<Option<Digest>, CacheError> {
        let found = self.source().and_then(|source| source.top());
        match found {
            Err(error) if error.is_absent() => Ok(None),
            found => found.map(Some),
        }
    }

    /// Adds new records to those of a cache, and their layers where it has none.
    fn merge(
        &self,
        mut contents: Contents,
        new: &Contents,
        sink: &Sink<'_>,
    ) -> Result<Contents, CacheError> {
        // A layer that stayed where it is can only be named there.
        for record in new.records.values() {
            if self.is_named(&mut contents, record.layer, sink)? {
                contents.add(record.clone());
            }
        }
        for mount in new.mounts.values() {
            if self.is_named(&mut contents, mount.layer, sink)? {
                contents.add_mount(mount.clone());
            }
        }
        contents.trim();
        Ok(contents)
    }

    /// Whether contents name a layer, once it is sent where they did not.
    fn is_named(
        &self,
        contents: &mut Contents,
        layer: DiffId,
        sink: &Sink<'_>,
    ) -> Result<bool, CacheError> {
        let Entry::Vacant(place) = contents.layers.entry(layer) else { return Ok(true) };
        let known = self.sent().get(&layer).cloned().flatten();
        let blob = match known {
            Some(blob) => Some(blob),
            None => self.send(Some(sink), layer)?,
        };
        Ok(blob.map(|blob| place.insert(blob)).is_some())
    }

    /// Brings a layer to the place, unless that has it; `None` if it is not here. Without a place it
    /// is only compressed.
    fn send(
        &self,
        sink: Option<&Sink<'_>>,
        layer: DiffId,
    ) -> Result<Option<Descriptor>, CacheError> {
        let store = self.caches.engine.store();
        if self.caches.lease.hold_layer(&layer)?.is_none() {
            return Ok(None);
        }
        let has = |blob: &Descriptor| -> Result<bool, CacheError> {
            sink.map_or(Ok(false), |sink| sink.has(blob)).map_err(|error| self.failed(error))
        };
        for form in store.layer_blobs(&layer)? {
            let blob = Descriptor::new(form.media_type.clone(), form.digest, form.size);
            let format = self.export.compression.format;
            let fits = blob.media_type.layer_compression() == Some(format);
            if fits && !blob.is_foreign() && has(&blob)? {
                return Ok(Some(blob));
            }
        }
        let packed = self.packer.lock().unwrap_or_else(PoisonError::into_inner).packed(layer);
        let place = || self.place.clone();
        let packed = packed.map_err(|source| CacheError::Pack { place: place(), source })?;
        let Packed { blob, file } = packed;
        let Some(sink) = sink else { return Ok(None) };
        if !has(&blob)? {
            let file: PathBuf = match file {
                Some(file) => file,
                None => match StoredBlob::open(store, &blob.digest)? {
                    Some(stored) => stored.into_path(),
                    None => return Ok(None),
                },
            };
            sink.add(&blob, &file).map_err(|error| self.failed(error))?;
        }
        Ok(Some(blob))
    }
}

impl Present {
    fn layers(&self) -> BTreeSet<DiffId> {
        self.contents.layers.keys().copied().collect()
    }
}
