//! Uploads: mount, stream once while hashing, resume by the session's status.
//!
//! ```text
//! POST uploads/?mount=… ─ 201 mounted
//!        └ 202 Location ─ PATCH (streamed, chunked) ─ PUT ?digest=…
//!                            ^ broken: GET status, go on from there
//! ```

mod metered;

use std::time::Duration;

use bytes::Bytes;
use davit_image::{Algorithm, Descriptor, Digest, Repository};
use reqwest::{
    Method, RequestBuilder, StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LOCATION},
};
use tokio::sync::mpsc::Receiver;

use self::metered::{Meter, MeteredBody};
use crate::{
    Error, Session,
    auth::Subject,
    endpoint::Endpoint,
    error::ConnectionError,
    redirect, retry,
    transport::{Call, Payload, Reply},
    wire::Scope,
};

/// Why content to be sent could not be read.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Content from some offset to its end, in pieces of any size.
pub type SourceReader = Receiver<Result<Bytes, SourceError>>;

/// Content that can be read again from any offset, with the same bytes each time.
pub trait BlobSource: Send + Sync {
    /// Starts reading at `offset`; the work is done elsewhere, on a bounded channel, and ends when
    /// the receiver is dropped. A channel that closes ends the content.
    fn open(&self, offset: u64) -> SourceReader;

    /// Size in bytes, where it is known beforehand.
    fn size(&self) -> Option<u64>;
}

/// How a blob came to be in the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uploaded {
    /// Digest of what was sent.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Bytes that went over the network, repetitions included.
    pub sent_bytes: u64,
}

/// Where an upload goes on.
struct Place {
    location: Url,
    offset: u64,
}

