//! EROFS images that hold only metadata: the writer and a strict reader.
//!
//! The format is the kernel's (`fs/erofs/erofs_fs.h`); `docs/formats/tree.md` describes the subset
//! that davit writes. The reader accepts that subset and nothing else.

pub(crate) mod format;
mod header;
mod image;
mod plan;
mod reader;
mod writer;
mod xattr;

pub(crate) use header::Header;
pub use image::{Image, Node, NodeKind};
pub use plan::WriteError;
pub use reader::{Inode, InodeKind, Name, Run, Tree, TreeError};
pub use writer::{Written, write};
