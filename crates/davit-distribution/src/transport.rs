//! Requests: proof, redirects, retries, and bodies with limits.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use reqwest::{
    Method, Response, StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION, WWW_AUTHENTICATE},
};

use crate::{
    ClientConfig, Credential, CredentialStore, Error, TimeoutConfig,
    auth::{Proof, Subject},
    endpoint::{Connections, Endpoint, Trust},
    error::ConnectionError,
    redirect,
    retry::{Backoff, retry_after},
    tls::Verify,
    warning::Told,
    wire::{ErrorBody, Scope},
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
        let with_credentials = proof.is_some_and(|proof| proof.with_credentials);
        Ok(self.reply(response, url.clone(), with_credentials))
    }

    /// Takes a response, and tells what it warns of.
    pub(crate) fn reply(&self, response: Response, url: Url, with_credentials: bool) -> Reply {
        self.told.tell(&url, response.headers());
        Reply {
            response,
            url,
            with_credentials,
            error_limit: self.config.limits.error,
            pace: Pace::new(&self.config.timeouts),
        }
    }

    /// How a host is verified that is no registry by name.
    pub(crate) fn verify_for(&self, url: &Url) -> Verify {
        Trust::of(&self.config, &crate::endpoint::host_and_port(url), url).verify()
    }
}

/// A reply whose body is not read yet.
#[derive(Debug)]
pub(crate) struct Reply {
    response: Response,
    pub(crate) url: Url,
    with_credentials: bool,
    error_limit: u64,
    pace: Pace,
}

impl Reply {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// A header as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// Whether the request carried an account's proof.
    pub(crate) const fn was_proved(&self) -> bool {
        self.with_credentials
    }

    pub(crate) fn shown(&self) -> String {
        redirect::shown(&self.url)
    }

    fn is_transient(&self) -> bool {
        crate::retry::is_transient_status(self.status().as_u16())
    }

    /// Declared length of the body; of a HEAD's absent body too.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.header(CONTENT_LENGTH.as_str())?.parse().ok()
    }

    /// Target of a redirect that this method may follow.
    fn redirect(&self, method: &Method) -> Option<String> {
        let followed = match self.status().as_u16() {
            301..=303 => matches!(*method, Method::GET | Method::HEAD),
            307 | 308 => true,
            _ => false,
        };
        if followed { self.header(LOCATION.as_str()).map(str::to_owned) } else { None }
    }

    /// Passes a 2xx on and makes an error of anything else.
    pub(crate) async fn success(self) -> Result<Self, Error> {
        if self.status().is_success() { Ok(self) } else { Err(self.into_error().await) }
    }

    /// Reads the error body, as far as it goes.
    pub(crate) async fn into_error(mut self) -> Error {
        let status = self.status().as_u16();
        let retry_after = retry_after(self.headers());
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = self.next_chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() as u64 > self.error_limit {
                break;
            }
        }
        let errors = ErrorBody::parse(&body);
        let (url, with_credentials) = (self.shown(), self.with_credentials);
        match status {
            401 | 403 => Error::Denied { url, with_credentials, errors },
            404 => Error::NotFound { url, errors },
            _ => Error::Status { url, status, errors, retry_after },
        }
    }

    /// The next piece of the body, `None` at its end.
    pub(crate) async fn next_chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let started = Instant::now();
        let read = tokio::time::timeout(self.pace.stall, self.response.chunk()).await;
        let stalled = |pace: &Pace, url| {
            let (received, waited) = (pace.received, pace.waited + started.elapsed());
            Error::Stalled { url, received, waited }
        };
        match read {
            Err(_) => Err(stalled(&self.pace, self.shown())),
            Ok(Err(source)) => {
                Err(Error::Transport { url: self.shown(), source: ConnectionError::new(source) })
            }
            Ok(Ok(None)) => Ok(None),
            Ok(Ok(Some(chunk))) => {
                if !self.pace.keeps(chunk.len() as u64, started.elapsed()) {
                    return Err(stalled(&self.pace, self.shown()));
                }
                Ok(Some(chunk))
            }
        }
    }

    /// Reads the whole body, which is at most `limit` bytes.
    pub(crate) async fn read(&mut self, limit: u64) -> Result<Bytes, Error> {
        let too_large = |reply: &Self| Error::TooLarge { object: reply.shown(), limit };
        if self.content_length().is_some_and(|length| length > limit) {
            return Err(too_large(self));
        }
        let mut body = Vec::new();
        while let Some(chunk) = self.next_chunk().await? {
            if body.len() as u64 + chunk.len() as u64 > limit {
                return Err(too_large(self));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.into())
    }

    /// Reads a short rest, so that the connection can be used again.
    pub(crate) async fn drain(&mut self) {
        const SHORT_BYTES: u64 = 16 << 10;
        if self.content_length().is_none_or(|length| length > SHORT_BYTES) {
            return;
        }
        // A rest that cannot be read costs the connection, nothing else.
        while let Ok(Some(_)) = self.next_chunk().await {}
    }
}

/// Guards a body against a server that trickles: each span must bring so many bytes. Only time
/// spent waiting for the server counts.
#[derive(Debug)]
struct Pace {
    stall: Duration,
    span: Duration,
    span_bytes: u64,
    waited: Duration,
    received: u64,
    in_span: (Duration, u64),
}

impl Pace {
    const fn new(timeouts: &TimeoutConfig) -> Self {
        Self {
            stall: timeouts.stall,
            span: timeouts.progress,
            span_bytes: timeouts.progress_bytes,
            waited: Duration::ZERO,
            received: 0,
            in_span: (Duration::ZERO, 0),
        }
    }

    /// Counts a piece; false if the body is too slow.
    fn keeps(&mut self, bytes: u64, waited: Duration) -> bool {
        self.waited += waited;
        self.received += bytes;
        let (span, in_span) = (self.in_span.0 + waited, self.in_span.1 + bytes);
        if in_span >= self.span_bytes {
            self.in_span = (Duration::ZERO, 0);
            return true;
        }
        self.in_span = (span, in_span);
        span < self.span
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_counts_spans() {
        let timeouts = TimeoutConfig {
            progress: Duration::from_secs(10),
            progress_bytes: 100,
            ..TimeoutConfig::default()
        };
        let second = Duration::from_secs(1);
        let mut pace = Pace::new(&timeouts);
        assert!((0..100).all(|_| pace.keeps(11, second)));
        let mut pace = Pace::new(&timeouts);
        assert_eq!((0..100).take_while(|_| pace.keeps(9, second)).count(), 9);
    }
}
