//! A JSON document together with the exact bytes it was read from.

use serde::{Serialize, de::DeserializeOwned};

use crate::Digest;

/// A parsed JSON document that keeps its bytes.
///
/// A digest is always that of received or once-written bytes, never of re-serialised JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw<T> {
    bytes: Vec<u8>,
    digest: Digest,
    value: T,
}

impl<T: DeserializeOwned> Raw<T> {
    /// Parses received bytes.
    ///
    /// # Errors
    /// The JSON error, when the bytes are no such document.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, serde_json::Error> {
        let value = serde_json::from_slice(&bytes)?;
        Ok(Self { digest: Digest::of(&bytes), bytes, value })
    }
}

impl<T: Serialize> Raw<T> {
    /// Writes a new document once, compactly; these bytes are its identity from now on.
    ///
    /// # Panics
    /// If `T` is a type that JSON cannot hold; the model's types all are.
    #[must_use]
    pub fn write(value: T) -> Self {
        let bytes = serde_json::to_vec(&value).expect("the image model serialises to JSON");
        Self { digest: Digest::of(&bytes), bytes, value }
    }
}

impl<T> Raw<T> {
    /// The document's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// SHA-256 digest of the bytes.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Length of the bytes.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The parsed document.
    #[must_use]
    pub const fn value(&self) -> &T {
        &self.value
    }

    /// Gives up the bytes.
    #[must_use]
    pub fn into_value(self) -> T {
        self.value
    }
}
