//! Checks one inode with its xattrs and the place of its data.

use davit_layer::Mtime;

use super::{Data, Found, Inode, InodeKind, Run, TreeError, Walk};
use crate::erofs::{
    format::{
        BLOCK, CHUNK_BASED, CHUNK_INDEXES, CHUNK_LEN, FLAT_INLINE, FLAT_PLAIN, HOLE, INODE_LEN,
        MAX_TARGET, SLOT, XATTR_ENTRY_LEN, XATTR_HEADER_LEN, XATTR_PREFIXES, mode, u16_at, u32_at,
        u64_at,
    },
    header::Slot,
    xattr::{self, OPAQUE},
};

/// Name and value.
type Xattr<'a> = (Vec<u8>, &'a [u8]);

/// The fields of an inode as they stand.
struct Raw<'a> {
    nid: u64,
    layout: u16,
    mode: u16,
    size: u64,
    union_field: u32,
    number: u32,
    xattrs: Vec<Xattr<'a>>,
    /// First byte behind the xattrs.
    end: u64,
}

impl Raw<'_> {
    fn fault<T>(&self, fault: &'static str) -> Result<T, TreeError> {
        Err(TreeError::Inode { nid: self.nid, fault })
    }
}

impl<'a> Walk<'a, '_> {
    /// Reads the inode `nid` unless it is known, and counts one more name of it. `parent` is the
    /// directory with that name; the root has none.
    pub(super) fn visit(&mut self, nid: u64, parent: Option<u64>) -> Result<u32, TreeError> {
        let seen = usize::try_from(nid).ok().and_then(|nid| self.seen.get(nid).copied());
        let Some(seen) = seen else {
            return Err(TreeError::Inode { nid, fault: "it lies beyond the file" });
        };
        if nid == u64::from(self.header.root) && parent.is_some() {
            return Err(TreeError::Inode { nid, fault: "the root has a name" });
        }
        if seen != 0 {
            let found = &mut self.found[seen as usize];
            found.links += 1;
            if self.inodes[seen as usize].kind == InodeKind::Directory {
                return Err(TreeError::Inode { nid, fault: "a directory has two names" });
            }
            return Ok(seen);
        }
        let position = u32::try_from(self.inodes.len()).expect("nids of a file fit in 32 bits");
        let (inode, found) = self.inode(nid, parent.unwrap_or(nid))?;
        let slot = usize::try_from(nid).expect("it was looked up");
        self.seen[slot] = position;
        self.inodes.push(inode);
        self.found.push(found);
        Ok(position)
    }

    fn inode(&mut self, nid: u64, parent: u64) -> Result<(Inode<'a>, Found), TreeError> {
        let at = nid * SLOT;
        let bytes = self.slice(nid, at, INODE_LEN as u64)?;
        let raw = self.raw(nid, at, bytes)?;
        let (kind, end, data) = self.kind(&raw)?;
        self.used.push((at, end));
        let inode = Inode {
            kind,
            mode: raw.mode & !mode::FORMAT,
            uid: u32_at(bytes, 24),
            gid: u32_at(bytes, 28),
            mtime: Mtime {
                seconds: i64::from_le_bytes(bytes[32..40].try_into().expect("8 bytes")),
                nanoseconds: u32_at(bytes, 40),
            },
            links: u32_at(bytes, 44),
            xattrs: raw.xattrs,
        };
        check_whiteout(nid, &inode)?;
        if inode.mtime.nanoseconds >= 1_000_000_000 {
            return Err(TreeError::Inode { nid, fault: "its time has too many nanoseconds" });
        }
        let links = if inode.kind == InodeKind::Directory { 2 } else { 1 };
        Ok((inode, Found { nid, parent, links, number: raw.number, data }))
    }

    fn raw(&self, nid: u64, at: u64, bytes: &'a [u8]) -> Result<Raw<'a>, TreeError> {
        let fault = |fault| Err(TreeError::Inode { nid, fault });
        let format = u16_at(bytes, 0);
        let layout = format >> 1;
        if format & 1 == 0 || !matches!(layout, FLAT_PLAIN | FLAT_INLINE | CHUNK_BASED) {
            return fault("its format is unknown");
        }
        if u16_at(bytes, 6) != 0 || bytes[48..].iter().any(|byte| *byte != 0) {
            return fault("its reserved fields are in use");
        }
        let units = usize::from(u16_at(bytes, 2));
        let xattr_len = if units == 0 { 0 } else { XATTR_HEADER_LEN + (units - 1) * 4 };
        let xattrs = self.slice(nid, at + INODE_LEN as u64, xattr_len as u64)?;
        Ok(Raw {
            nid,
            layout,
            mode: u16_at(bytes, 4),
            size: u64_at(bytes, 8),
            union_field: u32_at(bytes, 16),
            number: u32_at(bytes, 20),
            xattrs: parse_xattrs(xattrs).map_err(|fault| TreeError::Inode { nid, fault })?,
            end: at + (INODE_LEN + xattr_len) as u64,
        })
    }

    /// Type, end of what stands behind the inode, and where a directory's data is.
    fn kind(&mut self, raw: &Raw<'a>) -> Result<(InodeKind<'a>, u64, Data), TreeError> {
        let none = Data { blocks_at: 0, blocks_len: 0, tail_at: 0, tail_len: 0 };
        let major = raw.union_field >> 8 & 0xfff;
        let minor = raw.union_field & 0xff | raw.union_field >> 12 & !0xff;
        let plain = match raw.mode & mode::FORMAT {
            mode::DIRECTORY => {
                let (end, data) = self.data(raw)?;
                check_opaque(raw, true)?;
                return Ok((InodeKind::Directory, end, data));
            }
            mode::SYMLINK => {
                let (end, data) = self.data(raw)?;
                check_opaque(raw, false)?;
                return Ok((InodeKind::Symlink(self.target(raw, data)?), end, none));
            }
            mode::REGULAR => {
                let (runs, end) = self.runs(raw)?;
                check_opaque(raw, false)?;
                return Ok((InodeKind::File { size: raw.size, runs }, end, none));
            }
            mode::CHAR => InodeKind::CharDevice { major, minor },
            mode::BLOCK => InodeKind::BlockDevice { major, minor },
            mode::FIFO => match raw.union_field {
                0 => InodeKind::Fifo,
                _ => return raw.fault("a pipe has a device number"),
            },
            _ => return raw.fault("its type is unknown"),
        };
        check_opaque(raw, false)?;
        match raw.size == 0 && raw.layout == FLAT_PLAIN {
            true => Ok((plain, raw.end, none)),
            false => raw.fault("a special file has content"),
        }
    }

    /// Where the data of a directory or symbolic link is.
    fn data(&mut self, raw: &Raw<'_>) -> Result<(u64, Data), TreeError> {
        let (blocks, tail_len) = match raw.layout {
            FLAT_PLAIN => (raw.size.div_ceil(BLOCK), 0),
            FLAT_INLINE => (raw.size / BLOCK, raw.size % BLOCK),
            _ => return raw.fault("its data is in chunks"),
        };
        if raw.layout == FLAT_INLINE && (tail_len == 0 || raw.end % BLOCK + tail_len > BLOCK) {
            return raw.fault("its inline data is empty or crosses a block");
        }
        if blocks == 0 && raw.union_field != 0 {
            return raw.fault("it has a block but no data there");
        }
        let blocks_at = u64::from(raw.union_field) * BLOCK;
        let blocks_len = raw.size - tail_len;
        self.slice(raw.nid, blocks_at, blocks * BLOCK)?;
        self.slice(raw.nid, raw.end, tail_len)?;
        if blocks > 0 {
            self.used.push((blocks_at, blocks_at + blocks_len));
        }
        let data = Data { blocks_at, blocks_len, tail_at: raw.end, tail_len };
        Ok((raw.end + tail_len, data))
    }

    fn target(&self, raw: &Raw<'_>, data: Data) -> Result<&'a [u8], TreeError> {
        let target = match (data.blocks_len, data.tail_len) {
            (0, len) => self.slice(raw.nid, data.tail_at, len)?,
            (len, 0) => self.slice(raw.nid, data.blocks_at, len)?,
            _ => return raw.fault("its target is in two pieces"),
        };
        match (1..=MAX_TARGET).contains(&target.len()) && !target.contains(&0) {
            true => Ok(target),
            false => raw.fault("its target is empty, too long or holds a NUL"),
        }
    }

    /// Where a file's content is, and the end of its chunk entries.
    fn runs(&mut self, raw: &Raw<'_>) -> Result<(Vec<Run>, u64), TreeError> {
        let blocks = raw.size.div_ceil(BLOCK);
        match raw.layout {
            FLAT_PLAIN if raw.size == 0 && raw.union_field == 0 => Ok((Vec::new(), raw.end)),
            FLAT_PLAIN if raw.size > 0 => {
                let start = u64::from(raw.union_field);
                let devices = &self.header.devices;
                let behind = devices.partition_point(|slot| u64::from(slot.start) <= start);
                let holder = behind.checked_sub(1).map(|index| (index, &devices[index]));
                let holds =
                    |slot: &Slot| start + blocks <= u64::from(slot.start) + u64::from(slot.blocks);
                let Some((device, slot)) = holder.filter(|(_, slot)| holds(slot)) else {
                    return raw.fault("its content is not inside one device");
                };
                let device = u16::try_from(device).expect("devices are counted in 16 bits");
                let offset = (start - u64::from(slot.start)) * BLOCK;
                let run = Run { file_offset: 0, device: Some(device), offset, length: raw.size };
                Ok((vec![run], raw.end))
            }
            CHUNK_BASED if raw.size > 0 => self.chunks(raw),
            _ => raw.fault("its layout does not go with its size"),
        }
    }

    fn chunks(&mut self, raw: &Raw<'_>) -> Result<(Vec<Run>, u64), TreeError> {
        let bits = raw.union_field & !u32::from(CHUNK_INDEXES);
        if raw.union_field & u32::from(CHUNK_INDEXES) == 0 || bits > 0x1f {
            return raw.fault("its chunk format is unknown");
        }
        let chunk = BLOCK << bits;
        let at = raw.end.next_multiple_of(CHUNK_LEN as u64);
        let len = raw.size.div_ceil(chunk).saturating_mul(CHUNK_LEN as u64);
        let entries = self.slice(raw.nid, at, len)?;
        let mut runs: Vec<Run> = Vec::new();
        for (index, entry) in (0_u64..).zip(entries.chunks_exact(CHUNK_LEN)) {
            let (device, block) = (u16_at(entry, 2), u32_at(entry, 4));
            let file_offset = index * chunk;
            let length = chunk.min(raw.size - file_offset);
            if u16_at(entry, 0) != 0 {
                return raw.fault("the reserved field of a chunk is in use");
            }
            if block == HOLE && device == 0 {
                continue;
            }
            let device = device.checked_sub(1);
            let offset = u64::from(block) * BLOCK;
            let end = u64::from(block) + length.div_ceil(BLOCK);
            match device.map(|number| self.header.devices.get(usize::from(number))) {
                Some(slot) if slot.is_none_or(|slot| end > u64::from(slot.blocks)) => {
                    return raw.fault("a chunk lies outside of its device");
                }
                Some(_) => {}
                None => {
                    self.slice(raw.nid, offset, (end - u64::from(block)) * BLOCK)?;
                    self.used.push((offset, offset + length));
                }
            }
            let run = Run { file_offset, device, offset, length };
            match runs.last_mut() {
                Some(last) if continues(last, &run) => last.length += run.length,
                _ => runs.push(run),
            }
        }
        Ok((runs, at + len))
    }
}

/// Overlay's own xattrs are forged unless they are the mark of an opaque directory.
fn check_opaque(raw: &Raw<'_>, directory: bool) -> Result<(), TreeError> {
    for (name, value) in &raw.xattrs {
        if xattr::split(name).is_none()
            && !(directory && name == b"trusted.overlay.opaque" && *value == OPAQUE.2)
        {
            return raw.fault("it has an extended attribute of overlay");
        }
    }
    Ok(())
}

fn check_whiteout(nid: u64, inode: &Inode<'_>) -> Result<(), TreeError> {
    if inode.kind != (InodeKind::CharDevice { major: 0, minor: 0 }) {
        return Ok(());
    }
    let plain = inode.mode == 0
        && (inode.uid, inode.gid) == (0, 0)
        && inode.mtime == Mtime::EPOCH
        && inode.xattrs.is_empty()
        && inode.links == 1;
    match plain {
        true => Ok(()),
        false => Err(TreeError::Inode { nid, fault: "a whiteout has metadata" }),
    }
}

fn continues(last: &Run, next: &Run) -> bool {
    last.device == next.device
        && last.file_offset + last.length == next.file_offset
        && last.offset + last.length == next.offset
}

fn parse_xattrs(bytes: &[u8]) -> Result<Vec<Xattr<'_>>, &'static str> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let (header, mut rest) = bytes.split_at(XATTR_HEADER_LEN);
    if header.iter().any(|byte| *byte != 0) || rest.is_empty() {
        return Err("the header of its extended attributes is not zero, or none follows");
    }
    let mut xattrs: Vec<Xattr<'_>> = Vec::new();
    while !rest.is_empty() {
        let cut = "an extended attribute is cut off";
        let (entry, _) = rest.split_at_checked(XATTR_ENTRY_LEN).ok_or(cut)?;
        let (name_len, value_len) = (usize::from(entry[0]), usize::from(u16_at(entry, 2)));
        let len = xattr::entry_len(name_len, value_len);
        let (whole, next) = rest.split_at_checked(len).ok_or(cut)?;
        let (name, value) = whole[XATTR_ENTRY_LEN..].split_at(name_len);
        let (value, padding) = value.split_at(value_len);
        if padding.iter().any(|byte| *byte != 0) {
            return Err("an extended attribute is not padded with zeros");
        }
        let prefix = XATTR_PREFIXES.into_iter().find(|(index, _)| *index == entry[1]);
        let (index, prefix) = prefix.ok_or("the prefix of an extended attribute is unknown")?;
        if matches!(index, 2 | 3) != name.is_empty() {
            return Err("the name of an extended attribute is incomplete");
        }
        let name = [prefix, name].concat();
        if xattrs.iter().any(|(other, _)| *other == name) {
            return Err("it has an extended attribute twice");
        }
        xattrs.push((name, value));
        rest = next;
    }
    Ok(xattrs)
}
