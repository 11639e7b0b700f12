//! Definition keys of a plan's nodes.

mod run;

use std::ops::Range;

use davit_dockerfile::Glob;
use davit_image::{Algorithm, Digest, Digester};

use crate::{
    copy::{Keeps, Role, Selection, parts_key, selection_key},
    files::{FileKind, FileSet, Unresolved},
    inputs::{Inputs, Selected},
    key::{Component, DefinitionKey, KeyBuilder},
    plan::{CopyOrigin, CopySpec, Node, Op, Ownership},
    symbolic_mode::Mode,
};

/// The components of a node that do not depend on the states below it.
///
/// `inputs` have the digests of all that copies read of contexts.
pub(crate) fn components(node: &Node, inputs: &Inputs) -> KeyBuilder {
    match &node.op {
        Op::Scratch => KeyBuilder::new("scratch"),
        Op::Image(image) => {
            let mut key = KeyBuilder::new("image");
            let layers = image.config.rootfs.diff_ids.iter();
            key.push("layers", layers.map(ToString::to_string).collect::<Vec<_>>().join(" "));
            key
        }
        Op::Source(source) => {
            let mut key = KeyBuilder::new("source");
            key.push("layer", inputs.layer(source).to_string());
            key
        }
        Op::Run(spec) => run::components(spec, inputs),
        Op::Copy(spec) => copy(spec, inputs),
        Op::MakeDirectory(spec) => {
            let mut key = KeyBuilder::new("directory");
            key.push("path", &spec.path);
            key.push("owner", spec.owner.as_ref().map_or("", |owner| &owner.0));
            key.push("epoch", spec.epoch.map_or_else(String::new, |epoch| epoch.to_string()));
            key
        }
    }
}

/// Whether the layer of a node is the same upon every state: of a `--link` without names of owners.
pub(crate) fn stands_alone(op: &Op) -> bool {
    let Op::Copy(spec) = op else { return false };
    spec.link && spec.owner.as_ref().is_none_or(Ownership::is_numeric)
}

/// The key of a node upon states; `inputs` are their keys.
pub(crate) fn definition_key(
    mut key: KeyBuilder,
    inputs: &[String],
) -> (DefinitionKey, Vec<Component>) {
    for (index, input) in inputs.iter().enumerate() {
        key.push(input_label(index), input);
    }
    key.finish()
}

fn input_label(index: usize) -> String {
    if index == 0 { "state below".to_owned() } else { format!("source {index}") }
}

/// The input that a component stands for.
pub(crate) fn input_number(label: &str) -> Option<usize> {
    let number = label.strip_prefix("source ").and_then(|number| number.parse().ok());
    number.or_else(|| (label == input_label(0)).then_some(0))
}

fn copy(spec: &CopySpec, inputs: &Inputs) -> KeyBuilder {
    let mut key = KeyBuilder::new("copy");
    let shown: Vec<String> = (0..spec.sources.len()).map(|at| spec.shown(at)).collect();
    key.push("sources", list(&shown));
    if !spec.parents.is_empty() {
        key.push("parents", "true");
    }
    let directory = if spec.destination.directory { "/" } else { "" };
    key.push("destination", format!("/{}{directory}", spec.destination.path));
    key.push("owner", spec.owner.as_ref().map_or("", |owner| &owner.0));
    key.push("mode", spec.mode.as_deref().unwrap_or_default());
    key.push("exclude", list(&spec.exclude));
    key.push("link", spec.link.to_string());
    key.push("unpack", format!("{:?}", spec.unpack));
    key.push("epoch", spec.epoch.map_or_else(String::new, |epoch| epoch.to_string()));
    for remote in &spec.remotes {
        let (after, copied) = (remote.after, &remote.spec);
        let form = format!("{} after {after} {:?}", list(&copied.sources), copied.unpack);
        key.push(format!("form of {}", input_label(remote.input)), form);
    }
    for file in &spec.files {
        key.push(format!("file {}", file.name), Digest::of(file.content.as_bytes()).to_string());
    }
    if let CopyOrigin::Context(context) = spec.origin {
        let set = inputs.context(context).set();
        let keeps = keeps(spec);
        for (position, shown) in shown.iter().enumerate() {
            let what = Selected {
                context,
                source: spec.sources[position].clone(),
                parents: spec.parents.get(position).cloned(),
                exclude: spec.exclude.clone(),
                keeps: (keeps.mode, keeps.owner),
            };
            let digest = inputs.digest_of(what, || source_digest(spec, position, set));
            key.push(format!("content of {shown}"), digest);
        }
    }
    key
}

/// What a copy leaves of its sources' metadata.
fn keeps(spec: &CopySpec) -> Keeps {
    let octal = spec.mode.as_deref().and_then(Mode::parse).and_then(|mode| mode.octal());
    Keeps { mode: octal.is_none(), owner: spec.owner.is_none() }
}

/// Digest of what a source selects; a source that selects nothing is told from every other.
fn source_digest(spec: &CopySpec, position: usize, context: &FileSet) -> String {
    let keeps = keeps(spec);
    let selection = Selection::new(spec, position);
    let digest_of = |index: usize| {
        let root = context.entries[index].path.len();
        let Some(parts) = selection.parts(context, index) else {
            return selection_key(context.subtree(index), keeps);
        };
        // A directory on the way keeps its mode whatever is asked for.
        let way = parts.iter().any(|part| part.role == Role::Way);
        let keeps = Keeps { mode: keeps.mode || way, ..keeps };
        let file = Some(index).filter(|_| context.entries[index].kind != FileKind::Directory);
        let taken = file.into_iter().chain(parts.iter().map(|part| part.index));
        parts_key(taken.map(|index| &context.entries[index]), root, keeps)
    };
    let source = &spec.sources[position];
    let found = selected(source, context);
    match &found[..] {
        [(_, index)] if !Glob::has_wildcards(source) => digest_of(*index).to_string(),
        _ => {
            let mut digester = Digester::new(Algorithm::Sha256);
            for (name, index) in &found {
                digester.update(&(name.len() as u64).to_le_bytes());
                digester.update(name);
                digester.update(digest_of(*index).bytes());
            }
            digester.finish().to_string()
        }
    }
}

/// Positions of what a copy takes of the context for the source at `position`.
pub(crate) fn taken(spec: &CopySpec, position: usize, context: &FileSet) -> Vec<Range<usize>> {
    let selection = Selection::new(spec, position);
    let ranges = |(_, index): (Vec<u8>, usize)| match selection.parts(context, index) {
        None => std::iter::once(index..context.subtree_end(index)).collect::<Vec<_>>(),
        Some(parts) => {
            let one = |index: usize| index..index + 1;
            std::iter::once(one(index)).chain(parts.iter().map(|part| one(part.index))).collect()
        }
    };
    selected(&spec.sources[position], context).into_iter().flat_map(ranges).collect()
}

/// What a source names: under which path, and the entry behind all symlinks.
pub(crate) fn selected(source: &str, files: &FileSet) -> Vec<(Vec<u8>, usize)> {
    if !Glob::has_wildcards(source) {
        let path = Glob::unescape(source).into_bytes();
        let index = files.resolve(&path).ok();
        return index.map(|index| (path, index)).into_iter().collect();
    }
    let matched: Result<Vec<usize>, Unresolved> = files.matches(source);
    let resolve = |index: usize| {
        let path = files.entries[index].path.to_vec();
        files.resolve(&path).ok().map(|found| (path, found))
    };
    matched.unwrap_or_default().into_iter().filter_map(resolve).collect()
}

fn list(items: &[String]) -> String {
    serde_json::to_string(items).expect("strings are JSON")
}
