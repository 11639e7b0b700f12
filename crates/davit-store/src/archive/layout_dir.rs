//! OCI layouts as directories.

use std::{
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
};

use davit_image::{Descriptor, Digest, Index, Raw};
use fs_err as fs;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::{
    ArchiveError, MAX_DOCUMENT_BYTES, MadeDirs, REF_NAME, WholeFile, contents::blob_path,
    docker::check_layout_file, file_error, layout_file, name_of,
};

/// Everyone may read what is copied, as far as the umask goes.
const MODE: u32 = 0o666;

/// An OCI layout that is read. Links in it are followed only inside it.
#[derive(Debug)]
pub struct LayoutDir {
    path: PathBuf,
    directory: rustix::fd::OwnedFd,
}

impl LayoutDir {
    /// Opens a directory.
    ///
    /// # Errors
    /// When it is none.
    pub fn open(path: &Path) -> Result<Self, ArchiveError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .map_err(|e| file_error("open", path, e.into()))?;
        Ok(Self { path: path.to_path_buf(), directory })
    }

    /// Opens a regular file below it; `None` when it is absent.
    ///
    /// # Errors
    /// When it is something else, or lies outside by a link.
    pub fn open_file(&self, name: &str) -> Result<Option<fs::File>, ArchiveError> {
        let path = self.path.join(name);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let fd = match rustix::fs::openat2(&self.directory, name, flags, Mode::empty(), resolve) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(e) => return Err(file_error("open", &path, e.into())),
        };
        let file = fs::File::from_parts(std::fs::File::from(fd), path.clone());
        let facts = file.metadata().map_err(|e| file_error("examine", &path, e))?;
        if !facts.is_file() {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
            return Err(file_error("read", &path, source));
        }
        Ok(Some(file))
    }

    /// Opens a blob; `None` when it is absent.
    ///
    /// # Errors
    /// As [`Self::open_file`].
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<fs::File>, ArchiveError> {
        self.open_file(&blob_path(digest))
    }

    /// Reads `oci-layout`, which must be there and of the one known version.
    ///
    /// # Errors
    /// [`ArchiveError::Layout`].
    pub fn check_version(&self) -> Result<Vec<u8>, ArchiveError> {
        let bytes = self.read_file("oci-layout", MAX_DOCUMENT_BYTES)?;
        check_layout_file(bytes.as_deref())?;
        Ok(bytes.unwrap_or_default())
    }

    /// Reads a small file; `None` when it is absent.
    ///
    /// # Errors
    /// [`ArchiveError::TooLarge`] when it is longer than `limit_bytes`.
    pub fn read_file(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, ArchiveError> {
        let Some(file) = self.open_file(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes).map_err(ArchiveError::Read)?;
        if bytes.len() as u64 > limit {
            return Err(ArchiveError::TooLarge { what: "bytes in a small file", limit });
        }
        Ok(Some(bytes))
    }
}

/// An OCI layout that is written; one that is there gets more images.
#[derive(Debug)]
pub struct LayoutDirWriter {
    path: PathBuf,
    _made: MadeDirs,
}

impl LayoutDirWriter {
    /// Makes the directory, if need be; one that stays empty goes with the writer.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: &Path) -> Result<Self, ArchiveError> {
        let made = MadeDirs::create(&path.join("blobs/sha256"))?;
        Ok(Self { path: path.to_path_buf(), _made: made })
    }

    /// Adds a blob: nothing is visible before its digest matches.
    ///
    /// # Errors
    /// [`ArchiveError::Digest`] when `content` is something else, or what the disk says.
    pub fn add_blob(&self, digest: &Digest, content: &mut dyn Read) -> Result<(), ArchiveError> {
        let target = self.path.join(blob_path(digest));
        let parent = target.parent().expect("a blob lies below the layout");
        fs::create_dir_all(parent).map_err(|e| file_error("create", parent, e))?;
        write_verified(&target, digest, content)
    }

    /// Lets the layout's index name more manifests, in place of those with the same name, and of
    /// artifacts of the same type and tag; writes
    /// `oci-layout` and `index.json`.
    ///
    /// # Errors
    /// When the present index is malformed, or what the disk says.
    pub fn finish(&self, manifests: Vec<Descriptor>) -> Result<(), ArchiveError> {
        let present = LayoutDir::open(&self.path)?.read_file("index.json", 4 << 20)?;
        let mut index = match present {
            Some(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| ArchiveError::Json { name: "index.json".into(), source })?,
            None => Index::new(Vec::new()),
        };
        for descriptor in manifests {
            index.manifests.retain(|known| {
                let same_name = name_of(known).is_some() && name_of(known) == name_of(&descriptor);
                let same =
                    known.digest == descriptor.digest && name_of(known) == name_of(&descriptor);
                // A bare tag names an image only together with its repository, but an artifact.
                let tag = |it: &Descriptor| it.annotations.get(REF_NAME).cloned();
                let same_artifact = descriptor.artifact_type.is_some()
                    && tag(known).is_some()
                    && known.artifact_type == descriptor.artifact_type
                    && tag(known) == tag(&descriptor);
                !same_name && !same && !same_artifact
            });
            index.manifests.push(descriptor);
        }
        self.replace("oci-layout", &layout_file())?;
        self.replace("index.json", Raw::write(index).bytes())
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), ArchiveError> {
        let target = self.path.join(name);
        let mut file = WholeFile::create(&target, MODE)?;
        file.file().write_all(bytes).map_err(|e| file_error("write", &target, e))?;
        file.sync()?;
        file.finish()
    }
}

/// Copies content of known digest into a file, which is there only if it matches.
///
/// # Errors
/// [`ArchiveError::Digest`] when `content` is something else, or what the disk says.
pub fn write_verified(
    target: &Path,
    digest: &Digest,
    content: &mut dyn Read,
) -> Result<(), ArchiveError> {
    let mut file = WholeFile::create(target, MODE)?;
    let mut digester = davit_image::Digester::new(digest.algorithm());
    let mut buffer = vec![0; 1 << 20];
    loop {
        let got = content.read(&mut buffer).map_err(ArchiveError::Read)?;
        if got == 0 {
            break;
        }
        digester.update(&buffer[..got]);
        file.file().write_all(&buffer[..got]).map_err(|e| file_error("write", target, e))?;
    }
    let actual = digester.finish();
    if actual == *digest {
        return file.finish();
    }
    Err(ArchiveError::Digest { name: blob_path(digest), actual })
}
