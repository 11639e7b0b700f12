//! Mounts of a `RUN`: what they are, and how `--mount` is read.

use std::path::PathBuf;

use davit_dockerfile::{Mount, MountError, MountKind, Sharing, Word};

use super::{
    ContextId, NodeId,
    contexts::Place,
    stage::{StageBuilder, absolute},
};
use crate::{error::BuildError, sandbox::VolumeSource};

/// Directory of secrets whose mount names no target.
const SECRETS: &str = "/run/secrets";
/// Socket of an agent whose mount names no target; its number follows.
const AGENT: &str = "/run/buildkit/ssh_agent.";
/// Agent that a mount without an id stands for.
const DEFAULT_AGENT: &str = "default";
/// Mounts of one command; each costs the kernel one and the build a few files.
const MOST_MOUNTS: usize = 1000;
/// Build argument that keeps the caches of one project from those of others.
const NAMESPACE: &str = "BUILDKIT_CACHE_MOUNT_NS";

/// One mount of a `RUN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunMount {
    /// Absolute path, cleaned; never the root.
    pub target: String,
    /// What it shows.
    pub source: MountSource,
}

/// What a mount of a `RUN` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSource {
    /// Files of the context or of another state.
    Bind {
        /// Where they are.
        origin: BindOrigin,
        /// Path there, cleaned, without leading `/`; empty = the root.
        path: String,
        /// What is written is thrown away.
        access: MountAccess,
    },
    /// A directory of the machine.
    Volume {
        /// Where it is.
        root: PathBuf,
        /// What its content is known by; `None` if it does not count.
        context: Option<ContextId>,
        /// Whether it can be written.
        access: MountAccess,
    },
    /// A directory that outlives the build.
    Cache(CacheMount),
    /// An empty file system in memory.
    Tmpfs {
        /// Size limit in bytes.
        size_bytes: Option<u64>,
        /// Whether it can be written.
        access: MountAccess,
    },
    /// A secret as a file.
    Secret(ClientMount),
    /// The socket of an agent.
    Agent(ClientMount),
}

/// Where the files of a bind mount are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindOrigin {
    /// A context.
    Context(ContextId),
    /// The state of the node's input with this number.
    Input(usize),
}

/// Whether a mount can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountAccess {
    /// No.
    ReadOnly,
    /// Yes.
    ReadWrite,
}

/// A cache mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheMount {
    /// What tells it from other caches: `NAMESPACE/ID`.
    pub name: String,
    /// How steps that run at the same time share it.
    pub sharing: Sharing,
    /// Path within it, cleaned, without leading `/`; empty = all of it.
    pub path: String,
    /// Whether it can be written.
    pub access: MountAccess,
    /// Permission bits of its directory, if they were asked.
    pub mode: Option<u32>,
    /// Owner of its directory, if it was asked.
    pub uid: Option<u32>,
    /// Group of its directory, if it was asked.
    pub gid: Option<u32>,
    /// The input whose files a new cache begins with.
    pub seed: Option<usize>,
}

impl CacheMount {
    /// The owner that is asked for; half of one stands for root's other half.
    #[must_use]
    pub fn owner(&self) -> Option<(u32, u32)> {
        let asked = self.uid.is_some() || self.gid.is_some();
        asked.then(|| (self.uid.unwrap_or(0), self.gid.unwrap_or(0)))
    }
}

/// What the caller of a build gives: a secret or an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientMount {
    /// Its id.
    pub id: String,
    /// Whether the step fails without it.
    pub required: bool,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What tells the secret's value from another one, where that is to be in the key.
    pub fingerprint: Option<String>,
}

/// A variable that holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretVariable {
    /// Its name.
    pub name: String,
    /// The secret's id.
    pub id: String,
    /// Whether the step fails without it.
    pub required: bool,
    /// As in [`ClientMount::fingerprint`].
    pub fingerprint: Option<String>,
}

/// What the flags `--mount` of one `RUN` come to.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    /// Parents before their children; of several at one target the last.
    pub(super) mounts: Vec<RunMount>,
    pub(super) secrets: Vec<SecretVariable>,
    /// States that they read; they stand behind the one that the step builds upon.
    pub(super) inputs: Vec<NodeId>,
    /// Where the first agent's socket is.
    pub(super) agent: Option<String>,
    agents: usize,
}

