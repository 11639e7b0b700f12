//! The `digests` side file: content digests of a layer's files, made when first needed.
//!
//! It has the container of the table's file (`docs/formats/digests.md`) and names the table that it
//! belongs to by DiffID and number of entries; positions are those of the table.

use std::{
    fs::File,
    io::{self, Write},
};

use davit_image::{Algorithm, Digest, Digester};
use davit_sys::map::Map;

use crate::{
    Kind, Table, TableError,
    table::{Section, Sections, decode_facts, encode_facts},
    write::read_extents,
};

const MAGIC: [u8; 8] = *b"davitDIG";
const LAYER: u32 = 1;
const DIGESTS: u32 = 2;
/// Algorithm and number of entries: `{algorithm u32, count u32}`.
const SHAPE: u32 = 3;
const SHA256: u32 = 1;
const DIGEST_SIZE: usize = 32;
/// Files are read in pieces of this size.
const PIECE: usize = 256 << 10;

/// SHA-256 of the content of each regular file of a layer, holes as zeros.
#[derive(Debug, PartialEq, Eq)]
pub struct Digests {
    /// One for each entry; zeros where the entry is no file.
    digests: Vec<u8>,
}

impl Digests {
    /// Digests all files of a layer: one pass over the tar, in the tar's order.
    ///
    /// # Errors
    /// What reading `tar` reports.
    pub fn compute(table: &Table, tar: &File) -> io::Result<Self> {
        let mut digests = vec![0; table.len() * DIGEST_SIZE];
        let mut files: Vec<(u64, usize)> = Vec::new();
        for (index, entry) in table.iter().enumerate() {
            if let Kind::File { extents, .. } = entry.kind {
                files.push((extents.get(0).map_or(0, |extent| extent.tar_offset), index));
            }
        }
        files.sort_unstable();
        let mut buffer = vec![0; PIECE];
        for (_, index) in files {
            let entry = table.at(u32::try_from(index).expect("positions are u32"));
            let digest = digest_file(&entry.kind, tar, &mut buffer)?;
            digests[index * DIGEST_SIZE..][..DIGEST_SIZE].copy_from_slice(digest.bytes());
        }
        Ok(Self { digests })
    }

    /// Puts digests together that are known already: `digest_of` is asked for each regular file, in
    /// the order of the table. `None` if it does not know one.
    #[must_use]
    pub fn known(
        table: &Table,
        mut digest_of: impl FnMut(&[u8]) -> Option<[u8; DIGEST_SIZE]>,
    ) -> Option<Self> {
        let mut digests = vec![0; table.len() * DIGEST_SIZE];
        for (entry, digest) in table.iter().zip(digests.chunks_exact_mut(DIGEST_SIZE)) {
            if let Kind::File { .. } = entry.kind {
                digest.copy_from_slice(&digest_of(entry.path)?);
            }
        }
        Some(Self { digests })
    }

    /// Reads and checks the file form, which must belong to `table`.
    ///
    /// # Errors
    /// [`TableError`] if it does not, or is damaged.
    pub fn open(file: &File, table: &Table) -> Result<Self, TableError> {
        let map = Map::read_only(file).map_err(TableError::Map)?;
        let sections = Sections::parse(&map, MAGIC)?;
        let facts = decode_facts(&map[sections.get(LAYER)?])?;
        let shape = &map[sections.get(SHAPE)?];
        let digests = map[sections.get(DIGESTS)?].to_vec();
        if facts != table.facts() || shape != shape_of(table) {
            return Err(TableError::Header("it belongs to another table"));
        }
        if digests.len() != table.len() * DIGEST_SIZE {
            return Err(TableError::Header("it has another number of digests than it says"));
        }
        Ok(Self { digests })
    }

    /// Writes the file form for `table`, the one that was digested.
    ///
    /// # Errors
    /// What `sink` reports.
    pub fn write_to(&self, table: &Table, sink: &mut dyn Write) -> io::Result<()> {
        let facts = encode_facts(table.facts());
        let shape = shape_of(table);
        let section = |number, bytes| Section { number, bytes };
        let sections =
            [section(LAYER, &facts[..]), section(SHAPE, &shape), section(DIGESTS, &self.digests)];
        Sections::write(MAGIC, &sections, sink)
    }

    /// The digest of the file at `index` of `table`; a hard link within the layer has that of its
    /// target. `None` for anything else.
    #[must_use]
    pub fn get(&self, table: &Table, index: u32) -> Option<Digest> {
        let file = match table.at(index).kind {
            Kind::File { .. } => index,
            Kind::HardLink { index: Some(target), .. } => return self.get(table, target),
            _ => return None,
        };
        let bytes = self.digests.get(file as usize * DIGEST_SIZE..)?.first_chunk()?;
        Some(Digest::from_sha256(*bytes))
    }
}

/// Digests the content of one file of a layer; holes count as zeros. `None` for anything else.
///
/// # Errors
/// What reading `tar` reports.
pub fn digest_content(kind: &Kind<'_>, tar: &File) -> io::Result<Option<Digest>> {
    match kind {
        Kind::File { .. } => digest_file(kind, tar, &mut vec![0; PIECE]).map(Some),
        _ => Ok(None),
    }
}

fn digest_file(kind: &Kind<'_>, tar: &File, buffer: &mut [u8]) -> io::Result<Digest> {
    let Kind::File { size, extents } = kind else { return Ok(Digest::of(b"")) };
    let extents: Vec<_> = extents.iter().collect();
    let mut digester = Digester::new(Algorithm::Sha256);
    let mut offset = 0;
    while offset < *size {
        let left = *size - offset;
        let length = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let piece = &mut buffer[..length];
        piece.fill(0);
        read_extents(tar, &extents, offset, piece)?;
        digester.update(piece);
        offset += length as u64;
    }
    Ok(digester.finish())
}

fn shape_of(table: &Table) -> [u8; 8] {
    let count = u32::try_from(table.len()).expect("positions are u32");
    let mut shape = [0; 8];
    shape[..4].copy_from_slice(&SHA256.to_le_bytes());
    shape[4..].copy_from_slice(&count.to_le_bytes());
    shape
}
