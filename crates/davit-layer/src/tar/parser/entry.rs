//! What an entry proper means for the layer: its kind, its metadata, whiteouts.

use super::{
    super::{
        header::{BLOCK_SIZE, Header},
        numbers,
        pax::Pax,
        sparse::{self, TextMapProgress},
    },
    ArchiveError, Described, Metadata, Parse, Parser, State, old_sparse_block, padding,
    text_map_block,
};
use crate::{
    Entry, Extents, Kind, Mtime, Visibility, WhiteoutNames, XattrMap, Xattrs,
    path::{self, PathLimits},
    table::{is_allowed_xattr, printable},
};

impl Parser {
    /// Reads an entry proper.
    pub(super) fn member(&mut self, header: Header<'_>) -> Parse<State> {
        let offset = self.offset;
        let malformed = |fault| ArchiveError::Malformed { offset, fault };
        let pending = std::mem::take(&mut self.pending);
        let mut pax = pending.pax.unwrap_or_else(|| self.global.clone());
        let name = match (pending.long_name, pax.sparse.name.take(), pax.path.take()) {
            (Some(name), _, _) | (None, Some(name), _) | (None, None, Some(name)) => name,
            (None, None, None) => header.name(),
        };
        let metadata = metadata(header, &pax).map_err(malformed)?;
        let stored = match pax.size {
            Some(size) => size,
            None => header.size().map_err(malformed)?,
        };
        let xattrs = self.allowed_xattrs(std::mem::take(&mut pax.xattrs));
        let type_flag = match header.type_flag() {
            0 if name.last() == Some(&b'/') => b'5',
            0 | b'7' => b'0',
            other => other,
        };
        if stored > self.options.limits.plain_bytes && matches!(type_flag, b'0' | b'S') {
            return Err(malformed("a file is larger than the limit of the archive"));
        }
        let is_sparse = pax.sparse.is_present();
        match type_flag {
            b'S' | b'0' if type_flag == b'S' || is_sparse => {
                let real_size = pax.sparse.real_size.unwrap_or(stored);
                let entry = Described { offset, name, metadata, xattrs, real_size, stored };
                if type_flag == b'S' {
                    self.old_sparse(header, entry)
                } else {
                    self.pax_sparse(entry, &pax)
                }
            }
            b'0' => {
                let content = Extents::contiguous(offset + BLOCK_SIZE as u64, stored);
                let kind = Kind::File { size: stored, extents: content };
                self.add(offset, &name, kind, metadata, &xattrs)?;
                Ok(State::Skip { data: stored, padding: padding(stored) })
            }
            _ => {
                let link = pending.long_link.or(pax.link_path);
                let link = link.unwrap_or_else(|| header.link_name().to_vec());
                let place = Place { offset, name: &name };
                let normal;
                let kind = match type_flag {
                    b'1' => {
                        normal = self.normalize(place.offset, &link)?;
                        Kind::HardLink { target: &normal, index: None }
                    }
                    _ => simple_kind(type_flag, header, &link, place)?,
                };
                self.add(offset, &name, kind, metadata, &xattrs)?;
                Ok(State::Skip { data: 0, padding: 0 })
            }
        }
    }

    fn old_sparse(&mut self, header: Header<'_>, mut entry: Described) -> Parse<State> {
        let offset = entry.offset;
        let malformed = |fault| ArchiveError::Malformed { offset, fault };
        let (places, goes_on, real_size) = header.sparse();
        let mut map = Vec::new();
        sparse::append_old_gnu(places, &mut map).map_err(malformed)?;
        let real_size = numbers::parse_field(real_size);
        let real_size = real_size.and_then(|size| u64::try_from(size).ok());
        entry.real_size = real_size.ok_or_else(|| malformed("a sparse file has no size"))?;
        if goes_on {
            return Ok(old_sparse_block(Box::new(entry), map, offset));
        }
        self.sparse_file(entry, &map)
    }

    fn pax_sparse(&mut self, entry: Described, pax: &Pax) -> Parse<State> {
        let offset = entry.offset;
        let malformed = |fault| ArchiveError::Malformed { offset, fault };
        let records = &pax.sparse;
        if records.real_size.is_none() {
            return Err(malformed("a sparse file has no size"));
        }
        match (records.major.unwrap_or(0), records.minor.unwrap_or(0)) {
            (0, _) => {
                let map = records.map.as_deref().unwrap_or_default();
                if records.block_count.is_some_and(|count| count != map.len() as u64 / 2) {
                    return Err(malformed("a sparse map has another length than it says"));
                }
                self.sparse_file(entry, map)
            }
            (1, 0) if entry.stored >= BLOCK_SIZE as u64 => {
                let stored = entry.stored;
                let progress = TextMapProgress::new();
                Ok(text_map_block(Box::new(entry), stored, progress, Vec::new()))
            }
            (1, 0) => Err(malformed("a sparse map is cut off or too large")),
            _ => Err(malformed("a sparse file has an unknown format")),
        }
    }

