//! Results of a build on their way into caches: layers go as soon as they are final, the records
//! when the build is done.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    path::{Path, PathBuf},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use davit_build::{FinalStep, one_line};
use davit_image::{Descriptor, DiffId, Digest};

use super::{
    CacheError, CacheExport, CacheFailure, CachePlace, CacheScope, Caches, MountSharing, Packed,
    format::Contents,
    import::tell,
    place::{Present, Put, Sink, Source},
};
use crate::{
    CompressionScope, Event, LayerCompression, build::pack::Packer, compressed::CompressedLayers,
    origin::OriginError, push::StoredBlob,
};

/// How often a cache is written that others write at the same time.
const ATTEMPTS: usize = 10;
/// After so many attempts in which nobody is seen to write, whoever began to has died.
const PATIENCE: u32 = 4;
/// How long is waited before the second attempt, and how many times that before a later one at most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MOST_PAUSES: u32 = 16;
/// How long is waited at most for those whose writing has begun already.
const LONGEST_SETTLE: Duration = Duration::from_secs(1);

/// What is under a cache's name, and which of its versions that is.
#[derive(Debug, Default)]
struct Before {
    digest: Option<Digest>,
    version: Option<String>,
    contents: Contents,
    /// The config that it names, if that is something else.
    damaged: Option<Digest>,
}

