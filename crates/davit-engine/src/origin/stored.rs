//! The store as origin: an image as its manifest says, received blobs and plain tars alike.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

use davit_image::{Descriptor, Digest, Document};
use davit_store::{Store, StoreError};
use fs_err::File;

use super::{BlobRead, Origin, OriginError, from_offset};

/// One image of the store. The caller keeps it by a lease.
#[derive(Debug)]
pub(crate) struct Stored {
    top: Descriptor,
    /// Looked up beforehand: the store is borrowed, while an origin lives on threads of its own.
    files: HashMap<Digest, PathBuf>,
}

impl Stored {
    /// Looks up all that `top` leads to and that is here.
    pub(crate) fn new(store: &Store, top: Descriptor) -> Result<Self, StoreError> {
        let mut files = HashMap::new();
        let mut queue = vec![top.clone()];
        while let Some(next) = queue.pop() {
            if files.contains_key(&next.digest) {
                continue;
            }
            let Some((file, _)) = store.open_content(&next.digest)? else { continue };
            files.insert(next.digest, file.path().to_owned());
            if next.media_type.is_manifest() || next.media_type.is_index() {
                let bytes = store.read_blob(&next.digest, super::MANIFEST_BYTES)?;
                queue.extend(children(&next, bytes));
            }
        }
        Ok(Self { top, files })
    }

    fn open(&self, digest: &Digest) -> Result<File, OriginError> {
        let path = self.files.get(digest).ok_or(OriginError::Missing(*digest))?;
        File::open(path).map_err(|e| davit_store::archive::ArchiveError::Read(e).into())
    }
}

/// What a document names; a malformed one names nothing and is refused when it is read.
fn children(descriptor: &Descriptor, bytes: Vec<u8>) -> Vec<Descriptor> {
    match Document::parse(bytes, Some(&descriptor.media_type)) {
        Ok(Document::Index(raw)) => raw.into_value().manifests,
        Ok(Document::Manifest(raw)) => {
            let manifest = raw.into_value();
            std::iter::once(manifest.config).chain(manifest.layers).collect()
        }
        Err(_) => Vec::new(),
    }
}

impl Origin for Stored {
    fn resolve(&self) -> Result<Descriptor, OriginError> {
        Ok(self.top.clone())
    }

    fn stream(
        &self,
        descriptor: &Descriptor,
        offset: u64,
        _cancelled: &Arc<AtomicBool>,
    ) -> Result<Box<dyn BlobRead>, OriginError> {
        from_offset(self.open(&descriptor.digest)?, offset)
    }
}
