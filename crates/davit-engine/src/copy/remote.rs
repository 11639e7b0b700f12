//! Images as they are in registries, and indexes that are made there of other images.
//!
//! Nothing of this needs the store, hence no privilege: documents are read whole, and blobs stream
//! from one registry to the other, or are mounted within one.

mod attested;
mod plan;

pub use attested::RemoteStatement;

use std::sync::Arc;

use davit_distribution::{Access, Target};
use davit_image::{Descriptor, Document, ImageConfig, Manifest, Platform, Reference, Repository};

use super::{CopyError, CopyRequest, Place, sink::RegistrySink, transfer::Transfer};
use crate::{
    Config, Hint, Progress,
    build::Annotation,
    origin::{Origin, Registry},
    pull::{offer, registry_hints},
    registry::{Registries, RegistryError},
};

/// Registries, as sources of documents and places for indexes.
#[derive(Debug)]
pub struct Remotes {
    registries: Registries,
}

/// A manifest or index with the name that it was found by.
#[derive(Clone, Debug)]
pub struct RemoteDocument {
    /// Its name.
    pub reference: Reference,
    /// Its type, digest and size.
    pub descriptor: Descriptor,
    /// The document.
    pub document: Document,
}

/// An index to be made.
#[derive(Clone, Debug, Default)]
pub struct IndexRequest {
    /// What it is made of: images, and indexes whose entries are taken.
    pub sources: Vec<IndexSource>,
    /// Facts of the index, and of its entries.
    pub annotations: Vec<Annotation>,
    /// The platforms whose images are taken; all where none is given.
    pub platforms: Vec<Platform>,
    /// What becomes of a single image.
    pub single: SingleImage,
}

/// A part of an index that is to be made.
#[derive(Clone, Debug)]
pub struct IndexSource {
    /// What it is called in its registry.
    pub reference: Reference,
    /// What is to be said of it in the index, besides what is found.
    pub said: Option<Descriptor>,
}

/// What an index of one image is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SingleImage {
    /// An index with one entry.
    #[default]
    Index,
    /// The image itself, under one more name.
    Copy,
}

/// A document that has not been put anywhere, with what it names.
#[derive(Clone, Debug)]
pub struct PlannedIndex {
    /// Its type, digest and size.
    pub descriptor: Descriptor,
    /// What is put.
    pub bytes: Vec<u8>,
    /// What has to be where it is put, by digest.
    parts: Vec<Reference>,
}

/// Why registries do not give or take an index.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The network side cannot be set up.
    #[error("cannot reach a registry")]
    Setup(#[from] RegistryError),
    /// A document or config cannot be read.
    #[error("cannot read {reference}")]
    Read {
        /// Its name.
        reference: Reference,
        /// Cause.
        #[source]
        source: davit_distribution::Error,
    },
    /// An index cannot be put.
    #[error("cannot write {reference}")]
    Write {
        /// Its name.
        reference: Reference,
        /// Cause.
        #[source]
        source: davit_distribution::Error,
    },
    /// The config of an image is malformed.
    #[error("the config of {reference} is malformed")]
    Config {
        /// The image's name.
        reference: Reference,
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
    /// None of the sources has an image for a platform.
    #[error("no source has an image for {platform}{}", offer(offered))]
    Platform {
        /// The platform.
        platform: Platform,
        /// Platforms that they have.
        offered: Vec<String>,
    },
    /// The index would name nothing.
    #[error("the sources have no images")]
    Empty,
    /// An annotation has no place.
    #[error("annotation `{0}` has no place: only an index and the descriptors in it are made")]
    Annotation(String),
    /// What the index names does not come where the index is to be.
    #[error(transparent)]
    Copy(#[from] CopyError),
}

impl Hint for RemoteError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Read { reference, source } | Self::Write { reference, source } => {
                registry_hints(&reference.to_string(), source, &[])
            }
            Self::Copy(error) => error.hints(),
            Self::Annotation(key) => vec![format!("--annotation index:{key}=VALUE")],
            _ => Vec::new(),
        }
    }
}

