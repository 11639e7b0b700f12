//! Layers of a pull: who downloads, where it resumes, and how a layer becomes visible.

use std::{
    collections::HashSet,
    io::{self, Read as _, Write},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use davit_image::{Descriptor, DiffId};
use davit_layer::{Expected, ReadLayer, ReadOptions, read_layer};
use davit_store::{BlobBegin, BlobIngest, BlobWait, Durability, LayerBlob, LayerIngest, Lease};

use davit_sys::bulk::BulkFile;

use crate::{Event, layer, origin::OriginError};

use super::{Pull, PullError, document::Documents};

/// Between two looks at another process's download.
const LOOK: Duration = Duration::from_millis(20);

impl Pull<'_> {
    /// Brings all layers here, a few at a time. The first failure ends the others.
    pub(super) fn layers(&self, lease: &Lease<'_>, documents: &Documents) -> Result<(), PullError> {
        let mut seen = HashSet::new();
        let layers: Vec<_> =
            documents.layers.iter().filter(|(layer, _)| seen.insert(layer.digest)).collect();
        for (layer, _) in &layers {
            let item = layer.digest.short_hex();
            let total_bytes = Some(layer.size);
            self.progress.report(Event::Phase { item: &item, phase: "Waiting", total_bytes });
        }
        let queue = Mutex::new(layers.iter());
        let first_error = Mutex::new(None);
        let work = || {
            while !self.stop.is_set() {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((layer, diff_id)) = next else { return };
                if let Err(error) = self.layer(lease, layer, *diff_id) {
                    // Errors after the first only say that their layer was given up for it.
                    if self.stop.fail() {
                        *first_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    }
                    return;
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..self.parallel().min(layers.len()) {
                scope.spawn(work);
            }
        });
        let error = first_error.into_inner().unwrap_or_else(PoisonError::into_inner);
        if error.as_ref().is_some_and(PullError::is_no_space) {
            // Parts of layers to go on with are worth less than room.
            for (layer, _) in &layers {
                let given_back = self.engine.store().discard_partial(&layer.digest);
                given_back.map_err(|e| self.store_error(e))?;
            }
        }
        if self.stop.is_cancelled() {
            return Err(self.origin_error(OriginError::Stopped));
        }
        error.map_or(Ok(()), Err)
    }

    /// Brings one layer here, which the lease keeps.
    pub(crate) fn bring_layer(
        &self,
        lease: &Lease<'_>,
        blob: &Descriptor,
        diff_id: DiffId,
    ) -> Result<(), PullError> {
        self.layer(lease, blob, diff_id)?;
        if self.stop.is_set() {
            return Err(self.origin_error(OriginError::Stopped));
        }
        Ok(())
    }

    /// Brings one layer here, or gives it up because another failed.
    fn layer(
        &self,
        lease: &Lease<'_>,
        blob: &Descriptor,
        diff_id: DiffId,
    ) -> Result<(), PullError> {
        let item = blob.digest.short_hex();
        let store = self.engine.store();
        while !self.stop.is_set() {
            if self.is_present(lease, blob, diff_id)? {
                self.done(&item, "Already exists");
                return Ok(());
            }
            let begun = store.begin_blob(lease, &blob.digest, blob.size);
            match begun.map_err(|e| self.store_error(e))? {
                BlobBegin::Owner(ingest) => {
                    self.download(lease, (blob, diff_id), ingest)?;
                    self.done(&item, "Pull complete");
                    return Ok(());
                }
                BlobBegin::Busy(wait) => self.wait(&item, blob, &wait)?,
                BlobBegin::Present(_) => {
                    self.unpack(lease, blob, diff_id)?;
                    self.done(&item, "Pull complete");
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Tells whether the layer is here, and its blob too if blobs are kept; holds both.
    fn is_present(
        &self,
        lease: &Lease<'_>,
        blob: &Descriptor,
        diff_id: DiffId,
    ) -> Result<bool, PullError> {
        let store = self.engine.store();
        if lease.hold_layer(&diff_id).map_err(|e| self.store_error(e))?.is_none() {
            return Ok(false);
        }
        // An uncompressed layer is its own blob.
        if !self.engine.keeps_blobs() || blob.digest == diff_id.digest() {
            return Ok(true);
        }
        let held = store.hold_blob(lease, &blob.digest).map_err(|e| self.store_error(e))?;
        Ok(held.is_some())
    }

    /// Waits while another process downloads the blob, and shows how far it is.
    pub(super) fn wait(
        &self,
        item: &str,
        blob: &Descriptor,
        wait: &BlobWait,
    ) -> Result<(), PullError> {
        let total_bytes = Some(blob.size);
        let phase = "Waiting for another process";
        self.progress.report(Event::Phase { item, phase, total_bytes });
        while !self.stop.is_set() {
            self.progress.report(Event::Position { item, bytes: wait.progress() });
            if wait.wait(LOOK).map_err(|e| self.store_error(e))? {
                break;
            }
        }
        Ok(())
    }

    /// Downloads a blob and makes the layer of it in one pass. What an earlier attempt left is
    /// read from disk; if it turns out to be damaged, everything is downloaded.
    fn download(
        &self,
        lease: &Lease<'_>,
        (blob, diff_id): (&Descriptor, DiffId),
        mut ingest: BlobIngest<'_>,
    ) -> Result<(), PullError> {
        let item = blob.digest.short_hex();
        let total_bytes = Some(blob.size);
        self.progress.report(Event::Phase { item: &item, phase: "Downloading", total_bytes });
        let mut pass = self.pass(lease, (blob, diff_id), &mut ingest);
        // A layer that is given up because another failed has nothing wrong with it.
        let is_wrong = |pass: &Result<_, PullError>| {
            pass.as_ref().is_err_and(PullError::is_wrong_content) && !self.stop.is_set()
        };
        if is_wrong(&pass) && ingest.resumed() > 0 {
            tracing::warn!("the interrupted download of {} is of no use", blob.digest);
            ingest.restart().map_err(|e| self.store_error(e))?;
            pass = self.pass(lease, (blob, diff_id), &mut ingest);
        }
        // A mirror may have anything; what the registry itself has counts.
        if is_wrong(&pass) && self.origin.distrust() {
            ingest.restart().map_err(|e| self.store_error(e))?;
            pass = self.pass(lease, (blob, diff_id), &mut ingest);
        }
        if is_wrong(&pass) {
            // Bytes that are wrong must not be resumed.
            ingest.discard();
            return pass.map(drop);
        }
        let (read, layer) = pass?;
        self.finish_layer(blob, &read, layer)?;
        // The layer comes first: who finds the blob then finds the layer too.
        if !self.engine.keeps_blobs() || blob.digest == diff_id.digest() {
            ingest.discard();
            return Ok(());
        }
        ingest
            .commit(&read.blob, Some(&blob.media_type), Durability::Lazy)
            .map(drop)
            .map_err(|e| self.store_error(e))
    }

    /// One pass over the whole blob: the part on disk, then the rest from the registry.
    fn pass<'l>(
        &'l self,
        lease: &'l Lease<'l>,
        (blob, diff_id): (&Descriptor, DiffId),
        ingest: &mut BlobIngest<'_>,
    ) -> Result<(ReadLayer, LayerIngest<'l>), PullError> {
        let resumed = ingest.resumed();
        let stream = self.origin.stream(blob, resumed, &self.stop);
        let mut stream = stream.map_err(|e| self.origin_error(e))?;
        let earlier = ingest.open_written().map_err(|e| self.store_error(e))?;
        let mut source = earlier.take(resumed).chain(&mut stream);
        let mut sink = AfterFirst { skipped: resumed, sink: ingest };
        let result = self.read(lease, (blob, diff_id), &mut source, Some(&mut sink));
        match (result, stream.take_failure()) {
            (Err(_), Some(error)) => Err(self.origin_error(error)),
            (result, _) => result,
        }
    }

    /// Makes a layer of a blob that is here.
    fn unpack(
        &self,
        lease: &Lease<'_>,
        blob: &Descriptor,
        diff_id: DiffId,
    ) -> Result<(), PullError> {
        let item = blob.digest.short_hex();
        let total_bytes = Some(blob.size);
        self.progress.report(Event::Phase { item: &item, phase: "Extracting", total_bytes });
        let found = self.engine.store().open_content(&blob.digest);
        let found = found.map_err(|e| self.store_error(e))?;
        let (mut file, _) = found.ok_or_else(|| {
            self.store_error(davit_store::StoreError::NotFound {
                kind: "blob",
                name: blob.digest.to_string(),
            })
        })?;
        let (read, layer) = self.read(lease, (blob, diff_id), &mut file, None)?;
        self.finish_layer(blob, &read, layer)
    }

    fn read<'l, 's>(
        &'l self,
        lease: &'l Lease<'l>,
        (blob, diff_id): (&Descriptor, DiffId),
        source: &'s mut dyn io::Read,
        sink: Option<&'s mut dyn Write>,
    ) -> Result<(ReadLayer, LayerIngest<'l>), PullError> {
        let item = blob.digest.short_hex();
        let layer = self.engine.store().begin_layer(lease).map_err(|e| self.store_error(e))?;
        let tar = layer.create_tar().map_err(|e| self.store_error(e))?;
        let mut tar = BulkFile::new(tar.into_parts().0);
        let report = |now: davit_layer::Progress| {
            self.progress.report(Event::Position { item: &item, bytes: now.blob_bytes });
        };
        let expected = Expected {
            blob: Some(blob.digest),
            blob_size: Some(blob.size),
            diff_id: Some(diff_id),
        };
        let options = ReadOptions { expected, progress: Some(&report), ..ReadOptions::default() };
        let read = read_layer(source, &mut tar, sink, &options)
            .map_err(|source| PullError::layer(self.name.clone(), blob.digest, source))?;
        Ok((read, layer))
    }

    /// Makes the layer visible, and remembers the blob that it came as.
    fn finish_layer(
        &self,
        blob: &Descriptor,
        read: &ReadLayer,
        layer: LayerIngest<'_>,
    ) -> Result<(), PullError> {
        let store = self.engine.store();
        layer::commit(layer, &read.table).map_err(|e| self.store_error(e))?;
        let facts = read.table.facts();
        let form = LayerBlob {
            digest: blob.digest,
            diff_id: facts.diff_id,
            size: blob.size,
            media_type: blob.media_type.clone(),
            encoding: String::new(),
        };
        store.record_layer_blob(&form, Durability::Lazy).map_err(|e| self.store_error(e))
    }

    fn done(&self, item: &str, status: &str) {
        self.progress.report(Event::Done { item, status });
    }
}

/// Passes on what comes after the first bytes, which the sink has already.
struct AfterFirst<'a, 'i> {
    skipped: u64,
    sink: &'a mut BlobIngest<'i>,
}

impl Write for AfterFirst<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let known = usize::try_from(self.skipped).unwrap_or(usize::MAX).min(bytes.len());
        self.skipped -= known as u64;
        self.sink.write_all(&bytes[known..])?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}
