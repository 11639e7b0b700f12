//! Decompressing by what the bytes are, never by what a media type says.

mod archive;
mod gzip;

use std::{
    fmt,
    io::{self, BufReader, Read},
};

use davit_image::Compression;

use self::gzip::GzipReader;
pub use archive::{decompressed, is_compressed};

/// Input is read in pieces of this size.
const INPUT_SIZE: usize = 128 << 10;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Low half of the magics of zstd's skippable frames, `50`-`5f`.
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// Whether the checksums inside a gzip stream are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GzipChecksum {
    /// They are; for streams that no digest of the content vouches for.
    Verify,
    /// Only the lengths are: a digest of the plain bytes is compared by the caller.
    Ignore,
}

/// Decompresses a stream by its magic: gzip of any number of members (zeros may follow), zstd of
/// any number of frames, or plain.
pub struct Decoder<R: Read> {
    form: Form<R>,
}

enum Form<R: Read> {
    Plain(Prefixed<R>),
    Gzip(Box<GzipReader<Prefixed<R>>>),
    Zstd(zstd::stream::read::Decoder<'static, BufReader<Prefixed<R>>>),
}

impl<R: Read> Decoder<R> {
    /// Reads the first bytes of `source`. zstd windows above `2^window_log` bytes will be refused.
    ///
    /// # Errors
    /// What `source` reports.
    pub fn new(source: R, window_log: u32, checksum: GzipChecksum) -> io::Result<Self> {
        let source = Prefixed::new(source)?;
        let magic = source.prefix();
        let form = if magic.starts_with(&GZIP_MAGIC) {
            Form::Gzip(Box::new(GzipReader::new(source, checksum)))
        } else if is_zstd(magic) {
            let input = BufReader::with_capacity(INPUT_SIZE, source);
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(window_log)?;
            Form::Zstd(decoder)
        } else {
            Form::Plain(source)
        };
        Ok(Self { form })
    }

    /// What the magic says.
    #[must_use]
    pub const fn compression(&self) -> Compression {
        match self.form {
            Form::Plain(_) => Compression::None,
            Form::Gzip(_) => Compression::Gzip,
            Form::Zstd(_) => Compression::Zstd,
        }
    }

    /// The stream below.
    pub(crate) fn source(&mut self) -> &mut R {
        match &mut self.form {
            Form::Plain(source) => &mut source.inner,
            Form::Gzip(gzip) => &mut gzip.source().inner,
            Form::Zstd(zstd) => &mut zstd.get_mut().get_mut().inner,
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.form {
            Form::Plain(source) => source.read(buffer),
            Form::Gzip(gzip) => gzip.read(buffer),
            Form::Zstd(zstd) => zstd.read(buffer),
        }
    }
}

impl<R: Read> fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("compression", &self.compression()).finish_non_exhaustive()
    }
}

fn is_zstd(magic: &[u8]) -> bool {
    let skippable = |magic: &[u8]| magic[0] & 0xf0 == 0x50 && magic[1..] == ZSTD_SKIPPABLE;
    magic == ZSTD_MAGIC || (magic.len() == 4 && skippable(magic))
}

/// A stream whose first bytes have been looked at.
struct Prefixed<R> {
    first: [u8; 4],
    from: usize,
    to: usize,
    inner: R,
}

impl<R: Read> Prefixed<R> {
    fn new(mut inner: R) -> io::Result<Self> {
        let mut first = [0; 4];
        let mut to = 0;
        while to < first.len() {
            match inner.read(&mut first[to..]) {
                Ok(0) => break,
                Ok(count) => to += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { first, from: 0, to, inner })
    }

    fn prefix(&self) -> &[u8] {
        &self.first[..self.to]
    }
}

impl<R: Read> Read for Prefixed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.from == self.to {
            return self.inner.read(buffer);
        }
        let count = buffer.len().min(self.to - self.from);
        buffer[..count].copy_from_slice(&self.first[self.from..self.from + count]);
        self.from += count;
        Ok(count)
    }
}

/// Fills `buffer` as far as the stream goes; a short count means its end.
pub(crate) fn read_full(source: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn decode(bytes: &[u8]) -> io::Result<(Compression, Vec<u8>)> {
        let mut decoder = Decoder::new(bytes, 27, GzipChecksum::Verify)?;
        let mut plain = Vec::new();
        decoder.read_to_end(&mut plain)?;
        Ok((decoder.compression(), plain))
    }

    #[test]
    fn tells_formats_by_their_magic() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"content").unwrap();
        let zstd = zstd::stream::encode_all(&b"content"[..], 3).unwrap();
        let skippable = [&[0x51, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9][..], &zstd].concat();
        let cases = [
            (gzip.finish().unwrap(), Compression::Gzip),
            (zstd.clone(), Compression::Zstd),
            (skippable, Compression::Zstd),
            (b"content".to_vec(), Compression::None),
        ];
        for (bytes, compression) in cases {
            assert_eq!(decode(&bytes).unwrap(), (compression, b"content".to_vec()));
        }
        for short in [&b""[..], b"a", b"\x1f", b"\x28\xb5\x2f"] {
            assert_eq!(decode(short).unwrap(), (Compression::None, short.to_vec()));
        }
        let frames = [&zstd[..], &zstd].concat();
        assert_eq!(decode(&frames).unwrap().1, b"contentcontent");
        assert!(decode(&zstd[..zstd.len() - 1]).is_err());
        assert!(decode(&[&zstd[..], b"garbage"].concat()).is_err());
    }

    #[test]
    fn refuses_large_zstd_windows() {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(24).unwrap();
        encoder.write_all(&vec![7; 20 << 20]).unwrap();
        let bytes = encoder.finish().unwrap();
        let mut decoder = Decoder::new(&bytes[..], 20, GzipChecksum::Verify).unwrap();
        assert!(decoder.read_to_end(&mut Vec::new()).is_err());
        assert_eq!(decode(&bytes).unwrap().1.len(), 20 << 20);
    }
}
