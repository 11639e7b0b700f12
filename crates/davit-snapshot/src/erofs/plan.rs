//! Where everything in an image goes, before a byte of it is written.

mod chunks;

use std::ffi::OsString;

use davit_image::DiffId;

use self::chunks::{MAX_CHUNK_BITS, MAX_CHUNK_BYTES, chunk_bits, chunks_len};
pub(super) use self::chunks::{chunk_len, data_chunks};
use super::{
    format::{
        BLOCK, BLOCK_LEN, CHUNK_BASED, CHUNK_LEN, DIRENT_LEN, FLAT_INLINE, FLAT_PLAIN, INODE_LEN,
        MAX_NAME, MAX_TARGET, SLOT, SLOT_LEN, first_inode,
    },
    header::{Slot, device_blocks, tag},
    image::{Image, Node, NodeKind},
    xattr,
};

/// Most devices of one image: the root's nid, which comes after their slots, has 16 bits.
const MAX_DEVICES: usize = 16_000;
/// Most bytes of content that one image may hold copies of, since its holes are not aligned: a
/// block for each run, so a hostile map costs more than its content.
const MAX_COPIED: u64 = 1 << 30;
/// Most bytes of chunk entries of a file that is copied; above it chunks get larger.
const MAX_COPIED_CHUNK_BYTES: u64 = 1 << 20;

pub(super) const NONE: u32 = u32::MAX;

/// Why a tree cannot be written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says it; the fields are what it names")]
pub enum WriteError {
    #[error("{} cannot be in a tree: {fault}", .path.display())]
    Node { path: OsString, fault: &'static str },
    #[error("the tree's names are not in order at {}", .0.display())]
    Order(OsString),
    #[error("{0} layers are more than a tree can read from")]
    Devices(usize),
    #[error("layer {0} ends beyond the 2 TiB that a tree can address")]
    Addresses(DiffId),
    #[error("the tree's sparse files need more than 64 MiB of block addresses")]
    Chunks,
    #[error("the tree's sparse files with unaligned holes need more than 1 GiB of copies")]
    Copies,
    #[error("the tree's own data ends beyond the 2 TiB that it can address")]
    TooLarge,
    #[error("cannot write the tree")]
    Write(#[source] std::io::Error),
}

/// The links between nodes and the place of every inode.
pub(super) struct Plan<'a> {
    pub(super) image: &'a Image<'a>,
    first_child: Vec<u32>,
    next_sibling: Vec<u32>,
    pub(super) links: Vec<u32>,
    /// nid of each node that has an inode.
    pub(super) nids: Vec<u32>,
    /// Nodes that have an inode, breadth first: siblings lie close.
    pub(super) order: Vec<u32>,
    /// First block behind the inodes.
    pub(super) data_start: u32,
    /// Size of the image in blocks.
    pub(super) blocks: u32,
    pub(super) slots: Vec<Slot>,
    /// Extended attributes left out because the format has no number for their prefix.
    pub(super) skipped_xattrs: u64,
    /// Bytes of content that are copied into the image.
    pub(super) copied: u64,
}

/// What an inode needs, and where it goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) xattr_len: usize,
    pub(super) size: u64,
    /// `i_format` without its lowest bit.
    pub(super) layout: u16,
    /// Data right behind inode and xattrs.
    pub(super) tail: usize,
    /// Blocks in the data area; of a file those that hold a copy of its content.
    pub(super) blocks: u32,
    /// Chunk size as log2 of blocks, for the chunk layout.
    pub(super) chunk_bits: u32,
}

impl Shape {
    const fn body(&self) -> usize {
        INODE_LEN + self.xattr_len
    }

    /// Where an inode goes that may not begin before `at`: in the next slot, or further on where
    /// its inline data would cross a block, which the kernel refuses.
    pub(super) const fn place(&self, at: u64) -> u64 {
        let at = at.next_multiple_of(SLOT);
        if self.layout != FLAT_INLINE || self.tail == 0 {
            return at;
        }
        let tail_at = at + self.body() as u64;
        let within = tail_at % BLOCK;
        if within + self.tail as u64 <= BLOCK {
            return at;
        }
        // Moved so that the tail begins as near to the next block's start as slots allow.
        at + (BLOCK - within) + (self.body() as u64 % SLOT)
    }

    /// First byte behind an inode at `at`.
    pub(super) const fn end(&self, at: u64) -> u64 {
        let body = at + self.body() as u64;
        match self.layout {
            CHUNK_BASED => body.next_multiple_of(CHUNK_LEN as u64) + self.tail as u64,
            _ => body + self.tail as u64,
        }
    }
}

