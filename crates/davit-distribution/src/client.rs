//! The client, its sessions on repositories, and login.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use davit_image::Repository;
use reqwest::{Method, StatusCode, Url};
use tokio::sync::{Mutex, OnceCell};

use crate::{
    ClientConfig, Credential, Error, Mirror, Secret,
    auth::{Auth, Subject},
    endpoint::{self, Endpoint, Trust},
    referrers::Unlisted,
    transport::{Call, Reply, Transport},
    wire::Scope,
};

/// A registry client: connections, tokens, and what each host answered so far. Cheap to clone.
///
/// Its futures need a tokio runtime with IO and time. Nothing is sent before the first operation.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    transport: Transport,
    /// By registry host, or by a mirror's base URL.
    endpoints: Mutex<HashMap<String, Arc<OnceCell<Arc<Endpoint>>>>>,
}

/// What a session may do with its repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read; mirrors are asked first.
    Pull,
    /// Read and write; mirrors are left out.
    Push,
    /// Read and delete; mirrors are left out.
    Delete,
}

/// One repository, opened for one kind of access. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Session {
    pub(crate) client: Client,
    pub(crate) repository: Repository,
    access: Access,
    /// Shared by clones: a mirror served something wrong.
    distrusts: Arc<AtomicBool>,
    /// Shared by clones: what is still to be listed under its subject.
    pub(crate) unlisted: Unlisted,
}

/// What logging in brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// What to keep: the password, or an identity token that the registry gave in its place.
    pub credential: Credential,
    /// Whether the registry asked for it at all.
    pub checked: bool,
}

impl Client {
    /// Makes a client; files named by the settings are read when they are first needed.
    #[must_use]
    pub fn new(config: ClientConfig) -> Self {
        let transport = Transport::new(Arc::new(config));
        Self { shared: Arc::new(Shared { transport, endpoints: Mutex::default() }) }
    }

    /// Opens a repository; sends nothing yet.
    #[must_use]
    pub fn session(&self, repository: &Repository, access: Access) -> Session {
        Session {
            client: self.clone(),
            repository: repository.clone(),
            access,
            distrusts: Arc::default(),
            unlisted: Unlisted::default(),
        }
    }

    /// Checks an account at `registry`, without keeping it.
    ///
    /// # Errors
    /// [`Error::Denied`] if the registry does not know the account; else what went wrong.
    pub async fn login(
        &self,
        registry: &str,
        username: &str,
        password: Secret,
    ) -> Result<Login, Error> {
        let endpoint = self.endpoint(registry).await?;
        let given = Credential::Password { username: username.to_owned(), password };
        endpoint.auth.give("", given.clone()).await;
        let call = Call::new(Method::GET, endpoint.url(""));
        let reply = self.transport().send(&endpoint, &call).await?;
        let checked = reply.was_proved();
        reply.success().await?;
        let subject = Subject {
            base: &endpoint.base,
            host: &endpoint.credential_host,
            path: "",
            scopes: &[],
        };
        let token = endpoint.auth.refresh_token(self.transport(), subject).await?;
        Ok(Login { credential: token.map_or(given, Credential::Identity), checked })
    }

    /// Uses `credential` for all of `registry` instead of a stored one.
    ///
    /// # Errors
    /// When the registry cannot be reached.
    pub async fn use_credential(
        &self,
        repository: &Repository,
        credential: Credential,
    ) -> Result<(), Error> {
        let endpoint = self.endpoint(repository.registry()).await?;
        endpoint.auth.give(repository.path(), credential).await;
        Ok(())
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.shared.transport
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        self.shared.transport.config()
    }

    /// Where a registry answers.
    pub(crate) async fn endpoint(&self, registry: &str) -> Result<Arc<Endpoint>, Error> {
        let cell = self.cell(registry).await;
        cell.get_or_try_init(|| self.find_endpoint(registry)).await.cloned()
    }

    /// Where a mirror of `registry` answers.
    async fn mirror(&self, registry: &str, mirror: &Mirror) -> Result<Arc<Endpoint>, Error> {
        let cell = self.cell(&format!("{mirror} {registry}")).await;
        cell.get_or_try_init(|| async {
            let base = mirror.url().join("v2/").map_err(|_| Error::Config {
                registry: registry.to_owned(),
                source: crate::ConfigError::Mirror(mirror.to_string()),
            })?;
            let verify = self.transport().verify_for(&base);
            Ok(Arc::new(Endpoint {
                http: self.transport().connections().to(&base, verify)?,
                credential_host: endpoint::host_and_port(&base),
                namespace: Some(registry.to_owned()),
                auth: Auth::default(),
                failed: AtomicBool::new(false),
                base,
            }))
        })
        .await
        .cloned()
    }

    async fn cell(&self, key: &str) -> Arc<OnceCell<Arc<Endpoint>>> {
        let mut endpoints = self.shared.endpoints.lock().await;
        Arc::clone(endpoints.entry(key.to_owned()).or_default())
    }

