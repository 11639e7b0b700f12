//! Settings of the client; who reads flags, environment and files fills them in.

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use reqwest::Url;

use crate::{ConfigError, Credential};

/// Everything that a [`Client`](crate::Client) is told from outside.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Sent with every request, as `name/version`.
    pub user_agent: String,
    /// Settings by registry host (`docker.io`, `localhost:5000`), as references write it.
    pub registries: BTreeMap<String, RegistryConfig>,
    /// Folders like `/etc/docker/certs.d`: `HOST[:PORT]/{*.crt, *.cert, *.key}`; all are read.
    pub certificate_directories: Vec<PathBuf>,
    /// Where trusted roots come from.
    pub tls: TlsConfig,
    /// Proxies.
    pub proxies: ProxyConfig,
    /// Where credentials come from.
    pub credentials: CredentialConfig,
    /// Credentials by registry host, as references write it; they count before all others.
    pub accounts: BTreeMap<String, Credential>,
    /// How long to wait for what.
    pub timeouts: TimeoutConfig,
    /// How often to try again.
    pub retry: RetryConfig,
    /// How much to read at most.
    pub limits: Limits,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            user_agent: concat!("davit/", env!("CARGO_PKG_VERSION")).to_owned(),
            registries: BTreeMap::new(),
            certificate_directories: Vec::new(),
            tls: TlsConfig::default(),
            proxies: ProxyConfig::default(),
            credentials: CredentialConfig::default(),
            accounts: BTreeMap::new(),
            timeouts: TimeoutConfig::default(),
            retry: RetryConfig::default(),
            limits: Limits::default(),
        }
    }
}

/// Settings of one registry.
#[derive(Clone, Debug, Default)]
pub struct RegistryConfig {
    /// Allows certificates that do not verify, and plain HTTP where TLS is not spoken.
    /// Loopback addresses may speak plain HTTP without this.
    pub insecure: bool,
    /// Asked in order before the registry itself, for reading only and with credentials of their
    /// own.
    pub mirrors: Vec<Mirror>,
    /// Connects to this address instead of looking the host's name up.
    pub address: Option<IpAddr>,
}

/// Where a copy of a registry answers: `https://host[:port][/path]`, or `host[:port]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror(Url);

impl Mirror {
    /// The base under which `/v2/` lies.
    #[must_use]
    pub const fn url(&self) -> &Url {
        &self.0
    }
}

impl FromStr for Mirror {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let error = || ConfigError::Mirror(text.to_owned());
        let full = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let mut url: Url = full.parse().map_err(|_| error())?;
        let plain = url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if !plain || !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(error());
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        Ok(Self(url))
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

/// Where trusted roots come from; the compiled-in ones count only if all of these give none.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// Bundles of PEM certificates; the first that exists is read (`SSL_CERT_FILE` goes first).
    pub bundles: Vec<PathBuf>,
    /// Folders of PEM certificates, read as well (`SSL_CERT_DIR`).
    pub directories: Vec<PathBuf>,
}

impl Default for TlsConfig {
    fn default() -> Self {
        let bundles = [
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/pki/tls/certs/ca-bundle.crt",
            "/etc/ssl/ca-bundle.pem",
            "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
            "/etc/ssl/cert.pem",
        ];
        Self { bundles: bundles.map(PathBuf::from).to_vec(), directories: Vec::new() }
    }
}

/// Proxies, as the variables of the same names hold them.
#[derive(Clone, Debug, Default)]
pub struct ProxyConfig {
    /// `HTTP_PROXY`: for plain HTTP.
    pub http: Option<String>,
    /// `HTTPS_PROXY`: for HTTPS, by CONNECT.
    pub https: Option<String>,
    /// `NO_PROXY`: hosts, `.suffixes` and networks, separated by commas.
    pub no_proxy: Option<String>,
}

/// Where credentials come from.
#[derive(Clone, Debug, Default)]
pub struct CredentialConfig {
    /// Docker's `config.json`, the only file that is written.
    pub docker_config: Option<PathBuf>,
    /// Podman's `auth.json` files, asked in order where the former has no entry.
    pub auth_files: Vec<PathBuf>,
    /// `~/.dockercfg`, as Docker wrote it before 1.7: entries without `auths`; asked last.
    pub legacy_file: Option<PathBuf>,
}

/// How long to wait for what.
#[derive(Clone, Debug)]
pub struct TimeoutConfig {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For the head of a reply, after the request is sent.
    pub reply: Duration,
    /// For the next byte of a body.
    pub stall: Duration,
    /// Span within which a body must bring [`Self::progress_bytes`].
    pub progress: Duration,
    /// What a body must bring within [`Self::progress`].
    pub progress_bytes: u64,
}

impl Default for TimeoutConfig {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            reply: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            progress: Duration::from_secs(60),
            progress_bytes: 64 << 10,
        }
    }
}

/// How often to try again, and when.
#[derive(Clone, Debug)]
pub struct RetryConfig {
    /// Tries of one request, the first included; a download that moves on counts afresh.
    pub attempts: u32,
    /// Wait before the second try; it doubles from try to try, with jitter.
    pub first_delay: Duration,
    /// Longest wait of one's own accord.
    pub longest_delay: Duration,
    /// Longest `Retry-After` that is waited for; a longer one is an error.
    pub longest_retry_after: Duration,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            attempts: 6,
            first_delay: Duration::from_millis(400),
            longest_delay: Duration::from_secs(15),
            longest_retry_after: Duration::from_secs(90),
        }
    }
}

/// How much to read at most, in bytes where nothing else is said.
#[derive(Clone, Debug)]
pub struct Limits {
    /// A manifest or index.
    pub manifest: u64,
    /// An image config, or another blob that is read into memory.
    pub config: u64,
    /// An error body; what is longer is cut.
    pub error: u64,
    /// A token server's reply.
    pub token: u64,
    /// One page of a list.
    pub page: u64,
    /// Entries of a whole list.
    pub entries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest: 4 << 20,
            config: 8 << 20,
            error: 64 << 10,
            token: 64 << 10,
            page: 4 << 20,
            entries: 100_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_plain_bases() {
        for (text, shown) in [
            ("mirror.example", "https://mirror.example"),
            ("mirror.example:5000", "https://mirror.example:5000"),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
            ("https://h/proxy/hub/", "https://h/proxy/hub"),
        ] {
            assert_eq!(text.parse::<Mirror>().unwrap().to_string(), shown);
        }
        for text in ["", "ftp://h", "https://u:p@h", "https://h/?q", "https://h/#f", "https://"] {
            assert!(text.parse::<Mirror>().is_err(), "{text}");
        }
    }
}