impl<'a> Plan<'a> {
    pub(super) fn new(image: &'a Image<'a>) -> Result<Self, WriteError> {
        let count = image.nodes.len();
        if image.devices.len() > MAX_DEVICES {
            return Err(WriteError::Devices(image.devices.len()));
        }
        if u32::try_from(count).is_err() || count == 0 {
            return Err(WriteError::TooLarge);
        }
        let mut plan = Self {
            image,
            first_child: vec![NONE; count],
            next_sibling: vec![NONE; count],
            links: vec![1; count],
            nids: vec![0; count],
            order: Vec::with_capacity(count),
            data_start: 0,
            blocks: 0,
            slots: Vec::new(),
            skipped_xattrs: 0,
            copied: 0,
        };
        plan.connect()?;
        plan.arrange();
        plan.place_inodes()?;
        plan.place_devices()?;
        Ok(plan)
    }

    pub(super) fn node(&self, position: u32) -> &'a Node<'a> {
        &self.image.nodes[position as usize]
    }

    /// The children of a directory, in order.
    pub(super) fn children(&self, directory: u32) -> impl Iterator<Item = u32> + '_ {
        let next = |at: u32| Some(self.next_sibling[at as usize]).filter(|next| *next != NONE);
        let first = Some(self.first_child[directory as usize]).filter(|first| *first != NONE);
        std::iter::successors(first, move |at| next(*at))
    }

    pub(super) fn fault(&self, position: u32, fault: &'static str) -> WriteError {
        WriteError::Node { path: self.path(position), fault }
    }

    fn path(&self, mut position: u32) -> OsString {
        let mut names = Vec::new();
        while position != 0 && names.len() < 4096 {
            names.push(self.node(position).name);
            position = self.node(position).parent;
        }
        names.reverse();
        let path = [&b"/"[..], &names.join(&b'/')].concat();
        std::os::unix::ffi::OsStringExt::from_vec(path)
    }

    /// Links the names of each directory and counts the names of each inode.
    fn connect(&mut self) -> Result<(), WriteError> {
        let root = self.node(0);
        if !root.is_directory() || root.parent != 0 || !root.name.is_empty() {
            return Err(WriteError::Order(OsString::from("/")));
        }
        self.links[0] = 2;
        let mut last_child = vec![NONE; self.image.nodes.len()];
        for position in 1..u32::try_from(self.image.nodes.len()).expect("bounded by new") {
            let node = self.node(position);
            if node.parent >= position || !self.node(node.parent).is_directory() {
                return Err(WriteError::Order(node_name(node)));
            }
            self.check_name(position)?;
            let last = &mut last_child[node.parent as usize];
            match *last {
                NONE => self.first_child[node.parent as usize] = position,
                previous if self.node(previous).name < node.name => {
                    self.next_sibling[previous as usize] = position;
                }
                _ => return Err(WriteError::Order(self.path(position))),
            }
            *last = position;
            self.count_links(position)?;
        }
        Ok(())
    }

    fn check_name(&self, position: u32) -> Result<(), WriteError> {
        let name = self.node(position).name;
        match name {
            b"" | b"." | b".." => Err(self.fault(position, "it has no name")),
            _ if name.len() > MAX_NAME => {
                Err(self.fault(position, "its name is longer than 255 bytes"))
            }
            _ if name.contains(&0) || name.contains(&b'/') => {
                Err(self.fault(position, "its name holds a NUL or a slash"))
            }
            _ => Ok(()),
        }
    }

    fn count_links(&mut self, position: u32) -> Result<(), WriteError> {
        let node = self.node(position);
        match node.kind {
            NodeKind::Directory { .. } => {
                self.links[position as usize] = 2;
                self.links[node.parent as usize] += 1;
            }
            NodeKind::Link(target) => {
                let linkable = |kind| {
                    !matches!(
                        kind,
                        NodeKind::Directory { .. } | NodeKind::Link(_) | NodeKind::Whiteout
                    )
                };
                let found = self.image.nodes.get(target as usize);
                if !found.is_some_and(|target| linkable(target.kind)) {
                    return Err(self.fault(position, "it links to nothing that can be linked"));
                }
                self.links[target as usize] += 1;
            }
            _ => {}
        }
        Ok(())
    }

    /// Orders the inodes breadth first.
    fn arrange(&mut self) {
        let mut order = vec![0];
        let mut next = 0;
        while let Some(directory) = order.get(next).copied() {
            next += 1;
            if !self.node(directory).is_directory() {
                continue;
            }
            let with_inode = |child: &u32| !matches!(self.node(*child).kind, NodeKind::Link(_));
            order.extend(self.children(directory).filter(with_inode));
        }
        self.order = order;
    }

    fn place_inodes(&mut self) -> Result<(), WriteError> {
        let mut at = first_inode(self.image.devices.len()) as u64;
        let (mut blocks, mut chunk_bytes) = (0_u64, 0_u64);
        for position in std::mem::take(&mut self.order) {
            let shape = self.shape(position)?;
            let place = shape.place(at);
            self.nids[position as usize] =
                u32::try_from(place / SLOT).map_err(|_wide| WriteError::TooLarge)?;
            at = shape.end(place);
            blocks += u64::from(shape.blocks);
            if shape.layout == CHUNK_BASED {
                chunk_bytes += shape.tail as u64;
                self.copied += u64::from(shape.blocks) * BLOCK;
            }
            self.order.push(position);
            self.skipped_xattrs += xattr::skipped(self.node(position).xattrs);
        }
        if chunk_bytes > MAX_CHUNK_BYTES {
            return Err(WriteError::Chunks);
        }
        if self.copied > MAX_COPIED {
            return Err(WriteError::Copies);
        }
        let data_start = at.div_ceil(BLOCK);
        self.data_start = u32::try_from(data_start).map_err(|_wide| WriteError::TooLarge)?;
        self.blocks = u32::try_from(data_start + blocks).map_err(|_wide| WriteError::TooLarge)?;
        Ok(())
    }

    fn place_devices(&mut self) -> Result<(), WriteError> {
        let mut start = self.blocks;
        for device in &self.image.devices {
            let wide = || WriteError::Addresses(device.diff_id);
            let blocks = device_blocks(device.size_bytes).ok_or_else(wide)?;
            self.slots.push(Slot { tag: tag(device.diff_id), blocks, start });
            start = start.checked_add(blocks).ok_or_else(wide)?;
        }
        Ok(())
    }

    /// What the inode of a node needs; the same in both passes.
    pub(super) fn shape(&self, position: u32) -> Result<Shape, WriteError> {
        let node = self.node(position);
        let opaque = matches!(node.kind, NodeKind::Directory { opaque: true });
        let xattr_len =
            xattr::area_len(node.xattrs, opaque).map_err(|fault| self.fault(position, fault))?;
        let empty =
            Shape { xattr_len, size: 0, layout: FLAT_PLAIN, tail: 0, blocks: 0, chunk_bits: 0 };
        match node.kind {
            NodeKind::Directory { .. } => Ok(directory_shape(empty, self.directory_size(position))),
            NodeKind::Symlink { target } => match target.len() {
                1..=MAX_TARGET if !target.contains(&0) => Ok(symlink_shape(empty, target.len())),
                _ => Err(self.fault(position, "its target is empty, too long or holds a NUL")),
            },
            NodeKind::File { size, .. } => self.file_shape(position, Shape { size, ..empty }),
            NodeKind::CharDevice { major: 0, minor: 0 } => {
                Err(self.fault(position, "it is what overlay takes for a whiteout"))
            }
            NodeKind::CharDevice { major, minor } | NodeKind::BlockDevice { major, minor } => {
                match major < 1 << 12 && minor < 1 << 20 {
                    true => Ok(empty),
                    false => Err(self.fault(position, "its device number is too large")),
                }
            }
            NodeKind::Fifo | NodeKind::Whiteout | NodeKind::Link(_) => Ok(empty),
        }
    }

    /// Length of a directory's data: full blocks and what is used of the last.
    fn directory_size(&self, directory: u32) -> u64 {
        let mut packer = Packer::default();
        let mut dots: &[usize] = &[1, 2];
        for child in self.children(directory) {
            let name = self.node(child).name;
            while let Some((dot, rest)) = dots.split_first()
                && &b".."[..*dot] < name
            {
                packer.push(*dot);
                dots = rest;
            }
            packer.push(name.len());
        }
        dots.iter().for_each(|dot| {
            packer.push(*dot);
        });
        packer.size()
    }

    fn file_shape(&self, position: u32, shape: Shape) -> Result<Shape, WriteError> {
        let NodeKind::File { size, device, extents } = self.node(position).kind else {
            unreachable!("called for files only");
        };
        if size == 0 {
            return Ok(shape);
        }
        let device = self.image.devices.get(usize::from(device));
        let device = device.ok_or_else(|| self.fault(position, "its layer is not in the tree"))?;
        let (mut end, mut is_aligned) = (0, true);
        for extent in extents.iter() {
            let stop = extent.file_offset.checked_add(extent.length);
            let inside = extent.tar_offset.checked_add(extent.length);
            if extent.file_offset < end
                || stop.is_none_or(|stop| stop > size)
                || inside.is_none_or(|inside| inside > device.size_bytes)
            {
                return Err(self.fault(position, "its content lies outside of it or of its layer"));
            }
            is_aligned &= extent.tar_offset.is_multiple_of(BLOCK);
            end = extent.file_offset + extent.length;
        }
        let bits = match is_aligned {
            true if extents.as_contiguous(size).is_some() => return Ok(shape),
            true => chunk_bits(size, extents.iter().map(|run| (run.file_offset, run.length))),
            false => None,
        };
        let Some(bits) = bits else { return self.copied_shape(position, shape) };
        Ok(Shape { layout: CHUNK_BASED, tail: chunks_len(size, bits)?, chunk_bits: bits, ..shape })
    }

    /// The shape of a file whose runs no block address can name: every chunk that holds some of
    /// its content is copied into the image.
    fn copied_shape(&self, position: u32, shape: Shape) -> Result<Shape, WriteError> {
        let NodeKind::File { size, device, extents } = self.node(position).kind else {
            unreachable!("called for files only");
        };
        if self.image.tars.get(usize::from(device)).is_none() {
            return Err(self.fault(position, "its holes are not aligned to 512 bytes"));
        }
        let mut bits = 0;
        while size.div_ceil(BLOCK << bits) > MAX_COPIED_CHUNK_BYTES / CHUNK_LEN as u64
            && bits < MAX_CHUNK_BITS
        {
            bits += 1;
        }
        let tail = chunks_len(size, bits)?;
        let blocks = data_chunks(extents, bits).try_fold(0_u64, |blocks, chunk| {
            let total = blocks + chunk_len(size, bits, chunk).div_ceil(BLOCK);
            (total <= MAX_COPIED / BLOCK).then_some(total)
        });
        let blocks = blocks.and_then(|blocks| u32::try_from(blocks).ok());
        let blocks = blocks.ok_or(WriteError::Copies)?;
        Ok(Shape { layout: CHUNK_BASED, tail, chunk_bits: bits, blocks, ..shape })
    }
}

