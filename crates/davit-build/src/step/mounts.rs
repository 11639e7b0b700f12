//! Gets ready what the mounts of a command show.

use std::{
    io,
    path::{Path, PathBuf},
    time::Instant,
};

use davit_image::DiffId;
use davit_layer::{Mtime, WriteOptions};
use davit_snapshot::{Mountpoints, PrepareOptions, Upper};
use davit_store::CacheMountUse;

use super::{
    Done, Session,
    copy::{ContextOpener, copy_failed},
    failed,
    run::{Job, Written},
    store_failed,
};
use crate::{
    CachePolicy,
    copy::{Content, CopyJob, Finished, NoArchives, Output, Times, content_key, copy},
    definition::selected,
    error::{BuildError, BuildErrorKind},
    files::{FileKind, FileSet},
    layers::source_of,
    plan::{
        BindOrigin, ClientMount, ContextId, CopyOrigin, CopySpec, Destination, MountAccess,
        MountSource, Node, Unpack,
    },
    run::{
        agent::AgentSocket,
        mounts::{Content as SecretContent, OwnerExchange, SECRET_LIMIT, StepMount, StepMountKind},
    },
    selection,
};

/// Name of the instruction in errors.
const KEYWORD: &str = "RUN --mount";

/// What the mounts of one command show; it goes when the command has ended.
pub(super) struct ReadyMounts {
    views: Vec<View>,
    directories: Vec<Directory>,
    memory: Vec<(String, StepMountKind)>,
    /// Variables with secrets, as `NAME=value`.
    pub(super) secrets: Vec<String>,
    /// In use until then.
    caches: Vec<(String, CacheMountUse)>,
    agents: Vec<(String, AgentSocket)>,
}

/// Files of other layers.
struct View {
    target: String,
    layers: Vec<DiffId>,
    path: String,
    access: MountAccess,
    upper: Upper,
    _written: Written,
}

/// A part of a cache.
struct Directory {
    target: String,
    root: PathBuf,
    path: String,
    access: MountAccess,
    owners: Option<OwnerExchange>,
}

impl Session<'_, '_> {
    /// Gets the mounts of a command ready; `pid` is the supervisor's.
    pub(super) fn ready_mounts(
        &self,
        job: &Job<'_>,
        inputs: &[&Done],
        pid: u32,
    ) -> Result<ReadyMounts, BuildError> {
        let mut ready = ReadyMounts {
            views: Vec::new(),
            directories: Vec::new(),
            memory: Vec::new(),
            secrets: self.secret_variables(job)?,
            caches: self.caches(job, inputs)?,
            agents: Vec::new(),
        };
        for mount in &job.spec.mounts {
            let target = mount.target.clone();
            match &mount.source {
                MountSource::Bind { origin, path, access } => {
                    let layers = match origin {
                        BindOrigin::Context(context) => {
                            vec![self.context_layer(job.node, *context, path)?]
                        }
                        BindOrigin::Input(number) => self.mounted(job, inputs[*number], path)?,
                    };
                    let number = ready.views.len();
                    let (upper, _written) = self.view_upper(job, number, pid)?;
                    let (path, access) = (path.clone(), *access);
                    ready.views.push(View { target, layers, path, access, upper, _written });
                }
                MountSource::Cache(cache) => {
                    let identity = self.identity(cache, inputs);
                    let used = ready.caches.iter().find(|(name, _)| *name == identity);
                    let root = used.expect("all were claimed").1.data().to_path_buf();
                    let owners = self.dress(job, cache, &root)?;
                    check_inside(&root, &cache.path)?;
                    let (path, access) = (cache.path.clone(), cache.access);
                    ready.directories.push(Directory { target, root, path, access, owners });
                }
                MountSource::Volume { root, access, .. } => {
                    let (root, path, access) = (root.clone(), String::new(), *access);
                    let owners = None;
                    ready.directories.push(Directory { target, root, path, access, owners });
                }
                MountSource::Tmpfs { size_bytes, access } => {
                    let writable = is_writable(*access);
                    let kind = StepMountKind::Tmpfs { size_bytes: *size_bytes, writable };
                    ready.memory.push((target, kind));
                }
                MountSource::Secret(client) => {
                    let Some(content) = self.secret(job, &client.id, client.required)? else {
                        continue;
                    };
                    let content = SecretContent(content.to_vec());
                    let &ClientMount { mode, uid, gid, .. } = client;
                    let kind = StepMountKind::Secret { content, mode, uid, gid };
                    ready.memory.push((target, kind));
                }
                MountSource::Agent(client) => {
                    let number = ready.agents.len();
                    let socket = self.agent(job, client, number)?;
                    ready.agents.extend(socket.map(|socket| (target, socket)));
                }
            }
        }
        ready.check_size(job)?;
        Ok(ready)
    }

