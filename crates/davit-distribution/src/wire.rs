//! What crosses the network (distribution-spec, Docker token and search protocols).
//!
//! Shared by the client and the registry server; no IO.

mod challenge;
mod errors;
mod lists;
mod scope;
mod token;
mod warning;

pub use challenge::Challenge;
pub(crate) use errors::Printable;
pub use errors::{ErrorBody, ErrorCode, ErrorEntry};
pub use lists::{Catalog, SearchEntry, SearchPage, TagList, next_link};
pub use scope::{Scope, ScopeError};
pub use token::TokenResponse;
pub use warning::warnings;

/// Header with the digest of the manifest or blob in a reply.
pub const CONTENT_DIGEST: &str = "docker-content-digest";
/// Header by which a server says that it is a registry.
pub const API_VERSION: &str = "docker-distribution-api-version";
/// Header that names an upload session.
pub const UPLOAD_UUID: &str = "docker-upload-uuid";
/// Header by which a server says that it handled a manifest's `subject`.
pub const SUBJECT: &str = "oci-subject";
/// Header with the smallest chunk that an upload session takes, in bytes.
pub const CHUNK_MIN_LENGTH: &str = "oci-chunk-min-length";
