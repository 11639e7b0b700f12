//! The store as origin: an image as its manifest says, received blobs and plain tars alike.
//!
//! A pull leaves the other platforms of an index where they are, and compressed layers need not be
//! kept. What can leave is then the one image that is here, with plain layers where it has no
//! others.

use std::{collections::HashMap, path::PathBuf};

use davit_image::{Descriptor, Digest, Document, ImageConfig, Manifest, MediaType, Platform};
use davit_store::{Lease, Store, StoreError, Target};
use fs_err::File;

use super::{BlobRead, Origin, OriginError, Stop, from_offset, parse};
use crate::images::index::{Wanted, find_manifest, plain_manifest, read_document};

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
        name: &str,
        platform: Option<&Platform>,
    ) -> Result<Self, StoreError> {
        let target = store.find_image(name)?.target;
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
                is_whole &= next.is_foreign();
                continue;
            }
            if next.media_type.is_manifest() || next.media_type.is_index() {
                queue.extend(read_document(store, &next)?.map(children).unwrap_or_default());
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
        let own = target.image_id.map(Wanted::Image);
        let Some(wanted) = platform.map(Wanted::Platform).or(own) else { return Ok(()) };
        let Some((entry, manifest)) = find_manifest(store, &self.top, wanted)? else {
            return Ok(());
        };
        if entry.digest != self.top.digest && platform.is_none() {
            let config = store.read_blob(&manifest.value().config.digest, super::DOCUMENT_BYTES)?;
            let config = serde_json::from_slice::<ImageConfig>(&config).ok();
            self.alone = config.map(|config| config.platform());
        }
        self.top = entry;
        self.narrow_to_plain(store, manifest.value())
    }

    /// Lets plain layers stand for compressed ones that are not here.
    fn narrow_to_plain(&mut self, store: &Store, manifest: &Manifest) -> Result<(), StoreError> {
        let is_whole = children_of(manifest).all(|part| self.files.contains_key(&part.digest));
        if is_whole || !manifest.is_image() || !self.files.contains_key(&manifest.config.digest) {
            return Ok(());
        }
        let plain = match plain_manifest(store, manifest) {
            Err(StoreError::MissingLayer(_)) => return Ok(()),
            plain => plain?,
        };
        for layer in &plain.value().layers {
            self.note(store, &layer.digest)?;
        }
        self.top = Descriptor::of(MediaType::OCI_MANIFEST, plain.bytes());
        self.made = Some(plain.bytes().to_vec());
        Ok(())
    }

    fn open(&self, digest: &Digest) -> Result<File, OriginError> {
        let path = self.files.get(digest).ok_or(OriginError::Missing(*digest))?;
        File::open(path).map_err(|e| davit_store::archive::ArchiveError::Read(e).into())
    }
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
