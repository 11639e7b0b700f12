//! The store as origin: an image as its manifest says, received blobs and plain tars alike.
//!
//! A pull leaves the other platforms of an index where they are, and compressed layers need not be
//! kept. What can leave is then the one image that is here, with plain layers where it has no
//! others.

use std::{collections::HashMap, path::PathBuf};

use davit_image::{
    Descriptor, Digest, Document, ImageConfig, Index, Manifest, MediaType, Platform, Raw, Reference,
};
use davit_store::{Lease, Store, StoreError, Target};
use fs_err::File;

use super::{BlobRead, Origin, OriginError, Stop, from_offset, parse};

/// One image of the store. The caller keeps it by a lease.
#[derive(Debug)]
pub(crate) struct Stored {
    top: Descriptor,
    /// The platform of the image that stands for its index, where that was not asked for.
    alone: Option<Platform>,
    /// The manifest of plain layers, where one had to be made.
    made: Option<Vec<u8>>,
    /// Looked up beforehand: the store is borrowed, while an origin lives on threads of its own.
    files: HashMap<Digest, PathBuf>,
}

impl Stored {
    /// Looks up all that a name leads to and that is here.
    ///
    /// Where that is not all of an index, the image of `platform` stands for it, or the one whose
    /// layers are here.
    pub(crate) fn find(
        store: &Store,
        lease: &Lease<'_>,
        reference: &Reference,
        platform: Option<&Platform>,
    ) -> Result<Self, StoreError> {
        let target = store.find_image(&reference.to_string())?.target;
        let top = target.descriptor();
        let mut stored = Self { top, alone: None, made: None, files: HashMap::new() };
        let is_whole = stored.gather(store)?;
        if !is_whole {
            stored.narrow(store, &target, platform)?;
        }
        lease.keep(&stored.files.keys().copied().collect::<Vec<_>>())?;
        Ok(stored)
    }

    /// The platform of the image that stands for its index, if one does unasked.
    pub(crate) const fn alone(&self) -> Option<&Platform> {
        self.alone.as_ref()
    }

    /// Notes where everything below the top lies; false if something is not here.
    fn gather(&mut self, store: &Store) -> Result<bool, StoreError> {
        let mut is_whole = true;
        let mut queue = vec![self.top.clone()];
        while let Some(next) = queue.pop() {
            if self.files.contains_key(&next.digest) {
                continue;
            }
            if !self.note(store, &next.digest)? {
                // What others serve is not copied.
                is_whole &= next.media_type.is_nondistributable() && !next.urls.is_empty();
                continue;
            }
            if next.media_type.is_manifest() || next.media_type.is_index() {
                queue.extend(read(store, &next)?.map(children).unwrap_or_default());
            }
        }
        Ok(is_whole)
    }

    /// Notes where content lies; false if it is not here.
    fn note(&mut self, store: &Store, digest: &Digest) -> Result<bool, StoreError> {
        let Some((file, _)) = store.open_content(digest)? else { return Ok(false) };
        self.files.insert(*digest, file.path().to_owned());
        Ok(true)
    }

    /// Lets one image stand for what is not whole. One that is not here either stays missing.
    fn narrow(
        &mut self,
        store: &Store,
        target: &Target,
        platform: Option<&Platform>,
    ) -> Result<(), StoreError> {
        let mut top = self.top.clone();
        let index = read(store, &top)?;
        if let Some(Document::Index(index)) = &index {
            let Some(entry) = self.present(store, target, platform, index.value())? else {
                return Ok(());
            };
            top = entry;
        }
        let Some(Document::Manifest(manifest)) = read(store, &top)? else { return Ok(()) };
        if matches!(index, Some(Document::Index(_))) && platform.is_none() {
            let config = store.read_blob(&manifest.value().config.digest, super::CONFIG_BYTES)?;
            let config = serde_json::from_slice::<ImageConfig>(&config).ok();
            self.alone = config.map(|config| config.platform());
        }
        if let Some(plain) = self.plain(store, manifest.value())? {
            top = Descriptor::of(MediaType::OCI_MANIFEST, plain.bytes());
            self.made = Some(plain.bytes().to_vec());
        }
        self.top = top;
        Ok(())
    }