fn node_name(node: &Node<'_>) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(node.name.to_vec())
}

/// A directory's data: full blocks in the data area, the last, partial one inline where it can be.
fn directory_shape(shape: Shape, size: u64) -> Shape {
    let last = usize::try_from(size % BLOCK).expect("below a block");
    let full = size / BLOCK;
    // An inode can be moved in slots, so inline data begins at best this far inside a block.
    let at_best = shape.body() % SLOT_LEN;
    let inline = last != 0 && at_best + last <= BLOCK_LEN;
    let blocks = u32::try_from(if inline { full } else { size.div_ceil(BLOCK) })
        .expect("2^32 names need less than 2^40 bytes, and inode numbers end before");
    match inline {
        true => Shape { size, layout: FLAT_INLINE, tail: last, blocks, ..shape },
        false => Shape { size, layout: FLAT_PLAIN, blocks, ..shape },
    }
}

/// A symbolic link's target: inline, or in blocks of its own.
fn symlink_shape(shape: Shape, size: usize) -> Shape {
    match size < BLOCK_LEN {
        true => directory_shape(shape, size as u64),
        false => Shape {
            size: size as u64,
            blocks: u32::try_from(size.div_ceil(BLOCK_LEN)).expect("targets are short"),
            ..shape
        },
    }
}

