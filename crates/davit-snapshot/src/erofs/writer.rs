//! Writes an image front to back, from a finished plan.

use std::{
    fs::File,
    io::{BufWriter, Write},
    os::unix::fs::FileExt as _,
    sync::Arc,
};

use davit_layer::Extents;

use super::{
    format::{
        BLOCK, BLOCK_LEN, CHUNK_BASED, CHUNK_INDEXES, CHUNK_LEN, DIRENT_LEN, FLAT_INLINE, HOLE,
        INODE_LEN, SLOT, XATTR_HEADER_LEN, file_type, mode,
    },
    header::Header,
    image::{Image, Node, NodeKind},
    plan::{Packer, Plan, Shape, WriteError, chunk_len, data_chunks},
    xattr::{self, OPAQUE},
};

/// What [`write()`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Length of the image in bytes.
    pub size_bytes: u64,
    /// Inodes in it.
    pub inodes: u64,
    /// Extended attributes left out because EROFS cannot hold their prefix.
    pub skipped_xattrs: u64,
    /// Bytes of content that were copied into the image. No reader can tell whether they are
    /// whole: sync the file before it counts.
    pub copied_bytes: u64,
}

/// Writes `image` to `sink`, front to back; equal input yields equal bytes.
///
/// Memory: 20 bytes for each node beside the nodes themselves.
///
/// # Errors
/// [`WriteError`] for what the format or the kernel cannot hold, before the first byte is written,
/// or for what `sink` reports.
pub fn write(image: &Image<'_>, sink: &mut dyn Write) -> Result<Written, WriteError> {
    let plan = Plan::new(image)?;
    let mut writer = Writer {
        plan: &plan,
        sink: BufWriter::with_capacity(1 << 16, sink),
        at: 0,
        scratch: Vec::new(),
    };
    writer.image().map_err(WriteError::Write)?;
    Ok(Written {
        size_bytes: u64::from(plan.blocks) * BLOCK,
        inodes: plan.order.len() as u64,
        skipped_xattrs: plan.skipped_xattrs,
        copied_bytes: plan.copied,
    })
}

struct Writer<'a, 'w> {
    plan: &'a Plan<'a>,
    sink: BufWriter<&'w mut dyn Write>,
    at: u64,
    /// The data of the directory at hand.
    scratch: Vec<u8>,
}

/// Content is copied in pieces of this size.
const COPY_LEN: usize = 64 << 10;

type Io<T> = std::io::Result<T>;

impl Writer<'_, '_> {
    fn image(&mut self) -> Io<()> {
        let plan = self.plan;
        let header = Header {
            uuid: plan.image.uuid,
            inodes: plan.order.len() as u64,
            root: u16::try_from(plan.nids[0]).expect("the plan bounds the devices before the root"),
            blocks: plan.blocks,
            devices: plan.slots.clone(),
        };
        self.put(&header.to_bytes())?;
        let mut next_block = plan.data_start;
        for (number, position) in (1_u32..).zip(&plan.order) {
            let shape = plan.shape(*position).expect("it was planned");
            self.inode(*position, &shape, number, next_block)?;
            next_block += shape.blocks;
        }
        self.pad_to(u64::from(plan.data_start) * BLOCK)?;
        for position in &plan.order {
            let shape = plan.shape(*position).expect("it was planned");
            if shape.blocks > 0 {
                self.blocks(*position, &shape)?;
            }
        }
        self.sink.flush()
    }

