//! The context of a build: the tar it may be, the ignore file, and what its copies need of it.

use std::{ops::Range, os::unix::ffi::OsStrExt as _, path::Path, sync::atomic::AtomicBool};

use davit_dockerfile::{Glob, Pattern, Patterns, Span};
use davit_store::LayerIngest;

use super::{BuildEnvironment, cores};
use crate::{
    BuildRequest,
    archives::read_archive,
    cancel::Cancellable,
    context::ContextOptions,
    context_files::{ContextFiles, read_archived},
    copy::Archive,
    definition::{selected, taken},
    error::{BuildError, BuildErrorKind, Excerpt},
    files::{FileKind, FileSet, join, split_wildcards},
    missing,
    plan::{BindOrigin, CopyOrigin, MountSource, Node, Op, Plan},
    request::{ContextSource, IgnoreText},
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
    let mut stream = Cancellable { inner: &mut *stream.0, cancelled };
    let archive = read_archive(&mut stream, scratch.dir())
        .map_err(|error| tar_failed(std::io::Error::other(error)))?;
    if request.dockerfile.in_context {
        let names = [request.dockerfile.name.clone(), request.dockerfile.name.to_lowercase()];
        let found = names.iter().find_map(|name| read_archived(&archive, name).transpose());
        let Some(bytes) = found.transpose().map_err(tar_failed)? else {
            let message = format!("the context holds no `{}`", request.dockerfile.name);
            return Err(BuildError::new(BuildErrorKind::Plan(message)));
        };
        request.dockerfile.bytes = bytes;
    }
    Ok(Some(archive))
}

fn tar_failed(source: std::io::Error) -> BuildError {
    BuildError::new(BuildErrorKind::Context { path: "-".into(), source })
}

/// What a node reads of the context: patterns.
fn context_sources(node: &Node) -> Vec<String> {
    match &node.op {
        Op::Copy(spec) if spec.origin == CopyOrigin::Context => spec.selectors(),
        Op::Run(spec) => {
            let paths = spec.mounts.iter().filter_map(|mount| match &mount.source {
                MountSource::Bind { origin: BindOrigin::Context, path, .. } => Some(path),
                _ => None,
            });
            paths.map(|path| selection::pattern(path.as_bytes(), "")).collect()
        }
        _ => Vec::new(),
    }
}

pub(super) fn open_context(
    request: &BuildRequest,
    plan: &Plan,
    environment: &BuildEnvironment<'_, '_>,
    archive: Option<Archive>,
) -> Result<ContextFiles, BuildError> {
    let sources: Vec<String> = plan.nodes.iter().flat_map(context_sources).collect();
    let ignore = ignore_file(request)?;
    let patterns = match &ignore {
        Some(text) => Some(Patterns::read(&text.bytes).map_err(|error| {
            let kind = BuildErrorKind::Ignore { file: text.name.clone(), source: error };
            BuildError::new(kind)
        })?),
        None => None,
    };
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
    let mut context = ContextFiles::open(&request.context, options, archive)?;
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for node in &plan.nodes {
        for (source, found) in reads(node, context.set()) {
            let Some(found) = found else {
                let lost = Lost { request, node, source: &source, ignore: ignore.as_ref() };
                return Err(lost.error(patterns.as_ref(), context.set()));
            };
            ranges.extend(found);
        }
    }
    context.digest(&ranges, environment.cancelled)?;
    Ok(context)
}

/// Each path that a node reads of the context, and where that is in the set; nothing if it is lost.
/// What a pattern matches may be nothing, but only where the directory is there.
fn reads(node: &Node, set: &FileSet) -> Vec<(String, Option<Vec<Range<usize>>>)> {
    let whole = |source: &str| {
        let found = selected(source, set);
        let ranges = found.iter().map(|(_, at)| *at..set.subtree_end(*at)).collect();
        (!found.is_empty() || set.matches(source).is_ok()).then_some(ranges)
    };
    let Op::Copy(spec) = &node.op else {
        return context_sources(node).into_iter().map(|it| (it.clone(), whole(&it))).collect();
    };
    let positions = 0..if spec.origin == CopyOrigin::Context { spec.sources.len() } else { 0 };
    let copied = |position: usize| {
        let here = whole(&spec.sources[position]).map(|_| taken(spec, position, set));
        let found = here.filter(|found| found.len() > 1 || !spec.is_required(position));
        (spec.whole(position), found)
    };
    positions.map(copied).collect()
}

/// The ignore file: the one beside the Dockerfile, else the context's own. A tar has none: whoever
/// packs it leaves out what is not wanted, and Docker copies all that is in it.
fn ignore_file(request: &BuildRequest) -> Result<Option<IgnoreText>, BuildError> {
    if let Some(ignore) = &request.dockerfile.ignore {
        return Ok(Some(ignore.clone()));
    }
    let ContextSource::Directory(path) = &request.context else { return Ok(None) };
    let path = path.join(".dockerignore");
    match fs_err::read(&path) {
        Ok(bytes) => Ok(Some(IgnoreText { name: ".dockerignore".to_owned(), bytes })),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(BuildError::new(BuildErrorKind::Context { path, source })),
    }
}

/// A source that is not in the context.
struct Lost<'a> {
    request: &'a BuildRequest,
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
        let source = self.source;
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
                    "source {source:?} is a symlink to {:?}, which is not in the context",
                    String::from_utf8_lossy(&link.target)
                ),
                None if Glob::has_wildcards(source) => {
                    format!("source {source:?} matches nothing in the context")
                }
                None => format!("source {source:?} is not in the context"),
            },
        };
        let mut error = BuildError::new(BuildErrorKind::Copy { step, problem });
        if let Some(span) = self.node.span {
            error = error.at(self.excerpt(span));
        }
        let near = match &self.request.context {
            // The directory is there: no name near the pattern was meant.
            _ if self.directory().is_some() || set.get(source.as_bytes()).is_some() => None,
            ContextSource::Directory(root) => missing::near_in_directory(root, source),
            _ => missing::near_in_set(set, source),
        };
        match (excluded, near) {
            (Some(pattern), _) => error.hint(format!(
                "remove the pattern `{}`, or add `!{source}` below it",
                pattern.text
            )),
            (None, Some(near)) => error.hint(format!("did you mean `{near}`?")),
            (None, None) => error.hint("sources are paths below the context's directory"),
        }
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
        let ContextSource::Directory(root) = &self.request.context else { return None };
        let (path, rest) = split_wildcards(self.source);
        // Hints are for people: a path that leads elsewhere only gives a poor one.
        if rest.is_empty() { None } else { fs_err::read_dir(root.join(path)).ok() }
    }

    fn excerpt(&self, span: Span) -> Excerpt {
        let text = &self.request.dockerfile;
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
