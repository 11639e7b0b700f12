//! Root filesystems: EROFS trees, extracted directories and overlay mounts.
//!
//! ```text
//!  in any process, before the container's row          in the monitor or the build supervisor
//!  ---------------------------------------------       ------------------------------------------
//!  Snapshots::open -> prepare(chain) -> Stack   ----->  MountNamespace::enter -> lowers(&stack)
//!     (writes the missing trees)     (serialisable)        -> overlay(&lowers, &upper, options)
//!                                                          -> a detached mount (OwnedFd) = rootfs
//!                                                             \-> Snapshots::changes -> a layer
//! ```
//!
//! A [`Stack`] names what a chain of layers is made of: trees (or an extracted directory) bottom
//! first, and one small *init* tree with the mountpoints. It is plain data and crosses process
//! borders. Nothing is ever mounted in the caller's or the host's mount namespace.
//!
//! **Invariant:** a tree is derived from the layers' tables; deleting one loses nothing.

#![forbid(unsafe_code)]

mod chain;
mod changes;
mod checked;
mod copy;
pub mod erofs;
mod error;
mod holder;
mod make;
mod mountpoints;
mod namespace;
mod overlay;
mod probe;
mod snapshots;
mod stack;
mod tree_mount;
mod upper;

pub use error::SnapshotError;
pub use mountpoints::Mountpoints;
pub use namespace::{Lowers, MountNamespace};
pub use overlay::{Durability, InodeNumbers, Interface, OverlayOptions};
pub use snapshots::{PrepareOptions, SnapshotSettings, Snapshots};
pub use stack::{Device, Form, Location, Part, Stack, TreeId, TreeIdError};
pub use upper::Upper;
