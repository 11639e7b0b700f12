//! Keys of copies by what they meet of the state below, whatever else that holds.
//!
//! A plain copy is as independent of the state below as one with `--link` where all that it looks
//! at there is known before it runs: real directories on the way to its destination, and nothing, or
//! a file that it replaces, under each of the names that it puts there. Its layer has these
//! directories as they are, so that their facts are in the key. Symlinks, directories that are
//! merged, archives and names of owners read more: such a copy depends on the whole state.

use davit_layer::{Kind, Merged, Node as Entry};

use super::{Done, Session, failed};
use crate::{
    copy::Facts,
    definition::selected,
    error::BuildError,
    files::{FileKind, FileSet, components, file_name, join, push_component},
    plan::{CopyOrigin, CopySpec, Node, Ownership, Unpack},
};

impl Session<'_, '_> {
    /// What stands for the state below in a key of a copy; `None` if nothing less than all does.
    pub(super) fn beneath(
        &self,
        node: &Node,
        spec: &CopySpec,
        inputs: &[&Done],
    ) -> Result<Option<String>, BuildError> {
        let reads_more = spec.link
            || spec.unpack != Unpack::Never
            || !spec.remotes.is_empty()
            || !spec.parents.is_empty()
            || !spec.owner.as_ref().is_none_or(Ownership::is_numeric);
        if reads_more {
            return Ok(None);
        }
        let below = self.below(&inputs[0].state).map_err(|error| failed(node, error))?;
        let names = match spec.origin {
            CopyOrigin::Context(context) => names(spec, self.inputs.context(context).set()),
            CopyOrigin::Input => {
                let (files, _) = self.source_files(node, &spec.selectors(), &inputs[1].state)?;
                names(spec, &files)
            }
        };
        Ok(met(spec, &names, below.as_deref()))
    }
}

/// The names that a copy puts into its destination if that is a directory, and whether each becomes
/// a directory.
fn names(spec: &CopySpec, files: &FileSet) -> Vec<(Vec<u8>, bool)> {
    let mut names: Vec<_> =
        spec.files.iter().map(|file| (file.name.clone().into_bytes(), false)).collect();
    for source in &spec.sources {
        for (path, index) in selected(source, files) {
            let entry = &files.entries[index];
            if entry.kind != FileKind::Directory {
                names.push((file_name(&path).to_vec(), false));
                continue;
            }
            let skip = if entry.path.is_empty() { 0 } else { entry.path.len() + 1 };
            let inside = files.subtree(index)[1..].iter();
            let inside = inside.map(|entry| (&entry.path[skip..], entry.kind));
            let top = inside.filter(|(path, _)| !path.contains(&b'/'));
            names.extend(top.map(|(path, kind)| (path.to_vec(), kind == FileKind::Directory)));
        }
    }
    names
}

/// Digest of what a copy meets below; `None` if that leads it on.
fn met(spec: &CopySpec, names: &[(Vec<u8>, bool)], below: Option<&Merged>) -> Option<String> {
    let find = |path: &[u8]| below.and_then(|below| below.find(path));
    let mut facts = Facts::new("beneath");
    let mut at = Vec::new();
    let mut way = components(spec.destination.path.as_bytes()).peekable();
    while let Some(component) = way.next() {
        if component == b".." {
            return None;
        }
        push_component(&mut at, component);
        match find(&at).as_ref().map(|entry| (entry, &entry.entry.kind)) {
            None => return Some(facts.fact(b"nothing").finish()),
            Some((entry, Kind::Directory { .. })) => facts = directory(facts, entry, spec.epoch),
            Some((_, Kind::Symlink { .. })) => return None,
            Some(_) if way.peek().is_some() => return None,
            Some(_) => return Some(facts.fact(b"file").finish()),
        }
    }
    for (name, becomes_directory) in names {
        match find(&join(&at, name)).map(|entry| entry.entry.kind) {
            None => {}
            Some(Kind::Directory { .. } | Kind::Symlink { .. }) => return None,
            Some(_) if *becomes_directory => return None,
            Some(_) => facts = facts.fact(b"replaces").fact(name),
        }
    }
    Some(facts.finish())
}

/// Adds a directory as the copy's layer has it. Its time counts where times do.
fn directory(facts: Facts, entry: &Entry<'_>, epoch: Option<i64>) -> Facts {
    let entry = &entry.entry;
    let time = epoch.map(|_| entry.mtime.seconds);
    let numbers = format!("{:o} {} {} {time:?}", entry.mode, entry.uid, entry.gid);
    let mut facts = facts.fact(b"directory").fact(numbers.as_bytes());
    for (name, value) in entry.xattrs.to_map() {
        facts = facts.fact(&name).fact(&value);
    }
    facts
}
