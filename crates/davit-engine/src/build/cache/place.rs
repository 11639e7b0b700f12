//! A registry, a directory or an image that holds a build cache.

use std::{
    fs::{File, TryLockError},
    io::Cursor,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use davit_build::Cancellable;
use davit_distribution::{Access, Session, Target};
use davit_image::{Descriptor, Digest, Document, Index, Manifest, MediaType};
use davit_store::{
    Lease, Store,
    archive::{ArchiveError, LayoutDir, LayoutDirWriter, REF_NAME},
};

use super::{
    CacheError, CachePlace,
    format::{BUILDKIT, CONFIG, Contents, Written},
    inline,
    objects::{ObjectOrigin, Objects},
};
use crate::{
    origin::{Layout, Origin, OriginError, Registry, Stop, Stored},
    push::StoredBlob,
    registry::Registries,
};

/// Images of one index that are looked at.
const MOST_IMAGES: usize = 64;
/// How soon whoever waits for another writer sees that it is gone, or that nobody wants to wait.
const LOOK: Duration = Duration::from_millis(20);

/// A place that is open for reading.
pub(super) struct Source {
    pub(super) name: String,
    /// Where its blobs are; other caches may have theirs there, too.
    pub(super) blobs: String,
    pub(super) origin: Box<dyn Origin>,
    /// Which version it is, where only the next one of that may be written.
    pub(super) version: Option<String>,
}

impl Source {
    pub(super) fn open(
        place: &CachePlace,
        registries: &Registries,
        cancelled: &Arc<AtomicBool>,
    ) -> Result<Self, CacheError> {
        let (name, blobs) = (place.to_string(), place.blobs());
        let failed = |source| CacheError::Access { place: name.clone(), source };
        if let Some(objects) = Objects::at(place, registries) {
            let asked = (name.as_str(), &Stop::with(Some(cancelled)));
            let (origin, version) =
                ObjectOrigin::open(objects, registries, asked).map_err(failed)?;
            return Ok(Self { name, blobs, origin: Box::new(origin), version });
        }
        let origin: Box<dyn Origin> = match place {
            CachePlace::S3(_) | CachePlace::Actions(_) => unreachable!("they are services"),
            CachePlace::Image(_) => unreachable!("the store is no place of others"),
            CachePlace::Registry(reference) => {
                let stop = Stop::with(Some(cancelled));
                let handle = registries.handle();
                Box::new(Registry::new(&registries.client, handle, reference).until(&stop))
            }
            CachePlace::Directory { path, name: tag } => {
                Box::new(open_layout(path, tag).map_err(failed)?)
            }
        };
        Ok(Self { name, blobs, origin, version: None })
    }

    /// An image of the store.
    pub(super) fn stored(name: &str, store: &Store, lease: &Lease<'_>) -> Result<Self, CacheError> {
        let origin = Box::new(Stored::find(store, lease, name, None)?);
        let (name, blobs) = (name.to_owned(), CachePlace::Image(name.to_owned()).blobs());
        Ok(Self { name, blobs, origin, version: None })
    }

    /// The digest of what is under its name.
    pub(super) fn top(&self) -> Result<Digest, CacheError> {
        self.origin.resolve().map(|top| top.digest).map_err(|source| self.failed(source))
    }

    /// Reads the records of a cache, with the digest of what names them.
    pub(super) fn read(&self) -> Result<(Digest, Contents), CacheError> {
        let (top, document) = self.document()?;
        let manifest = match &document {
            Document::Index(_) => return Err(self.other("an index")),
            Document::Manifest(manifest) => manifest.value(),
        };
        if manifest.config.media_type != MediaType::new(CONFIG) {
            return Err(self.other(if manifest.is_image() {
                "an image"
            } else {
                "something else"
            }));
        }
        Ok((top.digest, self.contents(manifest, Contents::read)?))
    }

    /// Reads the records of a cache, or those that an image carries, or the images of an index.
    pub(super) fn read_any(&self) -> Result<Contents, CacheError> {
        match &self.document()?.1 {
            Document::Manifest(manifest) if manifest.value().is_image() => {
                let carried = self.contents(manifest.value(), inline::read)?;
                carried.ok_or_else(|| self.other("an image without records of its steps"))
            }
            Document::Index(index) => self.read_images(index.value()),
            Document::Manifest(_) => Ok(self.read()?.1),
        }
    }

    fn read_images(&self, index: &Index) -> Result<Contents, CacheError> {
        let mut all = None;
        for entry in index.manifests.iter().take(MOST_IMAGES) {
            let found = self.origin.document(entry).map_err(|source| self.failed(source))?.0;
            // Signatures and the like stand beside the images.
            let Document::Manifest(manifest) = found else { continue };
            if !manifest.value().is_image() {
                continue;
            }
            if let Some(contents) = self.contents(manifest.value(), inline::read)? {
                all.get_or_insert_with(Contents::default).join(contents);
            }
        }
        all.ok_or_else(|| self.other("images without records of their steps"))
    }

    /// What is under the name, unless it is BuildKit's.
    fn document(&self) -> Result<(Descriptor, Document), CacheError> {
        let top = self.origin.resolve().map_err(|source| self.failed(source))?;
        let document = self.origin.document(&top).map_err(|source| self.failed(source))?.0;
        let is_buildkit = |it: &Descriptor| it.media_type == MediaType::new(BUILDKIT);
        let is_buildkit = match &document {
            Document::Index(index) => index.value().manifests.iter().any(is_buildkit),
            Document::Manifest(manifest) => is_buildkit(&manifest.value().config),
        };
        if is_buildkit { Err(self.other("a cache of BuildKit")) } else { Ok((top, document)) }
    }

    fn contents<T>(
        &self,
        manifest: &Manifest,
        read: impl Fn(&Manifest, &[u8]) -> Result<T, String>,
    ) -> Result<T, CacheError> {
        let config = self.origin.bytes(&manifest.config).map_err(|source| self.failed(source))?;
        read(manifest, &config)
            .map_err(|problem| CacheError::Malformed { place: self.name.clone(), problem })
    }

    fn failed(&self, source: OriginError) -> CacheError {
        CacheError::Access { place: self.name.clone(), source }
    }

    fn other(&self, what: &'static str) -> CacheError {
        CacheError::Other { place: self.name.clone(), what }
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

/// Waits until nobody else writes into a directory, but not once the build is cancelled.
fn lock(directory: &Path, cancelled: &AtomicBool) -> Result<File, OriginError> {
    let lock = fs_err::File::open(directory).map_err(ArchiveError::Read)?.into_parts().0;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::Error(source)) => return Err(ArchiveError::Read(source).into()),
            Err(TryLockError::WouldBlock) if cancelled.load(Ordering::Relaxed) => {
                return Err(OriginError::Stopped);
            }
            Err(TryLockError::WouldBlock) => thread::sleep(LOOK),
        }
    }
}

