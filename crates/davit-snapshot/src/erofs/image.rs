//! What the writer writes: nodes in order, views into the layers' tables.

use std::{fs::File, sync::Arc};

use davit_layer::{Extents, Mtime, Xattrs};

use crate::Device;

/// A file system to be written.
#[derive(Clone, Debug, Default)]
pub struct Image<'a> {
    /// UUID; not all zeros, since overlay's `xino=auto` needs one.
    pub uuid: [u8; 16],
    /// The tars that extents lie in.
    pub devices: Vec<Device>,
    /// The same tars, open: content that no block address can name is copied from there. May be
    /// empty; a file with such content is refused then.
    pub tars: Vec<Arc<File>>,
    /// Every name. The first node is the root directory; a directory stands before what it holds,
    /// and the names of one directory are in order of unsigned bytes.
    pub nodes: Vec<Node<'a>>,
}

/// One name in an [`Image`].
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    /// Position of the directory that holds it; that of the root is its own.
    pub parent: u32,
    /// Its name in there, 1 to 255 bytes; empty for the root.
    pub name: &'a [u8],
    /// Type, and what only that type has.
    pub kind: NodeKind<'a>,
    /// Permission, set-id and sticky bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification; shown as atime and ctime too.
    pub mtime: Mtime,
    /// Extended attributes. Those outside `user.`, `trusted.`, `security.` and the ACLs are left
    /// out and counted, those of overlay are left out.
    pub xattrs: Xattrs<'a>,
}

/// The type of a [`Node`].
#[derive(Clone, Copy, Debug)]
pub enum NodeKind<'a> {
    /// A directory.
    Directory {
        /// Overlay hides what lies below it.
        opaque: bool,
    },
    /// A regular file.
    File {
        /// Its length in bytes.
        size: u64,
        /// Position of the tar in [`Image::devices`].
        device: u16,
        /// Where its content lies there.
        extents: Extents<'a>,
    },
    /// A symbolic link.
    Symlink {
        /// Its target.
        target: &'a [u8],
    },
    /// A further name of the node at this position, which is no directory and no link; the
    /// metadata here is not used.
    Link(u32),
    /// A character device.
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
    /// Overlay's mark that the name is gone: character device 0:0.
    Whiteout,
}

impl Node<'_> {
    pub(crate) const fn is_directory(&self) -> bool {
        matches!(self.kind, NodeKind::Directory { .. })
    }
}
