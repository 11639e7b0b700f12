//! What can go wrong between a registry and its client.

use std::{fmt, path::PathBuf, time::Duration};

use davit_image::{Digest, DocumentError};

use crate::{CredentialError, SourceError, wire::ErrorEntry};

/// Why a registry operation failed. Texts name hosts and paths, never queries or credentials.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection could not be made, or broke.
    #[error("no usable connection for {url}")]
    Transport {
        /// What was asked for.
        url: String,
        /// Cause.
        #[source]
        source: ConnectionError,
    },
    /// The server answers too slowly.
    #[error("{url} brought {received} bytes in {} s and then was given up", waited.as_secs())]
    Stalled {
        /// What was asked for.
        url: String,
        /// Bytes of the body so far.
        received: u64,
        /// Time spent waiting.
        waited: Duration,
    },
    /// An answer that is neither success nor one of the following.
    #[error("{url} answered {status}{}", details(.errors))]
    Status {
        /// What was asked for.
        url: String,
        /// HTTP status.
        status: u16,
        /// What the server says about it.
        errors: Vec<ErrorEntry>,
        /// When to come again, where the server says so.
        retry_after: Option<Duration>,
    },
    /// 401 or 403, with or without credentials.
    #[error("{url} refused access {}{}", if *.with_credentials { "to the given account" } else { "without login" }, details(.errors))]
    Denied {
        /// What was asked for.
        url: String,
        /// Whether credentials were sent.
        with_credentials: bool,
        /// What the server says about it.
        errors: Vec<ErrorEntry>,
    },
    /// There is no such manifest, blob or repository.
    #[error("{url} does not exist{}", details(.errors))]
    NotFound {
        /// What was asked for.
        url: String,
        /// What the server says about it.
        errors: Vec<ErrorEntry>,
    },
    /// The content is larger than allowed.
    #[error("{object} is larger than {limit} bytes")]
    TooLarge {
        /// What is too large.
        object: String,
        /// Limit in bytes.
        limit: u64,
    },
    /// The content has another digest than the one it was asked for by.
    #[error("{object} has digest {actual}, expected {expected}")]
    Digest {
        /// What was read or written.
        object: String,
        /// Digest by descriptor or header.
        expected: Digest,
        /// Digest of the content; boxed, since errors are passed by value.
        actual: Box<Digest>,
    },
    /// The content has another size than its descriptor says.
    #[error("{object} has {actual} bytes, expected {expected}")]
    Size {
        /// What was read or written.
        object: String,
        /// Size by descriptor.
        expected: u64,
        /// Size of the content, or the part read until the difference was known.
        actual: u64,
    },
    /// The bytes are no manifest or index.
    #[error("{url} is no usable manifest")]
    Document {
        /// What was asked for.
        url: String,
        /// Cause.
        #[source]
        source: DocumentError,
    },
    /// The server sends the client where it must not go, or breaks the protocol.
    #[error("{url} {problem}")]
    Protocol {
        /// What was asked for.
        url: String,
        /// What the server did.
        problem: String,
    },
    /// A manifest is at the registry, but in no list of its subject's referrers.
    #[error("what refers to another manifest is there, but its list {tag} cannot be updated")]
    Referrers {
        /// Reference of the list.
        tag: String,
        /// Cause.
        #[source]
        source: Box<Self>,
    },
    /// Stored credentials could not be read.
    #[error("credentials for {registry} cannot be read")]
    Credentials {
        /// Registry host.
        registry: String,
        /// Cause.
        #[source]
        source: CredentialError,
    },
    /// The content to be sent could not be read.
    #[error("content for {url} cannot be read")]
    Source {
        /// Where it was to go.
        url: String,
        /// Cause.
        #[source]
        source: SourceError,
    },
    /// A setting is wrong.
    #[error("settings for {registry} are wrong")]
    Config {
        /// Registry host.
        registry: String,
        /// Cause.
        #[source]
        source: ConfigError,
    },
}