    fn inode(&mut self, position: u32, shape: &Shape, number: u32, block: u32) -> Io<()> {
        let node = self.plan.node(position);
        self.pad_to(u64::from(self.plan.nids[position as usize]) * SLOT)?;
        let units = match shape.xattr_len {
            0 => 0,
            len => (len - XATTR_HEADER_LEN) / 4 + 1,
        };
        let units = u16::try_from(units).expect("the plan bounds the xattrs");
        let mut inode = [0; INODE_LEN];
        let mut put = |at: usize, value: &[u8]| inode[at..at + value.len()].copy_from_slice(value);
        put(0, &(shape.layout << 1 | 1).to_le_bytes());
        put(2, &units.to_le_bytes());
        put(4, &mode_of(node).to_le_bytes());
        put(8, &shape.size.to_le_bytes());
        put(16, &self.union_field(node, shape, block).to_le_bytes());
        put(20, &number.to_le_bytes());
        if !matches!(node.kind, NodeKind::Whiteout) {
            put(24, &node.uid.to_le_bytes());
            put(28, &node.gid.to_le_bytes());
            put(32, &node.mtime.seconds.to_le_bytes());
            put(40, &node.mtime.nanoseconds.to_le_bytes());
        }
        put(44, &self.plan.links[position as usize].to_le_bytes());
        self.put(&inode)?;
        self.xattrs(node, shape)?;
        match (shape.layout, node.kind) {
            (FLAT_INLINE, _) => {
                self.data(position);
                let tail = self.scratch.split_off(self.scratch.len() - shape.tail);
                self.put(&tail)
            }
            (CHUNK_BASED, NodeKind::File { size, device, extents }) => {
                self.pad_to(self.at.next_multiple_of(CHUNK_LEN as u64))?;
                match shape.blocks {
                    0 => self.chunks(size, device, extents, shape.chunk_bits),
                    _ => self.copied_chunks(size, extents, shape.chunk_bits, block),
                }
            }
            _ => Ok(()),
        }
    }

    /// `i_u`: what it means depends on type and layout.
    fn union_field(&self, node: &Node<'_>, shape: &Shape, block: u32) -> u32 {
        match node.kind {
            NodeKind::CharDevice { major, minor } | NodeKind::BlockDevice { major, minor } => {
                minor & 0xff | major << 8 | (minor & !0xff) << 12
            }
            NodeKind::File { .. } if shape.layout == CHUNK_BASED => {
                u32::from(CHUNK_INDEXES) | shape.chunk_bits
            }
            NodeKind::File { size, device, extents } => {
                let slot = self.plan.slots.get(usize::from(device));
                match (slot, extents.as_contiguous(size)) {
                    (Some(slot), Some(offset)) if size > 0 => slot.start + block_of(offset),
                    _ => 0,
                }
            }
            _ if shape.blocks > 0 => block,
            _ => 0,
        }
    }

    fn xattrs(&mut self, node: &Node<'_>, shape: &Shape) -> Io<()> {
        if shape.xattr_len == 0 {
            return Ok(());
        }
        self.put(&[0; XATTR_HEADER_LEN])?;
        if matches!(node.kind, NodeKind::Directory { opaque: true }) {
            self.xattr(OPAQUE.0, OPAQUE.1, OPAQUE.2)?;
        }
        for (name, value) in node.xattrs.iter() {
            if let Some((index, rest)) = xattr::split(name) {
                self.xattr(index, rest, value)?;
            }
        }
        Ok(())
    }

    fn xattr(&mut self, index: u8, rest: &[u8], value: &[u8]) -> Io<()> {
        let end = self.at + xattr::entry_len(rest.len(), value.len()) as u64;
        let name_len = u8::try_from(rest.len()).expect("the plan bounds names of xattrs");
        let value_len = u16::try_from(value.len()).expect("the plan bounds values of xattrs");
        self.put(&[name_len, index])?;
        self.put(&value_len.to_le_bytes())?;
        self.put(rest)?;
        self.put(value)?;
        self.pad_to(end)
    }

