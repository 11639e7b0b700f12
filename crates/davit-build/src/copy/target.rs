//! The file system that a copy writes to: the state below, and what the copy has added so far.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
};

use davit_layer::{Kind, Merged, Mtime, XattrMap};

use super::{
    CopyProblem, Owner,
    outputs::{Content, Output, link_names},
};
use crate::files::{self, compare_paths, components, is_below, parent};

/// As many symlinks as the kernel follows.
const SYMLINK_LIMIT: usize = 40;

pub(crate) struct Target<'a> {
    below: Option<&'a Merged>,
    outputs: Vec<Option<Output>>,
    places: Places,
    /// Directories that were made; the others among the outputs stand for existing ones.
    made: HashSet<Vec<u8>>,
    /// Directories of the state below that a file replaced.
    hidden: HashSet<Vec<u8>>,
    /// A directory below which the state below has nothing: the last one that was found new.
    fresh: Option<Vec<u8>>,
    now: i64,
}

/// How an output is found by its path.
enum Places {
    /// They stand in the order of their paths, all of them: what a copy of one directory gives.
    InOrder,
    /// By their positions.
    Index(HashMap<Vec<u8>, usize>),
}

impl Places {
    /// From now on outputs may stand in any order, and be missing.
    fn index(&mut self, outputs: &[Option<Output>]) -> &mut HashMap<Vec<u8>, usize> {
        if let Self::InOrder = self {
            let paths = outputs.iter().zip(0..);
            let paths = paths.filter_map(|(output, at)| Some((output.as_ref()?.path.clone(), at)));
            *self = Self::Index(paths.collect());
        }
        match self {
            Self::Index(index) => index,
            Self::InOrder => unreachable!("there is an index now"),
        }
    }
}

/// What lies at a path.
enum Found<'t> {
    Nothing,
    Directory,
    Symlink(&'t [u8]),
    Other,
}

impl<'a> Target<'a> {
    /// Room for `expected` outputs is made at once.
    pub(crate) fn new(below: Option<&'a Merged>, now: i64, expected: usize) -> Self {
        Self {
            below,
            outputs: Vec::with_capacity(expected),
            places: Places::InOrder,
            made: HashSet::new(),
            hidden: HashSet::new(),
            fresh: None,
            now,
        }
    }

    fn output(&self, path: &[u8]) -> Option<&Output> {
        self.position(path).and_then(|index| self.outputs[index].as_ref())
    }

    fn position(&self, path: &[u8]) -> Option<usize> {
        match &self.places {
            Places::Index(index) => index.get(path).copied(),
            Places::InOrder if self.is_behind(path) => None,
            Places::InOrder => self.outputs.binary_search_by(|it| order(it.as_ref(), path)).ok(),
        }
    }

    /// Whether a path comes after those of all outputs, which are in order.
    fn is_behind(&self, path: &[u8]) -> bool {
        self.outputs.last().is_none_or(|last| order(last.as_ref(), path).is_lt())
    }

