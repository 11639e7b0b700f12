//! What a request says beside its path: query, headers, body.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use davit_distribution::wire::ErrorCode;
use davit_image::{Digest, Tag};
use futures_util::{Stream, StreamExt as _, stream};
use http::{HeaderMap, HeaderName, request::Parts};
use uuid::Uuid;

use crate::{fault::Fault, manifests::Target};

/// How long a client may take for the next piece of a body.
const PATIENCE: Duration = Duration::from_secs(60);

/// Parameters of the query, decoded.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn of(parts: &Parts) -> Self {
        let query = parts.uri.query().unwrap_or_default();
        let pairs = url::form_urlencoded::parse(query.as_bytes());
        Self(pairs.map(|(key, value)| (key.into_owned(), value.into_owned())).collect())
    }

    /// The first value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter.
    pub(super) fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A parameter that is a digest.
    pub(super) fn digest(&self, name: &str) -> Result<Option<Digest>, Fault> {
        self.get(name).map(digest).transpose()
    }

    /// The type by which referrers are filtered.
    pub(super) fn artifact_type(&self) -> Option<&str> {
        self.get("artifactType").filter(|kind| !kind.is_empty())
    }

    /// Entries of a page: `n`, or `usual`.
    pub(super) fn page_size(&self, usual: usize) -> Result<usize, Fault> {
        let Some(text) = self.get("n") else { return Ok(usual) };
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number {
            let code = ErrorCode::PaginationNumberInvalid;
            return Err(Fault::Invalid(code, "n must be a number from 0".to_owned()));
        }
        Ok(text.parse().unwrap_or(usize::MAX))
    }
}

pub(super) fn digest(text: &str) -> Result<Digest, Fault> {
    text.parse().map_err(|error: davit_image::DigestError| Fault::digest(error.to_string()))
}

pub(super) fn session(text: &str) -> Result<Uuid, Fault> {
    text.parse().map_err(|_error| Fault::UPLOAD_UNKNOWN)
}

pub(super) fn tag(text: &str) -> Result<Tag, Fault> {
    let fault = |_error| Fault::Invalid(ErrorCode::TagInvalid, "malformed tag".to_owned());
    text.parse().map_err(fault)
}

/// A tag, or with a `:` a digest.
pub(super) fn target(text: &str) -> Result<Target, Fault> {
    Ok(if text.contains(':') { Target::Digest(digest(text)?) } else { Target::Tag(tag(text)?) })
}

pub(super) fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Digests that a list of validators names; `None` for `*`.
pub(super) fn validators(header: &str) -> Option<Vec<Digest>> {
    if header.trim() == "*" {
        return None;
    }
    let one = |text: &str| text.trim().trim_start_matches("W/").trim_matches('"').parse().ok();
    Some(header.split(',').filter_map(one).collect())
}

/// The body's pieces; a client that sends nothing for [`PATIENCE`] has gone. When the server ends, so
/// does the body: what arrived can be kept.
pub(super) fn pieces(
    body: Body,
    ending: Ending,
) -> impl Stream<Item = Result<Bytes, Fault>> + Send + Unpin {
    let next = |(mut body, ending): (BodyDataStream, Ending)| async move {
        let piece = tokio::select! {
            biased;
            piece = tokio::time::timeout(PATIENCE, body.next()) => match piece {
                Ok(None) => return None,
                Ok(Some(Ok(piece))) => Ok(piece),
                Ok(Some(Err(_))) | Err(_) => Err(Fault::Disconnected),
            },
            () = ending.wait() => Err(Fault::Ending),
        };
        Some((piece, (body, ending)))
    };
    Box::pin(stream::unfold((body.into_data_stream(), ending), next))
}

/// Says when bodies are no longer waited for; the default says it never.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ending(Option<tokio::sync::watch::Receiver<bool>>);

impl Ending {
    pub(crate) const fn new(told: tokio::sync::watch::Receiver<bool>) -> Self {
        Self(Some(told))
    }

    async fn wait(&self) {
        if let Some(mut told) = self.0.clone()
            && told.wait_for(|ends| *ends).await.is_ok()
        {
            return;
        }
        // Nobody will tell.
        std::future::pending().await
    }
}

/// The whole body, when it is not larger than `most` bytes.
pub(super) async fn collect(body: Body, most: usize) -> Result<Bytes, Fault> {
    let mut pieces = pieces(body, Ending::default());
    let mut whole = BytesMut::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        if whole.len() + piece.len() > most {
            return Err(Fault::TooLarge(format!("a manifest may have {most} bytes")));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}
