//! The table of a layer: its entries, sorted, each path once.
//!
//! A [`Table`] is what the tools know of a layer: trees, `COPY --from`, diffs and scans read it
//! instead of the tar. It is made once by a [`TableBuilder`] while the tar is read or written, lies
//! beside it as the file `table` (`docs/formats/table.md`), and is mapped into memory afterwards.
//!
//! Guaranteed for every table, also for one read from a file:
//! - paths are sorted by [`path::compare`], each once; entry 0 is the root;
//! - every entry's parent is in the table and is a directory (perhaps an *implied* one);
//! - a hard link within the layer names an entry that is neither link, directory nor whiteout;
//! - every extent lies inside the tar and inside its file.

mod build;
mod file;
mod record;
mod rules;
mod validate;

use std::{cmp::Ordering, fmt, fs::File, io::Write, ops::Range};

use davit_image::DiffId;
use davit_sys::map::Map;

pub use self::{
    build::{BuildError, TableBuilder, TableLimits, Visibility},
    file::TableError,
};
pub(crate) use build::{follow, is_allowed_xattr, printable};
pub(crate) use file::{Section, Sections, decode_facts, encode_facts};

use crate::{
    Entry, Extents, Kind, Mtime, Xattrs, path,
    table::record::{NO_RECORD, RECORD_SIZE, Record, flag, kind},
};

/// The entries of one layer, in memory or mapped from its file.
pub struct Table {
    facts: LayerFacts,
    map: Option<Map>,
    records: Bytes,
    names: Bytes,
    extents: Bytes,
    xattrs: Bytes,
}

/// What a table knows of the layer as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerFacts {
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// Length of the tar in bytes.
    pub tar_size: u64,
}

/// Bytes of a section: owned, or a range of the map.
enum Bytes {
    Owned(Vec<u8>),
    Mapped(Range<usize>),
}

impl Table {
    /// Maps and checks the table in `file`; its cost is one pass over it.
    ///
    /// # Errors
    /// [`TableError`] if the file cannot be mapped, is of another version, or breaks any rule of
    /// the format.
    pub fn open(file: &File) -> Result<Self, TableError> {
        file::open(Map::read_only(file).map_err(TableError::Map)?)
    }

    /// Writes the file form; [`Table::open`] reads it.
    ///
    /// # Errors
    /// What `sink` reports.
    pub fn write_to(&self, sink: &mut dyn Write) -> std::io::Result<()> {
        file::write(self, sink)
    }

    /// Lets go of the memory of a mapped table; what is looked at again is mapped again. For long
    /// passes over large tables, whose pages would all stay otherwise.
    pub fn release_memory(&self) {
        if let Some(map) = &self.map {
            map.release();
        }
    }

    /// What it knows of the layer as a whole.
    #[must_use]
    pub const fn facts(&self) -> LayerFacts {
        self.facts
    }

