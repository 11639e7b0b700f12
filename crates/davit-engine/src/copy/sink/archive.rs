//! A `docker save` archive as destination: an OCI layout with `manifest.json` beside it, as
//! Docker writes it since version 25.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use davit_image::{Descriptor, Digester, Document, Index, Raw, Reference};
use davit_store::archive::{ArchiveError, DockerImage, TarWriter, WholeFile, layout_file};

use super::{
    CopyError, OriginBlob, Sink,
    layout::{named, origin_failed},
};
use crate::copy::Place;

/// An archive of one image, without a name until it is whole.
#[derive(Debug)]
pub(crate) struct ArchiveSink {
    path: PathBuf,
    name: Option<String>,
    tar: Mutex<Option<TarWriter<io::BufWriter<WholeFile>>>>,
}

impl ArchiveSink {
    pub(crate) fn create(path: &Path, name: Option<String>) -> Result<Self, ArchiveError> {
        let file = WholeFile::output(path, 0o666)?;
        let file = io::BufWriter::with_capacity(256 << 10, file);
        let tar = Mutex::new(Some(TarWriter::new(file)));
        Ok(Self { path: path.to_owned(), name, tar })
    }

    fn failed(&self, source: ArchiveError) -> CopyError {
        let place = Place::DockerArchive { path: self.path.clone(), name: self.name.clone() };
        CopyError::Archive { place, source }
    }

    fn tar(&self) -> MutexGuard<'_, Option<TarWriter<io::BufWriter<WholeFile>>>> {
        self.tar.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, path: &str, size: u64, content: &mut dyn Read) -> Result<(), CopyError> {
        let mut tar = self.tar();
        let tar = tar.as_mut().expect("the archive is open until it is finished");
        tar.add_file(path, size, content).map_err(|e| self.failed(e))
    }

    fn finish_files(&self, top: &Descriptor, image: DockerImage) -> Result<(), CopyError> {
        let index = Raw::write(Index::new(vec![named(top, self.name.as_deref())]));
        let list = serde_json::to_vec(&[image]).expect("names serialise to JSON");
        let files = [
            ("index.json", index.bytes()),
            ("manifest.json", &list),
            ("oci-layout", &layout_file()),
        ];
        for (name, bytes) in files {
            self.add(name, bytes.len() as u64, &mut &*bytes)?;
        }
        let tar = self.tar().take().expect("an archive is finished once");
        let buffer = tar.finish().map_err(|e| self.failed(e))?;
        let written = buffer.into_inner().map_err(|e| ArchiveError::Write(e.into_error()));
        written
            .and_then(|file| {
                file.sync()?;
                file.finish()
            })
            .map_err(|e| self.failed(e))
    }
}

impl Sink for ArchiveSink {
    /// A tar is written one member after the other.
    fn parallel(&self) -> usize {
        1
    }

    fn is_single(&self) -> bool {
        true
    }

    fn has(&self, _blob: &Descriptor) -> Result<bool, CopyError> {
        Ok(false)
    }

    fn put(&self, blob: &Descriptor, source: &OriginBlob) -> Result<(), CopyError> {
        let content = source.read().map_err(|e| self.failed(origin_failed(e)))?;
        let digester = Digester::new(blob.digest.algorithm());
        let mut content = Digested { content, digester };
        self.add(&blob_path(blob), blob.size, &mut content)?;
        let actual = content.digester.finish();
        if actual == blob.digest {
            return Ok(());
        }
        Err(self.failed(ArchiveError::Digest { name: blob_path(blob), actual }))
    }

    fn put_document(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), CopyError> {
        self.add(&blob_path(descriptor), descriptor.size, &mut &*bytes)
    }

    fn finish(&self, top: &Descriptor, bytes: &[u8]) -> Result<(), CopyError> {
        let document = Document::parse(bytes.to_vec(), Some(&top.media_type));
        let Ok(Document::Manifest(manifest)) = document else {
            let place = Place::DockerArchive { path: self.path.clone(), name: self.name.clone() };
            return Err(CopyError::SinglePlatform { place });
        };
        let reference = self.name.as_deref().and_then(|name| name.parse::<Reference>().ok());
        let image = DockerImage {
            config: blob_path(&manifest.value().config),
            repo_tags: reference.map(|reference| vec![reference.familiar()]),
            layers: manifest.value().layers.iter().map(blob_path).collect(),
        };
        self.finish_files(top, image)
    }
}

fn blob_path(descriptor: &Descriptor) -> String {
    format!("blobs/{}/{}", descriptor.digest.algorithm(), descriptor.digest.hex())
}

/// Digests what is read.
struct Digested {
    content: Box<dyn Read>,
    digester: Digester,
}

impl Read for Digested {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        self.digester.update(&buffer[..count]);
        Ok(count)
    }
}
