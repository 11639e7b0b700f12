//! What lies elsewhere and is needed before there is a plan: the Dockerfile, or the context with it.

use std::{io, path::Path, sync::Arc};

use davit_layer::{Kind, Merged};

use super::{call::CallEnvironment, context::read_dockerfile};
use crate::{
    BuildRequest,
    archives::{Kept, looks_like_archive, read_archive},
    context_files::read_archived,
    copy::{Archive, Ranges},
    error::{BuildError, BuildErrorKind},
    inputs::{FetchedSources, source_failed},
    layers::Layers,
    request::{ContextSource, DockerfilePlace, TarStream},
    source::RemoteSource,
};

/// Bytes that tell an archive from a Dockerfile.
const HEAD: u64 = 512;
/// Build argument that keeps `.git` in a context.
const KEEP_GIT: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";

/// What was fetched already.
#[derive(Default)]
pub(super) struct Remote {
    /// The context, if it is an archive of a web server.
    pub(super) archive: Option<Archive>,
    /// Sources that the plan may name.
    pub(super) sources: FetchedSources,
    /// When a context that was fetched is from.
    pub(super) context_time: Option<i64>,
}

/// Fetches a Dockerfile and a context that lie elsewhere, and reads the Dockerfile.
pub(super) fn read_remote(
    request: &mut BuildRequest,
    environment: &CallEnvironment<'_, '_>,
    scratch: &Path,
) -> Result<Remote, BuildError> {
    let mut remote = Remote::default();
    if let DockerfilePlace::Remote(source) = &request.dockerfile.place {
        let (name, source) = (source.file_name.clone(), RemoteSource::Http(source.clone()));
        let file = remote.fetch(&source, environment)?;
        request.dockerfile.bytes = read_text(&file, &name, &source)?;
    }
    let ContextSource::Remote(source) = &mut request.context else { return Ok(remote) };
    if let RemoteSource::Git(git) = source {
        let keeps = request.build_args.get(KEEP_GIT).map(String::as_str);
        let keeps = matches!(keeps, Some("1" | "t" | "T" | "true" | "TRUE" | "True"));
        git.keep_git_dir = Some(keeps || git.keep_git_dir == Some(true));
    }
    let source = source.clone();
    let fetched = remote.fetch(&source, environment)?;
    remote.context_time = remote.sources[&source].time;
    let RemoteSource::Http(http) = &source else {
        read_dockerfile(request, &fetched)?;
        return Ok(remote);
    };
    let name = &http.file_name;
    let archive = unpack(&fetched, name, environment, scratch);
    if let Some(archive) = archive.map_err(|error| unreadable(&source, error))? {
        read_dockerfile(request, &archive)?;
        // It is read from now on as if it had come by a pipe.
        request.context = ContextSource::Tar(TarStream(Box::new(io::empty())));
        remote.archive = Some(archive);
    } else if request.dockerfile.place == DockerfilePlace::Context {
        request.dockerfile.bytes = read_text(&fetched, name, &source)?;
        request.dockerfile.name = source.to_string();
    }
    Ok(remote)
}

impl Remote {
    /// When a source is from, as far as it says so itself.
    pub(super) fn time_of(
        &mut self,
        source: &RemoteSource,
        environment: &CallEnvironment<'_, '_>,
    ) -> Result<Option<i64>, BuildError> {
        self.fetch(source, environment)?;
        Ok(self.sources[source].time)
    }

    /// The archive that a file of a web server is, if it is one.
    pub(super) fn unpacked(
        &mut self,
        source: &RemoteSource,
        environment: &CallEnvironment<'_, '_>,
        scratch: &Path,
    ) -> Result<Option<Archive>, BuildError> {
        let RemoteSource::Http(http) = source else { return Ok(None) };
        let fetched = self.fetch(source, environment)?;
        let archive = unpack(&fetched, &http.file_name, environment, scratch);
        archive.map_err(|error| unreadable(source, error))
    }

    /// Fetches a source, if it is not here already, and opens its layer.
    fn fetch(
        &mut self,
        source: &RemoteSource,
        environment: &CallEnvironment<'_, '_>,
    ) -> Result<Archive, BuildError> {
        let fetched = match self.sources.get(source) {
            Some(fetched) => fetched.clone(),
            None => {
                let fetched = environment.sources.fetch(source);
                fetched.map_err(|error| source_failed(source, error))?
            }
        };
        self.sources.insert(source.clone(), fetched.clone());
        let layers = Layers::new(environment.store, environment.lease);
        let layer = layers.open(fetched.layer).map_err(|e| source_failed(source, Box::new(e)))?;
        Ok(Archive { table: Arc::clone(&layer.table), tar: Arc::clone(&layer.tar) })
    }
}

fn read_text(layer: &Archive, name: &str, source: &RemoteSource) -> Result<Vec<u8>, BuildError> {
    let found = read_archived(layer, name).map_err(|error| unreadable(source, error))?;
    found.ok_or_else(|| {
        let message = format!("{source} is too large for a Dockerfile");
        BuildError::new(BuildErrorKind::Plan(message))
    })
}

/// Reads the one file of a layer as an archive; `None` if it is none.
fn unpack(
    layer: &Archive,
    name: &str,
    environment: &CallEnvironment<'_, '_>,
    scratch: &Path,
) -> io::Result<Option<Archive>> {
    let merged = Merged::new(vec![Arc::clone(&layer.table)]).map_err(io::Error::other)?;
    let Some(node) = merged.find(name.as_bytes()) else { return Ok(None) };
    let Kind::File { size, extents } = node.entry.kind else { return Ok(None) };
    let content = || Ranges::new(&layer.tar, size, extents.iter().collect());
    let mut head = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(content(), HEAD), &mut head)?;
    if !looks_like_archive(&head) {
        return Ok(None);
    }
    let tar = Kept::new(scratch)?.file;
    read_archive(&mut content(), &tar, environment.cancelled).map(Some).map_err(io::Error::other)
}

fn unreadable(source: &RemoteSource, error: io::Error) -> BuildError {
    let path = source.to_string().into();
    BuildError::new(BuildErrorKind::Context { path, source: error })
}
