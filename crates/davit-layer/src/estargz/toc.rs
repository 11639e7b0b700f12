//! The table of contents of an eStargz blob: JSON, written entry by entry.

use std::{
    collections::BTreeMap,
    io::{self, BufWriter, Write},
    str,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use davit_image::{Algorithm, Digest, Digester, Timestamp};
use serde::Serialize;

use super::{EstargzPlan, LANDMARK, Placed};
use crate::{Entry, Kind, path};

/// The table's name in the tar.
pub(super) const TOC_NAME: &str = "stargz.index.json";
/// A file that tells that nothing is to be fetched in advance.
pub(super) const NO_PREFETCH: &str = ".no.prefetch.landmark";
/// Its opposite.
const PREFETCH: &str = ".prefetch.landmark";
const WHITEOUT_PREFIX: &str = ".wh.";
const OPAQUE_NAME: &str = ".wh..wh..opq";

/// Whether the table can say what an entry is.
pub(super) fn can_say(entry: &Entry<'_>) -> bool {
    let is_text = |bytes: &[u8]| str::from_utf8(bytes).is_ok();
    let is_own = |name: &str| name.as_bytes() == entry.path;
    let link = match entry.kind {
        Kind::Symlink { target } => is_text(target),
        Kind::HardLink { target, index } => index.is_some() && is_text(target),
        _ => true,
    };
    link && is_text(entry.path)
        && entry.xattrs.iter().all(|(name, _)| is_text(name))
        && ![TOC_NAME, NO_PREFETCH, PREFETCH].into_iter().any(is_own)
}

/// Where the landmark's content is.
#[derive(Clone, Copy)]
pub(super) struct Landmark {
    pub(super) offset: u64,
    pub(super) digest: Digest,
}

/// What the table tells.
pub(super) struct Toc<'a> {
    pub(super) plan: &'a EstargzPlan<'a>,
    pub(super) placed: &'a [Placed],
    pub(super) landmark: Landmark,
}

