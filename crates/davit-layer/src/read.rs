//! Reading a layer in one pass.
//!
//! ```text
//! source -> count, digest, tee -> decoder -> buffers -> | channel | -> digest, tar file, parser
//!           calling thread                                 second thread
//! ```
//!
//! Both digests, the tar and the table come from the same bytes; nothing is read twice. The buffers
//! circulate, so a slow disk stops the download instead of filling memory.

mod pipe;
mod source;

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::FileExt,
};

use davit_image::{Algorithm, Compression, DiffId, Digest};

use self::source::CountedSource;
use crate::{
    ArchiveError, BuildError, Decoder, GzipChecksum, LayerFacts, Table, TableLimits,
    tar::{BLOCK_SIZE, Parser, ParserOptions},
};

/// Bounds on what an archive may make us do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of the uncompressed archive.
    pub plain_bytes: u64,
    /// Most uncompressed bytes for each compressed one, once `ratio_from` of them have come out.
    pub ratio: u64,
    /// Where the ratio begins to count: small layers of zeros compress a thousandfold.
    pub ratio_from: u64,
    /// Most bytes of one PAX header or GNU long name.
    pub extension_bytes: u32,
    /// Largest zstd window, as a power of two; one that large is allocated only for a frame that
    /// asks for it.
    pub zstd_window_log: u32,
    /// Bounds on the table.
    pub table: TableLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            plain_bytes: 1 << 40,
            ratio: 250,
            ratio_from: 1 << 30,
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
    /// Ordinary files, as in an archive that `ADD` unpacks. Never for a tar that becomes a layer
    /// itself: its table must follow from its bytes alone.
    Plain,
}

