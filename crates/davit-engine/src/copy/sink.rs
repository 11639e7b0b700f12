//! Destinations of a copy.

mod archive;
mod folder;
mod layout;
mod registry;

use davit_image::Descriptor;

use super::{CopyError, transfer::OriginBlob};

pub(super) use self::{
    archive::ArchiveSink, folder::FolderSink, layout::LayoutSink, registry::RegistrySink,
};

/// Takes an image part by part: blobs in any order, then documents, children first.
pub(super) trait Sink: Sync {
    /// Blobs that can be taken at a time.
    fn parallel(&self) -> usize {
        usize::MAX
    }

    /// Tells whether one image alone can go, and no index.
    fn is_single(&self) -> bool {
        false
    }

    /// Tells whether a blob is there.
    fn has(&self, blob: &Descriptor) -> Result<bool, CopyError>;

    /// Takes a blob; nothing of it is visible before its digest matches.
    fn put(&self, blob: &Descriptor, source: &OriginBlob) -> Result<(), CopyError>;

    /// Takes a manifest or index.
    fn put_document(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), CopyError>;

    /// Gives the image its name.
    fn finish(&self, top: &Descriptor, bytes: &[u8]) -> Result<(), CopyError>;
}