/// An entry, in the names of the form.
#[derive(Default, Serialize)]
struct Line<'a> {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(rename = "modtime", skip_serializing_if = "Option::is_none")]
    modified: Option<Timestamp>,
    #[serde(rename = "linkName", skip_serializing_if = "str::is_empty")]
    link: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    mode: u64,
    #[serde(skip_serializing_if = "is_zero")]
    uid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    gid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    #[serde(rename = "devMajor", skip_serializing_if = "is_zero")]
    major: u64,
    #[serde(rename = "devMinor", skip_serializing_if = "is_zero")]
    minor: u64,
    /// Values in base64.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<&'a str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    #[serde(rename = "chunkOffset", skip_serializing_if = "is_zero")]
    chunk_offset: u64,
    #[serde(rename = "chunkSize", skip_serializing_if = "is_zero")]
    chunk_size: u64,
    #[serde(rename = "chunkDigest", skip_serializing_if = "Option::is_none")]
    chunk_digest: Option<Digest>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Toc<'_> {
    /// Size in bytes and digest of what [`Self::write`] writes.
    pub(super) fn measure(&self) -> io::Result<(u64, Digest)> {
        let measure = Measure { digester: Digester::new(Algorithm::Sha256), size: 0 };
        let mut measure = BufWriter::new(measure);
        self.write(&mut measure)?;
        let measure = measure.into_inner().map_err(|error| error.into_error())?;
        Ok((measure.size, measure.digester.finish()))
    }

    /// Writes the table.
    pub(super) fn write(&self, sink: &mut dyn Write) -> io::Result<()> {
        sink.write_all(b"{\"version\":1,\"entries\":[")?;
        for entry in self.plan.table.iter() {
            self.entry(&entry, sink)?;
        }
        let landmark = Line {
            name: NO_PREFETCH.to_owned(),
            kind: "reg",
            size: LANDMARK.len() as u64,
            offset: self.landmark.offset,
            digest: Some(self.landmark.digest),
            chunk_digest: Some(self.landmark.digest),
            ..Line::default()
        };
        serde_json::to_writer(&mut *sink, &landmark)?;
        sink.write_all(b"]}")
    }

    fn entry(&self, entry: &Entry<'_>, sink: &mut dyn Write) -> io::Result<()> {
        let mut line = Line {
            name: name_of(entry),
            modified: Timestamp::from_unix_seconds(entry.mtime.seconds).ok(),
            mode: entry.mode.into(),
            uid: entry.uid.into(),
            gid: entry.gid.into(),
            ..Line::default()
        };
        for (name, value) in entry.xattrs.iter() {
            line.xattrs.insert(text(name), BASE64.encode(value));
        }
        match entry.kind {
            // What is only implied has no entry in the tar, and none here.
            Kind::Directory { implied: true, opaque: false } => return Ok(()),
            Kind::Directory { opaque, .. } => {
                line.kind = "dir";
                if opaque {
                    let name = format!("{}{OPAQUE_NAME}", line.name);
                    put(&Line { name, kind: "reg", ..Line::default() }, sink)?;
                }
            }
            Kind::File { size, extents } => {
                line.kind = "reg";
                line.size = size;
                let start = extents.as_contiguous(size).unwrap_or(0);
                return self.file(line, start, sink);
            }
            Kind::Symlink { target } => (line.kind, line.link) = ("symlink", text(target)),
            Kind::HardLink { target, .. } => (line.kind, line.link) = ("hardlink", text(target)),
            Kind::CharDevice { major, minor } => {
                line.kind = "char";
                (line.major, line.minor) = (major.into(), minor.into());
            }
            Kind::BlockDevice { major, minor } => {
                line.kind = "block";
                (line.major, line.minor) = (major.into(), minor.into());
            }
            Kind::Fifo => line.kind = "fifo",
            Kind::Whiteout => {
                line = Line { name: line.name, kind: "reg", ..Line::default() };
            }
        }
        put(&line, sink)
    }

    /// A file, and the pieces of it that can be read alone.
    fn file(&self, first: Line<'_>, start: u64, sink: &mut dyn Write) -> io::Result<()> {
        if first.size == 0 {
            let digest = Some(Digest::of(b""));
            return put(&Line { digest, ..first }, sink);
        }
        let (size, name) = (first.size, first.name.clone());
        let chunks = self.plan.chunks_of(start, size);
        let is_whole = chunks.len() == 1;
        let mut first = Some(first);
        for at in chunks {
            let (chunk, placed) = (self.plan.chunks[at], self.placed[at]);
            let more = || Line { name: name.clone(), kind: "chunk", ..Line::default() };
            let mut line = first.take().unwrap_or_else(more);
            line.offset = placed.offset;
            line.chunk_offset = chunk.tar_offset - start;
            let is_last = line.chunk_offset + chunk.length == size;
            line.chunk_size = if is_last { 0 } else { chunk.length };
            line.chunk_digest = Some(placed.digest);
            line.digest = is_whole.then_some(placed.digest);
            put(&line, sink)?;
        }
        Ok(())
    }
}

/// An entry that is not the last one.
fn put(line: &Line<'_>, sink: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer(&mut *sink, line)?;
    sink.write_all(b",")
}

/// The entry's name in the tar.
fn name_of(entry: &Entry<'_>) -> String {
    let whole = text(entry.path);
    match (entry.kind, path::split(entry.path)) {
        (_, None) => "./".to_owned(),
        (Kind::Directory { .. }, Some(_)) => format!("{whole}/"),
        (Kind::Whiteout, Some((parent, name))) => {
            let name = format!("{WHITEOUT_PREFIX}{}", text(name));
            text(&path::join(parent, name.as_bytes())).to_owned()
        }
        _ => whole.to_owned(),
    }
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap_or_default()
}

/// Counts and digests what is written.
struct Measure {
    digester: Digester,
    size: u64,
}

impl Write for Measure {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.digester.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
