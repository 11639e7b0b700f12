//! One entry of a layer, as a view into a [`Table`](crate::Table) or as given to a writer.

use std::{collections::BTreeMap, fmt};

/// Extended attributes by name, sorted; the owned form of [`Xattrs`].
pub type XattrMap = BTreeMap<Vec<u8>, Vec<u8>>;

/// An entry of a layer: one path and what lies there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Path without a leading slash, in the form of [`path::normalize`](crate::path::normalize);
    /// `""` is the root.
    pub path: &'a [u8],
    /// Type and what only that type has.
    pub kind: Kind<'a>,
    /// Permission, set-id and sticky bits: `0o7777` at most.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification.
    pub mtime: Mtime,
    /// Extended attributes.
    pub xattrs: Xattrs<'a>,
}

/// The type of an [`Entry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A regular file.
    File {
        /// Length of the content in bytes, holes included.
        size: u64,
        /// Where the content lies in the tar; what no extent covers reads as zeros.
        extents: Extents<'a>,
    },
    /// A directory.
    Directory {
        /// It hides what the layers below hold in this directory.
        opaque: bool,
        /// The layer has no entry for it, only for something in it: the metadata is that of the
        /// layers below (here: 0755, 0:0, the epoch).
        implied: bool,
    },
    /// A symbolic link.
    Symlink {
        /// Its target, as it stands.
        target: &'a [u8],
    },
    /// A further name of a file (or device, or symlink) whose other fields are those of the target.
    HardLink {
        /// Path of the target, never itself a hard link when it lies in the same table.
        target: &'a [u8],
        /// The target's position in the same table; `None`: it lies in a layer below.
        index: Option<u32>,
    },
    /// A character device.
    CharDevice {
        /// Major number, below 2^12.
        major: u32,
        /// Minor number, below 2^20.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number, below 2^12.
        major: u32,
        /// Minor number, below 2^20.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// What the layers below hold at this path is gone.
    Whiteout,
}

impl Kind<'_> {
    /// Whether this is a directory.
    #[must_use]
    pub const fn is_directory(&self) -> bool {
        matches!(self, Self::Directory { .. })
    }

    /// Whether this is a whiteout.
    #[must_use]
    pub const fn is_whiteout(&self) -> bool {
        matches!(self, Self::Whiteout)
    }

    /// Content length of a regular file, else 0.
    #[must_use]
    pub const fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } => *size,
            _ => 0,
        }
    }
}

impl<'a> Entry<'a> {
    /// A plain entry: no xattrs, owner 0:0, modified at the epoch.
    #[must_use]
    pub const fn new(path: &'a [u8], kind: Kind<'a>, mode: u16) -> Self {
        Self { path, kind, mode, uid: 0, gid: 0, mtime: Mtime::EPOCH, xattrs: Xattrs::NONE }
    }

    /// A directory that is only implied by what lies in it.
    #[must_use]
    pub const fn implied(path: &'a [u8]) -> Self {
        Self::new(path, Kind::Directory { opaque: false, implied: true }, 0o755)
    }

    /// A whiteout of `path`.
    #[must_use]
    pub const fn whiteout(path: &'a [u8]) -> Self {
        Self::new(path, Kind::Whiteout, 0)
    }
}

impl fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("path", &String::from_utf8_lossy(self.path))
            .field("kind", &self.kind)
            .field("mode", &format_args!("{:#o}", self.mode))
            .field("owner", &format_args!("{}:{}", self.uid, self.gid))
            .field("mtime", &self.mtime)
            .field("xattrs", &self.xattrs)
            .finish()
    }
}

/// A time of last modification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mtime {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds after `seconds`, below 10^9.
    pub nanoseconds: u32,
}

impl Mtime {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self { seconds: 0, nanoseconds: 0 };

    /// A whole second.
    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Self {
        Self { seconds, nanoseconds: 0 }
    }
}

/// A run of a file's content inside the layer's tar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where the run stands in the file.
    pub file_offset: u64,
    /// Where it stands in the tar.
    pub tar_offset: u64,
    /// Its length in bytes, never 0.
    pub length: u64,
}

impl Extent {
    pub(crate) const PACKED_SIZE: usize = 24;

