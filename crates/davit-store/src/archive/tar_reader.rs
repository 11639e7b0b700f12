//! Members of an archive's tar, one after the other (POSIX ustar, PAX and GNU long names).
//!
//! Only what image archives need: names, sizes, links. Nothing is ever written by name.

use std::io::{self, Read};

use super::ArchiveError;

const BLOCK: usize = 512;
/// Longest name that is read, in bytes.
const MAX_NAME: usize = 4096;
/// Largest PAX header or GNU long name that is read.
const MAX_EXTENSION: u64 = 1 << 20;
/// Most members, links and directories included.
const MAX_MEMBERS: u64 = 1 << 20;

/// One member of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it lies: relative, without `.` and `..`.
    pub path: String,
    /// What it is.
    pub kind: MemberKind,
    /// Bytes of content that follow.
    pub size: u64,
}

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberKind {
    /// Content follows.
    File,
    /// A directory.
    Directory,
    /// Another name of the member with this path.
    Link(String),
    /// A device, a FIFO, or a link out of the archive: of no use here.
    Other,
}

/// Reads an archive's members; between [`Self::next_member`] calls it reads as the member's content.
#[derive(Debug)]
pub struct TarReader<R> {
    source: R,
    offset: u64,
    remaining: u64,
    padding: u64,
    members: u64,
}

#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl<R: Read> TarReader<R> {
    /// Reads from the start of a plain tar stream.
    pub const fn new(source: R) -> Self {
        Self { source, offset: 0, remaining: 0, padding: 0, members: 0 }
    }

    /// Skips what is left of the current member and reads the next header; `None` at the end.
    ///
    /// # Errors
    /// When the stream cannot be read or is no tar, or a bound is passed.
    pub fn next_member(&mut self) -> Result<Option<Member>, ArchiveError> {
        let mut extension = Extension::default();
        loop {
            self.skip(self.remaining + self.padding)?;
            (self.remaining, self.padding) = (0, 0);
            let Some(header) = self.read_header()? else { return Ok(None) };
            self.members += 1;
            if self.members > MAX_MEMBERS {
                return Err(ArchiveError::TooLarge { what: "members", limit: MAX_MEMBERS });
            }
            let size = self.number(&header[124..136])?;
            match header[156] {
                b'x' => self.read_pax(size, &mut extension)?,
                b'L' => extension.path = Some(self.read_text(size)?),
                b'K' => extension.link = Some(self.read_text(size)?),
                b'g' => self.expect_content(size)?,
                kind => return self.member(&header, kind, size, extension).map(Some),
            }
        }
    }

    fn member(
        &mut self,
        header: &[u8; BLOCK],
        kind: u8,
        size: u64,
        extension: Extension,
    ) -> Result<Member, ArchiveError> {
        let name = extension.path.unwrap_or_else(|| ustar_name(header));
        let target = extension.link.unwrap_or_else(|| until_nul(&header[157..257]).to_vec());
        let size = extension.size.unwrap_or(size);
        let path = clean(&name).ok_or_else(|| self.malformed("a name leaves the archive"))?;
        let has_content = matches!(kind, b'0' | 0 | b'7');
        self.expect_content(if has_content || !is_known(kind) { size } else { 0 })?;
        let kind = match kind {
            b'0' | 0 | b'7' if name.last() == Some(&b'/') => MemberKind::Directory,
            b'0' | 0 | b'7' => MemberKind::File,
            b'5' => MemberKind::Directory,
            b'1' => clean(&target).map_or(MemberKind::Other, MemberKind::Link),
            b'2' => resolve(&path, &target).map_or(MemberKind::Other, MemberKind::Link),
            _ => MemberKind::Other,
        };
        Ok(Member { path, kind, size: self.remaining })
    }

    fn expect_content(&mut self, size: u64) -> Result<(), ArchiveError> {
        if size > u64::MAX / 4 {
            return Err(self.malformed("a size is out of range"));
        }
        self.remaining = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    /// One header block; `None` at the end marks or at a clean end of the stream.
    fn read_header(&mut self) -> Result<Option<[u8; BLOCK]>, ArchiveError> {
        let mut header = [0; BLOCK];
        let got = read_full(&mut self.source, &mut header).map_err(ArchiveError::Read)?;
        if got == 0 {
            return Ok(None);
        }
        if got < BLOCK {
            return Err(self.malformed("it ends within a header"));
        }
        if header.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let wanted = self.number(&header[148..156])?;
        let sum: u64 = header
            .iter()
            .enumerate()
            .map(|(i, &byte)| if (148..156).contains(&i) { 32 } else { u64::from(byte) })
            .sum();
        if wanted != sum {
            return Err(self.malformed("a header's checksum is wrong"));
        }
        self.offset += BLOCK as u64;
        Ok(Some(header))
    }

    fn read_pax(&mut self, size: u64, extension: &mut Extension) -> Result<(), ArchiveError> {
        let bytes = self.read_extension(size)?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (record, tail) =
                pax_record(rest).ok_or_else(|| self.malformed("a PAX record is broken"))?;
            rest = tail;
            match record {
                (b"path", value) => extension.path = Some(value.to_vec()),
                (b"linkpath", value) => extension.link = Some(value.to_vec()),
                (b"size", value) => {
                    let text = std::str::from_utf8(value).ok();
                    let size = text.and_then(|text| text.parse().ok());
                    extension.size =
                        Some(size.ok_or_else(|| self.malformed("a PAX size is no number"))?);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read_text(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        let bytes = self.read_extension(size)?;
        Ok(until_nul(&bytes).to_vec())
    }

    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > MAX_EXTENSION {
            return Err(ArchiveError::TooLarge { what: "bytes in a name", limit: MAX_EXTENSION });
        }
        self.expect_content(size)?;
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(ArchiveError::Read)?;
        Ok(bytes)
    }

    fn skip(&mut self, count: u64) -> Result<(), ArchiveError> {
        let skipped = io::copy(&mut self.source.by_ref().take(count), &mut io::sink())
            .map_err(ArchiveError::Read)?;
        // Some writers leave out the last member's padding.
        if skipped < count.saturating_sub(self.padding) {
            return Err(self.malformed("it ends within a member"));
        }
        self.offset += skipped;
        Ok(())
    }

    fn number(&self, field: &[u8]) -> Result<u64, ArchiveError> {
        parse_number(field).ok_or_else(|| self.malformed("a number in a header is broken"))
    }

    const fn malformed(&self, problem: &'static str) -> ArchiveError {
        ArchiveError::Malformed { offset: self.offset, problem }
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        if limit == 0 {
            return Ok(0);
        }
        let got = self.source.read(&mut buffer[..limit])?;
        if got == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive ends within a member",
            ));
        }
        self.remaining -= got as u64;
        self.offset += got as u64;
        Ok(got)
    }
}

