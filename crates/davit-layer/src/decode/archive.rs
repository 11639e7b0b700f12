//! Archives that are no layers (`load`, `import`, `ADD`, a context): bzip2 and xz as well.

use std::io::{self, BufRead as _, BufReader, Read};

use super::{Decoder, GzipChecksum};
use crate::Limits;

/// Memory of an xz stream's dictionary: twice what `xz -9` asks for.
const XZ_KIB: u32 = 130 << 10;
const BUFFER: usize = 256 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Layer,
    Bzip2,
    Xz,
    Plain,
}

fn format_of(head: &[u8]) -> Format {
    const MAGICS: [(&[u8], Format); 4] = [
        (&[0x1f, 0x8b, 0x08], Format::Layer),
        (&[0x28, 0xb5, 0x2f, 0xfd], Format::Layer),
        (b"BZh", Format::Bzip2),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], Format::Xz),
    ];
    let found = MAGICS.iter().find(|(magic, _)| head.starts_with(magic));
    found.map_or(Format::Plain, |(_, format)| *format)
}

/// Whether a stream that begins with these bytes is compressed, in any form of [`decompressed`].
#[must_use]
pub fn is_compressed(head: &[u8]) -> bool {
    format_of(head) != Format::Plain
}

/// Decompresses a stream by its magic: gzip, zstd, bzip2, xz; anything else stays as it is.
///
/// # Errors
/// What `source` reports. The stream itself is found wrong as it is read.
pub fn decompressed<'a>(source: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut source = BufReader::with_capacity(BUFFER, source);
    let head = source.fill_buf()?;
    Ok(match format_of(head) {
        Format::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(source)),
        Format::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(source, true, XZ_KIB)),
        Format::Layer => {
            Box::new(Decoder::new(source, Limits::default().zstd_window_log, GzipChecksum::Verify)?)
        }
        Format::Plain => Box::new(source),
    })
}
