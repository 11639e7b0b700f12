//! Where a registry answers: host, scheme, connections, mirrors.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use reqwest::{NoProxy, Proxy, Url, redirect::Policy};
use rustls::RootCertStore;

use crate::{
    ClientConfig, ConfigError, Error, ProxyConfig,
    auth::Auth,
    redirect,
    tls::{self, HostCertificates, Verify},
};

/// Docker Hub's name in references, and the host that serves it.
const HUB: &str = "docker.io";
const HUB_API: &str = "registry-1.docker.io";
/// Go's proxies leave this machine out, and so do we.
const NEVER_PROXIED: &str = "localhost,127.0.0.0/8,::1";

/// One base URL of a registry or mirror.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Ends with `/v2/`.
    pub(crate) base: Url,
    /// The host by which credentials are looked up.
    pub(crate) credential_host: String,
    /// Connections of this host.
    pub(crate) http: reqwest::Client,
    /// What the host wants to be proved.
    pub(crate) auth: Auth,
    /// The registry that a mirror is asked about (`?ns=`).
    pub(crate) namespace: Option<String>,
    /// Whether a mirror failed: it only saves time, so it gets no second chance.
    pub(crate) failed: AtomicBool,
}

impl Endpoint {
    /// Whether this is a mirror.
    pub(crate) const fn is_mirror(&self) -> bool {
        self.namespace.is_some()
    }

    /// Passes a mirror over from now on, if it is out of order; one that lacks something may have
    /// the next thing.
    pub(crate) fn note_failure(&self, error: &Error) {
        if self.is_mirror() && (error.is_transient() || error.is_connection()) {
            self.failed.store(true, Ordering::Relaxed);
        }
    }

    /// A URL below `/v2/`.
    pub(crate) fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path()));
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        url
    }
}

/// The connections of a client, by host where a host has settings of its own.
#[derive(Debug)]
pub(crate) struct Connections {
    config: Arc<ClientConfig>,
    roots: OnceLock<RootCertStore>,
    /// By host; an empty key is every host without settings.
    clients: Mutex<HashMap<(String, Verify), reqwest::Client>>,
}

impl Connections {
    pub(crate) fn new(config: Arc<ClientConfig>) -> Self {
        Self { config, roots: OnceLock::new(), clients: Mutex::new(HashMap::new()) }
    }

    /// The connections to `url`'s host.
    pub(crate) fn to(&self, url: &Url, verify: Verify) -> Result<reqwest::Client, Error> {
        let host = host_and_port(url);
        let wrong = |source| Error::Config { registry: host.clone(), source };
        let certificates = HostCertificates::read(&self.config, &host).map_err(wrong)?;
        let key = if certificates.is_empty() { String::new() } else { host.clone() };
        let key = (key, verify);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = self.build(certificates, verify).map_err(wrong)?;
        clients.insert(key, client.clone());
        Ok(client)
    }

    fn build(
        &self,
        certificates: HostCertificates,
        verify: Verify,
    ) -> Result<reqwest::Client, ConfigError> {
        let roots = self.roots.get_or_init(|| tls::system_roots(&self.config.tls));
        let tls = tls::client(roots, certificates, verify).map_err(|source| {
            let path = "client certificate".into();
            ConfigError::Certificate { path, source: Box::new(source) }
        })?;
        let mut builder = reqwest::Client::builder()
            .user_agent(&self.config.user_agent)
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .http1_only()
            .no_proxy()
            .tcp_nodelay(true)
            .connect_timeout(self.config.timeouts.connect)
            .tls_backend_preconfigured(tls);
        for (host, registry) in &self.config.registries {
            if let Some(address) = registry.address {
                let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name);
                builder = builder.resolve(name, (address, 0).into());
            }
        }
        for proxy in proxies(&self.config.proxies)? {
            builder = builder.proxy(proxy);
        }
        builder.build().map_err(ConfigError::Client)
    }
}

fn proxies(config: &ProxyConfig) -> Result<Vec<Proxy>, ConfigError> {
    let exceptions = match &config.no_proxy {
        Some(list) => format!("{list},{NEVER_PROXIED}"),
        None => NEVER_PROXIED.to_owned(),
    };
    type Make = fn(&str) -> reqwest::Result<Proxy>;
    let makers: [(&Option<String>, Make); 2] =
        [(&config.http, |url| Proxy::http(url)), (&config.https, |url| Proxy::https(url))];
    let mut proxies = Vec::new();
    for (text, make) in makers {
        let Some(text) = text.as_deref().filter(|text| !text.is_empty()) else { continue };
        let proxy = make(text).map_err(|source| {
            let proxy = text.rsplit('@').next().unwrap_or_default().to_owned();
            ConfigError::Proxy { proxy, source: source.without_url() }
        })?;
        proxies.push(proxy.no_proxy(NoProxy::from_string(&exceptions)));
    }
    Ok(proxies)
}

/// The host that serves a registry's API.
pub(crate) fn api_host(registry: &str) -> &str {
    if registry == HUB { HUB_API } else { registry }
}

/// Base URL of a registry by scheme.
pub(crate) fn base_url(scheme: &str, registry: &str) -> Result<Url, Error> {
    let host = api_host(registry);
    format!("{scheme}://{host}/v2/").parse().map_err(|_| Error::Config {
        registry: registry.to_owned(),
        source: ConfigError::Host(host.to_owned()),
    })
}

/// `host[:port]` as `certs.d` names it.
pub(crate) fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// What a registry may do besides verified HTTPS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Nothing.
    Strict,
    /// Plain HTTP where it does not speak TLS, and certificates that do not verify unless
    /// `certs.d` names an authority: it is on this machine.
    Loopback,
    /// Plain HTTP, and certificates that do not verify: the user said so.
    Insecure,
}

impl Trust {
    pub(crate) fn of(config: &ClientConfig, registry: &str, url: &Url) -> Self {
        match config.registries.get(registry) {
            Some(settings) if settings.insecure => Self::Insecure,
            _ if redirect::is_loopback(url) => Self::Loopback,
            _ => Self::Strict,
        }
    }

    pub(crate) const fn verify(self) -> Verify {
        match self {
            Self::Insecure => Verify::Nothing,
            Self::Loopback => Verify::IfNamed,
            Self::Strict => Verify::Roots,
        }
    }
}