impl StageBuilder<'_, '_> {
    /// Reads all `--mount` of an instruction.
    pub(super) fn mounts(&mut self, words: &[Word]) -> Result<Mounts, BuildError> {
        let mut mounts = Mounts::default();
        if let Some(word) = words.get(MOST_MOUNTS) {
            let message = format!("more than {MOST_MOUNTS} mounts");
            return Err(self.planner.fail(word.span, message));
        }
        for word in words {
            let variables = self.state.scope.variables();
            let mut expand =
                |value: &str| self.planner.lexer.word(value, variables).map(|it| it.text);
            let mount = Mount::parse(&word.text, &mut expand)
                .map_err(|error| self.mount_failed(&error, word))?;
            if [mount.uid, mount.gid].contains(&Some(u32::MAX)) {
                let message = format!("{} is nobody's number", u32::MAX);
                return Err(self.planner.fail(word.span, message));
            }
            match mount.kind {
                MountKind::Secret => self.secret(&mount, word, &mut mounts)?,
                MountKind::Ssh => self.agent(&mount, word, &mut mounts)?,
                _ => self.files(&mount, word, &mut mounts)?,
            }
        }
        self.volumes(&mut mounts);
        mounts.mounts.reverse();
        // Stable: of equal targets the last one comes first, and stays.
        mounts.mounts.sort_by(|left, right| left.target.cmp(&right.target));
        mounts.mounts.dedup_by(|later, first| later.target == first.target);
        Ok(mounts)
    }

    /// The volumes that every command has, unless its own mounts take their places.
    fn volumes(&self, to: &mut Mounts) {
        let request = self.planner.request;
        for volume in &request.sandbox.volumes {
            let VolumeSource::Directory(root) = &volume.source else { continue };
            let (root, access) = (root.clone(), volume.access);
            let context = request.volume_context(volume);
            let source = MountSource::Volume { root, context, access };
            to.mounts.insert(0, RunMount { target: volume.target.clone(), source });
        }
    }

    fn mount_failed(&self, error: &MountError, word: &Word) -> BuildError {
        let failed = match error {
            MountError::Expand(error) => return self.expand_failed(error, word.span),
            error => self.planner.fail(word.span, error.to_string()),
        };
        match error {
            MountError::Key { suggestion: Some(near), .. }
            | MountError::Value { suggestion: Some(near), .. } => {
                failed.hint(format!("did you mean `{near}`?"))
            }
            MountError::Value { known, .. } if !known.is_empty() => {
                failed.hint(format!("it is one of {}", known.join(", ")))
            }
            _ => failed,
        }
    }

    /// A bind, a cache or a tmpfs.
    fn files(&mut self, mount: &Mount, word: &Word, to: &mut Mounts) -> Result<(), BuildError> {
        let target = self.target(mount.target.as_deref().unwrap_or_default(), word)?;
        let access = access(mount);
        let path = clean(mount.source.as_deref().unwrap_or_default());
        let from = match &mount.from {
            Some(_) if mount.kind != MountKind::Tmpfs => {
                self.planner.mounts_from(self.index, word)?
            }
            _ => None,
        };
        let source = match mount.kind {
            MountKind::Tmpfs => {
                // No size is no limit of ours, as in BuildKit.
                let size_bytes = mount.size_bytes.filter(|size| *size > 0);
                MountSource::Tmpfs { size_bytes, access }
            }
            MountKind::Cache => MountSource::Cache(CacheMount {
                name: self.cache_name(mount),
                sharing: mount.sharing.unwrap_or_default(),
                path,
                access,
                mode: mount.mode,
                uid: mount.uid,
                gid: mount.gid,
                seed: from
                    .map(|from| to.input(self.planner.state_of(&from, self.index, word.span))),
            }),
            _ => {
                let place = match from {
                    Some(from) => self.planner.place(&from, self.index, word.span),
                    None => self.planner.main_context(self.index, word.span),
                };
                let origin = match place {
                    Place::Context(context) => BindOrigin::Context(context),
                    Place::State(node) => BindOrigin::Input(to.input(node)),
                };
                MountSource::Bind { origin, path, access }
            }
        };
        to.mounts.push(RunMount { target, source });
        Ok(())
    }

