//! Checkouts of git repositories.
//!
//! ```text
//! reference -- ls-remote --> commit -- known? --> layer
//!                              '-- fetch (that commit alone) -- checkout -- submodules --> layer
//! ```
//!
//! A commit that is named in full is not asked for again once its layer is here.

mod account;
mod guard;
mod kept;
mod mirror;
mod program;
mod refs;
mod ssh;

use std::{
    io,
    path::{Path, PathBuf},
    time::Instant,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use davit_build::{FetchedSource, GitMtime, GitSource, SourceIdentity};
use davit_image::{DiffId, Timestamp};
use serde::{Deserialize, Serialize};

pub(crate) use self::{
    guard::guard_helper,
    mirror::{GIT_CHECKOUT, remote_of},
};
use self::{
    mirror::Mirror,
    program::Program,
    refs::{Resolved, resolve},
    ssh::Ssh,
};
use super::{
    Fetcher, Reach, SourceError,
    ceiling::{CeilingReason, Growth},
    digest_of,
    layer::GitDirectory,
};
use crate::{Event, Hint};

/// Secrets that a repository's host is shown: a header as it is, and a token; each also with
/// `.HOST` behind it.
const HEADER: &str = "GIT_AUTH_HEADER";
const TOKEN: &str = "GIT_AUTH_TOKEN";
/// Agent whose keys are used over ssh.
const AGENT: &str = "default";
/// Where one token is for all repositories.
const GITHUB: &str = "https://github.com/";
/// Account of a token.
const TOKEN_ACCOUNT: &str = "x-access-token";

/// Why git gives no checkout.
#[derive(Debug, thiserror::Error)]
pub(in crate::build) enum GitError {
    /// There is no git.
    #[error("git is not installed")]
    Missing,
    /// git cannot be run.
    #[error("cannot run git")]
    Run(#[source] io::Error),
    /// git failed.
    #[error("git says: {0}")]
    Failed(String),
    /// The reference does not exist.
    #[error("the repository has no {0}")]
    NoReference(String),
    /// The commit is not the wanted one.
    #[error("its commit is {found}, which does not begin with {wanted}")]
    Checksum {
        /// What it must begin with.
        wanted: String,
        /// What it is.
        found: String,
    },
    /// The commit does not have the directory.
    #[error("the commit has no directory `{0}`")]
    NoDirectory(String),
    /// Nothing gives access by ssh.
    #[error("a repository over ssh needs an agent")]
    Ssh,
    /// It is larger than what there is room for.
    #[error("it takes more than {bytes} bytes, the most that a source may take here")]
    TooLarge {
        /// The limit.
        bytes: u64,
        /// What sets it.
        reason: CeilingReason,
    },
    /// Nobody wants it any more.
    #[error("git was stopped")]
    Stopped,
}

impl Hint for GitError {
    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::Missing => "install git, e.g. `apt-get install git`",
            Self::Ssh => {
                "`--ssh default` gives the agent of this session, `--ssh default=KEY` a key"
            }
            Self::TooLarge { reason, .. } => reason.hint(),
            Self::NoReference(_) => "a commit is named in full, by 40 or 64 digits",
            Self::Failed(text) if text.contains("could not read Username") => {
                "if the repository is private: `--secret id=GIT_AUTH_TOKEN,env=TOKEN` is sent to it"
            }
            _ => return Vec::new(),
        };
        vec![hint.to_owned()]
    }
}

/// What a checkout gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct GitRecord {
    layer: DiffId,
    /// When the commit was made, in seconds.
    time: i64,
}

/// A checkout that is here.
fn fetched(layer: DiffId, time: i64, resolved: &Resolved) -> FetchedSource {
    let identity = SourceIdentity::Commit(resolved.commit.clone());
    FetchedSource { layer, identity, time: Some(time) }
}

