//! Why a pull failed, and what helps.

use davit_image::{Digest, Platform};
use davit_layer::ReadError;
use davit_store::{StoreError, is_no_space};

use crate::{Hint, origin::OriginError, registry::RegistryError};

/// Why a pull failed.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The network side cannot be set up.
    #[error("cannot pull {reference}")]
    Setup {
        /// What was asked for.
        reference: String,
        /// Cause.
        #[source]
        source: RegistryError,
    },
    /// The registry did not give it.
    #[error("cannot pull {reference}")]
    Registry {
        /// What was asked for.
        reference: String,
        /// Cause.
        #[source]
        source: davit_distribution::Error,
        /// Local images whose names are near.
        similar: Vec<String>,
    },
    /// The store did not take it.
    #[error("cannot keep {reference}")]
    Store {
        /// What was asked for.
        reference: String,
        /// Cause.
        #[source]
        source: StoreError,
    },
    /// The index has nothing for the platform.
    #[error("{reference} has no image for {wanted}{}", offer(offered))]
    Platform {
        /// What was asked for.
        reference: String,
        /// Platform asked for.
        wanted: Platform,
        /// Platforms that it has.
        offered: Vec<String>,
    },
    /// The manifest is no image, or one that cannot be used.
    #[error("{reference} is no usable image: {problem}")]
    Unusable {
        /// What was asked for.
        reference: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file, folder or archive did not give it.
    #[error("cannot read {reference}")]
    Origin {
        /// What was asked for.
        reference: String,
        /// Cause.
        #[source]
        source: OriginError,
    },
    /// A layer is malformed, or not what the manifest and config say.
    #[error("layer {digest} of {reference} is refused")]
    Layer {
        /// What was asked for.
        reference: String,
        /// Digest of the layer's blob.
        digest: Digest,
        /// Cause.
        #[source]
        source: ReadError,
    },
    /// The disk is full.
    #[error("no space left to keep layer {digest} of {reference}")]
    NoSpace {
        /// What was asked for.
        reference: String,
        /// Digest of the layer's blob.
        digest: Digest,
        /// Cause.
        #[source]
        source: ReadError,
    },
}

impl PullError {
    /// A layer that cannot be read, or for which there is no room.
    pub(super) fn layer(reference: String, digest: Digest, source: ReadError) -> Self {
        if is_no_space(&source) {
            Self::NoSpace { reference, digest, source }
        } else {
            Self::Layer { reference, digest, source }
        }
    }

    /// Tells whether freeing disk space would help.
    pub(super) fn is_no_space(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::Store { source, .. } => source.is_no_space(),
            _ => false,
        }
    }

    /// Tells bytes that are not what they should be from bytes that could not be had or written.
    pub(super) const fn is_wrong_content(&self) -> bool {
        use ReadError as E;
        let Self::Layer { source, .. } = self else { return false };
        !matches!(source, E::Read(_) | E::WriteTar(_) | E::WriteBlob(_))
    }

    /// The registry's error, if it was one.
    #[must_use]
    pub const fn registry_error(&self) -> Option<&davit_distribution::Error> {
        match self {
            Self::Registry { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl Hint for PullError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Registry { reference, source, similar } => {
                registry_hints(reference, source, similar)
            }
            Self::Platform { reference, offered, .. } => offered
                .first()
                .map(|platform| format!("davit pull --platform {platform} {reference}"))
                .into_iter()
                .collect(),
            error if error.is_no_space() => vec!["davit system prune".to_owned()],
            _ => Vec::new(),
        }
    }
}

/// What there is instead of what was asked for, as the end of a sentence.
pub(crate) fn offer(offered: &[String]) -> String {
    if offered.is_empty() { String::new() } else { format!(" (it has {})", offered.join(", ")) }
}

/// Advice where a registry speaks plain HTTP that is not known to.
pub(crate) fn plain_http_hint(host: &str) -> String {
    format!(
        "set `insecure = true` for {host} in /etc/davit/config.toml, if it is to be spoken to without TLS"
    )
}

/// Advice after a registry refused or was not reached.
pub(crate) fn registry_hints(
    reference: &str,
    error: &davit_distribution::Error,
    similar: &[String],
) -> Vec<String> {
    let mut hints = Vec::new();
    // A copy names its source as a place.
    let reference = reference.strip_prefix("docker://").unwrap_or(reference);
    let host = reference.split('/').next().unwrap_or_default();
    if error.is_denied() || error.is_not_found() {
        let similar: Vec<_> = similar.iter().map(|name| format!("`{name}`")).collect();
        if !similar.is_empty() {
            hints.push(format!("did you mean the local image {}?", similar.join(" or ")));
        }
    }
    if error.is_denied() {
        hints.push(format!("the name is wrong, or the repository is private: davit login {host}"));
    } else if error.is_certificate() {
        hints.push(format!(
            "put the registry's authority into /etc/davit/certs.d/{host}/ca.crt, or set `insecure = true` for it in /etc/davit/config.toml"
        ));
    } else if error.is_plain_http() {
        hints.push(plain_http_hint(host));
    } else if error.is_rate_limit() {
        hints.push(format!("an account has a higher limit: davit login {host}"));
    }
    hints
}
