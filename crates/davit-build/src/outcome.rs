//! What a build gives back.

use davit_image::{DiffId, Digest, ImageConfig, ImageId};

/// The result of a build, durable in the store when the caller sees it.
#[derive(Clone, Debug)]
pub struct BuildOutcome {
    /// Digest of the manifest.
    pub manifest: Digest,
    /// Digest of the config.
    pub image: ImageId,
    /// The config.
    pub config: ImageConfig,
    /// Layers, bottom first.
    pub layers: Vec<BuiltLayer>,
    /// `SOURCE_DATE_EPOCH` in seconds, of the request or the Dockerfile.
    pub epoch: Option<i64>,
    /// Steps whose earlier result was used.
    pub cached_steps: usize,
    /// Steps in all.
    pub steps: usize,
}

/// One layer of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuiltLayer {
    /// Its DiffID.
    pub diff_id: DiffId,
    /// Size of its tar in bytes.
    pub size_bytes: u64,
}
