//! Layers through their public interface: archives that real and hostile writers make.

mod archive;
mod hostile;
mod merge;
mod read;
