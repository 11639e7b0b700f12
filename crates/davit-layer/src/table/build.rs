//! Collecting entries in the order in which an archive holds them.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use super::{
    LayerFacts, Table,
    record::{NO_RECORD, Record, flag, kind},
    rules,
};
use crate::{
    Entry, Extent, Kind, Xattrs,
    path::{self, PathError, PathLimits},
};

/// Bounds on what a table may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableLimits {
    /// Most entries, those included that later ones replace.
    pub entries: u32,
    /// Most extents of all sparse files together.
    pub extents: u32,
    /// Most bytes of paths and link targets together.
    pub name_bytes: u32,
    /// Most bytes of xattrs together.
    pub xattr_bytes: u32,
    /// Bounds on each path.
    pub path: PathLimits,
}

impl Default for TableLimits {
    fn default() -> Self {
        Self {
            entries: 2_000_000,
            extents: 4_000_000,
            name_bytes: 1 << 30,
            xattr_bytes: 1 << 28,
            path: PathLimits::default(),
        }
    }
}

/// Why entries do not make a table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A limit of [`TableLimits`] was passed.
    #[error("the layer has more than {limit} {what}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A name cannot stand in a layer.
    #[error("`{path}` cannot be a name in a layer: {fault}")]
    Path {
        /// The name, made printable.
        path: String,
        /// What is wrong with it.
        #[source]
        fault: PathError,
    },
    /// The root is something else than a directory.
    #[error("the root of the layer is no directory")]
    Root,
    /// Something lies below a path that is no directory.
    #[error("`{path}` lies below something that is no directory")]
    NotADirectory {
        /// The lower path.
        path: String,
    },
    /// A link is malformed.
    #[error("`{path}` is a link that cannot be made: {fault}")]
    Link {
        /// The link.
        path: String,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// A device number is out of range, or is 0:0, the mark of a whiteout.
    #[error("`{path}` has the device number {major}:{minor}, which no layer may hold")]
    Device {
        /// The device.
        path: String,
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// An xattr is larger than file systems allow.
    #[error("`{path}` has an extended attribute that is too large")]
    Xattr {
        /// The entry.
        path: String,
    },
    /// Extents overlap or end outside their file.
    #[error("`{path}` has a malformed map of its content")]
    Extents {
        /// The file.
        path: String,
    },
}

/// Longest target of a symlink in bytes (Linux `PATH_MAX` less the NUL).
const TARGET_MAX: usize = 4095;
/// Longest name of an xattr (Linux `XATTR_NAME_MAX`).
const XATTR_NAME_MAX: usize = 255;
/// Longest value of an xattr that EROFS stores; one byte below Linux' `XATTR_SIZE_MAX`.
const XATTR_VALUE_MAX: usize = 65_535;
/// Most bytes of xattrs of one entry that EROFS stores.
const XATTRS_MAX: usize = 262_148;
/// Most symlinks that one path may pass through.
const FOLLOW_MAX: u32 = 40;

/// Collects the entries of a layer, in archive order, and makes its [`Table`].
///
/// The rules for entries that meet (image-spec `layer.md`, and what extractors make of them):
/// - a later entry replaces an earlier one at the same path, but a directory over a directory only
///   renews the metadata; whatever a replaced directory held is gone, and a directory that comes
///   after something else at its path hides the layers below (opaque);
/// - a whiteout, or opaque mark, touches only the layers below, wherever it stands: beside an entry
///   at its path it vanishes, and makes a directory opaque; a directory that only entries below it
///   imply is then a new one, not implied (mode 0755, owner 0:0, mtime 0);
/// - a parent that has no entry is implied; a parent that is a symlink *of this layer* is followed
///   inside the root;
/// - a hard link names what its target was at that place in the archive, else what comes to stand
///   there later, else (no such path here) something in a layer below.
#[derive(Debug)]
pub struct TableBuilder {
    pub(super) limits: TableLimits,
    pub(super) records: Vec<Record>,
    pub(super) names: Vec<u8>,
    pub(super) extents: Vec<u8>,
    pub(super) xattrs: Vec<u8>,
    symlinks: SymlinkSet,
}

/// The symlinks among the entries so far.
#[derive(Debug, Default)]
struct SymlinkSet {
    hasher: RandomState,
    /// Hash of the path to the newest record there; the record's path confirms it.
    by_path: HashMap<u64, u32>,
    /// A parent that was found to pass through no symlink.
    clean_parent: Vec<u8>,
}

/// Where an entry belongs in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// In the tree.
    Visible,
    /// Nowhere: it exists only as the target of hard links (aufs keeps such below `.wh..wh.plnk`).
    LinkTargetOnly,
}

