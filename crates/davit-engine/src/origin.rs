//! Where an image's bytes come from: a registry, the store, an OCI layout, a Docker archive, a
//! `dir:` folder.
//!
//! An origin is hostile: whoever takes its bytes bounds them and checks size and digest.

mod docker_archive;
mod fetch;
mod folder;
mod layout;
mod registry;
mod stop;
mod stored;

use std::io::{self, Read, Seek as _, SeekFrom};

use davit_image::{Descriptor, Digest, Document, DocumentError, Index, Manifest, Raw, Reference};
use davit_store::{StoreError, archive::ArchiveError};

pub(crate) use self::{
    docker_archive::DockerArchive,
    fetch::{Download, Pieces},
    folder::Folder,
    layout::Layout,
    registry::Registry,
    stop::Stop,
    stored::Stored,
};

/// Largest manifest or index.
pub(crate) const MANIFEST_BYTES: u64 = 4 << 20;
/// Indexes may name indexes; nobody has a reason to go deeper.
pub(crate) const MOST_NESTED: usize = 3;
/// Largest config.
pub(crate) const CONFIG_BYTES: u64 = 8 << 20;
/// Largest document that is read back from the store, whatever it is.
pub(crate) const DOCUMENT_BYTES: u64 = CONFIG_BYTES;

/// A source of one image, and of all that this consists of.
pub(crate) trait Origin: Send + Sync {
    /// What the image's name names.
    fn resolve(&self) -> Result<Descriptor, OriginError>;

    /// A manifest or index, its digest checked.
    fn document(&self, descriptor: &Descriptor) -> Result<(Document, Descriptor), OriginError> {
        let content = self.stream(descriptor, 0, &Stop::default())?;
        parse(descriptor, read_small(descriptor, MANIFEST_BYTES, content)?)
    }

    /// A small blob, size and digest checked.
    fn bytes(&self, descriptor: &Descriptor) -> Result<Vec<u8>, OriginError> {
        let content = self.stream(descriptor, 0, &Stop::default())?;
        read_small(descriptor, CONFIG_BYTES, content)
    }

    /// A blob from an offset on, unchecked; `stop` ends it from another thread.
    fn stream(
        &self,
        descriptor: &Descriptor,
        offset: u64,
        stop: &Stop,
    ) -> Result<Box<dyn BlobRead>, OriginError>;

    /// Turns to a source that is trusted more, after content was wrong; false if there is none.
    fn distrust(&self) -> bool {
        false
    }
}

/// A blob's bytes. After a read has failed, the reason can be had as it was.
pub(crate) trait BlobRead: Read + Send {
    /// The error that ended the stream, if reading from its origin failed.
    fn take_failure(&mut self) -> Option<OriginError>;
}

impl BlobRead for fs_err::File {
    fn take_failure(&mut self) -> Option<OriginError> {
        None
    }
}

impl BlobRead for io::Take<fs_err::File> {
    fn take_failure(&mut self) -> Option<OriginError> {
        None
    }
}

/// A file from an offset on.
fn from_offset(mut file: fs_err::File, offset: u64) -> Result<Box<dyn BlobRead>, OriginError> {
    file.seek(SeekFrom::Start(offset)).map_err(ArchiveError::Read)?;
    Ok(Box::new(file))
}

/// Why an origin does not give what it is asked for.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// The registry.
    #[error(transparent)]
    Registry(#[from] davit_distribution::Error),
    /// A service that is no registry.
    #[error(transparent)]
    Web(davit_distribution::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file or folder.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A manifest or index is refused.
    #[error("manifest {digest} is refused")]
    Document {
        /// Its digest.
        digest: Digest,
        /// Why.
        #[source]
        source: DocumentError,
    },
    /// Nobody is known to have it.
    #[error("no registry is known to have it")]
    Unknown,
    /// Content is absent.
    #[error("{0} is not there")]
    Missing(Digest),
    /// Content is not what its descriptor says.
    #[error("{0} is not what its digest and size say")]
    Wrong(Digest),
    /// It was not wanted any more.
    #[error("it was stopped")]
    Stopped,
    /// An index in an index, and so on.
    #[error("its indexes are nested too deeply")]
    Nested,
    /// Nothing of that name is in it.
    #[error("there is no image `{wanted}` in it{}", crate::pull::offer(offered))]
    Name {
        /// Name asked for.
        wanted: String,
        /// Names in it.
        offered: Vec<String>,
    },
    /// It has several images, and none was named.
    #[error("it has several images: {}", .0.join(", "))]
    Several(Vec<String>),
}

/// Reads a small blob whole: bounded before, checked after.
pub(crate) fn read_small(
    descriptor: &Descriptor,
    limit: u64,
    source: impl Read,
) -> Result<Vec<u8>, OriginError> {
    if descriptor.size > limit {
        let what = "bytes in a document";
        return Err(ArchiveError::TooLarge { what, limit }.into());
    }
    let mut bytes = Vec::new();
    source.take(descriptor.size + 1).read_to_end(&mut bytes).map_err(ArchiveError::Read)?;
    let fits = bytes.len() as u64 == descriptor.size
        && Digest::of_with(descriptor.digest.algorithm(), &bytes) == descriptor.digest;
    if fits { Ok(bytes) } else { Err(OriginError::Wrong(descriptor.digest)) }
}

/// Parses a document that was read by its descriptor.
pub(crate) fn parse(
    descriptor: &Descriptor,
    bytes: Vec<u8>,
) -> Result<(Document, Descriptor), OriginError> {
    let document = Document::parse(bytes, Some(&descriptor.media_type))
        .map_err(|source| OriginError::Document { digest: descriptor.digest, source })?;
    Ok((document, descriptor.clone()))
}

/// Goes down from a manifest or index to one manifest: `read` gives a document, `choose` says what
/// to take of an index. Comes back with what `read` gave beside the manifest, or with nothing if
/// the indexes are nested too deeply.
pub(crate) fn descend<T, E>(
    top: &Descriptor,
    mut read: impl FnMut(&Descriptor) -> Result<(Document, T), E>,
    choose: impl Fn(&Index) -> Result<Descriptor, E>,
) -> Result<Option<(Raw<Manifest>, T)>, E> {
    let mut next = top.clone();
    for _ in 0..=MOST_NESTED {
        match read(&next)? {
            (Document::Index(index), _) => next = choose(index.value())?,
            (Document::Manifest(manifest), found) => return Ok(Some((manifest, found))),
        }
    }
    Ok(None)
}

/// Tells whether a name in an archive is the one that was asked for: a full reference, or a tag.
pub(crate) fn is_named(wanted: &str, name: &str) -> bool {
    if wanted == name {
        return true;
    }
    match (wanted.parse::<Reference>(), name.parse::<Reference>()) {
        (Ok(wanted), Ok(name)) => wanted == name,
        _ => false,
    }
}
