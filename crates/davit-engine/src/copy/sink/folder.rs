//! A `dir:` folder of containers/image as destination.

use std::{
    io::{Read, Write as _},
    path::{Path, PathBuf},
};

use davit_image::{Descriptor, Digester};
use davit_store::archive::ArchiveError;
use fs_err::File;

use super::{CopyError, OriginBlob, Sink, layout::origin_failed};
use crate::copy::Place;

const VERSION: &str = "Directory Transport Version: 1.1\n";

/// A folder with one image.
#[derive(Debug)]
pub(crate) struct FolderSink {
    path: PathBuf,
}

impl FolderSink {
    pub(crate) fn create(path: &Path) -> Result<Self, ArchiveError> {
        fs_err::create_dir_all(path).map_err(ArchiveError::Write)?;
        Ok(Self { path: path.to_owned() })
    }

    fn failed(&self, source: ArchiveError) -> CopyError {
        CopyError::Archive { place: Place::Folder(self.path.clone()), source }
    }

    /// Writes a file that is complete or absent.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), CopyError> {
        let (unfinished, target) =
            (self.path.join(format!(".{name}.unfinished")), self.path.join(name));
        fs_err::write(&unfinished, bytes)
            .and_then(|()| fs_err::rename(&unfinished, &target))
            .map_err(|e| self.failed(ArchiveError::Write(e)))
    }
}

/// Copies content of known digest into a file; what is wrong is removed.
pub(super) fn write_verified(
    blob: &Descriptor,
    content: &mut dyn Read,
    path: &Path,
) -> Result<(), ArchiveError> {
    let write = || {
        let mut file = File::create(path).map_err(ArchiveError::Write)?;
        let mut digester = Digester::new(blob.digest.algorithm());
        let mut buffer = vec![0; 256 << 10];
        loop {
            let count = content.read(&mut buffer).map_err(ArchiveError::Read)?;
            if count == 0 {
                break;
            }
            digester.update(&buffer[..count]);
            file.write_all(&buffer[..count]).map_err(ArchiveError::Write)?;
        }
        let actual = digester.finish();
        if actual == blob.digest {
            return Ok(());
        }
        Err(ArchiveError::Digest { name: blob.digest.to_string(), actual })
    };
    let mut write = write;
    write().inspect_err(|_| drop(fs_err::remove_file(path)))
}

impl Sink for FolderSink {
    fn has(&self, blob: &Descriptor) -> Result<bool, CopyError> {
        let facts = fs_err::metadata(self.path.join(blob.digest.hex()));
        Ok(facts.is_ok_and(|facts| facts.len() == blob.size))
    }

    fn put(&self, blob: &Descriptor, source: &OriginBlob) -> Result<(), CopyError> {
        let hex = blob.digest.hex();
        let (unfinished, target) =
            (self.path.join(format!(".{hex}.unfinished")), self.path.join(hex));
        let mut content = source.read().map_err(|e| self.failed(origin_failed(e)))?;
        write_verified(blob, &mut content, &unfinished)
            .and_then(|()| fs_err::rename(&unfinished, &target).map_err(ArchiveError::Write))
            .map_err(|e| self.failed(e))
    }

    fn put_document(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), CopyError> {
        self.write(&format!("{}.manifest.json", descriptor.digest.hex()), bytes)
    }

    fn finish(&self, top: &Descriptor, bytes: &[u8]) -> Result<(), CopyError> {
        // The top goes by its own name, not by its digest.
        let twin = self.path.join(format!("{}.manifest.json", top.digest.hex()));
        fs_err::remove_file(twin).map_err(|e| self.failed(ArchiveError::Write(e)))?;
        self.write("version", VERSION.as_bytes())?;
        self.write("manifest.json", bytes)
    }
}
