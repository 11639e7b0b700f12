//! What several layers show together: the merged tree.
//!
//! The tables are walked side by side in path order, so a merge costs one pass and a few words per
//! path. Whiteouts, opaque directories, implied parents (metadata of the layers below), replaced
//! directories and hard links into lower layers are resolved here and nowhere else.
//!
//! A [`Merged`] covers all layers, or only the upper ones on a *base*: then its nodes are those
//! that differ from the base, with whiteouts and opaque marks exactly where overlayfs needs them,
//! and [`Merged::find`] falls through to the base.

mod links;
mod relocate;
mod walk;

use std::{cmp::Ordering, collections::BTreeSet, fmt, ops::Range, sync::Arc};

use crate::{Entry, Kind, Table, path, table};

/// Positions of layers and nodes; bounded by [`TableLimits`](crate::TableLimits) and memory.
pub type NodeId = u32;

/// The merged view of a stack of layers.
pub struct Merged {
    base: Option<Arc<Self>>,
    /// Own layers, bottom first; they stand on the base's.
    layers: Vec<Arc<Table>>,
    first_layer: usize,
    nodes: Vec<RawNode>,
    /// Paths of nodes whose parents a symlink of a lower layer moved elsewhere.
    moved_paths: Vec<u8>,
}

/// One path of a [`Merged`] tree.
#[derive(Clone, Copy, Debug)]
pub struct Node<'m> {
    /// Position in the tree, counted in path order.
    pub id: NodeId,
    /// What lies at the path, under this path: never a hard link, a whiteout only in a tree on a
    /// base. The extents of a file lie in the tar of `layer`. `opaque` is set only in a tree on a
    /// base, where the directory hides one of the base; `implied` only if no layer describes it.
    pub entry: Entry<'m>,
    /// The layer that describes it, counted from the bottom of the whole stack.
    pub layer: usize,
    /// Position of the description in that layer's table. For a hard link it is that of the file.
    pub index: u32,
    /// The first node that is a name of the same file; itself for all that have one name.
    pub inode: NodeId,
}

/// Why layers do not make a tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// A hard link names a file that no layer below has.
    #[error("layer {layer} links `{path}` to `{target}`, which no layer below holds")]
    LinkTarget {
        /// Position of the layer, counted from the bottom.
        layer: usize,
        /// The link.
        path: String,
        /// Its target.
        target: String,
    },
    /// The layers have more paths than positions.
    #[error("the layers hold too many paths")]
    TooLarge,
}

/// A node as it is stored.
#[derive(Clone, Copy, Debug)]
struct RawNode {
    /// Layer and entry of the inode.
    layer: u32,
    index: u32,
    name: NodeName,
    inode: NodeId,
    /// First node that is not below this one.
    end: NodeId,
    flags: u8,
}

/// Where the path of a node lies.
#[derive(Clone, Copy, Debug)]
enum NodeName {
    Table { layer: u32, index: u32 },
    Moved { offset: u32, length: u16 },
}

/// The directory has no metadata in any layer.
const IMPLIED: u8 = 1;
/// The directory hides one of the base.
const OPAQUE: u8 = 2;
/// Nothing of the base shows below.
const BASE_HIDDEN: u8 = 4;
/// Something of the base was here and is gone.
const WHITEOUT: u8 = 8;

impl Merged {
    /// Merges `layers`, bottom first.
    ///
    /// # Errors
    /// [`MergeError`] if a hard link leads nowhere.
    pub fn new(layers: Vec<Arc<Table>>) -> Result<Self, MergeError> {
        walk::merge(None, layers)
    }

    /// Merges `layers`, bottom first, on top of `base`; costs what `layers` hold, not what `base`
    /// does.
    ///
    /// # Errors
    /// [`MergeError`] if a hard link leads nowhere.
    pub fn on(base: Arc<Self>, layers: Vec<Arc<Table>>) -> Result<Self, MergeError> {
        walk::merge(Some(base), layers)
    }

    /// The same tree without a base: all layers in one pass.
    ///
    /// # Errors
    /// [`MergeError`] if a hard link leads nowhere.
    pub fn flattened(&self) -> Result<Self, MergeError> {
        Self::new(self.all_layers())
    }

