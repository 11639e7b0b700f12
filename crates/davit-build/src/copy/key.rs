//! Digests of what a copy reads and of what a step writes.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt as _,
};

use davit_image::{Algorithm, Digest, Digester};
use davit_layer::{Change, ChangeKind, Extent, Kind, Opener, Source};

use crate::{
    files::{ContentDigest, FileEntry, FileKind},
    key::ContentKey,
    layers::OpenLayer,
};

/// The only xattr that a layer of ours carries.
const CAPABILITY: &[u8] = b"security.capability";
/// Bytes that are compared at a time.
const COMPARED: usize = 64 * 1024;

/// Which times of a step's changes count, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Times {
    /// None: a copy is keyed by content. With an epoch, which is all that it sets then, those of the
    /// directories that it finds.
    Copied {
        /// `SOURCE_DATE_EPOCH`.
        epoch: Option<i64>,
    },
    /// All; those from the first to the second one are the step's own "now", which is as good as
    /// that of another step.
    Made(i64, i64),
}

impl Times {
    /// All count as they are.
    pub(crate) const EXACT: Self = Self::Made(i64::MAX, i64::MIN);

    fn mark(self, sink: &mut Sink, seconds: i64) {
        match self {
            Self::Copied { epoch: None } => {}
            Self::Made(from, to) if (from..=to).contains(&seconds) => sink.bytes(b"now"),
            Self::Made(..) | Self::Copied { epoch: Some(_) } => sink.bytes(&seconds.to_le_bytes()),
        }
    }

    fn begin(self, sink: &mut Sink) {
        match self {
            Self::Copied { epoch } => sink.bytes(format!("copied {epoch:?}").as_bytes()),
            Self::Made(..) => sink.bytes(b"made"),
        }
    }
}

/// What a step read, one fact after the other.
pub(crate) struct Facts(Sink);

impl Facts {
    pub(crate) fn new(kind: &str) -> Self {
        Self(Sink::new(kind))
    }

    /// Adds a fact.
    #[must_use]
    pub(crate) fn fact(mut self, fact: &[u8]) -> Self {
        self.0.bytes(fact);
        self
    }

    /// Their digest, as text.
    pub(crate) fn finish(self) -> String {
        self.0.finish().to_string()
    }
}

/// Collects what is digested in larger pieces.
struct Sink {
    digester: Digester,
    buffer: Vec<u8>,
}

impl Sink {
    fn new(kind: &str) -> Self {
        let mut sink = Self { digester: Digester::new(Algorithm::Sha256), buffer: Vec::new() };
        sink.bytes(kind.as_bytes());
        sink
    }

    fn number(&mut self, number: u64) {
        self.buffer.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() > 64 * 1024 {
            self.digester.update(&self.buffer);
            self.buffer.clear();
        }
    }

    fn finish(mut self) -> Digest {
        self.digester.update(&self.buffer);
        self.digester.finish()
    }
}

/// What a copy leaves as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keeps {
    pub(crate) mode: bool,
    pub(crate) owner: bool,
}

/// Digest of the entries that one source selects, the first and all below it, by their paths below
/// it.
///
/// What the copy overwrites makes no difference.
pub(crate) fn selection_key(entries: &[FileEntry], keeps: Keeps) -> Digest {
    parts_key(entries, entries.first().map_or(0, |entry| entry.path.len()), keeps)
}

/// Digest of entries by their paths behind the first `root` bytes.
pub(crate) fn parts_key<'a>(
    entries: impl IntoIterator<Item = &'a FileEntry>,
    root: usize,
    keeps: Keeps,
) -> Digest {
    let mut sink = Sink::new("selection/1");
    for entry in entries {
        sink.bytes(&entry.path[root..]);
        let mode = if keeps.mode && entry.kind != FileKind::Symlink { entry.mode } else { 0 };
        let (uid, gid) = if keeps.owner { (entry.uid, entry.gid) } else { (0, 0) };
        sink.number(u64::from(entry.kind.code()) | u64::from(mode) << 8);
        sink.number(u64::from(uid) << 32 | u64::from(gid));
        sink.number(entry.size);
        if entry.kind == FileKind::Symlink {
            sink.bytes(&entry.target);
        }
        if matches!(entry.kind, FileKind::CharDevice | FileKind::BlockDevice) {
            sink.number(u64::from(entry.device.0) << 32 | u64::from(entry.device.1));
        }
        sink.bytes(entry.capability.as_deref().unwrap_or_default());
        if let Some(digest) = &entry.digest {
            sink.bytes(digest);
        }
    }
    sink.finish()
}

/// Digest of what a layer holds; `None` if the digest of a file, one for each change, is not known.
pub(crate) fn content_key(
    changes: &[Change],
    digests: &[Option<ContentDigest>],
    times: Times,
) -> Option<ContentKey> {
    let mut sink = Sink::new("content/3");
    times.begin(&mut sink);
    for (change, digest) in changes.iter().zip(digests) {
        metadata(&mut sink, change, times);
        if let ChangeKind::File { .. } = change.kind {
            sink.bytes(&(*digest)?);
        }
    }
    Some(ContentKey(sink.finish()))
}

/// Digest of what a layer holds, without the content of files: layers that differ in it differ.
pub(crate) fn shape_key(changes: &[Change], times: Times) -> Digest {
    let mut sink = Sink::new("shape/2");
    times.begin(&mut sink);
    for change in changes {
        metadata(&mut sink, change, times);
    }
    sink.finish()
}