    pub(crate) fn unpack(bytes: &[u8]) -> Self {
        let word = |at: usize| {
            let bytes = bytes[at..at + 8].try_into().expect("eight bytes were taken");
            u64::from_le_bytes(bytes)
        };
        Self { file_offset: word(0), tar_offset: word(8), length: word(16) }
    }

    pub(crate) fn pack(&self, into: &mut Vec<u8>) {
        for word in [self.file_offset, self.tar_offset, self.length] {
            into.extend_from_slice(&word.to_le_bytes());
        }
    }
}

/// The extents of a file, in file order and disjoint. Most files have one or, if empty, none.
#[derive(Clone, Copy)]
pub struct Extents<'a>(ExtentsForm<'a>);

#[derive(Clone, Copy)]
enum ExtentsForm<'a> {
    One(Extent),
    Slice(&'a [Extent]),
    Packed(&'a [u8]),
}

impl<'a> Extents<'a> {
    /// No extent: an empty file, or one big hole.
    pub const NONE: Self = Self(ExtentsForm::Slice(&[]));

    /// The extents of a file stored in one piece at `tar_offset`.
    #[must_use]
    pub const fn contiguous(tar_offset: u64, length: u64) -> Self {
        match length {
            0 => Self::NONE,
            _ => Self(ExtentsForm::One(Extent { file_offset: 0, tar_offset, length })),
        }
    }

    /// Views extents that are in file order and disjoint.
    #[must_use]
    pub const fn from_slice(extents: &'a [Extent]) -> Self {
        Self(ExtentsForm::Slice(extents))
    }

    pub(crate) const fn packed(bytes: &'a [u8]) -> Self {
        Self(ExtentsForm::Packed(bytes))
    }

    /// Their number.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self.0 {
            ExtentsForm::One(_) => 1,
            ExtentsForm::Slice(extents) => extents.len(),
            ExtentsForm::Packed(bytes) => bytes.len() / Extent::PACKED_SIZE,
        }
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The extent at `position`, counted in file order.
    #[must_use]
    pub fn get(&self, position: usize) -> Option<Extent> {
        match self.0 {
            ExtentsForm::One(extent) => (position == 0).then_some(extent),
            ExtentsForm::Slice(extents) => extents.get(position).copied(),
            ExtentsForm::Packed(bytes) => {
                bytes.chunks_exact(Extent::PACKED_SIZE).nth(position).map(Extent::unpack)
            }
        }
    }

    /// All extents in file order.
    pub fn iter(self) -> impl Iterator<Item = Extent> + 'a {
        (0..self.len()).filter_map(move |position| self.get(position))
    }

    /// If the file of `size` bytes is stored in one piece without holes: where it begins in the
    /// tar. An empty file begins at 0.
    #[must_use]
    pub fn as_contiguous(&self, size: u64) -> Option<u64> {
        if size == 0 {
            return Some(0);
        }
        let first = self.get(0)?;
        (self.len() == 1 && first.file_offset == 0 && first.length == size)
            .then_some(first.tar_offset)
    }
}

impl PartialEq for Extents<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Extents<'_> {}

impl fmt::Debug for Extents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Extended attributes of an entry, sorted by name, each name once.
#[derive(Clone, Copy)]
pub struct Xattrs<'a>(XattrsForm<'a>);