impl Error {
    /// Tells whether the same request may succeed a little later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Transport { source, .. } => {
                !source.is_certificate_error()
                    && !source.is_plain_http()
                    && !source.is_refused()
                    && !source.is_unknown_name()
                    && !source.0.is_builder()
            }
            Self::Stalled { .. } => true,
            Self::Status { status, .. } => crate::retry::is_transient_status(*status),
            _ => false,
        }
    }

    /// Tells that nobody listens: final at first contact, not where a server was just restarted.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Transport { source, .. } if source.is_refused())
    }

    /// Tells that no connection came about, or that it broke.
    pub(crate) const fn is_connection(&self) -> bool {
        matches!(self, Self::Transport { .. })
    }

    /// Tells that the manifest, blob or repository is not there.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Tells that logging in might help.
    #[must_use]
    pub const fn is_denied(&self) -> bool {
        matches!(self, Self::Denied { .. })
    }

    /// Tells that the server asks for fewer requests.
    #[must_use]
    pub const fn is_rate_limit(&self) -> bool {
        matches!(self, Self::Status { status: 429, .. })
    }

    /// Tells that the content is not what its digest or size says.
    #[must_use]
    pub const fn is_corrupt(&self) -> bool {
        matches!(self, Self::Digest { .. } | Self::Size { .. })
    }

    /// Tells a certificate that does not verify.
    #[must_use]
    pub fn is_certificate(&self) -> bool {
        matches!(self, Self::Transport { source, .. } if source.is_certificate_error())
    }

    /// Tells a server that answers without TLS where TLS was asked for.
    #[must_use]
    pub fn is_plain_http(&self) -> bool {
        matches!(self, Self::Transport { source, .. } if source.is_plain_http())
    }

    /// When the server wants to be asked again.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

fn details(errors: &[ErrorEntry]) -> String {
    const SHOWN: usize = 3;
    let texts: Vec<_> = errors.iter().take(SHOWN).map(ToString::to_string).collect();
    if texts.is_empty() { String::new() } else { format!(": {}", texts.join("; ")) }
}

/// How a connection failed. It prints the innermost cause, which is what a person can act on; the
/// layers of libraries around it are shown by `Debug`.
#[derive(Debug)]
pub struct ConnectionError(reqwest::Error);

impl ConnectionError {
    /// Wraps an error without its URL, which may hold a signature.
    pub(crate) fn new(error: reqwest::Error) -> Self {
        Self(error.without_url())
    }

    /// Tells that no connection came about.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        self.0.is_connect()
    }

    fn is_refused(&self) -> bool {
        self.has_cause(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    }

    /// Tells that nobody has the host's name; a name server that cannot be asked is another matter.
    fn is_unknown_name(&self) -> bool {
        self.has_cause(is_unknown_name)
    }

    fn has_cause(&self, fits: impl Fn(&std::io::Error) -> bool) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&self.0);
        while let Some(error) = cause {
            if error.downcast_ref().is_some_and(&fits) {
                return true;
            }
            cause = error.source();
        }
        false
    }

    fn is_certificate_error(&self) -> bool {
        crate::tls::is_certificate_error(&self.0)
    }

    fn is_plain_http(&self) -> bool {
        crate::tls::is_no_tls(&self.0)
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_timeout() {
            return f.write_str("no answer in time");
        }
        if self.is_plain_http() {
            return f.write_str("server gave HTTP response to HTTPS client");
        }
        let mut innermost: &dyn std::error::Error = &self.0;
        while let Some(cause) = innermost.source() {
            innermost = cause;
        }
        fmt::Display::fmt(innermost, f)
    }
}

impl std::error::Error for ConnectionError {}

/// Tells `EAI_NONAME` and `EAI_NODATA` from `EAI_AGAIN`. The standard library keeps nothing of the
/// number but glibc's words for it, which are never translated here.
fn is_unknown_name(error: &std::io::Error) -> bool {
    let text = error.to_string();
    text.starts_with("failed to lookup address information: ")
        && (text.ends_with(": Name or service not known")
            || text.ends_with(": No address associated with hostname"))
}

/// Why the client cannot work with its settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A mirror is no `https://host[:port][/path]`.
    #[error("`{0}` is no mirror of the form https://host[:port][/path]")]
    Mirror(String),
    /// A proxy is no URL.
    #[error("proxy `{proxy}` is no usable URL")]
    Proxy {
        /// Host of the proxy, without its credentials.
        proxy: String,
        /// Cause.
        #[source]
        source: reqwest::Error,
    },
    /// A certificate or key cannot be read.
    #[error("{path} holds no usable certificate or key")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A client certificate without its key, or the other way round.
    #[error("{path} has no partner: a client certificate `NAME.cert` needs `NAME.key`")]
    Partner {
        /// The lone file.
        path: PathBuf,
    },
    /// The user agent has characters that no header may have.
    #[error("HTTP client cannot be set up")]
    Client(#[source] reqwest::Error),
    /// The registry's name makes no URL.
    #[error("`{0}` is no host")]
    Host(String),
}

#[cfg(test)]
mod tests {
    use std::net::ToSocketAddrs as _;

    use super::*;

    #[test]
    fn names_that_nobody_has_are_told_from_failures() {
        // No name server is asked: the zone is none.
        let unknown = ("fe80::1%no-such-link", 80).to_socket_addrs().unwrap_err();
        assert!(is_unknown_name(&unknown), "{unknown}");
        let words = "failed to lookup address information: Temporary failure in name resolution";
        assert!(!is_unknown_name(&std::io::Error::other(words)));
    }
}
