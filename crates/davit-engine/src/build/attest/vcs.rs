//! The git repository of the caller's own directories, under the names that buildx gives its facts.

use std::{collections::BTreeMap, path::Path};

use davit_build::{BuildRequest, ContextSource, NamedSource};

use crate::build::history::{Repository, dockerfile_path};

/// What is told of a repository; nothing of where it lies on this machine.
pub(in crate::build) fn facts(
    request: &BuildRequest,
    repository: Option<&Repository>,
) -> BTreeMap<String, String> {
    let Some(repository) = repository else { return BTreeMap::new() };
    let mut facts = BTreeMap::new();
    for (name, value) in [("source", &repository.url), ("revision", &repository.revision)] {
        if !value.is_empty() {
            facts.insert(name.to_owned(), value.clone());
        }
    }
    let mut place = |name: &str, path: &Path| {
        let below = repository.place(path);
        facts.extend(below.map(|below| (format!("localdir:{name}"), below)));
    };
    if let ContextSource::Directory(path) = &request.context {
        place("context", path);
    }
    if let Some(folder) = dockerfile_path(request).as_deref().and_then(Path::parent) {
        place("dockerfile", folder);
    }
    for context in &request.named_contexts {
        if let NamedSource::Directory(path) = &context.source {
            place(&context.name, path);
        }
    }
    facts
}
