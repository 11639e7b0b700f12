//! `push`: from the store to a registry.
//!
//! ```text
//! tag ─ manifest ─ each blob: HEAD ─ mount from a sibling repository ─ upload
//!          │                                     received blob, or tar compressed on the way
//!          └ a build's plain tars: a second manifest with compressed layers, kept as RepoDigest
//! ```
//!
//! What was received is pushed as received, so that its digest is the same everywhere. What a tar
//! compresses to is remembered, so that the next push of it is a HEAD.

pub(crate) mod built;
mod error;
mod estargz;
mod index;
pub(crate) mod layer;
mod referrers;
mod source;

use std::{
    collections::HashMap,
    sync::{Mutex, atomic::AtomicBool},
    thread,
};

use davit_distribution::{Access, Session, Target as RemoteTarget};
use davit_image::{
    Compression, Descriptor, Digest, Document, ImageConfig, ImageId, Index, Manifest, Platform,
    Raw, Reference, Repository,
};
use davit_layer::CompressOptions;
use davit_store::{ImageCommit, ImageRow, Lease, RepoDigest, StoreError, StoredDocument, Target};

use crate::{
    Engine, Event, Progress,
    compressed::CompressedLayers,
    images::index::{Wanted, find_manifest},
    origin::DOCUMENT_BYTES,
    registry::{Registries, RegistryError},
};

pub use self::error::PushError;
pub(crate) use self::source::{CompressedTar, StoredBlob};

/// Layers that are sent at a time.
const PARALLEL: usize = 3;

/// What to push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushRequest {
    /// The image, and where it goes.
    pub reference: Reference,
    /// The image's name here, where that is another one.
    pub source: Option<Reference>,
    /// Whether all tags of the repository go.
    pub all_tags: bool,
    /// The one platform of an index to be pushed.
    pub platform: Option<Platform>,
    /// How plain layers are compressed.
    pub compression: LayerCompression,
    /// What the registry is told to call it.
    pub name: RemoteName,
    /// Whether what refers to it has to arrive.
    pub referrers: Referrers,
}

/// Whether manifests that refer to an image have to arrive with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Referrers {
    /// Yes.
    #[default]
    Needed,
    /// A registry that does not take them gets the image without.
    Wished,
    /// None of them go.
    Omitted,
}

/// What a registry calls what is pushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RemoteName {
    /// The tag of the reference.
    #[default]
    Tag,
    /// Nothing: it is found by its digest alone.
    Digest,
}

/// How plain layers are compressed on their way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerCompression {
    /// Format.
    pub format: Compression,
    /// Level; the format's default where none is given.
    pub level: Option<u32>,
    /// Which layers of a build are compressed so.
    pub scope: CompressionScope,
    /// What can be read of a blob without the rest.
    pub access: BlobAccess,
}

/// What can be read of a compressed layer without the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BlobAccess {
    /// Nothing.
    #[default]
    Whole,
    /// Each file: gzip in the form of eStargz. The image gets another id there, since its layers have
    /// a table of contents.
    Files,
}

/// Which layers of a build are compressed as asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CompressionScope {
    /// Those that are not here as they were received.
    #[default]
    New,
    /// All.
    All,
}

