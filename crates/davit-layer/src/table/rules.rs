//! From entries in archive order to the sorted table: replacement, shadowing, implied parents and
//! hard links.

use std::{cmp::Ordering, collections::HashMap};

use super::{
    Bytes, LayerFacts, Table,
    build::{BuildError, TableBuilder, printable},
    index_u32,
    record::{NO_RECORD, RECORD_SIZE, Record, flag, kind},
};
use crate::{Extent, path};

/// Position of an entry in the archive; the order in which entries came.
type Sequence = u32;

pub(super) fn finish(builder: TableBuilder, facts: LayerFacts) -> Result<Table, BuildError> {
    check_extents(&builder, facts)?;
    let order = sorted(&builder);
    let mut tree = Tree::new(&builder);
    let mut start = 0;
    while start < order.len() {
        let path = builder.path_of(&builder.records[order[start] as usize]);
        let same = |index: &&Sequence| builder.path_of(&builder.records[**index as usize]) == path;
        let end = start + order[start..].iter().take_while(same).count();
        tree.place(path, &order[start..end])?;
        start = end;
    }
    let Tree { mut output, winners, .. } = tree.close();
    let mut links = Links { builder: &builder, order: &order, bound: HashMap::new() };
    links.bind_all()?;
    links.resolve(&mut output, &winners);
    drop(order);
    Ok(serialize(builder, output, facts))
}

fn serialize(builder: TableBuilder, output: Vec<Record>, facts: LayerFacts) -> Table {
    let TableBuilder { records, names, extents, xattrs, .. } = builder;
    drop(records);
    let mut bytes = Vec::with_capacity(output.len() * RECORD_SIZE);
    output.iter().for_each(|record| bytes.extend_from_slice(&record.encode()));
    Table {
        facts,
        map: None,
        records: Bytes::Owned(bytes),
        names: Bytes::Owned(names),
        extents: Bytes::Owned(extents),
        xattrs: Bytes::Owned(xattrs),
    }
}

fn check_extents(builder: &TableBuilder, facts: LayerFacts) -> Result<(), BuildError> {
    let inside = |offset: u64, length: u64| {
        offset.checked_add(length).is_some_and(|end| end <= facts.tar_size)
    };
    for record in builder.records.iter().filter(|record| record.kind == kind::FILE) {
        let whole =
            !record.has(flag::SPARSE) && (record.size == 0 || inside(record.data, record.size));
        if !whole && !record.has(flag::SPARSE) {
            return Err(BuildError::Extents { path: printable(builder.path_of(record)) });
        }
        if record.has(flag::SPARSE) {
            let (first, count) = record.extent_run();
            let start = first as usize * Extent::PACKED_SIZE;
            let run = &builder.extents[start..start + count as usize * Extent::PACKED_SIZE];
            let mut extents = run.chunks_exact(Extent::PACKED_SIZE).map(Extent::unpack);
            if !extents.all(|extent| inside(extent.tar_offset, extent.length)) {
                return Err(BuildError::Extents { path: printable(builder.path_of(record)) });
            }
        }
    }
    Ok(())
}

/// Positions of the entries by path, equal paths by age. Archives are nearly sorted, which the
/// merge sort of the standard library makes use of.
fn sorted(builder: &TableBuilder) -> Vec<Sequence> {
    let mut order: Vec<Sequence> = (0..index_u32(builder.records.len())).collect();
    let path = |index: Sequence| builder.path_of(&builder.records[index as usize]);
    order.sort_by(|a, b| path::compare(path(*a), path(*b)));
    order
}

/// The tree while it grows in path order.
struct Tree<'b> {
    builder: &'b TableBuilder,
    output: Vec<Record>,
    /// For each output record: the entry that it is, or `NO_RECORD` if it is implied.
    winners: Vec<Sequence>,
    /// The directories (or leaves) on the way to the current path.
    stack: Vec<Open>,
}

struct Open {
    output: usize,
    path_length: usize,
    /// Entries below that came before this one were in a directory that has been replaced.
    replaced_before: Sequence,
}

impl<'b> Tree<'b> {
    fn new(builder: &'b TableBuilder) -> Self {
        let count = builder.records.len() + 1;
        let mut tree = Self {
            builder,
            output: Vec::with_capacity(count),
            winners: Vec::with_capacity(count),
            stack: Vec::new(),
        };
        tree.open(implied(0, 0), NO_RECORD, 0);
        tree
    }

