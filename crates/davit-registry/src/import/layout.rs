//! Directories of distribution (`docker/registry/v2`, its storage-drivers' `paths.go`) and OCI image
//! layouts (image-spec `image-layout.md`), alone or many below one directory, as zot keeps them.
//!
//! The layout may be hostile: paths are resolved below its directory without following a link
//! (`openat2`), only regular files are read, and no more of them than their kind may have.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use davit_image::{Digest, Tag};
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use serde_json::Value;

use super::Roots;

/// Directories below each other at most: a repository's name has 255 characters.
const DEPTH: usize = 128;
/// Bytes of a file that holds one digest.
const LINK_BYTES: usize = 256;
/// Bytes of `index.json`.
const INDEX_BYTES: usize = 16 << 20;
/// Where distribution keeps its things below its root directory.
const DISTRIBUTION: &str = "docker/registry/v2";
/// Names a manifest in `index.json` (image-spec `annotations.md`).
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A directory with repositories.
#[derive(Debug)]
pub struct Layout {
    root: OwnedFd,
    path: PathBuf,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// With the path of `v2`.
    Distribution(String),
    Oci,
}

/// A repository that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    path: String,
    /// Empty for a layout that is the directory itself.
    pub(super) name: String,
}

/// The directory is no layout, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// It cannot be read.
    #[error("cannot read `{0}`")]
    Read(PathBuf, #[source] io::Error),
    /// It has neither `docker/registry/v2` nor an `oci-layout`.
    #[error("`{0}` is neither distribution's directory nor an OCI image layout")]
    Unknown(PathBuf),
    /// An `index.json` that is none.
    #[error("`{0}` is not an image index")]
    Index(PathBuf),
}

