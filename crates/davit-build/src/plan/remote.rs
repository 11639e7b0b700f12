//! Plans the sources of `ADD` that lie elsewhere: files of web servers and git repositories.

use davit_dockerfile::{Add, Span, Word};

use super::{
    CopyOrigin, CopySpec, Node, NodeId, Op, RemoteCopy, Unpack,
    planner::Planner,
    stage::{StageBuilder, stage_id},
};
use crate::{
    error::BuildError,
    selection::pattern,
    source::{GitSource, HttpSource, RemoteSource},
};

/// Flags of `ADD` that are for remote sources.
#[derive(Clone, Copy)]
pub(super) struct RemoteFlags<'a> {
    checksum: Option<&'a Word>,
    keep_git_dir: Option<bool>,
    unpack: Option<bool>,
}

impl<'a> RemoteFlags<'a> {
    pub(super) const fn of(add: &'a Add) -> Self {
        let Add { keep_git_dir, unpack, .. } = *add;
        Self { checksum: add.checksum.as_ref(), keep_git_dir, unpack }
    }
}

/// Remote sources of one `ADD`, and the nodes that hold them.
#[derive(Default)]
pub(super) struct Remotes {
    copies: Vec<Remote>,
    pub(super) nodes: Vec<NodeId>,
}

/// One of them.
struct Remote {
    after: usize,
    input: usize,
    path: String,
    unpack: Unpack,
}

impl Remotes {
    /// Adds a source that comes behind `after` of the others; `inputs` stand before its node.
    fn add(
        &mut self,
        node: NodeId,
        (path, unpack): (String, Unpack),
        (after, inputs): (usize, usize),
    ) {
        self.copies.push(Remote { after, input: inputs + self.nodes.len(), path, unpack });
        self.nodes.push(node);
    }

    /// The copies, which are as `local` but for their source.
    pub(super) fn copies(&self, local: &CopySpec) -> Vec<RemoteCopy> {
        let copy = |remote: &Remote| {
            let spec = CopySpec {
                parents: Vec::new(),
                origin: CopyOrigin::Input,
                sources: vec![remote.path.clone()],
                files: Vec::new(),
                unpack: remote.unpack,
                ..local.clone()
            };
            RemoteCopy { after: remote.after, input: remote.input, spec }
        };
        self.copies.iter().map(copy).collect()
    }
}

impl StageBuilder<'_, '_> {
    /// Plans a source if it lies elsewhere; false for a path.
    ///
    /// `flags` are those of `ADD`, and absent for `COPY`, which takes none but paths. `place` is
    /// the number of paths before the source, and of the node's inputs before all remote ones.
    pub(super) fn remote(
        &mut self,
        flags: Option<RemoteFlags<'_>>,
        (path, span): (&str, Span),
        place: (usize, usize),
        remotes: &mut Remotes,
    ) -> Result<bool, BuildError> {
        let Some(source) = self.remote_source(path, span)? else { return Ok(false) };
        let Some(flags) = flags else {
            let what = match source {
                RemoteSource::Http(_) => "a URL",
                RemoteSource::Git(_) => "a git repository",
            };
            let error = self.planner.fail(span, format!("source can't be {what} for COPY"));
            return Err(error.hint("ADD takes it"));
        };
        let source = self.with_flags(source, flags, span)?;
        let node = self.planner.source_node(&source, self.index, span);
        let copied = match &source {
            RemoteSource::Http(source) => {
                let unpack =
                    if flags.unpack == Some(true) { Unpack::Archives } else { Unpack::Never };
                (pattern(source.file_name.as_bytes(), ""), unpack)
            }
            RemoteSource::Git(_) => (String::new(), Unpack::Never),
        };
        remotes.add(node, copied, place);
        Ok(true)
    }

    fn remote_source(&self, path: &str, span: Span) -> Result<Option<RemoteSource>, BuildError> {
        match GitSource::parse(path) {
            Some(Ok(git)) => Ok(Some(RemoteSource::Git(git))),
            Some(Err(error)) => Err(self.planner.fail(span, error.to_string())),
            None => Ok(HttpSource::parse(path).map(RemoteSource::Http)),
        }
    }

    fn with_flags(
        &self,
        source: RemoteSource,
        flags: RemoteFlags<'_>,
        span: Span,
    ) -> Result<RemoteSource, BuildError> {
        let checksum = match flags.checksum {
            Some(word) => Some((word, self.expand(word)?)).filter(|(_, text)| !text.is_empty()),
            None => None,
        };
        match source {
            RemoteSource::Http(source) => {
                let parse = |(word, text): (&Word, String)| {
                    text.parse().map_err(|error| {
                        let message = format!("checksum `{text}`: {error}");
                        self.planner.fail(word.span, message).hint("write it as sha256:HEX")
                    })
                };
                let checksum = checksum.map(parse).transpose()?;
                Ok(RemoteSource::Http(HttpSource { checksum, ..source }))
            }
            RemoteSource::Git(mut source) => {
                if let (Some(flag), Some(own)) = (flags.keep_git_dir, source.keep_git_dir)
                    && flag != own
                {
                    let message = format!("--keep-git-dir={flag}, but the address says {own}");
                    return Err(self.planner.fail(span, message));
                }
                source.keep_git_dir =
                    Some(source.keep_git_dir.or(flags.keep_git_dir) == Some(true));
                if let Some((word, text)) = checksum {
                    source = source
                        .with_checksum(&text)
                        .map_err(|error| self.planner.fail(word.span, error.to_string()))?;
                }
                Ok(RemoteSource::Git(source))
            }
        }
    }

    /// Checks that `--checksum` is for one source, and for one that lies elsewhere.
    pub(super) fn check_checksum(&self, add: &Add) -> Result<(), BuildError> {
        let Some(word) = &add.checksum else { return Ok(()) };
        if self.expand(word)?.is_empty() {
            return Ok(());
        }
        let [path] = &add.sources.paths[..] else {
            return Err(self.planner.fail(word.span, "--checksum is for a single source"));
        };
        let remote = self.remote_source(&self.expand(path)?, path.span)?;
        if remote.is_none() {
            let message = "--checksum is for files of web servers and for git repositories";
            return Err(self.planner.fail(word.span, message));
        }
        Ok(())
    }
}

impl Planner<'_> {
    /// The node of a remote source, the same for all that read it.
    pub(crate) fn source_node(
        &mut self,
        source: &RemoteSource,
        stage: usize,
        span: Span,
    ) -> NodeId {
        if let Some(node) = self.sources.get(source) {
            return *node;
        }
        let node = self.push(Node {
            op: Op::Source(source.clone()),
            inputs: vec![],
            stage: stage_id(stage),
            name: format!("fetch {source}"),
            span: Some(span),
            cache: crate::CachePolicy::Use,
        });
        self.sources.insert(source.clone(), node);
        node
    }
}
