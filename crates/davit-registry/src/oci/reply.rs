//! Replies: a head, and a body in memory or parts of a file.

use std::{collections::VecDeque, fs::File, io, ops::Range, os::unix::fs::FileExt as _, sync::Arc};

use axum::body::Body;
use bytes::Bytes;
use davit_distribution::wire::{ErrorBody, ErrorCode, ErrorEntry};
use davit_image::Digest;
use futures_util::{TryStreamExt as _, stream};
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::{
    fault::Fault,
    store::{PartStream, Remote, StoreError},
};

/// Bytes that are read from a file at once.
const PIECE: usize = 256 << 10;

/// A reply that is not sent yet; a file's part may then go from the disk to the socket directly.
#[derive(Debug)]
pub struct Reply {
    /// Status and headers, `Content-Length` included.
    pub head: Response<()>,
    /// What follows.
    pub content: Content,
}

/// A reply's body.
#[derive(Debug)]
pub enum Content {
    /// Nothing, or a `HEAD`'s.
    None,
    /// Bytes in memory.
    Bytes(Bytes),
    /// Bytes that are still coming; an error breaks the connection off.
    Stream(Body),
    /// Parts of a file, and bytes between them.
    File(Arc<File>, VecDeque<Segment>),
    /// Parts of an object, the first of which was asked for, and bytes between them.
    Remote(Remote, PartStream, VecDeque<Segment>),
}

/// A piece of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// These bytes.
    Bytes(Bytes),
    /// This part of the file.
    Part(Range<u64>),
}

impl Segment {
    /// The part that it is.
    pub(super) fn part(&self) -> Option<Range<u64>> {
        match self {
            Self::Part(range) => Some(range.clone()),
            Self::Bytes(_) => None,
        }
    }
}

impl Reply {
    /// A reply without a body.
    #[must_use]
    pub fn new(status: StatusCode) -> Self {
        let mut head = Response::new(());
        *head.status_mut() = status;
        Self { head, content: Content::None }.with(header::CONTENT_LENGTH, "0")
    }

    /// A reply with a body of this type.
    #[must_use]
    pub fn bytes(status: StatusCode, kind: &str, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let mut reply = Self::new(status)
            .with(header::CONTENT_TYPE, kind)
            .with(header::CONTENT_LENGTH, &body.len().to_string());
        reply.content = Content::Bytes(body);
        reply
    }

    /// A reply in JSON.
    #[must_use]
    pub fn json(status: StatusCode, kind: &str, value: &impl Serialize) -> Self {
        // Only maps with keys that are no strings fail, and replies have none.
        Self::bytes(status, kind, serde_json::to_vec(value).unwrap_or_default())
    }

    /// An error in the form of the specification.
    #[must_use]
    pub fn error(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self::json(status, "application/json", &ErrorBody::new(code, message))
    }

    /// Sets a header; what cannot be one is left out.
    #[must_use]
    pub fn with(mut self, name: impl Into<HeaderName>, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.head.headers_mut().insert(name.into(), value);
        }
        self
    }

    /// Adds the digest of the content, also as its validator.
    #[must_use]
    pub fn with_digest(self, digest: &Digest) -> Self {
        self.with(
            HeaderName::from_static(davit_distribution::wire::CONTENT_DIGEST),
            &digest.to_string(),
        )
        .with(header::ETAG, &format!("\"{digest}\""))
    }

    /// How many bytes the body has, as the head says.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        let length = self.head.headers().get(header::CONTENT_LENGTH);
        length.and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or(0)
    }

    /// Leaves the body out, for `HEAD`.
    #[must_use]
    pub fn without_body(mut self) -> Self {
        self.content = Content::None;
        self
    }

    /// The reply as hyper sends it.
    #[must_use]
    pub fn into_response(self) -> Response<Body> {
        self.head.map(|()| match self.content {
            Content::None => Body::empty(),
            Content::Bytes(bytes) => bytes.into(),
            Content::Stream(body) => body,
            Content::File(file, segments) => file_body(file, segments),
            Content::Remote(remote, first, segments) => remote_body(remote, first, segments),
        })
    }
}

impl From<Fault> for Reply {
    fn from(fault: Fault) -> Self {
        let (status, code, message, detail) = fault.reply();
        if status.is_server_error() && !matches!(fault, Fault::Ending) {
            let request_id = crate::server::request_id();
            let error: &dyn std::error::Error = &fault;
            tracing::error!(request_id, error, "a request failed");
        }
        let body = ErrorBody { errors: vec![ErrorEntry { code, message, detail }] };
        let reply = Self::json(status, "application/json", &body);
        match fault {
            Fault::Range(size) => reply.with(header::CONTENT_RANGE, &format!("bytes */{size}")),
            Fault::Busy | Fault::Ending => reply.with(header::RETRY_AFTER, "10"),
            _ => reply,
        }
    }
}

fn file_body(file: Arc<File>, segments: VecDeque<Segment>) -> Body {
    Body::from_stream(stream::unfold((file, segments), |(file, mut segments)| async move {
        let piece = match segments.pop_front()? {
            Segment::Bytes(bytes) => Ok(bytes),
            Segment::Part(range) => {
                let end = range.end.min(range.start + PIECE as u64);
                if end < range.end {
                    segments.push_front(Segment::Part(end..range.end));
                }
                let file = Arc::clone(&file);
                let read = move || read_part(&file, range.start..end);
                let read = tokio::task::spawn_blocking(read).await;
                read.unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
            }
        };
        Some((piece, (file, segments)))
    }))
}

/// Each part is asked for when the one before it was sent.
fn remote_body(remote: Remote, first: PartStream, segments: VecDeque<Segment>) -> Body {
    let state = (Some(first), None, segments);
    Body::from_stream(stream::try_unfold(state, move |state| {
        let remote = remote.clone();
        async move {
            let (mut first, mut part, mut segments): (_, Option<PartStream>, VecDeque<Segment>) =
                state;
            loop {
                if let Some(pieces) = &mut part {
                    if let Some(piece) = pieces.try_next().await? {
                        return Ok::<_, StoreError>(Some((piece, (first, part, segments))));
                    }
                    part = None;
                }
                match segments.pop_front() {
                    None => return Ok(None),
                    Some(Segment::Bytes(bytes)) => {
                        return Ok(Some((bytes, (first, part, segments))));
                    }
                    Some(Segment::Part(range)) => {
                        part = Some(match first.take() {
                            Some(first) => first,
                            None => remote.part(range).await?,
                        });
                    }
                }
            }
        }
    }))
}

fn read_part(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes.into())
}