#[derive(Clone, Copy)]
enum XattrsForm<'a> {
    Map(&'a XattrMap),
    /// `{name length u16, value length u32, name, value}` …
    Packed(&'a [u8]),
}

impl<'a> Xattrs<'a> {
    /// No attribute.
    pub const NONE: Self = Self(XattrsForm::Packed(&[]));

    pub(crate) const fn packed(bytes: &'a [u8]) -> Self {
        Self(XattrsForm::Packed(bytes))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self.0 {
            XattrsForm::Map(map) => map.is_empty(),
            XattrsForm::Packed(bytes) => bytes.is_empty(),
        }
    }

    /// Name and value of each, sorted by name.
    #[must_use]
    pub fn iter(self) -> XattrIter<'a> {
        XattrIter(match self.0 {
            XattrsForm::Map(map) => XattrIterForm::Map(map.iter()),
            XattrsForm::Packed(bytes) => XattrIterForm::Packed(bytes),
        })
    }

    /// The value of `name`.
    #[must_use]
    pub fn get(self, name: &[u8]) -> Option<&'a [u8]> {
        self.iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// Copies them.
    #[must_use]
    pub fn to_map(self) -> XattrMap {
        self.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
    }

    /// Appends the packed form. The lengths fit: the builder checks them before.
    pub(crate) fn pack(self, into: &mut Vec<u8>) {
        for (name, value) in self.iter() {
            let name_length = u16::try_from(name.len()).expect("names of xattrs are short");
            let value_length = u32::try_from(value.len()).expect("values of xattrs are short");
            into.extend_from_slice(&name_length.to_le_bytes());
            into.extend_from_slice(&value_length.to_le_bytes());
            into.extend_from_slice(name);
            into.extend_from_slice(value);
        }
    }
}

impl<'a> From<&'a XattrMap> for Xattrs<'a> {
    fn from(map: &'a XattrMap) -> Self {
        Self(XattrsForm::Map(map))
    }
}

impl PartialEq for Xattrs<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Xattrs<'_> {}

impl fmt::Debug for Xattrs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lossy = |bytes| String::from_utf8_lossy(bytes).into_owned();
        f.debug_map().entries(self.iter().map(|(name, value)| (lossy(name), lossy(value)))).finish()
    }
}

/// Iterates over [`Xattrs`].
#[derive(Clone, Debug)]
pub struct XattrIter<'a>(XattrIterForm<'a>);

#[derive(Clone, Debug)]
enum XattrIterForm<'a> {
    Map(std::collections::btree_map::Iter<'a, Vec<u8>, Vec<u8>>),
    Packed(&'a [u8]),
}

impl<'a> Iterator for XattrIter<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            XattrIterForm::Map(iter) => {
                iter.next().map(|(name, value)| (name.as_slice(), value.as_slice()))
            }
            XattrIterForm::Packed(bytes) => {
                let (item, rest) = unpack_xattr(bytes)?;
                *bytes = rest;
                Some(item)
            }
        }
    }
}

type XattrAndRest<'a> = ((&'a [u8], &'a [u8]), &'a [u8]);

/// Takes one attribute off the packed form; `None` at the end or at a malformed one.
pub(crate) fn unpack_xattr(bytes: &[u8]) -> Option<XattrAndRest<'_>> {
    let (head, rest) = bytes.split_at_checked(6)?;
    let name_length = usize::from(u16::from_le_bytes([head[0], head[1]]));
    let value_length = u32::from_le_bytes([head[2], head[3], head[4], head[5]]);
    let (name, rest) = rest.split_at_checked(name_length)?;
    let (value, rest) = rest.split_at_checked(usize::try_from(value_length).ok()?)?;
    Some(((name, value), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_equal_in_every_form() {
        let extent = Extent { file_offset: 0, tar_offset: 512, length: 7 };
        let mut packed = Vec::new();
        extent.pack(&mut packed);
        let one = Extents::contiguous(512, 7);
        assert_eq!(one, Extents::from_slice(&[extent]));
        assert_eq!(one, Extents::packed(&packed));
        assert_eq!(one.as_contiguous(7), Some(512));
        assert_eq!(one.as_contiguous(8), None);
        assert_eq!(Extents::NONE.as_contiguous(0), Some(0));
        assert_eq!(Extents::contiguous(512, 0), Extents::NONE);
    }

    #[test]
    fn xattrs_are_equal_in_every_form() {
        let map = XattrMap::from([
            (b"user.b".to_vec(), b"2".to_vec()),
            (b"security.capability".to_vec(), vec![0, 1, 0xff]),
        ]);
        let view = Xattrs::from(&map);
        let mut packed = Vec::new();
        view.pack(&mut packed);
        assert_eq!(view, Xattrs::packed(&packed));
        assert_eq!(Xattrs::packed(&packed).get(b"user.b"), Some(&b"2"[..]));
        assert_eq!(Xattrs::packed(&packed).to_map(), map);
        assert!(Xattrs::NONE.is_empty() && !view.is_empty());
    }
}
