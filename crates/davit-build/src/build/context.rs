//! The contexts of a build: the tar one may be, ignore files, and what copies need of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    sync::atomic::AtomicBool,
};

use davit_dockerfile::{Glob, Pattern, Patterns, Span};
use davit_store::LayerIngest;

use super::{cores, drafts::Drafting};
use crate::{
    BuildRequest,
    archives::{Kept, read_archive},
    cancel::Received,
    context::ContextOptions,
    context_files::{ContextFiles, read_archived},
    copy::Archive,
    definition::{selected, taken},
    error::{BuildError, BuildErrorKind, Excerpt},
    files::{FileKind, FileSet, join, split_wildcards},
    missing,
    plan::{BindOrigin, ContextId, CopyOrigin, MountSource, Node, Op},
    request::{ContextSource, DockerfilePlace, IgnoreText, NamedContext, NamedSource},
    selection,
    step::store_failed,
};

/// Reads a context that is a tar, and the Dockerfile where it is in there.
pub(super) fn read_tar_context(
    request: &mut BuildRequest,
    scratch: &LayerIngest<'_>,
    cancelled: &AtomicBool,
) -> Result<Option<Archive>, BuildError> {
    let ContextSource::Tar(stream) = &mut request.context else { return Ok(None) };
    let stream = std::mem::replace(&mut stream.0, Box::new(std::io::empty()));
    let mut stream = Received::begin(stream, cancelled).map_err(tar_failed)?;
    let tar = Kept::new(scratch.dir()).map_err(tar_failed)?.file;
    let archive = read_archive(&mut stream, &tar, cancelled)
        .map_err(|error| tar_failed(std::io::Error::other(error)))?;
    read_dockerfile(request, &archive)?;
    Ok(Some(archive))
}

/// Reads the Dockerfile out of the context, if it is there.
pub(super) fn read_dockerfile(
    request: &mut BuildRequest,
    context: &Archive,
) -> Result<(), BuildError> {
    if request.dockerfile.place != DockerfilePlace::Context {
        return Ok(());
    }
    let names = [request.dockerfile.name.clone(), request.dockerfile.name.to_lowercase()];
    let found = names.iter().find_map(|name| read_archived(context, name).transpose());
    let Some(bytes) = found.transpose().map_err(tar_failed)? else {
        let message = format!("the context holds no `{}`", request.dockerfile.name);
        return Err(BuildError::new(BuildErrorKind::Plan(message)));
    };
    request.dockerfile.bytes = bytes;
    Ok(())
}

fn tar_failed(source: std::io::Error) -> BuildError {
    BuildError::new(BuildErrorKind::Context { path: "-".into(), source })
}

/// What a node reads of contexts: patterns.
fn context_sources(node: &Node) -> Vec<(ContextId, String)> {
    match &node.op {
        Op::Copy(spec) => match spec.origin {
            CopyOrigin::Context(context) => {
                spec.selectors().into_iter().map(|source| (context, source)).collect()
            }
            CopyOrigin::Input => Vec::new(),
        },
        Op::Run(spec) => {
            let paths = spec.mounts.iter().filter_map(|mount| match &mount.source {
                MountSource::Bind { origin: BindOrigin::Context(context), path, .. } => {
                    Some((*context, selection::pattern(path.as_bytes(), "")))
                }
                MountSource::Volume { context: Some(context), .. } => {
                    Some((*context, String::new()))
                }
                _ => None,
            });
            paths.collect()
        }
        _ => Vec::new(),
    }
}

/// Opens the main context and all others that the plan reads.
pub(super) fn open_contexts(
    drafting: Drafting<'_, '_, '_>,
    mut archive: Option<Archive>,
) -> Result<BTreeMap<ContextId, ContextFiles>, BuildError> {
    let Drafting { request, plan, .. } = drafting;
    let read = plan.nodes.iter().flat_map(context_sources).map(|(context, _)| context);
    let all: BTreeSet<ContextId> = std::iter::once(ContextId::MAIN).chain(read).collect();
    let open = |id: ContextId| {
        let named = id.position().map(|position| &request.named_contexts[position]);
        let which = Which { id, named, request };
        Ok::<_, BuildError>((id, open_context(&which, drafting, archive.take())?))
    };
    all.into_iter().map(open).collect()
}

/// One of the contexts.
struct Which<'a> {
    id: ContextId,
    /// `None` for the main one.
    named: Option<&'a NamedContext>,
    request: &'a BuildRequest,
}