impl TableBuilder {
    /// Starts an empty table.
    #[must_use]
    pub fn new(limits: TableLimits) -> Self {
        Self {
            limits,
            records: Vec::new(),
            names: Vec::new(),
            extents: Vec::new(),
            xattrs: Vec::new(),
            symlinks: SymlinkSet::default(),
        }
    }

    /// Number of entries so far.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Adds the next entry of the archive. Its path, and the target of a hard link, must be in the
    /// form of [`path::normalize`]; symlinks of this layer in the parents are followed here.
    ///
    /// An opaque mark is a directory that is both `opaque` and `implied`.
    ///
    /// # Errors
    /// [`BuildError`] names the entry and the fault. The builder is then of no further use.
    pub fn push(&mut self, entry: &Entry<'_>) -> Result<(), BuildError> {
        self.push_as(entry, Visibility::Visible)
    }

    /// Adds an entry that may be the target of hard links only.
    ///
    /// # Errors
    /// As [`TableBuilder::push`].
    pub fn push_as(&mut self, entry: &Entry<'_>, visibility: Visibility) -> Result<(), BuildError> {
        if self.records.len() >= self.limits.entries as usize {
            return Err(too_many("entries", self.limits.entries));
        }
        check_entry(entry)?;
        let followed = self.follow_parents(entry.path)?;
        let path = followed.as_deref().unwrap_or(entry.path);
        let mut record = Record {
            mode: entry.mode & 0o7777,
            nanoseconds: entry.mtime.nanoseconds,
            seconds: entry.mtime.seconds,
            uid: entry.uid,
            gid: entry.gid,
            ..Record::default()
        };
        (record.path_offset, record.path_length) = self.add_name(path)?;
        if visibility == Visibility::LinkTargetOnly {
            record.flags |= flag::HIDDEN;
        }
        self.set_kind(&mut record, entry)?;
        (record.xattr_offset, record.xattr_length) = self.add_xattrs(entry)?;
        if visibility == Visibility::Visible {
            self.note_symlink(path, record.kind);
        }
        self.records.push(record);
        Ok(())
    }

    /// Applies the rules and makes the table.
    ///
    /// # Errors
    /// [`BuildError`] if entries contradict each other: something below a file, a hard link to a
    /// directory or to itself, an extent beyond `facts.tar_size`.
    pub fn finish(self, facts: LayerFacts) -> Result<Table, BuildError> {
        rules::finish(self, facts)
    }

    fn set_kind(&mut self, record: &mut Record, entry: &Entry<'_>) -> Result<(), BuildError> {
        match entry.kind {
            Kind::File { size, extents } => {
                record.kind = kind::FILE;
                record.size = size;
                match extents.as_contiguous(size) {
                    Some(offset) => record.data = offset,
                    None => self.set_extents(record, entry)?,
                }
            }
            Kind::Directory { opaque, implied } => {
                record.kind = kind::DIRECTORY;
                record.flags |= if opaque { flag::OPAQUE } else { 0 };
                record.flags |= if implied { flag::IMPLIED } else { 0 };
            }
            Kind::Symlink { target } => {
                record.kind = kind::SYMLINK;
                let (offset, length) = self.add_name(target)?;
                (record.data, record.target_length) = (offset.into(), length);
            }
            Kind::HardLink { target, .. } => {
                record.kind = kind::HARD_LINK;
                record.link = NO_RECORD;
                let followed = self.follow_parents(target)?;
                let (offset, length) = self.add_name(followed.as_deref().unwrap_or(target))?;
                (record.data, record.target_length) = (offset.into(), length);
            }
            Kind::CharDevice { major, minor } => {
                record.kind = kind::CHAR_DEVICE;
                record.size = u64::from(major) << 32 | u64::from(minor);
            }
            Kind::BlockDevice { major, minor } => {
                record.kind = kind::BLOCK_DEVICE;
                record.size = u64::from(major) << 32 | u64::from(minor);
            }
            Kind::Fifo => record.kind = kind::FIFO,
            Kind::Whiteout => record.kind = kind::WHITEOUT,
        }
        Ok(())
    }

