//! The merge itself: one pass over all tables side by side.

use std::{cmp::Ordering, collections::BinaryHeap, sync::Arc};

use super::{
    BASE_HIDDEN, IMPLIED, MergeError, Merged, NodeName, OPAQUE, RawNode, WHITEOUT, id_of, links,
    relocate::{self, Items},
};
use crate::{Kind, Table, path};

pub(super) fn merge(
    base: Option<Arc<Merged>>,
    layers: Vec<Arc<Table>>,
) -> Result<Merged, MergeError> {
    let total: usize = layers.iter().map(|layer| layer.len()).sum();
    if total >= u32::MAX as usize / 2 {
        return Err(MergeError::TooLarge);
    }
    let mut items: Vec<Items> = layers.iter().map(|_| Items::AsInTable).collect();
    loop {
        let (mut merged, redirected) = Walk::new(base.clone(), &layers, &items).run();
        let Some(layer) = redirected else {
            links::resolve(&mut merged)?;
            return Ok(merged);
        };
        let (mut lower, _) = Walk::new(base.clone(), &layers[..layer], &items[..layer]).run();
        links::resolve(&mut lower)?;
        items[layer] = relocate::relocate(&layers[layer], &lower);
    }
}

/// One layer's next path.
struct Head<'w> {
    path: &'w [u8],
    /// Own layer, counted without the base.
    layer: u32,
    /// Position among the layer's items.
    item: u32,
}

impl Ord for Head<'_> {
    /// Reversed: the heap's greatest is the lowest path, at equal paths the lowest layer.
    fn cmp(&self, other: &Self) -> Ordering {
        path::compare(other.path, self.path).then_with(|| other.layer.cmp(&self.layer))
    }
}

impl PartialOrd for Head<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head<'_> {}

/// A directory (or leaf) on the way to the current path.
struct Open {
    node: usize,
    path_length: usize,
    /// Own layers below this one are hidden here.
    visible_from: u32,
    base_hidden: bool,
}

/// What stands at the current path so far, going up the layers.
#[derive(Clone, Copy)]
enum State {
    Nothing,
    Leaf { layer: u32, index: u32 },
    Directory { described_by: Described, visible_from: u32, base_hidden: bool },
}

/// Where a directory's metadata comes from.
#[derive(Clone, Copy)]
enum Described {
    /// Own layer and entry.
    Layer(u32, u32),
    /// The base, if that has the directory.
    Base,
    /// It is new, and only implied.
    Nobody,
}

/// Result of a group: the state, where the path's name lies, and whether layers hid the base here.
struct Decision {
    state: State,
    name: (u32, u32),
    hides_base: bool,
}

struct Walk<'w> {
    base: Option<Arc<Merged>>,
    layers: &'w [Arc<Table>],
    items: &'w [Items],
    heap: BinaryHeap<Head<'w>>,
    nodes: Vec<RawNode>,
    moved_paths: Vec<u8>,
    stack: Vec<Open>,
    /// The lowest layer that goes through a symlink of another.
    redirected: Option<usize>,
}

impl<'w> Walk<'w> {
    fn new(base: Option<Arc<Merged>>, layers: &'w [Arc<Table>], items: &'w [Items]) -> Self {
        let largest = layers.iter().map(|layer| layer.len()).max().unwrap_or(0);
        let mut walk = Self {
            base,
            layers,
            items,
            heap: BinaryHeap::with_capacity(layers.len()),
            nodes: Vec::with_capacity(largest),
            moved_paths: Vec::new(),
            stack: Vec::new(),
            redirected: None,
        };
        for layer in 0..layers.len() {
            if let Some(head) = walk.head(id_of(layer), 0) {
                walk.heap.push(head);
            }
        }
        walk
    }

    fn first_layer(&self) -> usize {
        self.base.as_ref().map_or(0, |base| base.layer_count())
    }

