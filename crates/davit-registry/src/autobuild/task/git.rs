//! Checkouts by the host's git, of repositories that nobody vouches for.
//!
//! No configuration but ours is read, no hook, filter or helper of a repository runs. Where the address
//! of a host is one of a private network, and the source may not go there, nothing is fetched; git is
//! then told the address that was looked at, so that the name cannot change its mind. Redirects are not
//! followed. Files of LFS stay the pointers that they are in the repository.

use std::{
    io::{self, Read as _},
    net::{IpAddr, ToSocketAddrs as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use davit_distribution::Secret;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::{
    super::hook::is_commit,
    files::{private, quoted, size},
};
use crate::webhooks::is_public;

/// Bytes that a checkout may take, `.git` included.
const CHECKOUT_BYTES: u64 = 4 << 30;
/// Largest answer of git that is read.
const ANSWER_BYTES: u64 = 8 << 20;
/// Of what git says of a failure, the end.
const MESSAGE_BYTES: usize = 2000;
/// References of a repository that are looked at.
const REFERENCES: usize = 20_000;
/// Submodules of a repository.
const SUBMODULES: usize = 50;
/// Submodules within submodules.
const DEPTH: u32 = 3;
/// How far back a commit is looked for that a reference names no more.
const BACK: &str = "--depth=200";
/// How often git's end is looked for, and how often its files are measured.
const LOOK: Duration = Duration::from_millis(10);
const MEASURE: Duration = Duration::from_millis(500);

/// Settings of every run.
const FIXED: [(&str, &str); 16] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.autocrlf", "false"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("credential.helper", ""),
    ("init.defaultBranch", "main"),
    ("advice.detachedHead", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("submodule.recurse", "false"),
    ("safe.directory", "*"),
    // What stands between the host that was looked at and another one.
    ("http.followRedirects", "false"),
    // A server that sends next to nothing for a minute is given up.
    ("http.lowSpeedLimit", "100"),
    ("http.lowSpeedTime", "60"),
];

/// Where a git repository is, and what gives access to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::autobuild) struct GitAccess {
    pub(in crate::autobuild) url: String,
    /// Password over HTTP.
    pub(in crate::autobuild) token: Option<Secret>,
    /// Private key for ssh.
    pub(in crate::autobuild) key: Option<Secret>,
    /// Whether hosts of private networks may be asked.
    pub(in crate::autobuild) allow_private: bool,
    /// Whether HTTP goes through a proxy, which then decides what may be asked.
    pub(in crate::autobuild) has_proxy: bool,
    /// Keys of hosts, as ssh met them first.
    pub(in crate::autobuild) known_hosts: PathBuf,
}

/// What the branches and tags of a repository name.
pub(in crate::autobuild) type References = Vec<(String, String)>;

/// Why there is no checkout.
#[derive(Debug, thiserror::Error)]
pub(super) enum GitError {
    /// git cannot be run.
    #[error("git cannot be run: {0}")]
    Run(#[from] io::Error),
    /// git failed.
    #[error("git says: {0}")]
    Failed(String),
    /// The host may not be asked.
    #[error(
        "{0} is at {1}, an address of a private network or of this machine: workers ask there only with \
         --build-from-private"
    )]
    Private(String, IpAddr),
    /// The name has no address.
    #[error("the host {0} is not found")]
    Unknown(String),
    /// It is too large.
    #[error("the checkout takes more than {} MiB", CHECKOUT_BYTES >> 20)]
    TooLarge,
    /// The commit is not there.
    #[error("{0} does not lead to commit {1} any more")]
    NoCommit(String, String),
    /// Submodules are too many, or not at addresses that can be asked.
    #[error("the submodules cannot be fetched: {0}")]
    Submodules(String),
}

/// Asks a repository for its references.
pub(super) fn references(access: &GitAccess, directory: &Path) -> Result<References, String> {
    let list = || {
        let git = Git::open(access, directory)?;
        let remote = git.remote.clone();
        git.run(directory, &["ls-remote", "--heads", "--tags", "--", &remote])
    };
    let list = list().map_err(|error| error.to_string())?;
    let mut found: References = Vec::new();
    for line in String::from_utf8_lossy(&list).lines().take(REFERENCES) {
        let Some((commit, name)) = line.split_once('\t') else { continue };
        match name.strip_suffix("^{}") {
            // The commit of the annotated tag before it.
            Some(tag) => match found.last_mut() {
                Some(last) if last.0 == tag => commit.clone_into(&mut last.1),
                _ => {}
            },
            None => found.push((name.to_owned(), commit.to_owned())),
        }
    }
    Ok(found)
}

