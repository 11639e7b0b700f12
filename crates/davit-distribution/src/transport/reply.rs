//! Replies: what a server says, and bodies with limits of size and time.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::{
    Method, Response, StatusCode, Url,
    header::{CONTENT_LENGTH, HeaderMap, LOCATION},
};

use crate::{
    ClientConfig, Error, TimeoutConfig, error::ConnectionError, redirect, retry::retry_after,
    wire::ErrorBody,
};

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
    /// A response to a request that carried an account's proof, or did not.
    pub(super) fn new(
        response: Response,
        url: Url,
        with_credentials: bool,
        config: &ClientConfig,
    ) -> Self {
        let (error_limit, pace) = (config.limits.error, Pace::new(&config.timeouts));
        Self { response, url, with_credentials, error_limit, pace }
    }

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

    pub(super) fn is_transient(&self) -> bool {
        crate::retry::is_transient_status(self.status().as_u16())
    }

    /// Declared length of the body; of a HEAD's absent body too.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.header(CONTENT_LENGTH.as_str())?.parse().ok()
    }

    /// Target of a redirect that this method may follow.
    pub(super) fn redirect(&self, method: &Method) -> Option<String> {
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