    fn target(&self, written: &str, word: &Word) -> Result<String, BuildError> {
        let path = absolute(&self.state.config.config.working_dir, written);
        if path.is_empty() {
            let message = "a mount cannot take the place of the root directory";
            return Err(self
                .planner
                .fail(word.span, message)
                .hint("name a directory: `target=/x`"));
        }
        Ok(format!("/{path}"))
    }

    fn cache_name(&self, mount: &Mount) -> String {
        let given = &self.planner.request.build_args;
        let namespace = given.get(NAMESPACE).map_or("", String::as_str);
        let id = match (&mount.id, mount.target.as_deref().unwrap_or_default()) {
            (Some(id), _) => id.clone(),
            (None, target) if target.starts_with('/') => format!("/{}", clean(target)),
            (None, target) => clean(target),
        };
        format!("{namespace}/{id}")
    }

    fn secret(&self, mount: &Mount, word: &Word, to: &mut Mounts) -> Result<(), BuildError> {
        let named = mount.source.clone().or_else(|| mount.id.clone());
        let target = mount.target.clone();
        let id = named.unwrap_or_else(|| last(target.as_deref().unwrap_or_default()).to_owned());
        let given = self.planner.request.sandbox.secrets.get(&id);
        let fingerprint = given.and_then(|secret| secret.fingerprint.clone());
        let required = mount.required;
        if let Some(name) = &mount.environment {
            let name = if name.is_empty() { id.clone() } else { name.clone() };
            if name.contains(['=', '\0']) {
                let message = format!("`{name}` is no name of a variable");
                return Err(self.planner.fail(word.span, message));
            }
            let (id, fingerprint) = (id.clone(), fingerprint.clone());
            to.secrets.push(SecretVariable { name, id, required, fingerprint });
        }
        let target = match (target, &mount.environment) {
            (Some(target), _) => target,
            (None, None) => format!("{SECRETS}/{}", last(&id)),
            (None, Some(_)) => return Ok(()),
        };
        let target = self.target(&target, word)?;
        let client = client(mount, id, 0o400);
        let source = MountSource::Secret(ClientMount { fingerprint, ..client });
        to.mounts.push(RunMount { target, source });
        Ok(())
    }

    fn agent(&self, mount: &Mount, word: &Word, to: &mut Mounts) -> Result<(), BuildError> {
        if mount.source.is_some() {
            return Err(self.planner.fail(word.span, "an ssh mount has no `source`"));
        }
        let number = to.agents;
        to.agents += 1;
        let target = mount.target.clone().unwrap_or_else(|| format!("{AGENT}{number}"));
        let target = self.target(&target, word)?;
        to.agent.get_or_insert_with(|| target.clone());
        let id = mount.id.clone().unwrap_or_else(|| DEFAULT_AGENT.to_owned());
        let source = MountSource::Agent(client(mount, id, 0o600));
        to.mounts.push(RunMount { target, source });
        Ok(())
    }
}

impl Mounts {
    /// Number of the input that is this node; 0 is the state that the step builds upon.
    fn input(&mut self, node: NodeId) -> usize {
        let known = self.inputs.iter().position(|input| *input == node);
        1 + known.unwrap_or_else(|| {
            self.inputs.push(node);
            self.inputs.len() - 1
        })
    }
}

const fn access(mount: &Mount) -> MountAccess {
    if mount.read_only { MountAccess::ReadOnly } else { MountAccess::ReadWrite }
}

fn client(mount: &Mount, id: String, mode: u32) -> ClientMount {
    ClientMount {
        id,
        required: mount.required,
        mode: mount.mode.unwrap_or(mode) & 0o777,
        uid: mount.uid.unwrap_or(0),
        gid: mount.gid.unwrap_or(0),
        fingerprint: None,
    }
}

/// A path without leading `/`, `.` and `..`.
fn clean(path: &str) -> String {
    let cleaned = crate::files::clean(path.as_bytes());
    String::from_utf8(cleaned).expect("components of text are text")
}

/// The last component of a path.
fn last(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
}