impl Which<'_> {
    /// The directory that it is, if it is one.
    fn directory(&self) -> Option<&Path> {
        match (self.named.map(|named| &named.source), &self.request.context) {
            (Some(NamedSource::Directory(path) | NamedSource::Volume(path)), _)
            | (None, ContextSource::Directory(path)) => Some(path),
            _ => None,
        }
    }

    /// What messages call it.
    fn shown(&self) -> String {
        match self.named {
            Some(NamedContext { name, source: NamedSource::Volume(_), .. }) => {
                format!("the volume `{name}`")
            }
            Some(named) => format!("the context `{}`", named.name),
            None => "the context".to_owned(),
        }
    }
}

/// The patterns of the main context's ignore file.
pub(super) fn main_ignore(request: &BuildRequest) -> Result<Option<Patterns>, BuildError> {
    let which = Which { id: ContextId::MAIN, named: None, request };
    ignore_file(&which)?.map(|text| patterns(&text)).transpose()
}

fn patterns(text: &IgnoreText) -> Result<Patterns, BuildError> {
    Patterns::read(&text.bytes).map_err(|error| {
        let kind = BuildErrorKind::Ignore { file: text.name.clone(), source: error };
        BuildError::new(kind)
    })
}

fn open_context(
    which: &Which<'_>,
    drafting: Drafting<'_, '_, '_>,
    archive: Option<Archive>,
) -> Result<ContextFiles, BuildError> {
    let Drafting { plan, environment, .. } = drafting;
    let read = plan.nodes.iter().flat_map(context_sources);
    let sources = read.filter(|(context, _)| *context == which.id).map(|(_, source)| source);
    let sources: Vec<String> = sources.collect();
    let ignore = ignore_file(which)?;
    let patterns = ignore.as_ref().map(patterns).transpose()?;
    let cache = environment.store.layout().cache();
    environment.store.make_dir(&cache).map_err(store_failed)?;
    let options = ContextOptions {
        path: Path::new(""),
        sources,
        ignore: patterns.as_ref(),
        cache: &cache,
        threads: cores(),
        cancelled: environment.cancelled,
    };
    let mut context = match which.directory() {
        Some(path) => ContextFiles::directory(path, options)?,
        None => ContextFiles::open(&which.request.context, options, archive)?,
    };
    context.set_modes(which.request.context_modes);
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for node in &plan.nodes {
        for (source, found) in reads(node, which.id, context.set()) {
            let Some(found) = found else {
                let lost = Lost { which, node, source: &source, ignore: ignore.as_ref() };
                return Err(lost.error(patterns.as_ref(), context.set()));
            };
            ranges.extend(found);
        }
    }
    if let ContextFiles::Directory(directory) = &mut context {
        drafting.write(which.id, directory);
    }
    context.digest(&ranges, environment.cancelled)?;
    // A file that was read has the mode of the disk again.
    context.set_modes(which.request.context_modes);
    Ok(context)
}

/// Each path that a node reads of a context, and where that is in the set; nothing if it is lost.
/// What a pattern matches may be nothing, but only where the directory is there.
fn reads(
    node: &Node,
    context: ContextId,
    set: &FileSet,
) -> Vec<(String, Option<Vec<Range<usize>>>)> {
    let whole = |source: &str| {
        let found = selected(source, set);
        let ranges = found.iter().map(|(_, at)| *at..set.subtree_end(*at)).collect();
        (!found.is_empty() || set.matches(source).is_ok()).then_some(ranges)
    };
    let Op::Copy(spec) = &node.op else {
        let sources = context_sources(node).into_iter().filter(|(from, _)| *from == context);
        return sources.map(|(_, it)| (it.clone(), whole(&it))).collect();
    };
    let is_read = spec.origin == CopyOrigin::Context(context);
    let positions = 0..if is_read { spec.sources.len() } else { 0 };
    let copied = |position: usize| {
        let here = whole(&spec.sources[position]).map(|_| taken(spec, position, set));
        let found = here.filter(|found| found.len() > 1 || !spec.is_required(position));
        (spec.whole(position), found)
    };
    positions.map(copied).collect()
}

/// The ignore file: the one beside the Dockerfile for the main context, else the context's own. Only
/// a directory has one: whoever packs a tar leaves out what is not wanted, and Docker copies all
/// that is in it.
fn ignore_file(which: &Which<'_>) -> Result<Option<IgnoreText>, BuildError> {
    if let (None, Some(ignore)) = (which.named, &which.request.dockerfile.ignore) {
        return Ok(Some(ignore.clone()));
    }
    let is_volume = which.named.is_some_and(|it| matches!(it.source, NamedSource::Volume(_)));
    let Some(directory) = which.directory().filter(|_| !is_volume) else { return Ok(None) };
    let path = directory.join(".dockerignore");
    let name = match which.named {
        Some(_) => path.display().to_string(),
        None => ".dockerignore".to_owned(),
    };
    match fs_err::read(&path) {
        Ok(bytes) => Ok(Some(IgnoreText { name, bytes })),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(BuildError::new(BuildErrorKind::Context { path, source })),
    }
}

