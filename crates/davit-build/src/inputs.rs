//! What a plan reads beside base images: contexts, and sources that were fetched.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{Mutex, PoisonError},
};

use davit_image::DiffId;

use crate::{
    BuildEnvironment, BuildRequest,
    context_files::ContextFiles,
    error::{BuildError, BuildErrorKind, Excerpt},
    plan::{ContextId, Node, Op, Plan},
    source::{FetchedSource, RemoteSource},
};

/// Sources that are fetched at a time.
const MOST_FETCHED: usize = 8;

/// All that a plan's nodes read from outside.
#[derive(Default)]
pub(crate) struct Inputs {
    pub(crate) contexts: BTreeMap<ContextId, ContextFiles>,
    pub(crate) sources: FetchedSources,
    /// Digests of what copies select of contexts.
    selected: Mutex<BTreeMap<Selected, String>>,
}

/// What of a context tells one digest of a copy's source from others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Selected {
    pub(crate) context: ContextId,
    pub(crate) source: String,
    /// With `--parents`, what is copied below the source.
    pub(crate) parents: Option<String>,
    pub(crate) exclude: Vec<String>,
    /// Whether modes and owners are a part of it.
    pub(crate) keeps: (bool, bool),
}

/// Sources that are here.
pub(crate) type FetchedSources = BTreeMap<RemoteSource, FetchedSource>;

impl Inputs {
    pub(crate) fn new(
        contexts: BTreeMap<ContextId, ContextFiles>,
        sources: FetchedSources,
    ) -> Self {
        Self { contexts, sources, selected: Mutex::default() }
    }

    /// The digest of a selection, which keys of steps and images ask for again and again.
    pub(crate) fn digest_of(&self, what: Selected, digest: impl FnOnce() -> String) -> String {
        let mut known = self.selected.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(what).or_insert_with(digest).clone()
    }

    /// The files of a context of the plan that copies reach.
    pub(crate) fn context(&self, context: ContextId) -> &ContextFiles {
        &self.contexts[&context]
    }

    /// Remembers digests for the next build.
    pub(crate) fn save(&self) {
        self.contexts.values().for_each(ContextFiles::save);
    }

    /// The layer of a source of the plan.
    pub(crate) fn layer(&self, source: &RemoteSource) -> DiffId {
        self.sources[source].layer
    }
}

/// Fetches all sources of a plan, several at a time, beside those that are here already.
pub(crate) fn fetch_sources(
    plan: &Plan,
    request: &BuildRequest,
    environment: &BuildEnvironment<'_, '_>,
    mut fetched: FetchedSources,
) -> Result<FetchedSources, BuildError> {
    let wanted = plan.nodes.iter().filter_map(|node| match &node.op {
        Op::Source(source) if !fetched.contains_key(source) => Some((source, node)),
        _ => None,
    });
    // Platforms may want one source each by a node of its own.
    let wanted: BTreeMap<&RemoteSource, &Node> = wanted.collect();
    let wanted: Vec<(&RemoteSource, &Node)> = wanted.into_iter().collect();
    let sources = environment.sources;
    for some in wanted.chunks(MOST_FETCHED) {
        let results: Vec<_> = std::thread::scope(|scope| {
            let wanted = some.iter().map(|(remote, _)| *remote);
            let threads: Vec<_> =
                wanted.map(|remote| scope.spawn(move || sources.fetch(remote))).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().expect("fetching a source does not panic")
            };
            threads.into_iter().map(join).collect()
        });
        for ((remote, node), result) in some.iter().zip(results) {
            let source = result.map_err(|source| {
                let text = &request.dockerfile;
                let error = source_failed(remote, source);
                match node.span {
                    Some(span) => error.at(Excerpt::new(&text.name, &text.bytes, span, "")),
                    None => error,
                }
            })?;
            fetched.insert((*remote).clone(), source);
        }
    }
    Ok(fetched)
}

pub(crate) fn source_failed(
    remote: &RemoteSource,
    source: Box<dyn Error + Send + Sync>,
) -> BuildError {
    BuildError::new(BuildErrorKind::Source { name: remote.to_string(), source })
}