/// How git is run for one repository.
pub(super) struct Git {
    /// What git is told for the repository: its host by address, where it has no other way.
    remote: String,
    url: Url,
    directory: PathBuf,
    settings: Vec<(String, String)>,
    ssh: Option<String>,
    access: GitAccess,
}

impl Git {
    /// Looks at the host, and prepares what gives access.
    pub(super) fn open(access: &GitAccess, directory: &Path) -> Result<Self, GitError> {
        let unknown = || GitError::Unknown(access.url.clone());
        let url = Url::parse(&access.url).map_err(|_| unknown())?;
        let mut git = Self {
            remote: access.url.clone(),
            url: url.clone(),
            directory: directory.to_owned(),
            settings: Vec::new(),
            ssh: None,
            access: access.clone(),
        };
        let address = git.permit(&url)?;
        match (url.scheme(), address) {
            ("git", Some(address)) => {
                let mut pinned = url.clone();
                pinned.set_ip_host(address).map_err(|()| unknown())?;
                git.remote = pinned.to_string();
            }
            ("ssh", address) => git.ssh = Some(git.ssh_command(&url, address)?),
            _ => {}
        }
        if let Some(token) = access.token.as_ref().filter(|_| url.scheme().starts_with("http")) {
            let header = BASE64.encode(format!("x-access-token:{}", token.expose()));
            let scope = &url[..url::Position::BeforePath];
            let value = format!("Authorization: Basic {header}");
            git.settings.push((format!("http.{scope}/.extraHeader"), value));
        }
        Ok(git)
    }

    /// Refuses a host that may not be asked; of others the address, by which git then finds it.
    fn permit(&mut self, url: &Url) -> Result<Option<IpAddr>, GitError> {
        let is_http = url.scheme().starts_with("http");
        if is_http && self.access.has_proxy {
            return Ok(None);
        }
        let name = url.host_str().unwrap_or_default().to_owned();
        let default = match url.scheme() {
            "git" => 9418,
            "ssh" => 22,
            _ => 443,
        };
        let port = url.port_or_known_default().unwrap_or(default);
        // Hosts of schemes that are not the web's are texts, whatever they look like.
        let address = name.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        let addresses: Vec<IpAddr> = match (url.host(), address) {
            (Some(Host::Ipv4(address)), _) => vec![address.into()],
            (Some(Host::Ipv6(address)), _) => vec![address.into()],
            (_, Some(address)) => vec![address],
            _ => {
                let found = (name.as_str(), port).to_socket_addrs();
                let found = found.map_err(|_| GitError::Unknown(name.clone()))?;
                found.map(|address| address.ip()).collect()
            }
        };
        let may = |address: &&IpAddr| self.access.allow_private || is_public(**address);
        let Some(address) = addresses.iter().find(may).copied() else {
            let first = addresses.first().ok_or_else(|| GitError::Unknown(name.clone()))?;
            return Err(GitError::Private(name, *first));
        };
        if is_http {
            let shown = match address {
                IpAddr::V4(address) => address.to_string(),
                IpAddr::V6(address) => format!("[{address}]"),
            };
            self.settings
                .push(("http.curloptResolve".to_owned(), format!("{name}:{port}:{shown}")));
        }
        Ok(Some(address))
    }

    fn ssh_command(&self, url: &Url, address: Option<IpAddr>) -> io::Result<String> {
        let mut words = vec!["ssh -F /dev/null -o BatchMode=yes -o CheckHostIP=no".to_owned()];
        words.push("-o StrictHostKeyChecking=accept-new -o ConnectTimeout=30".to_owned());
        let known = self.access.known_hosts.display().to_string();
        words.push(format!("-o UserKnownHostsFile={}", quoted(&known)));
        if let Some(address) = address {
            let host = url.host_str().unwrap_or_default();
            let host: String =
                host.chars().filter(|c| c.is_ascii_alphanumeric() || ".-".contains(*c)).collect();
            words.push(format!("-o HostName={address} -o HostKeyAlias={host}"));
        }
        match &self.access.key {
            Some(key) => {
                let file = self.directory.join("key");
                private(&file, format!("{}\n", key.expose().trim_end()).as_bytes())?;
                let file = quoted(&file.display().to_string());
                words.push(format!("-o IdentitiesOnly=yes -i {file}"));
            }
            None => words.push("-o IdentityAgent=none -o PubkeyAuthentication=no".to_owned()),
        }
        Ok(words.join(" "))
    }

