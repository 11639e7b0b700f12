//! Reading a layer in one pass: compressed stream -> blob digest -> DiffID -> tar + table.

use std::io::{Read, Write};

use davit_image::{Compression, DiffId, Digest};

use crate::{Table, TableLimits};

/// Bounds on what an archive may make us do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of the uncompressed archive.
    pub plain_bytes: u64,
    /// Most uncompressed bytes for each compressed one, once 64 MiB have come out.
    pub ratio: u64,
    /// Most bytes of one PAX header or GNU long name.
    pub extension_bytes: u32,
    /// Largest zstd window, as a power of two.
    pub zstd_window_log: u32,
    /// Bounds on the table.
    pub table: TableLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            plain_bytes: 1 << 40,
            ratio: 2000,
            extension_bytes: 1 << 20,
            zstd_window_log: 27,
            table: TableLimits::default(),
        }
    }
}

/// What names beginning with `.wh.` mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhiteoutNames {
    /// Whiteouts and opaque marks, as in an image's layer.
    #[default]
    Whiteout,
    /// Ordinary files, as in an archive that `ADD` unpacks or `import` reads.
    Plain,
}

/// What the stream must turn out to be; whatever is `None` is not compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Digest of the stream as it comes.
    pub blob: Option<Digest>,
    /// Its length in bytes.
    pub blob_size: Option<u64>,
    /// Digest of the uncompressed stream.
    pub diff_id: Option<DiffId>,
}

/// How far a read has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the stream read so far.
    pub blob_bytes: u64,
    /// Bytes of the uncompressed archive so far.
    pub plain_bytes: u64,
}

/// How to read a layer.
#[derive(Clone, Copy, Default)]
#[expect(missing_debug_implementations, reason = "a callback has nothing to show")]
pub struct ReadOptions<'a> {
    /// Bounds.
    pub limits: Limits,
    /// Digests and size to compare.
    pub expected: Expected,
    /// What `.wh.` names mean.
    pub whiteout_names: WhiteoutNames,
    /// Called from the calling thread about every 256 KiB of the stream.
    pub progress: Option<&'a dyn Fn(Progress)>,
}

/// What a read found.
#[derive(Debug)]
pub struct ReadLayer {
    /// Digest of the stream as it came (with the algorithm of the expected one, else SHA-256).
    pub blob: Digest,
    /// Length of the stream in bytes.
    pub blob_size: u64,
    /// How it was compressed.
    pub compression: Compression,
    /// The entries; `table.facts()` has DiffID and size of the tar.
    pub table: Table,
    /// Xattrs that were left out of the table: overlayfs' own and namespaces that no disk holds.
    pub dropped_xattrs: u64,
}

/// Why a stream is no layer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The stream cannot be read.
    #[error("cannot read the layer")]
    Read(#[source] std::io::Error),
}

/// Reads the layer `source`, compressed or not, in one pass on two threads with bounded buffers:
/// writes the uncompressed archive to `tar` and, where `blob` is given, the stream as it came.
///
/// Blocks until the stream ends; nothing is synced. On an error what was written is worthless.
///
/// # Errors
/// [`ReadError`] if the stream cannot be read, is malformed, passes a limit or is not what was
/// expected.
pub fn read_layer(
    source: &mut dyn Read,
    tar: &mut (dyn Write + Send),
    blob: Option<&mut dyn Write>,
    options: &ReadOptions<'_>,
) -> Result<ReadLayer, ReadError> {
    let _ = (source, tar, blob, options);
    todo!("published for its signature")
}
