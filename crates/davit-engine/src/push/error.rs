//! Why a push fails, and what would help.

use davit_image::{DiffId, Digest, Platform};
use davit_store::StoreError;

use crate::{Hint, estargz::EstargzError, pull::registry_hints, registry::RegistryError};

/// Why a push failed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The network side cannot be set up.
    #[error("cannot push {reference}")]
    Setup {
        /// What was to go.
        reference: String,
        /// Cause.
        #[source]
        source: RegistryError,
    },
    /// The registry did not take it.
    #[error("cannot push {reference}")]
    Registry {
        /// What was to go.
        reference: String,
        /// Cause.
        #[source]
        source: davit_distribution::Error,
    },
    /// The store did not give it.
    #[error("cannot read {reference}")]
    Store {
        /// What was to go.
        reference: String,
        /// Cause.
        #[source]
        source: StoreError,
    },
    /// There is no such tag here.
    #[error("there is no image {reference} to push")]
    NotFound {
        /// What was to go.
        reference: String,
        /// Local images whose names are near.
        similar: Vec<String>,
    },
    /// A stored document is malformed.
    #[error("stored document {digest} of {reference} is malformed")]
    Document {
        /// What was to go.
        reference: String,
        /// The document.
        digest: Digest,
    },
    /// A layer cannot be brought into the form that is asked for.
    #[error("cannot make the eStargz form of layer {diff_id}")]
    Form {
        /// The layer.
        diff_id: DiffId,
        /// Cause.
        #[source]
        source: EstargzError,
    },
    /// Whoever asked for it wants it no more.
    #[error("the push of {reference} was cancelled")]
    Cancelled {
        /// What was to go.
        reference: String,
    },
    /// Parts are neither here nor at the registry.
    #[error("{reference} is not whole here: {missing} is missing")]
    Incomplete {
        /// What was to go.
        reference: String,
        /// What is missing.
        missing: Digest,
    },
    /// The index has nothing for the platform.
    #[error("{reference} has no image for {platform} here")]
    Platform {
        /// What was to go.
        reference: String,
        /// Platform asked for.
        platform: Platform,
    },
}

impl Hint for PushError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Registry { reference, source } => registry_hints(reference, source, &[]),
            Self::NotFound { reference, similar } => similar
                .first()
                .map(|near| format!("davit tag {near} {reference}"))
                .into_iter()
                .collect(),
            Self::Store { source, .. } => source.hints(),
            Self::Incomplete { reference, .. } => vec![format!("davit pull {reference}")],
            _ => Vec::new(),
        }
    }
}
