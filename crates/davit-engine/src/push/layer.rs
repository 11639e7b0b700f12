//! The blobs of one image on their way out.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use davit_distribution::BlobSource;
use davit_image::{Compression, Descriptor, DiffId, Digest, ImageId, Manifest, MediaType, Raw};
use davit_layer::{CompressOptions, compressor_name};
use davit_store::{Durability, LayerBlob, Lease};

use crate::{Event, compressed::note_compressing, estargz::with_layers};

use super::{
    CompressedTar, CompressionScope, Loaded, Novelty, PARALLEL, Push, PushError, Rewrite, Sent,
    StoredBlob,
};

/// How often it is looked whether a push is still wanted.
const CANCEL_POLL: Duration = Duration::from_millis(20);

/// How a layer is to be sent.
enum Form {
    /// Not at all: others serve it.
    Foreign,
    /// As the descriptor says; the bytes are here, or the registry has them.
    Blob(Descriptor),
    /// Its tar, compressed; the descriptor if that is known.
    Tar(Option<Descriptor>),
}

impl Push<'_> {
    /// Sends config and layers of an image; returns the manifest that names them, which is the
    /// stored one if every layer is sent as that says.
    pub(super) fn push_manifest(
        &self,
        lease: &Lease<'_>,
        image: &Loaded,
        rewrite: Rewrite,
    ) -> Result<Sent, PushError> {
        let manifest = image.manifest.value();
        let (diff_ids, rewrite) = match &image.image {
            Some(config) => (config.rootfs.diff_ids.clone(), rewrite),
            // Content of another kind is what it is.
            None => {
                let own = manifest.layers.iter().map(|layer| DiffId::new(layer.digest));
                (own.collect(), Rewrite::Refused)
            }
        };
        let layers: Vec<_> = manifest.layers.iter().zip(diff_ids).collect();
        let sent = self.in_parallel(&layers, |(layer, diff_id)| {
            self.push_layer(lease, (layer, *diff_id), manifest, rewrite)
        })?;
        let (sent, plain): (Vec<Descriptor>, Vec<DiffId>) = sent.into_iter().unzip();
        let second = image.image.as_ref().and_then(|config| with_layers(config, plain));
        let config = second.as_ref().unwrap_or(&image.config_bytes);
        self.push_config(config)?;
        let config = Descriptor::of(manifest.config.media_type.clone(), config);
        let image_id = image.image.as_ref().map(|_| ImageId::new(config.digest));
        if sent == manifest.layers {
            let (descriptor, bytes) = (image.descriptor.clone(), image.manifest.bytes().to_vec());
            return Ok(Sent { descriptor, bytes, image_id, novelty: Novelty::None });
        }
        let replaced = manifest.layers.iter().map(|layer| layer.digest).zip(sent.iter().cloned());
        self.sent_layers.lock().unwrap_or_else(PoisonError::into_inner).extend(replaced);
        let novelty = if second.is_some() { Novelty::Elsewhere } else { Novelty::Document };
        let own = |(layer, diff_id): &(&Descriptor, DiffId)| layer.digest == diff_id.digest();
        let mut changed = layers.iter().zip(&sent).filter(|((layer, _), sent)| *layer != *sent);
        if let Some(((lost, _), _)) = changed.find(|(layer, _)| !own(layer)) {
            self.message(&format!(
                "warning: layer {} is not here as it was received; compressed again, it gives the image another digest than {}",
                lost.digest.short_hex(),
                image.descriptor.digest
            ));
        }
        let config =
            Descriptor { digest: config.digest, size: config.size, ..manifest.config.clone() };
        let second = Raw::write(Manifest { layers: sent, config, ..manifest.clone() });
        let media_type = image.descriptor.media_type.clone();
        let descriptor = Descriptor::new(media_type, second.digest(), second.size_bytes());
        Ok(Sent { descriptor, bytes: second.bytes().to_vec(), image_id, novelty })
    }

    /// Runs `work` on all items, a few at a time; results in order, the first error ends it.
    fn in_parallel<I: Sync, T: Send>(
        &self,
        items: &[I],
        work: impl Fn(&I) -> Result<T, PushError> + Sync,
    ) -> Result<Vec<T>, PushError> {
        let queue = Mutex::new(items.iter().enumerate());
        let failed = AtomicBool::new(false);
        let results = Mutex::new(Vec::new());
        let run = || {
            while !failed.load(Ordering::Relaxed) {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((position, item)) = next else { return };
                let result = work(item);
                if result.is_err() {
                    failed.store(true, Ordering::Relaxed);
                }
                results.lock().unwrap_or_else(PoisonError::into_inner).push((position, result));
            }
        };
        thread::scope(|scope| {
            for _ in 0..PARALLEL.min(items.len()) {
                scope.spawn(run);
            }
        });
        let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.sort_by_key(|(position, _)| *position);
        results.into_iter().map(|(_, result)| result).collect()
    }

    /// Sends one layer; returns the descriptor by which the manifest is to name it, and its DiffID
    /// there.
    pub(super) fn push_layer(
        &self,
        lease: &Lease<'_>,
        (layer, diff_id): (&Descriptor, DiffId),
        manifest: &Manifest,
        rewrite: Rewrite,
    ) -> Result<(Descriptor, DiffId), PushError> {
        let held = lease.keep(&[layer.digest, diff_id.digest()]);
        held.map_err(|e| self.store_error(e))?;
        let item = diff_id.digest().short_hex();
        let form = self.form((layer, diff_id), manifest, rewrite)?;
        match form {
            Form::Foreign => {
                self.done(&item, "Skipped foreign layer");
                Ok((layer.clone(), diff_id))
            }
            Form::Blob(blob) => {
                if !self.is_there(&item, &blob, diff_id)? {
                    let source = StoredBlob::open(self.engine.store(), &blob.digest)
                        .map_err(|e| self.store_error(e))?
                        .ok_or_else(|| self.missing(blob.digest))?;
                    self.send(&item, &source, Some(&blob))?;
                }
                Ok((blob, diff_id))
            }
            Form::Tar(known) => {
                if let Some(sent) = self.push_estargz(&item, diff_id, manifest)? {
                    return Ok(sent);
                }
                if let Some(known) = &known
                    && self.is_there(&item, known, diff_id)?
                {
                    return Ok((known.clone(), diff_id));
                }
                Ok((self.compress(&item, diff_id, known.as_ref(), manifest)?, diff_id))
            }
        }
    }

    /// Decides how a layer is sent: as named if the bytes are here; as received earlier, if its
    /// plain tar is what the manifest names; else compressed.
    fn form(
        &self,
        (layer, diff_id): (&Descriptor, DiffId),
        manifest: &Manifest,
        rewrite: Rewrite,
    ) -> Result<Form, PushError> {
        let store = self.engine.store();
        if layer.is_foreign() {
            return Ok(Form::Foreign);
        }
        let here = store.blob(&layer.digest).map_err(|e| self.store_error(e))?;
        if here.is_some() || rewrite == Rewrite::Refused {
            return Ok(Form::Blob(layer.clone()));
        }
        let forms = store.layer_blobs(&diff_id).map_err(|e| self.store_error(e))?;
        let is_plain = layer.digest == diff_id.digest();
        if is_plain && self.request.compression.scope == CompressionScope::New {
            for form in forms.iter().filter(|form| form.encoding.is_empty()) {
                if store.blob(&form.digest).map_err(|e| self.store_error(e))?.is_some() {
                    return Ok(Form::Blob(received(form, is_docker(manifest))));
                }
            }
        } else if !is_plain && self.registry_has_blob(layer, diff_id)? {
            return Ok(Form::Blob(layer.clone()));
        }
        let encoding = compressor_name(&self.compress_options());
        let known = forms.iter().find(|form| form.encoding == encoding);
        Ok(Form::Tar(known.map(described)))
    }

    /// Tells whether the registry has a blob that is no longer here.
    fn registry_has_blob(&self, blob: &Descriptor, diff_id: DiffId) -> Result<bool, PushError> {
        self.is_there("", blob, diff_id)
    }

    /// Tells whether the registry has the blob in this repository, or brings it in from another.
    pub(super) fn is_there(
        &self,
        item: &str,
        blob: &Descriptor,
        diff_id: DiffId,
    ) -> Result<bool, PushError> {
        /// Each candidate costs a request.
        const MOST_CANDIDATES: usize = 3;
        let found = self.wait(self.session.blob_size(&blob.digest))?;
        if found.is_some() {
            self.done(item, "Layer already exists");
            return Ok(true);
        }
        for from in self.siblings(&diff_id).iter().take(MOST_CANDIDATES) {
            if self.wait(self.session.mount_blob(&blob.digest, from))? {
                self.done(item, &format!("Mounted from {}", from.path()));
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn compress(
        &self,
        item: &str,
        diff_id: DiffId,
        known: Option<&Descriptor>,
        manifest: &Manifest,
    ) -> Result<Descriptor, PushError> {
        let store = self.engine.store();
        let options = self.compress_options();
        let source = CompressedTar::open(store, &diff_id, options)
            .map_err(|e| self.store_error(e))?
            .ok_or_else(|| self.missing(diff_id.digest()))?;
        let file = self.compressed.and_then(|layers| layers.offer(diff_id, &options));
        let sent = match file {
            Some(made) => self.send(item, &StoredBlob::at(made.path, made.size_bytes), known)?,
            None => {
                note_compressing(&diff_id);
                self.send(item, &source, known)?
            }
        };
        let media_type = layer_type(options.compression, is_docker(manifest));
        let blob = Descriptor::new(media_type, sent.digest, sent.size);
        let form = LayerBlob {
            digest: blob.digest,
            diff_id,
            size: blob.size,
            media_type: blob.media_type.clone(),
            encoding: compressor_name(&options),
        };
        store.record_layer_blob(&form, Durability::Lazy).map_err(|e| self.store_error(e))?;
        Ok(blob)
    }

    pub(super) fn compress_options(&self) -> CompressOptions {
        self.request.compression.options()
    }

    pub(super) fn send(
        &self,
        item: &str,
        source: &dyn BlobSource,
        expected: Option<&Descriptor>,
    ) -> Result<Descriptor, PushError> {
        let total_bytes = source.size();
        self.progress.report(Event::Phase { item, phase: "Pushing", total_bytes });
        let sent = self.wait(self.session.upload(source, expected))?;
        self.done(item, "Pushed");
        Ok(Descriptor::new(MediaType::OCI_LAYER, sent.digest, sent.size_bytes))
    }

    fn push_config(&self, bytes: &[u8]) -> Result<(), PushError> {
        if self.wait(self.session.blob_size(&Digest::of(bytes)))?.is_none() {
            self.wait(self.session.upload_bytes(bytes.to_vec().into()))?;
        }
        Ok(())
    }

    pub(super) fn wait<T>(
        &self,
        future: impl Future<Output = Result<T, davit_distribution::Error>>,
    ) -> Result<T, PushError> {
        if self.cancelled.is_empty() {
            return self.registries.handle().block_on(future).map_err(|e| self.registry_error(e));
        }
        let is_cancelled = || self.cancelled.iter().any(|it| it.load(Ordering::Relaxed));
        let whole = async {
            let mut future = std::pin::pin!(future);
            while !is_cancelled() {
                if let Ok(result) = tokio::time::timeout(CANCEL_POLL, &mut future).await {
                    return result.map_err(|e| self.registry_error(e));
                }
            }
            Err(PushError::Cancelled { reference: self.target_name() })
        };
        self.registries.handle().block_on(whole)
    }

    fn done(&self, item: &str, status: &str) {
        if !item.is_empty() {
            self.progress.report(Event::Done { item, status });
        }
    }
}

fn described(form: &LayerBlob) -> Descriptor {
    Descriptor::new(form.media_type.clone(), form.digest, form.size)
}

pub(super) fn is_docker(manifest: &Manifest) -> bool {
    manifest.media_type.as_ref() == Some(&MediaType::DOCKER_MANIFEST)
}

/// A layer as it was received, for a manifest of these media types.
pub(crate) fn received(form: &LayerBlob, is_docker: bool) -> Descriptor {
    let compression = form.media_type.layer_compression();
    let own = !form.media_type.is_nondistributable();
    let media_type = compression.filter(|_| own).map(|it| layer_type(it, is_docker));
    Descriptor::new(media_type.unwrap_or(form.media_type.clone()), form.digest, form.size)
}

pub(crate) fn layer_type(compression: Compression, is_docker: bool) -> MediaType {
    match (compression, is_docker) {
        (Compression::None, false) => MediaType::OCI_LAYER,
        (Compression::Gzip, false) => MediaType::OCI_LAYER_GZIP,
        (Compression::Zstd, false) => MediaType::OCI_LAYER_ZSTD,
        (Compression::None, true) => MediaType::DOCKER_LAYER,
        (Compression::Gzip, true) => MediaType::DOCKER_LAYER_GZIP,
        (Compression::Zstd, true) => MediaType::DOCKER_LAYER_ZSTD,
    }
}
