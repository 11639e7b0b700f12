//! Requests: proof, redirects and retries.

mod reply;

use std::sync::Arc;

use bytes::Bytes;
use reqwest::{
    Method, Response, StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};

pub(crate) use self::reply::Reply;
use crate::{
    ClientConfig, Credential, CredentialStore, Error,
    auth::{Proof, Subject},
    endpoint::{Connections, Endpoint, Trust},
    error::ConnectionError,
    redirect,
    retry::Backoff,
    tls::Verify,
    warning::Told,
    wire::Scope,
};

/// Challenges that one request answers: none known, insufficient scope, token ended meanwhile.
const MOST_CHALLENGES: usize = 3;

/// What a request carries.
#[derive(Clone, Debug, Default)]
pub(crate) enum Payload {
    /// Nothing.
    #[default]
    Empty,
    /// Bytes that can be sent again.
    Bytes(Bytes),
}

/// One request, which can be sent several times.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Payload,
    /// Path of the repository, for credentials that depend on it.
    pub(crate) path: String,
    pub(crate) scopes: Vec<Scope>,
}

impl Call {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            payload: Payload::Empty,
            path: String::new(),
            scopes: Vec::new(),
        }
    }
}

/// What every request needs of the client.
#[derive(Debug)]
pub(crate) struct Transport {
    config: Arc<ClientConfig>,
    connections: Connections,
    credentials: CredentialStore,
    told: Told,
}

impl Transport {
    pub(crate) fn new(config: Arc<ClientConfig>) -> Self {
        Self {
            connections: Connections::new(Arc::clone(&config)),
            credentials: CredentialStore::new(config.credentials.clone()),
            config,
            told: Told::default(),
        }
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        &self.config
    }

    pub(crate) const fn connections(&self) -> &Connections {
        &self.connections
    }

    /// Reads the credential files, off the async threads since helpers are executed.
    pub(crate) async fn find_credential(
        &self,
        host: &str,
        path: &str,
    ) -> Result<Option<Credential>, Error> {
        if let Some(credential) = self.config.accounts.get(host) {
            return Ok(Some(credential.clone()));
        }
        let (store, host, path) = (self.credentials.clone(), host.to_owned(), path.to_owned());
        let registry = host.clone();
        tokio::task::spawn_blocking(move || store.find(&host, &path))
            .await
            .expect("looking up credentials does not panic")
            .map_err(|source| Error::Credentials { registry, source })
    }