    fn head(&self, layer: u32, item: u32) -> Option<Head<'w>> {
        let table = &self.layers[layer as usize];
        let path = match &self.items[layer as usize] {
            Items::AsInTable if (item as usize) < table.len() => table.path_at(item),
            Items::AsInTable => return None,
            Items::Moved(items) => &items.get(item as usize)?.path,
        };
        Some(Head { path, layer, item })
    }

    /// Position of an item's entry; 0 for a parent that only moving has implied.
    fn index(&self, layer: u32, item: u32) -> u32 {
        match &self.items[layer as usize] {
            Items::AsInTable => item,
            Items::Moved(items) => items[item as usize].index.unwrap_or(0),
        }
    }

    /// What an item is, and whether a whiteout stands at its path too.
    fn kind(&self, layer: u32, item: u32) -> (Kind<'w>, bool) {
        let table = &self.layers[layer as usize];
        let Items::Moved(items) = &self.items[layer as usize] else {
            return (table.at(item).kind, false);
        };
        let item = &items[item as usize];
        let implied = Kind::Directory { opaque: false, implied: true };
        let mut kind = item.index.map_or(implied, |index| table.at(index).kind);
        if let Kind::Directory { opaque, .. } = &mut kind {
            *opaque |= item.opaque;
        }
        (kind, item.whiteout)
    }

    /// Takes the next path off the heap: all layers that have it, bottom first.
    fn next_group(&mut self, group: &mut Vec<(u32, u32)>) -> Option<&'w [u8]> {
        group.clear();
        let path = self.heap.peek()?.path;
        while self.heap.peek().is_some_and(|head| head.path == path) {
            let Some(mut top) = self.heap.peek_mut() else { break };
            let (layer, item) = (top.layer, top.item);
            group.push((layer, item));
            let table = &self.layers[layer as usize];
            let next = match &self.items[layer as usize] {
                Items::AsInTable if (item as usize + 1) < table.len() => {
                    Some(table.path_at(item + 1))
                }
                Items::AsInTable => None,
                Items::Moved(items) => items.get(item as usize + 1).map(|item| &item.path[..]),
            };
            match next {
                Some(path) => (top.path, top.item) = (path, item + 1),
                None => {
                    std::collections::binary_heap::PeekMut::pop(top);
                }
            }
        }
        Some(path)
    }

    fn run(mut self) -> (Merged, Option<usize>) {
        let mut group = Vec::with_capacity(self.layers.len());
        // What is no directory in the end shows nothing of what lower layers have below it.
        let mut hidden: Option<&[u8]> = None;
        while let Some(path) = self.next_group(&mut group) {
            if hidden.is_none_or(|above| !path::is_below(path, above)) {
                hidden = if self.place(path, &group) { None } else { Some(path) };
            }
        }
        if self.nodes.is_empty() {
            self.root_of_nothing();
        }
        while !self.stack.is_empty() {
            self.close_last();
        }
        let first_layer = self.first_layer();
        let merged = Merged {
            base: self.base,
            layers: self.layers.to_vec(),
            first_layer,
            nodes: self.nodes,
            moved_paths: self.moved_paths,
        };
        (merged, self.redirected)
    }

    /// Decides what stands at `path` and adds its node, if it has one; tells whether it is a
    /// directory.
    fn place(&mut self, path: &'w [u8], group: &[(u32, u32)]) -> bool {
        while let Some(open) = self.stack.last() {
            if path.len() > open.path_length && self.is_open_above(path, open.path_length) {
                break;
            }
            self.close_last();
        }
        let (visible_from, base_hidden) =
            self.stack.last().map_or((0, false), |open| (open.visible_from, open.base_hidden));
        let decision = self.decide(group, visible_from, base_hidden);
        self.add(path, &decision, base_hidden);
        matches!(decision.state, State::Directory { .. })
    }

    /// Paths come in order, so an open directory of that length is either a prefix or done with.
    fn is_open_above(&self, path: &[u8], length: usize) -> bool {
        let Some(open) = self.stack.last() else { return false };
        length == 0 || path::is_below(path, self.node_path(open.node))
    }

    fn node_path(&self, node: usize) -> &[u8] {
        match self.nodes[node].name {
            NodeName::Table { layer, index } => {
                self.layers[layer as usize - self.first_layer()].path_at(index)
            }
            NodeName::Moved { offset, length } => {
                &self.moved_paths[offset as usize..offset as usize + usize::from(length)]
            }
        }
    }

    fn decide(&mut self, group: &[(u32, u32)], visible_from: u32, base_hidden: bool) -> Decision {
        let mut state = State::Nothing;
        let mut hides_base = base_hidden;
        for &(layer, item) in group.iter().filter(|(layer, _)| *layer >= visible_from) {
            let index = self.index(layer, item);
            let (kind, whiteout) = self.kind(layer, item);
            if whiteout {
                (state, hides_base) = (State::Nothing, true);
            }
            state = match kind {
                Kind::Whiteout => {
                    hides_base = true;
                    State::Nothing
                }
                Kind::Directory { opaque, implied } => {
                    if implied {
                        self.note_redirect(&state, layer, item, hides_base);
                    }
                    let described_by = match (implied, hides_base) {
                        (false, _) => Described::Layer(layer, index),
                        (true, false) => Described::Base,
                        (true, true) => Described::Nobody,
                    };
                    hides_base |= opaque;
                    enter(state, described_by, layer, opaque, hides_base)
                }
                _ => {
                    hides_base = true;
                    State::Leaf { layer, index }
                }
            };
        }
        let name = *group.last().expect("a group has a member");
        Decision { state, name, hides_base }
    }

    /// An implied parent over a symlink of a lower layer goes through that symlink.
    fn note_redirect(&mut self, state: &State, layer: u32, item: u32, hidden: bool) {
        if !matches!(self.items[layer as usize], Items::AsInTable) {
            return;
        }
        let symlink = match *state {
            State::Leaf { layer, index } => {
                matches!(self.layers[layer as usize].at(index).kind, Kind::Symlink { .. })
            }
            State::Nothing if !hidden => self.base.as_ref().is_some_and(|base| {
                let path = self.layers[layer as usize].path_at(item);
                let found = base.find(path);
                found.is_some_and(|node| matches!(node.entry.kind, Kind::Symlink { .. }))
            }),
            _ => false,
        };
        if symlink {
            let lowest = self.redirected.map_or(layer as usize, |old| old.min(layer as usize));
            self.redirected = Some(lowest);
        }
    }

    fn add(&mut self, path: &'w [u8], decision: &Decision, base_hidden: bool) {
        let node = match decision.state {
            State::Nothing => self.whiteout(path, decision, base_hidden),
            State::Leaf { layer, index } => Some((layer, index, 0)),
            State::Directory { described_by, base_hidden: hides, .. } => {
                Some(self.directory(path, decision, described_by, hides && !base_hidden))
            }
        };
        let Some((layer, index, flags)) = node else { return };
        let name = self.name(path, decision.name);
        let id = self.nodes.len();
        let layer = match flags & FROM_BASE {
            0 => layer + id_of(self.first_layer()),
            _ => layer,
        };
        let flags = flags & !FROM_BASE;
        let (visible_from, hidden) = match decision.state {
            State::Directory { visible_from, base_hidden, .. } => (visible_from, base_hidden),
            _ => (0, true),
        };
        let flags = if hidden { flags | BASE_HIDDEN } else { flags };
        self.nodes.push(RawNode { layer, index, name, inode: id_of(id), end: 0, flags });
        self.stack.push(Open {
            node: id,
            path_length: path.len(),
            visible_from,
            base_hidden: hidden,
        });
    }

    /// A whiteout is kept only where the base has something to hide.
    fn whiteout(
        &self,
        path: &[u8],
        decision: &Decision,
        base_hidden: bool,
    ) -> Option<(u32, u32, u8)> {
        let base = self.base.as_ref().filter(|_| decision.hides_base && !base_hidden)?;
        base.find(path)?;
        let (layer, item) = decision.name;
        Some((layer, self.index(layer, item), WHITEOUT))
    }

    /// Layer, entry and flags of a directory; its metadata may come from the base.
    fn directory(
        &self,
        path: &[u8],
        decision: &Decision,
        described_by: Described,
        newly_hides: bool,
    ) -> (u32, u32, u8) {
        let needs_base = newly_hides || matches!(described_by, Described::Base);
        let below = self.base.as_ref().filter(|_| needs_base).and_then(|base| base.find(path));
        let below = below.filter(|node| node.entry.kind.is_directory());
        let opaque = if newly_hides && below.is_some() { OPAQUE } else { 0 };
        match (described_by, below) {
            (Described::Layer(layer, index), _) => (layer, index, opaque),
            (Described::Base, Some(node)) => {
                let implied = matches!(node.entry.kind, Kind::Directory { implied: true, .. });
                let implied = if implied { IMPLIED } else { 0 };
                (id_of(node.layer), node.index, opaque | implied | FROM_BASE)
            }
            (Described::Base | Described::Nobody, _) => {
                let (layer, item) = decision.name;
                (layer, self.index(layer, item), opaque | IMPLIED)
            }
        }
    }

    fn name(&mut self, path: &[u8], (layer, item): (u32, u32)) -> NodeName {
        if matches!(self.items[layer as usize], Items::AsInTable) {
            return NodeName::Table { layer: layer + id_of(self.first_layer()), index: item };
        }
        let offset = id_of(self.moved_paths.len());
        self.moved_paths.extend_from_slice(path);
        NodeName::Moved { offset, length: u16::try_from(path.len()).unwrap_or(u16::MAX) }
    }

    fn close_last(&mut self) {
        let end = id_of(self.nodes.len());
        if let Some(open) = self.stack.pop() {
            self.nodes[open.node].end = end;
        }
    }

    /// No layer at all: only the root exists, described by nothing.
    fn root_of_nothing(&mut self) {
        let name = NodeName::Moved { offset: 0, length: 0 };
        let flags = IMPLIED;
        self.nodes.push(RawNode { layer: 0, index: 0, name, inode: 0, end: 1, flags });
    }
}

/// Only inside this file: layer and index are the base's.
const FROM_BASE: u8 = 0x80;

/// A layer's directory on top of what stands there.
fn enter(
    below: State,
    described_by: Described,
    layer: u32,
    opaque: bool,
    hides_base: bool,
) -> State {
    let State::Directory { described_by: before, visible_from, base_hidden } = below else {
        return State::Directory { described_by, visible_from: layer, base_hidden: hides_base };
    };
    State::Directory {
        described_by: match described_by {
            Described::Layer(..) => described_by,
            Described::Base | Described::Nobody => before,
        },
        visible_from: if opaque { layer } else { visible_from },
        base_hidden: base_hidden || opaque,
    }
}
