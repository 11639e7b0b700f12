//! Why a request is refused: one type from the use cases to the reply.

use davit_distribution::wire::ErrorCode;
use davit_image::{Digest, DocumentError};
use http::StatusCode;
use serde_json::{Value, json};

use crate::{db::DbError, store::StoreError};

/// A refusal, with what the client is told.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// There is no such thing, or the caller may not know of it.
    #[error("there is no such {}, or you may not see it", thing(.0))]
    Unknown(ErrorCode),
    /// The request breaks a rule of the protocol.
    #[error("{1}")]
    Invalid(ErrorCode, String),
    /// The bytes are no manifest.
    #[error("the manifest is not valid")]
    Manifest(#[from] DocumentError),
    /// A manifest names blobs or manifests that the repository lacks.
    #[error("the repository lacks {} that the manifest names", .0.len())]
    Missing(Vec<Digest>),
    /// A part of an upload does not follow the last one: the session has so many bytes.
    #[error("the session goes on at byte {offset}")]
    OutOfOrder {
        /// The session.
        session: uuid::Uuid,
        /// Bytes that it has.
        offset: u64,
    },
    /// None of the wanted ranges exists in so many bytes.
    #[error("no such range in {0} bytes")]
    Range(u64),
    /// The registry does not do this.
    #[error("{0}")]
    Unsupported(String),
    /// The caller, or the one whose space it is, may not do this.
    #[error("{0}")]
    Denied(String),
    /// What is sent is too large.
    #[error("{0}")]
    TooLarge(String),
    /// `If-Match` or `If-None-Match` does not hold.
    #[error("the tag names another manifest")]
    Precondition,
    /// Another registry did not give what was asked for.
    #[error("the registry that is mirrored does not answer as it should")]
    Upstream,
    /// Another request works on this.
    #[error("too many requests on this")]
    Busy,
    /// The server ends; what arrived is kept.
    #[error("the registry is restarting; go on with the upload afterwards")]
    Ending,
    /// The client went away.
    #[error("the request ended early")]
    Disconnected,
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DbError),
    /// The blob store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Fault {
    /// The blob is not in this repository.
    pub const BLOB_UNKNOWN: Self = Self::Unknown(ErrorCode::BlobUnknown);
    /// The manifest is not in this repository.
    pub const MANIFEST_UNKNOWN: Self = Self::Unknown(ErrorCode::ManifestUnknown);
    /// There is no such repository.
    pub const NAME_UNKNOWN: Self = Self::Unknown(ErrorCode::NameUnknown);
    /// There is no such upload session.
    pub const UPLOAD_UNKNOWN: Self = Self::Unknown(ErrorCode::BlobUploadUnknown);

    /// A malformed or wrong digest.
    #[must_use]
    pub fn digest(message: impl Into<String>) -> Self {
        Self::Invalid(ErrorCode::DigestInvalid, message.into())
    }

    /// What the client is told: status, code, words, facts.
    #[must_use]
    pub fn reply(&self) -> (StatusCode, ErrorCode, String, Value) {
        let (status, code) = match self {
            Self::Unknown(code) => (StatusCode::NOT_FOUND, code.clone()),
            Self::Invalid(code, _) => (StatusCode::BAD_REQUEST, code.clone()),
            Self::Manifest(_) => (StatusCode::BAD_REQUEST, ErrorCode::ManifestInvalid),
            Self::Missing(_) => (StatusCode::BAD_REQUEST, ErrorCode::ManifestBlobUnknown),
            Self::OutOfOrder { .. } => {
                (StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::BlobUploadInvalid)
            }
            Self::Range(_) => (StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::RangeInvalid),
            Self::Unsupported(_) => (StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported),
            Self::Denied(_) => (StatusCode::FORBIDDEN, ErrorCode::Denied),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::SizeInvalid),
            Self::Precondition => (StatusCode::PRECONDITION_FAILED, ErrorCode::Denied),
            Self::Upstream => (StatusCode::BAD_GATEWAY, ErrorCode::Unavailable),
            Self::Busy => (StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests),
            Self::Disconnected => (StatusCode::BAD_REQUEST, ErrorCode::BlobUploadInvalid),
            Self::Store(error) if error.is_full() => {
                (StatusCode::INSUFFICIENT_STORAGE, ErrorCode::Unavailable)
            }
            Self::Ending | Self::Database(_) | Self::Store(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable)
            }
        };
        let message = match self {
            // What went wrong inside is for the log.
            Self::Database(_) | Self::Store(_) => "the registry cannot do this now".to_owned(),
            Self::Manifest(error) => error.to_string(),
            other => other.to_string(),
        };
        (status, code, message, self.detail())
    }

    fn detail(&self) -> Value {
        match self {
            Self::Missing(digests) => {
                let texts: Vec<_> = digests.iter().map(ToString::to_string).collect();
                json!({ "digests": texts })
            }
            Self::OutOfOrder { offset, .. } => json!({ "offset": offset }),
            _ => Value::Null,
        }
    }
}

/// What a code says is not there.
const fn thing(code: &ErrorCode) -> &'static str {
    match code {
        ErrorCode::BlobUnknown => "blob",
        ErrorCode::BlobUploadUnknown => "upload",
        ErrorCode::ManifestUnknown => "manifest",
        _ => "repository",
    }
}

/// An error with its causes.
pub(crate) fn in_words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