    fn set_extents(&mut self, record: &mut Record, entry: &Entry<'_>) -> Result<(), BuildError> {
        let Kind::File { size, extents } = entry.kind else { return Ok(()) };
        let fault = || BuildError::Extents { path: printable(entry.path) };
        let mut end = 0;
        for extent in extents.iter() {
            let file_end = extent.file_offset.checked_add(extent.length).ok_or_else(fault)?;
            if extent.length == 0 || extent.file_offset < end || file_end > size {
                return Err(fault());
            }
            end = file_end;
        }
        let first = self.extents.len() / Extent::PACKED_SIZE;
        if first + extents.len() > self.limits.extents as usize {
            return Err(too_many("extents of sparse files", self.limits.extents));
        }
        extents.iter().for_each(|extent| extent.pack(&mut self.extents));
        record.flags |= flag::SPARSE;
        record.data = (extents.len() as u64) << 32 | first as u64;
        Ok(())
    }

    fn add_name(&mut self, name: &[u8]) -> Result<(u32, u16), BuildError> {
        let limit = self.limits.name_bytes;
        let length = u16::try_from(name.len()).map_err(|_| too_many("bytes in a name", 65_535))?;
        let offset = u32::try_from(self.names.len()).ok().filter(|offset| *offset <= limit);
        let offset = offset.ok_or_else(|| too_many("bytes of names", limit))?;
        self.names.extend_from_slice(name);
        Ok((offset, length))
    }

    fn add_xattrs(&mut self, entry: &Entry<'_>) -> Result<(u32, u32), BuildError> {
        if entry.xattrs.is_empty() {
            return Ok((0, 0));
        }
        check_xattrs(entry)?;
        let limit = self.limits.xattr_bytes;
        let start = self.xattrs.len();
        entry.xattrs.pack(&mut self.xattrs);
        let offset = u32::try_from(start).ok().filter(|offset| *offset <= limit);
        let offset = offset.ok_or_else(|| too_many("bytes of extended attributes", limit))?;
        let length = u32::try_from(self.xattrs.len() - start).expect("checked to be small");
        Ok((offset, length))
    }

    pub(super) fn path_of(&self, record: &Record) -> &[u8] {
        self.name(record.path_offset.into(), record.path_length)
    }

    pub(super) fn target_of(&self, record: &Record) -> &[u8] {
        self.name(record.data, record.target_length)
    }

    fn name(&self, offset: u64, length: u16) -> &[u8] {
        let start = usize::try_from(offset).expect("offsets lie inside the arena");
        &self.names[start..start + usize::from(length)]
    }

    fn note_symlink(&mut self, path: &[u8], kind: u8) {
        let set = &mut self.symlinks;
        if kind != kind::SYMLINK && set.by_path.is_empty() {
            return;
        }
        let hash = set.hasher.hash_one(path);
        if kind == kind::SYMLINK {
            let index = u32::try_from(self.records.len()).expect("entries are bounded");
            set.by_path.insert(hash, index);
            set.clean_parent.clear();
        } else {
            set.by_path.remove(&hash);
        }
    }

    /// The symlink that stands at `path` now, if one does.
    fn symlink_at(&self, path: &[u8]) -> Option<&[u8]> {
        let set = &self.symlinks;
        let index = *set.by_path.get(&set.hasher.hash_one(path))?;
        let record = &self.records[index as usize];
        (self.path_of(record) == path).then(|| self.target_of(record))
    }

    /// Follows symlinks of this layer among the ancestors of `path`; `None` if there is none.
    fn follow_parents(&mut self, path: &[u8]) -> Result<Option<Vec<u8>>, BuildError> {
        let Some((parent, name)) = path::split(path) else { return Ok(None) };
        if self.symlinks.by_path.is_empty() || self.symlinks.clean_parent == parent {
            return Ok(None);
        }
        let passes = (1..=parent.len())
            .filter(|end| *end == parent.len() || parent[*end] == b'/')
            .any(|end| self.symlink_at(&parent[..end]).is_some());
        if !passes {
            self.symlinks.clean_parent.clear();
            self.symlinks.clean_parent.extend_from_slice(parent);
            return Ok(None);
        }
        let fault = |fault| BuildError::Link { path: printable(path), fault };
        let resolved = follow(parent, &mut |at| self.symlink_at(at)).map_err(fault)?;
        let full = path::join(&resolved, name);
        // A target may hold names that no disk takes; what normalizing it says is the fault.
        path::normalize(&full, self.limits.path)
            .map_err(|fault| BuildError::Path { path: printable(path), fault })?;
        Ok(Some(full))
    }
}