impl Fetcher<'_> {
    /// Makes a checkout present as a layer.
    pub(super) fn checkout(
        &self,
        source: &GitSource,
        item: &str,
    ) -> Result<FetchedSource, SourceError> {
        let begun = Instant::now();
        let scratch = self.engine.store().begin_layer(self.lease)?;
        let tree = scratch.dir().join("tree");
        fs_err::create_dir(&tree).map_err(SourceError::Keep)?;
        let ssh = self.ssh(source, scratch.dir())?;
        let mut environment = self.network();
        environment.extend(ssh.iter().flat_map(Ssh::environment));
        let (account, variables) = account::settings(&source.remote);
        environment.extend(variables);
        let program = Program {
            scratch: scratch.dir(),
            settings: self.settings(source).into_iter().chain(account).collect(),
            environment,
            cancelled: self.cancelled,
            executable: &self.engine.config().executable,
            guard: std::cell::OnceCell::new(),
            growth: std::cell::OnceCell::new(),
        };
        let repository = Repository { program: &program, source, tree };
        let resolved = self.resolved(&repository)?;
        repository.check(&resolved)?;
        let key = format!("git/{}", source_key(source, &resolved));
        if let Some(GitRecord { layer, time }) = self.known(&key)? {
            return Ok(fetched(layer, time, &resolved));
        }
        if self.reach == Reach::Offline {
            return Err(SourceError::Offline);
        }
        self.progress.report(Event::Phase { item, phase: "Downloading", total_bytes: None });
        let git = repository.keeps_git();
        // What `.git` holds must not depend on what was fetched before.
        let mirror = match git {
            GitDirectory::Keep => None,
            GitDirectory::Drop => Some(self.mirror(&source.remote)?),
        };
        let old = mirror.as_ref().map(Mirror::directory);
        program.limit(Growth::new(scratch.dir(), old, self.ceiling()));
        repository.bring(&resolved, mirror.as_ref())?;
        repository.check_out(&resolved.commit)?;
        if git == GitDirectory::Keep {
            repository.clean_git_directory()?;
        }
        let time = repository.commit_time(&resolved.commit)?;
        if mirror.is_some() {
            drop(mirror);
            // The next fetch tries again.
            if let Err(error) = self.engine.collect_git_repositories() {
                tracing::warn!(%error, "repositories of git sources may be over their budget");
            }
        }
        let mtime = match source.mtime {
            GitMtime::Checkout => Timestamp::now().unix_seconds(),
            GitMtime::Commit => time,
        };
        let layer = self.tree_layer(&repository.directory()?, git, mtime)?;
        self.progress.report(Event::Done { item, status: "Download complete" });
        self.remember((key, "git"), &GitRecord { layer, time }, Some(layer), begun)?;
        Ok(fetched(layer, time, &resolved))
    }

    /// The commit that the reference names: named in full, by the server, or as it was last.
    fn resolved(&self, repository: &Repository<'_>) -> Result<Resolved, SourceError> {
        let source = repository.source;
        if let Some(commit) = source.commit() {
            return Ok(Resolved { commit: commit.to_owned(), tag: None, reference: None });
        }
        let reference = source.reference.as_deref().unwrap_or_default();
        let key = format!("git-reference/{}", digest_of(&[&source.remote, reference]));
        let known: Option<Resolved> = self.known(&key)?;
        if self.reach == Reach::Offline {
            return known.ok_or(SourceError::Offline);
        }
        let begun = Instant::now();
        let resolved = repository.resolve()?;
        if known.as_ref() != Some(&resolved) {
            self.remember((key, "git"), &resolved, None, begun)?;
        }
        Ok(resolved)
    }

    /// The way to a repository over ssh.
    fn ssh(&self, source: &GitSource, scratch: &Path) -> Result<Option<Ssh>, SourceError> {
        if !source.is_over_ssh() || self.reach == Reach::Offline {
            return Ok(None);
        }
        let agent = self.agents.get(AGENT).ok_or(GitError::Ssh)?;
        let store = self.engine.store();
        let cache = store.layout().cache();
        store.make_dir(&cache)?;
        Ssh::new(agent, scratch, &cache).map(Some).map_err(SourceError::Keep)
    }

    /// Settings that give access: to the repository alone, and through no redirect.
    fn settings(&self, source: &GitSource) -> Vec<(String, String)> {
        let Some(header) = self.git_authorization(&source.remote) else { return Vec::new() };
        let remote = account::without_account(&source.remote);
        let scope = if remote.starts_with(GITHUB) { GITHUB } else { &remote };
        vec![
            (format!("http.{scope}.extraHeader"), format!("Authorization: {header}")),
            // git would show the header to the host that it is sent to.
            (format!("http.{scope}.followRedirects"), "false".to_owned()),
        ]
    }

    fn git_authorization(&self, remote: &str) -> Option<String> {
        if !remote.starts_with("http") {
            return None;
        }
        let host = davit_build::host_name(remote)?;
        let basic = |token: String| basic(TOKEN_ACCOUNT, &token);
        self.secret(&format!("{HEADER}.{host}"))
            .or_else(|| self.secret(&format!("{TOKEN}.{host}")).map(basic))
            .or_else(|| self.secret(HEADER))
            .or_else(|| self.secret(TOKEN).map(basic))
    }

    /// Proxies and certificates, as git's own variables.
    fn network(&self) -> Vec<(String, String)> {
        let config = self.engine.config();
        let mut variables = config.proxies.clone();
        // curl takes some of them in lower case alone.
        let lower = |(name, value): &(String, String)| (name.to_lowercase(), value.clone());
        let lower: Vec<_> = variables.iter().map(lower).collect();
        let missing = |pair: &(String, String)| variables.iter().all(|(name, _)| *name != pair.0);
        let lower: Vec<_> = lower.into_iter().filter(missing).collect();
        variables.extend(lower);
        let paths = [
            ("GIT_SSL_CAINFO", &config.certificate_file),
            ("GIT_SSL_CAPATH", &config.certificate_dir),
        ];
        for (name, path) in paths {
            if let Some(path) = path.as_ref().and_then(|path| path.to_str()) {
                variables.push((name.to_owned(), path.to_owned()));
            }
        }
        variables
    }
}