    /// A series of tries; a mirror gets one.
    fn backoff(&self, endpoint: &Endpoint) -> Backoff<'_> {
        let retry = &self.config.retry;
        if endpoint.is_mirror() { Backoff::single(retry) } else { Backoff::new(retry) }
    }

    /// Sends a request until there is an answer that is not transient. Any status is an answer.
    pub(crate) async fn send(&self, endpoint: &Endpoint, call: &Call) -> Result<Reply, Error> {
        let mut backoff = self.backoff(endpoint);
        loop {
            match self.send_once(endpoint, call).await {
                Ok(reply) if reply.is_transient() => backoff.wait(reply.into_error().await).await?,
                Ok(reply) => return Ok(reply),
                Err(error) => backoff.wait(error).await?,
            }
        }
    }

    /// Sends a request and reads the whole body, which is at most `limit` bytes.
    pub(crate) async fn fetch(
        &self,
        endpoint: &Endpoint,
        call: &Call,
        limit: u64,
    ) -> Result<(HeaderMap, Bytes), Error> {
        let mut backoff = self.backoff(endpoint);
        loop {
            let result = async {
                let mut reply = self.send_once(endpoint, call).await?.success().await?;
                let body = reply.read(limit).await?;
                Ok((reply.headers().clone(), body))
            };
            match result.await {
                Ok(found) => return Ok(found),
                Err(error) => backoff.wait(error).await?,
            }
        }
    }

    /// Sends a request to a host that is no endpoint, without proof.
    pub(crate) async fn send_anonymously(&self, call: &Call) -> Result<Reply, Error> {
        let http = self.connections.to(&call.url, self.verify_for(&call.url))?;
        self.follow_from(&http, call, None).await
    }

    /// Sends a request to a host that is no endpoint, until there is an answer that is not
    /// transient. The proof goes to that host alone.
    pub(crate) async fn send_to(&self, call: &Call, proof: Option<&Proof>) -> Result<Reply, Error> {
        let http = self.connections.to(&call.url, self.verify_for(&call.url))?;
        let mut backoff = Backoff::new(&self.config.retry);
        loop {
            match self.follow_from(&http, call, proof).await {
                Ok(reply) if reply.is_transient() => backoff.wait(reply.into_error().await).await?,
                Ok(reply) => return Ok(reply),
                Err(error) => backoff.wait(error).await?,
            }
        }
    }

    /// Sends a request to a host that is no endpoint, without proof and redirects.
    pub(crate) async fn fetch_unproved(&self, call: &Call, limit: u64) -> Result<Bytes, Error> {
        let mut backoff = Backoff::new(&self.config.retry);
        loop {
            match self.fetch_unproved_once(call, limit).await {
                Ok(body) => return Ok(body),
                Err(error) => backoff.wait(error).await?,
            }
        }
    }

    /// As [`Self::fetch_unproved`], but does not try again.
    pub(crate) async fn fetch_unproved_once(
        &self,
        call: &Call,
        limit: u64,
    ) -> Result<Bytes, Error> {
        let http = self.connections.to(&call.url, self.verify_for(&call.url))?;
        let reply = self.exchange(&http, call, &call.url, None).await?;
        reply.success().await?.read(limit).await
    }

    /// Sends a request: answers challenges and follows redirects, but does not try again.
    pub(crate) async fn send_once(&self, endpoint: &Endpoint, call: &Call) -> Result<Reply, Error> {
        let subject = Subject {
            base: &endpoint.base,
            host: &endpoint.credential_host,
            path: &call.path,
            scopes: &call.scopes,
        };
        let own_host = redirect::same_origin(&endpoint.base, &call.url);
        let mut proof = if own_host { endpoint.auth.proof(self, subject).await? } else { None };
        let mut answered = Vec::new();
        for _ in 0..MOST_CHALLENGES {
            let mut reply = self.follow(endpoint, call, proof.as_ref()).await?;
            let from_us = redirect::same_origin(&endpoint.base, &reply.url);
            if reply.status() != StatusCode::UNAUTHORIZED || !from_us {
                return Ok(reply);
            }
            let challenges: Vec<_> =
                reply.headers().get_all(WWW_AUTHENTICATE).iter().cloned().collect();
            // The same again: the proof that it asks for did not do.
            if challenges == answered {
                return Ok(reply);
            }
            let better =
                endpoint.auth.answer(self, subject, reply.headers(), proof.as_ref()).await?;
            if better.is_none() {
                return Ok(reply);
            }
            reply.drain().await;
            (proof, answered) = (better, challenges);
        }
        self.follow(endpoint, call, proof.as_ref()).await
    }

    /// Sends a request to where it was meant first, the endpoint's own host or not.
    async fn follow(
        &self,
        endpoint: &Endpoint,
        call: &Call,
        proof: Option<&Proof>,
    ) -> Result<Reply, Error> {
        if redirect::same_origin(&endpoint.base, &call.url) {
            self.follow_from(&endpoint.http, call, proof).await
        } else {
            self.send_anonymously(call).await
        }
    }

    /// Follows redirects; the proof goes to the first host alone.
    async fn follow_from(
        &self,
        first: &reqwest::Client,
        call: &Call,
        proof: Option<&Proof>,
    ) -> Result<Reply, Error> {
        let mut url = call.url.clone();
        for _ in 0..=redirect::MOST_REDIRECTS {
            let (http, proof) = if redirect::same_origin(&call.url, &url) {
                (first.clone(), proof)
            } else {
                (self.connections.to(&url, self.verify_for(&url))?, None)
            };
            let mut reply = self.exchange(&http, call, &url, proof).await?;
            let Some(location) = reply.redirect(&call.method) else { return Ok(reply) };
            let next = redirect::follow(&url, &location)
                .map_err(|problem| Error::Protocol { url: redirect::shown(&url), problem })?;
            reply.drain().await;
            url = next;
        }
        Err(Error::Protocol {
            url: redirect::shown(&call.url),
            problem: format!("redirects more than {} times", redirect::MOST_REDIRECTS),
        })
    }

    /// One request, one reply.
    pub(crate) async fn exchange(
        &self,
        http: &reqwest::Client,
        call: &Call,
        url: &Url,
        proof: Option<&Proof>,
    ) -> Result<Reply, Error> {
        let mut request = http.request(call.method.clone(), url.clone());
        request = request.headers(call.headers.clone());
        if let Some(proof) = proof {
            request = request.header(AUTHORIZATION, proof.header.clone());
        }
        request = match &call.payload {
            Payload::Bytes(bytes) => request.body(bytes.clone()),
            // Some servers insist on a length for an empty POST or PUT.
            Payload::Empty if matches!(call.method, Method::POST | Method::PUT) => {
                request.header(CONTENT_LENGTH, HeaderValue::from_static("0"))
            }
            Payload::Empty => request,
        };
        let timeouts = &self.config.timeouts;
        let limit = match call.method {
            // The server may digest a whole blob before it answers.
            Method::PUT => timeouts.reply * 10,
            _ => timeouts.reply,
        };
        let shown = redirect::shown(url);
        let sent = tokio::time::timeout(timeouts.connect + limit, request.send()).await;
        let response = match sent {
            Err(_) => return Err(Error::Stalled { url: shown, received: 0, waited: limit }),
            Ok(Err(source)) => {
                return Err(Error::Transport { url: shown, source: ConnectionError::new(source) });
            }
            Ok(Ok(response)) => response,
        };
        let own = call.headers.contains_key(AUTHORIZATION);
        let with_credentials = own || proof.is_some_and(|proof| proof.with_credentials);
        Ok(self.reply(response, url.clone(), with_credentials))
    }

    /// Takes a response, and tells what it warns of.
    pub(crate) fn reply(&self, response: Response, url: Url, with_credentials: bool) -> Reply {
        self.told.tell(&url, response.headers());
        Reply::new(response, url, with_credentials, &self.config)
    }

    /// How a host is verified that is no registry by name.
    pub(crate) fn verify_for(&self, url: &Url) -> Verify {
        Trust::of(&self.config, &crate::endpoint::host_and_port(url), url).verify()
    }
}
