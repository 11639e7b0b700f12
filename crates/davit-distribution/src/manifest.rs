//! Manifests: resolve, fetch, put.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use davit_image::{Descriptor, Digest, Document, MediaType, Reference, Tag};
use reqwest::{
    Method, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue},
};

use crate::{
    Error, Session,
    endpoint::Endpoint,
    redirect,
    referrers::Referrer,
    transport::{Call, Payload},
    wire::{CONTENT_DIGEST, SUBJECT},
};

/// The kinds that davit understands; a registry may convert to one that is not asked for.
const ACCEPTED: [MediaType; 4] = [
    MediaType::OCI_INDEX,
    MediaType::OCI_MANIFEST,
    MediaType::DOCKER_INDEX,
    MediaType::DOCKER_MANIFEST,
];

/// What names a manifest within its repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A tag, which may move.
    Tag(Tag),
    /// A digest, which decides about the content.
    Digest(Digest),
}

impl Target {
    /// What a reference names; its digest counts before its tag.
    #[must_use]
    pub fn of(reference: &Reference) -> Self {
        match (reference.digest(), reference.tag()) {
            (Some(digest), _) => Self::Digest(*digest),
            (None, Some(tag)) => Self::Tag(tag.clone()),
            (None, None) => Self::Tag(Tag::latest()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// A manifest or index as received.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The document, checked against the digest it was asked for by.
    pub document: Document,
    /// Its type, digest (of the algorithm that was asked for) and size.
    pub descriptor: Descriptor,
}

impl Session {
    /// Finds out what a tag or digest names, by HEAD, which rate limits do not count; by GET where
    /// the registry refuses HEAD or does not say enough by it.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it names nothing; else what went wrong at the registry itself.
    pub async fn resolve(&self, target: &Target) -> Result<Descriptor, Error> {
        let mut failure = None;
        for source in self.sources().await? {
            match self.resolve_at(&source, target).await {
                Ok(descriptor) => return Ok(descriptor),
                Err(error) => failure = Some(log_mirror(&source, error)),
            }
        }
        Err(failure.expect("there is at least the registry itself"))
    }

    async fn resolve_at(&self, source: &Endpoint, target: &Target) -> Result<Descriptor, Error> {
        let call = self.manifest_call(source, Method::HEAD, target);
        // One try: whatever is wrong with HEAD, GET may do, and if not, its reply has a body to
        // say why. It has a series of tries of its own.
        let reply = match self.client.transport().send_once(source, &call).await {
            Ok(reply) if reply.status() == StatusCode::NOT_FOUND => {
                return Err(reply.into_error().await);
            }
            Err(error) if source.is_mirror() || !error.is_transient() => return Err(error),
            Ok(reply) if reply.status().is_success() => reply,
            Ok(_) | Err(_) => return Ok(self.manifest_at(source, target).await?.descriptor),
        };
        let digest = reply.header(CONTENT_DIGEST).and_then(|text| text.parse::<Digest>().ok());
        let media_type = declared_type(reply.headers());
        let size = reply.content_length().filter(|size| *size > 0);
        let (Some(digest), Some(media_type), Some(size)) = (digest, media_type, size) else {
            return Ok(self.manifest_at(source, target).await?.descriptor);
        };
        if let Target::Digest(asked) = target
            && *asked != digest
        {
            let object = redirect::shown(&call.url);
            return Err(Error::Digest { object, expected: *asked, actual: Box::new(digest) });
        }
        Ok(Descriptor::new(media_type, digest, size))
    }

    /// Fetches a manifest or index.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::TooLarge`], [`Error::Digest`], [`Error::Document`], or what
    /// else went wrong at the registry itself; a mirror's failure only leads to the next source.
    pub async fn manifest(&self, target: &Target) -> Result<Fetched, Error> {
        let mut failure = None;
        for source in self.sources().await? {
            match self.manifest_at(&source, target).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => failure = Some(log_mirror(&source, error)),
            }
        }
        Err(failure.expect("there is at least the registry itself"))
    }

    async fn manifest_at(&self, source: &Endpoint, target: &Target) -> Result<Fetched, Error> {
        let call = self.manifest_call(source, Method::GET, target);
        let limit = self.client.config().limits.manifest;
        let (headers, body) = self.client.transport().fetch(source, &call, limit).await?;
        let url = redirect::shown(&call.url);
        let digest = check_digest(&url, target, &headers, &body)?;
        let declared = declared_type(&headers);
        let size = body.len() as u64;
        let document = Document::parse(body.into(), declared.as_ref())
            .map_err(|source| Error::Document { url, source })?;
        let descriptor = Descriptor::new(document.media_type(), digest, size);
        Ok(Fetched { document, descriptor })
    }

    fn manifest_call(&self, source: &Endpoint, method: Method, target: &Target) -> Call {
        let mut call = self.call(source, method, &format!("manifests/{target}"));
        for accepted in ACCEPTED {
            let value = HeaderValue::from_str(accepted.as_str())
                .expect("the media types of manifests are header text");
            call.headers.append(ACCEPT, value);
        }
        call
    }

    /// Puts a manifest or index whose parts are there already.
    ///
    /// Idempotent. One with a `subject` that the registry does not list there is listed by
    /// [`Self::list_referrers`], when everything has arrived.
    ///
    /// # Errors
    /// [`Error::Digest`] if the registry stored something else, else what went wrong.
    pub async fn put_manifest(
        &self,
        target: &Target,
        media_type: &MediaType,
        bytes: Vec<u8>,
    ) -> Result<(), Error> {
        let origin = self.origin().await?;
        let expected = Digest::of(&bytes);
        let mut call = self.call(&origin, Method::PUT, &format!("manifests/{target}"));
        let content_type = HeaderValue::from_str(media_type.as_str()).map_err(|_| {
            let problem = "cannot be told a media type that is no header text".to_owned();
            Error::Protocol { url: redirect::shown(&call.url), problem }
        })?;
        call.headers.insert(CONTENT_TYPE, content_type);
        let bytes = Bytes::from(bytes);
        call.payload = Payload::Bytes(bytes.clone());
        let mut reply = self.send(&origin, &call).await?.success().await?;
        reply.drain().await;
        let stored = reply.header(CONTENT_DIGEST).and_then(|text| text.parse::<Digest>().ok());
        if let Some(actual) = stored
            && actual.algorithm() == expected.algorithm()
            && actual != expected
        {
            let object = redirect::shown(&call.url);
            return Err(Error::Digest { object, expected, actual: Box::new(actual) });
        }
        if reply.header(SUBJECT).is_none()
            && let Some(referrer) = Referrer::of(target, media_type, &bytes)
        {
            self.remember(&bytes, referrer);
        }
        Ok(())
    }

    /// Deletes a tag, or a manifest with all its tags; `false` where there was none.
    ///
    /// Idempotent.
    ///
    /// # Errors
    /// What went wrong; a registry that deletes nothing, or no tags, refuses with 405.
    pub async fn delete_manifest(&self, target: &Target) -> Result<bool, Error> {
        let origin = self.origin().await?;
        let call = self.call(&origin, Method::DELETE, &format!("manifests/{target}"));
        let reply = self.send(&origin, &call).await?;
        if reply.status() == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        reply.success().await?.drain().await;
        Ok(true)
    }
}

/// Says that a mirror failed, since the registry's own error is the one that is returned; notes it.
fn log_mirror(source: &Arc<Endpoint>, error: Error) -> Error {
    source.note_failure(&error);
    if source.is_mirror() {
        tracing::warn!("mirror {}: {error}", redirect::shown(&source.base));
    }
    error
}

/// Type by `Content-Type`, without parameters; generic types say nothing.
fn declared_type(headers: &HeaderMap) -> Option<MediaType> {
    let text = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let text = text.split(';').next()?.trim();
    let generic = ["", "application/json", "application/octet-stream", "text/plain"];
    (!generic.contains(&text)).then(|| MediaType::new(text))
}

/// Digest of the body, which must be the one asked for, and the one that the server names.
fn check_digest(
    url: &str,
    target: &Target,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Digest, Error> {
    let named = headers.get(CONTENT_DIGEST).and_then(|value| value.to_str().ok()?.parse().ok());
    let expected = match target {
        Target::Digest(digest) => Some(*digest),
        Target::Tag(_) => named,
    };
    let Some(expected) = expected else { return Ok(Digest::of(body)) };
    let actual = Digest::of_with(expected.algorithm(), body);
    if actual == expected {
        return Ok(actual);
    }
    Err(Error::Digest { object: url.to_owned(), expected, actual: Box::new(actual) })
}