/// Basic authentication (RFC 7617).
fn basic(account: &str, password: &str) -> String {
    format!("basic {}", BASE64.encode(format!("{account}:{password}")))
}

/// Everything that a checkout depends on.
fn source_key(source: &GitSource, resolved: &Resolved) -> String {
    let keeps_git = source.keep_git_dir == Some(true) && source.directory.is_none();
    // What `.git` holds names reference and repository.
    let git = if keeps_git {
        format!("{} {:?} {:?}", source.remote, resolved.reference, resolved.tag)
    } else {
        String::new()
    };
    // The same commit of another repository has other submodules, where they are relative.
    let submodules = if source.submodules { source.remote.as_str() } else { "" };
    let directory = source.directory.as_deref().unwrap_or_default();
    let mtime = format!("{:?}", source.mtime);
    digest_of(&[&resolved.commit, directory, submodules, &mtime, &git]).to_string()
}

fn object_format(resolved: &Resolved) -> String {
    let name = if resolved.commit.len() == 64 { "sha256" } else { "sha1" };
    format!("--object-format={name}")
}

/// A repository that is fetched into, and how.
struct Place {
    /// What git is told first.
    git: Vec<String>,
    remote: String,
    /// What brings the wanted reference.
    named: Option<String>,
    /// What brings the commit itself.
    commit: String,
}

impl Place {
    /// Brings the commit, without its history if the server can do that.
    fn fetch(&self, program: &Program<'_>, resolved: &Resolved) -> Result<(), GitError> {
        // A reference may have moved since, which the server is asked about no second time.
        for refspec in self.named.iter().chain([&self.commit]) {
            match self.fetch_one(program, refspec) {
                Ok(()) if self.has(program, &resolved.commit) => return Ok(()),
                Ok(()) | Err(GitError::Failed(_)) => {}
                Err(error) => return Err(error),
            }
        }
        // Not every server gives what no reference names: all of them, with their history.
        let all = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
        let mut args = vec!["fetch", "--quiet", "--no-tags", "--prune"];
        if program.run(self.args(["rev-parse", "--is-shallow-repository"]))?.trim() == "true" {
            args.push("--unshallow");
        }
        args.extend(["--", &self.remote]);
        program.run(self.args(args.into_iter().chain(all)))?;
        if self.has(program, &resolved.commit) {
            return Ok(());
        }
        Err(GitError::NoReference(format!("commit {}", resolved.commit)))
    }

    fn fetch_one(&self, program: &Program<'_>, refspec: &str) -> Result<(), GitError> {
        let args = ["fetch", "--quiet", "--no-tags", "--depth=1", "--update-head-ok", "--"];
        program.run(self.args(args.into_iter().chain([&*self.remote, refspec]))).map(drop)
    }

    fn has(&self, program: &Program<'_>, commit: &str) -> bool {
        let object = format!("{commit}^{{commit}}");
        program.run(self.args(["cat-file", "-e", &object])).is_ok()
    }

    fn args<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        self.git.iter().cloned().chain(args.into_iter().map(str::to_owned)).collect()
    }
}

/// One repository on its way into a work tree.
struct Repository<'a> {
    program: &'a Program<'a>,
    source: &'a GitSource,
    tree: PathBuf,
}

