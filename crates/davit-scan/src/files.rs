//! The files that packages own: what a database lists, as far as it is there.
//!
//! Databases list paths; the checksums are those of the content that the image has. A file that was
//! removed or that is no regular one is not told.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::atomic::{AtomicBool, Ordering},
};

use davit_layer::{Extent, Kind, Node};
use sha1::{Digest as _, Sha1};

use crate::{Inventory, ScanError, Tree};

/// Most bytes of content that are digested, holes included; further files are not told.
const MOST_BYTES: u64 = 16 << 30;
/// Longest path of a file, as Linux has it.
const LONGEST_PATH: usize = 4096;
const CHUNK: usize = 256 << 10;

/// A path of a database, without leading `/`; `None` for what is no path of a file in the tree.
pub(crate) fn owned_path(text: &str) -> Option<String> {
    let path = text.trim_start_matches('/');
    let is_odd = |part: &str| matches!(part, "" | "." | "..");
    let fits = !path.is_empty()
        && path.len() <= LONGEST_PATH
        && !path.split('/').any(is_odd)
        && !path.contains(char::is_control);
    fits.then(|| path.to_owned())
}

/// A layer and a position in its table, which all names of a file share.
type Inode = (usize, u32);

/// A file whose content is digested.
struct Wanted {
    path: String,
    inode: Inode,
    size: u64,
    extents: Vec<Extent>,
}

/// Digests the files of all packages; those that are not there are dropped.
pub(crate) fn digest(
    tree: &Tree<'_>,
    inventory: &mut Inventory,
    cancelled: &AtomicBool,
) -> Result<(), ScanError> {
    let (mut inodes, mut wanted) = (Vec::new(), HashMap::new());
    let mut left = MOST_BYTES;
    for file in inventory.packages.iter().flat_map(|package| &package.files) {
        stop_if(cancelled)?;
        let found = find(tree, &file.path);
        inodes.push(found.as_ref().map(|found| found.inode));
        if let Some(found) = found.filter(|it| !wanted.contains_key(&it.inode))
            && let Some(rest) = left.checked_sub(found.size)
        {
            left = rest;
            wanted.insert(found.inode, found);
        }
    }
    let mut ordered: Vec<Wanted> = wanted.into_values().collect();
    // As they lie on the disk.
    ordered.sort_by_key(|it| (it.inode.0, it.extents.first().map(|extent| extent.tar_offset)));
    let mut digests = HashMap::new();
    for file in ordered {
        let tar = tree.tar(file.inode.0).ok_or(io::ErrorKind::NotFound.into());
        let made = tar.and_then(|tar| sha1_of(tar, &file, cancelled));
        stop_if(cancelled)?;
        let made = made.map_err(|source| ScanError::Read { path: file.path, source })?;
        digests.insert(file.inode, made);
    }
    let mut inodes = inodes.into_iter();
    for package in &mut inventory.packages {
        package.files.retain_mut(|file| {
            let sha1 = inodes.next().flatten().and_then(|inode| digests.get(&inode));
            sha1.inspect(|sha1| (*sha1).clone_into(&mut file.sha1)).is_some()
        });
    }
    Ok(())
}

fn stop_if(cancelled: &AtomicBool) -> Result<(), ScanError> {
    if cancelled.load(Ordering::Relaxed) { Err(ScanError::Cancelled) } else { Ok(()) }
}

/// The regular file of a path; symlinks lead to its directory, not to the file itself.
fn find(tree: &Tree<'_>, path: &str) -> Option<Wanted> {
    let merged = tree.merged();
    let place = merged.follow_parents(path.as_bytes()).ok()?;
    let Node { entry, layer, index, .. } = merged.find(&place)?;
    let Kind::File { size, extents } = entry.kind else { return None };
    let extents = extents.iter().collect();
    Some(Wanted { path: path.to_owned(), inode: (layer, index), size, extents })
}

fn sha1_of(tar: &File, file: &Wanted, cancelled: &AtomicBool) -> io::Result<String> {
    let mut digester = Sha1::new();
    let mut buffer = vec![0; CHUNK];
    let mut position = 0;
    for extent in &file.extents {
        holes(&mut digester, extent.file_offset.saturating_sub(position), cancelled);
        let (mut at, end) = (extent.tar_offset, extent.tar_offset + extent.length);
        while at < end && !cancelled.load(Ordering::Relaxed) {
            let length = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            tar.read_exact_at(&mut buffer[..length], at)?;
            digester.update(&buffer[..length]);
            at += length as u64;
        }
        position = extent.file_offset + extent.length;
    }
    holes(&mut digester, file.size.saturating_sub(position), cancelled);
    Ok(digester.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What no extent covers reads as zeros.
fn holes(digester: &mut Sha1, mut length: u64, cancelled: &AtomicBool) {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while length > 0 && !cancelled.load(Ordering::Relaxed) {
        let part = usize::try_from(length).unwrap_or(ZEROS.len()).min(ZEROS.len());
        digester.update(&ZEROS[..part]);
        length -= part as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_nowhere_else() {
        for (text, expected) in [
            ("/usr/bin/a", Some("usr/bin/a")),
            ("usr/a b", Some("usr/a b")),
            ("/.", None),
            ("/", None),
            ("", None),
            ("/a/../b", None),
            ("a//b", None),
            ("a/", None),
            ("a\u{1b}b", None),
        ] {
            assert_eq!(owned_path(text).as_deref(), expected, "{text:?}");
        }
        assert_eq!(owned_path(&"a".repeat(LONGEST_PATH + 1)), None);
    }
}
