//! Reading what a batch takes from another layer's tar in one call.

use std::{fs::File, sync::Arc};

use davit_sys::uncached;

use super::{Change, ChangeKind, Source, batch::ENTRY_BYTES};
use crate::Extent;

/// What is read at once, at most: room for all but the odd batch, which reads file by file.
const WINDOW_BYTES: u64 = 1 << 20;

/// A range of one tar, read at once: files that come from another layer mostly follow each other
/// there as they do here.
#[derive(Debug, Default)]
pub(super) struct Window {
    tar: Option<Arc<File>>,
    /// Where in the tar `bytes` begin.
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// Reads what the changes take from the first tar among them, if it lies close together; a
    /// failure shows when the files are read one by one.
    pub(super) fn read(&mut self, changes: &[Change]) {
        self.tar = None;
        let sources = || {
            changes.iter().filter_map(|change| match &change.kind {
                ChangeKind::File { source: Source::Tar { tar, extents }, .. } => {
                    Some((tar, extents))
                }
                _ => None,
            })
        };
        let Some((tar, _)) = sources().next() else { return };
        let of_tar = sources().filter(|(other, _)| Arc::ptr_eq(other, tar));
        let extents = of_tar.flat_map(|(_, extents)| extents);
        let (mut start, mut end, mut wanted) = (u64::MAX, 0, 0);
        for extent in extents {
            start = start.min(extent.tar_offset);
            end = end.max(extent.tar_offset.saturating_add(extent.length));
            wanted += extent.length + ENTRY_BYTES;
        }
        let length = end.saturating_sub(start);
        if length > 2 * wanted || length > WINDOW_BYTES {
            return;
        }
        self.bytes.resize(usize::try_from(length).unwrap_or(0), 0);
        if uncached::read_exact_at(tar, &mut self.bytes, start).is_ok() {
            (self.tar, self.start) = (Some(Arc::clone(tar)), start);
        }
    }

    /// Copies the content of a file, whose holes are zeros in `into` already; whether it was here.
    pub(super) fn copy(&self, tar: &Arc<File>, extents: &[Extent], into: &mut [u8]) -> bool {
        if self.tar.as_ref().is_none_or(|here| !Arc::ptr_eq(here, tar)) {
            return false;
        }
        extents.iter().all(|extent| {
            let range = |start: u64| {
                let start = usize::try_from(start).ok()?;
                Some(start..start.checked_add(usize::try_from(extent.length).ok()?)?)
            };
            let from = extent.tar_offset.checked_sub(self.start).and_then(range);
            let from = from.and_then(|from| self.bytes.get(from));
            let to = range(extent.file_offset).and_then(|to| into.get_mut(to));
            let (Some(from), Some(to)) = (from, to) else { return false };
            to.copy_from_slice(from);
            true
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn change(tar: &Arc<File>, extents: &[Extent]) -> Change {
        let size = extents.last().map_or(0, |last| last.file_offset + last.length);
        let source = Source::Tar { tar: Arc::clone(tar), extents: extents.to_vec() };
        Change { kind: ChangeKind::File { size, source }, ..Change::whiteout(b"file".to_vec()) }
    }

    const fn extent(file_offset: u64, tar_offset: u64, length: u64) -> Extent {
        Extent { file_offset, tar_offset, length }
    }

    #[test]
    fn what_lies_together_is_read_once_and_copied() {
        let mut file = tempfile();
        let bytes: Vec<u8> = (0..40_000_u32).map(|at| at.to_le_bytes()[0]).collect();
        file.write_all(&bytes).unwrap();
        let (tar, other) = (Arc::new(file), Arc::new(tempfile()));
        let sparse = [extent(10, 5_000, 20), extent(100, 5_512, 4)];
        let changes =
            [change(&other, &[]), change(&tar, &[extent(0, 1_000, 700)]), change(&tar, &sparse)];
        let mut window = Window::default();
        window.read(&changes[1..]);
        let mut into = [0; 104];
        assert!(window.copy(&tar, &sparse, &mut into));
        assert_eq!(into[..10], [0; 10]);
        assert_eq!(into[10..30], bytes[5_000..5_020]);
        assert_eq!(into[30..100], [0; 70]);
        assert_eq!(into[100..], bytes[5_512..5_516]);
        assert!(!window.copy(&other, &sparse, &mut into), "of another tar");
        assert!(!window.copy(&tar, &[extent(0, 999, 1)], &mut into), "before the window");
        assert!(!window.copy(&tar, &[extent(0, 5_512, 5)], &mut into), "behind it");
        window.read(&changes[..1]);
        assert!(!window.copy(&tar, &sparse, &mut into), "of the batch before");
    }

    #[test]
    fn what_lies_apart_or_is_not_there_is_left_to_single_reads() {
        let tar = Arc::new(tempfile());
        tar.set_len(1 << 30).unwrap();
        for offset in [1 << 20, 1 << 29, 1 << 31] {
            let apart = [extent(0, 0, 10), extent(10, offset, 10)];
            let mut window = Window::default();
            window.read(&[change(&tar, &apart)]);
            assert!(!window.copy(&tar, &apart, &mut [0; 20]));
            assert_eq!(window.bytes.capacity(), 0, "{offset}");
        }
    }

    fn tempfile() -> File {
        let name = format!("davit-window-{}-{:?}", std::process::id(), std::thread::current().id());
        let path = std::env::temp_dir().join(name);
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        fs_err::remove_file(path).unwrap();
        file
    }
}