    /// Number of entries; at least 1, the root.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes(&self.records).len() / RECORD_SIZE
    }

    /// Whether nothing but the implied root is there: a layer that changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 1
            && matches!(self.at(0).kind, Kind::Directory { opaque: false, implied: true })
    }

    /// The entry at `index`.
    ///
    /// # Panics
    /// If `index` is not below [`Table::len`].
    #[must_use]
    pub fn at(&self, index: u32) -> Entry<'_> {
        let record = self.record(index);
        Entry {
            path: self.path_of(&record),
            kind: self.kind_of(&record),
            mode: record.mode,
            uid: record.uid,
            gid: record.gid,
            mtime: Mtime { seconds: record.seconds, nanoseconds: record.nanoseconds },
            xattrs: self.xattrs_of(&record),
        }
    }

    /// The path of the entry at `index`; cheaper than the whole entry.
    ///
    /// # Panics
    /// If `index` is not below [`Table::len`].
    #[must_use]
    pub fn path_at(&self, index: u32) -> &[u8] {
        self.path_of(&self.record(index))
    }

    /// The position of `path`, or where it would stand.
    ///
    /// # Errors
    /// The position of the first entry behind `path`.
    pub fn position(&self, path: &[u8]) -> Result<u32, u32> {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = low + (high - low) / 2;
            match path::compare(self.path_at(middle), path) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// The entry at `path`.
    #[must_use]
    pub fn get(&self, path: &[u8]) -> Option<Entry<'_>> {
        self.position(path).ok().map(|index| self.at(index))
    }

    /// All entries in order, the root first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Entry<'_>> + ExactSizeIterator {
        (0..self.count() as usize).map(|index| self.at(index_u32(index)))
    }

    /// Positions of everything below the directory at `index`; empty for anything else.
    #[must_use]
    pub fn descendants(&self, index: u32) -> Range<u32> {
        let record = self.record(index);
        if record.is_directory() { index + 1..record.link } else { index + 1..index + 1 }
    }

    /// Positions of the direct children of the directory at `index`, in order.
    pub fn children(&self, index: u32) -> impl Iterator<Item = u32> + '_ {
        let Range { start: mut next, end } = self.descendants(index);
        std::iter::from_fn(move || {
            let child = (next < end).then_some(next)?;
            next = self.descendants(child).end;
            Some(child)
        })
    }

    fn count(&self) -> u32 {
        index_u32(self.len())
    }

    fn bytes<'a>(&'a self, bytes: &'a Bytes) -> &'a [u8] {
        match (bytes, &self.map) {
            (Bytes::Owned(bytes), _) => bytes,
            (Bytes::Mapped(range), Some(map)) => &map[range.clone()],
            (Bytes::Mapped(_), None) => &[],
        }
    }

    fn record(&self, index: u32) -> Record {
        let start = index as usize * RECORD_SIZE;
        let bytes = &self.bytes(&self.records)[start..start + RECORD_SIZE];
        Record::decode(bytes.try_into().expect("the slice has a record's size"))
    }

    fn name(&self, offset: u64, length: u16) -> &[u8] {
        let start = usize::try_from(offset).expect("offsets were checked");
        &self.bytes(&self.names)[start..start + usize::from(length)]
    }

    fn path_of(&self, record: &Record) -> &[u8] {
        self.name(record.path_offset.into(), record.path_length)
    }

    fn xattrs_of(&self, record: &Record) -> Xattrs<'_> {
        let start = record.xattr_offset as usize;
        Xattrs::packed(&self.bytes(&self.xattrs)[start..start + record.xattr_length as usize])
    }

    fn extents_of(&self, record: &Record) -> Extents<'_> {
        if !record.has(flag::SPARSE) {
            return Extents::contiguous(record.data, record.size);
        }
        let (first, count) = record.extent_run();
        let size = crate::Extent::PACKED_SIZE;
        let start = first as usize * size;
        Extents::packed(&self.bytes(&self.extents)[start..start + count as usize * size])
    }

    fn kind_of(&self, record: &Record) -> Kind<'_> {
        let (major, minor) = record.device();
        match record.kind {
            kind::FILE => Kind::File { size: record.size, extents: self.extents_of(record) },
            kind::DIRECTORY => Kind::Directory {
                opaque: record.has(flag::OPAQUE),
                implied: record.has(flag::IMPLIED),
            },
            kind::SYMLINK => Kind::Symlink { target: self.name(record.data, record.target_length) },
            kind::HARD_LINK => Kind::HardLink {
                target: self.name(record.data, record.target_length),
                index: (record.link != NO_RECORD).then_some(record.link),
            },
            kind::CHAR_DEVICE => Kind::CharDevice { major, minor },
            kind::BLOCK_DEVICE => Kind::BlockDevice { major, minor },
            kind::FIFO => Kind::Fifo,
            _ => Kind::Whiteout,
        }
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("facts", &self.facts).field("len", &self.len()).finish()
    }
}

/// A position as records hold it; tables never grow beyond.
fn index_u32(index: usize) -> u32 {
    u32::try_from(index).expect("the number of entries is bounded far below 2^32")
}
