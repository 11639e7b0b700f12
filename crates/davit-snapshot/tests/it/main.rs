//! Trees and mounts against the kernel, `fsck.erofs` and the peers' unpackers.

mod erofs;
mod faults;
mod fsck;
mod images;
mod mounts;
mod sharing;
mod support;