/// Fills directory blocks greedily, as the kernel searches them.
#[derive(Default)]
pub(super) struct Packer {
    blocks: u64,
    used: usize,
}

impl Packer {
    /// Adds a name of `len` bytes; true where it begins a new block.
    pub(super) fn push(&mut self, len: usize) -> bool {
        let wrap = self.used + DIRENT_LEN + len > BLOCK_LEN;
        if wrap {
            self.blocks += 1;
            self.used = 0;
        }
        self.used += DIRENT_LEN + len;
        wrap
    }

    pub(super) const fn size(&self) -> u64 {
        self.blocks * BLOCK + self.used as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inline_data_never_crosses_a_block() {
        for xattr_len in [0, 16, 20, 36, 100, 500, 3000] {
            for size in 1..2000_u64 {
                let shape = Shape {
                    xattr_len,
                    size: 0,
                    layout: FLAT_PLAIN,
                    tail: 0,
                    blocks: 0,
                    chunk_bits: 0,
                };
                let shape = directory_shape(shape, size);
                let stored = u64::from(shape.blocks) * BLOCK + shape.tail as u64;
                assert!(stored >= size && stored < size + BLOCK, "{size}: {shape:?}");
                for at in (1536..3072).step_by(4) {
                    let place = shape.place(at);
                    assert!(place >= at && place.is_multiple_of(SLOT) && place < at + BLOCK + SLOT);
                    let tail = place + shape.body() as u64;
                    if shape.tail > 0 {
                        assert!(tail % BLOCK + shape.tail as u64 <= BLOCK, "{size} at {at}");
                    }
                }
            }
        }
    }
}
