//! A `dir:` folder of containers/image as destination.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use davit_image::Descriptor;
use davit_store::archive::{ArchiveError, MadeDirs, WholeFile, write_verified};

use super::{CopyError, OriginBlob, Sink, layout::origin_failed};
use crate::copy::Place;

/// Everyone may read what is copied, as far as the umask goes.
const MODE: u32 = 0o666;
const VERSION: &str = "Directory Transport Version: 1.1\n";

/// A folder with one image.
#[derive(Debug)]
pub(crate) struct FolderSink {
    path: PathBuf,
    _made: MadeDirs,
}

impl FolderSink {
    pub(crate) fn create(path: &Path) -> Result<Self, ArchiveError> {
        Ok(Self { path: path.to_owned(), _made: MadeDirs::create(path)? })
    }

    fn failed(&self, source: ArchiveError) -> CopyError {
        CopyError::Archive { place: Place::Folder(self.path.clone()), source }
    }

    /// Marks the folder as one of images, before anything is in it.
    fn mark(&self) -> Result<(), CopyError> {
        if self.path.join("version").exists() {
            return Ok(());
        }
        self.write("version", VERSION.as_bytes())
    }

    /// Writes a file that is complete or absent.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), CopyError> {
        let write = || {
            let mut file = WholeFile::create(&self.path.join(name), MODE)?;
            file.file().write_all(bytes).map_err(ArchiveError::Write)?;
            file.finish()
        };
        write().map_err(|e| self.failed(e))
    }
}

impl Sink for FolderSink {
    fn has(&self, blob: &Descriptor) -> Result<bool, CopyError> {
        let facts = fs_err::metadata(self.path.join(blob.digest.hex()));
        Ok(facts.is_ok_and(|facts| facts.len() == blob.size))
    }

    fn put(&self, blob: &Descriptor, source: &OriginBlob) -> Result<(), CopyError> {
        self.mark()?;
        let mut content = source.read().map_err(|e| self.failed(origin_failed(e)))?;
        let target = self.path.join(blob.digest.hex());
        write_verified(&target, &blob.digest, &mut content).map_err(|e| self.failed(e))
    }

    fn put_document(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), CopyError> {
        self.mark()?;
        self.write(&format!("{}.manifest.json", descriptor.digest.hex()), bytes)
    }

    fn finish(&self, top: &Descriptor, bytes: &[u8]) -> Result<(), CopyError> {
        // The top goes by its own name, not by its digest.
        let twin = self.path.join(format!("{}.manifest.json", top.digest.hex()));
        fs_err::remove_file(twin).map_err(|e| self.failed(ArchiveError::Write(e)))?;
        self.write("manifest.json", bytes)
    }
}
