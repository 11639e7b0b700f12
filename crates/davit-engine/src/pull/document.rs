//! Manifests and configs of a pull: from what a reference names to one platform's image.

use davit_image::{
    Descriptor, DiffId, Document, ImageConfig, ImageId, Index, Manifest, MediaType, Platform,
};
use davit_store::{BlobBegin, Durability, Lease, StoreError, StoredDocument};

use crate::origin::{CONFIG_BYTES, MANIFEST_BYTES, OriginError, descend};

use super::{Pull, PullError};

/// The documents of one image, and what it consists of.
pub(super) struct Documents {
    /// What the reference names.
    pub(super) top: Descriptor,
    /// Everything to be kept: indexes, the manifest, the config.
    pub(super) stored: Vec<StoredDocument>,
    /// The layers, bottom first, each with its DiffID.
    pub(super) layers: Vec<(Descriptor, DiffId)>,
    config: Descriptor,
    /// The config, read.
    pub(super) image: ImageConfig,
}

impl Documents {
    pub(super) const fn image_id(&self) -> ImageId {
        ImageId::new(self.config.digest)
    }
}

impl Pull<'_> {
    /// Fetches what leads from the reference to the image of the wanted platform.
    pub(super) fn documents(
        &self,
        lease: &Lease<'_>,
        top: &Descriptor,
    ) -> Result<Documents, PullError> {
        let mut stored = Vec::new();
        let read = |descriptor: &Descriptor| {
            let (document, known) = self.document(lease, descriptor)?;
            stored.push(known);
            Ok((document, ()))
        };
        let platform = self.wanted_platform();
        let choose = |index: &Index| {
            index.choose(&platform).cloned().ok_or_else(|| PullError::Platform {
                reference: self.name.clone(),
                wanted: platform.clone(),
                offered: platforms(&index.manifests),
            })
        };
        let found = descend(top, read, choose)?;
        let (manifest, ()) = found.ok_or_else(|| self.origin_error(OriginError::Nested))?;
        let (config, bytes) = self.config(lease, manifest.value())?;
        stored.push(bytes);
        let layers = self.pair_layers(manifest.value(), &config)?;
        let (image, config) = (config, manifest.into_value().config);
        Ok(Documents { top: top.clone(), stored, layers, config, image })
    }

    /// A manifest or index: from the store if it is here, else from the registry.
    fn document(
        &self,
        lease: &Lease<'_>,
        descriptor: &Descriptor,
    ) -> Result<(Document, StoredDocument), PullError> {
        if let Some(bytes) = self.local(lease, descriptor, MANIFEST_BYTES)? {
            let document =
                Document::parse(bytes, Some(&descriptor.media_type)).map_err(|source| {
                    self.origin_error(OriginError::Document { digest: descriptor.digest, source })
                })?;
            let bytes = document.bytes().to_vec();
            return Ok((document, stored(descriptor, bytes)));
        }
        let found = self.origin.document(descriptor);
        let (document, found) = found.map_err(|e| self.origin_error(e))?;
        let bytes = document.bytes().to_vec();
        Ok((document, stored(&found, bytes)))
    }

    fn config(
        &self,
        lease: &Lease<'_>,
        manifest: &Manifest,
    ) -> Result<(ImageConfig, StoredDocument), PullError> {
        let descriptor = &manifest.config;
        if !manifest.is_image() {
            let kind = manifest.artifact_type.as_ref().unwrap_or(&descriptor.media_type);
            return Err(self.unusable(format!("it is an artifact of type `{kind}`")));
        }
        let bytes = self.config_bytes(lease, descriptor)?;
        let config: ImageConfig = serde_json::from_slice(&bytes)
            .map_err(|error| self.unusable(format!("its config is malformed ({error})")))?;
        self.check_platform(&config)?;
        Ok((config, stored(descriptor, bytes)))
    }

    /// A config that is here, or from the origin: once for all processes that want it.
    fn config_bytes(
        &self,
        lease: &Lease<'_>,
        descriptor: &Descriptor,
    ) -> Result<Vec<u8>, PullError> {
        let fetch = || self.origin.bytes(descriptor).map_err(|e| self.origin_error(e));
        if descriptor.size > CONFIG_BYTES {
            return fetch();
        }
        while !self.stop.is_set() {
            if let Some(bytes) = self.local(lease, descriptor, CONFIG_BYTES)? {
                return Ok(bytes);
            }
            let begun = self.engine.store().begin_blob(lease, &descriptor.digest, descriptor.size);
            let mut ingest = match begun.map_err(|e| self.store_error(e))? {
                BlobBegin::Owner(ingest) => ingest,
                BlobBegin::Busy(wait) => {
                    self.wait(&descriptor.digest.short_hex(), descriptor, &wait)?;
                    continue;
                }
                // It has just come, or it is damaged.
                BlobBegin::Present(_) => {
                    return self.local(lease, descriptor, CONFIG_BYTES)?.map_or_else(fetch, Ok);
                }
            };
            let bytes = fetch()?;
            let kept = ingest.restart().and_then(|()| ingest.append(&bytes)).and_then(|()| {
                let media_type = Some(&descriptor.media_type);
                ingest.commit(&descriptor.digest, media_type, Durability::Lazy)
            });
            return kept.map(|_| bytes).map_err(|e| self.store_error(e));
        }
        Err(self.origin_error(OriginError::Stopped))
    }

    /// Bytes that are here already; damaged ones are fetched anew.
    fn local(
        &self,
        lease: &Lease<'_>,
        descriptor: &Descriptor,
        limit_bytes: u64,
    ) -> Result<Option<Vec<u8>>, PullError> {
        let store = self.engine.store();
        let held = store.hold_blob(lease, &descriptor.digest).map_err(|e| self.store_error(e))?;
        if held.is_none() {
            return Ok(None);
        }
        match store.read_blob(&descriptor.digest, limit_bytes) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(
                StoreError::NotFound { .. } | StoreError::Digest { .. } | StoreError::Size { .. },
            ) => Ok(None),
            Err(error) => Err(self.store_error(error)),
        }
    }

    /// A platform that was asked for must fit; the host's is only recommended.
    fn check_platform(&self, config: &ImageConfig) -> Result<(), PullError> {
        let (wanted, found) = (self.wanted_platform(), config.platform());
        if wanted.rank(&found).is_some() || found.os.is_empty() {
            return Ok(());
        }
        if self.platform.is_some() {
            let (reference, offered) = (self.name.clone(), vec![found.to_string()]);
            return Err(PullError::Platform { reference, wanted, offered });
        }
        self.message(&format!(
            "warning: the image's platform ({found}) is not this machine's ({wanted})"
        ));
        Ok(())
    }

    /// Pairs the manifest's layers with the config's DiffIDs.
    fn pair_layers(
        &self,
        manifest: &Manifest,
        config: &ImageConfig,
    ) -> Result<Vec<(Descriptor, DiffId)>, PullError> {
        let (layers, diff_ids) = (&manifest.layers, &config.rootfs.diff_ids);
        if layers.len() != diff_ids.len() {
            return Err(self.unusable(format!(
                "its manifest has {} layers, its config {}",
                layers.len(),
                diff_ids.len()
            )));
        }
        if let Some(odd) =
            layers.iter().find(|layer| layer.media_type.layer_compression().is_none())
        {
            return Err(self.unusable(format!("it has a layer of type `{}`", odd.media_type)));
        }
        Ok(layers.iter().cloned().zip(diff_ids.iter().copied()).collect())
    }
}

fn stored(descriptor: &Descriptor, bytes: Vec<u8>) -> StoredDocument {
    let (digest, media_type): (_, MediaType) = (descriptor.digest, descriptor.media_type.clone());
    StoredDocument { bytes, media_type, digest }
}

/// The platforms of an index, as a person reads them.
pub(crate) fn platforms(entries: &[Descriptor]) -> Vec<String> {
    let named = entries.iter().filter(|entry| !entry.is_attestation());
    let platforms = named.filter_map(|entry| entry.platform.as_ref());
    platforms.map(Platform::to_string).collect()
}