    /// Decides what stands at `path`, given all entries for it, oldest first.
    fn place(&mut self, path: &[u8], group: &[Sequence]) -> Result<(), BuildError> {
        let parent = path::parent(path).unwrap_or_default();
        self.close_to(path);
        let replaced_before = self.stack.last().map_or(0, |open| open.replaced_before);
        let alive = |index: &&Sequence| {
            !self.builder.records[**index as usize].has(flag::HIDDEN) && **index >= replaced_before
        };
        let group: Vec<Sequence> = group.iter().filter(alive).copied().collect();
        let Some((winner, record, replaced)) = self.decide(&group) else { return Ok(()) };
        let replaced_before = replaced_before.max(replaced);
        if path.is_empty() {
            (self.output[0], self.winners[0]) = (record, winner);
            self.stack[0].replaced_before = replaced_before;
            return Ok(());
        }
        self.imply(path, parent.len(), record.path_offset)?;
        self.open(record, winner, replaced_before);
        Ok(())
    }

    /// Among living entries of one path: which stands, as what record, and the place in the archive
    /// before which anything below was replaced.
    fn decide(&self, group: &[Sequence]) -> Option<(Sequence, Record, Sequence)> {
        let record = |index: Sequence| self.builder.records[index as usize];
        let mut whiteout = false;
        let mut opaque = false;
        let mut standing: Option<Sequence> = None;
        let mut replaced = 0;
        for index in group.iter().copied() {
            let next = record(index);
            match next.kind {
                kind::WHITEOUT => whiteout = true,
                kind::DIRECTORY => {
                    opaque |= next.has(flag::OPAQUE);
                    let renews = !next.has(flag::IMPLIED)
                        || standing.is_none_or(|standing| !record(standing).is_directory());
                    standing = if renews { Some(index) } else { standing };
                }
                _ => {
                    standing = Some(index);
                    replaced = index + 1;
                }
            }
        }
        let Some(winner) = standing else {
            let last = *group.last()?;
            return Some((last, record(last), 0));
        };
        let mut result = record(winner);
        if result.is_directory() {
            let hides = opaque || whiteout || replaced > 0;
            result.flags |= if hides { flag::OPAQUE } else { 0 };
            // What was whited out lends nothing, not even its metadata.
            result.flags &= if whiteout { !flag::IMPLIED } else { u8::MAX };
        }
        Some((winner, result, replaced))
    }

    /// Makes the missing directories between the open one and the parent of `path`.
    fn imply(&mut self, path: &[u8], parent: usize, offset: u32) -> Result<(), BuildError> {
        loop {
            let open = self.stack.last().expect("the root is never closed");
            let (output, length) = (open.output, open.path_length);
            let replaced_before = open.replaced_before;
            let holder = &mut self.output[output];
            if holder.kind == kind::WHITEOUT {
                let place = (holder.path_offset, holder.path_length);
                *holder = Record { flags: flag::OPAQUE, ..implied(place.0, place.1) };
                self.winners[output] = NO_RECORD;
            } else if !holder.is_directory() {
                return Err(BuildError::NotADirectory { path: printable(path) });
            }
            if length == parent {
                return Ok(());
            }
            let from = if length == 0 { 0 } else { length + 1 };
            let slash = path[from..parent].iter().position(|byte| *byte == b'/');
            let next = slash.map_or(parent, |slash| from + slash);
            let length = u16::try_from(next).expect("paths are short");
            self.open(implied(offset, length), NO_RECORD, replaced_before);
        }
    }

    fn open(&mut self, record: Record, winner: Sequence, replaced_before: Sequence) {
        let path_length = usize::from(record.path_length);
        self.stack.push(Open { output: self.output.len(), path_length, replaced_before });
        self.output.push(record);
        self.winners.push(winner);
    }

    /// Closes what `path` does not lie below.
    fn close_to(&mut self, path: &[u8]) {
        while let Some(open) = self.stack.last() {
            let here = self.builder.path_of(&self.output[open.output]);
            if here.is_empty() || path::is_below(path, here) {
                return;
            }
            self.close_last();
        }
    }

    fn close_last(&mut self) {
        let end = index_u32(self.output.len());
        if let Some(open) = self.stack.pop() {
            let record = &mut self.output[open.output];
            if record.is_directory() {
                record.link = end;
            }
        }
    }

    fn close(mut self) -> Self {
        while !self.stack.is_empty() {
            self.close_last();
        }
        self
    }
}

fn implied(path_offset: u32, path_length: u16) -> Record {
    Record {
        path_offset,
        path_length,
        kind: kind::DIRECTORY,
        flags: flag::IMPLIED,
        mode: 0o755,
        ..Record::default()
    }
}

