//! Paths that go out from another folder than those around them.

use super::is_elsewhere;
use crate::node::{Node, Shape};

/// Lets the relative paths of a service go out from a folder.
pub(super) fn service(service: &mut Node, folder: &str) {
    if folder.is_empty() {
        return;
    }
    let Shape::Map(keys) = &mut service.shape else { return };
    if let Some(build) = keys.get_mut("build") {
        match &mut build.shape {
            Shape::Map(keys) => {
                if let Some(context) = keys.get_mut("context") {
                    text(context, folder);
                }
                if let Some(contexts) = keys.get_mut("additional_contexts") {
                    pairs(contexts, folder);
                }
            }
            _ => text(build, folder),
        }
    }
    for key in ["env_file", "label_file"] {
        let Some(files) = keys.get_mut(key) else { continue };
        match &mut files.shape {
            Shape::List(all) => all.iter_mut().for_each(|it| field(it, "path", folder)),
            _ => field(files, "path", folder),
        }
    }
}

/// Lets the files of secrets or configs go out from a folder.
pub(super) fn files(section: &mut Node, folder: &str) {
    let Shape::Map(all) = &mut section.shape else { return };
    if !folder.is_empty() {
        all.values_mut()
            .filter(|it| matches!(it.shape, Shape::Map(_)))
            .for_each(|it| field(it, "file", folder));
    }
}

/// A path, or the mapping that has it under a key.
fn field(node: &mut Node, key: &str, folder: &str) {
    match &mut node.shape {
        Shape::Map(keys) => keys.get_mut(key).into_iter().for_each(|path| text(path, folder)),
        _ => text(node, folder),
    }
}

fn pairs(pairs: &mut Node, folder: &str) {
    match &mut pairs.shape {
        Shape::Map(all) => all.values_mut().for_each(|value| text(value, folder)),
        Shape::List(all) => {
            for item in all {
                let (Shape::Plain(text) | Shape::Text(text)) = &mut item.shape else { continue };
                if let Some((name, path)) = text.split_once('=') {
                    *text = format!("{name}={}", rebased(path, folder));
                }
            }
        }
        _ => {}
    }
}

fn text(node: &mut Node, folder: &str) {
    if let Shape::Plain(text) | Shape::Text(text) = &mut node.shape {
        *text = rebased(text, folder);
    }
}

fn rebased(path: &str, folder: &str) -> String {
    let others = ["service:", "target:", "/", "~"];
    let is_fixed = path.is_empty()
        || is_elsewhere(path)
        || others.iter().any(|prefix| path.starts_with(prefix));
    if is_fixed { path.to_owned() } else { format!("{folder}/{path}") }
}
