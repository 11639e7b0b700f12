//! The way to registries: the client's settings, and a runtime for its futures.
//!
//! **Invariant:** the runtime lives on threads of its own and nothing here forks; blocking work
//! (the store, layers) stays on the caller's threads, and bytes cross bounded channels.

use std::{future::Future, path::PathBuf};

use davit_distribution::{
    Client, ClientConfig, ConfigError, CredentialConfig, ProxyConfig, RegistryConfig, TlsConfig,
};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::{Config, Engine};

/// Folders of certificates by host, besides those of the user.
const CERTIFICATE_DIRECTORIES: [&str; 3] =
    ["/etc/davit/certs.d", "/etc/docker/certs.d", "/etc/containers/certs.d"];

/// A registry client with the runtime that its futures run on.
#[derive(Debug)]
pub(crate) struct Registries {
    pub(crate) client: Client,
    runtime: Runtime,
}

/// Why registries cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A setting is malformed.
    #[error("settings of registry `{registry}` are wrong")]
    Settings {
        /// Host of the registry.
        registry: String,
        /// Cause.
        #[source]
        source: ConfigError,
    },
    /// The threads of the network side cannot be made.
    #[error("network threads cannot be started")]
    Runtime(#[source] std::io::Error),
}

impl Engine {
    /// Starts the network side; sends nothing yet.
    pub(crate) fn registries(&self) -> Result<Registries, RegistryError> {
        Registries::open(self.config())
    }
}

impl Registries {
    /// Starts the network side; sends nothing yet.
    pub(crate) fn open(config: &Config) -> Result<Self, RegistryError> {
        let client = Client::new(client_config(config)?);
        // One thread carries a gigabyte per second; the others are for inflating.
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("network")
            .enable_all()
            .build()
            .map_err(RegistryError::Runtime)?;
        Ok(Self { client, runtime })
    }

    /// Waits for a future.
    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Where tasks are started.
    pub(crate) fn handle(&self) -> &Handle {
        self.runtime.handle()
    }
}

impl Drop for Registries {
    fn drop(&mut self) {
        // A lookup of a name may hang for long; it must not hold up the end of a command.
        let idle = Builder::new_current_thread().build();
        if let Ok(idle) = idle {
            std::mem::replace(&mut self.runtime, idle).shutdown_background();
        }
    }
}

fn client_config(config: &Config) -> Result<ClientConfig, RegistryError> {
    let mut registries = std::collections::BTreeMap::new();
    for (host, settings) in &config.settings.registry {
        let mirrors: Result<Vec<_>, _> = settings.mirrors.iter().map(|text| text.parse()).collect();
        let mirrors =
            mirrors.map_err(|source| RegistryError::Settings { registry: host.clone(), source })?;
        let insecure = settings.insecure;
        registries.insert(
            host.clone(),
            RegistryConfig { insecure, mirrors, ..RegistryConfig::default() },
        );
    }
    Ok(ClientConfig {
        registries,
        certificate_directories: certificate_directories(config),
        tls: roots(config),
        proxies: proxies(config),
        credentials: credentials(config),
        ..ClientConfig::default()
    })
}

pub(crate) fn credentials(config: &Config) -> CredentialConfig {
    CredentialConfig {
        docker_config: config.docker_config.as_ref().map(|folder| folder.join("config.json")),
        auth_files: config.auth_files.clone(),
        legacy_file: config.legacy_auth_file.clone(),
    }
}

fn certificate_directories(config: &Config) -> Vec<PathBuf> {
    let docker = config.docker_config.iter().map(|folder| folder.join("certs.d"));
    let own = docker.chain(config.certificates_by_host.clone());
    CERTIFICATE_DIRECTORIES.iter().map(PathBuf::from).chain(own).collect()
}

fn roots(config: &Config) -> TlsConfig {
    let mut tls = TlsConfig::default();
    if let Some(file) = &config.certificate_file {
        // Whoever names a bundle means this one alone.
        tls.bundles = vec![file.clone()];
    }
    tls.directories.extend(config.certificate_dir.clone());
    tls
}

/// Upper case first, as Go's programs read them; `ALL_PROXY` is curl's.
fn proxies(config: &Config) -> ProxyConfig {
    let find = |name: &str| {
        let value = |name: &str| {
            config.proxies.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
        };
        value(name).or_else(|| value(&name.to_lowercase()))
    };
    ProxyConfig {
        http: find("HTTP_PROXY").or_else(|| find("ALL_PROXY")),
        https: find("HTTPS_PROXY").or_else(|| find("ALL_PROXY")),
        no_proxy: find("NO_PROXY"),
    }
}
