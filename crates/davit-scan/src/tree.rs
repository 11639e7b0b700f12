//! The file system of an image, read out of its layers' tars.

use std::{fs::File, io, os::unix::fs::FileExt as _, sync::Arc};

use davit_layer::{Kind, Merged};

use crate::ScanError;

/// Largest file that is read: several times the database of a machine with everything installed.
const LARGEST_FILE: u64 = 64 << 20;

/// What the layers of an image show, and the tars of those layers, bottom first.
#[derive(Clone, Copy, Debug)]
pub struct Tree<'a> {
    merged: &'a Merged,
    tars: &'a [Arc<File>],
}

impl<'a> Tree<'a> {
    /// A tree over all its layers; `tars` are those of the layers, bottom first.
    #[must_use]
    pub const fn new(merged: &'a Merged, tars: &'a [Arc<File>]) -> Self {
        Self { merged, tars }
    }

    /// Reads a whole file, symlinks followed within the tree; `None` if there is none.
    ///
    /// # Errors
    /// [`ScanError`], also for one that is larger than 64 MiB.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>, ScanError> {
        let Some((size, tar, extents)) = self.find(path) else { return Ok(None) };
        if size > LARGEST_FILE {
            return Err(ScanError::TooLarge { path: path.to_owned(), size });
        }
        let failed = |source| ScanError::Read { path: path.to_owned(), source };
        let length = |value: u64| usize::try_from(value).map_err(io::Error::other);
        let mut bytes = vec![0; length(size).map_err(failed)?];
        for extent in extents {
            let mut read = || {
                let start = length(extent.file_offset)?;
                let end = start.checked_add(length(extent.length)?);
                let range = end.and_then(|end| bytes.get_mut(start..end));
                tar.read_exact_at(range.ok_or(io::ErrorKind::InvalidData)?, extent.tar_offset)
            };
            read().map_err(failed)?;
        }
        Ok(Some(bytes))
    }

    pub(crate) const fn merged(&self) -> &'a Merged {
        self.merged
    }

    /// The tar of a layer.
    pub(crate) fn tar(&self, layer: usize) -> Option<&'a File> {
        self.tars.get(layer).map(|tar| &**tar)
    }

    fn find(&self, path: &str) -> Option<(u64, &'a File, Vec<davit_layer::Extent>)> {
        let path = self.merged.follow(path.as_bytes()).ok()?;
        let node = self.merged.find(&path)?;
        let tar = self.tars.get(node.layer)?;
        match node.entry.kind {
            Kind::File { size, extents } => Some((size, tar, extents.iter().collect())),
            _ => None,
        }
    }

    /// The names in a directory, sorted; those that are no UTF-8 are left out.
    pub(crate) fn list(&self, path: &str) -> Vec<String> {
        let Ok(path) = self.merged.follow(path.as_bytes()) else { return Vec::new() };
        let names = self.merged.list(&path).into_iter();
        names.filter_map(|name| String::from_utf8(name).ok()).collect()
    }
}