/// What each hard link of the archive names.
struct Links<'b> {
    builder: &'b TableBuilder,
    order: &'b [Sequence],
    bound: HashMap<Sequence, Bound>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    /// Being followed: meeting it again is a loop.
    Open,
    /// An entry that is no link.
    Entry(Sequence),
    /// The path that this link entry names is not in the layer.
    Below(Sequence),
}

impl Links<'_> {
    fn bind_all(&mut self) -> Result<(), BuildError> {
        for index in 0..index_u32(self.builder.records.len()) {
            if self.builder.records[index as usize].kind == kind::HARD_LINK {
                self.bind(index)?;
            }
        }
        Ok(())
    }

    /// Follows a link to what is no link; every link on the way is bound to the same.
    fn bind(&mut self, link: Sequence) -> Result<(), BuildError> {
        let mut way = Vec::new();
        let mut at = link;
        let end = loop {
            match self.bound.get(&at) {
                Some(Bound::Open) => return Err(self.fault(link, "it leads to itself")),
                Some(end) => break *end,
                None => {}
            }
            if self.builder.records[at as usize].kind != kind::HARD_LINK {
                break Bound::Entry(at);
            }
            self.bound.insert(at, Bound::Open);
            way.push(at);
            match self.target(at) {
                Some(target) => at = target,
                None => break Bound::Below(at),
            }
        };
        if let Bound::Entry(entry) = end
            && self.builder.records[entry as usize].is_directory()
        {
            return Err(self.fault(link, "its target is a directory"));
        }
        for link in way {
            self.bound.insert(link, end);
        }
        Ok(())
    }

    fn fault(&self, link: Sequence, fault: &'static str) -> BuildError {
        let path = printable(self.builder.path_of(&self.builder.records[link as usize]));
        BuildError::Link { path, fault }
    }

    /// The entry that `link` names: the last one at its target before it, else the first after.
    fn target(&self, link: Sequence) -> Option<Sequence> {
        let builder = self.builder;
        let target = builder.target_of(&builder.records[link as usize]);
        let path = |index: &Sequence| builder.path_of(&builder.records[*index as usize]);
        let start = self
            .order
            .partition_point(|index| path::compare(path(index), target) == Ordering::Less);
        let group = self.order[start..].iter().take_while(|index| path(index) == target);
        let real = group.copied().filter(|index| {
            let record = &builder.records[*index as usize];
            record.kind != kind::WHITEOUT && !record.has(flag::IMPLIED) && *index != link
        });
        let mut before = None;
        for index in real {
            if index > link {
                return before.or(Some(index));
            }
            before = Some(index);
        }
        before
    }

    /// Points the links in the tree to records; the first name of an inode whose own path is taken
    /// by something else becomes the inode itself.
    fn resolve(&self, output: &mut [Record], winners: &[Sequence]) {
        if self.bound.is_empty() {
            return;
        }
        let mut places = self.places(winners);
        for position in 0..output.len() {
            let here = output[position];
            if here.kind != kind::HARD_LINK {
                continue;
            }
            match self.bound.get(&winners[position]) {
                Some(Bound::Entry(entry)) => {
                    let place = match places.get(entry) {
                        Some(place) if *place != NO_RECORD => *place,
                        _ => index_u32(position),
                    };
                    places.insert(*entry, place);
                    output[position] = if place as usize == position {
                        self.promoted(*entry, &here)
                    } else {
                        let target = output[place as usize];
                        Record {
                            link: place,
                            data: target.path_offset.into(),
                            target_length: target.path_length,
                            ..here
                        }
                    };
                }
                Some(Bound::Below(link)) => {
                    let last = self.builder.records[*link as usize];
                    let (data, target_length) = (last.data, last.target_length);
                    output[position] = Record { data, target_length, ..here };
                }
                Some(Bound::Open) | None => {}
            }
        }
    }

    /// Where in the tree the targets of links stand; `NO_RECORD` for one that does not.
    fn places(&self, winners: &[Sequence]) -> HashMap<Sequence, u32> {
        let ends = self.bound.values().filter_map(|bound| match bound {
            Bound::Entry(entry) => Some((*entry, NO_RECORD)),
            Bound::Open | Bound::Below(_) => None,
        });
        let mut places: HashMap<Sequence, u32> = ends.collect();
        for (position, winner) in winners.iter().enumerate() {
            if let Some(place) = places.get_mut(winner) {
                *place = index_u32(position);
            }
        }
        places
    }

    fn promoted(&self, entry: Sequence, link: &Record) -> Record {
        let mut record = self.builder.records[entry as usize];
        record.flags &= !flag::HIDDEN;
        (record.path_offset, record.path_length) = (link.path_offset, link.path_length);
        record
    }
}