/// A source that is not in the context.
struct Lost<'a> {
    which: &'a Which<'a>,
    node: &'a Node,
    source: &'a str,
    ignore: Option<&'a IgnoreText>,
}

impl Lost<'_> {
    fn error(&self, patterns: Option<&Patterns>, set: &FileSet) -> BuildError {
        let step = match &self.node.op {
            Op::Copy(spec) if spec.unpack == crate::plan::Unpack::Archives => "ADD",
            Op::Run(_) => "RUN --mount",
            _ => "COPY",
        };
        let (source, context) = (self.source, self.which.shown());
        let excluded = patterns.and_then(|patterns| self.excluded(patterns));
        let problem = match (excluded, self.ignore) {
            (Some(pattern), Some(file)) => {
                format!("source {source:?} is excluded by {}:{}", file.name, pattern.line)
            }
            _ => match set.get(source.as_bytes()) {
                Some(found) if found.kind != FileKind::Symlink => {
                    format!("source {source:?} is excluded by --exclude")
                }
                Some(link) => format!(
                    "source {source:?} is a symlink to {:?}, which is not in {context}",
                    String::from_utf8_lossy(&link.target)
                ),
                None if Glob::has_wildcards(source) => {
                    format!("source {source:?} matches nothing in {context}")
                }
                None => format!("source {source:?} is not in {context}"),
            },
        };
        let mut error = BuildError::new(BuildErrorKind::Copy { step, problem });
        if let Some(span) = self.node.span {
            error = error.at(self.excerpt(span));
        }
        let near = match self.which.directory() {
            // The directory is there: no name near the pattern was meant.
            _ if self.directory().is_some() || set.get(source.as_bytes()).is_some() => None,
            Some(root) => missing::near_in_directory(root, source),
            None => missing::near_in_set(set, source),
        };
        match (excluded, near) {
            (Some(pattern), _) => error.hint(format!(
                "remove the pattern `{}`, or add `!{source}` below it",
                pattern.text
            )),
            (None, Some(near)) => error.hint(format!("did you mean `{near}`?")),
            (None, None) if self.is_bare() => error.hint(
                "a Dockerfile alone has an empty context: `-f FILE|URL|- DIRECTORY` gives it one",
            ),
            (None, None) => error.hint("sources are paths below the context's directory"),
        }
    }

    /// Whether it is the context of a Dockerfile that came without one.
    fn is_bare(&self) -> bool {
        self.which.named.is_none() && matches!(self.which.request.context, ContextSource::Empty)
    }

    /// The ignore pattern that excludes the source: the path before its wildcards, or else what it
    /// matches on disk.
    fn excluded<'p>(&self, patterns: &'p Patterns) -> Option<&'p Pattern> {
        let decides = |path: &[u8]| patterns.deciding(path).filter(|pattern| !pattern.negated);
        let (path, rest) = split_wildcards(self.source);
        if let Some(pattern) = decides(path.as_bytes()) {
            return Some(pattern);
        }
        let glob = Glob::new(rest.split('/').next()?.as_bytes()).ok()?;
        let names = self.directory()?.filter_map(Result::ok).map(|entry| entry.file_name());
        let mut names = names.filter(|name| glob.matches(name.as_bytes()));
        names.find_map(|name| decides(&join(path.as_bytes(), name.as_bytes())))
    }

    /// What a pattern is matched with, if it is there.
    fn directory(&self) -> Option<fs_err::ReadDir> {
        let root = self.which.directory()?;
        let (path, rest) = split_wildcards(self.source);
        // Hints are for people: a path that leads elsewhere only gives a poor one.
        if rest.is_empty() { None } else { fs_err::read_dir(root.join(path)).ok() }
    }

    fn excerpt(&self, span: Span) -> Excerpt {
        let text = &self.which.request.dockerfile;
        // The source itself is what is wrong, not the whole instruction.
        let whole = Excerpt::new(&text.name, &text.bytes, span, "");
        let part = &whole.text[whole.range.clone()];
        match part.find(self.source).filter(|_| !self.source.is_empty()) {
            Some(at) => {
                let start = whole.range.start + at;
                Excerpt { range: start..start + self.source.len(), ..whole }
            }
            None => whole,
        }
    }
}
