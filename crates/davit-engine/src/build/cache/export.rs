//! Results of a build on their way into caches.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    path::PathBuf,
    sync::PoisonError,
};

use davit_build::{Shareable, one_line};
use davit_image::{Descriptor, DiffId};

use super::{
    CacheError, CacheExport, CacheFailure, CacheScope, Caches, Packed,
    format::Contents,
    import::tell,
    place::{Sink, Source},
};
use crate::{Event, build::pack::Packer, origin::OriginError, push::StoredBlob};

/// How often a cache is written that others write at the same time.
const ATTEMPTS: usize = 4;

impl Caches<'_> {
    /// Writes the results into caches.
    ///
    /// # Errors
    /// The first cache that cannot be written, unless that is only told.
    pub(in crate::build) fn export(&self, exports: &[CacheExport]) -> Result<(), CacheError> {
        let Some(results) = &self.results else { return Ok(()) };
        let results = std::mem::take(&mut *results.lock().unwrap_or_else(PoisonError::into_inner));
        for export in exports {
            match (self.export_to(export, &results), export.failure) {
                (Err(error), CacheFailure::Told) => tell(self.events, one_line(&error)),
                (done, _) => done?,
            }
        }
        Ok(())
    }

    fn export_to(&self, export: &CacheExport, results: &[Shareable]) -> Result<(), CacheError> {
        let place = export.place.to_string();
        let failed = |source| CacheError::Access { place: place.clone(), source };
        let mut new = Contents::default();
        let wanted = |result: &&Shareable| export.scope == CacheScope::All || result.in_result;
        results.iter().filter(wanted).for_each(|result| new.add(result.record.clone()));
        self.progress.report(Event::Message(&format!("Writing the build cache {place}")));
        let scratch = self.engine.store().begin_layer(self.lease)?;
        let mut packer = Packer {
            engine: self.engine,
            directory: scratch.dir(),
            cancelled: self.cancelled,
            compression: export.compression,
            known: HashMap::new(),
            files: BTreeMap::new(),
        };
        // One writer of a directory waits for the other.
        let sink = Sink::open(&export.place, &self.registries, self.cancelled).map_err(failed)?;
        for _ in 0..ATTEMPTS {
            let before = self.present(export)?;
            let merged = self.merge(before.clone(), &new, |layer| {
                self.add_layer(&sink, &mut packer, &place, layer)
            })?;
            if merged == before {
                return Ok(());
            }
            // Another one may have written meanwhile.
            if self.present(export)? == before {
                sink.put(&merged.write()).map_err(failed)?;
                return Ok(());
            }
        }
        let problem = "others write it all the time".to_owned();
        Err(CacheError::Malformed { place, problem })
    }

    /// What a cache has now.
    fn present(&self, export: &CacheExport) -> Result<Contents, CacheError> {
        let source = Source::open(&export.place, &self.registries, self.cancelled);
        match source.and_then(|source| source.read()) {
            Err(error) if error.is_absent() => Ok(Contents::default()),
            read => read,
        }
    }

    /// Adds new records to those of a cache, and their layers where it has none.
    fn merge(
        &self,
        mut contents: Contents,
        new: &Contents,
        mut add: impl FnMut(DiffId) -> Result<Option<Descriptor>, CacheError>,
    ) -> Result<Contents, CacheError> {
        for record in new.records.values() {
            if let Entry::Vacant(place) = contents.layers.entry(record.layer) {
                // A layer that stayed where it is can only be named there.
                let Some(blob) = add(record.layer)? else { continue };
                place.insert(blob);
            }
            contents.add(record.clone());
        }
        contents.trim();
        Ok(contents)
    }

    /// Brings a layer to a place, unless that has it; `None` if it is not here.
    fn add_layer(
        &self,
        sink: &Sink<'_>,
        packer: &mut Packer<'_>,
        place: &str,
        layer: DiffId,
    ) -> Result<Option<Descriptor>, CacheError> {
        let failed = |source: OriginError| CacheError::Access { place: place.to_owned(), source };
        let store = self.engine.store();
        if self.lease.hold_layer(&layer)?.is_none() {
            return Ok(None);
        }
        for form in store.layer_blobs(&layer)? {
            let blob = Descriptor::new(form.media_type.clone(), form.digest, form.size);
            let fits = blob.media_type.layer_compression() == Some(packer.compression.format);
            if fits && !blob.is_foreign() && sink.has(&blob).map_err(failed)? {
                return Ok(Some(blob));
            }
        }
        let packed = packer.packed(layer);
        let packed =
            packed.map_err(|source| CacheError::Pack { place: place.to_owned(), source })?;
        let Packed { blob, file } = packed;
        if !sink.has(&blob).map_err(failed)? {
            let file: PathBuf = match file {
                Some(file) => file,
                None => match StoredBlob::open(store, &blob.digest)? {
                    Some(stored) => stored.into_path(),
                    None => return Ok(None),
                },
            };
            sink.add(&blob, &file).map_err(failed)?;
        }
        Ok(Some(blob))
    }
}
