//! Read-only memory maps of immutable files.

use std::{fs::File, io, ops::Deref};

/// The bytes of a file, mapped for reading.
///
/// Meant for files that nobody writes once they are visible (the store's own, mode 0400): bytes
/// that another process changes would change here too, and reading beyond a later truncation ends
/// the process by SIGBUS.
#[derive(Debug)]
pub struct Map(memmap2::Mmap);

impl Map {
    /// Maps the whole of `file` as it is now. An empty file gives an empty map.
    ///
    /// # Errors
    /// What `mmap` reports.
    pub fn read_only(file: &File) -> io::Result<Self> {
        // SAFETY: the map is private to reading, lives as long as `Self`, and is used for files of
        // the store, which are complete and never written again before they get their final name.
        unsafe { memmap2::Mmap::map(file) }.map(Self)
    }

    /// Lets go of the memory; what is looked at again is mapped again.
    pub fn release(&self) {
        // SAFETY: the pages are those of a file that nobody changes, so they come back as they were.
        let advised = unsafe { self.0.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        // Without it they stay until the map goes.
        drop(advised);
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn shows_the_content() {
        let memory = rustix::fs::memfd_create("map", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = File::from(memory);
        assert!(Map::read_only(&file).unwrap().is_empty());
        file.write_all(b"content").unwrap();
        let map = Map::read_only(&file).unwrap();
        assert_eq!(&*map, b"content");
        map.release();
        assert_eq!(&*map, b"content");
    }
}
