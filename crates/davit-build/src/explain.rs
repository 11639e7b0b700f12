//! Names the first file in which a copy differs from what it gave before.

use std::{cmp::Ordering, io};

use davit_layer::{Change, ChangeKind, Entry, Kind, Opener, path};

use crate::{copy::same_file, key::Miss, layers::OpenLayer};

/// The first difference between the changes of a copy and the layer that it made before.
///
/// Content is compared only where times differ, or else, if nothing was found, everywhere.
pub(crate) fn first_difference(
    changes: &[Change],
    opener: &dyn Opener,
    before: &OpenLayer,
) -> io::Result<Option<Miss>> {
    let mut same_size = Vec::new();
    let mut olds = before.table.iter().filter(|entry| !entry.path.is_empty()).peekable();
    for (position, change) in changes.iter().enumerate() {
        let order = olds.peek().map(|old| path::compare(old.path, &change.path));
        let gone = matches!(order, Some(Ordering::Less));
        let old = match olds.next().filter(|_| order != Some(Ordering::Greater)) {
            Some(old) if gone => return Ok(Some(difference(old.path, "gone".to_owned()))),
            Some(old) => old,
            None => return Ok(Some(difference(&change.path, "new".to_owned()))),
        };
        if let Some(text) = metadata(change, &old) {
            return Ok(Some(difference(&change.path, text)));
        }
        if matches!(change.kind, ChangeKind::File { .. }) {
            same_size.push((position, change.mtime.seconds != old.mtime.seconds));
        }
    }
    if let Some(gone) = olds.next() {
        return Ok(Some(difference(gone.path, "gone".to_owned())));
    }
    same_size.sort_by_key(|(_, newer)| !newer);
    for (position, _) in same_size {
        if !same_file(&changes[position], position, opener, before)? {
            return Ok(Some(difference(&changes[position].path, "content".to_owned())));
        }
    }
    Ok(None)
}

fn difference(path: &[u8], difference: String) -> Miss {
    Miss::File { path: String::from_utf8_lossy(path).into_owned(), difference }
}

fn metadata(change: &Change, old: &Entry<'_>) -> Option<String> {
    let kind = |change: &ChangeKind| match change {
        ChangeKind::File { .. } => "file",
        ChangeKind::Directory | ChangeKind::OpaqueDirectory => "directory",
        ChangeKind::Symlink { .. } => "symlink",
        ChangeKind::HardLink { .. } => "hard link",
        _ => "special file",
    };
    let old_kind = match old.kind {
        Kind::File { .. } => "file",
        Kind::Directory { .. } => "directory",
        Kind::Symlink { .. } => "symlink",
        Kind::HardLink { .. } => "hard link",
        _ => "special file",
    };
    let new_kind = kind(&change.kind);
    if new_kind != old_kind {
        return Some(format!("{old_kind} -> {new_kind}"));
    }
    match (&change.kind, old.kind) {
        (ChangeKind::File { size, .. }, Kind::File { size: before, .. }) if *size != before => {
            return Some(format!("content ({before} -> {size} bytes)"));
        }
        (ChangeKind::Symlink { target }, Kind::Symlink { target: before }) if target != before => {
            return Some("target of the symlink".to_owned());
        }
        _ => {}
    }
    if change.mode != old.mode {
        return Some(format!("mode {:04o} -> {:04o}", old.mode, change.mode));
    }
    let owners = ((old.uid, old.gid), (change.uid, change.gid));
    if owners.0 != owners.1 {
        let ((uid, gid), (new_uid, new_gid)) = owners;
        return Some(format!("owner {uid}:{gid} -> {new_uid}:{new_gid}"));
    }
    None
}
