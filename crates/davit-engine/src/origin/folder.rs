//! The `dir:` form of containers/image as origin: `manifest.json` and blobs named by hex digits.

use std::path::Path;

use davit_image::{Descriptor, Digest, Document};
use davit_store::archive::{ArchiveError, LayoutDir};
use fs_err::File;

use super::{BlobRead, Origin, OriginError, Stop, from_offset, parse, read_small};

/// The image of a `dir:` folder.
#[derive(Debug)]
pub(crate) struct Folder {
    directory: LayoutDir,
    top: Descriptor,
}

impl Folder {
    pub(crate) fn open(path: &Path) -> Result<Self, OriginError> {
        let directory = LayoutDir::open(path)?;
        let bytes = directory.read_file("manifest.json", super::MANIFEST_BYTES)?;
        let bytes = bytes.ok_or(ArchiveError::NoImages)?;
        let digest = Digest::of(&bytes);
        let document = Document::parse(bytes, None)
            .map_err(|source| OriginError::Document { digest, source })?;
        Ok(Self { directory, top: document.descriptor() })
    }

    fn blob(&self, digest: &Digest) -> Result<File, OriginError> {
        self.directory.open_file(&digest.hex())?.ok_or(OriginError::Missing(*digest))
    }
}

impl Origin for Folder {
    fn resolve(&self) -> Result<Descriptor, OriginError> {
        Ok(self.top.clone())
    }

    fn document(&self, descriptor: &Descriptor) -> Result<(Document, Descriptor), OriginError> {
        let name = if descriptor.digest == self.top.digest {
            "manifest.json".to_owned()
        } else {
            format!("{}.manifest.json", descriptor.digest.hex())
        };
        let file = self.directory.open_file(&name)?;
        let file = file.ok_or(OriginError::Missing(descriptor.digest))?;
        parse(descriptor, read_small(descriptor, super::MANIFEST_BYTES, file)?)
    }

    fn stream(
        &self,
        descriptor: &Descriptor,
        offset: u64,
        _stop: &Stop,
    ) -> Result<Box<dyn BlobRead>, OriginError> {
        from_offset(self.blob(&descriptor.digest)?, offset)
    }
}
