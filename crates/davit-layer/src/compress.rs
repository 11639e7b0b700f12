//! Compressing a tar for push and save: parallel, and the same bytes on every machine.
//!
//! The tar is cut into blocks of a fixed size which are compressed apart. gzip: one member, each
//! block a run of deflate blocks with a fresh window, ended by a sync flush. zstd: each block a
//! frame. So the bytes depend on format, level, block size and library, not on the number of cores;
//! [`compressor_name`] names all four.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
};

use davit_image::{Algorithm, Compression, Digest, Digester};
use flate2::{Compress, Crc, FlushCompress, Status};
use zstd::zstd_safe::{CParameter, Strategy};

use crate::ordered::{self, Work};

/// gzip blocks: a fresh window costs less than 1 % at this size.
const GZIP_BLOCK: usize = 1 << 20;
/// zstd blocks, each of which is its own window.
const ZSTD_BLOCK: usize = 1 << ZSTD_WINDOW;
/// A window that takes in the block finds more than what most levels ask for, and faster: nothing ever
/// leaves it (1 to 3 % less at levels 1 to 4, in no more time).
const ZSTD_WINDOW: u32 = 22;
/// zstd's level where none is asked for. Within such a window it needs no second hash table: without one
/// layers are as large as with the library's own level 3 (0.1 to 1.6 % larger), in 15 % less time.
const ZSTD_LEVEL: u32 = 3;
/// Blocks that may be under way for each thread.
const WINDOW_PER_THREAD: usize = 2;
/// Deflate, no flags, no time, unknown origin.
pub(crate) const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// How to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompressOptions {
    /// Format.
    pub compression: Compression,
    /// Level: gzip 0-9, where 0 only stores, zstd 1-22 (others are clamped); `None` is 6 for gzip, 3
    /// for zstd, and so is zstd's 0.
    pub level: Option<u32>,
    /// Threads; 0 counts as 1. The bytes do not depend on it.
    pub threads: usize,
}

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compressed {
    /// SHA-256 of the blob.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// Why compressing failed.
#[derive(Debug, thiserror::Error)]
pub enum CompressError {
    /// The tar cannot be read.
    #[error("cannot read the layer to compress")]
    Read(#[source] io::Error),
    /// The compressor refuses.
    #[error("cannot compress the layer")]
    Compress(#[source] io::Error),
    /// The blob cannot be written.
    #[error("cannot write the compressed layer")]
    Write(#[source] io::Error),
}

/// Compresses `tar`, from its first to its last byte, into `sink`, in order, as it comes. Memory:
/// about 5 MiB for each thread with gzip, 16 with zstd, 60 at its levels from 16 on.
///
/// # Errors
/// [`CompressError`] if reading or writing fails.
pub fn compress(
    tar: &File,
    sink: &mut dyn Write,
    options: &CompressOptions,
) -> Result<Compressed, CompressError> {
    let size = tar.metadata().map_err(CompressError::Read)?.len();
    let blocks = Blocks { tar, size, compression: options.compression, level: options.level() };
    let mut output = Output::new(sink);
    let mut checksum = Crc::new();
    if options.compression == Compression::Gzip {
        output.write(&GZIP_HEADER)?;
    }
    let threads = options.threads.max(1);
    ordered::run(&blocks, threads, threads * WINDOW_PER_THREAD, &mut |_, block| {
        let Some(block) = block else { return Ok(()) };
        checksum.combine(&block.checksum);
        output.write(&block.output)
    })?;
    if options.compression == Compression::Gzip {
        let [l0, l1, l2, l3, ..] = size.to_le_bytes();
        output.write(&checksum.sum().to_le_bytes())?;
        output.write(&[l0, l1, l2, l3])?;
    }
    output.finish()
}

/// Names the exact bytes that [`compress`] makes. Equal names and equal tars give equal blobs, so a
/// store may remember (DiffID, name) -> blob. A new version of a library that makes other bytes
/// gets another number here (a golden test notices).
#[must_use]
pub fn compressor_name(options: &CompressOptions) -> String {
    match options.compression {
        Compression::None => "none".into(),
        Compression::Gzip => format!("gzip-{}-1m-zlib-rs.2", options.level()),
        Compression::Zstd => format!("zstd-{}-4m-libzstd.2", options.level()),
    }
}

impl CompressOptions {
    pub(crate) fn level(&self) -> u32 {
        match self.compression {
            Compression::None => 0,
            Compression::Gzip => self.level.unwrap_or(6).min(9),
            Compression::Zstd => {
                self.level.filter(|level| *level > 0).unwrap_or(ZSTD_LEVEL).min(22)
            }
        }
    }
}

/// A blob as it is written.
pub(crate) struct Output<'a> {
    sink: &'a mut dyn Write,
    digester: Digester,
    pub(crate) size: u64,
}

impl<'a> Output<'a> {
    pub(crate) fn new(sink: &'a mut dyn Write) -> Self {
        Self { sink, digester: Digester::new(Algorithm::Sha256), size: 0 }
    }

    pub(crate) fn finish(self) -> Result<Compressed, CompressError> {
        self.sink.flush().map_err(CompressError::Write)?;
        Ok(Compressed { digest: self.digester.finish(), size: self.size })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), CompressError> {
        self.write_bytes(bytes).map_err(CompressError::Write)
    }

    pub(crate) fn write_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digester.update(bytes);
        self.size += bytes.len() as u64;
        self.sink.write_all(bytes)
    }
}

/// The tar, cut into blocks.
struct Blocks<'a> {
    tar: &'a File,
    size: u64,
    compression: Compression,
    level: u32,
}

/// A worker's buffers and state, and the compressed block.
#[derive(Default)]
struct Block {
    input: Vec<u8>,
    output: Vec<u8>,
    checksum: Crc,
    deflate: Option<Compress>,
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl Blocks<'_> {
    const fn block_size(&self) -> usize {
        match self.compression {
            Compression::Zstd => ZSTD_BLOCK,
            Compression::Gzip | Compression::None => GZIP_BLOCK,
        }
    }

    fn read(&self, piece: usize, input: &mut Vec<u8>) -> io::Result<()> {
        let start = piece as u64 * self.block_size() as u64;
        let length = (self.size - start).min(self.block_size() as u64);
        input.resize(usize::try_from(length).expect("a block fits into memory"), 0);
        self.tar.read_exact_at(input, start)
    }

    fn deflate(&self, block: &mut Block, is_last: bool) -> io::Result<()> {
        let level = flate2::Compression::new(self.level);
        let deflate = block.deflate.get_or_insert_with(|| Compress::new(level, false));
        deflate.reset();
        block.checksum.reset();
        block.checksum.update(&block.input);
        let flush = if is_last { FlushCompress::Finish } else { FlushCompress::Sync };
        block.output.clear();
        append_deflated(deflate, &block.input, &mut block.output, flush)
    }

    fn zstd(&self, block: &mut Block) -> io::Result<()> {
        let compressor = match &mut block.zstd {
            Some(compressor) => compressor,
            none => {
                let level = i32::try_from(self.level).expect("levels are small");
                let mut compressor = zstd::bulk::Compressor::new(level)?;
                compressor.include_checksum(true)?;
                compressor.set_parameter(CParameter::WindowLog(ZSTD_WINDOW))?;
                if self.level == ZSTD_LEVEL {
                    compressor.set_parameter(CParameter::Strategy(Strategy::ZSTD_fast))?;
                }
                none.insert(compressor)
            }
        };
        block.output.clear();
        block.output.reserve(zstd::zstd_safe::compress_bound(block.input.len()));
        compressor.compress_to_buffer(&block.input, &mut block.output)?;
        Ok(())
    }
}

/// Deflates a block behind what `output` holds; `deflate` is fresh.
pub(crate) fn append_deflated(
    deflate: &mut Compress,
    input: &[u8],
    output: &mut Vec<u8>,
    flush: FlushCompress,
) -> io::Result<()> {
    // In one call with room for all of it: zlib-rs forgets a match that it has looked for when its
    // output is full, so that the bytes would depend on how large this buffer has grown.
    output.reserve(deflate_bound(input.len()));
    let status = deflate.compress_vec(input, output, flush).map_err(io::Error::other)?;
    let is_whole = deflate.total_in() == input.len() as u64 && output.len() < output.capacity();
    if status == Status::StreamEnd || (flush == FlushCompress::Sync && is_whole) {
        return Ok(());
    }
    Err(io::Error::other("a block takes more than deflate can make of it"))
}

/// More than deflate makes of `length` bytes at worst: stored blocks of at most 16 KiB, each with a
/// header of 5 bytes, and a sync flush.
const fn deflate_bound(length: usize) -> usize {
    length + (length >> 11) + 1024
}

impl Work for Blocks<'_> {
    type Product = Block;
    type Error = CompressError;

    /// An empty tar still has one block: a stream must say that it is empty.
    fn count(&self) -> usize {
        let blocks = self.size.div_ceil(self.block_size() as u64).max(1);
        usize::try_from(blocks).expect("the number of blocks fits")
    }

    fn produce(&self, piece: usize, mut block: Block) -> Result<Block, CompressError> {
        self.read(piece, &mut block.input).map_err(CompressError::Read)?;
        let compressed = match self.compression {
            Compression::Gzip => self.deflate(&mut block, piece + 1 == self.count()),
            Compression::Zstd => self.zstd(&mut block),
            Compression::None => {
                std::mem::swap(&mut block.input, &mut block.output);
                Ok(())
            }
        };
        compressed.map_err(CompressError::Compress)?;
        Ok(block)
    }

    fn panicked(&self) -> CompressError {
        CompressError::Compress(io::Error::other("a compressing thread panicked"))
    }
}
