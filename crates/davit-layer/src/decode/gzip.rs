//! gzip framing (RFC 1952) around a raw inflater.

use std::io::{self, Read};

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::{GZIP_MAGIC, GzipChecksum, INPUT_SIZE};

const DEFLATE: u8 = 8;
const HEADER_CRC: u8 = 2;
const EXTRA: u8 = 4;
const NAME: u8 = 8;
const COMMENT: u8 = 16;
const RESERVED: u8 = 0xe0;
/// Most bytes of a name or comment in a header.
const TEXT_MAX: usize = 1 << 16;

/// Reads the members of a gzip stream one after the other. Zeros may follow the last one (tapes and
/// some writers pad); anything else is an error.
pub(super) struct GzipReader<R> {
    input: Input<R>,
    inflate: Decompress,
    state: State,
    checksum: Option<Crc>,
    /// Bytes of this member so far, modulo 2^32 as the trailer has it.
    length: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    FirstMember,
    Body,
    NextMember,
    End,
}

impl<R: Read> GzipReader<R> {
    pub(super) fn new(source: R, checksum: GzipChecksum) -> Self {
        Self {
            input: Input { source, buffer: vec![0; INPUT_SIZE], from: 0, to: 0 },
            inflate: Decompress::new(false),
            state: State::FirstMember,
            checksum: (checksum == GzipChecksum::Verify).then(Crc::new),
            length: 0,
        }
    }

    pub(super) const fn source(&mut self) -> &mut R {
        &mut self.input.source
    }

    /// Inflates into `buffer`; 0 means that the member has ended.
    fn body(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let input = self.input.fill()?;
            let at_end = input.is_empty();
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self
                .inflate
                .decompress(input, buffer, FlushDecompress::None)
                .map_err(|_| invalid("the deflate stream is malformed"))?;
            let consumed = self.inflate.total_in() - before_in;
            let produced = self.inflate.total_out() - before_out;
            let fits = "it is at most the length of a buffer";
            self.input.from += usize::try_from(consumed).expect(fits);
            let produced = usize::try_from(produced).expect(fits);
            if produced > 0 {
                self.count(&buffer[..produced]);
            }
            if status == Status::StreamEnd {
                self.trailer()?;
                self.state = State::NextMember;
                return Ok(produced);
            }
            if produced > 0 {
                return Ok(produced);
            }
            if at_end {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn count(&mut self, bytes: &[u8]) {
        if let Some(checksum) = &mut self.checksum {
            checksum.update(bytes);
        }
        // Modulo 2^32 by definition; a buffer is smaller.
        self.length = self.length.wrapping_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    }

    fn trailer(&mut self) -> io::Result<()> {
        let mut trailer = [0; 8];
        for byte in &mut trailer {
            *byte = self.input.byte()?;
        }
        let [c0, c1, c2, c3, l0, l1, l2, l3] = trailer;
        if u32::from_le_bytes([l0, l1, l2, l3]) != self.length {
            return Err(invalid("the length of a gzip member differs"));
        }
        if let Some(checksum) = &self.checksum
            && checksum.sum() != u32::from_le_bytes([c0, c1, c2, c3])
        {
            return Err(invalid("the checksum of a gzip member differs"));
        }
        Ok(())
    }

    fn start_member(&mut self) -> io::Result<()> {
        self.header()?;
        self.inflate.reset(false);
        self.length = 0;
        if let Some(checksum) = &mut self.checksum {
            checksum.reset();
        }
        self.state = State::Body;
        Ok(())
    }

    fn header(&mut self) -> io::Result<()> {
        let mut crc = Crc::new();
        let mut byte = |input: &mut Input<R>| -> io::Result<u8> {
            let byte = input.byte()?;
            crc.update(&[byte]);
            Ok(byte)
        };
        let input = &mut self.input;
        if [byte(input)?, byte(input)?] != GZIP_MAGIC {
            return Err(invalid("garbage follows the gzip stream"));
        }
        if byte(input)? != DEFLATE {
            return Err(invalid("a gzip member has an unknown method"));
        }
        let flags = byte(input)?;
        if flags & RESERVED != 0 {
            return Err(invalid("a gzip member has unknown flags"));
        }
        for _time_and_origin in 0..6 {
            byte(input)?;
        }
        if flags & EXTRA != 0 {
            let length = u16::from_le_bytes([byte(input)?, byte(input)?]);
            for _extra in 0..length {
                byte(input)?;
            }
        }
        for text in [NAME, COMMENT] {
            let mut length = 0;
            while flags & text != 0 && byte(input)? != 0 {
                length += 1;
                if length > TEXT_MAX {
                    return Err(invalid("a gzip member has an endless name"));
                }
            }
        }
        if flags & HEADER_CRC != 0 {
            let [low, high, ..] = crc.sum().to_le_bytes();
            if [self.input.byte()?, self.input.byte()?] != [low, high] {
                return Err(invalid("the checksum of a gzip header differs"));
            }
        }
        Ok(())
    }

    /// What follows a member: another one, zeros, or nothing.
    fn next_member(&mut self) -> io::Result<()> {
        match self.input.fill()?.first() {
            Some(first) if *first == GZIP_MAGIC[0] => self.start_member(),
            _ => {
                loop {
                    let rest = self.input.fill()?;
                    if rest.is_empty() {
                        break;
                    }
                    if rest.iter().any(|byte| *byte != 0) {
                        return Err(invalid("garbage follows the gzip stream"));
                    }
                    self.input.from = self.input.to;
                }
                self.state = State::End;
                Ok(())
            }
        }
    }
}

impl<R: Read> Read for GzipReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self.state {
                State::FirstMember => self.start_member()?,
                State::NextMember => self.next_member()?,
                State::End => return Ok(0),
                State::Body => {
                    let produced = self.body(buffer)?;
                    if produced > 0 {
                        return Ok(produced);
                    }
                }
            }
        }
    }
}

