//! What a copy puts into its layer.

use std::{collections::HashMap, fs::File, sync::Arc};

use davit_image::Digest;
use davit_layer::{Change, ChangeKind, Extent, Mtime, Source, XattrMap};

use super::Owner;
use crate::files::{ContentDigest, Data, FileEntry, FileKind};

/// One path of the layer.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub(crate) path: Vec<u8>,
    pub(crate) content: Content,
    pub(crate) mode: u16,
    pub(crate) owner: Owner,
    pub(crate) mtime: Mtime,
    pub(crate) xattrs: XattrMap,
}

/// What is at the path, and where its bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Directory,
    /// A directory that hides the one below.
    OpaqueDirectory,
    Symlink(Box<[u8]>),
    Device {
        kind: FileKind,
        major: u32,
        minor: u32,
    },
    /// A file of the sources, at this position of their set.
    File {
        size: u64,
        index: usize,
        data: Data,
        digest: Option<ContentDigest>,
        link: Option<Link>,
    },
    /// Bytes of the Dockerfile.
    Inline(Arc<[u8]>),
    /// A file whose bytes lie in a tar: of an archive that is unpacked, or of an earlier layer.
    InTar {
        size: u64,
        tar: Arc<File>,
        extents: Vec<Extent>,
        link: Option<Link>,
    },
    /// A hard link to an earlier path.
    HardLink(Vec<u8>),
}

/// Names of one file within one copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Link {
    group: u32,
    file: LinkedFile,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum LinkedFile {
    Disk { device: u64, inode: u64 },
    Layer { layer: u32, entry: u32 },
    Archive { entry: u32 },
}

impl Link {
    /// An entry of the archive that is unpacked in the copy `group`.
    pub(crate) const fn archived(group: u32, entry: u32) -> Self {
        Self { group, file: LinkedFile::Archive { entry } }
    }
}

impl Content {
    /// Content of an entry that is copied in the copy `group`.
    pub(crate) fn of(entry: &FileEntry, index: usize, group: u32) -> Self {
        match entry.kind {
            FileKind::Directory => Self::Directory,
            FileKind::Symlink => Self::Symlink(entry.target.clone()),
            FileKind::Regular => {
                let file = match entry.data {
                    Data::Disk(it) => Some(LinkedFile::Disk { device: it.device, inode: it.inode }),
                    Data::Layer { layer, entry } => Some(LinkedFile::Layer { layer, entry }),
                    Data::None => None,
                };
                let link = file.filter(|_| entry.linked).map(|file| Link { group, file });
                let (size, data, digest) = (entry.size, entry.data, entry.digest);
                Self::File { size, index, data, digest, link }
            }
            kind => Self::Device { kind, major: entry.device.0, minor: entry.device.1 },
        }
    }

    pub(crate) const fn is_directory(&self) -> bool {
        matches!(self, Self::Directory | Self::OpaqueDirectory)
    }

    /// Digest of a file's bytes, where it is known.
    fn digest(&self) -> Option<ContentDigest> {
        match self {
            Self::File { digest, .. } => *digest,
            Self::Inline(bytes) => Digest::of(bytes).bytes().try_into().ok(),
            _ => None,
        }
    }
}

/// The changes of a layer, and where the data of each is.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) changes: Vec<Change>,
    /// For each change whose data is read from a context: the file's position in its set.
    pub(crate) files: Vec<Option<usize>>,
    /// For each change that is a file, the digest of its bytes where it is known.
    pub(crate) digests: Vec<Option<ContentDigest>>,
}

impl Finished {
    /// Turns outputs, sorted, into changes.
    pub(crate) fn new(outputs: Vec<Output>, layer_source: impl Fn(u32, u32) -> Source) -> Self {
        let mut changes = Vec::with_capacity(outputs.len());
        let mut files = Vec::with_capacity(outputs.len());
        let mut digests = Vec::with_capacity(outputs.len());
        for output in outputs {
            let mut file = None;
            digests.push(output.content.digest());
            let kind = match output.content {
                Content::Directory => ChangeKind::Directory,
                Content::OpaqueDirectory => ChangeKind::OpaqueDirectory,
                Content::Symlink(target) => ChangeKind::Symlink { target: target.into() },
                Content::HardLink(target) => ChangeKind::HardLink { target },
                Content::Inline(bytes) => {
                    ChangeKind::File { size: bytes.len() as u64, source: Source::Bytes(bytes) }
                }
                Content::InTar { size, tar, extents, .. } => {
                    ChangeKind::File { size, source: Source::Tar { tar, extents } }
                }
                Content::File { size, data: Data::Layer { layer, entry }, .. } => {
                    ChangeKind::File { size, source: layer_source(layer, entry) }
                }
                Content::File { size, index, .. } => {
                    file = Some(index);
                    ChangeKind::File { size, source: Source::Opened }
                }
                Content::Device { kind: FileKind::CharDevice, major, minor } => {
                    ChangeKind::CharDevice { major, minor }
                }
                Content::Device { kind: FileKind::BlockDevice, major, minor } => {
                    ChangeKind::BlockDevice { major, minor }
                }
                Content::Device { .. } => ChangeKind::Fifo,
            };
            changes.push(Change {
                path: output.path,
                kind,
                mode: output.mode,
                uid: output.owner.uid,
                gid: output.owner.gid,
                mtime: output.mtime,
                xattrs: output.xattrs,
            });
            files.push(file);
        }
        Self { changes, files, digests }
    }
}

/// Turns further names of one file into hard links to the first, in path order.
pub(crate) fn link_names(outputs: &mut [Output]) {
    let mut first: HashMap<Link, Vec<u8>> = HashMap::new();
    for output in outputs {
        let (Content::File { link: Some(link), .. } | Content::InTar { link: Some(link), .. }) =
            output.content
        else {
            continue;
        };
        match first.get(&link) {
            Some(target) => output.content = Content::HardLink(target.clone()),
            None => {
                first.insert(link, output.path.clone());
            }
        }
    }
}
