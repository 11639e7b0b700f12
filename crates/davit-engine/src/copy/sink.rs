//! Destinations of a copy.

mod archive;
mod folder;
mod layout;
mod registry;

use std::{io, path::Path};

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

/// Whether images may go into a folder: it is not there or empty, it holds the file `mark` of its
/// kind, or nothing but `first`, which a copy that was interrupted has left.
pub(super) fn may_take(path: &Path, mark: &str, first: &str) -> io::Result<bool> {
    let entries = match fs_err::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
    let names = names.collect::<io::Result<Vec<_>>>()?;
    Ok(names.iter().any(|name| name == mark) || names.iter().all(|name| name == first))
}