/// What became of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// They are in the place of the version that was named.
    Done,
    /// Another version is there.
    Refused,
    /// They are there, whatever was there before.
    Overwritten,
}

/// What a place has of a blob that it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Present {
    /// Nothing, as far as is known.
    Absent,
    /// Something else, under its name.
    Damaged,
}

/// A place that is written to.
pub(super) enum Sink<'a> {
    Registry {
        session: Session,
        registries: &'a Registries,
        target: Target,
        stop: Stop,
    },
    Objects {
        objects: Objects,
        registries: &'a Registries,
        stop: Stop,
    },
    /// With the lock of all that write into the directory.
    Directory {
        layout: LayoutDirWriter,
        path: &'a Path,
        name: &'a str,
        cancelled: &'a AtomicBool,
        _lock: File,
    },
}

impl<'a> Sink<'a> {
    pub(super) fn open(
        place: &'a CachePlace,
        registries: &'a Registries,
        cancelled: &'a Arc<AtomicBool>,
    ) -> Result<Self, OriginError> {
        if let Some(objects) = Objects::at(place, registries) {
            return Ok(Self::Objects { objects, registries, stop: Stop::with(Some(cancelled)) });
        }
        match place {
            CachePlace::S3(_) | CachePlace::Actions(_) => unreachable!("they are services"),
            CachePlace::Image(_) => unreachable!("images are only read"),
            CachePlace::Registry(reference) => Ok(Self::Registry {
                session: registries.client.session(reference.repository(), Access::Push),
                registries,
                target: Target::of(reference),
                stop: Stop::with(Some(cancelled)),
            }),
            CachePlace::Directory { path, name } => {
                let layout = LayoutDirWriter::create(path)?;
                let lock = lock(path, cancelled)?;
                Ok(Self::Directory { layout, path, name, cancelled, _lock: lock })
            }
        }
    }

