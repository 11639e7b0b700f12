//! Definition keys of a plan's nodes.

mod run;

use davit_dockerfile::Glob;
use davit_image::{Algorithm, Digest, Digester};

use crate::{
    copy::{Keeps, selection_key},
    files::{FileSet, Unresolved},
    inputs::Inputs,
    key::{Component, DefinitionKey, KeyBuilder},
    plan::{CopyOrigin, CopySpec, Node, Op},
    symbolic_mode::Mode,
};

/// The components of a node that do not depend on the states below it.
///
/// `inputs` have the digests of all that copies read of the context.
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
        Op::Run(spec) => run::components(spec, inputs.set()),
        Op::Copy(spec) => copy(spec, inputs.set()),
        Op::MakeDirectory(spec) => {
            let mut key = KeyBuilder::new("directory");
            key.push("path", &spec.path);
            key.push("owner", spec.owner.as_ref().map_or("", |owner| &owner.0));
            key.push("epoch", spec.epoch.map_or_else(String::new, |epoch| epoch.to_string()));
            key
        }
    }
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

fn copy(spec: &CopySpec, context: &FileSet) -> KeyBuilder {
    let mut key = KeyBuilder::new("copy");
    let shown = |source: &str| if source.is_empty() { ".".to_owned() } else { source.to_owned() };
    key.push("sources", list(&spec.sources.iter().map(|source| shown(source)).collect::<Vec<_>>()));
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
    if spec.origin == CopyOrigin::Context {
        for source in &spec.sources {
            key.push(format!("content of {}", shown(source)), source_digest(spec, source, context));
        }
    }
    key
}

/// Digest of what a source selects; a source that selects nothing is told from every other.
fn source_digest(spec: &CopySpec, source: &str, context: &FileSet) -> String {
    let octal = spec.mode.as_deref().and_then(Mode::parse).and_then(|mode| mode.octal());
    let keeps = Keeps { mode: octal.is_none(), owner: spec.owner.is_none() };
    let digest_of = |index: usize| selection_key(context.subtree(index), keeps);
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
