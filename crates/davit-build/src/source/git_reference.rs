//! Git repositories as sources: `URL#REFERENCE:DIRECTORY`, and keys in the URL's query.
//!
//! | form | is git |
//! |---|---|
//! | `http://`, `https://` | if the path ends in `.git` |
//! | `git://`, `ssh://` | yes |
//! | `user@host:path` | yes (ssh) |
//! | `github.com/…` | yes, but only where no local path can be meant |
//!
//! Everything that is given to git later is checked here: no part can be taken for an option, and
//! no protocol but these four is ever named.

use super::address::{Parts, decoded};

/// Most characters of a commit's name: SHA-256.
const LONGEST_COMMIT: usize = 64;
/// Names a repository of GitHub without a scheme.
const GITHUB: &str = "github.com/";

/// A checkout of a git repository: a layer with its files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GitSource {
    /// Where the repository is, in git's words.
    pub remote: String,
    /// Branch, tag, full name of a reference or commit; `None` = what the repository's HEAD names.
    pub reference: Option<String>,
    /// What the commit's name must begin with.
    pub checksum: Option<String>,
    /// The directory whose content is the source, cleaned; `None` = the whole.
    pub directory: Option<String>,
    /// Whether `.git` is kept; `None` where the address does not say it.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are checked out, too.
    pub submodules: bool,
    /// Times of the files.
    pub mtime: GitMtime,
    /// Whether the commit of `checksum` is fetched, wherever the reference points now.
    pub by_commit: bool,
}

/// Times of the files of a checkout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum GitMtime {
    /// When it was checked out.
    #[default]
    Checkout,
    /// When the commit was made.
    Commit,
}

/// Why an address names no git repository, although it has the form of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GitReferenceError {
    /// A key of the query is unknown.
    #[error(
        "`{0}` is no key of a git source: these are ref, tag, branch, subdir, checksum, commit, \
         keep-git-dir, submodules, mtime, fetch-by-commit"
    )]
    Key(String),
    /// A key has a value that it cannot have.
    #[error("`{key}` cannot be `{value}`")]
    Value {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
    },
    /// Two parts of the address say different things.
    #[error("`{key}` is given as `{first}` and as `{second}`")]
    Conflict {
        /// The key.
        key: &'static str,
        /// One value.
        first: String,
        /// The other one.
        second: String,
    },
    /// A key has several values.
    #[error("`{0}` is given twice")]
    Twice(&'static str),
    /// The reference cannot be the name of one.
    #[error("`{0}` can be no branch, tag or commit")]
    Reference(String),
    /// The host cannot be one.
    #[error("`{0}` can be no host")]
    Host(String),
    /// A commit that is to be fetched is not named in full.
    #[error("fetch-by-commit needs the full commit as `checksum`")]
    NoCommit,
}

impl GitSource {
    /// Reads an address; `None` for what names no git repository.
    #[must_use]
    pub fn parse(text: &str) -> Option<Result<Self, GitReferenceError>> {
        if let Some(parts) = Parts::split(text) {
            let is_git = match parts.scheme {
                "http" | "https" => parts.path.ends_with(".git"),
                "git" | "ssh" => true,
                _ => false,
            };
            return is_git.then(|| from_url(&parts));
        }
        from_scp(text)
    }

    /// Reads the address of a context, which may be on GitHub without a scheme.
    #[must_use]
    pub fn parse_context(text: &str) -> Option<Result<Self, GitReferenceError>> {
        if !text.starts_with(GITHUB) {
            return Self::parse(text);
        }
        let url = format!("https://{text}");
        Parts::split(&url).map(|parts| from_url(&parts))
    }

    /// The same with a checksum of its own; one in the address must be equal.
    ///
    /// # Errors
    /// [`GitReferenceError::Value`] or [`GitReferenceError::Conflict`].
    pub fn with_checksum(mut self, text: &str) -> Result<Self, GitReferenceError> {
        agree(&mut self.checksum, "checksum", checked_checksum("checksum", text.to_owned())?)?;
        Ok(self)
    }