    /// Whether a blob is there.
    pub(super) fn has(&self, blob: &Descriptor) -> Result<bool, OriginError> {
        match self {
            Self::Registry { session, .. } => {
                Ok(self.wait(session.blob_size(&blob.digest))?.is_some())
            }
            Self::Objects { objects, .. } => self.wait(objects.has(blob)),
            Self::Directory { path, .. } => {
                let found = LayoutDir::open(path)?.open_blob(&blob.digest)?;
                let size = found.map(|file| file.metadata().map(|facts| facts.len()));
                let size = size.transpose().map_err(ArchiveError::Read)?;
                Ok(size == Some(blob.size))
            }
        }
    }

    /// Adds a blob from a file. A registry may keep what it has under that digest.
    pub(super) fn add(
        &self,
        blob: &Descriptor,
        (file, present): (&Path, Present),
    ) -> Result<(), OriginError> {
        match self {
            Self::Registry { session, .. } => {
                let source = StoredBlob::at(file.to_owned(), blob.size);
                self.wait(session.upload(&source, Some(blob))).map(drop)
            }
            Self::Objects { objects, .. } => self.wait(objects.add(blob, (file, present))),
            Self::Directory { layout, cancelled, .. } => {
                let inner = fs_err::File::open(file).map_err(ArchiveError::Read)?;
                Ok(layout.add_blob(&blob.digest, &mut Cancellable { inner, cancelled })?)
            }
        }
    }

    /// Whether nobody else writes while this is open.
    pub(super) const fn is_exclusive(&self) -> bool {
        matches!(self, Self::Directory { .. })
    }

    /// Adds what the manifest names beside the layers, unless it is there and not known to be
    /// damaged; the folder is for files on the way.
    pub(super) fn prepare(
        &self,
        written: &Written,
        (folder, damaged): (&Path, Option<Digest>),
    ) -> Result<(), OriginError> {
        let config = &written.manifest.value().config;
        let is_damaged = damaged == Some(config.digest);
        if !self.is_exclusive() && !is_damaged && self.has(config)? {
            return Ok(());
        }
        match self {
            Self::Registry { session, .. } => {
                self.wait(session.upload_bytes(written.config.clone().into())).map(drop)
            }
            Self::Objects { .. } => {
                let file = folder.join("config");
                fs_err::write(&file, &written.config).map_err(ArchiveError::Read)?;
                let present = if is_damaged { Present::Damaged } else { Present::Absent };
                self.add(config, (&file, present))
            }
            Self::Directory { layout, .. } => {
                Ok(layout.add_blob(&config.digest, &mut Cursor::new(&written.config))?)
            }
        }
    }

    /// Waits, but not once the build is cancelled.
    pub(super) fn pause(&self, time: Duration) {
        let nothing = async {
            tokio::time::sleep(time).await;
            Ok(())
        };
        if !self.is_exclusive()
            && let Err(error) = self.wait(nothing)
        {
            tracing::debug!(%error, "nothing is waited for");
        }
    }

    /// Lets the place's name stand for the documents, where the place allows it in the stead of
    /// that version alone, and where versions are counted, this many after the next.
    pub(super) fn put(
        &self,
        written: &Written,
        (before, ahead): (Option<&str>, u32),
    ) -> Result<Put, OriginError> {
        let manifest = &written.manifest;
        match self {
            Self::Registry { session, target, .. } => {
                let (media_type, bytes) = (MediaType::OCI_MANIFEST, manifest.bytes().to_vec());
                self.wait(session.put_manifest(target, &media_type, bytes))?;
                Ok(Put::Overwritten)
            }
            Self::Objects { objects, .. } => {
                self.wait(objects.put_top(manifest.bytes(), (before, ahead)))
            }
            Self::Directory { layout, name, .. } => {
                let digest = manifest.digest();
                layout.add_blob(&digest, &mut Cursor::new(manifest.bytes()))?;
                let media_type = MediaType::OCI_MANIFEST;
                let mut top = Descriptor::new(media_type, digest, manifest.size_bytes());
                top.artifact_type.clone_from(&manifest.value().artifact_type);
                top.annotations.insert(REF_NAME.to_owned(), (*name).to_owned());
                layout.finish(vec![top])?;
                Ok(Put::Done)
            }
        }
    }

    fn wait<T>(
        &self,
        answer: impl Future<Output = Result<T, davit_distribution::Error>>,
    ) -> Result<T, OriginError> {
        match self {
            Self::Registry { registries, stop, .. } => Ok(registries.wait(stop.unless(answer))??),
            Self::Objects { registries, stop, .. } => {
                registries.wait(stop.unless(answer))?.map_err(OriginError::Web)
            }
            Self::Directory { .. } => unreachable!("a directory is not waited for"),
        }
    }
}