    /// Makes a checkout of the commit, or of what the reference names; tells the commit.
    pub(super) fn check_out(
        &self,
        tree: &Path,
        reference: &str,
        commit: Option<&str>,
    ) -> Result<String, GitError> {
        fs_err::create_dir_all(tree)?;
        let format = match commit {
            Some(commit) if commit.len() == 64 => "--object-format=sha256",
            _ => "--object-format=sha1",
        };
        self.run(tree, &["init", "--quiet", format])?;
        // Addresses of submodules may be relative to it.
        self.run(tree, &["config", "remote.origin.url", &self.access.url])?;
        let commit = self.fetch(tree, reference, commit)?;
        self.run(tree, &["checkout", "--quiet", "--force", "--detach", &commit])?;
        self.submodules(tree, 0)?;
        Ok(commit)
    }

    fn fetch(
        &self,
        tree: &Path,
        reference: &str,
        commit: Option<&str>,
    ) -> Result<String, GitError> {
        let fetch = |depth: &str, what: &str| {
            let args = ["fetch", "--quiet", "--no-tags", depth, "--", &self.remote, what];
            self.run(tree, &args)
        };
        let Some(commit) = commit else {
            fetch("--depth=1", reference)?;
            let found = self.run(tree, &["rev-parse", "--verify", "FETCH_HEAD^{commit}"])?;
            return Ok(String::from_utf8_lossy(&found).trim().to_owned());
        };
        // Not every server gives what no reference names.
        match fetch("--depth=1", commit) {
            Err(GitError::Failed(_)) => {}
            other => return other.map(|_| commit.to_owned()),
        }
        for depth in ["--depth=1", BACK] {
            fetch(depth, reference)?;
            let object = format!("{commit}^{{commit}}");
            if self.run(tree, &["cat-file", "-e", &object]).is_ok() {
                return Ok(commit.to_owned());
            }
        }
        Err(GitError::NoCommit(reference.to_owned(), commit.to_owned()))
    }

    /// First line of the message of what is checked out.
    pub(super) fn message(&self, tree: &Path) -> Result<String, GitError> {
        let text = self.run(tree, &["log", "-1", "--format=%s"])?;
        let text = String::from_utf8_lossy(&text);
        Ok(text.trim().chars().filter(|c| !c.is_control()).take(200).collect())
    }

    /// Paths that differ between a commit and what is checked out; `None` if the commit is gone.
    pub(super) fn changed(
        &self,
        tree: &Path,
        since: &str,
    ) -> Result<Option<Vec<String>>, GitError> {
        if !is_commit(since) {
            return Ok(None);
        }
        let args = ["fetch", "--quiet", "--no-tags", "--depth=1", "--", &self.remote, since];
        match self.run(tree, &args) {
            Err(GitError::Failed(_)) => return Ok(None),
            other => drop(other?),
        }
        let args = ["diff", "--name-only", "--no-renames", "-z", since, "HEAD"];
        let names = self.run(tree, &args)?;
        let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(Some(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()))
    }

    fn submodules(&self, tree: &Path, depth: u32) -> Result<(), GitError> {
        // A link could lead to a file of the host, whose lines a message would show.
        let is_file = |path: PathBuf| path.symlink_metadata().is_ok_and(|facts| facts.is_file());
        if !is_file(tree.join(".gitmodules")) {
            return Ok(());
        }
        let refused = |why: String| Err(GitError::Submodules(why));
        if depth == DEPTH {
            return refused(format!("they lie more than {DEPTH} deep"));
        }
        let args = ["config", "--file", ".gitmodules", "-z", "--get-regexp"];
        let read = |key: &str| {
            let pattern = format!(r"^submodule\..*\.{key}$");
            let list = self.run(tree, &[&args[..], &[&pattern]].concat()).unwrap_or_default();
            let list = String::from_utf8_lossy(&list).into_owned();
            let values =
                list.split('\0').filter_map(|pair| Some(pair.split_once('\n')?.1.to_owned()));
            values.collect::<Vec<String>>()
        };
        let (urls, paths) = (read("url"), read("path"));
        if paths.len() > SUBMODULES {
            return refused(format!("there are more than {SUBMODULES}"));
        }
        let mut git = Self {
            remote: self.remote.clone(),
            url: self.url.clone(),
            directory: self.directory.clone(),
            settings: self.settings.clone(),
            ssh: self.ssh.clone(),
            access: self.access.clone(),
        };
        for url in urls.iter().filter(|url| !url.starts_with("./") && !url.starts_with("../")) {
            let Ok(parsed) = Url::parse(url) else { return refused(format!("`{url}` is no URL")) };
            // ssh would be sent to another host than the one that was looked at.
            let is_reachable = match parsed.scheme() {
                "http" | "https" | "git" => true,
                "ssh" => parsed.host_str() == self.url.host_str(),
                _ => false,
            };
            if !is_reachable {
                return refused(format!("`{url}` cannot be asked"));
            }
            git.permit(&parsed)?;
        }
        for path in &paths {
            let args = ["submodule", "--quiet", "update", "--init", "--depth=1", "--", path];
            git.run(tree, &args)?;
            let inner = tree.join(path);
            if inner.symlink_metadata().is_ok_and(|facts| facts.is_dir()) {
                git.submodules(&inner, depth + 1)?;
            }
        }
        Ok(())
    }

