//! The file form: a header, a directory of sections, the sections (`docs/formats/table.md`).
//!
//! The container (magic, version, feature bits, sections with checksums) is shared with the
//! `digests` side file.

use std::{
    io::{self, Write},
    ops::Range,
};

use davit_image::{Algorithm, DiffId, Digest};
use davit_sys::map::Map;

use super::{Bytes, LayerFacts, Table, record::RECORD_SIZE, validate};
use crate::Extent;

const MAGIC: [u8; 8] = *b"davitTBL";
const VERSION: u32 = 1;
const HEADER_SIZE: usize = 48;
const SECTION_SIZE: usize = 32;
/// More than any version will have; bounds what a torn header makes us read.
const SECTIONS_MAX: usize = 64;
/// magic, facts: `{tar size u64, algorithm u32, zero u32, digest [u8; 64]}`.
const FACTS_SIZE: usize = 80;

const LAYER: u32 = 1;
const RECORDS: u32 = 2;
const NAMES: u32 = 3;
const EXTENTS: u32 = 4;
const XATTRS: u32 = 5;

/// Why a file is no table (or no side file of one) that this version can use.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// It cannot be mapped.
    #[error("cannot map the file")]
    Map(#[source] io::Error),
    /// It does not begin with the magic of the format.
    #[error("the file has another format")]
    Magic,
    /// It was written in a later version of the format.
    #[error("version {0} of the format is not known here")]
    Version(u32),
    /// It needs features that this version does not know.
    #[error("it needs unknown features {0:#x}")]
    Features(u32),
    /// Header, directory and file size do not fit together.
    #[error("the header is damaged: {0}")]
    Header(&'static str),
    /// A section that must be there is missing.
    #[error("section {0} is missing")]
    MissingSection(u32),
    /// A section's bytes are not those that were written.
    #[error("section {0} is damaged: its checksum differs")]
    Checksum(u32),
    /// A record breaks a rule of the format.
    #[error("record {index} is damaged: {fault}")]
    Record {
        /// Its position.
        index: u32,
        /// The rule.
        fault: &'static str,
    },
}

/// A section to write: its number and its pieces.
pub(crate) struct Section<'a> {
    pub(crate) number: u32,
    pub(crate) bytes: &'a [u8],
}

/// What is common to the files beside a tar: where each section lies.
pub(crate) struct Sections(Vec<(u32, Range<usize>)>);

impl Sections {
    /// Reads and checks header, directory and the checksum of each section.
    pub(crate) fn parse(bytes: &[u8], magic: [u8; 8]) -> Result<Self, TableError> {
        let header = bytes.get(..HEADER_SIZE).ok_or(TableError::Header("it is too short"))?;
        if header[..8] != magic {
            return Err(TableError::Magic);
        }
        if word(header, 8) != VERSION {
            return Err(TableError::Version(word(header, 8)));
        }
        let count = word(header, 20) as usize;
        if count > SECTIONS_MAX {
            return Err(TableError::Header("it has too many sections"));
        }
        let directory_end = HEADER_SIZE + count * SECTION_SIZE;
        let directory =
            bytes.get(HEADER_SIZE..directory_end).ok_or(TableError::Header("it is cut off"))?;
        if word(header, 32) != checksum_of_header(header, directory) {
            return Err(TableError::Header("its checksum differs"));
        }
        if word(header, 16) != 0 {
            return Err(TableError::Features(word(header, 16)));
        }
        if long(header, 24) != bytes.len() as u64 {
            return Err(TableError::Header("the file has another size"));
        }
        let mut sections = Vec::with_capacity(count);
        let mut end = directory_end as u64;
        for item in directory.chunks_exact(SECTION_SIZE) {
            let range = section_range(item, end, bytes.len())?;
            end = range.end as u64;
            if crc32c::crc32c(&bytes[range.clone()]) != word(item, 24) {
                return Err(TableError::Checksum(word(item, 0)));
            }
            sections.push((word(item, 0), range));
        }
        Ok(Self(sections))
    }

    /// The section of `number`; unknown ones are skipped, a known one may stand only once.
    pub(crate) fn get(&self, number: u32) -> Result<Range<usize>, TableError> {
        let mut found = self.0.iter().filter(|(name, _)| *name == number);
        match (found.next(), found.next()) {
            (Some((_, range)), None) => Ok(range.clone()),
            (None, _) => Err(TableError::MissingSection(number)),
            (Some(_), Some(_)) => Err(TableError::Header("a section stands twice")),
        }
    }