    /// Chunk entries: `{0 u16, device u16 from 1, block in the device u32}`, or a hole.
    fn chunks(&mut self, size: u64, device: u16, extents: Extents<'_>, bits: u32) -> Io<()> {
        let mut runs = extents.iter().peekable();
        for chunk in 0..size.div_ceil(BLOCK << bits) {
            let offset = chunk * (BLOCK << bits);
            while runs.next_if(|run| run.file_offset + run.length <= offset).is_some() {}
            let mut entry = [0; CHUNK_LEN];
            match runs.peek().filter(|run| run.file_offset <= offset) {
                None => entry[4..].copy_from_slice(&HOLE.to_le_bytes()),
                Some(run) => {
                    let block = block_of(run.tar_offset + (offset - run.file_offset));
                    entry[2..4].copy_from_slice(&(device + 1).to_le_bytes());
                    entry[4..].copy_from_slice(&block.to_le_bytes());
                }
            }
            self.put(&entry)?;
        }
        Ok(())
    }

    /// Chunk entries of a copied file: device 0 is the image itself.
    fn copied_chunks(
        &mut self,
        size: u64,
        extents: Extents<'_>,
        bits: u32,
        mut block: u32,
    ) -> Io<()> {
        let mut data = data_chunks(extents, bits).peekable();
        for chunk in 0..size.div_ceil(BLOCK << bits) {
            let mut entry = [0; CHUNK_LEN];
            if data.next_if_eq(&chunk).is_some() {
                entry[4..].copy_from_slice(&block.to_le_bytes());
                block += block_of(chunk_len(size, bits, chunk).next_multiple_of(BLOCK));
            } else {
                entry[4..].copy_from_slice(&HOLE.to_le_bytes());
            }
            self.put(&entry)?;
        }
        Ok(())
    }

    /// Copies the chunks of a file that hold some of its content.
    fn copy(&mut self, size: u64, tar: &File, extents: Extents<'_>, bits: u32) -> Io<()> {
        let runs: Vec<_> = extents.iter().collect();
        let mut buffer = vec![0; COPY_LEN];
        let mut first = 0;
        for chunk in data_chunks(extents, bits) {
            let start = chunk * (BLOCK << bits);
            let end = start + chunk_len(size, bits, chunk);
            let mut at = start;
            while at < end {
                let len = usize::try_from(end - at).map_or(COPY_LEN, |len| len.min(COPY_LEN));
                let piece = &mut buffer[..len];
                piece.fill(0);
                let stop = at + len as u64;
                while runs.get(first).is_some_and(|run| run.file_offset + run.length <= at) {
                    first += 1;
                }
                for run in runs[first..].iter().take_while(|run| run.file_offset < stop) {
                    let from = run.file_offset.max(at);
                    let to = (run.file_offset + run.length).min(stop);
                    let within = |offset: u64| usize::try_from(offset - at).expect("in the piece");
                    let tar_offset = run.tar_offset + (from - run.file_offset);
                    tar.read_exact_at(&mut piece[within(from)..within(to)], tar_offset)?;
                }
                self.put(&buffer[..len])?;
                at = stop;
            }
            self.pad_to(self.at.next_multiple_of(BLOCK))?;
        }
        Ok(())
    }

    /// What stands in the data area of a directory or symbolic link, or of a file that is copied.
    fn blocks(&mut self, position: u32, shape: &Shape) -> Io<()> {
        if let NodeKind::File { size, device, extents } = self.plan.node(position).kind {
            let tar = Arc::clone(&self.plan.image.tars[usize::from(device)]);
            return self.copy(size, &tar, extents, shape.chunk_bits);
        }
        self.data(position);
        let len = self.scratch.len().min(shape.blocks as usize * BLOCK_LEN);
        let data = std::mem::take(&mut self.scratch);
        self.put(&data[..len])?;
        self.scratch = data;
        self.pad_to(self.at.next_multiple_of(BLOCK))
    }

    /// Fills the scratch buffer with the data of a directory or symbolic link.
    fn data(&mut self, position: u32) {
        self.scratch.clear();
        match self.plan.node(position).kind {
            NodeKind::Symlink { target } => self.scratch.extend_from_slice(target),
            NodeKind::Directory { .. } => self.directory(position),
            _ => unreachable!("no other type has data in the tree"),
        }
    }