    /// The base that this tree stands on.
    #[must_use]
    pub const fn base(&self) -> Option<&Arc<Self>> {
        self.base.as_ref()
    }

    /// Number of layers of the base; own layers are counted from here.
    #[must_use]
    pub const fn first_layer(&self) -> usize {
        self.first_layer
    }

    /// Number of all layers, the base's included.
    #[must_use]
    pub fn layer_count(&self) -> usize {
        self.first_layer + self.layers.len()
    }

    /// The table of a layer, counted from the bottom of the whole stack.
    ///
    /// # Panics
    /// If there is no such layer.
    #[must_use]
    pub fn layer(&self, layer: usize) -> &Arc<Table> {
        match layer.checked_sub(self.first_layer) {
            Some(own) => &self.layers[own],
            None => self.base.as_ref().expect("the layers below are the base's").layer(layer),
        }
    }

    /// The tables of all layers, bottom first.
    #[must_use]
    pub fn all_layers(&self) -> Vec<Arc<Table>> {
        (0..self.layer_count()).map(|layer| Arc::clone(self.layer(layer))).collect()
    }

    /// Number of nodes; at least 1, the root.
    #[must_use]
    pub const fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The node at `id`.
    ///
    /// # Panics
    /// If `id` is not below [`Merged::node_count`].
    #[must_use]
    pub fn node(&self, id: NodeId) -> Node<'_> {
        let raw = &self.nodes[id as usize];
        let path = self.path(id);
        let mut entry = match raw.flags {
            flags if flags & WHITEOUT != 0 => Entry::whiteout(path),
            flags if flags & IMPLIED != 0 => Entry::implied(path),
            _ => Entry { path, ..self.layer(raw.layer as usize).at(raw.index) },
        };
        if let Kind::Directory { opaque, implied } = &mut entry.kind {
            (*opaque, *implied) = (raw.flags & OPAQUE != 0, raw.flags & IMPLIED != 0);
        }
        Node { id, entry, layer: raw.layer as usize, index: raw.index, inode: raw.inode }
    }

    /// The path of the node at `id`; cheaper than the whole node.
    ///
    /// # Panics
    /// If `id` is not below [`Merged::node_count`].
    #[must_use]
    pub fn path(&self, id: NodeId) -> &[u8] {
        match self.nodes[id as usize].name {
            NodeName::Table { layer, index } => self.layer(layer as usize).path_at(index),
            NodeName::Moved { offset, length } => {
                &self.moved_paths[offset as usize..offset as usize + usize::from(length)]
            }
        }
    }

    /// All own nodes in path order, the root first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Node<'_>> + ExactSizeIterator {
        (0..self.nodes.len()).map(|id| self.node(id_of(id)))
    }

    /// Positions of all own nodes below `id`.
    ///
    /// # Panics
    /// If `id` is not below [`Merged::node_count`].
    #[must_use]
    pub fn descendants(&self, id: NodeId) -> Range<NodeId> {
        id + 1..self.nodes[id as usize].end
    }

    /// Positions of the own nodes directly in `id`, in order.
    pub fn children(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let Range { start: mut next, end } = self.descendants(id);
        std::iter::from_fn(move || {
            let child = (next < end).then_some(next)?;
            next = self.nodes[child as usize].end;
            Some(child)
        })
    }

    /// The own node at `path`, whiteouts included; never asks the base.
    ///
    /// # Errors
    /// The position of the first own node behind `path`.
    pub fn position(&self, path: &[u8]) -> Result<NodeId, NodeId> {
        let (mut low, mut high) = (0, id_of(self.nodes.len()));
        while low < high {
            let middle = low + (high - low) / 2;
            match path::compare(self.path(middle), path) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// What all layers together show at `path`, symlinks not followed. The node's `id` and `inode`
    /// count within the tree that holds it: this one or its base.
    #[must_use]
    pub fn find(&self, path: &[u8]) -> Option<Node<'_>> {
        match self.position(path) {
            Ok(id) if self.nodes[id as usize].flags & WHITEOUT != 0 => None,
            Ok(id) => Some(self.node(id)),
            Err(_) => {
                let base = self.base.as_ref()?;
                if self.hides_base_at(path) { None } else { base.find(path) }
            }
        }
    }

    /// The names in the directory `path`, as all layers together show it, sorted; none if it is no
    /// directory.
    #[must_use]
    pub fn list(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let mut names = BTreeSet::new();
        self.add_names(path, &mut names);
        names.into_iter().collect()
    }

    fn add_names(&self, path: &[u8], names: &mut BTreeSet<Vec<u8>>) {
        let own = self.position(path);
        let hides_base = match own {
            Ok(id) => self.nodes[id as usize].flags & (BASE_HIDDEN | WHITEOUT) != 0,
            Err(_) => self.hides_base_at(path),
        };
        if let Some(base) = self.base.as_ref().filter(|_| !hides_base) {
            base.add_names(path, names);
        }
        for child in own.into_iter().flat_map(|id| self.children(id)) {
            let name = path::file_name(self.path(child));
            if self.nodes[child as usize].flags & WHITEOUT != 0 {
                names.remove(name);
            } else {
                names.insert(name.to_vec());
            }
        }
    }

    /// All paths of the file that `layer` describes at `index`, sorted. One pass over the tree.
    #[must_use]
    pub fn names_of(&self, layer: usize, index: u32) -> Vec<Vec<u8>> {
        let mut names = match &self.base {
            Some(base) => base.names_of(layer, index),
            None => Vec::new(),
        };
        names.retain(|path| self.position(path).is_err() && !self.hides_base_at(path));
        let own = self.iter().filter(|node| (node.layer, node.index) == (layer, index));
        let own = own.filter(|node| !node.entry.kind.is_whiteout());
        names.extend(own.map(|node| node.entry.path.to_vec()));
        names.sort_by(|a, b| path::compare(a, b));
        names
    }

    /// Whether own nodes above `path` hide what the base holds there.
    fn hides_base_at(&self, path: &[u8]) -> bool {
        let mut above = path::parent(path);
        while let Some(directory) = above {
            if let Ok(id) = self.position(directory) {
                let raw = &self.nodes[id as usize];
                return raw.flags & (BASE_HIDDEN | WHITEOUT) != 0
                    || !self.node(id).entry.kind.is_directory();
            }
            above = path::parent(directory);
        }
        false
    }

    /// Follows all symlinks of `path` inside the root, the last component included. What does not
    /// exist stays as it is, so the result may name nothing.
    ///
    /// # Errors
    /// [`TooManySymlinks`] after 40 of them.
    pub fn follow(&self, path: &[u8]) -> Result<Vec<u8>, TooManySymlinks> {
        let mut target = |at: &[u8]| match self.find(at)?.entry.kind {
            Kind::Symlink { target } => Some(target),
            _ => None,
        };
        let too_many = |_fault| TooManySymlinks { path: table::printable(path) };
        table::follow(path, &mut target).map_err(too_many)
    }

    /// Follows the symlinks among the ancestors of `path`, not its last component.
    ///
    /// # Errors
    /// [`TooManySymlinks`] after 40 of them.
    pub fn follow_parents(&self, path: &[u8]) -> Result<Vec<u8>, TooManySymlinks> {
        match path::split(path) {
            Some((parent, name)) => Ok(path::join(&self.follow(parent)?, name)),
            None => Ok(Vec::new()),
        }
    }
}

/// A path passes through more symlinks than Linux follows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{path}` passes through too many symbolic links")]
pub struct TooManySymlinks {
    /// The path.
    pub path: String,
}

impl fmt::Debug for Merged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Merged")
            .field("first_layer", &self.first_layer)
            .field("layers", &self.layers.len())
            .field("nodes", &self.nodes.len())
            .finish_non_exhaustive()
    }
}

/// A position as nodes hold it; [`walk::merge`] refuses more.
fn id_of(position: usize) -> NodeId {
    NodeId::try_from(position).expect("the number of nodes was checked")
}
