//! `COPY`, `ADD` and `WORKDIR`: layers made of tables, without a mount.

use std::{borrow::Cow, fs::File, io, sync::Arc};

use davit_layer::{Change, Merged, Opener};

use super::{Done, Layer, Session, failed, store_failed};
use crate::{
    BuildEvent, CachePolicy, StepId,
    archives::FileArchives,
    build::drafts::CopyDraft,
    context_files::extract,
    copy::{
        CopyJob, CopyProblem, Finished, Output, Owner, OwnerError, Times, content_key, copy,
        files_of, make_directory, resolve_owner, reuse,
    },
    definition::{components, stands_alone},
    error::{BuildError, BuildErrorKind},
    explain::first_difference,
    files::{Data, FileEntry, FileSet},
    key::ContentKey,
    layers::{LayerError, OpenLayer, State, StateFiles, source_of},
    missing::near_in_set,
    plan::{ContextId, CopyOrigin, CopySpec, MakeDirectory, Node, NodeId, Op, Ownership, Unpack},
};

impl Session<'_, '_> {
    pub(super) fn owner(
        &self,
        owner: Option<&Ownership>,
        state: &State,
        merged: Option<&Merged>,
    ) -> Result<Option<Owner>, BuildErrorKind> {
        let Some(Ownership(text)) = owner else { return Ok(None) };
        let empty = Merged::new(Vec::new()).expect("no layers fit together");
        let tars = self.layers.tars(state).map_err(layer_failed)?;
        let files = StateFiles { merged: merged.unwrap_or(&empty), tars: &tars };
        resolve_owner(text, &files).map(Some).map_err(|error| match error {
            OwnerError::Unknown { what, name, file, known } => BuildErrorKind::Owner {
                what,
                near: davit_dockerfile::nearest(&name, known.iter().map(String::as_str))
                    .map(str::to_owned),
                name,
                file,
            },
            OwnerError::Io(source) => {
                BuildErrorKind::Step { step: "owner".to_owned(), source: Box::new(source) }
            }
        })
    }

    pub(super) fn directory(
        &self,
        (node, id): (&Node, NodeId),
        spec: &MakeDirectory,
        state: &Arc<State>,
    ) -> Result<Layer, BuildError> {
        let merged = self.below(state).map_err(|error| failed(node, error))?;
        let merged = merged.as_deref();
        let owner = self.owner(spec.owner.as_ref(), state, merged)?.unwrap_or_default();
        let outputs = make_directory(spec, merged, owner, self.now())
            .map_err(|problem| copy_failed("WORKDIR", &problem))?;
        let times = Times::Copied { epoch: self.epoch };
        self.store_outputs((node, id), (outputs, times), &CopiedFiles::none())
    }

    pub(super) fn copy(
        &self,
        node: &Node,
        id: NodeId,
        spec: &CopySpec,
        inputs: &[&Done],
    ) -> Result<Layer, BuildError> {
        if let Some(draft) = self.drafts.take(id) {
            return self.store_draft(node, draft);
        }
        let state = &inputs[0].state;
        let error = |error: LayerError| failed(node, error);
        let merged =
            if stands_alone(&node.op) { None } else { self.below(state).map_err(error)? };
        let owner = match &merged {
            None => self.owner(spec.owner.as_ref(), &State::default(), None)?,
            Some(merged) => self.owner(spec.owner.as_ref(), state, Some(merged))?,
        };
        let read = self.copied_files(node, spec, inputs)?;
        let open = |entry: &FileEntry| self.open_copied(entry, &read);
        let (directory, cancelled) = (self.scratch, self.cancelled);
        let archives = &FileArchives { open: &open, directory, cancelled };
        // Names of owners are looked up below a `--link`, too; nothing else is.
        let (now, below) = (self.now(), merged.as_deref().filter(|_| !spec.link));
        let job =
            |(spec, files)| CopyJob { spec, files, remotes: &[], below, owner, archives, now };
        let remotes = spec.remotes.iter().map(|remote| &remote.spec).zip(&read.remotes);
        let remotes: Vec<CopyJob<'_>> = remotes.map(job).collect();
        let files = &*read.files;
        let copied = copy(&CopyJob { remotes: &remotes, ..job((spec, files)) });
        let keyword = if spec.unpack == Unpack::Never { "COPY" } else { "ADD" };
        let copied = copied.map_err(|problem| {
            let error = copy_failed(keyword, &problem);
            self.with_near_name(error, &problem, node, inputs)
        })?;
        let times = match (copied.unpacked, self.epoch) {
            (false, epoch) => Times::Copied { epoch },
            (true, Some(_)) => Times::EXACT,
            (true, None) => Times::Made(now, now),
        };
        self.store_outputs((node, id), (copied.outputs, times), &read)
    }

