//! Requests of protocols other than the registry's, over the same connections.

use bytes::Bytes;
use reqwest::{
    Method,
    header::{HeaderMap, HeaderName, HeaderValue},
};

use crate::{
    Client, Error, RetryConfig,
    download::parse,
    redirect,
    retry::{Backoff, is_transient_status, parse_date},
    transport::{Call, Payload, Reply},
};

/// A request that can be sent again.
#[derive(Clone)]
pub struct WebRequest {
    /// Method, in upper case.
    pub method: &'static str,
    /// The address; what a signature in its query says is not shown.
    pub address: String,
    /// Headers, which may hold secrets: they are not shown either.
    pub headers: Vec<(&'static str, String)>,
    /// Body.
    pub body: Bytes,
    /// How often it is sent at most; `None`: as often as any other.
    pub attempts: Option<u32>,
}

impl std::fmt::Debug for WebRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebRequest").field("method", &self.method).finish_non_exhaustive()
    }
}

/// An answer of any status, its body not read yet.
#[derive(Debug)]
pub struct WebReply(Reply);

impl WebRequest {
    /// A request without headers and body.
    #[must_use]
    pub fn new(method: &'static str, address: impl Into<String>) -> Self {
        let (headers, body) = (Vec::new(), Bytes::new());
        Self { method, address: address.into(), headers, body, attempts: None }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn call(&self) -> Result<Call, Error> {
        let url = parse(&self.address)?;
        let malformed = || Error::Protocol {
            url: redirect::shown(&url),
            problem: "is to be sent what no header can carry".to_owned(),
        };
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let mut value = HeaderValue::from_str(value).map_err(|_| malformed())?;
            value.set_sensitive(true);
            headers.insert(HeaderName::from_static(name), value);
        }
        let method = Method::from_bytes(self.method.as_bytes()).map_err(|_| malformed())?;
        let payload = match self.body.is_empty() {
            true => Payload::Empty,
            false => Payload::Bytes(self.body.clone()),
        };
        Ok(Call { headers, payload, ..Call::new(method, url) })
    }
}

impl Client {
    /// Sends a request, with the proxies and certificates that registries are reached by but without
    /// credentials of its own, until there is an answer that is not transient. Redirects are answers.
    ///
    /// # Errors
    /// [`Error::Protocol`] for what is no HTTP request, else when there is no answer.
    pub async fn ask(&self, request: &WebRequest) -> Result<WebReply, Error> {
        let call = request.call()?;
        let transport = self.transport();
        let http = transport.connections().to(&call.url, transport.verify_for(&call.url))?;
        let standard = &self.config().retry;
        let attempts = request.attempts.unwrap_or(standard.attempts).max(1);
        let retry = RetryConfig { attempts, ..standard.clone() };
        let mut backoff = Backoff::new(&retry);
        loop {
            match transport.exchange(&http, &call, &call.url, None).await {
                Ok(reply) if is_transient_status(reply.status().as_u16()) => {
                    backoff.wait(reply.into_error().await).await?;
                }
                Ok(reply) => return Ok(WebReply(reply)),
                Err(error) => backoff.wait(error).await?,
            }
        }
    }
}

impl Client {
    /// As [`Self::ask`], but once: whatever the server answers is the answer.
    ///
    /// # Errors
    /// [`Error::Protocol`] for what is no HTTP request, else when there is no answer.
    pub async fn ask_once(&self, request: &WebRequest) -> Result<WebReply, Error> {
        let call = request.call()?;
        let transport = self.transport();
        let http = transport.connections().to(&call.url, transport.verify_for(&call.url))?;
        transport.exchange(&http, &call, &call.url, None).await.map(WebReply)
    }
}

impl WebReply {
    /// The status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.0.status().as_u16()
    }

    /// A header as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.0.header(name)
    }

    /// `Last-Modified`, as seconds since 1970.
    #[must_use]
    pub fn modified(&self) -> Option<i64> {
        i64::try_from(parse_date(self.header("last-modified")?)?).ok()
    }

    /// Declared length of the body.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.0.content_length()
    }

    /// Passes a 2xx on.
    ///
    /// # Errors
    /// Anything else.
    pub async fn success(self) -> Result<Self, Error> {
        self.0.success().await.map(Self)
    }

    /// The next piece of the body, `None` after the last; the pieces have no limit in all.
    ///
    /// # Errors
    /// When the body breaks off, or comes too slowly.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, Error> {
        self.0.next_chunk().await
    }

    /// The whole body, which is at most `limit` bytes.
    ///
    /// # Errors
    /// When it is more, breaks off, or comes too slowly.
    pub async fn read(&mut self, limit: u64) -> Result<Bytes, Error> {
        self.0.read(limit).await
    }

    /// What is wrong with an answer that says yes.
    #[must_use]
    pub fn problem(&self, problem: impl Into<String>) -> Error {
        Error::Protocol { url: self.0.shown(), problem: problem.into() }
    }
}