    /// The entry of an index that is here: for the platform, or the image that the store knows.
    fn present(
        &self,
        store: &Store,
        target: &Target,
        platform: Option<&Platform>,
        index: &Index,
    ) -> Result<Option<Descriptor>, StoreError> {
        if let Some(platform) = platform {
            let chosen = index.choose(platform);
            return Ok(chosen.filter(|entry| self.files.contains_key(&entry.digest)).cloned());
        }
        let own = target.image_id.map(|id| id.digest());
        for entry in &index.manifests {
            if let Some(Document::Manifest(manifest)) = read(store, entry)?
                && Some(manifest.value().config.digest) == own
            {
                return Ok(Some(entry.clone()));
            }
        }
        Ok(None)
    }

    /// The manifest with plain layers, if compressed ones are not here but plain ones are.
    fn plain(
        &mut self,
        store: &Store,
        manifest: &Manifest,
    ) -> Result<Option<Raw<Manifest>>, StoreError> {
        let is_whole = children_of(manifest).all(|part| self.files.contains_key(&part.digest));
        if is_whole || !manifest.is_image() || !self.files.contains_key(&manifest.config.digest) {
            return Ok(None);
        }
        let mut layers = Vec::new();
        for diff_id in store.image_layers(&davit_image::ImageId::new(manifest.config.digest))? {
            let Some(row) = store.layer(&diff_id)? else { return Ok(None) };
            self.note(store, &diff_id.digest())?;
            layers.push(Descriptor::new(MediaType::OCI_LAYER, diff_id.digest(), row.tar_size));
        }
        let config = Descriptor { media_type: MediaType::OCI_CONFIG, ..manifest.config.clone() };
        Ok(Some(Raw::write(Manifest::new(config, layers))))
    }

    fn open(&self, digest: &Digest) -> Result<File, OriginError> {
        let path = self.files.get(digest).ok_or(OriginError::Missing(*digest))?;
        File::open(path).map_err(|e| davit_store::archive::ArchiveError::Read(e).into())
    }
}

/// A document that is here; a malformed one names nothing and is refused when it is copied.
fn read(store: &Store, descriptor: &Descriptor) -> Result<Option<Document>, StoreError> {
    if store.blob(&descriptor.digest)?.is_none() {
        return Ok(None);
    }
    let bytes = store.read_blob(&descriptor.digest, super::MANIFEST_BYTES)?;
    Ok(Document::parse(bytes, Some(&descriptor.media_type)).ok())
}

fn children(document: Document) -> Vec<Descriptor> {
    match document {
        Document::Index(raw) => raw.into_value().manifests,
        Document::Manifest(raw) => children_of(raw.value()).cloned().collect(),
    }
}

fn children_of(manifest: &Manifest) -> impl Iterator<Item = &Descriptor> {
    std::iter::once(&manifest.config).chain(&manifest.layers)
}

impl Origin for Stored {
    fn resolve(&self) -> Result<Descriptor, OriginError> {
        Ok(self.top.clone())
    }

    fn document(&self, descriptor: &Descriptor) -> Result<(Document, Descriptor), OriginError> {
        if let Some(made) = &self.made
            && descriptor.digest == self.top.digest
        {
            return parse(descriptor, made.clone());
        }
        let content = self.stream(descriptor, 0, &Stop::default())?;
        parse(descriptor, super::read_small(descriptor, super::MANIFEST_BYTES, content)?)
    }

    fn stream(
        &self,
        descriptor: &Descriptor,
        offset: u64,
        _stop: &Stop,
    ) -> Result<Box<dyn BlobRead>, OriginError> {
        from_offset(self.open(&descriptor.digest)?, offset)
    }
}
