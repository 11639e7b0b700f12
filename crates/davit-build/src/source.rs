//! Sources that lie elsewhere: files of web servers and git repositories.
//!
//! A [`RemoteSource`] is plain data, made of text that the Dockerfile or the command line holds.
//! Whoever implements [`Sources`] makes it one layer of the store; for the plan it is a state like
//! any other from then on.

mod address;
mod git_reference;

use std::{error::Error, fmt};

use davit_image::{DiffId, Digest};

pub(crate) use self::address::without_accounts;
pub use self::{
    address::{account, host_name, public_address, without_secrets},
    git_reference::{GitMtime, GitReferenceError, GitSource},
};

/// Name of a file whose address has none.
const UNNAMED: &str = "__unnamed__";

/// Something that has to be fetched before it can be copied from.
///
/// It prints without accounts and queries, which may be secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RemoteSource {
    /// A file.
    Http(HttpSource),
    /// A checkout.
    Git(GitSource),
}

/// A file of a web server: a layer with this one file in its root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HttpSource {
    /// Address, as it was written.
    pub url: String,
    /// Name that the file gets.
    pub file_name: String,
    /// What its content must have.
    pub checksum: Option<Digest>,
}

/// A source that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedSource {
    /// The layer, kept by the build's lease.
    pub layer: DiffId,
    /// What tells its content from any other.
    pub identity: SourceIdentity,
    /// When the commit was made, or when the file changed last, in seconds since 1970.
    pub time: Option<i64>,
}

/// What tells the content of a source from any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceIdentity {
    /// Digest of a file.
    Content(Digest),
    /// Name of a commit.
    Commit(String),
}

/// Fetches sources; the engine asks web servers and git, and remembers what they gave.
///
/// One call may come from several threads at a time.
pub trait Sources: Sync {
    /// Makes a source present as a layer for as long as the build's lease lives. One that did not
    /// change since it was fetched last gives the same layer.
    ///
    /// # Errors
    /// What the server says, or that the content is not what its checksum wants.
    fn fetch(&self, source: &RemoteSource) -> Result<FetchedSource, Box<dyn Error + Send + Sync>>;
}

impl HttpSource {
    /// The file at an address; `None` for what is no HTTP address.
    #[must_use]
    pub fn parse(url: &str) -> Option<Self> {
        let parts = address::Parts::split(url)?;
        let is_http = matches!(parts.scheme, "http" | "https");
        let file_name = file_name(parts.path);
        is_http.then(|| Self { url: url.to_owned(), file_name, checksum: None })
    }

    /// The same under another name.
    #[must_use]
    pub fn named(self, file_name: &str) -> Self {
        Self { file_name: file_name.to_owned(), ..self }
    }
}

impl fmt::Display for RemoteSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(source) => f.write_str(&public_address(&source.url)),
            Self::Git(source) => {
                f.write_str(&public_address(&source.remote))?;
                let (reference, directory) = (&source.reference, &source.directory);
                if reference.is_some() || directory.is_some() {
                    write!(f, "#{}", reference.as_deref().unwrap_or_default())?;
                }
                directory.as_ref().map_or(Ok(()), |directory| write!(f, ":{directory}"))
            }
        }
    }
}

/// Last component of a path, percent-decoded.
fn file_name(path: &str) -> String {
    let decoded = address::decoded(path);
    let name = decoded.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    match name {
        "" | "." | ".." => UNNAMED.to_owned(),
        name if name.contains('\0') => UNNAMED.to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_files_by_their_address() {
        for (url, name) in [
            ("http://h/a/b.tar.gz", "b.tar.gz"),
            ("https://h:1/a/?x=/y#z", "a"),
            ("http://h/a%20b", "a b"),
            ("http://h/x%2Fy", "y"),
            ("http://h", UNNAMED),
            ("http://h/", UNNAMED),
            ("http://h/a/..", UNNAMED),
            ("http://h/%2e%2e", UNNAMED),
            ("http://h/a%00b", UNNAMED),
            ("http://h/100%", "100%"),
            ("http://h/%ff", "%ff"),
        ] {
            assert_eq!(HttpSource::parse(url).unwrap().file_name, name, "{url}");
        }
        for other in ["ftp://h/f", "h/f", "/f", "http:/f", "http://", "http://h /f", "HTTP://h/f"] {
            assert_eq!(HttpSource::parse(other), None, "{other}");
        }
    }

    #[test]
    fn prints_no_secrets() {
        let http = HttpSource::parse("https://u:p@h:1/f?token=t#x").unwrap();
        assert_eq!(RemoteSource::Http(http).to_string(), "https://h:1/f");
        let git =
            |text: &str| RemoteSource::Git(GitSource::parse(text).unwrap().unwrap()).to_string();
        assert_eq!(git("https://u:p@h/r.git?ref=v1&subdir=d"), "https://h/r.git#v1:d");
        assert_eq!(git("https://h/r.git#:d"), "https://h/r.git#:d");
        assert_eq!(git("git@h:r"), "git@h:r");
    }
}