    fn allowed_xattrs(&mut self, mut xattrs: XattrMap) -> XattrMap {
        let before = xattrs.len();
        xattrs.retain(|name, _| is_allowed_xattr(name));
        self.dropped_xattrs += (before - xattrs.len()) as u64;
        xattrs
    }

    fn normalize(&self, offset: u64, name: &[u8]) -> Parse<Vec<u8>> {
        let limits: PathLimits = self.options.limits.table.path;
        path::normalize(name, limits).map_err(|source| ArchiveError::Name {
            path: printable(name),
            offset,
            source,
        })
    }

    /// Adds an entry to the table; names that begin with `.wh.` mean something else.
    pub(super) fn add(
        &mut self,
        offset: u64,
        name: &[u8],
        kind: Kind<'_>,
        metadata: Metadata,
        xattrs: &XattrMap,
    ) -> Parse<()> {
        let path = self.normalize(offset, name)?;
        let Metadata { mode, uid, gid, mtime } = metadata;
        let entry =
            Entry { path: &path, kind, mode, uid, gid, mtime, xattrs: Xattrs::from(xattrs) };
        if self.options.whiteout_names == WhiteoutNames::Plain {
            return Ok(self.builder.push(&entry)?);
        }
        let fault = |fault| ArchiveError::Entry { path: printable(&path), offset, fault };
        match Meaning::of(&path).map_err(fault)? {
            Meaning::Entry => self.builder.push(&entry)?,
            Meaning::Whiteout(path) => self.builder.push(&Entry::whiteout(&path))?,
            Meaning::Opaque(directory) => {
                let kind = Kind::Directory { opaque: true, implied: true };
                self.builder.push(&Entry { kind, ..Entry::implied(directory) })?;
            }
            Meaning::LinkTarget if !entry.kind.is_directory() => {
                self.builder.push_as(&entry, Visibility::LinkTargetOnly)?;
            }
            Meaning::LinkTarget | Meaning::Nothing => {}
        }
        Ok(())
    }
}

/// What a path means by the whiteout conventions (image-spec `layer.md` § Whiteouts).
enum Meaning<'p> {
    Entry,
    Whiteout(Vec<u8>),
    Opaque(&'p [u8]),
    /// aufs kept files with several names below `.wh..wh.plnk`.
    LinkTarget,
    /// Other control files of aufs.
    Nothing,
}

impl<'p> Meaning<'p> {
    fn of(path: &'p [u8]) -> Result<Self, &'static str> {
        const PREFIX: &[u8] = b".wh.";
        const CONTROL: &[u8] = b".wh..wh.";
        let Some((parent, name)) = path::split(path) else { return Ok(Self::Entry) };
        if path.starts_with(b".wh..wh.plnk") && !parent.is_empty() {
            return Ok(Self::LinkTarget);
        }
        if path.starts_with(CONTROL) && !parent.is_empty() {
            return Ok(Self::Nothing);
        }
        if parent.split(|byte| *byte == b'/').any(|component| component.starts_with(PREFIX)) {
            return Err("a directory has a name that is kept for whiteouts");
        }
        if name == b".wh..wh..opq" {
            return Ok(Self::Opaque(parent));
        }
        if name.starts_with(CONTROL) {
            return Ok(Self::Nothing);
        }
        match name.strip_prefix(PREFIX) {
            None => Ok(Self::Entry),
            Some(b"" | b"." | b"..") => Err("it is a whiteout of nothing"),
            Some(hidden) => Ok(Self::Whiteout(path::join(parent, hidden))),
        }
    }
}

#[derive(Clone, Copy)]
struct Place<'n> {
    offset: u64,
    name: &'n [u8],
}

/// The kind of an entry that has neither content nor a link into the layer.
fn simple_kind<'k>(
    type_flag: u8,
    header: Header<'_>,
    link: &'k [u8],
    place: Place<'_>,
) -> Parse<Kind<'k>> {
    let offset = place.offset;
    let device = || {
        header.device().ok_or(ArchiveError::Entry {
            path: printable(place.name),
            offset,
            fault: "its device number is no number",
        })
    };
    Ok(match type_flag {
        b'2' => Kind::Symlink { target: link },
        b'3' => device().map(|(major, minor)| Kind::CharDevice { major, minor })?,
        b'4' => device().map(|(major, minor)| Kind::BlockDevice { major, minor })?,
        b'5' => Kind::Directory { opaque: false, implied: false },
        _ => Kind::Fifo,
    })
}

fn metadata(header: Header<'_>, pax: &Pax) -> Result<Metadata, &'static str> {
    // The largest id means "unchanged" to chown.
    let id = |id: Option<u64>| {
        let id = id.and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX);
        id.ok_or("an owner is out of range")
    };
    let unsigned = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
    Ok(Metadata {
        mode: header.mode()?,
        uid: id(pax.uid.or_else(|| unsigned(header.uid())))?,
        gid: id(pax.gid.or_else(|| unsigned(header.gid())))?,
        mtime: match pax.mtime {
            Some(mtime) => mtime,
            None => Mtime::from_seconds(header.mtime().ok_or("a time is no number")?),
        },
    })
}
