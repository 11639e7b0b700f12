//! Copies that were never made before: their layers are written while the context's files are read
//! for their digests, so that each is read once.
//!
//! A key needs the digests, so whether a step has to run is known only behind them. Where the
//! Dockerfile's step has no earlier result it has to, in all likelihood; a draft that turns out not
//! to be wanted, because something else gave the same content, goes with the build.

use std::{
    fs::File,
    io,
    sync::{Mutex, OnceLock, PoisonError},
};

use davit_image::{Digest, Timestamp};
use davit_layer::{Change, Digests, Merged, Opener, Source, WriteOptions};

use super::{BuildEnvironment, cores, family};
use crate::{
    BuildRequest, CachePolicy, Repeat,
    cache::Cache,
    context::Context,
    copy::{CopyJob, Finished, NoArchives, Owner, Times, content_key, copy, resolve_owner},
    definition::taken,
    files::{ContentDigest, FileKind},
    key::ContentKey,
    layers::{Layers, State, StateFiles},
    plan::{ContextId, CopyOrigin, CopySpec, Node, NodeId, Op, Ownership, Plan, Unpack},
    step::family_of,
    writer::Draft,
};

/// Fewer files than this are read twice in no time.
const WORTH_FILES: usize = 500;

/// The drafts of a build, until a step takes its own.
#[derive(Debug, Default)]
pub(crate) struct Drafts<'s>(Mutex<Vec<CopyDraft<'s>>>);

/// The layer of one copy.
#[derive(Debug)]
pub(crate) struct CopyDraft<'s> {
    node: NodeId,
    pub(crate) content: ContentKey,
    pub(crate) layer: Draft<'s>,
    pub(crate) digests: Digests,
}

impl<'s> Drafts<'s> {
    /// The draft of a step. It is what the step would make now: of the same files, whose digests the
    /// step's key has, upon the same base.
    pub(crate) fn take(&self, node: NodeId) -> Option<CopyDraft<'s>> {
        let mut drafts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = drafts.iter().position(|draft| draft.node == node)?;
        Some(drafts.swap_remove(at))
    }

    fn add(&self, draft: CopyDraft<'s>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(draft);
    }
}

/// What drafts are made for.
#[derive(Clone, Copy)]
pub(super) struct Drafting<'a, 'b, 's> {
    pub(super) request: &'a BuildRequest,
    pub(super) plan: &'a Plan,
    pub(super) environment: &'a BuildEnvironment<'b, 's>,
    pub(super) drafts: &'a Drafts<'s>,
}

impl Drafting<'_, '_, '_> {
    /// Writes the layers of first copies of a context, and tells it the digests.
    pub(super) fn write(&self, id: ContextId, context: &mut Context) {
        let Drafting { request, environment, .. } = self;
        // Elsewhere there may be a result, and what is compared is to be read for it.
        let reads_again = request.explain || request.repeat != Repeat::Never;
        if environment.shared.is_some() || reads_again {
            return;
        }
        for (number, node) in (0..).zip(&self.plan.nodes) {
            let Op::Copy(spec) = &node.op else { continue };
            if spec.origin == CopyOrigin::Context(id)
                && is_plain(spec)
                && is_worth(spec, context)
                && !self.was_made((node, NodeId(number)))
                && let Some(draft) = self.draft((node, NodeId(number)), spec, context)
            {
                self.drafts.add(draft);
            }
        }
    }

    /// Whether there is an earlier result, whatever it was made of.
    fn was_made(&self, (node, id): (&Node, NodeId)) -> bool {
        let BuildEnvironment { store, lease, .. } = *self.environment;
        let counts = [node.cache, self.request.cache].iter().all(|it| *it == CachePolicy::Use);
        let family = family_of(self.plan, &family(self.request), (node, id));
        let made = Cache { store, lease }.family(family);
        counts && made.map_or(true, |family| family.last().is_some())
    }
}

