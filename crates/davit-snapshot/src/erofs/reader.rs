//! A strict reader: it accepts what [`super::write()`] makes and nothing else.
//!
//! The kernel trusts an image more than is good for the host, and reads a torn one without an
//! error. So a tree whose file was not written by this boot's davit passes through here before it
//! is mounted, and the tests use it as their oracle. Every byte of the file is accounted for: it
//! belongs to one record, or it is zero padding.

mod directory;
mod inode;

use davit_layer::Mtime;

use super::{
    format::{BLOCK, SLOT, first_inode},
    header::Header,
};

/// Why bytes are no tree.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Superblock or device table.
    #[error("its header is wrong")]
    Header(#[source] std::io::Error),
    /// An inode, or the data that belongs to it.
    #[error("inode {nid}: {fault}")]
    Inode {
        /// Its number: offset in the file divided by 32.
        nid: u64,
        /// What is wrong.
        fault: &'static str,
    },
    /// The file as a whole.
    #[error("{0}")]
    Whole(&'static str),
}

/// A tree that has been read and checked whole.
#[derive(Clone, Debug)]
pub struct Tree<'a> {
    /// UUID of the file system.
    pub uuid: [u8; 16],
    /// Size of each device in blocks of 512 bytes.
    pub device_blocks: Vec<u32>,
    /// Every inode; the first is the root.
    pub inodes: Vec<Inode<'a>>,
    /// Every name but the dots, directory by directory, breadth first.
    pub names: Vec<Name<'a>>,
}

/// A name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'a> {
    /// Position of the directory in [`Tree::inodes`].
    pub directory: u32,
    /// The name.
    pub name: &'a [u8],
    /// Position of what it names.
    pub inode: u32,
}

/// An inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode<'a> {
    /// Type, and what only that type has.
    pub kind: InodeKind<'a>,
    /// Permission, set-id and sticky bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification.
    pub mtime: Mtime,
    /// Number of names; of a directory, two and its subdirectories.
    pub links: u32,
    /// Name and value of each extended attribute, in stored order.
    pub xattrs: Vec<(Vec<u8>, &'a [u8])>,
}

/// The type of an [`Inode`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InodeKind<'a> {
    /// A directory; opaque ones carry the xattr.
    Directory,
    /// A regular file.
    File {
        /// Length in bytes.
        size: u64,
        /// Where its content lies, in file order; what no run covers is a hole.
        runs: Vec<Run>,
    },
    /// A symbolic link.
    Symlink(&'a [u8]),
    /// A character device; 0:0 is a whiteout.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// A piece of a file in one of the devices, or in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where it stands in the file.
    pub file_offset: u64,
    /// Position of the device in the device table; none for the tree itself.
    pub device: Option<u16>,
    /// Where it stands there.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

impl<'a> Tree<'a> {
    /// Reads and checks `bytes`, the content of a whole file.
    ///
    /// # Errors
    /// [`TreeError`] for the first thing that the writer would not have written so.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TreeError> {
        let header = Header::parse(bytes).map_err(TreeError::Header)?;
        if bytes.len() as u64 != u64::from(header.blocks) * BLOCK {
            return Err(TreeError::Whole("the file's size is not the superblock's"));
        }
        let mut walk = Walk::new(bytes, &header);
        walk.visit(u64::from(header.root), None)?;
        let mut next = 0;
        while next < walk.inodes.len() {
            walk.directory(u32::try_from(next).expect("inodes are counted in u32"))?;
            next += 1;
        }
        walk.finish()
    }
}

/// The tree as it is discovered.
struct Walk<'a, 'h> {
    bytes: &'a [u8],
    header: &'h Header,
    /// Position by nid, 0 for what was not seen; the root is seen first and never looked up.
    seen: Vec<u32>,
    inodes: Vec<Inode<'a>>,
    found: Vec<Found>,
    names: Vec<Name<'a>>,
    /// Byte ranges that records occupy.
    used: Vec<(u64, u64)>,
}

/// What is known of an inode beside its content.
#[derive(Clone, Copy)]
struct Found {
    nid: u64,
    /// nid of the directory above, for a directory.
    parent: u64,
    /// Names counted so far.
    links: u32,
    /// `i_ino`.
    number: u32,
    data: Data,
}

/// A directory's data: full blocks, then what stands inline.
#[derive(Clone, Copy)]
struct Data {
    blocks_at: u64,
    blocks_len: u64,
    tail_at: u64,
    tail_len: u64,
}

impl<'a, 'h> Walk<'a, 'h> {
    fn new(bytes: &'a [u8], header: &'h Header) -> Self {
        let slots = usize::try_from(bytes.len() as u64 / SLOT).expect("less than the length");
        // A lie about the number of inodes may not cost memory.
        let capacity = usize::try_from(header.inodes).unwrap_or(0).min(slots / 2);
        Self {
            bytes,
            header,
            seen: vec![0; slots],
            inodes: Vec::with_capacity(capacity),
            found: Vec::with_capacity(capacity),
            names: Vec::with_capacity(capacity),
            used: vec![(0, first_inode(header.devices.len()) as u64)],
        }
    }

    /// The bytes from `at`, as a fault of `nid` where they are not all there.
    fn slice(&self, nid: u64, at: u64, len: u64) -> Result<&'a [u8], TreeError> {
        let end = at.checked_add(len).filter(|end| *end <= self.bytes.len() as u64);
        let range = end.and_then(|end| Some(usize::try_from(at).ok()?..usize::try_from(end).ok()?));
        range
            .and_then(|range| self.bytes.get(range))
            .ok_or(TreeError::Inode { nid, fault: "it ends beyond the file" })
    }

    fn finish(mut self) -> Result<Tree<'a>, TreeError> {
        if self.inodes.len() as u64 != self.header.inodes {
            return Err(TreeError::Whole("the superblock counts other inodes than are reachable"));
        }
        for (inode, found) in self.inodes.iter().zip(&self.found) {
            if inode.links != found.links {
                let fault = "its link count differs from its names";
                return Err(TreeError::Inode { nid: found.nid, fault });
            }
        }
        self.check_numbers()?;
        self.check_padding()?;
        Ok(Tree {
            uuid: self.header.uuid,
            device_blocks: self.header.devices.iter().map(|slot| slot.blocks).collect(),
            inodes: self.inodes,
            names: self.names,
        })
    }

    /// Inode numbers run from 1 in the order of nids.
    fn check_numbers(&self) -> Result<(), TreeError> {
        let mut numbers: Vec<_> =
            self.found.iter().map(|found| (found.nid, found.number)).collect();
        numbers.sort_unstable();
        for (expected, (nid, number)) in (1_u32..).zip(numbers) {
            if number != expected {
                return Err(TreeError::Inode { nid, fault: "its number is out of order" });
            }
        }
        Ok(())
    }

    /// Records do not overlap, and nothing but zeros lies between them.
    fn check_padding(&mut self) -> Result<(), TreeError> {
        self.used.sort_unstable();
        self.used.push((self.bytes.len() as u64, self.bytes.len() as u64));
        let mut end = 0;
        for (start, stop) in &self.used {
            if *start < end {
                return Err(TreeError::Whole("two records overlap"));
            }
            let gap = self.slice(0, end, start - end)?;
            if gap.iter().any(|byte| *byte != 0) {
                return Err(TreeError::Whole("there is something between two records"));
            }
            end = *stop;
        }
        Ok(())
    }
}