impl Repository<'_> {
    /// Asks the server for the commit.
    fn resolve(&self) -> Result<Resolved, GitError> {
        let wanted = self.source.reference.as_deref();
        let mut args = vec!["ls-remote".to_owned(), "--symref".to_owned(), "--".to_owned()];
        args.push(account::without_account(&self.source.remote));
        args.extend(refs::patterns(wanted));
        let list = self.program.run(args)?;
        resolve(&list, wanted).ok_or_else(|| {
            let what = wanted.map_or_else(|| "HEAD".to_owned(), |name| format!("`{name}`"));
            GitError::NoReference(what)
        })
    }

    fn check(&self, resolved: &Resolved) -> Result<(), GitError> {
        let Some(wanted) = &self.source.checksum else { return Ok(()) };
        let mut names = std::iter::once(&resolved.commit).chain(&resolved.tag);
        if names.any(|name| name.starts_with(wanted)) {
            return Ok(());
        }
        Err(GitError::Checksum { wanted: wanted.clone(), found: resolved.commit.clone() })
    }

    /// Brings the commit into a new repository: by what was fetched before, and what is missing, or
    /// all by itself.
    fn bring(&self, resolved: &Resolved, mirror: Option<&Mirror>) -> Result<(), SourceError> {
        let format = object_format(resolved);
        self.program.run(["init", "--quiet", "--template=", &format])?;
        let remote = account::without_account(&self.source.remote);
        self.program.run(["config", "remote.origin.url", &remote])?;
        let Some(mirror) = mirror else {
            let commit = &resolved.commit;
            let name = resolved.reference.as_deref();
            let named = name.map(|name| format!("+{name}:{name}"));
            let place = Place { git: Vec::new(), remote, named, commit: commit.clone() };
            return Ok(place.fetch(self.program, resolved)?);
        };
        let was_there = mirror.is_there();
        match self.fill(mirror, resolved) {
            // A git that was killed leaves locks behind.
            Err(SourceError::Git(GitError::Failed(_) | GitError::NoReference(_))) if was_there => {
                mirror.clear()?;
                self.fill(mirror, resolved)?;
            }
            result => result?,
        }
        mirror.lend(&self.tree.join(".git"))
    }

    /// Brings the commit into a repository that stays.
    fn fill(&self, mirror: &Mirror, resolved: &Resolved) -> Result<(), SourceError> {
        let directory = mirror.directory().display().to_string();
        if !mirror.is_there() {
            mirror.clear()?;
            let format = object_format(resolved);
            let init = ["init", "--quiet", "--bare", "--template=", &format, "--", &directory];
            self.program.run(init)?;
        }
        // The names of a remote can take each other's places, those of commits cannot.
        let own = format!("refs/davit/{}", resolved.commit);
        let name = resolved.reference.as_deref();
        let place = Place {
            git: vec![format!("--git-dir={directory}")],
            remote: account::without_account(&self.source.remote),
            named: name.map(|name| format!("+{name}:{own}")),
            commit: format!("+{}:{own}", resolved.commit),
        };
        if place.has(self.program, &resolved.commit) {
            return Ok(());
        }
        Ok(place.fetch(self.program, resolved)?)
    }

    fn check_out(&self, commit: &str) -> Result<(), GitError> {
        self.program.run(["checkout", "--quiet", "--force", "--detach", commit])?;
        if self.source.submodules && self.tree.join(".gitmodules").symlink_metadata().is_ok() {
            self.check_out_submodules()?;
        }
        Ok(())
    }

    fn check_out_submodules(&self) -> Result<(), GitError> {
        let update = ["submodule", "--quiet", "update", "--init", "--recursive"];
        match self.program.run(update.into_iter().chain(["--depth=1"])) {
            // Not every server leaves history out.
            Err(GitError::Failed(_)) => self.program.run(update).map(drop),
            result => result.map(drop),
        }
    }

    fn commit_time(&self, commit: &str) -> Result<i64, GitError> {
        let text = self.program.run(["show", "-s", "--format=%ct", commit])?;
        let time = text.trim().parse();
        time.map_err(|_| GitError::Failed(format!("`{}` is no time of a commit", text.trim())))
    }

    fn keeps_git(&self) -> GitDirectory {
        if self.source.keep_git_dir == Some(true) && self.source.directory.is_none() {
            GitDirectory::Keep
        } else {
            GitDirectory::Drop
        }
    }

    /// Removes from `.git` what is not of the commit: accounts, and what this fetch left.
    fn clean_git_directory(&self) -> Result<(), SourceError> {
        let public = davit_build::public_address(&self.source.remote);
        self.program.run(["config", "remote.origin.url", &public])?;
        kept::clean(self.program, &self.tree.join(".git"))
    }

    /// The directory whose content is wanted; symlinks lead nowhere outside of the work tree.
    fn directory(&self) -> Result<PathBuf, SourceError> {
        let Some(wanted) = &self.source.directory else { return Ok(self.tree.clone()) };
        let missing = || GitError::NoDirectory(wanted.clone());
        let root = fs_err::canonicalize(&self.tree).map_err(SourceError::Keep)?;
        let found = fs_err::canonicalize(root.join(wanted)).map_err(|_| missing())?;
        let within = found.strip_prefix(&root).map_err(|_| missing())?;
        if within.starts_with(".git") || !found.is_dir() {
            return Err(missing().into());
        }
        Ok(found)
    }
}