    /// The mounts as the supervisor gets them, trees prepared; parents before their children.
    pub(super) fn step_mounts(
        &self,
        node: &Node,
        ready: &ReadyMounts,
    ) -> Result<Vec<StepMount>, BuildError> {
        let mut mounts = Vec::new();
        let mut push = |target: &str, kind| {
            mounts.push(StepMount { target: target.to_owned(), kind });
        };
        for view in &ready.views {
            let options = PrepareOptions::new(Mountpoints::None);
            let stack = self.snapshots.prepare(&view.layers, &options);
            let stack = stack.map_err(|error| failed(node, error))?;
            let (upper, path) = (view.upper.clone(), view.path.clone());
            let writable = is_writable(view.access);
            push(&view.target, StepMountKind::View { stack, upper, path, writable });
        }
        for Directory { target, root, path, access, owners } in &ready.directories {
            let (root, path, owners) = (root.clone(), path.clone(), *owners);
            let writable = is_writable(*access);
            push(target, StepMountKind::Directory { root, path, writable, owners });
        }
        for (target, kind) in &ready.memory {
            push(target, kind.clone());
        }
        for (target, socket) in &ready.agents {
            push(target, StepMountKind::Socket { path: socket.path().to_path_buf() });
        }
        mounts.sort_by(|left, right| left.target.cmp(&right.target));
        Ok(mounts)
    }

    /// The layers of a state in which a path is there.
    fn mounted(&self, job: &Job<'_>, input: &Done, path: &str) -> Result<Vec<DiffId>, BuildError> {
        let state = &input.state;
        let merged = self.layers.merged(state).map_err(|error| failed(job.node, error))?;
        let followed = merged.follow(path.as_bytes()).ok();
        if followed.is_some_and(|path| path.is_empty() || merged.find(&path).is_some()) {
            return Ok(state.layers.clone());
        }
        let problem = format!("source `/{path}` does not exist where it is mounted from");
        Err(BuildError::new(BuildErrorKind::Copy { step: KEYWORD, problem }))
    }

    /// What a command writes to a view, and its end.
    fn view_upper(
        &self,
        job: &Job<'_>,
        number: usize,
        pid: u32,
    ) -> Result<(Upper, Written), BuildError> {
        let own = job.directory.file_name().unwrap_or_default().to_string_lossy();
        // Elsewhere its own name alone tells it from those of other steps.
        let scratch = job.directory.join(format!("{own}-view-{number}"));
        fs_err::create_dir(&scratch).map_err(|error| failed(job.node, error))?;
        let upper = self.snapshots.upper(scratch.clone());
        let upper = upper.map_err(|error| failed(job.node, error))?;
        let in_memory = matches!(upper, Upper::Tmpfs { .. });
        let memory = in_memory.then(|| upper.directory(self.snapshots.location(), pid));
        Ok((upper, Written { scratch, memory }))
    }

    /// A layer of what a path of a context holds, times included: what a command makes of files
    /// may depend on them, though its key does not.
    fn context_layer(
        &self,
        node: &Node,
        context: ContextId,
        path: &str,
    ) -> Result<DiffId, BuildError> {
        let begun = Instant::now();
        let spec = CopySpec {
            origin: CopyOrigin::Context(context),
            sources: vec![selection::pattern(path.as_bytes(), "")],
            remotes: Vec::new(),
            files: Vec::new(),
            destination: Destination { path: path.to_owned(), directory: false },
            owner: None,
            mode: None,
            parents: Vec::new(),
            exclude: Vec::new(),
            link: true,
            unpack: Unpack::Never,
            epoch: None,
        };
        let read = self.files_of_context(context);
        let (files, archives) = (&*read.files, &NoArchives);
        let job = CopyJob {
            spec: &spec,
            files,
            remotes: &[],
            below: None,
            owner: None,
            archives,
            now: 0,
        };
        let mut outputs = copy(&job).map_err(|problem| copy_failed(KEYWORD, &problem))?.outputs;
        if let Some((_, index)) = selected(&spec.sources[0], files).pop()
            && files.entries[index].kind == FileKind::Directory
            && let Some(top) = outputs.iter_mut().find(|output| output.path == path.as_bytes())
        {
            // A copy makes a new directory for what it copies.
            top.mode = files.entries[index].mode;
        }
        round_up_times(&mut outputs, files);
        let source = |layer: u32, entry| source_of(&read.layers[layer as usize], entry);
        let finished = Finished::new(outputs, source);
        let content = content_key(&finished.changes, &finished.digests, Times::EXACT);
        if let (Some(content), CachePolicy::Use) = (content, self.policy)
            && let Some(record) = self.cache().content(content).map_err(store_failed)?
        {
            return Ok(record.layer);
        }
        let opener = ContextOpener { session: self, read: &read, positions: &finished.files };
        let options = WriteOptions { readers: self.threads, ..WriteOptions::default() };
        let written = self.writer().write(&finished.changes, &opener, &options);
        let written = written.map_err(|error| failed(node, error))?;
        if let Some(content) = content {
            let record = self.record(written.diff_id, written.size_bytes);
            let cost_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.cache().remember_content(content, &record, cost_us).map_err(store_failed)?;
        }
        Ok(written.diff_id)
    }