    /// The files of all sources of a copy.
    fn copied_files(
        &self,
        node: &Node,
        spec: &CopySpec,
        inputs: &[&Done],
    ) -> Result<CopiedFiles<'_>, BuildError> {
        let mut read = match spec.origin {
            CopyOrigin::Input => {
                let from = &inputs[1].state;
                let (files, layers) = self.source_files(node, &spec.selectors(), from)?;
                let (origin, files) = (spec.origin, Cow::Owned(files));
                CopiedFiles { origin, files, remotes: Vec::new(), layers }
            }
            CopyOrigin::Context(context) => self.files_of_context(context),
        };
        for remote in &spec.remotes {
            let state = &inputs[remote.input].state;
            let (mut files, layers) = self.source_files(node, &remote.spec.sources, state)?;
            // All layers that are read make one list.
            let before = u32::try_from(read.layers.len()).expect("layers are few");
            for entry in &mut files.entries {
                if let Data::Layer { layer, .. } = &mut entry.data {
                    *layer += before;
                }
            }
            read.remotes.push(files);
            read.layers.extend(layers);
        }
        Ok(read)
    }

    /// Adds the step that wrote a source, or the name that it was perhaps meant to be.
    fn with_near_name(
        &self,
        error: BuildError,
        problem: &CopyProblem,
        node: &Node,
        inputs: &[&Done],
    ) -> BuildError {
        let (Op::Copy(CopySpec { origin: CopyOrigin::Input, .. }), CopyProblem::Missing { source }) =
            (&node.op, problem)
        else {
            return error;
        };
        let path = source.trim_start_matches('/');
        if let Some(told) = self.who_wrote(path, node.inputs[1]) {
            return error.hint(told);
        }
        // Hints are for people: one that cannot be had is no error.
        let all = self.source_files(node, &[String::new()], &inputs[1].state).ok();
        match all.and_then(|(files, _)| near_in_set(&files, path)) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error,
        }
    }

    /// The files of a context.
    pub(super) fn files_of_context(&self, context: ContextId) -> CopiedFiles<'_> {
        let origin = CopyOrigin::Context(context);
        let context = self.inputs.context(context);
        let (files, layers) = (Cow::Borrowed(context.set()), context.layers().to_vec());
        CopiedFiles { origin, files, remotes: Vec::new(), layers }
    }

    /// Opens a file of the sources of a copy.
    fn open_copied(&self, entry: &FileEntry, read: &CopiedFiles<'_>) -> io::Result<File> {
        let scratch = (self.scratch, self.cancelled);
        match (entry.data, read.origin) {
            (Data::Layer { layer, .. }, _) => extract(entry, &read.layers[layer as usize], scratch),
            (_, CopyOrigin::Context(context)) => {
                self.inputs.context(context).open_file(entry, scratch)
            }
            (_, CopyOrigin::Input) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The files of another state that sources reach, and the layers that hold them.
    pub(super) fn source_files(
        &self,
        node: &Node,
        sources: &[String],
        state: &State,
    ) -> Result<(FileSet, Vec<Arc<OpenLayer>>), BuildError> {
        let error = |error: LayerError| failed(node, error);
        let merged = self.layers.merged(state).map_err(error)?;
        let merged = match merged.base() {
            None => merged,
            Some(_) => Arc::new(merged.flattened().map_err(|source| error(source.into()))?),
        };
        let layers = state.layers.iter().map(|layer| self.layers.open(*layer));
        let layers = layers.collect::<Result<_, _>>().map_err(error)?;
        let set = crate::selection::select(sources, |selectors| {
            Ok::<_, std::convert::Infallible>(files_of(&merged, selectors))
        });
        let set = match set {
            Ok(set) => set,
            Err(never) => match never {},
        };
        Ok((set, layers))
    }

    /// Writes outputs as a layer, unless a layer that holds the same is there.
    fn store_outputs(
        &self,
        (node, id): (&Node, NodeId),
        (outputs, times): (Vec<Output>, Times),
        read: &CopiedFiles<'_>,
    ) -> Result<Layer, BuildError> {
        let source = |layer: u32, entry| source_of(&read.layers[layer as usize], entry);
        let mut copied = Finished::new(outputs, source);
        let content = content_key(&copied.changes, &copied.digests, times);
        if let Some(layer) = self.find_content(node, content)? {
            return Ok(layer);
        }
        self.reuse((node, id), &mut copied)?;
        let opener = ContextOpener { session: self, read, positions: &copied.files };
        if self.explain {
            self.explain_files((node, id), &copied.changes, &opener)?;
        }
        let by_shape = content.is_none().then_some(times);
        let mut layer = self.store_changes(node, &copied.changes, &opener, by_shape)?;
        layer.content = content;
        if content.is_some() {
            let Finished { changes, digests, .. } = &copied;
            let remembered = self.writer().remember_digests(layer.record.layer, changes, digests);
            remembered.map_err(|error| failed(node, error))?;
        }
        Ok(layer)
    }

    /// A layer that holds what a step is to make, whatever led to it.
    fn find_content(
        &self,
        node: &Node,
        content: Option<ContentKey>,
    ) -> Result<Option<Layer>, BuildError> {
        let (Some(content), CachePolicy::Use) = (content, self.policy(node)) else {
            return Ok(None);
        };
        let record = self.cache().content(content).map_err(store_failed)?;
        let layer = |record| Layer { record, content: Some(content), shape: None, same: true };
        Ok(record.map(layer))
    }

    /// Makes a layer of what was written when the context was read.
    fn store_draft(&self, node: &Node, draft: CopyDraft<'_>) -> Result<Layer, BuildError> {
        let content = Some(draft.content);
        if let Some(layer) = self.find_content(node, content)? {
            return Ok(layer);
        }
        let error = |error| failed(node, error);
        let written = self.writer().commit(draft.layer).map_err(error)?;
        let known = self.writer().put_digests(written.diff_id, &draft.digests);
        known.map_err(error)?;
        let record = self.record(written.diff_id, written.size_bytes);
        Ok(Layer { record, content, shape: None, same: false })
    }

    /// Lets a copy take what did not change from the layer that it made before.
    fn reuse(&self, (node, id): (&Node, NodeId), copied: &mut Finished) -> Result<(), BuildError> {
        if self.policy(node) == CachePolicy::Ignore {
            return Ok(());
        }
        let family = self.cache().family(self.family_of(node, id)).map_err(store_failed)?;
        let Some(before) = family.last().map(|record| record.layer) else { return Ok(()) };
        // It may have been pruned.
        let Ok(layer) = self.layers.open(before) else { return Ok(()) };
        if let Some(digests) = self.layers.digests(before, &layer) {
            reuse(copied, &layer, &digests);
        }
        Ok(())
    }

    /// Tells the first file in which a copy differs from its last result, if that is still here.
    fn explain_files(
        &self,
        (node, id): (&Node, NodeId),
        changes: &[Change],
        opener: &dyn Opener,
    ) -> Result<(), BuildError> {
        let family = self.cache().family(self.family_of(node, id)).map_err(store_failed)?;
        let (_, parts) = components(node, self.inputs).finish();
        let nearest = family.nearest(&parts);
        let Some(before) = nearest.and_then(|record| self.layers.open(record.layer).ok()) else {
            return Ok(());
        };
        let found = first_difference(changes, opener, &before).map_err(|e| failed(node, e))?;
        if let Some(miss) = found {
            (self.events)(BuildEvent::Missed(StepId(id.0), miss));
        }
        Ok(())
    }
}

/// What a copy reads.
pub(super) struct CopiedFiles<'a> {
    /// Where those of paths are.
    origin: CopyOrigin,
    /// Those of paths.
    pub(super) files: Cow<'a, FileSet>,
    /// Those of each remote source.
    remotes: Vec<FileSet>,
    /// The layers that they lie in.
    pub(super) layers: Vec<Arc<OpenLayer>>,
}

impl CopiedFiles<'_> {
    /// Of a step that copies nothing.
    fn none() -> Self {
        let files = Cow::Owned(FileSet::default());
        Self { origin: CopyOrigin::Input, files, remotes: Vec::new(), layers: Vec::new() }
    }
}

/// Opens the context's files for the layer writer.
pub(super) struct ContextOpener<'a, 'b, 's> {
    pub(super) session: &'a Session<'b, 's>,
    pub(super) read: &'a CopiedFiles<'a>,
    pub(super) positions: &'a [Option<usize>],
}

impl Opener for ContextOpener<'_, '_, '_> {
    fn open(&self, position: usize, _change: &Change) -> io::Result<File> {
        let index = self.positions.get(position).copied().flatten();
        let index = index.ok_or(io::ErrorKind::NotFound)?;
        self.session.open_copied(&self.read.files.entries[index], self.read)
    }
}

pub(super) fn copy_failed(keyword: &'static str, problem: &CopyProblem) -> BuildError {
    BuildError::new(BuildErrorKind::Copy { step: keyword, problem: problem.message() })
}

fn layer_failed(source: LayerError) -> BuildErrorKind {
    BuildErrorKind::Step { step: "layers".to_owned(), source: Box::new(source) }
}