/// A cache that is written while a build runs.
struct CacheWriter<'a> {
    caches: &'a Caches<'a>,
    export: &'a CacheExport,
    place: String,
    /// Where its blobs are.
    blobs: String,
    folder: &'a Path,
    packer: Mutex<Packer<'a>>,
    /// The next result to look at.
    next: AtomicUsize,
    /// What was there when the build began.
    named: OnceLock<BTreeMap<DiffId, Descriptor>>,
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
        compressed: &CompressedLayers<'_>,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let Some(results) = self.results.filter(|_| !exports.is_empty()) else { return work() };
        let scratch = compressed.directory().map_err(CacheError::from)?;
        let folders = folders(&scratch, exports.len()).map_err(CacheError::Scratch)?;
        let writer = |it| CacheWriter::new(self, compressed, it);
        let writers: Vec<_> = exports.iter().zip(&folders).map(writer).collect();
        let done = thread::scope(|scope| {
            for writer in &writers {
                for _ in 0..writer.export.parallel {
                    scope.spawn(|| writer.send_early());
                }
            }
            // The build, which `work` begins with, says when there are no more.
            let done = work();
            if done.is_err() {
                results.abandon();
            }
            done
        })?;
        let results = results.all();
        for writer in &writers {
            match (writer.finish(&results), writer.export.failure) {
                (Err(error), CacheFailure::Told) if !self.cancelled.load(Ordering::Relaxed) => {
                    tell(self.events, one_line(&error));
                }
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
    fn new(
        caches: &'a Caches<'a>,
        compressed: &'a CompressedLayers<'a>,
        (export, folder): (&'a CacheExport, &'a PathBuf),
    ) -> Self {
        let packer = Packer {
            engine: caches.engine,
            compressed,
            compression: export.compression,
            known: HashMap::new(),
            renamed: HashMap::new(),
            files: BTreeMap::new(),
        };
        Self {
            caches,
            export,
            place: export.place.to_string(),
            blobs: export.place.blobs(),
            folder,
            packer: Mutex::new(packer),
            next: AtomicUsize::new(0),
            named: OnceLock::new(),
            sent: Mutex::default(),
        }
    }

    fn failed(&self, source: OriginError) -> CacheError {
        CacheError::Access { place: self.place.clone(), source }
    }

    /// Whether a layer is as it is to be: compressed like others, where that is insisted on.
    fn may_stay(&self, named: &Descriptor) -> bool {
        let LayerCompression { format, scope, .. } = self.export.compression;
        scope == CompressionScope::New || named.media_type.layer_compression() == Some(format)
    }

    /// Whether the cache gets the layer of a step, too. Without it the record says what a step gave
    /// that nobody need read, so that those behind it are found.
    fn wants(&self, step: &FinalStep) -> bool {
        self.export.scope == CacheScope::All || step.in_result
    }

    /// Sends layers until the build is done. What fails is tried again, and told, at the end.
    fn send_early(&self) {
        let Some(results) = &self.caches.results else { return };
        let sink = match &self.export.place {
            // One that writes into a directory keeps all others out.
            CachePlace::Directory { .. } => None,
            place => Sink::open(place, &self.caches.registries, self.caches.cancelled).ok(),
        };
        let present = || self.present().map(|it| it.contents.layers).unwrap_or_default();
        let named = self.named.get_or_init(present);
        while let Some(step) = results.wait_for(self.next.fetch_add(1, Ordering::Relaxed)) {
            // All records of a step lead to its layer.
            let first = step.records.first().filter(|_| self.wants(&step));
            let Some(layer) = first.map(|record| record.layer) else { continue };
            // Whether a directory has what it names is looked at when nobody else writes there.
            if sink.is_none() && named.get(&layer).is_some_and(|it| self.may_stay(it)) {
                continue;
            }
            match self.sent().entry(layer) {
                Entry::Occupied(_) => continue,
                Entry::Vacant(place) => place.insert(None),
            };
            match self.bring(sink.as_ref(), layer, named.get(&layer)) {
                Ok(blob) => drop(self.sent().insert(layer, blob)),
                Err(error) => tracing::debug!(%error, "a layer is sent when the build is done"),
            }
        }
    }

    fn sent(&self) -> std::sync::MutexGuard<'_, BTreeMap<DiffId, Option<Descriptor>>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the records to what is there, and what is missing of their layers.
    fn finish(&self, results: &[FinalStep]) -> Result<(), CacheError> {
        let (mut new, mut bare) = (Contents::default(), Contents::default());
        for step in results {
            let contents = if self.wants(step) { &mut new } else { &mut bare };
            step.records.iter().for_each(|record| contents.add(record.clone()));
        }
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
        // Attempts since somebody was seen to have written.
        let mut alone: u32 = 0;
        for _ in 0..ATTEMPTS {
            let merged = self.merge(before.contents.clone(), (&new, &bare), &sink)?;
            let ahead = alone.saturating_sub(PATIENCE);
            if merged == before.contents || self.replace(&sink, (&before, ahead), &merged)? {
                return Ok(());
            }
            let now = self.present()?;
            alone = if now.digest == before.digest { alone + 1 } else { 0 };
            before = now;
            // Whoever is about to write is given time.
            sink.pause(FIRST_PAUSE * 2_u32.saturating_pow(alone).min(MOST_PAUSES));
        }
        let problem = "others write it all the time".to_owned();
        Err(CacheError::Malformed { place: self.place.clone(), problem })
    }

    /// Puts new contents in the place of those that were there; false if others were faster, or
    /// have replaced them at once.
    fn replace(
        &self,
        sink: &Sink<'_>,
        (before, ahead): (&Before, u32),
        merged: &Contents,
    ) -> Result<bool, CacheError> {
        let written = merged.write();
        let prepared = sink.prepare(&written, (self.folder, before.damaged));
        prepared.map_err(|error| self.failed(error))?;
        if !sink.is_exclusive() && self.top()? != before.digest {
            return Ok(false);
        }
        let begun = Instant::now();
        let version = (before.version.as_deref(), ahead);
        match sink.put(&written, version).map_err(|error| self.failed(error))? {
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
    fn present(&self) -> Result<Before, CacheError> {
        let source = match self.source() {
            Err(error) if error.is_absent() => return Ok(Before::default()),
            source => source?,
        };
        let (digest, contents, damaged) = match source.read() {
            Ok((digest, contents)) => (Some(digest), contents, None),
            // What the name stands for may have lost what it names, or names what is damaged.
            Err(error) if error.is_absent() => (self.top()?, Contents::default(), None),
            Err(CacheError::Access { source: OriginError::Wrong(blob), .. }) => {
                (self.top()?, Contents::default(), Some(blob))
            }
            Err(error) => return Err(error),
        };
        Ok(Before { digest, version: source.version, contents, damaged })
    }

    /// The digest of what is under the cache's name now.
    fn top(&self) -> Result<Option<Digest>, CacheError> {
        let found = self.source().and_then(|source| source.top());
        match found {
            Err(error) if error.is_absent() => Ok(None),
            found => found.map(Some),
        }
    }

    /// Adds new records to those of a cache, and the layers of some of them where it has none.
    fn merge(
        &self,
        mut contents: Contents,
        (new, bare): (&Contents, &Contents),
        sink: &Sink<'_>,
    ) -> Result<Contents, CacheError> {
        // A layer that stayed where it is can only be named there: its record leads on without it.
        for record in new.records.values() {
            self.is_named(&mut contents, record.layer, sink)?;
            contents.add(record.clone());
        }
        bare.records.values().for_each(|record| contents.add(record.clone()));
        for mount in new.mounts.values() {
            if self.is_named(&mut contents, mount.layer, sink)? {
                contents.add_mount(mount.clone());
            }
        }
        contents.trim();
        Ok(contents)
    }

    /// Whether contents name a layer that is there, once it is sent where they did not, or where it
    /// was lost.
    fn is_named(
        &self,
        contents: &mut Contents,
        layer: DiffId,
        sink: &Sink<'_>,
    ) -> Result<bool, CacheError> {
        let known = self.sent().get(&layer).cloned().flatten();
        let blob = match known {
            Some(blob) => Some(blob),
            None => self.bring(Some(sink), layer, contents.layers.get(&layer))?,
        };
        self.sent().insert(layer, blob.clone());
        match blob {
            // What another writer named meanwhile is as good.
            Some(blob) => match contents.layers.entry(layer) {
                Entry::Occupied(place) if self.may_stay(place.get()) => {}
                Entry::Occupied(mut place) => drop(place.insert(blob)),
                Entry::Vacant(place) => {
                    place.insert(blob);
                }
            },
            None => drop(contents.layers.remove(&layer)),
        }
        Ok(contents.layers.contains_key(&layer))
    }

    /// Makes sure that a layer is at the place, by the blob that is named there if that is not lost;
    /// `None` if it is neither there nor here. Without a place it is only compressed.
    fn bring(
        &self,
        sink: Option<&Sink<'_>>,
        layer: DiffId,
        named: Option<&Descriptor>,
    ) -> Result<Option<Descriptor>, CacheError> {
        let is_useless = self.caches.is_useless(&self.blobs, layer);
        if let (Some(named), Some(sink), false) = (named, sink, is_useless)
            && self.may_stay(named)
            && sink.has(named).map_err(|error| self.failed(error))?
        {
            return Ok(Some(named.clone()));
        }
        self.send(sink, layer)
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
        let is_useless = self.caches.is_useless(&self.blobs, layer);
        let has = |blob: &Descriptor| -> Result<bool, CacheError> {
            let sink = sink.filter(|_| !is_useless);
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
            let present = if is_useless { Present::Damaged } else { Present::Absent };
            sink.add(&blob, (&file, present)).map_err(|error| self.failed(error))?;
        }
        Ok(Some(blob))
    }
}