impl Session {
    /// Makes a blob of another repository on the same registry appear in this one.
    ///
    /// False: the registry does not have it there, does not show it to this account, or does not
    /// mount; then it is to be uploaded.
    ///
    /// # Errors
    /// What went wrong at the registry.
    pub async fn mount_blob(&self, digest: &Digest, from: &Repository) -> Result<bool, Error> {
        if from.registry() != self.repository.registry() {
            return Ok(false);
        }
        let origin = self.origin().await?;
        let mut call = self.call(&origin, Method::POST, "blobs/uploads/");
        call.url
            .query_pairs_mut()
            .append_pair("mount", &digest.to_string())
            .append_pair("from", from.path());
        call.scopes.push(Scope::repository(from.path(), &["pull"]));
        let mut reply = self.send(&origin, &call).await?;
        match reply.status() {
            StatusCode::CREATED => {
                reply.drain().await;
                Ok(true)
            }
            StatusCode::ACCEPTED => {
                // A session was opened instead; it is not left behind.
                if let Ok(location) = location(&reply) {
                    self.cancel(&origin, location).await;
                }
                Ok(false)
            }
            // The token server or the registry may not like the second repository.
            status if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                Ok(false)
            }
            _ => Err(reply.into_error().await),
        }
    }

    /// Uploads small content by one request, apart from opening the session.
    ///
    /// # Errors
    /// What went wrong at the registry.
    pub async fn upload_bytes(&self, content: Bytes) -> Result<Uploaded, Error> {
        let origin = self.origin().await?;
        let (digest, size_bytes) = (Digest::of(&content), content.len() as u64);
        let place = self.begin(&origin).await?;
        self.commit(&origin, place.location, &digest, content).await?;
        Ok(Uploaded { digest, size_bytes, sent_bytes: size_bytes })
    }

    /// Uploads content in one stream and learns its digest on the way. A broken stream goes on
    /// where the registry has it.
    ///
    /// # Errors
    /// [`Error::Digest`] or [`Error::Size`] if the content is not `expected`; [`Error::Source`] if
    /// it cannot be read; else what went wrong at the registry.
    pub async fn upload(
        &self,
        source: &dyn BlobSource,
        expected: Option<&Descriptor>,
    ) -> Result<Uploaded, Error> {
        let origin = self.origin().await?;
        let algorithm =
            expected.map_or(Algorithm::Sha256, |descriptor| descriptor.digest.algorithm());
        let meter = Meter::new(algorithm);
        let place = self.stream(&origin, source, &meter).await?;
        let (digest, size_bytes, sent_bytes) = meter.finish();
        if let Err(error) = check_expected(expected, digest, size_bytes) {
            self.cancel(&origin, place.location).await;
            return Err(error);
        }
        self.commit(&origin, place.location, &digest, Bytes::new()).await?;
        Ok(Uploaded { digest, size_bytes, sent_bytes })
    }

    /// Sends the whole content to a session, resuming as often as settings allow.
    async fn stream(
        &self,
        origin: &Endpoint,
        source: &dyn BlobSource,
        meter: &Meter,
    ) -> Result<Place, Error> {
        let config = &self.client.config().retry;
        let mut place = self.begin(origin).await?;
        let (mut failures, mut failed_at) = (0, 0);
        loop {
            let error = match self.patch(origin, &place, source, meter).await {
                Ok(location) => return Ok(Place { location, ..place }),
                Err(error) => error,
            };
            let position = meter.lock().position;
            if position.saturating_sub(failed_at) >= PROGRESS_BYTES {
                failures = 0;
            }
            failed_at = position;
            failures += 1;
            let again = may_resume(&error) && failures < config.attempts;
            if !again || !retry::pause(config, failures, &error).await {
                self.cancel(origin, place.location).await;
                return Err(error);
            }
            place = self.resume(origin, place).await?;
        }
    }

    /// Opens an upload session.
    async fn begin(&self, origin: &Endpoint) -> Result<Place, Error> {
        let call = self.call(origin, Method::POST, "blobs/uploads/");
        let mut reply = self.send(origin, &call).await?.success().await?;
        reply.drain().await;
        Ok(Place { location: location(&reply)?, offset: 0 })
    }

    /// Asks how much of a session the registry has; opens another one if it forgot this one.
    async fn resume(&self, origin: &Endpoint, place: Place) -> Result<Place, Error> {
        let call = self.call_to(Method::GET, place.location.clone());
        let mut reply = self.send(origin, &call).await?;
        if !reply.status().is_success() {
            return self.begin(origin).await;
        }
        reply.drain().await;
        let range = reply.header("range").and_then(parse_range);
        let location = location(&reply).unwrap_or(place.location);
        match range {
            Some(last) => Ok(Place { location, offset: last + 1 }),
            // `0-0` means nothing or one byte, depending on the server.
            None => {
                self.cancel(origin, location).await;
                self.begin(origin).await
            }
        }
    }

    /// Streams the content from the place on; returns where the session goes on.
    async fn patch(
        &self,
        origin: &Endpoint,
        place: &Place,
        source: &dyn BlobSource,
        meter: &Meter,
    ) -> Result<Url, Error> {
        let reply = self.patch_once(origin, place, source, meter).await?;
        let reply = if reply.status() == StatusCode::UNAUTHORIZED
            && self.renew_proof(origin, &reply).await?
        {
            self.patch_once(origin, place, source, meter).await?
        } else {
            reply
        };
        let mut reply = reply.success().await?;
        reply.drain().await;
        // Some servers name the session only once.
        Ok(location(&reply).unwrap_or_else(|_| place.location.clone()))
    }

    async fn renew_proof(&self, origin: &Endpoint, reply: &Reply) -> Result<bool, Error> {
        if !redirect::same_origin(&origin.base, &reply.url) {
            return Ok(false);
        }
        let call = self.call_to(Method::PATCH, reply.url.clone());
        let transport = self.client.transport();
        let better =
            origin.auth.answer(transport, subject(origin, &call), reply.headers(), None).await?;
        Ok(better.is_some())
    }

    async fn patch_once(
        &self,
        origin: &Endpoint,
        place: &Place,
        source: &dyn BlobSource,
        meter: &Meter,
    ) -> Result<Reply, Error> {
        let transport = self.client.transport();
        let call = self.call_to(Method::PATCH, place.location.clone());
        let own_host = redirect::same_origin(&origin.base, &call.url);
        let (http, proof) = if own_host {
            (origin.http.clone(), origin.auth.proof(transport, subject(origin, &call)).await?)
        } else {
            let verify = transport.verify_for(&call.url);
            (transport.connections().to(&call.url, verify)?, None)
        };
        let mut request = http
            .request(Method::PATCH, call.url.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        if let (Some(size), true) = (source.size(), place.offset > 0) {
            let last = size.saturating_sub(1);
            request = request.header(CONTENT_RANGE, format!("{}-{last}", place.offset));
        }
        let with_credentials = proof.as_ref().is_some_and(|proof| proof.with_credentials);
        if let Some(proof) = proof {
            request = request.header(AUTHORIZATION, proof.header);
        }
        meter.restart(place.offset);
        let remaining = source.size().map(|size| size.saturating_sub(place.offset));
        let body =
            MeteredBody { pieces: source.open(place.offset), meter: meter.clone(), remaining };
        let response =
            self.watch(request.body(reqwest::Body::wrap(body)), &call.url, meter).await?;
        Ok(transport.reply(response, call.url, with_credentials))
    }

    /// Sends a request whose body is metered, and gives up when the server takes nothing more.
    async fn watch(
        &self,
        request: RequestBuilder,
        url: &Url,
        meter: &Meter,
    ) -> Result<reqwest::Response, Error> {
        let timeouts = &self.client.config().timeouts;
        let shown = redirect::shown(url);
        let mut sending = std::pin::pin!(request.send());
        let (mut seen, mut idle) = (0, Duration::ZERO);
        loop {
            let answered = tokio::time::timeout(timeouts.stall, &mut sending).await;
            let Ok(result) = answered else {
                let state = meter.lock();
                let moved = state.sent != seen || state.is_waiting;
                idle = if moved { Duration::ZERO } else { idle + timeouts.stall };
                seen = state.sent;
                let patience = if state.is_ended { timeouts.reply } else { timeouts.stall };
                if idle >= patience {
                    return Err(Error::Stalled { url: shown, received: 0, waited: idle });
                }
                continue;
            };
            if let Some(source) = meter.lock().failure.take() {
                return Err(Error::Source { url: shown, source });
            }
            return result.map_err(|source| Error::Transport {
                url: shown,
                source: ConnectionError::new(source),
            });
        }
    }

    /// Ends a session: what was sent becomes the blob.
    async fn commit(
        &self,
        origin: &Endpoint,
        mut location: Url,
        digest: &Digest,
        content: Bytes,
    ) -> Result<(), Error> {
        location.query_pairs_mut().append_pair("digest", &digest.to_string());
        let mut call = self.call_to(Method::PUT, location);
        let binary = HeaderValue::from_static("application/octet-stream");
        call.headers.insert(CONTENT_TYPE, binary);
        if !content.is_empty() {
            call.payload = Payload::Bytes(content);
        }
        let reply = self.send(origin, &call).await?;
        // A repeated PUT finds no session if the first one did its work and only its answer was
        // lost.
        let lost = reply.status() == StatusCode::NOT_FOUND;
        if lost && self.blob_size(digest).await?.is_some() {
            return Ok(());
        }
        let mut reply = reply.success().await?;
        reply.drain().await;
        Ok(())
    }

    /// Gives a session up. What remains of it if this fails is the registry's to sweep.
    async fn cancel(&self, origin: &Endpoint, location: Url) {
        let call = self.call_to(Method::DELETE, location);
        if let Err(error) = self.client.transport().send_once(origin, &call).await {
            tracing::debug!("upload session is left behind: {error}");
        }
    }
}

