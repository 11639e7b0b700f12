//! Trees and mounts against the kernel, `fsck.erofs` and the peers' unpackers.

mod erofs;
mod fsck;
mod mounts;
mod support;