const fn is_known(kind: u8) -> bool {
    matches!(kind, b'1' | b'2' | b'3' | b'4' | b'5' | b'6')
}

fn read_full(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn ustar_name(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&header[..100]);
    let prefix = until_nul(&header[345..500]);
    // GNU headers keep times where ustar has the prefix.
    if &header[257..263] != b"ustar\0" || prefix.is_empty() {
        return name.to_vec();
    }
    [prefix, b"/", name].concat()
}

/// Octal digits, or GNU's base-256 with the top bit set.
fn parse_number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let tail = field.iter().skip(1).skip_while(|&&byte| byte == 0).count();
        if negative || tail > 8 || field[0] & 0x3f != 0 {
            return None;
        }
        return Some(field[1..].iter().fold(0, |sum, &byte| (sum << 8) | u64::from(byte)));
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

type PaxRecord<'a> = ((&'a [u8], &'a [u8]), &'a [u8]);

/// `LENGTH KEY=VALUE\n`, the length counting all of it.
fn pax_record(bytes: &[u8]) -> Option<PaxRecord<'_>> {
    let space = bytes.iter().position(|&byte| byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&byte| byte == b'=')?;
    Some(((&record[..equals], &record[equals + 1..]), &bytes[length..]))
}

/// A relative path without `.`; `None` when it is empty, too long, or leaves the archive.
fn clean(name: &[u8]) -> Option<String> {
    if name.len() > MAX_NAME {
        return None;
    }
    // A name that is no text is nothing that an image archive asks for.
    let text = String::from_utf8_lossy(name);
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => return None,
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Where a symbolic link of member `path` leads within the archive.
fn resolve(path: &str, target: &[u8]) -> Option<String> {
    let target = std::str::from_utf8(target).ok()?;
    if target.len() > MAX_NAME || target.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::archive::TarWriter;

    fn header(name: &[u8], kind: u8, size: &[u8; 12], link: &[u8]) -> Vec<u8> {
        let mut header = vec![0; BLOCK];
        header[..name.len()].copy_from_slice(name);
        header[124..136].copy_from_slice(size);
        header[148..156].fill(b' ');
        header[156] = kind;
        header[157..157 + link.len()].copy_from_slice(link);
        header[257..263].copy_from_slice(b"ustar\0");
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        header
    }

    fn members(bytes: &[u8]) -> Result<Vec<Member>, ArchiveError> {
        let mut reader = TarReader::new(bytes);
        let mut members = Vec::new();
        while let Some(member) = reader.next_member()? {
            members.push(member);
        }
        Ok(members)
    }

    #[test]
    fn reads_what_it_wrote() {
        let mut writer = TarWriter::new(Vec::new());
        writer.add_directory("blobs").unwrap();
        writer.add_bytes("blobs/a", b"hello").unwrap();
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(130));
        writer.add_bytes(&long, &[7; 1000]).unwrap();
        let bytes = writer.finish().unwrap();
        assert_eq!(bytes.len() % BLOCK, 0);
        let mut reader = TarReader::new(bytes.as_slice());
        assert_eq!(reader.next_member().unwrap().unwrap().kind, MemberKind::Directory);
        let member = reader.next_member().unwrap().unwrap();
        assert_eq!((member.path.as_str(), member.size), ("blobs/a", 5));
        let mut content = Vec::new();
        reader.read_to_end(&mut content).unwrap();
        assert_eq!(content, b"hello");
        assert_eq!(reader.next_member().unwrap().unwrap().path, long);
        assert_eq!(reader.next_member().unwrap(), None);
    }

    #[test]
    fn resolves_links_inside_and_refuses_those_outside() {
        let cases: [(&[u8], u8, &[u8], MemberKind); 6] = [
            (b"b/layer.tar", b'2', b"../a/layer.tar", MemberKind::Link("a/layer.tar".into())),
            (b"b/layer.tar", b'1', b"a/layer.tar", MemberKind::Link("a/layer.tar".into())),
            (b"b/layer.tar", b'2', b"../../../etc/shadow", MemberKind::Other),
            (b"b/layer.tar", b'2', b"/etc/shadow", MemberKind::Other),
            (b"b/layer.tar", b'1', b"../etc/shadow", MemberKind::Other),
            (b"null", b'3', b"", MemberKind::Other),
        ];
        for (name, kind, link, expected) in cases {
            let bytes = header(name, kind, b"00000000000\0", link);
            assert_eq!(members(&bytes).unwrap()[0].kind, expected, "{name:?} -> {link:?}");
        }
    }

    #[test]
    fn refuses_hostile_archives() {
        let cases: [(&str, Vec<u8>); 7] = [
            ("leaves the archive", header(b"../../etc/passwd", b'0', b"00000000000\0", b"")),
            ("within a header", vec![1; 100]),
            ("checksum", vec![b'1'; 512]),
            ("within a member", header(b"a", b'0', b"77777777777\0", b"")),
            ("out of range", {
                let mut size = [0xff; 12];
                size[0] = 0x80;
                size[1..4].fill(0);
                header(b"a", b'0', &size, b"")
            }),
            ("bytes in a name", header(b"a", b'L', b"77777777777\0", b"")),
            ("number in a header", header(b"a", b'0', b"not a number", b"")),
        ];
        for (expected, bytes) in cases {
            let error = members(&bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn an_absolute_name_stays_inside() {
        let bytes = header(b"/etc/passwd", b'0', b"00000000000\0", b"");
        assert_eq!(members(&bytes).unwrap()[0].path, "etc/passwd");
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            // An error is as good an answer as a list.
            drop(members(&bytes));
        }

        #[test]
        fn never_panics_behind_a_good_checksum(
            name in proptest::collection::vec(any::<u8>(), 0..100),
            kind: u8,
            size in proptest::array::uniform12(any::<u8>()),
            link in proptest::collection::vec(any::<u8>(), 0..100),
            tail in proptest::collection::vec(any::<u8>(), 0..1024),
        ) {
            let mut bytes = header(&name, kind, &size, &link);
            bytes.extend(tail);
            drop(members(&bytes));
        }
    }
}