impl Layout {
    /// Looks what a directory is.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn open(path: &Path) -> Result<Self, LayoutError> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty());
        let root = root.map_err(|error| LayoutError::Read(path.to_owned(), error.into()))?;
        let mut layout = Self { root, path: path.to_owned(), kind: Kind::Oci };
        for below in [DISTRIBUTION, "."] {
            if layout.is_directory(&format!("{below}/repositories"))
                && layout.is_directory(&format!("{below}/blobs"))
            {
                layout.kind = Kind::Distribution(below.to_owned());
                return Ok(layout);
            }
        }
        if layout.repositories()?.is_empty() {
            return Err(LayoutError::Unknown(path.to_owned()));
        }
        Ok(layout)
    }

    /// All repositories, by name.
    pub(super) fn repositories(&self) -> Result<Vec<Found>, LayoutError> {
        let start = match &self.kind {
            Kind::Distribution(v2) => format!("{v2}/repositories"),
            Kind::Oci => ".".to_owned(),
        };
        let mut found = Vec::new();
        let mut waiting = vec![Found { path: start, name: String::new() }];
        while let Some(at) = waiting.pop() {
            let names = self.names(&at.path)?;
            let (mark, is_deeper): (_, fn(&str) -> bool) = match self.kind {
                Kind::Distribution(_) => ("_manifests", |name| !name.starts_with('_')),
                Kind::Oci => ("oci-layout", |name| name != "blobs" && !name.starts_with('.')),
            };
            if at.name.split('/').count() < DEPTH {
                for name in names.iter().filter(|name| is_deeper(name)) {
                    let path = format!("{}/{name}", at.path);
                    let slash = if at.name.is_empty() { "" } else { "/" };
                    let name = format!("{}{slash}{name}", at.name);
                    if self.is_directory(&path) {
                        waiting.push(Found { path, name });
                    }
                }
            }
            if names.iter().any(|name| name == mark) {
                found.push(at);
            }
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    /// Manifests of a repository with their tags. What is malformed is passed over.
    pub(super) fn roots(&self, found: &Found) -> Result<Roots, LayoutError> {
        match &self.kind {
            Kind::Distribution(_) => self.revisions(&format!("{}/_manifests", found.path)),
            Kind::Oci => self.index(&format!("{}/index.json", found.path)),
        }
    }

    fn revisions(&self, below: &str) -> Result<Roots, LayoutError> {
        let mut roots = Roots::new();
        for algorithm in self.names(&format!("{below}/revisions"))? {
            for hex in self.names(&format!("{below}/revisions/{algorithm}"))? {
                let digest = format!("{algorithm}:{hex}").parse::<Digest>();
                let link = format!("{below}/revisions/{algorithm}/{hex}/link");
                // A deleted manifest has no link.
                if let Ok(digest) = digest
                    && self.link(&link) == Some(digest)
                {
                    roots.insert(digest, Vec::new());
                }
            }
        }
        for tag in self.names(&format!("{below}/tags")).unwrap_or_default() {
            let digest = self.link(&format!("{below}/tags/{tag}/current/link"));
            if let (Some(digest), Ok(tag)) = (digest, tag.parse::<Tag>())
                && let Some(tags) = roots.get_mut(&digest)
            {
                tags.push(tag);
            }
        }
        Ok(roots)
    }

    fn index(&self, path: &str) -> Result<Roots, LayoutError> {
        let bytes = self.bytes(path, INDEX_BYTES);
        let bytes = bytes.map_err(|error| LayoutError::Read(self.path.join(path), error))?;
        let index: Option<Value> = serde_json::from_slice(&bytes).ok();
        let entries = index.as_ref().and_then(|index| index["manifests"].as_array());
        let entries = entries.ok_or_else(|| LayoutError::Index(self.path.join(path)))?;
        let mut roots = Roots::new();
        for entry in entries {
            let digest = entry["digest"].as_str().and_then(|digest| digest.parse().ok());
            let Some(digest) = digest else { continue };
            let tags = roots.entry(digest).or_default();
            let name = entry["annotations"][REF_NAME].as_str();
            // Some tools write the whole reference.
            let tag = name.map(|name| name.rsplit_once(':').map_or(name, |(_, tag)| tag));
            tags.extend(tag.and_then(|tag| tag.parse::<Tag>().ok()));
        }
        Ok(roots)
    }

    /// Whether the repository has a manifest.
    pub(super) fn has_manifest(&self, found: &Found, digest: &Digest) -> bool {
        match &self.kind {
            Kind::Distribution(_) => {
                let (algorithm, hex) = (digest.algorithm(), digest.hex());
                let revisions = format!("{}/_manifests/revisions", found.path);
                self.link(&format!("{revisions}/{algorithm}/{hex}/link")) == Some(*digest)
            }
            Kind::Oci => self.file(&self.blob_path(found, digest)).is_ok(),
        }
    }

    /// A manifest's bytes; those that it should have are for the caller to compare.
    pub(super) fn manifest(
        &self,
        found: &Found,
        digest: &Digest,
        most: usize,
    ) -> Result<Vec<u8>, LayoutError> {
        let path = self.blob_path(found, digest);
        self.bytes(&path, most).map_err(|error| LayoutError::Read(self.path.join(path), error))
    }

    /// The file of a blob that the repository has.
    pub(super) fn blob(&self, found: &Found, digest: &Digest) -> Option<File> {
        if let Kind::Distribution(_) = self.kind {
            // Blobs of all repositories lie together; these files say which has which.
            let (algorithm, hex) = (digest.algorithm(), digest.hex());
            let link = format!("{}/_layers/{algorithm}/{hex}/link", found.path);
            if self.link(&link) != Some(*digest) {
                return None;
            }
        }
        self.file(&self.blob_path(found, digest)).ok()
    }

    fn blob_path(&self, found: &Found, digest: &Digest) -> String {
        let (algorithm, hex) = (digest.algorithm(), digest.hex());
        match &self.kind {
            Kind::Distribution(v2) => format!("{v2}/blobs/{algorithm}/{}/{hex}/data", &hex[..2]),
            Kind::Oci => format!("{}/blobs/{algorithm}/{hex}", found.path),
        }
    }

    /// The digest in a file of distribution.
    fn link(&self, path: &str) -> Option<Digest> {
        let bytes = self.bytes(path, LINK_BYTES).ok()?;
        std::str::from_utf8(&bytes).ok()?.trim().parse().ok()
    }

    fn bytes(&self, path: &str, most: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file(path)?.take(most as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(bytes)
    }

    /// Opens a regular file.
    fn file(&self, path: &str) -> io::Result<File> {
        // A pipe must not keep the import waiting.
        let file = File::from(self.open_below(path, OFlags::NONBLOCK)?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    fn is_directory(&self, path: &str) -> bool {
        self.open_below(path, OFlags::DIRECTORY | OFlags::PATH).is_ok()
    }

    /// Names in a directory that are text, sorted.
    fn names(&self, path: &str) -> Result<Vec<String>, LayoutError> {
        let fault = |error: rustix::io::Errno| {
            LayoutError::Read(self.path.join(path), io::Error::from(error))
        };
        let directory = self.open_below(path, OFlags::DIRECTORY);
        let directory =
            directory.map_err(|error| LayoutError::Read(self.path.join(path), error))?;
        let mut names = Vec::new();
        for entry in Dir::new(directory).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            let name = entry.file_name().to_str().unwrap_or_default();
            if !matches!(name, "" | "." | "..") && entry.file_type() != FileType::Symlink {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn open_below(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)?)
    }
}