    /// Writes a whole file.
    pub(crate) fn write(
        magic: [u8; 8],
        sections: &[Section<'_>],
        sink: &mut dyn Write,
    ) -> io::Result<()> {
        let mut directory = Vec::with_capacity(sections.len() * SECTION_SIZE);
        let mut offset = align(HEADER_SIZE + sections.len() * SECTION_SIZE);
        for section in sections {
            directory.extend_from_slice(&section.number.to_le_bytes());
            directory.extend_from_slice(&[0; 4]);
            directory.extend_from_slice(&(offset as u64).to_le_bytes());
            directory.extend_from_slice(&(section.bytes.len() as u64).to_le_bytes());
            directory.extend_from_slice(&crc32c::crc32c(section.bytes).to_le_bytes());
            directory.extend_from_slice(&[0; 4]);
            offset = align(offset + section.bytes.len());
        }
        let mut header = Vec::with_capacity(HEADER_SIZE);
        header.extend_from_slice(&magic);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&[0; 8]);
        let count = u32::try_from(sections.len()).expect("there are a handful of sections");
        header.extend_from_slice(&count.to_le_bytes());
        header.extend_from_slice(&(offset as u64).to_le_bytes());
        header.extend_from_slice(&[0; 16]);
        let checksum = checksum_of_header(&header, &directory);
        header[32..36].copy_from_slice(&checksum.to_le_bytes());
        sink.write_all(&header)?;
        sink.write_all(&directory)?;
        let written = header.len() + directory.len();
        sink.write_all(&[0; 8][..align(written) - written])?;
        for section in sections {
            sink.write_all(section.bytes)?;
            let length = section.bytes.len();
            sink.write_all(&[0; 8][..align(length) - length])?;
        }
        Ok(())
    }
}

/// Sections stand in file order, 8-aligned and apart, so that none aliases another.
fn section_range(item: &[u8], after: u64, size: usize) -> Result<Range<usize>, TableError> {
    let (offset, length) = (long(item, 8), long(item, 16));
    let end = offset.checked_add(length).filter(|end| *end <= size as u64);
    let fault = TableError::Header("a section lies outside the file");
    let end = end.ok_or(fault)?;
    if offset < after || offset % 8 != 0 {
        return Err(TableError::Header("a section lies on another"));
    }
    let fits = "a position inside a mapped file fits";
    Ok(usize::try_from(offset).expect(fits)..usize::try_from(end).expect(fits))
}

fn checksum_of_header(header: &[u8], directory: &[u8]) -> u32 {
    let before = crc32c::crc32c(&header[..32]);
    crc32c::crc32c_append(crc32c::crc32c_append(before, &header[36..]), directory)
}

const fn align(size: usize) -> usize {
    size.next_multiple_of(8)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were taken"))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were taken"))
}

pub(super) fn open(map: Map) -> Result<Table, TableError> {
    let sections = Sections::parse(&map, MAGIC)?;
    let facts = decode_facts(&map[sections.get(LAYER)?])?;
    let table = Table {
        facts,
        records: Bytes::Mapped(sections.get(RECORDS)?),
        names: Bytes::Mapped(sections.get(NAMES)?),
        extents: Bytes::Mapped(sections.get(EXTENTS)?),
        xattrs: Bytes::Mapped(sections.get(XATTRS)?),
        map: Some(map),
    };
    if !table.bytes(&table.records).len().is_multiple_of(RECORD_SIZE)
        || !table.bytes(&table.extents).len().is_multiple_of(Extent::PACKED_SIZE)
    {
        return Err(TableError::Header("a section holds a part of a record"));
    }
    validate::check(&table)?;
    Ok(table)
}

pub(super) fn write(table: &Table, sink: &mut dyn Write) -> io::Result<()> {
    let facts = encode_facts(table.facts);
    let section = |number, bytes| Section { number, bytes };
    let sections = [
        section(LAYER, &facts[..]),
        section(RECORDS, table.bytes(&table.records)),
        section(NAMES, table.bytes(&table.names)),
        section(EXTENTS, table.bytes(&table.extents)),
        section(XATTRS, table.bytes(&table.xattrs)),
    ];
    Sections::write(MAGIC, &sections, sink)
}

pub(crate) fn encode_facts(facts: LayerFacts) -> [u8; FACTS_SIZE] {
    let digest = facts.diff_id.digest();
    let mut bytes = [0; FACTS_SIZE];
    bytes[..8].copy_from_slice(&facts.tar_size.to_le_bytes());
    bytes[8..12].copy_from_slice(&algorithm_code(digest.algorithm()).to_le_bytes());
    bytes[16..16 + digest.bytes().len()].copy_from_slice(digest.bytes());
    bytes
}

pub(crate) fn decode_facts(bytes: &[u8]) -> Result<LayerFacts, TableError> {
    let fault = TableError::Header("it names no layer");
    if bytes.len() != FACTS_SIZE {
        return Err(fault);
    }
    let digest = match word(bytes, 8) {
        1 => Digest::from_sha256(bytes[16..48].try_into().expect("32 bytes were taken")),
        2 => Digest::from_sha512(bytes[16..80].try_into().expect("64 bytes were taken")),
        _ => return Err(fault),
    };
    Ok(LayerFacts { diff_id: DiffId::new(digest), tar_size: long(bytes, 0) })
}

const fn algorithm_code(algorithm: Algorithm) -> u32 {
    match algorithm {
        Algorithm::Sha256 => 1,
        Algorithm::Sha512 => 2,
    }
}