    fn directory(&mut self, position: u32) {
        let plan = self.plan;
        let node = plan.node(position);
        let nid = |position: u32| plan.nids[position as usize];
        let mut entries: Vec<(&[u8], u32, u8)> = Vec::new();
        for child in plan.children(position) {
            let target = match plan.node(child).kind {
                NodeKind::Link(target) => target,
                _ => child,
            };
            entries.push((plan.node(child).name, nid(target), type_of(plan.node(target))));
        }
        let dots: [(&[u8], u32); 2] = [(b".", nid(position)), (b"..", nid(node.parent))];
        for (dot, nid) in dots {
            let at = entries.partition_point(|(name, ..)| *name < dot);
            entries.insert(at, (dot, nid, file_type::DIRECTORY));
        }
        let mut packer = Packer::default();
        let mut first = 0;
        for (position, (name, ..)) in entries.iter().enumerate() {
            if packer.push(name.len()) {
                directory_block(&mut self.scratch, &entries[first..position]);
                self.scratch.resize(self.scratch.len().next_multiple_of(BLOCK_LEN), 0);
                first = position;
            }
        }
        directory_block(&mut self.scratch, &entries[first..]);
    }

    fn put(&mut self, bytes: &[u8]) -> Io<()> {
        self.at += bytes.len() as u64;
        self.sink.write_all(bytes)
    }

    fn pad_to(&mut self, end: u64) -> Io<()> {
        const ZEROS: [u8; BLOCK_LEN] = [0; BLOCK_LEN];
        while self.at < end {
            let len = usize::try_from(end - self.at).map_or(BLOCK_LEN, |len| len.min(BLOCK_LEN));
            self.put(&ZEROS[..len])?;
        }
        Ok(())
    }
}

/// One directory block: all entries, then all names.
fn directory_block(block: &mut Vec<u8>, entries: &[(&[u8], u32, u8)]) {
    let mut name_at = entries.len() * DIRENT_LEN;
    for (name, nid, file_type) in entries {
        let offset = u16::try_from(name_at).expect("inside a block");
        block.extend_from_slice(&u64::from(*nid).to_le_bytes());
        block.extend_from_slice(&offset.to_le_bytes());
        block.extend_from_slice(&[*file_type, 0]);
        name_at += name.len();
    }
    entries.iter().for_each(|(name, ..)| block.extend_from_slice(name));
}

fn block_of(offset: u64) -> u32 {
    u32::try_from(offset / BLOCK).expect("the plan bounds the devices")
}

fn mode_of(node: &Node<'_>) -> u16 {
    let format = match node.kind {
        NodeKind::Directory { .. } => mode::DIRECTORY,
        NodeKind::File { .. } => mode::REGULAR,
        NodeKind::Symlink { .. } => mode::SYMLINK,
        NodeKind::CharDevice { .. } => mode::CHAR,
        NodeKind::BlockDevice { .. } => mode::BLOCK,
        NodeKind::Fifo => mode::FIFO,
        NodeKind::Whiteout => return mode::CHAR,
        NodeKind::Link(_) => unreachable!("links have no inode"),
    };
    format | node.mode & 0o7777
}

fn type_of(node: &Node<'_>) -> u8 {
    match node.kind {
        NodeKind::Directory { .. } => file_type::DIRECTORY,
        NodeKind::File { .. } => file_type::REGULAR,
        NodeKind::Symlink { .. } => file_type::SYMLINK,
        NodeKind::CharDevice { .. } | NodeKind::Whiteout => file_type::CHAR,
        NodeKind::BlockDevice { .. } => file_type::BLOCK,
        NodeKind::Fifo => file_type::FIFO,
        NodeKind::Link(_) => unreachable!("links are resolved"),
    }
}
