//! Files of another stage or image, read from the tables of its layers.

use std::collections::HashSet;

use davit_layer::{Kind, Merged};

use crate::{
    context::Selectors,
    files::{Data, FileEntry, FileKind, FileSet, components},
};

/// The part of a merged tree that the selectors reach. The tree must stand on no other.
pub(crate) fn files_of(merged: &Merged, selectors: &Selectors) -> FileSet {
    let mut entries: Vec<FileEntry> = Vec::new();
    let mut linked = HashSet::new();
    let Some(root) = selectors.root() else { return FileSet { entries } };
    // (end of the directory's nodes, its reach)
    let mut stack = vec![(u32::MAX, root)];
    let mut next = 0;
    let count = u32::try_from(merged.node_count()).expect("nodes are counted by u32");
    while next < count {
        while stack.len() > 1 && stack.last().is_some_and(|(end, _)| next >= *end) {
            stack.pop();
        }
        let path = merged.path(next);
        let reach = match components(path).next_back() {
            None => Some(stack[0].1.clone()),
            Some(name) => selectors.child(&stack[stack.len() - 1].1, name),
        };
        let end = merged.descendants(next).end;
        let Some(reach) = reach else {
            next = end.max(next + 1);
            continue;
        };
        entries.extend(entry_of(merged, next, &mut linked));
        if !path.is_empty() {
            stack.push((end, reach));
        }
        next += 1;
    }
    for entry in &mut entries {
        entry.linked =
            matches!(entry.data, Data::Layer { layer, entry } if linked.contains(&(layer, entry)));
    }
    FileSet { entries }
}

/// The entry of a node; files with several names go into `linked`, as layer and position.
fn entry_of(merged: &Merged, id: u32, linked: &mut HashSet<(u32, u32)>) -> Option<FileEntry> {
    let node = merged.node(id);
    let entry = node.entry;
    let kind = match entry.kind {
        Kind::File { .. } => FileKind::Regular,
        Kind::Directory { .. } => FileKind::Directory,
        Kind::Symlink { .. } => FileKind::Symlink,
        Kind::CharDevice { .. } => FileKind::CharDevice,
        Kind::BlockDevice { .. } => FileKind::BlockDevice,
        Kind::Fifo => FileKind::Fifo,
        Kind::HardLink { .. } | Kind::Whiteout => return None,
    };
    let device = match entry.kind {
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => (major, minor),
        _ => (0, 0),
    };
    let target = match entry.kind {
        Kind::Symlink { target } => target.into(),
        _ => Box::default(),
    };
    let layer = u32::try_from(node.layer).expect("layers are few");
    let regular = kind == FileKind::Regular;
    if regular && node.inode != id {
        linked.insert((layer, node.index));
    }
    let nanoseconds = i64::from(entry.mtime.nanoseconds);
    Some(FileEntry {
        path: entry.path.into(),
        kind,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        size: entry.kind.size(),
        mtime_ns: entry.mtime.seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds),
        target,
        device,
        capability: entry.xattrs.get(b"security.capability").map(Into::into),
        linked: false,
        data: if regular { Data::Layer { layer, entry: node.index } } else { Data::None },
        digest: None,
    })
}