/// Follows all symlinks of `path` inside the root, the last component included. `target_at` knows
/// the symlinks.
///
/// # Errors
/// The path passes through more than 40 symlinks, or grows beyond 4096 bytes.
pub(crate) fn follow<'t>(
    path: &[u8],
    target_at: &mut dyn FnMut(&[u8]) -> Option<&'t [u8]>,
) -> Result<Vec<u8>, &'static str> {
    let mut resolved: Vec<u8> = Vec::with_capacity(path.len());
    let mut pending: Vec<Vec<u8>> = reversed_components(path);
    let mut followed = 0;
    while let Some(component) = pending.pop() {
        if component == b".." {
            resolved.truncate(path::parent(&resolved).map_or(0, <[u8]>::len));
            continue;
        }
        let here = path::join(&resolved, &component);
        let Some(target) = target_at(&here) else {
            resolved = here;
            continue;
        };
        followed += 1;
        if followed > FOLLOW_MAX || pending.len() > 4096 {
            return Err("it passes through too many symbolic links");
        }
        if target.first() == Some(&b'/') {
            resolved.clear();
        }
        pending.extend(reversed_components(target));
    }
    Ok(resolved)
}

fn reversed_components(path: &[u8]) -> Vec<Vec<u8>> {
    let components = path.split(|byte| *byte == b'/').rev();
    components.filter(|part| !matches!(*part, b"" | b".")).map(<[u8]>::to_vec).collect()
}

fn check_entry(entry: &Entry<'_>) -> Result<(), BuildError> {
    let path = || printable(entry.path);
    let link = |fault| Err(BuildError::Link { path: path(), fault });
    if entry.path.is_empty() && !entry.kind.is_directory() {
        return Err(BuildError::Root);
    }
    match entry.kind {
        Kind::Symlink { target: b"" } => link("its target is empty"),
        Kind::Symlink { target } if target.len() > TARGET_MAX => link("its target is too long"),
        Kind::Symlink { target } if target.contains(&0) => link("its target holds a NUL byte"),
        Kind::HardLink { target: b"", .. } => link("its target is a directory"),
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor }
            if major >= 1 << 12 || minor >= 1 << 20 =>
        {
            Err(BuildError::Device { path: path(), major, minor })
        }
        Kind::CharDevice { major: 0, minor: 0 } => {
            Err(BuildError::Device { path: path(), major: 0, minor: 0 })
        }
        _ => Ok(()),
    }
}

fn check_xattrs(entry: &Entry<'_>) -> Result<(), BuildError> {
    let mut total = 12;
    let mut fits = true;
    for (name, value) in entry.xattrs.iter() {
        fits &= !name.is_empty() && name.len() <= XATTR_NAME_MAX && !name.contains(&0);
        fits &= value.len() <= XATTR_VALUE_MAX;
        total += (4 + name.len() + value.len()).next_multiple_of(4);
    }
    if fits && total <= XATTRS_MAX {
        Ok(())
    } else {
        Err(BuildError::Xattr { path: printable(entry.path) })
    }
}

fn too_many(what: &'static str, limit: u32) -> BuildError {
    BuildError::TooMany { what, limit: limit.into() }
}

/// A path for messages: control characters and broken UTF-8 escaped, long ones cut.
pub(crate) fn printable(path: &[u8]) -> String {
    const SHOWN: usize = 200;
    if path.len() <= SHOWN {
        return path.escape_ascii().to_string();
    }
    format!("{}…", path[..SHOWN].escape_ascii())
}

impl Default for TableBuilder {
    fn default() -> Self {
        Self::new(TableLimits::default())
    }
}

/// Xattrs that a layer may carry: the namespaces that exist on disk, without overlayfs' own.
#[must_use]
pub(crate) fn is_allowed_xattr(name: &[u8]) -> bool {
    let overlay = name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
    let known = [&b"user."[..], b"trusted.", b"security."]
        .iter()
        .any(|prefix| name.len() > prefix.len() && name.starts_with(prefix));
    let acl = name == b"system.posix_acl_access" || name == b"system.posix_acl_default";
    (known && !overlay) || acl
}

impl Xattrs<'_> {
    /// Whether every attribute is one that a layer may carry.
    #[must_use]
    pub fn are_allowed(self) -> bool {
        self.iter().all(|(name, _)| is_allowed_xattr(name))
    }
}
