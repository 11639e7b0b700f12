//! Trees as plain data, for properties: what a layer or a directory should be.

use std::{collections::BTreeMap, fs::File, os::unix::fs::FileExt, sync::Arc};

use davit_layer::{
    Change, ChangeKind, Kind, Merged, Mtime, Node, Source, Table, WriteOptions, XattrMap,
    XattrPolicy, path, write_layer,
};
use proptest::prelude::*;

use crate::{archive::memory_file, write::NoFiles};

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    File(Vec<u8>),
    Directory,
    Symlink(String),
    /// A further name of the file at an earlier path.
    Link(String),
    Device(u32),
    Fifo,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) what: What,
    pub(crate) mode: u16,
    pub(crate) owner: u32,
    pub(crate) time: i64,
    pub(crate) capable: bool,
}

/// A tree: paths without the root.
pub(crate) type Tree = BTreeMap<String, Item>;

/// Trees with few names, so that two of them meet often.
pub(crate) fn trees() -> impl Strategy<Value = Tree> {
    let name = prop::sample::select(vec!["a", "b", "c!"]);
    let path = prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"));
    let what = prop_oneof![
        3 => prop::sample::select(vec!["", "1", "22"]).prop_map(|text| What::File(text.into())),
        3 => Just(What::Directory),
        1 => prop::sample::select(vec!["a", "/b"]).prop_map(|target| What::Symlink(target.into())),
        1 => path.clone().prop_map(What::Link),
        1 => (1_u32..3).prop_map(What::Device),
        1 => Just(What::Fifo),
    ];
    let mode = prop::sample::select(vec![0o644, 0o4755]);
    let item = (what, mode, 0_u32..2, 100_i64..102, prop::bool::weighted(0.1));
    prop::collection::vec((path, item), 0..14).prop_map(|items| {
        let mut tree = Tree::new();
        for (path, (what, mode, owner, time, capable)) in items {
            insert(&mut tree, path, Item { what, mode, owner, time, capable });
        }
        settle_links(&mut tree);
        tree
    })
}

/// Adds an item where its parents are directories, or can be.
fn insert(tree: &mut Tree, path: String, item: Item) {
    let parents: Vec<&str> = path.match_indices('/').map(|(at, _)| &path[..at]).collect();
    let blocked =
        |parent: &&str| tree.get(*parent).is_some_and(|item| item.what != What::Directory);
    if parents.iter().any(blocked) || tree.contains_key(&path) {
        return;
    }
    for parent in parents {
        let directory =
            Item { what: What::Directory, mode: 0o755, owner: 0, time: 100, capable: false };
        tree.entry(parent.to_owned()).or_insert(directory);
    }
    tree.insert(path, item);
}

/// Makes every link lead to an earlier regular file, or be an empty file itself.
fn settle_links(tree: &mut Tree) {
    let before = tree.clone();
    for (path, item) in tree.iter_mut() {
        let What::Link(target) = &item.what else { continue };
        let earlier = path::compare(target.as_bytes(), path.as_bytes()).is_lt();
        match before.get(target) {
            Some(found) if earlier && matches!(found.what, What::File(_)) => {
                *item = Item { what: item.what.clone(), ..found.clone() };
            }
            _ => item.what = What::File(Vec::new()),
        }
    }
}

/// A layer in memory.
pub(crate) struct Layer {
    pub(crate) table: Arc<Table>,
    pub(crate) tar: Arc<File>,
}

pub(crate) fn write_changes(changes: &[Change], opener: &dyn davit_layer::Opener) -> Layer {
    let options = WriteOptions { xattrs: XattrPolicy::All, ..WriteOptions::default() };
    let mut tar = Vec::new();
    let table = write_layer(changes, opener, &mut tar, &options).unwrap();
    Layer { table: Arc::new(table), tar: Arc::new(memory_file(&tar)) }
}

/// The layer that holds a whole tree.
pub(crate) fn layer_of(tree: &Tree) -> Layer {
    let mut changes: Vec<Change> = tree.iter().map(|(path, item)| change(path, item)).collect();
    changes.sort_by(|a, b| path::compare(&a.path, &b.path));
    write_changes(&changes, &NoFiles)
}

fn change(path: &str, item: &Item) -> Change {
    let kind = match &item.what {
        What::File(content) => ChangeKind::File {
            size: content.len() as u64,
            source: Source::Bytes(content.as_slice().into()),
        },
        What::Directory => ChangeKind::Directory,
        What::Symlink(target) => ChangeKind::Symlink { target: target.clone().into() },
        What::Link(target) => ChangeKind::HardLink { target: target.clone().into() },
        What::Device(minor) => ChangeKind::CharDevice { major: 1, minor: *minor },
        What::Fifo => ChangeKind::Fifo,
    };
    let mut xattrs = XattrMap::new();
    if item.capable && matches!(item.what, What::File(_) | What::Link(_)) {
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        xattrs.insert(b"security.capability".to_vec(), capability.to_vec());
    }
    let is_symlink = matches!(item.what, What::Symlink(_));
    Change {
        path: path.as_bytes().to_vec(),
        kind,
        mode: if is_symlink { 0o777 } else { item.mode },
        uid: item.owner,
        gid: item.owner,
        mtime: Mtime::from_seconds(item.time),
        xattrs,
    }
}

/// Everything that a tree shows, one line for each path but the root.
pub(crate) fn dump(merged: &Merged, tars: &[Arc<File>]) -> Vec<String> {
    merged.iter().skip(1).map(|node| dump_node(merged, &node, tars)).collect()
}

fn dump_node(merged: &Merged, node: &Node<'_>, tars: &[Arc<File>]) -> String {
    let entry = &node.entry;
    let what = match entry.kind {
        Kind::File { size, extents } => {
            let mut content = vec![0; usize::try_from(size).unwrap()];
            for extent in extents.iter() {
                let at = usize::try_from(extent.file_offset).unwrap();
                let part = &mut content[at..at + usize::try_from(extent.length).unwrap()];
                tars[node.layer].read_exact_at(part, extent.tar_offset).unwrap();
            }
            format!("file {}", content.escape_ascii())
        }
        other => format!("{other:?}"),
    };
    let path = entry.path.escape_ascii();
    let inode = merged.path(node.inode).escape_ascii();
    let (mode, uid, gid) = (entry.mode, entry.uid, entry.gid);
    let (mtime, xattrs) = (entry.mtime.seconds, entry.xattrs);
    format!("/{path} = /{inode} {what} {mode:o} {uid}:{gid} {mtime} {xattrs:?}")
}