impl LayerCompression {
    /// What the compressor is told; all cores work.
    pub(crate) fn options(&self) -> CompressOptions {
        CompressOptions {
            compression: self.format,
            level: self.level,
            threads: thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

impl Default for LayerCompression {
    fn default() -> Self {
        Self {
            format: Compression::Gzip,
            level: None,
            scope: CompressionScope::New,
            access: BlobAccess::Whole,
        }
    }
}

/// One tag that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The name at the registry.
    pub reference: Reference,
    /// What it names there.
    pub digest: Digest,
    /// Size of that manifest or index in bytes.
    pub size_bytes: u64,
}

impl Engine {
    /// Pushes a tag, or all tags of a repository; blobs that the registry has are not sent.
    ///
    /// Blocks. The tag moves last, so that a push that fails leaves the registry's tag as it was.
    ///
    /// # Errors
    /// See [`PushError`].
    pub fn push(
        &self,
        request: &PushRequest,
        progress: &dyn Progress,
    ) -> Result<Vec<Pushed>, PushError> {
        let registries = self.registries().map_err(|source| setup(request, source))?;
        let push = Push::new(self, &registries, request, progress)?;
        push.run()
    }
}

/// One push in flight.
struct Push<'a> {
    engine: &'a Engine,
    registries: &'a Registries,
    session: Session,
    request: &'a PushRequest,
    progress: &'a dyn Progress,
    /// Each of them is set by another thread to end it.
    cancelled: Vec<&'a AtomicBool>,
    /// Layers that others of the same build want compressed, too.
    compressed: Option<&'a CompressedLayers<'a>>,
    /// All images, to find repositories that share layers.
    images: Vec<ImageRow>,
    /// What was sent in the place of layers, by their digests here.
    sent_layers: Mutex<HashMap<Digest, Descriptor>>,
}

/// A manifest with everything that is needed to send it.
struct Loaded {
    descriptor: Descriptor,
    manifest: Raw<Manifest>,
    /// Its config, if it is an image whose layers are those of the config.
    image: Option<ImageConfig>,
    config_bytes: Vec<u8>,
}

fn setup(request: &PushRequest, source: RegistryError) -> PushError {
    PushError::Setup { reference: request.reference.to_string(), source }
}

impl<'a> Push<'a> {
    fn new(
        engine: &'a Engine,
        registries: &'a Registries,
        request: &'a PushRequest,
        progress: &'a dyn Progress,
    ) -> Result<Self, PushError> {
        let reference = request.reference.to_string();
        let images = engine.store().images();
        let images = images.map_err(|source| PushError::Store { reference, source })?;
        let session = registries.client.session(request.reference.repository(), Access::Push);
        Ok(Self {
            engine,
            registries,
            session,
            request,
            progress,
            cancelled: Vec::new(),
            compressed: None,
            images,
            sent_layers: Mutex::default(),
        })
    }
}

impl Push<'_> {
    fn run(&self) -> Result<Vec<Pushed>, PushError> {
        let store = self.engine.store();
        let lease = store.lease("push").map_err(|e| self.store_error(e))?;
        let repository = self.request.reference.repository();
        self.message(&format!("The push refers to repository [{repository}]"));
        let tags = self.tags()?;
        let mut pushed = Vec::new();
        for (reference, target) in tags {
            lease.keep(&[target.digest]).map_err(|e| self.store_error(e))?;
            let sent = self.push_target(&lease, &reference, &target)?.descriptor;
            pushed.push(Pushed { reference, digest: sent.digest, size_bytes: sent.size });
        }
        self.list_referrers()?;
        Ok(pushed)
    }

    /// The tags to push, each with what it names.
    fn tags(&self) -> Result<Vec<(Reference, Target)>, PushError> {
        let wanted = self.request.source.as_ref().unwrap_or(&self.request.reference);
        let of_repository =
            self.images.iter().flat_map(|image| &image.targets).flat_map(|(target, tags)| {
                let own = tags.iter().filter(|tag| tag.repository() == wanted.repository());
                own.map(|tag| (tag.clone(), target.clone()))
            });
        let found: Vec<_> = if self.request.all_tags {
            of_repository.collect()
        } else {
            let named = |(tag, _): &(Reference, Target)| tag.tag() == wanted.tag();
            of_repository.filter(named).take(1).collect()
        };
        if !found.is_empty() {
            let renamed = |(tag, target)| match &self.request.source {
                Some(_) => (self.request.reference.clone(), target),
                None => (tag, target),
            };
            return Ok(found.into_iter().map(renamed).collect());
        }
        let similar = self.engine.similar_images(wanted);
        Err(PushError::NotFound { reference: wanted.familiar(), similar })
    }

    fn push_target(
        &self,
        lease: &Lease<'_>,
        reference: &Reference,
        target: &Target,
    ) -> Result<Sent, PushError> {
        let top = target.descriptor();
        if let Some(platform) = &self.request.platform {
            let found = self.find(&top, Wanted::Platform(platform))?;
            let found = found.ok_or_else(|| self.no_platform(platform))?;
            return self.push_alone(lease, reference, &found);
        }
        match self.document(&top)? {
            Document::Manifest(manifest) => {
                self.push_alone(lease, reference, &self.load(top, manifest)?)
            }
            Document::Index(index) => self.push_index(lease, reference, target, &index),
        }
    }

    fn push_alone(
        &self,
        lease: &Lease<'_>,
        reference: &Reference,
        loaded: &Loaded,
    ) -> Result<Sent, PushError> {
        let sent = self.push_manifest(lease, loaded, Rewrite::Allowed)?;
        // A registry takes what refers to a manifest before it has that; the tag moves last.
        self.push_referrers(lease, &loaded.descriptor, &sent.descriptor)?;
        self.name(lease, reference, sent)
    }

    /// Moves the tag and remembers the digest.
    fn name(
        &self,
        lease: &Lease<'_>,
        reference: &Reference,
        sent: Sent,
    ) -> Result<Sent, PushError> {
        let name = match self.request.name {
            RemoteName::Tag => RemoteTarget::of(reference),
            RemoteName::Digest => RemoteTarget::Digest(sent.descriptor.digest),
        };
        self.put(&name, &sent)?;
        // A copy changes nothing here, and what has layers that are not here has no place here.
        if self.request.source.is_some() || sent.novelty == Novelty::Elsewhere {
            return Ok(sent);
        }
        let descriptor = &sent.descriptor;
        let media_type = descriptor.media_type.clone();
        let mut commit = ImageCommit::default();
        if sent.novelty == Novelty::Document {
            commit.documents.push(StoredDocument::new(media_type, sent.bytes.clone()));
        }
        commit.repo_digests.push(RepoDigest {
            reference: reference.repository().with_digest(descriptor.digest),
            target: Target::new(descriptor, sent.image_id),
        });
        self.engine.store().commit_images(lease, &commit).map_err(|e| self.store_error(e))?;
        Ok(sent)
    }

