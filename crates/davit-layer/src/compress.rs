//! Compressing a tar for push and save: parallel, and the same bytes on every machine.

use std::{
    fs::File,
    io::{self, Write},
};

use davit_image::{Compression, Digest};

/// How to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompressOptions {
    /// Format.
    pub compression: Compression,
    /// Level: gzip 1-9, zstd 1-19; `None` is the default of the format.
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
    /// The blob cannot be written.
    #[error("cannot write the compressed layer")]
    Write(#[source] io::Error),
}

/// Compresses `tar` from its start into `sink`, in order, as it comes.
///
/// # Errors
/// [`CompressError`] if reading or writing fails.
pub fn compress(
    tar: &File,
    sink: &mut dyn Write,
    options: &CompressOptions,
) -> Result<Compressed, CompressError> {
    let _ = (tar, sink, options);
    todo!("published for its signature")
}

/// Names the exact bytes that [`compress`] makes: format, level, library and block size. Equal
/// names and equal tars give equal blobs.
#[must_use]
pub fn compressor_name(options: &CompressOptions) -> String {
    format!("{:?}-{:?}", options.compression, options.level)
}
