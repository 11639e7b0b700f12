//! Hard links of a merged tree: to which file each leads, and which names share one.

use std::collections::{HashMap, hash_map::Entry};

use super::{IMPLIED, MergeError, Merged, NodeId, RawNode, WHITEOUT, id_of};
use crate::{Kind, path, table::printable};

/// Layer and position of a description.
type Inode = (u32, u32);

/// Points every hard link to its file and joins the names of each file.
pub(super) fn resolve(merged: &mut Merged) -> Result<(), MergeError> {
    let mut names: HashMap<Inode, Option<NodeId>> = HashMap::new();
    let mut lower = LowerLayers::default();
    for id in 0..id_of(merged.nodes.len()) {
        let raw = merged.nodes[id as usize];
        if raw.flags & (IMPLIED | WHITEOUT) != 0 {
            continue;
        }
        let table = merged.layer(raw.layer as usize);
        let Kind::HardLink { target, index } = table.at(raw.index).kind else { continue };
        let inode = match index {
            Some(index) => (raw.layer, index),
            None => lower.find(merged, raw.layer as usize, target)?.ok_or_else(|| {
                let path = printable(merged.path(id));
                let target = printable(target);
                MergeError::LinkTarget { layer: raw.layer as usize, path, target }
            })?,
        };
        (merged.nodes[id as usize].layer, merged.nodes[id as usize].index) = inode;
        names.insert(inode, None);
    }
    if !names.is_empty() {
        join(&mut merged.nodes, &mut names);
    }
    Ok(())
}

fn join(nodes: &mut [RawNode], names: &mut HashMap<Inode, Option<NodeId>>) {
    for (id, node) in nodes.iter_mut().enumerate() {
        if node.flags & (IMPLIED | WHITEOUT) != 0 {
            continue;
        }
        if let Some(first) = names.get_mut(&(node.layer, node.index)) {
            node.inode = *first.get_or_insert(id_of(id));
        }
    }
}

/// Finds what the layers below a given one show; merges them only where a symlink is in the way.
#[derive(Default)]
struct LowerLayers {
    merged: HashMap<usize, Merged>,
}

impl LowerLayers {
    fn find(
        &mut self,
        merged: &Merged,
        layer: usize,
        target: &[u8],
    ) -> Result<Option<Inode>, MergeError> {
        if let Some(inode) = find_below(merged, layer, target) {
            return Ok(Some(inode));
        }
        if layer == 0 {
            return Ok(None);
        }
        let lower = match self.merged.entry(layer) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let layers = merged.all_layers().into_iter().take(layer).collect();
                place.insert(Merged::new(layers)?)
            }
        };
        let followed = lower.follow_parents(target).ok();
        let node = followed.and_then(|path| lower.find(&path));
        let linkable = node.filter(|node| !node.entry.kind.is_directory());
        Ok(linkable.map(|node| (id_of(node.layer), node.index)))
    }
}

/// Looks through the tables below `layer`, the highest first.
fn find_below(merged: &Merged, layer: usize, target: &[u8]) -> Option<Inode> {
    let mut target = target.to_vec();
    for below in (0..layer).rev() {
        let table = merged.layer(below);
        match table.position(&target) {
            Ok(index) => match table.at(index).kind {
                Kind::Whiteout | Kind::Directory { .. } => return None,
                Kind::HardLink { index: Some(index), .. } => return Some((id_of(below), index)),
                Kind::HardLink { target: next, index: None } => target = next.to_vec(),
                _ => return Some((id_of(below), index)),
            },
            Err(_) => {
                let hides = |above: &[u8]| {
                    let kind = table.get(above).map(|entry| entry.kind);
                    !matches!(kind, None | Some(Kind::Directory { opaque: false, .. }))
                };
                if path::ancestors(&target).any(hides) {
                    return None;
                }
            }
        }
    }
    None
}