impl<'s> Drafting<'_, '_, 's> {
    /// The draft of one copy; `None` where anything is not as it should be: the step itself will
    /// tell.
    fn draft(
        &self,
        (node, id): (&Node, NodeId),
        spec: &CopySpec,
        context: &mut Context,
    ) -> Option<CopyDraft<'s>> {
        let BuildEnvironment { store, lease, cancelled, .. } = *self.environment;
        let layers = Layers::new(store, lease);
        let below = match &self.plan.node(*node.inputs.first()?).op {
            // Owners are numbers, so nothing below a linked copy counts.
            _ if spec.link => None,
            Op::Image(image) => {
                let state = State::image(image.config.rootfs.diff_ids.clone());
                Some(layers.merged(&state).ok()?).filter(|_| !state.layers.is_empty())
            }
            Op::Scratch => None,
            _ => return None,
        };
        let epoch = self.plan.epoch;
        let job = CopyJob {
            spec,
            files: &context.set,
            remotes: &[],
            below: below.as_deref(),
            owner: owner(spec)?,
            archives: &NoArchives,
            now: epoch.unwrap_or_else(|| Timestamp::now().unix_seconds()),
        };
        let outputs = copy(&job).ok()?.outputs;
        // A directory on disk has nothing in layers.
        let finished = Finished::new(outputs, |_, _| Source::Opened);
        let read_at = Context::now();
        let opener = FirstReading {
            context,
            files: &finished.files,
            digests: vec![OnceLock::new(); finished.files.len()],
        };
        let options = WriteOptions { readers: cores(), ..WriteOptions::default() };
        let ingest = store.begin_layer(lease).ok()?;
        let layer = Draft::write(ingest, (&finished.changes, &opener), &options, cancelled).ok()?;
        let learned: Vec<Option<ContentDigest>> =
            opener.digests.into_iter().map(OnceLock::into_inner).collect();
        let read = finished.files.iter().zip(&learned);
        context.learn(read_at, read.filter_map(|(file, digest)| Some(((*file)?, (*digest)?))));
        let given = finished.digests.iter().zip(learned);
        let digests: Vec<_> = given.map(|(given, learned)| given.or(learned)).collect();
        let content = content_key(&finished.changes, &digests, Times::Copied { epoch })?;
        let digests = layer.digests(&finished.changes, &digests)?;
        Some(CopyDraft { node: id, content, layer, digests })
    }
}

/// Whether nothing of a copy depends on what is not known yet.
fn is_plain(spec: &CopySpec) -> bool {
    spec.remotes.is_empty()
        && spec.unpack == Unpack::Never
        && spec.owner.as_ref().is_none_or(Ownership::is_numeric)
}

/// The owner that is given by numbers; `None` if it is no owner.
fn owner(spec: &CopySpec) -> Option<Option<Owner>> {
    let Some(Ownership(text)) = &spec.owner else { return Some(None) };
    let nobody = Merged::new(Vec::new()).ok()?;
    resolve_owner(text, &StateFiles { merged: &nobody, tars: &[] }).ok().map(Some)
}

/// Whether most of the files are unknown, and many.
fn is_worth(spec: &CopySpec, context: &Context) -> bool {
    let entries = &context.set.entries;
    let ranges = (0..spec.sources.len()).flat_map(|source| taken(spec, source, &context.set));
    let (mut all, mut unknown) = (0, 0);
    for entry in ranges.flatten().map(|index| &entries[index]) {
        let is_file = entry.kind == FileKind::Regular;
        all += usize::from(is_file);
        unknown += usize::from(is_file && entry.digest.is_none());
    }
    unknown >= WORTH_FILES && unknown * 4 >= all * 3
}

/// Opens files of a context that nobody has read, and keeps their digests.
struct FirstReading<'a> {
    context: &'a Context,
    /// For each change, the file's position in the set.
    files: &'a [Option<usize>],
    digests: Vec<OnceLock<ContentDigest>>,
}

impl Opener for FirstReading<'_> {
    fn open(&self, position: usize, _change: &Change) -> io::Result<File> {
        let index = self.files.get(position).copied().flatten().ok_or(io::ErrorKind::NotFound)?;
        self.context.open_plain(&self.context.set.entries[index]).map_err(io::Error::from)
    }

    fn learns(&self) -> bool {
        true
    }

    fn learn(&self, position: usize, sha256: Digest) {
        if let (Some(place), Ok(digest)) = (self.digests.get(position), sha256.bytes().try_into()) {
            // Each change is read once.
            let _first = place.set(digest);
        }
    }
}