fn device(sink: &mut Sink, kind: u64, major: u32, minor: u32) {
    sink.bytes(b"device");
    sink.number(kind);
    sink.number(u64::from(major) << 32 | u64::from(minor));
}

/// Whether the files of `changes` are those of a layer of the same shape, byte for byte.
pub(crate) fn same_content(
    changes: &[Change],
    opener: &dyn Opener,
    layer: &OpenLayer,
) -> io::Result<bool> {
    for (position, change) in changes.iter().enumerate() {
        if !same_file(change, position, opener, layer)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a change, if it is a file, has the content that the layer has at its path.
pub(crate) fn same_file(
    change: &Change,
    position: usize,
    opener: &dyn Opener,
    layer: &OpenLayer,
) -> io::Result<bool> {
    let ChangeKind::File { size, source } = &change.kind else { return Ok(true) };
    let found = layer.table.get(&change.path).map(|entry| entry.kind);
    let Some(Kind::File { size: other, extents }) = found else { return Ok(false) };
    if *size != other {
        return Ok(false);
    }
    let theirs = Ranges::new(&layer.tar, other, extents.iter().collect());
    match source {
        Source::Bytes(bytes) => same_bytes(&mut &bytes[..], theirs),
        Source::Tar { tar, extents } => {
            same_bytes(&mut Ranges::new(tar, *size, extents.clone()), theirs)
        }
        Source::Opened => same_bytes(&mut opener.open(position, change)?, theirs),
    }
}

fn same_bytes(left: &mut dyn Read, mut right: Ranges<'_>) -> io::Result<bool> {
    let (mut mine, mut theirs) = (vec![0; COMPARED], vec![0; COMPARED]);
    loop {
        let length = right.read(&mut theirs)?;
        if length == 0 {
            return Ok(left.read(&mut mine)? == 0);
        }
        match left.read_exact(&mut mine[..length]) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            result => result?,
        }
        if mine[..length] != theirs[..length] {
            return Ok(false);
        }
    }
}

/// A file that lies in a tar, its extents in file order; holes are zeros.
pub(crate) struct Ranges<'a> {
    tar: &'a File,
    size: u64,
    extents: Vec<Extent>,
    at: u64,
}

impl<'a> Ranges<'a> {
    pub(crate) const fn new(tar: &'a File, size: u64, extents: Vec<Extent>) -> Self {
        Self { tar, size, extents, at: 0 }
    }
}

impl Read for Ranges<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size - self.at).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let next = self.extents.partition_point(|it| it.file_offset + it.length <= self.at);
        let extent = self.extents.get(next);
        let length = match extent {
            Some(extent) if extent.file_offset <= self.at => {
                let skip = self.at - extent.file_offset;
                let here = usize::try_from(extent.length - skip).unwrap_or(usize::MAX).min(wanted);
                self.tar.read_at(&mut buffer[..here], extent.tar_offset + skip)?
            }
            other => {
                let end = other.map_or(self.size, |extent| extent.file_offset.min(self.size));
                let here = usize::try_from(end - self.at).unwrap_or(usize::MAX).min(wanted);
                buffer[..here].fill(0);
                here
            }
        };
        self.at += length as u64;
        Ok(length)
    }
}

/// All of a change but the bytes of its file.
fn metadata(sink: &mut Sink, change: &Change, times: Times) {
    times.mark(sink, change.mtime.seconds);
    sink.bytes(&change.path);
    sink.number(u64::from(change.mode));
    sink.number(u64::from(change.uid) << 32 | u64::from(change.gid));
    sink.bytes(change.xattrs.get(CAPABILITY).map(Vec::as_slice).unwrap_or_default());
    match &change.kind {
        ChangeKind::File { size, .. } => sink.number(*size),
        ChangeKind::Directory => sink.bytes(b"directory"),
        ChangeKind::OpaqueDirectory => sink.bytes(b"opaque"),
        ChangeKind::Symlink { target } => sink.bytes(&[b"->", &target[..]].concat()),
        ChangeKind::HardLink { target } => sink.bytes(&[b"=", &target[..]].concat()),
        ChangeKind::CharDevice { major, minor } => device(sink, 1, *major, *minor),
        ChangeKind::BlockDevice { major, minor } => device(sink, 2, *major, *minor),
        ChangeKind::Fifo => sink.bytes(b"fifo"),
        ChangeKind::Whiteout => sink.bytes(b"whiteout"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_with_very_many_holes_is_read_in_time() {
        const PARTS: u64 = 200_000;
        let temp = davit_test::TempDir::new();
        let mut tar = crate::archives::unnamed(temp.path()).unwrap();
        tar.write_all(b"ab").unwrap();
        // A hole, `ab`, and so on; one hole at the end.
        let extent = |part: u64| Extent { file_offset: 3 * part + 1, tar_offset: 0, length: 2 };
        let extents = (0..PARTS).map(extent).collect();
        let (mut content, mut read) = (Ranges::new(&tar, 3 * PARTS + 1, extents), Vec::new());
        content.read_to_end(&mut read).unwrap();
        assert_eq!(read.len() as u64, 3 * PARTS + 1);
        assert!(read.chunks(3).all(|part| part == b"\0ab" || part == b"\0"));
    }
}