    fn run(&self, tree: &Path, args: &[&str]) -> Result<Vec<u8>, GitError> {
        let told = self.directory.join("git.err");
        let mut command = Command::new("git");
        command.current_dir(tree).args(args);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs_err::File::create(&told)?.into_parts().0);
        for (name, value) in [
            ("LC_ALL", "C"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_SYSTEM", "/dev/null"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ALLOW_PROTOCOL", "http:https:git:ssh"),
            ("GIT_PROTOCOL_FROM_USER", "0"),
            ("GIT_LFS_SKIP_SMUDGE", "1"),
            ("GIT_SSH_COMMAND", self.ssh.as_deref().unwrap_or("false")),
        ] {
            command.env(name, value);
        }
        let fixed = FIXED.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let settings: Vec<_> = fixed.chain(self.settings.iter().cloned()).collect();
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (number, (name, value)) in settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), name);
            command.env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        let mut child = command.spawn()?;
        let mut stdout =
            child.stdout.take().ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))?;
        let reader = thread::spawn(move || {
            let mut answer = Vec::new();
            let read = stdout.by_ref().take(ANSWER_BYTES).read_to_end(&mut answer);
            read.and_then(|_| io::copy(&mut stdout, &mut io::sink())).map(|_| answer)
        });
        let is_success = self.wait(&mut child)?;
        let answer = reader.join().map_err(|_| io::Error::other("a reader panicked"))??;
        if is_success {
            return Ok(answer);
        }
        let mut message = Vec::new();
        fs_err::File::open(&told)?.take(1 << 20).read_to_end(&mut message)?;
        let message =
            String::from_utf8_lossy(&message[message.len().saturating_sub(MESSAGE_BYTES)..])
                .lines()
                .map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>())
                .collect::<Vec<_>>()
                .join("; ");
        Err(GitError::Failed(message))
    }

    fn wait(&self, child: &mut Child) -> Result<bool, GitError> {
        let mut measured = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status.success());
            }
            if measured.elapsed() > MEASURE {
                if size(&self.directory) > CHECKOUT_BYTES {
                    child.kill()?;
                    child.wait()?;
                    return Err(GitError::TooLarge);
                }
                measured = Instant::now();
            }
            thread::sleep(LOOK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(url: &str, allow_private: bool) -> Result<Git, GitError> {
        let access = GitAccess {
            url: url.to_owned(),
            token: Some(Secret::new("secret")),
            key: None,
            allow_private,
            has_proxy: false,
            known_hosts: "/nowhere".into(),
        };
        Git::open(&access, Path::new("/nowhere"))
    }

    #[test]
    fn hosts_of_private_networks_need_leave() {
        for url in [
            "http://127.0.0.1/a",
            "http://0x7f.1/a",
            "http://[::1]:8080/a",
            "http://[::ffff:10.0.0.1]/a",
            "https://169.254.169.254/latest",
            "https://localhost/a",
            "git://127.0.0.1/a",
            "git://[::1]/a",
            "ssh://git@10.1.2.3/a",
            "ssh://git@localhost:2222/a",
        ] {
            let refused = open(url, false).err();
            assert!(matches!(refused, Some(GitError::Private(..))), "{url}: {refused:?}");
            assert!(open(url, true).is_ok(), "{url}");
        }
        assert!(open("https://1.1.1.1/a", false).is_ok());
    }

    #[test]
    fn git_goes_to_the_address_that_was_looked_at() {
        let git = open("https://localhost/a", true).unwrap();
        let has = |git: &Git, name: &str, value: &str| {
            git.settings.iter().any(|(key, found)| key == name && found.starts_with(value))
        };
        assert!(has(&git, "http.curloptResolve", "localhost:443:"));
        assert!(has(&git, "http.https://localhost/.extraHeader", "Authorization: Basic "));
        assert_eq!(git.remote, "https://localhost/a");
        let git = open("git://localhost:9419/a", true).unwrap();
        assert!(git.remote.starts_with("git://127.0.0.1:9419/") || git.remote.contains("[::1]"));
        assert!(!has(&git, "http.", ""), "the token goes over HTTP alone");
        let git = open("ssh://git@localhost/a", true).unwrap();
        let ssh = git.ssh.unwrap();
        assert!(ssh.contains("HostKeyAlias=localhost") && ssh.contains("-o HostName="), "{ssh}");
    }
}