    async fn find_endpoint(&self, registry: &str) -> Result<Arc<Endpoint>, Error> {
        let base = endpoint::base_url("https", registry)?;
        let trust = Trust::of(self.config(), registry, &base);
        let secure = self.make_endpoint(registry, base, trust)?;
        if trust == Trust::Strict || self.speaks_tls(&secure).await? {
            return Ok(Arc::new(secure));
        }
        let plain = endpoint::base_url("http", registry)?;
        tracing::debug!("{registry} speaks plain HTTP");
        Ok(Arc::new(self.make_endpoint(registry, plain, trust)?))
    }

    fn make_endpoint(&self, registry: &str, base: Url, trust: Trust) -> Result<Endpoint, Error> {
        Ok(Endpoint {
            http: self.transport().connections().to(&base, trust.verify())?,
            credential_host: registry.to_owned(),
            namespace: None,
            auth: Auth::default(),
            failed: AtomicBool::new(false),
            base,
        })
    }

    /// Tells whether a host speaks TLS. One that shows a bad certificate does: there, plain HTTP
    /// is no way out.
    async fn speaks_tls(&self, endpoint: &Endpoint) -> Result<bool, Error> {
        let call = Call::new(Method::HEAD, endpoint.url(""));
        match self.transport().exchange(&endpoint.http, &call, &call.url, None).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_certificate() => Err(error),
            Err(Error::Transport { source, .. }) if source.is_connect() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Session {
    /// The repository.
    #[must_use]
    pub const fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Where to read from: mirrors in order unless they failed, then the registry itself.
    pub(crate) async fn sources(&self) -> Result<Vec<Arc<Endpoint>>, Error> {
        let registry = self.repository.registry();
        let mut sources = Vec::new();
        if self.access == Access::Pull
            && !self.distrusts.load(Ordering::Relaxed)
            && let Some(settings) = self.client.config().registries.get(registry)
        {
            for mirror in &settings.mirrors {
                let mirror = self.client.mirror(registry, mirror).await?;
                if !mirror.failed.load(Ordering::Relaxed) {
                    sources.push(mirror);
                }
            }
        }
        sources.push(self.client.endpoint(registry).await?);
        Ok(sources)
    }

    /// Leaves mirrors out from now on, since what was read is not what its digest says; false where
    /// that changes nothing: there are none, or they were left out before.
    #[must_use]
    pub fn distrust_mirrors(&self) -> bool {
        let registry = self.repository.registry();
        let settings = self.client.config().registries.get(registry);
        let has_mirrors = self.access == Access::Pull
            && settings.is_some_and(|settings| !settings.mirrors.is_empty());
        let is_new = has_mirrors && !self.distrusts.swap(true, Ordering::Relaxed);
        if is_new {
            tracing::warn!("a mirror of {registry} serves wrong content; asking the registry");
        }
        is_new
    }

    /// The registry itself.
    pub(crate) async fn origin(&self) -> Result<Arc<Endpoint>, Error> {
        self.client.endpoint(self.repository.registry()).await
    }

    /// A request below `/v2/<name>/`.
    pub(crate) fn call(&self, endpoint: &Endpoint, method: Method, path: &str) -> Call {
        self.call_to(method, endpoint.url(&format!("{}/{path}", self.repository.path())))
    }

    /// A request to a URL that the registry named.
    pub(crate) fn call_to(&self, method: Method, url: Url) -> Call {
        let actions: &[&str] = match self.access {
            Access::Pull => &["pull"],
            Access::Push => &["pull", "push"],
            Access::Delete => &["pull", "delete"],
        };
        let path = self.repository.path();
        Call {
            path: path.to_owned(),
            scopes: vec![Scope::repository(path, actions)],
            ..Call::new(method, url)
        }
    }

    /// Sends a request that has no body worth reading.
    pub(crate) async fn send(&self, endpoint: &Endpoint, call: &Call) -> Result<Reply, Error> {
        self.client.transport().send(endpoint, call).await
    }

    /// Sends a HEAD; `None` for 404.
    pub(crate) async fn head(
        &self,
        endpoint: &Endpoint,
        call: &Call,
    ) -> Result<Option<Reply>, Error> {
        let reply = self.send(endpoint, call).await?;
        if reply.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        reply.success().await.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Operations are started as tasks on any thread.
    #[test]
    fn futures_may_change_threads() {
        fn assert_send<T: Send>(_: &T) {}
        let session =
            Client::new(ClientConfig::default()).session(&"a".parse().unwrap(), Access::Push);
        let target = crate::Target::Tag(davit_image::Tag::latest());
        assert_send(&session.manifest(&target));
        assert_send(&session.resolve(&target));
        assert_send(&session.upload_bytes(bytes::Bytes::new()));
        assert_send(&session.list_referrers());
        assert_send(&session.tags());
        assert_send(&session.client.login("a", "b", Secret::default()));
        assert_send(&session.client.search("a", "b", 1));
    }
}
