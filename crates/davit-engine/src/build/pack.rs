//! Layers of a result, compressed for a file.

use std::{
    collections::{BTreeMap, HashMap},
    io::Write as _,
    path::PathBuf,
};

use davit_build::Built;
use davit_image::{Compression, Descriptor, DiffId, Digest};
use davit_layer::{CompressError, CompressOptions, Estargz, compressor_name};
use davit_store::{Durability, LayerBlob, StoreError};

use super::{
    BuildFailure,
    form::{Formed, ImageForm},
};
use crate::{
    BlobAccess, CompressionScope, Engine, EstargzError, LayerCompression,
    compressed::CompressedLayers,
    estargz::{self, with_layers},
    push::layer::{layer_type, received},
};

/// Why layers cannot be compressed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The layer is not in the store any more.
    #[error("layer {0} is not in the store")]
    Missing(DiffId),
    /// It cannot be read, or what it compresses to cannot be written.
    #[error("cannot compress layer {diff_id}")]
    Compress {
        /// The layer.
        diff_id: DiffId,
        /// Cause.
        #[source]
        source: CompressError,
    },
    /// It cannot be brought into the form of eStargz.
    #[error("cannot make the eStargz form of layer {diff_id}")]
    Form {
        /// The layer.
        diff_id: DiffId,
        /// Cause.
        #[source]
        source: EstargzError,
    },
    /// What it compresses to cannot be written.
    #[error("cannot write layer {diff_id}, compressed")]
    Write {
        /// The layer.
        diff_id: DiffId,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where compressed layers are put, each once.
pub(super) struct Packer<'a> {
    pub(super) engine: &'a Engine,
    /// Where layers are compressed, for all who want them.
    pub(super) compressed: &'a CompressedLayers<'a>,
    pub(super) compression: LayerCompression,
    pub(super) known: HashMap<DiffId, Descriptor>,
    /// DiffIDs of layers that others have under another one.
    pub(super) renamed: HashMap<DiffId, DiffId>,
    pub(super) files: BTreeMap<Digest, PathBuf>,
}

/// A layer as a blob.
pub(super) struct PackedLayer {
    pub(super) blob: Descriptor,
    /// Where the blob is; `None` if it is in the store.
    pub(super) file: Option<PathBuf>,
}

impl Packer<'_> {
    /// One layer as OCI's images have it; what it was compressed to is remembered.
    pub(super) fn packed(&mut self, diff_id: DiffId) -> Result<PackedLayer, PackError> {
        let blob = self.layer(diff_id, false)?;
        let file = self.files.get(&blob.digest).cloned();
        if file.is_some() {
            let form = LayerBlob {
                digest: blob.digest,
                diff_id,
                size: blob.size,
                media_type: blob.media_type.clone(),
                encoding: compressor_name(&self.options()),
            };
            self.engine.store().record_layer_blob(&form, Durability::Lazy)?;
        }
        Ok(PackedLayer { blob, file })
    }

    /// Lets the manifests name compressed layers.
    pub(super) fn pack(
        &mut self,
        formed: Formed,
        built: &[Built],
        form: &ImageForm,
    ) -> Result<Formed, BuildFailure> {
        let mut images = formed.images;
        for (image, built) in images.iter_mut().zip(built) {
            let is_docker = image.is_docker();
            for (layer, built) in image.manifest.layers.iter_mut().zip(&built.outcome.layers) {
                *layer = self.layer(built.diff_id, is_docker)?;
            }
            let layers = built.outcome.layers.iter().map(|layer| layer.diff_id);
            let layers = layers.map(|it| self.renamed.get(&it).copied().unwrap_or(it)).collect();
            if let Some(config) = with_layers(&built.outcome.config, layers) {
                image.set_config(config);
            }
        }
        Ok(Formed::of(images, form))
    }

    fn layer(&mut self, diff_id: DiffId, is_docker: bool) -> Result<Descriptor, PackError> {
        if let Some(known) = self.known.get(&diff_id) {
            return Ok(known.clone());
        }
        let as_received = match self.compression.scope {
            CompressionScope::New => self.received(diff_id, is_docker)?,
            CompressionScope::All => None,
        };
        let descriptor = match as_received {
            Some(received) => received,
            None => self.compress(diff_id, is_docker)?,
        };
        self.known.insert(diff_id, descriptor.clone());
        Ok(descriptor)
    }

    /// The layer as it came, if that is still here.
    fn received(&self, diff_id: DiffId, is_docker: bool) -> Result<Option<Descriptor>, PackError> {
        let store = self.engine.store();
        for form in store.layer_blobs(&diff_id)? {
            if form.encoding.is_empty() && store.blob(&form.digest)?.is_some() {
                return Ok(Some(received(&form, is_docker)));
            }
        }
        Ok(None)
    }

    fn compress(&mut self, diff_id: DiffId, is_docker: bool) -> Result<Descriptor, PackError> {
        let store = self.engine.store();
        let row = store.layer(&diff_id)?.ok_or(PackError::Missing(diff_id))?;
        let format = self.compression.format;
        if format == Compression::None {
            let media_type = layer_type(format, is_docker);
            return Ok(Descriptor::new(media_type, diff_id.digest(), row.tar_size));
        }
        if self.compression.access == BlobAccess::Files
            && let Some(made) = self.estargz(diff_id)?
        {
            self.renamed.insert(diff_id, made.diff_id);
            return Ok(estargz::descriptor(&made, is_docker));
        }
        let made = self.compressed.take(diff_id, &self.options())?;
        self.files.insert(made.digest, made.path);
        Ok(Descriptor::new(layer_type(format, is_docker), made.digest, made.size_bytes))
    }

    /// Brings a layer into the form of eStargz; `None` if it cannot have that.
    fn estargz(&mut self, diff_id: DiffId) -> Result<Option<Estargz>, PackError> {
        let (store, options) = (self.engine.store(), self.options());
        let failed = |source| PackError::Write { diff_id, source };
        let (path, mut sink) = self.compressed.file().map_err(|error| error.of(diff_id))?;
        let made = estargz::compress((store.layout(), &diff_id), &mut sink, &options);
        let made = made.map_err(|source| PackError::Form { diff_id, source })?;
        sink.inner.flush().map_err(failed)?;
        let Some(made) = made else {
            fs_err::remove_file(&path).map_err(failed)?;
            return Ok(None);
        };
        self.files.insert(made.blob.digest, path);
        estargz::remember(store, &diff_id, &options, &made);
        Ok(Some(made))
    }

    fn options(&self) -> CompressOptions {
        self.compression.options()
    }
}
