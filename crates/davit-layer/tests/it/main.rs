//! Layers through their public interface: archives that real and hostile writers make.

#![allow(clippy::unwrap_used, reason = "a test may end here")]

mod any_bytes;
mod archive;
mod compress;
mod diff;
mod estargz;
mod extract;
mod hostile;
mod merge;
mod model;
mod read;
mod write;