/// What the stream must turn out to be; whatever is `None` is not compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Digest of the stream as it comes.
    pub blob: Option<Digest>,
    /// Its length in bytes; nothing is read beyond.
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
    /// Called from the calling thread about every 256 KiB of the uncompressed stream.
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
    Read(#[source] io::Error),
    /// The stream does not decompress.
    #[error("cannot decompress the layer ({compression:?})")]
    Decompress {
        /// What its magic says.
        compression: Compression,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
    /// The uncompressed archive cannot be written.
    #[error("cannot write the layer's tar")]
    WriteTar(#[source] io::Error),
    /// The compressed stream cannot be written.
    #[error("cannot write the layer's blob")]
    WriteBlob(#[source] io::Error),
    /// The archive cannot be understood or is not allowed.
    #[error("cannot use the layer's archive")]
    Archive(#[from] ArchiveError),
    /// The uncompressed archive passes the limit.
    #[error("the uncompressed layer is larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// It grows so much that it is taken for a bomb.
    #[error("the layer grows more than {limit}-fold when it is decompressed")]
    Ratio {
        /// The limit.
        limit: u64,
    },
    /// The stream has another length.
    #[error("the layer has {actual} bytes instead of {expected}")]
    BlobSize {
        /// As the descriptor says.
        expected: u64,
        /// As read; one more than expected if there is more.
        actual: u64,
    },
    /// The stream has another digest.
    #[error("the layer's digest is {actual} instead of {expected}")]
    BlobDigest {
        /// As the descriptor says.
        expected: Box<Digest>,
        /// As read.
        actual: Box<Digest>,
    },
    /// The uncompressed archive has another digest.
    #[error("the uncompressed layer's digest is {actual} instead of {expected}")]
    DiffId {
        /// As the config says.
        expected: Box<DiffId>,
        /// As read.
        actual: Box<DiffId>,
    },
}

impl ReadError {
    /// Whether reading the stream again, from elsewhere or later, may help: it could not be read to
    /// its end, or its bytes are not those that were asked for.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Read(_) | Self::BlobSize { .. } | Self::BlobDigest { .. })
    }
}

impl From<BuildError> for ReadError {
    fn from(error: BuildError) -> Self {
        Self::Archive(error.into())
    }
}

/// Reads the layer `source`, compressed or not, in one pass on two threads with bounded buffers
/// (about 3 MiB): writes the uncompressed archive to `tar` and, where `blob` is given, the stream as
/// it came.
///
/// Blocks until the stream ends; nothing is synced. On an error what was written is worthless.
///
/// # Errors
/// [`ReadError`] if the stream cannot be read, is malformed, passes a limit or is not what was
/// expected. A stream that is both malformed and not what was expected is reported as the latter.
pub fn read_layer<'a>(
    source: &'a mut dyn Read,
    tar: &mut (dyn Write + Send),
    blob: Option<&'a mut dyn Write>,
    options: &ReadOptions<'_>,
) -> Result<ReadLayer, ReadError> {
    let mut source = CountedSource::new(source, blob, options.expected);
    let read = pipe::run(&mut source, tar, options);
    let Err(error) = read else {
        source.check()?;
        return check_diff_id(read?, &source, options);
    };
    // Was it the sender's fault? Only the rest of the stream can tell.
    let judged = matches!(
        error,
        ReadError::Archive(_) | ReadError::Decompress { .. } | ReadError::Ratio { .. }
    );
    if judged && options.expected.blob.is_some() && options.expected.blob_size.is_some() {
        source.drain()?;
        source.check()?;
    }
    Err(error)
}

fn check_diff_id(
    read: pipe::Read,
    source: &CountedSource<'_>,
    options: &ReadOptions<'_>,
) -> Result<ReadLayer, ReadError> {
    if let Some(expected) = options.expected.diff_id
        && expected != read.facts.diff_id
    {
        return Err(other_diff_id(expected, read.facts.diff_id));
    }
    Ok(ReadLayer {
        blob: source.digest(),
        blob_size: source.count(),
        compression: read.compression,
        dropped_xattrs: read.parsed.dropped_xattrs,
        table: read.parsed.builder.finish(read.facts)?,
    })
}

/// Makes the table of a tar that is already there, by reading its headers only. `facts` are taken
/// on trust but for the size.
///
/// # Errors
/// [`ReadError`] as [`read_layer`]; `BlobSize` if the file has another size than `facts` says.
pub fn read_table(tar: &File, facts: LayerFacts, limits: &Limits) -> Result<Table, ReadError> {
    let actual = tar.metadata().map_err(ReadError::Read)?.len();
    if actual != facts.tar_size {
        return Err(ReadError::BlobSize { expected: facts.tar_size, actual });
    }
    let options = ParserOptions { limits: *limits, whiteout_names: WhiteoutNames::Whiteout };
    let mut parser = Parser::new(options);
    let mut buffer = vec![0; 32 << 10];
    let mut offset = 0;
    while offset < actual && !parser.is_at_end() {
        let skipped = parser.skippable().min(actual - offset);
        if skipped > (buffer.len() - BLOCK_SIZE) as u64 {
            parser.skip(skipped);
            offset += skipped;
            continue;
        }
        let count = tar.read_at(&mut buffer, offset).map_err(ReadError::Read)?;
        if count == 0 {
            return Err(ReadError::BlobSize { expected: actual, actual: offset });
        }
        parser.feed(&buffer[..count])?;
        offset += count as u64;
    }
    Ok(parser.finish()?.builder.finish(facts)?)
}

/// Digests a tar and compares: whether the file still is what its DiffID says.
///
/// # Errors
/// [`ReadError`] `Read`, or `DiffId` if it differs.
pub fn verify_tar(tar: &File, expected: DiffId) -> Result<(), ReadError> {
    let mut digester = davit_image::Digester::new(expected.digest().algorithm());
    let mut buffer = vec![0; 256 << 10];
    let mut offset = 0;
    loop {
        let count = tar.read_at(&mut buffer, offset).map_err(ReadError::Read)?;
        if count == 0 {
            break;
        }
        digester.update(&buffer[..count]);
        offset += count as u64;
    }
    let actual = DiffId::new(digester.finish());
    if actual == expected { Ok(()) } else { Err(other_diff_id(expected, actual)) }
}

fn other_diff_id(expected: DiffId, actual: DiffId) -> ReadError {
    ReadError::DiffId { expected: expected.into(), actual: actual.into() }
}

/// The algorithm to digest with: the expected one's.
pub(crate) fn algorithm(expected: Option<Digest>) -> Algorithm {
    expected.map_or(Algorithm::Sha256, |digest| digest.algorithm())
}

/// gzip's own checksums matter only where no DiffID is compared.
const fn gzip_checksum(expected: &Expected) -> GzipChecksum {
    match expected.diff_id {
        Some(_) => GzipChecksum::Ignore,
        None => GzipChecksum::Verify,
    }
}

type LayerDecoder<'s, 'b> = Decoder<&'s mut CountedSource<'b>>;
