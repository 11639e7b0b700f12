//! An OCI layout directory as destination.

use std::path::{Path, PathBuf};

use davit_image::{Descriptor, Reference};
use davit_store::archive::{ArchiveError, LayoutDir, LayoutDirWriter, REF_NAME, named_descriptor};

use super::{CopyError, OriginBlob, Sink};
use crate::copy::Place;

/// An OCI layout; one that is there gets one more image.
#[derive(Debug)]
pub(crate) struct LayoutSink {
    writer: LayoutDirWriter,
    present: LayoutDir,
    path: PathBuf,
    name: Option<String>,
}

impl LayoutSink {
    pub(crate) fn create(path: &Path, name: Option<String>) -> Result<Self, ArchiveError> {
        let writer = LayoutDirWriter::create(path)?;
        Ok(Self { writer, present: LayoutDir::open(path)?, path: path.to_owned(), name })
    }

    fn failed(&self, source: ArchiveError) -> CopyError {
        let place = Place::Layout { path: self.path.clone(), name: self.name.clone() };
        CopyError::Archive { place, source }
    }
}

/// A descriptor with its name in an index: a full reference as such, any other text as it is.
pub(super) fn named(top: &Descriptor, name: Option<&str>) -> Descriptor {
    let Some(name) = name else { return top.clone() };
    if name.contains(['/', ':'])
        && let Ok(reference) = name.parse::<Reference>()
    {
        return named_descriptor(top, Some(&reference));
    }
    let mut named = top.clone();
    named.annotations.insert(REF_NAME.to_owned(), name.to_owned());
    named
}

impl Sink for LayoutSink {
    fn has(&self, blob: &Descriptor) -> Result<bool, CopyError> {
        let file = self.present.open_blob(&blob.digest).map_err(|e| self.failed(e))?;
        let size = file.and_then(|file| file.metadata().ok()).map(|facts| facts.len());
        Ok(size == Some(blob.size))
    }

    fn put(&self, blob: &Descriptor, source: &OriginBlob) -> Result<(), CopyError> {
        let mut content = source.read().map_err(|e| self.failed(origin_failed(e)))?;
        self.writer.add_blob(&blob.digest, &mut content).map_err(|e| self.failed(e))
    }

    fn put_document(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), CopyError> {
        self.writer.add_blob(&descriptor.digest, &mut &*bytes).map_err(|e| self.failed(e))
    }

    fn finish(&self, top: &Descriptor, _bytes: &[u8]) -> Result<(), CopyError> {
        let named = named(top, self.name.as_deref());
        self.writer.finish(vec![named]).map_err(|e| self.failed(e))
    }
}

/// A source that fails ends the writing of what it was to give.
pub(super) fn origin_failed(error: crate::OriginError) -> ArchiveError {
    ArchiveError::Read(std::io::Error::other(error))
}
