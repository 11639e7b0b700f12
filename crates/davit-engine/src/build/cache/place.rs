//! A registry or a directory that holds a build cache.

use std::{fs::File, io::Cursor, path::Path, sync::Arc, sync::atomic::AtomicBool};

use davit_distribution::{Access, Session, Target};
use davit_image::{Descriptor, Document, MediaType};
use davit_store::archive::{ArchiveError, LayoutDir, LayoutDirWriter, REF_NAME};

use super::{
    CacheError, CachePlace,
    format::{BUILDKIT, CONFIG, Contents, Written},
};
use crate::{
    origin::{Layout, Origin, OriginError, Registry, Stop},
    push::StoredBlob,
    registry::Registries,
};

/// A place that is open for reading.
pub(super) struct Source {
    pub(super) name: String,
    pub(super) origin: Box<dyn Origin>,
}

impl Source {
    pub(super) fn open(
        place: &CachePlace,
        registries: &Registries,
        cancelled: &Arc<AtomicBool>,
    ) -> Result<Self, CacheError> {
        let name = place.to_string();
        let origin: Box<dyn Origin> = match place {
            CachePlace::Registry(reference) => {
                let stop = Stop::with(Some(cancelled));
                let handle = registries.handle();
                Box::new(Registry::new(&registries.client, handle, reference).until(&stop))
            }
            CachePlace::Directory { path, name: tag } => {
                let layout = open_layout(path, tag);
                Box::new(
                    layout.map_err(|source| CacheError::Access { place: name.clone(), source })?,
                )
            }
        };
        Ok(Self { name, origin })
    }

    /// Reads the records, with the digest of what names them.
    pub(super) fn read(&self) -> Result<Contents, CacheError> {
        let failed = |source| CacheError::Access { place: self.name.clone(), source };
        let top = self.origin.resolve().map_err(failed)?;
        let (document, _) = self.origin.document(&top).map_err(failed)?;
        let other = |what| CacheError::Other { place: self.name.clone(), what };
        let is_buildkit = |it: &Descriptor| it.media_type == MediaType::new(BUILDKIT);
        let manifest = match &document {
            Document::Index(index) if index.value().manifests.iter().any(is_buildkit) => {
                return Err(other("a cache of BuildKit"));
            }
            Document::Index(_) => return Err(other("an index")),
            Document::Manifest(manifest) => manifest.value(),
        };
        if is_buildkit(&manifest.config) {
            return Err(other("a cache of BuildKit"));
        }
        if manifest.config.media_type != MediaType::new(CONFIG) {
            return Err(other(if manifest.is_image() { "an image" } else { "something else" }));
        }
        let config = self.origin.bytes(&manifest.config).map_err(failed)?;
        Contents::read(manifest, &config)
            .map_err(|problem| CacheError::Malformed { place: self.name.clone(), problem })
    }
}

/// A directory that is empty or absent has no cache of any name.
fn open_layout(path: &Path, name: &str) -> Result<Layout, OriginError> {
    let none = || OriginError::Name { wanted: name.to_owned(), offered: Vec::new() };
    match LayoutDir::open(path) {
        Err(ArchiveError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err(none());
        }
        Ok(directory) if directory.open_file("index.json")?.is_none() => return Err(none()),
        _ => {}
    }
    Layout::open(path, Some(name))
}

/// A place that is written to.
pub(super) enum Sink<'a> {
    Registry {
        session: Session,
        registries: &'a Registries,
        target: Target,
        stop: Stop,
    },
    /// With the lock of all that write into the directory.
    Directory {
        layout: LayoutDirWriter,
        path: &'a Path,
        name: &'a str,
        _lock: File,
    },
}

impl<'a> Sink<'a> {
    pub(super) fn open(
        place: &'a CachePlace,
        registries: &'a Registries,
        cancelled: &Arc<AtomicBool>,
    ) -> Result<Self, OriginError> {
        match place {
            CachePlace::Registry(reference) => Ok(Self::Registry {
                session: registries.client.session(reference.repository(), Access::Push),
                registries,
                target: Target::of(reference),
                stop: Stop::with(Some(cancelled)),
            }),
            CachePlace::Directory { path, name } => {
                let layout = LayoutDirWriter::create(path)?;
                let lock = fs_err::File::open(path).map_err(ArchiveError::Read)?.into_parts().0;
                lock.lock().map_err(ArchiveError::Read)?;
                Ok(Self::Directory { layout, path, name, _lock: lock })
            }
        }
    }

    /// Whether a blob is there.
    pub(super) fn has(&self, blob: &Descriptor) -> Result<bool, OriginError> {
        match self {
            Self::Registry { session, .. } => {
                Ok(self.wait(session.blob_size(&blob.digest))?.is_some())
            }
            Self::Directory { path, .. } => {
                Ok(LayoutDir::open(path)?.open_blob(&blob.digest)?.is_some())
            }
        }
    }

    /// Adds a blob from a file.
    pub(super) fn add(&self, blob: &Descriptor, file: &Path) -> Result<(), OriginError> {
        match self {
            Self::Registry { session, .. } => {
                let source = StoredBlob::at(file.to_owned(), blob.size);
                self.wait(session.upload(&source, Some(blob))).map(drop)
            }
            Self::Directory { layout, .. } => {
                let mut content = fs_err::File::open(file).map_err(ArchiveError::Read)?;
                Ok(layout.add_blob(&blob.digest, &mut content)?)
            }
        }
    }

    /// Lets the place's name stand for the documents.
    pub(super) fn put(&self, written: &Written) -> Result<(), OriginError> {
        let manifest = &written.manifest;
        let config = &manifest.value().config;
        match self {
            Self::Registry { session, target, .. } => {
                if !self.has(config)? {
                    self.wait(session.upload_bytes(written.config.clone().into()))?;
                }
                let (media_type, bytes) = (MediaType::OCI_MANIFEST, manifest.bytes().to_vec());
                self.wait(session.put_manifest(target, &media_type, bytes))
            }
            Self::Directory { layout, name, .. } => {
                layout.add_blob(&config.digest, &mut Cursor::new(&written.config))?;
                let digest = manifest.digest();
                layout.add_blob(&digest, &mut Cursor::new(manifest.bytes()))?;
                let media_type = MediaType::OCI_MANIFEST;
                let mut top = Descriptor::new(media_type, digest, manifest.size_bytes());
                top.artifact_type.clone_from(&manifest.value().artifact_type);
                top.annotations.insert(REF_NAME.to_owned(), (*name).to_owned());
                Ok(layout.finish(vec![top])?)
            }
        }
    }

    fn wait<T>(
        &self,
        answer: impl Future<Output = Result<T, davit_distribution::Error>>,
    ) -> Result<T, OriginError> {
        match self {
            Self::Registry { registries, stop, .. } => Ok(registries.wait(stop.unless(answer))??),
            Self::Directory { .. } => unreachable!("a directory is not waited for"),
        }
    }
}
