//! The diff of two merged trees, by their tables.

use std::{cmp::Ordering, collections::HashMap, fs::File, sync::Arc};

use super::{
    DiffError, Lower,
    compare::{self, Verdict},
};
use crate::{
    Change, ChangeKind, Kind, MergeError, Merged, Node, NodeId, Source, digest_content, path,
};

pub(super) fn diff(
    lower: &Lower<'_>,
    upper: &Merged,
    tars: &[Arc<File>],
) -> Result<Vec<Change>, DiffError> {
    let below = flat(lower.merged)?;
    let above = flat(upper)?;
    let below = below.as_ref().unwrap_or(lower.merged);
    let above = above.as_ref().unwrap_or(upper);
    let sides = Sides { lower, below, above, tars };
    let mut marks = sides.compare()?;
    marks.keep_whole_link_groups(below, above);
    Ok(sides.changes(&marks))
}

/// A tree on a base as one without; `None` if it has none anyway.
fn flat(merged: &Merged) -> Result<Option<Merged>, DiffError> {
    let flat = merged.base().map(|_| merged.flattened()).transpose();
    flat.map_err(|error: MergeError| DiffError::read(b"", std::io::Error::other(error)))
}

struct Sides<'a> {
    lower: &'a Lower<'a>,
    below: &'a Merged,
    above: &'a Merged,
    tars: &'a [Arc<File>],
}

/// The result of the comparison, by node.
struct Marks {
    /// Upper nodes that differ.
    changed: Vec<bool>,
    /// Lower nodes that are gone, without what lies below one that is.
    removed: Vec<NodeId>,
    /// Lower node of each upper one.
    pairs: Vec<Option<NodeId>>,
}