    /// What the state below has at a path that nothing hides.
    fn node(&self, path: &[u8]) -> Option<davit_layer::Node<'a>> {
        let below = self.below?;
        let is_fresh =
            self.fresh.as_ref().is_some_and(|fresh| fresh == path || is_below(path, fresh));
        let hidden = !self.hidden.is_empty()
            && self.hidden.iter().any(|hidden| is_below(path, hidden) || hidden == path);
        if is_fresh || hidden { None } else { below.find(path) }
    }

    fn look(&self, path: &[u8]) -> Found<'_> {
        if path.is_empty() {
            return Found::Directory;
        }
        if let Some(output) = self.output(path) {
            return match &output.content {
                content if content.is_directory() => Found::Directory,
                Content::Symlink(target) => Found::Symlink(target),
                _ => Found::Other,
            };
        }
        match self.node(path).map(|node| node.entry.kind) {
            None => Found::Nothing,
            Some(Kind::Directory { .. }) => Found::Directory,
            Some(Kind::Symlink { target }) => Found::Symlink(target),
            Some(_) => Found::Other,
        }
    }

    pub(crate) fn is_directory(&self, path: &[u8]) -> bool {
        matches!(self.look(path), Found::Directory)
    }

    /// Follows all symlinks of a path within the root; what does not exist stays as written.
    pub(crate) fn follow(&self, path: &[u8]) -> Result<Vec<u8>, CopyProblem> {
        let mut rest: Vec<Vec<u8>> = components(path).rev().map(<[u8]>::to_vec).collect();
        let mut at: Vec<u8> = Vec::new();
        let mut followed = 0;
        while let Some(component) = rest.pop() {
            if component == b".." {
                let length = parent(&at).map_or(0, <[u8]>::len);
                at.truncate(length);
                continue;
            }
            let base = at.len();
            files::push_component(&mut at, &component);
            if let Found::Symlink(target) = self.look(&at) {
                followed += 1;
                if followed > SYMLINK_LIMIT {
                    return Err(CopyProblem::Loop { path: lossy(path) });
                }
                rest.extend(components(target).rev().map(<[u8]>::to_vec));
                at.truncate(if target.starts_with(b"/") { 0 } else { base });
            }
        }
        Ok(at)
    }

    /// Makes a directory and those above it, where they are missing.
    pub(crate) fn make_directories(
        &mut self,
        path: &[u8],
        mode: u16,
        owner: Owner,
    ) -> Result<(), CopyProblem> {
        let mut at = Vec::new();
        for component in components(path) {
            files::push_component(&mut at, component);
            match self.look(&at) {
                Found::Directory => {}
                Found::Nothing => {
                    let mtime = Mtime::from_seconds(self.now);
                    self.made.insert(at.clone());
                    self.put(Output {
                        path: at.clone(),
                        content: Content::Directory,
                        mode,
                        owner,
                        mtime,
                        xattrs: XattrMap::new(),
                    })?;
                }
                _ => return Err(CopyProblem::NotADirectory { path: lossy(&at) }),
            }
        }
        Ok(())
    }

    /// Puts something at a path whose parents exist; a directory is not replaced, and replaces
    /// only a directory.
    pub(crate) fn put(&mut self, output: Output) -> Result<(), CopyProblem> {
        let directory = output.content.is_directory();
        match self.look(&output.path) {
            Found::Nothing if directory => {
                let known = self.fresh.as_ref().is_some_and(|it| is_below(&output.path, it));
                if !known {
                    self.fresh = Some(output.path.clone());
                }
            }
            Found::Nothing => {}
            Found::Directory if directory => {}
            Found::Directory => return Err(CopyProblem::Directory { path: lossy(&output.path) }),
            _ if directory => return Err(CopyProblem::NotADirectory { path: lossy(&output.path) }),
            _ => {}
        }
        self.set(output);
        Ok(())
    }

    /// Puts something at a path, whatever is there: an archive's entry replaces what is no
    /// directory, and a directory that it does not find as one.
    pub(crate) fn replace(&mut self, mut output: Output) {
        let directory = output.content.is_directory();
        match self.look(&output.path) {
            Found::Directory if !directory => {
                self.remove_below(&output.path);
                if self.node(&output.path).is_some() {
                    self.hidden.insert(output.path.clone());
                }
            }
            Found::Symlink(_) | Found::Other if directory && self.hidden.contains(&output.path) => {
                output.content = Content::OpaqueDirectory;
            }
            _ => {}
        }
        self.set(output);
    }

    fn set(&mut self, output: Output) {
        if let Some(at) = self.position(&output.path) {
            self.outputs[at] = Some(output);
            return;
        }
        let at = self.outputs.len();
        if !matches!(self.places, Places::InOrder) || !self.is_behind(&output.path) {
            self.places.index(&self.outputs).insert(output.path.clone(), at);
        }
        self.outputs.push(Some(output));
    }

    fn remove_below(&mut self, directory: &[u8]) {
        let index = self.places.index(&self.outputs);
        for slot in &mut self.outputs {
            if let Some(output) = slot.take_if(|output| is_below(&output.path, directory)) {
                index.remove(&output.path);
            }
        }
    }

    /// Gives a directory the time of the one whose content it got, be it new or not: so do the
    /// newest BuildKit and Docker 26.
    pub(crate) fn set_time(&mut self, path: &[u8], mtime: Mtime) {
        if path.is_empty() || !self.is_directory(path) {
            return;
        }
        let output = self.output(path).cloned().unwrap_or_else(|| existing(self.below, path));
        self.set(Output { mtime, ..output });
    }

    /// Gives a directory that is there a mode.
    pub(crate) fn set_mode(&mut self, path: &[u8], mode: u16) {
        let output = self.output(path).cloned().unwrap_or_else(|| existing(self.below, path));
        self.set(Output { mode, ..output });
    }

    /// The outputs in order, with the directories above them as they are.
    pub(crate) fn finish(self) -> Vec<Output> {
        let below = self.below;
        #[expect(clippy::filter_map_identity, reason = "`flatten` does not collect in place")]
        let mut outputs: Vec<Output> = self.outputs.into_iter().filter_map(|it| it).collect();
        let mut known: HashSet<&[u8]> = outputs
            .iter()
            .filter(|output| output.content.is_directory())
            .map(|output| output.path.as_slice())
            .collect();
        let mut parents = Vec::new();
        let mut last = None;
        for output in &outputs {
            let mut above = parent(&output.path);
            // Most files have the directory of the one before.
            if above == last {
                continue;
            }
            last = above;
            while let Some(directory) = above.filter(|directory| !directory.is_empty()) {
                if !known.insert(directory) {
                    break;
                }
                parents.push(existing(below, directory));
                above = parent(directory);
            }
        }
        outputs.extend(parents);
        if !outputs.is_sorted_by(|a, b| compare_paths(&a.path, &b.path).is_lt()) {
            outputs.sort_by(|a, b| compare_paths(&a.path, &b.path));
        }
        link_names(&mut outputs);
        outputs
    }

    /// The same, or nothing if nothing was made: a `WORKDIR` that is there already.
    pub(crate) fn finish_made(self) -> Vec<Output> {
        if self.made.is_empty() { Vec::new() } else { self.finish() }
    }
}

/// A directory of the state below, as it is.
fn existing(below: Option<&Merged>, path: &[u8]) -> Output {
    let node = below.and_then(|below| below.find(path));
    let entry = node.as_ref().map(|node| &node.entry);
    let xattrs = entry.map(|entry| entry.xattrs.to_map()).unwrap_or_default();
    Output {
        path: path.to_vec(),
        content: Content::Directory,
        mode: entry.map_or(0o755, |entry| entry.mode),
        owner: entry.map_or_else(Owner::default, |entry| Owner { uid: entry.uid, gid: entry.gid }),
        mtime: entry.map_or(Mtime::EPOCH, |entry| entry.mtime),
        xattrs,
    }
}

/// How an output's path stands to another; the outputs that are in order are all there.
fn order(output: Option<&Output>, path: &[u8]) -> Ordering {
    compare_paths(output.map_or(b"", |output| &output.path), path)
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