/// An upload that moved on this much since the last failure counts its failures afresh.
const PROGRESS_BYTES: u64 = 1 << 20;

fn subject<'a>(origin: &'a Endpoint, call: &'a Call) -> Subject<'a> {
    Subject {
        base: &origin.base,
        host: &origin.credential_host,
        path: &call.path,
        scopes: &call.scopes,
    }
}

/// Tells whether asking for the session's status may help.
fn may_resume(error: &Error) -> bool {
    const RANGE_NOT_SATISFIABLE: u16 = 416;
    error.is_transient()
        || error.is_not_found()
        || matches!(error, Error::Status { status: RANGE_NOT_SATISFIABLE, .. })
}

fn check_expected(
    expected: Option<&Descriptor>,
    digest: Digest,
    size_bytes: u64,
) -> Result<(), Error> {
    let Some(expected) = expected else { return Ok(()) };
    let object = expected.digest.to_string();
    if expected.size != size_bytes {
        return Err(Error::Size { object, expected: expected.size, actual: size_bytes });
    }
    if expected.digest != digest {
        return Err(Error::Digest { object, expected: expected.digest, actual: Box::new(digest) });
    }
    Ok(())
}

/// Where the session that a reply names goes on.
fn location(reply: &Reply) -> Result<Url, Error> {
    let named = reply.header(LOCATION.as_str()).ok_or("names no upload session".to_owned());
    named
        .and_then(|location| redirect::follow(&reply.url, location))
        .map_err(|problem| Error::Protocol { url: reply.shown(), problem })
}

/// Last position of `0-LAST`; `None` for `0-0` and what is malformed.
fn parse_range(text: &str) -> Option<u64> {
    let text = text.trim();
    let range = text.strip_prefix("bytes=").unwrap_or(text);
    let (first, last) = range.split_once('-')?;
    let last = last.parse().ok()?;
    (first == "0" && last > 0).then_some(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ranges_of_sessions() {
        for (text, expected) in [
            ("0-9", Some(9)),
            ("bytes=0-9", Some(9)),
            ("0-0", None),
            ("5-9", None),
            ("0--1", None),
            ("", None),
        ] {
            assert_eq!(parse_range(text), expected, "{text}");
        }
    }
}
