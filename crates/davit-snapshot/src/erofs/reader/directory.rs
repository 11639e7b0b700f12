//! Checks the entries of one directory.

use super::{InodeKind, Name, TreeError, Walk};
use crate::erofs::{
    format::{BLOCK_LEN, DIRENT_LEN, MAX_NAME, file_type, u16_at, u64_at},
    plan::Packer,
};

/// An entry as it stands.
struct Entry<'a> {
    nid: u64,
    file_type: u8,
    name: &'a [u8],
}

impl<'a> Walk<'a, '_> {
    /// Reads the names of the inode at `position`, if it is a directory.
    pub(super) fn directory(&mut self, position: u32) -> Result<(), TreeError> {
        if self.inodes[position as usize].kind != InodeKind::Directory {
            return Ok(());
        }
        let found = self.found[position as usize];
        let fault = |fault| TreeError::Inode { nid: found.nid, fault };
        let entries = self.entries(position)?;
        let mut packer = Packer::default();
        let (mut previous, mut dots): (&[u8], u32) = (b"", 0);
        for (at, Entry { nid, file_type, name }) in entries {
            if name <= previous {
                return Err(fault("its names are not in order"));
            }
            previous = name;
            // The writer fills blocks greedily; the kernel's search relies on none being empty.
            let begins = packer.push(name.len());
            if begins != (at == 0 && packer.size() > BLOCK_LEN as u64) {
                return Err(fault("its blocks are not filled in order"));
            }
            let dot = match name {
                b"." => Some(found.nid),
                b".." => Some(found.parent),
                _ => None,
            };
            if let Some(expected) = dot {
                dots += 1;
                if nid != expected || file_type != self::file_type::DIRECTORY {
                    return Err(fault("a dot names another directory"));
                }
                continue;
            }
            self.name(position, nid, file_type, name)?;
        }
        match dots {
            2 => Ok(()),
            _ => Err(fault("a dot is missing")),
        }
    }

    fn name(
        &mut self,
        directory: u32,
        nid: u64,
        file_type: u8,
        name: &'a [u8],
    ) -> Result<(), TreeError> {
        let parent = self.found[directory as usize].nid;
        let inode = self.visit(nid, Some(parent))?;
        let kind = &self.inodes[inode as usize].kind;
        if file_type != type_of(kind) {
            return Err(TreeError::Inode { nid, fault: "its name says another type" });
        }
        if *kind == InodeKind::Directory {
            self.found[directory as usize].links += 1;
        }
        self.names.push(Name { directory, name, inode });
        Ok(())
    }

    /// The entries with their place inside their block.
    fn entries(&self, position: u32) -> Result<Vec<(usize, Entry<'a>)>, TreeError> {
        let found = &self.found[position as usize];
        let data = found.data;
        let fault = |fault| TreeError::Inode { nid: found.nid, fault };
        let full = self.slice(found.nid, data.blocks_at, data.blocks_len)?;
        let tail = self.slice(found.nid, data.tail_at, data.tail_len)?;
        let count = full.len().div_ceil(BLOCK_LEN) + usize::from(!tail.is_empty());
        let blocks = full.chunks(BLOCK_LEN).chain(Some(tail).filter(|tail| !tail.is_empty()));
        let mut entries = Vec::new();
        for (number, block) in blocks.enumerate() {
            let last = number + 1 == count;
            parse_block(block, last, &mut entries).map_err(fault)?;
        }
        Ok(entries)
    }
}

fn parse_block<'a>(
    block: &'a [u8],
    last: bool,
    entries: &mut Vec<(usize, Entry<'a>)>,
) -> Result<(), &'static str> {
    if block.len() < DIRENT_LEN {
        return Err("a directory block is too short");
    }
    let names_at = usize::from(u16_at(block, 8));
    if names_at < DIRENT_LEN || names_at % DIRENT_LEN != 0 || names_at > block.len() {
        return Err("the entries of a directory block are cut off");
    }
    let count = names_at / DIRENT_LEN;
    // Only the last name of a block that is not the last may be followed by padding.
    let end = match last {
        true => block.len(),
        false => block.len() - block.iter().rev().take_while(|byte| **byte == 0).count(),
    };
    let mut start = names_at;
    for at in 0..count {
        let entry = &block[at * DIRENT_LEN..(at + 1) * DIRENT_LEN];
        let stop = match at + 1 < count {
            true => usize::from(u16_at(block, (at + 1) * DIRENT_LEN + 8)),
            false => end,
        };
        if usize::from(u16_at(entry, 8)) != start || entry[11] != 0 || stop <= start || stop > end {
            return Err("an entry of a directory block is malformed");
        }
        let name = &block[start..stop];
        if name.len() > MAX_NAME || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return Err("a name is too long or holds a NUL or a slash");
        }
        entries.push((at, Entry { nid: u64_at(entry, 0), file_type: entry[10], name }));
        start = stop;
    }
    Ok(())
}

fn type_of(kind: &InodeKind<'_>) -> u8 {
    match kind {
        InodeKind::Directory => file_type::DIRECTORY,
        InodeKind::File { .. } => file_type::REGULAR,
        InodeKind::Symlink(_) => file_type::SYMLINK,
        InodeKind::CharDevice { .. } => file_type::CHAR,
        InodeKind::BlockDevice { .. } => file_type::BLOCK,
        InodeKind::Fifo => file_type::FIFO,
    }
}
