//! Reading once: pages that a read brings in go again when it is done (`RWF_DONTCACHE`, preadv2(2)).
//! What was cached before stays.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    os::unix::fs::FileExt as _,
};

use rustix::io::{Errno, ReadWriteFlags};

use crate::release;

const DONTCACHE: ReadWriteFlags =
    ReadWriteFlags::from_bits_retain(libc::RWF_DONTCACHE.cast_unsigned());
/// Linux 6.14 and 6.15 have the flag, but may drop pages that were written meanwhile.
const SINCE: (u32, u32) = (6, 16);

/// [`FileExt::read_exact_at`] that lets the pages go which it had to read from the disk; an
/// ordinary one where the kernel or the file system does not know that.
///
/// # Errors
/// Those of read(2), and `UnexpectedEof`.
pub fn read_exact_at(file: &File, mut into: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !into.is_empty() {
        let uncached =
            || rustix::io::preadv2(file, &mut [IoSliceMut::new(into)], offset, DONTCACHE);
        match attempt(uncached) {
            None => return file.read_exact_at(into, offset),
            Some(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(Ok(count)) => {
                into = &mut into[count..];
                offset += count as u64;
            }
            Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Some(Err(error)) => return Err(error),
        }
    }
    Ok(())
}

/// `None` where it is not supported.
fn attempt(call: impl FnOnce() -> Result<usize, Errno>) -> Option<io::Result<usize>> {
    if release::running().is_none_or(|running| running < SINCE) {
        return None;
    }
    match call() {
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => None,
        result => Some(result.map_err(io::Error::from)),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{Mode, OFlags};

    use super::*;

    /// On whatever holds the folder of the tests, and on a file system that refuses the flag.
    #[test]
    fn reads_what_was_written() {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let on_disk = rustix::fs::open(std::env::temp_dir(), flags, Mode::RUSR).unwrap();
        let in_memory =
            rustix::fs::memfd_create("uncached", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        for file in [on_disk, in_memory].map(File::from) {
            let bytes: Vec<u8> = (0..300_001_u32).map(|at| at.to_le_bytes()[0]).collect();
            file.write_all_at(&bytes, 77).unwrap();
            let mut back = vec![0; bytes.len()];
            read_exact_at(&file, &mut back, 77).unwrap();
            assert!(back == bytes);
            let past = read_exact_at(&file, &mut back, 78).unwrap_err();
            assert_eq!(past.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