    fn secret_variables(&self, job: &Job<'_>) -> Result<Vec<String>, BuildError> {
        let mut variables = Vec::new();
        for variable in &job.spec.secrets {
            let value = self.secret(job, &variable.id, variable.required)?.unwrap_or_default();
            let Ok(value) = std::str::from_utf8(value) else {
                let problem = format!("secret `{}` is no text for a variable", variable.id);
                return Err(client_failed(job, problem));
            };
            if value.contains('\0') {
                let problem = format!("secret `{}` holds a NUL", variable.id);
                return Err(client_failed(job, problem));
            }
            variables.push(format!("{}={value}", variable.name));
        }
        Ok(variables)
    }

    /// The value of a secret; `None` where it was not given and need not be.
    fn secret(&self, job: &Job<'_>, id: &str, required: bool) -> Result<Option<&[u8]>, BuildError> {
        match self.sandbox.secrets.get(id) {
            Some(secret) => Ok(Some(secret.value.as_slice())),
            None if required => {
                let hint = format!("give it by `--secret id={id},src=FILE` or `,env=VARIABLE`");
                Err(client_failed(job, format!("secret `{id}` was not given")).hint(hint))
            }
            None => Ok(None),
        }
    }

    fn agent(
        &self,
        job: &Job<'_>,
        client: &ClientMount,
        number: usize,
    ) -> Result<Option<AgentSocket>, BuildError> {
        let id = &client.id;
        let Some(agent) = self.sandbox.agents.get(id) else {
            if !client.required {
                return Ok(None);
            }
            let problem = format!("no SSH agent `{id}` was given");
            return Err(client_failed(job, problem).hint(format!("give it by `--ssh {id}`")));
        };
        let (name, owner) = (format!("agent-{number}"), (client.mode, client.uid, client.gid));
        let socket = AgentSocket::listen(agent, (job.directory, &name), owner);
        socket.map(Some).map_err(|error| failed(job.node, error))
    }
}

/// Fails if a path does not exist below a cache, whose links cannot lead out of it.
fn check_inside(root: &Path, path: &str) -> Result<(), BuildError> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
    if path.is_empty() {
        return Ok(());
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = openat(CWD, root, flags | OFlags::DIRECTORY, Mode::empty())
        .and_then(|root| openat2(root, path, flags, Mode::empty(), inside));
    // Whatever else is wrong the launch tells.
    if matches!(found, Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR)) {
        let problem = format!("source `/{path}` does not exist in the cache");
        return Err(BuildError::new(BuildErrorKind::Copy { step: KEYWORD, problem }));
    }
    Ok(())
}

impl ReadyMounts {
    fn check_size(&self, job: &Job<'_>) -> Result<(), BuildError> {
        let size = |(_, kind): &(String, StepMountKind)| match kind {
            StepMountKind::Secret { content, .. } => content.0.len(),
            _ => 0,
        };
        let variables = self.secrets.iter().map(String::len);
        if self.memory.iter().map(size).chain(variables).sum::<usize>() <= SECRET_LIMIT {
            return Ok(());
        }
        let problem = format!("the secrets are larger than {} MiB", SECRET_LIMIT >> 20);
        Err(client_failed(job, problem))
    }
}

fn client_failed(job: &Job<'_>, problem: String) -> BuildError {
    failed(job.node, io::Error::other(problem))
}

fn is_writable(access: MountAccess) -> bool {
    access == MountAccess::ReadWrite
}

/// A layer knows whole seconds. A file that changed must not look older than what was made of it
/// before, in a cache that an earlier build has filled.
fn round_up_times(outputs: &mut [Output], files: &FileSet) {
    const SECOND: i64 = 1_000_000_000;
    for output in outputs {
        if let Content::File { index, .. } = &output.content {
            let nanoseconds = files.entries[*index].mtime_ns;
            let more = i64::from(nanoseconds.rem_euclid(SECOND) != 0);
            output.mtime = Mtime::from_seconds(nanoseconds.div_euclid(SECOND) + more);
        }
    }
}
