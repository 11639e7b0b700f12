//! Entries whose parents lead through a symlink of a lower layer.
//!
//! With `lib -> usr/lib` below, a layer that holds `lib/x` but no entry for `lib` itself means
//! `usr/lib/x`: extractors that unpack onto the lower layers follow the link inside the root. A
//! layer with an entry for the directory `lib` replaces the link instead.

use super::{Merged, path};
use crate::{Kind, Table};

/// What a layer brings to the merge, in path order.
pub(super) enum Items {
    /// Its table as it is.
    AsInTable,
    /// Its entries at other paths.
    Moved(Vec<Item>),
}

/// One entry at the path where it belongs.
pub(super) struct Item {
    pub(super) path: Vec<u8>,
    /// Position in the table; `None` for a parent that only the move implies.
    pub(super) index: Option<u32>,
    /// What the layers below have at the path is gone: a whiteout stands here too.
    pub(super) whiteout: bool,
    /// An opaque mark stands in the directory.
    pub(super) opaque: bool,
}

impl Item {
    const fn implied(path: Vec<u8>) -> Self {
        Self { path, index: None, whiteout: false, opaque: false }
    }
}

/// Moves the entries of `table` to where `lower` leads them.
pub(super) fn relocate(table: &Table, lower: &Merged) -> Items {
    let mut items = Vec::with_capacity(table.len());
    // For each open directory: the length of its path, and where it really lies.
    let mut open: Vec<(usize, Vec<u8>)> = Vec::new();
    for (position, entry) in table.iter().enumerate() {
        let index = super::id_of(position);
        let parent_length = path::parent(entry.path).map_or(0, <[u8]>::len);
        while open.len() > 1 && open.last().is_some_and(|(length, _)| *length > parent_length) {
            open.pop();
        }
        let parent = open.last().map_or(&b""[..], |(_, place)| place);
        let mut place = path::join(parent, path::file_name(entry.path));
        let mut moves = false;
        if let Kind::Directory { implied: true, .. } = entry.kind
            && let Some(node) = lower.find(&place)
            && matches!(node.entry.kind, Kind::Symlink { .. })
            && let Ok(target) = lower.follow(&place)
            && target != place
            && path::is_normal(&target, path::PathLimits::default())
        {
            (place, moves) = (target, true);
        }
        if entry.kind.is_directory() {
            open.push((entry.path.len(), place.clone()));
        }
        if moves {
            imply_parents(&place, &mut items);
        }
        items.push(Item {
            path: place,
            index: (!moves).then_some(index),
            whiteout: entry.kind.is_whiteout(),
            opaque: matches!(entry.kind, Kind::Directory { opaque: true, .. }),
        });
    }
    remove_below_leaves(table, join_equal(table, items))
}

/// Sorts the items and makes one of those that meet at a path: an entry of the table goes before an
/// implied parent, and of two entries the one that was moved there gives way. A whiteout or opaque
/// mark concerns only the layers below, so it leaves what it meets.
fn join_equal(table: &Table, mut items: Vec<Item>) -> Vec<Item> {
    let moved = |item: &Item| item.index.is_none_or(|at| table.path_at(at) != item.path);
    items.sort_by(|a, b| {
        let key = |item: &Item| (item.whiteout, item.index.is_none(), moved(item));
        path::compare(&a.path, &b.path).then_with(|| key(a).cmp(&key(b)))
    });
    items.dedup_by(|later, earlier| {
        let same = later.path == earlier.path;
        earlier.whiteout |= same && later.whiteout;
        earlier.opaque |= same && later.opaque;
        same
    });
    items
}

fn imply_parents(place: &[u8], items: &mut Vec<Item>) {
    let parents = path::ancestors(place);
    items.extend(parents.map(|path| Item::implied(path.to_vec())));
}

/// Drops what a move brought below something that is no directory in the same layer.
fn remove_below_leaves(table: &Table, mut items: Vec<Item>) -> Items {
    let mut leaf: Option<Vec<u8>> = None;
    items.retain(|item| {
        if leaf.as_ref().is_some_and(|leaf| path::is_below(&item.path, leaf)) {
            return false;
        }
        let is_leaf = item.index.is_some_and(|at| !table.at(at).kind.is_directory());
        leaf = is_leaf.then(|| item.path.clone());
        true
    });
    Items::Moved(items)
}