    /// Whether ssh brings it.
    #[must_use]
    pub fn is_over_ssh(&self) -> bool {
        !self.remote.contains("://") || self.remote.starts_with("ssh:")
    }

    /// The commit, where its full name is given: it needs no look at the server.
    #[must_use]
    pub fn commit(&self) -> Option<&str> {
        let named = if self.by_commit { &self.checksum } else { &self.reference };
        named.as_deref().filter(|name| is_commit(name))
    }
}

/// Whether this is the full name of a commit, by SHA-1 or SHA-256.
fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | LONGEST_COMMIT) && is_hex(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn from_url(parts: &Parts<'_>) -> Result<GitSource, GitReferenceError> {
    let Parts { scheme, account, host, path, .. } = parts;
    check_host(account, host)?;
    let at = if account.is_empty() { "" } else { "@" };
    let remote = format!("{scheme}://{account}{at}{host}{path}");
    source(remote, &decoded(parts.fragment), parts.query)
}

/// `user@host:path`, with query and fragment as in a URL.
fn from_scp(text: &str) -> Option<Result<GitSource, GitReferenceError>> {
    let (user, rest) = text.split_once('@')?;
    let (host, rest) = rest.split_once(':')?;
    let word = |text: &str, more: &str| {
        let good = |it: char| it.is_ascii_alphanumeric() || more.contains(it);
        !text.is_empty() && text.chars().all(good)
    };
    let is_ssh = word(user, "-_") && word(host, "-.") && !rest.is_empty();
    if !is_ssh || text.chars().any(|it| it.is_control() || it.is_whitespace()) {
        return None;
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let remote = format!("{user}@{host}:{path}");
    Some(check_host(user, host).and_then(|()| source(remote, fragment, query)))
}

/// Programs that git starts take what begins with `-` for an option.
fn check_host(account: &str, host: &str) -> Result<(), GitReferenceError> {
    match [account, host].iter().find(|part| part.starts_with('-')) {
        Some(part) => Err(GitReferenceError::Host((*part).to_owned())),
        None => Ok(()),
    }
}

fn source(remote: String, fragment: &str, query: &str) -> Result<GitSource, GitReferenceError> {
    let (reference, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let mut keys = Keys {
        reference: given(reference),
        directory: given(&cleaned(directory)),
        submodules: true,
        ..Keys::default()
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        keys.set(&plain(key), plain(value))?;
    }
    keys.finish(remote)
}

/// A part of a query, decoded.
fn plain(text: &str) -> String {
    decoded(&text.replace('+', " "))
}

/// What fragment and query say.
#[derive(Default)]
struct Keys {
    reference: Option<String>,
    tag: Option<String>,
    branch: Option<String>,
    directory: Option<String>,
    checksum: Option<String>,
    keep_git_dir: Option<bool>,
    submodules: bool,
    mtime: GitMtime,
    by_commit: bool,
    seen: Vec<String>,
}

impl Keys {
    fn set(&mut self, key: &str, value: String) -> Result<(), GitReferenceError> {
        // A second value would decide or be ignored in silence.
        if self.seen.iter().any(|seen| seen == key) {
            return Err(GitReferenceError::Twice(known(key)?));
        }
        self.seen.push(key.to_owned());
        let key = known(key)?;
        let is_switch = matches!(key, "keep-git-dir" | "submodules" | "fetch-by-commit");
        if value.is_empty() && !is_switch {
            return Err(GitReferenceError::Value { key, value });
        }
        match key {
            "ref" => agree(&mut self.reference, key, value)?,
            "tag" => self.tag = Some(below("refs/tags/", &value)),
            "branch" => self.branch = Some(below("refs/heads/", &value)),
            "subdir" => agree(&mut self.directory, key, cleaned(&value))?,
            "checksum" | "commit" => {
                agree(&mut self.checksum, "checksum", checked_checksum(key, value)?)?;
            }
            "keep-git-dir" => self.keep_git_dir = Some(switch(key, value)?),
            "submodules" => self.submodules = switch(key, value)?,
            "fetch-by-commit" => self.by_commit = switch(key, value)?,
            _ => {
                self.mtime = match value.as_str() {
                    "checkout" => GitMtime::Checkout,
                    "commit" => GitMtime::Commit,
                    _ => return Err(GitReferenceError::Value { key, value }),
                };
            }
        }
        Ok(())
    }

    fn finish(self, remote: String) -> Result<GitSource, GitReferenceError> {
        let mut reference = self.reference;
        for (key, other) in [("tag", self.tag), ("branch", self.branch)] {
            if let Some(other) = other {
                agree(&mut reference, key, other)?;
            }
        }
        let checksum = self.checksum;
        // A part of a commit's name is looked up nowhere: it is compared with what HEAD names.
        let whole = checksum.as_ref().filter(|name| is_commit(name));
        let reference = reference.or_else(|| whole.cloned());
        if let Some(name) = reference.as_ref().filter(|name| !is_reference(name)) {
            return Err(GitReferenceError::Reference(name.clone()));
        }
        if self.by_commit && !checksum.as_deref().is_some_and(is_commit) {
            return Err(GitReferenceError::NoCommit);
        }
        Ok(GitSource {
            remote,
            reference,
            checksum,
            directory: self.directory.filter(|path| !path.is_empty()),
            keep_git_dir: self.keep_git_dir,
            submodules: self.submodules,
            mtime: self.mtime,
            by_commit: self.by_commit,
        })
    }
}

/// Keys of a query.
fn known(key: &str) -> Result<&'static str, GitReferenceError> {
    const KEYS: [&str; 10] = [
        "ref",
        "tag",
        "branch",
        "subdir",
        "checksum",
        "commit",
        "keep-git-dir",
        "submodules",
        "mtime",
        "fetch-by-commit",
    ];
    let found = KEYS.into_iter().find(|known| *known == key);
    found.ok_or_else(|| GitReferenceError::Key(key.chars().filter(|it| !it.is_control()).collect()))
}

/// The begin of a commit's name.
fn checked_checksum(key: &'static str, value: String) -> Result<String, GitReferenceError> {
    let is_good = !value.is_empty() && value.len() <= LONGEST_COMMIT && is_hex(&value);
    if is_good { Ok(value) } else { Err(GitReferenceError::Value { key, value }) }
}

/// A directory without `.`, `..` and slashes that mean nothing.
fn cleaned(path: &str) -> String {
    let path = crate::files::clean(path.as_bytes());
    String::from_utf8(path).expect("whole components of a text are text")
}

/// Sets what is not set; what is set must be the same.
fn agree(
    slot: &mut Option<String>,
    key: &'static str,
    value: String,
) -> Result<(), GitReferenceError> {
    match slot.replace(value.clone()) {
        Some(first) if first != value => {
            Err(GitReferenceError::Conflict { key, first, second: value })
        }
        _ => Ok(()),
    }
}

fn below(prefix: &str, name: &str) -> String {
    if name.starts_with(prefix) { name.to_owned() } else { format!("{prefix}{name}") }
}

/// A switch, as Go's programs read one; named alone it is on.
fn switch(key: &'static str, value: String) -> Result<bool, GitReferenceError> {
    match value.as_str() {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(GitReferenceError::Value { key, value }),
    }
}

/// Whether git could take this for a reference (gitrevisions(7), git-check-ref-format(1)), and for
/// nothing else: no option, no pattern, no range.
fn is_reference(name: &str) -> bool {
    let bad =
        |it: char| it.is_control() || matches!(it, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\');
    !name.is_empty()
        && name.len() <= 4096
        && !name.starts_with(['-', '/', '+'])
        && !name.ends_with(['/', '.'])
        && !["..", "@{", "//"].iter().any(|part| name.contains(part))
        && !name.contains(bad)
}

#[cfg(test)]
mod tests;
