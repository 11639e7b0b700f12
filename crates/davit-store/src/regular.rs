//! Opening the store's files: what lies in the place of one is refused, not waited for.

use std::{io, path::Path};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use rustix::fs::OFlags;

/// Opens a file for reading; a pipe, on which an open would wait for its writer, and whatever else
/// has no content of its own is an error.
pub(crate) fn open(path: &Path) -> io::Result<fs::File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    let refusal = format!("{} is no regular file", path.display());
    Err(io::Error::new(io::ErrorKind::InvalidData, refusal))
}