/// Compressed bytes, buffered.
struct Input<R> {
    source: R,
    buffer: Vec<u8>,
    from: usize,
    to: usize,
}

impl<R: Read> Input<R> {
    /// What is buffered; reads more if nothing is. Empty at the end of the stream.
    fn fill(&mut self) -> io::Result<&[u8]> {
        while self.from == self.to {
            match self.source.read(&mut self.buffer) {
                Ok(0) => return Ok(&[]),
                Ok(count) => (self.from, self.to) = (0, count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(&self.buffer[self.from..self.to])
    }

    fn byte(&mut self) -> io::Result<u8> {
        let byte = *self.fill()?.first().ok_or(io::ErrorKind::UnexpectedEof)?;
        self.from += 1;
        Ok(byte)
    }
}

fn invalid(fault: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, fault)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, GzBuilder};
    use proptest::prelude::*;

    use super::*;

    fn member(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzBuilder::new().write(Vec::new(), Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn read(bytes: &[u8], checksum: GzipChecksum) -> Result<Vec<u8>, String> {
        let mut plain = Vec::new();
        let mut reader = GzipReader::new(bytes, checksum);
        reader.read_to_end(&mut plain).map_err(|error| error.to_string())?;
        Ok(plain)
    }

    #[test]
    fn reads_members_and_padding() {
        let fancy = GzBuilder::new().filename("n").comment("c").extra("e").mtime(9);
        let mut fancy = fancy.write(Vec::new(), Compression::best());
        fancy.write_all(b"two ").unwrap();
        let fancy = fancy.finish().unwrap();
        let stream = [member(b"one "), fancy, member(b""), member(b"three"), vec![0; 700]].concat();
        assert_eq!(read(&stream, GzipChecksum::Verify).unwrap(), b"one two three");
    }

    #[test]
    fn checks_the_header_checksum() {
        let plain = member(b"content");
        let mut header = plain[..10].to_vec();
        header[3] |= HEADER_CRC;
        let mut crc = Crc::new();
        crc.update(&header);
        let sum = crc.sum().to_le_bytes();
        let good = [&header[..], &sum[..2], &plain[10..]].concat();
        assert_eq!(read(&good, GzipChecksum::Verify).unwrap(), b"content");
        let bad = [&header[..], &[sum[0] ^ 1, sum[1]], &plain[10..]].concat();
        assert!(read(&bad, GzipChecksum::Verify).unwrap_err().contains("header differs"));
    }

    #[test]
    fn refuses_what_is_malformed() {
        let good = member(b"content of some length");
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            let at = if at >= 1000 { bytes.len() - (at - 1000) } else { at };
            bytes[at] ^= byte;
            bytes
        };
        let cases = [
            (changed(2, 1), "unknown method"),
            (changed(3, 0x80), "unknown flags"),
            (changed(1001, 1), "length of a gzip member"),
            (changed(1008, 1), "checksum of a gzip member"),
            ([&good[..], b"garbage"].concat(), "garbage follows"),
            ([&good[..], &[0, 0, 1]].concat(), "garbage follows"),
            (good[..good.len() - 1].to_vec(), "unexpected end"),
            (good[..15].to_vec(), "unexpected end"),
            (good[..5].to_vec(), "unexpected end"),
        ];
        for (bytes, fault) in cases {
            let found = read(&bytes, GzipChecksum::Verify).unwrap_err();
            assert!(found.contains(fault), "{found} is not {fault}");
        }
        let ignored = read(&changed(1008, 1), GzipChecksum::Ignore).unwrap();
        assert_eq!(ignored, b"content of some length");
    }

    proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>) {
            let stream = [&[0x1f, 0x8b, 8][..], &bytes].concat();
            let _ignored = read(&stream, GzipChecksum::Verify);
        }

        #[test]
        fn reads_what_is_written(parts in prop::collection::vec(any::<Vec<u8>>(), 1..4)) {
            let stream: Vec<u8> = parts.iter().flat_map(|part| member(part)).collect();
            prop_assert_eq!(read(&stream, GzipChecksum::Verify), Ok(parts.concat()));
        }
    }
}
