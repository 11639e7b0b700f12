//! Images as files: `save`, `load`, `import`.

mod fetch;
mod import;
mod load;
mod save;

use davit_image::Digest;
use davit_layer::ReadError;
use davit_store::{StoreError, archive::ArchiveError, is_no_space};

pub use import::ImportRequest;
pub use load::{LoadRequest, Loaded};
pub use save::SaveRequest;
pub(crate) use save::built::{BuiltImages, SavedForm};

use crate::{ChangeError, Hint, ImageError, RegistryError, UnusableLayers, pull::offer};

/// Why an archive cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The archive itself is refused.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A layer in it is malformed.
    #[error("layer {member} of the archive is malformed")]
    Layer {
        /// Its name in the archive.
        member: String,
        /// Cause.
        source: ReadError,
    },
    /// The disk is full.
    #[error("no space left to keep layer {member} of the archive")]
    NoSpace {
        /// Its name in the archive.
        member: String,
        /// Cause.
        source: ReadError,
    },
    /// The stream cannot be read.
    #[error("cannot read the archive")]
    Read(#[source] std::io::Error),
    /// The archive does not come over the network, or not whole.
    #[error("cannot fetch {name}")]
    Fetch {
        /// Its address.
        name: String,
        /// Cause.
        source: davit_distribution::Error,
    },
    /// The network side cannot be set up.
    #[error(transparent)]
    Network(#[from] RegistryError),
    /// An image is refused.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A `--change` is refused.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// Content that an image needs is not in the store.
    #[error("{digest} of {name} is not in the store")]
    Missing {
        /// The image.
        name: String,
        /// What is missing.
        digest: Digest,
    },
    /// The image has nothing for the platform asked for.
    #[error("{name} has no image for {platform} here")]
    Platform {
        /// The image.
        name: String,
        /// The platform asked for.
        platform: String,
    },
    /// The layers of an image can never be mounted.
    #[error("{name} is no usable image")]
    Unusable {
        /// The image or archive.
        name: String,
        /// Cause.
        source: UnusableLayers,
    },
    /// An image of the archive has nothing for the platform asked for.
    #[error("{name} has no image for {wanted}{}", offer(offered))]
    NoPlatform {
        /// The image.
        name: String,
        /// The platform asked for.
        wanted: String,
        /// Those that it has.
        offered: Vec<String>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FileError {
    /// Tells whether freeing disk space would help.
    pub(crate) fn is_no_space(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::Store(source) => source.is_no_space(),
            _ => false,
        }
    }

    /// A layer that cannot be read, or for which there is no room.
    pub(crate) fn layer(member: &str, source: ReadError) -> Self {
        let member = member.to_owned();
        if is_no_space(&source) {
            Self::NoSpace { member, source }
        } else {
            Self::Layer { member, source }
        }
    }
}

impl Hint for ArchiveError {
    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::NoImages => "a plain root file system is read by `davit import`",
            Self::Layout(_) => "an OCI layout has oci-layout, index.json and blobs/",
            _ => return Vec::new(),
        };
        vec![hint.to_owned()]
    }
}

impl Hint for FileError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Image(error) => error.hints(),
            Self::Store(error) => error.hints(),
            Self::NoSpace { .. } => vec!["davit system prune".to_owned()],
            Self::Archive(error) => error.hints(),
            Self::NoPlatform { offered, .. } => {
                offered.iter().take(1).map(|p| format!("davit load --platform {p}")).collect()
            }
            Self::Missing { name, .. } | Self::Platform { name, .. } => {
                vec![format!("davit pull {name}")]
            }
            _ => Vec::new(),
        }
    }
}