impl Remotes {
    /// Reads the settings; asks nobody yet.
    ///
    /// # Errors
    /// [`RemoteError::Setup`].
    pub fn open(config: &Config) -> Result<Self, RemoteError> {
        Ok(Self { registries: Registries::open(config)? })
    }

    /// Reads what a reference names. Blocks.
    ///
    /// # Errors
    /// [`RemoteError::Read`].
    pub fn document(&self, reference: &Reference) -> Result<RemoteDocument, RemoteError> {
        let session = self.registries.client.session(reference.repository(), Access::Pull);
        let fetched = self.registries.wait(session.manifest(&Target::of(reference)));
        let fetched =
            fetched.map_err(|source| RemoteError::Read { reference: reference.clone(), source })?;
        let reference = reference.clone();
        Ok(RemoteDocument { reference, descriptor: fetched.descriptor, document: fetched.document })
    }

    /// Reads an image's config as it is. Blocks.
    ///
    /// # Errors
    /// [`RemoteError::Read`], [`RemoteError::Config`].
    pub fn config(
        &self,
        reference: &Reference,
        manifest: &Manifest,
    ) -> Result<serde_json::Value, RemoteError> {
        self.config_as(reference, manifest)
    }

    fn config_as<T: serde::de::DeserializeOwned>(
        &self,
        reference: &Reference,
        manifest: &Manifest,
    ) -> Result<T, RemoteError> {
        let session = self.registries.client.session(reference.repository(), Access::Pull);
        let bytes = self.registries.wait(session.blob_bytes(&manifest.config));
        let bytes =
            bytes.map_err(|source| RemoteError::Read { reference: reference.clone(), source })?;
        serde_json::from_slice(&bytes)
            .map_err(|source| RemoteError::Config { reference: reference.clone(), source })
    }

    /// The platform that an image's config names; none where it is no image.
    fn platform(&self, found: &RemoteDocument) -> Result<Option<Platform>, RemoteError> {
        match &found.document {
            Document::Manifest(manifest) if manifest.value().is_image() => {
                let config: ImageConfig = self.config_as(&found.reference, manifest.value())?;
                Ok(Some(config.platform()).filter(|platform| !platform.os.is_empty()))
            }
            _ => Ok(None),
        }
    }

    /// Puts an index under names, after all that it names. Blocks; idempotent.
    ///
    /// # Errors
    /// [`RemoteError::Copy`], [`RemoteError::Write`]; names that come before stay.
    pub fn publish(
        &self,
        index: &PlannedIndex,
        names: &[Reference],
        progress: &dyn Progress,
    ) -> Result<(), RemoteError> {
        let mut filled: Vec<&Repository> = Vec::new();
        for name in names {
            let repository = name.repository();
            if !filled.contains(&repository) {
                for part in index.parts.iter().filter(|part| part.repository() != repository) {
                    self.copy(part, repository, progress)?;
                }
                filled.push(repository);
            }
            let media_type = &index.descriptor.media_type;
            let session = self.registries.client.session(repository, Access::Push);
            let target = Target::of(name);
            let put = session.put_manifest(&target, media_type, index.bytes.clone());
            self.registries
                .wait(put)
                .map_err(|source| RemoteError::Write { reference: name.clone(), source })?;
        }
        Ok(())
    }

    /// Copies a manifest or index, by its digest, with all that it names.
    fn copy(
        &self,
        part: &Reference,
        repository: &Repository,
        progress: &dyn Progress,
    ) -> Result<(), CopyError> {
        let digest = part.digest().expect("parts are named by digest");
        let target = repository.with_digest(*digest);
        let (client, runtime) = (&self.registries.client, self.registries.handle());
        let request = CopyRequest {
            source: Place::Registry(part.clone()),
            destination: Place::Registry(target.clone()),
            platform: None,
        };
        let origin: Arc<dyn Origin> = Arc::new(Registry::new(client, runtime, part));
        let sink = RegistrySink {
            session: client.session(repository, Access::Push),
            target: Target::of(&target),
            runtime: runtime.clone(),
            mount_from: Some(part.repository().clone()),
        };
        Transfer { origin: &origin, sink: &sink, request: &request, progress }.run().map(drop)
    }
}