impl Sides<'_> {
    /// Walks both trees side by side.
    fn compare(&self) -> Result<Marks, DiffError> {
        let (upper_end, lower_end) = (count(self.above), count(self.below));
        let mut marks = Marks {
            changed: vec![false; upper_end as usize],
            removed: Vec::new(),
            pairs: vec![None; upper_end as usize],
        };
        let (mut upper, mut lower) = (0, 0);
        while upper < upper_end || lower < lower_end {
            let order = match (upper < upper_end, lower < lower_end) {
                (true, true) => path::compare(self.above.path(upper), self.below.path(lower)),
                (true, false) => Ordering::Less,
                (false, _) => Ordering::Greater,
            };
            match order {
                Ordering::Less => {
                    marks.changed[upper as usize] = true;
                    upper += 1;
                }
                Ordering::Greater => {
                    marks.removed.push(lower);
                    lower = self.below.descendants(lower).end;
                }
                Ordering::Equal => {
                    let (above, below) = (self.above.node(upper), self.below.node(lower));
                    marks.changed[upper as usize] = !self.is_unchanged(&above, &below)?;
                    marks.pairs[upper as usize] = Some(lower);
                    // A file in place of a directory hides all of it.
                    let stays = above.entry.kind.is_directory();
                    lower = if stays { lower + 1 } else { self.below.descendants(lower).end };
                    upper += 1;
                }
            }
        }
        Ok(marks)
    }

    fn is_unchanged(&self, above: &Node<'_>, below: &Node<'_>) -> Result<bool, DiffError> {
        let change = self.change(above, None);
        match compare::compare(&change, &below.entry, self.lower.xattrs) {
            Verdict::Changed => return Ok(false),
            Verdict::Unchanged => return Ok(true),
            Verdict::ReadContent => {}
        }
        let same_file = (above.layer, above.index) == (below.layer, below.index)
            && Arc::ptr_eq(self.above.layer(above.layer), self.below.layer(below.layer));
        let (Some(above_tar), Some(below_tar)) =
            (self.tars.get(above.layer), self.lower.tars.get(below.layer))
        else {
            return Ok(same_file);
        };
        if same_file {
            return Ok(true);
        }
        let read = |error| DiffError::read(above.entry.path, error);
        let above = digest_content(&above.entry.kind, above_tar).map_err(read)?;
        let below = digest_content(&below.entry.kind, below_tar).map_err(read)?;
        Ok(above == below)
    }

    /// The change that makes a node; a link if the first name of its file is given.
    fn change(&self, node: &Node<'_>, first: Option<&[u8]>) -> Change {
        let source = || match (&node.entry.kind, self.tars.get(node.layer)) {
            (Kind::File { extents, .. }, Some(tar)) => {
                Source::Tar { tar: Arc::clone(tar), extents: extents.iter().collect() }
            }
            _ => Source::Opened,
        };
        let mut change = Change::of_entry(&node.entry, source);
        match (first, &change.kind) {
            (Some(first), _) => change.kind = ChangeKind::HardLink { target: first.to_vec() },
            // What it hides is told by whiteouts.
            (None, ChangeKind::OpaqueDirectory) => change.kind = ChangeKind::Directory,
            (None, _) => {}
        }
        change
    }

    /// Puts changes, the parents of changes and whiteouts in order.
    fn changes(&self, marks: &Marks) -> Vec<Change> {
        let mut wanted = marks.changed.clone();
        for (id, _) in marks.changed.iter().enumerate().filter(|(_, changed)| **changed) {
            self.want_parents(self.above.path(id_of(id)), &mut wanted);
        }
        for id in &marks.removed {
            self.want_parents(self.below.path(*id), &mut wanted);
        }
        // A root that did not change itself needs no entry.
        wanted[0] = marks.changed[0];
        let mut changes: Vec<Change> = Vec::new();
        for (id, _) in wanted.iter().enumerate().filter(|(_, wanted)| **wanted) {
            let node = self.above.node(id_of(id));
            let first = (node.inode != node.id).then(|| self.above.path(node.inode));
            changes.push(self.change(&node, first));
        }
        changes
            .extend(marks.removed.iter().map(|id| Change::whiteout(self.below.path(*id).to_vec())));
        changes.sort_by(|a, b| path::compare(&a.path, &b.path));
        changes
    }

    fn want_parents(&self, path: &[u8], wanted: &mut [bool]) {
        for parent in path::ancestors(path) {
            if let Ok(id) = self.above.position(parent) {
                wanted[id as usize] = true;
            }
        }
    }
}

impl Marks {
    /// A file with several names is written with all of them if one changed, or if the names are
    /// others than before: links do not reach into layers below.
    fn keep_whole_link_groups(&mut self, below: &Merged, above: &Merged) {
        let (upper, lower) = (groups(above), groups(below));
        for names in upper.values() {
            let first_below = self.pairs[names[0] as usize].map(|id| below.node(id).inode);
            let before = first_below.and_then(|inode| lower.get(&inode));
            let same_names = before.is_some_and(|before| {
                before.iter().map(|id| below.path(*id)).eq(names.iter().map(|id| above.path(*id)))
            });
            if !same_names || names.iter().any(|id| self.changed[*id as usize]) {
                names.iter().for_each(|id| self.changed[*id as usize] = true);
            }
        }
        for names in lower.values() {
            // Names that were one file and now stand alone.
            let alone = |id: &NodeId| {
                let now = above.position(below.path(*id)).ok();
                now.filter(|now| !upper.contains_key(&above.node(*now).inode))
            };
            for id in names.iter().filter_map(alone) {
                self.changed[id as usize] = true;
            }
        }
    }
}

/// Names of each file that has several, by its first one.
fn groups(merged: &Merged) -> HashMap<NodeId, Vec<NodeId>> {
    let mut groups: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
    for node in merged.iter().filter(|node| node.inode != node.id) {
        groups.entry(node.inode).or_insert_with(|| vec![node.inode]).push(node.id);
    }
    groups
}

fn count(merged: &Merged) -> NodeId {
    id_of(merged.node_count())
}

fn id_of(position: usize) -> NodeId {
    NodeId::try_from(position).expect("nodes are counted in u32")
}