    fn put(&self, name: &RemoteTarget, sent: &Sent) -> Result<(), PushError> {
        let media_type = &sent.descriptor.media_type;
        self.wait(self.session.put_manifest(name, media_type, sent.bytes.clone()))
    }

    fn registry_has(&self, entry: &Descriptor) -> Result<bool, PushError> {
        let target = RemoteTarget::Digest(entry.digest);
        match self.wait(self.session.resolve(&target)) {
            Ok(_) => Ok(true),
            Err(PushError::Registry { source, .. }) if source.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether config and layers can be sent as they are named.
    fn is_whole(&self, manifest: &Manifest) -> Result<bool, PushError> {
        let store = self.engine.store();
        let parts = manifest.layers.iter().chain([&manifest.config]);
        for part in parts.filter(|part| !part.is_foreign()) {
            if store.open_content(&part.digest).map_err(|e| self.store_error(e))?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn find(&self, top: &Descriptor, wanted: Wanted<'_>) -> Result<Option<Loaded>, PushError> {
        let found = find_manifest(self.engine.store(), top, wanted);
        let found = found.map_err(|e| self.store_error(e))?;
        found.map(|(descriptor, manifest)| self.load(descriptor, manifest)).transpose()
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Document, PushError> {
        let store = self.engine.store();
        let bytes =
            store.read_blob(&descriptor.digest, DOCUMENT_BYTES).map_err(|e| self.store_error(e))?;
        Document::parse(bytes, Some(&descriptor.media_type))
            .map_err(|_| self.malformed(descriptor.digest))
    }

    fn load(&self, descriptor: Descriptor, manifest: Raw<Manifest>) -> Result<Loaded, PushError> {
        let digest = manifest.value().config.digest;
        let config_bytes = self
            .engine
            .store()
            .read_blob(&digest, DOCUMENT_BYTES)
            .map_err(|e| self.store_error(e))?;
        // Anything else may be pushed as it is, as it may be saved and copied.
        let config = serde_json::from_slice::<ImageConfig>(&config_bytes).ok();
        let image = config.filter(|config| {
            let value = manifest.value();
            value.is_image() && config.rootfs.diff_ids.len() == value.layers.len()
        });
        Ok(Loaded { descriptor, manifest, image, config_bytes })
    }

    /// Other repositories of the same registry that hold images with this layer.
    fn siblings(&self, diff_id: &davit_image::DiffId) -> Vec<Repository> {
        let own = self.request.reference.repository();
        let mut siblings: Vec<Repository> = self
            .images
            .iter()
            .filter(|image| image.layers.contains(diff_id))
            .flat_map(|image| &image.repo_digests)
            .map(|known| known.repository().clone())
            .filter(|other| other.registry() == own.registry() && other != own)
            .collect();
        siblings.sort();
        siblings.dedup();
        siblings
    }

    fn message(&self, text: &str) {
        self.progress.report(Event::Message(text));
    }

    fn target_name(&self) -> String {
        self.request.reference.to_string()
    }

    /// The image's name here.
    fn own_name(&self) -> String {
        self.request.source.as_ref().unwrap_or(&self.request.reference).to_string()
    }

    fn registry_error(&self, source: davit_distribution::Error) -> PushError {
        PushError::Registry { reference: self.target_name(), source }
    }

    fn store_error(&self, source: StoreError) -> PushError {
        PushError::Store { reference: self.target_name(), source }
    }

    fn malformed(&self, digest: Digest) -> PushError {
        PushError::Document { reference: self.target_name(), digest }
    }

    fn missing(&self, missing: Digest) -> PushError {
        PushError::Incomplete { reference: self.own_name(), missing }
    }

    fn no_platform(&self, platform: &Platform) -> PushError {
        PushError::Platform { reference: self.own_name(), platform: platform.clone() }
    }
}

/// Whether a manifest may be replaced by one with compressed layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rewrite {
    Allowed,
    /// An index names it by digest.
    Refused,
}

/// A manifest or index whose parts are at the registry.
pub(crate) struct Sent {
    pub(crate) descriptor: Descriptor,
    bytes: Vec<u8>,
    pub(crate) image_id: Option<ImageId>,
    novelty: Novelty,
}

/// What of that was made for this push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Novelty {
    /// Nothing.
    None,
    /// The manifest or index.
    Document,
    /// Layers, too, and so the image is another one than here.
    Elsewhere,
}

impl Sent {
    /// An index as it is.
    fn index(descriptor: Descriptor, index: &Raw<Index>, image_id: Option<ImageId>) -> Self {
        Self { descriptor, bytes: index.bytes().to_vec(), image_id, novelty: Novelty::None }
    }
}
