//! Images by name: list, tag, remove, prune, inspect, history.

pub(crate) mod index;
mod inspect;
mod platform;
mod prune;
mod remove;

use davit_image::{Document, ImageConfig, ImageId, Manifest, Platform, Reference};
use davit_store::{ImageFind, ImageRow, StoreError, Target};

pub use inspect::{HistoryLine, ImageInspect};
pub use prune::{ImagePrune, Pruned};
pub use remove::{Removal, RemoveRequest};

use self::index::{Wanted, find_manifest};
use crate::{Engine, Hint, origin::DOCUMENT_BYTES};

/// Why something cannot be done with an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No image has this name or id.
    #[error("No such image: {name}")]
    NotFound {
        /// The name, as given.
        name: String,
        /// Local names that are near.
        similar: Vec<String>,
    },
    /// A container uses the image that an id names.
    #[error(
        "conflict: unable to delete {id} ({}) - image is being used by {} container {container}",
        if *running { "cannot be forced" } else { "must be forced" },
        if *running { "running" } else { "stopped" }
    )]
    InUse {
        /// Short id of the image.
        id: String,
        /// Short id of the container.
        container: String,
        /// Whether the container runs.
        running: bool,
    },
    /// A container uses the image of which the last name was to go.
    #[error(
        "conflict: unable to remove repository reference \"{name}\" (must force) - container {container} is using its referenced image {image}"
    )]
    NameInUse {
        /// The name.
        name: String,
        /// Short id of the image.
        image: String,
        /// Short id of the container.
        container: String,
    },
    /// An id names an image that several repositories name.
    #[error(
        "conflict: unable to delete {id} (must be forced) - image is referenced in multiple repositories"
    )]
    ManyNames {
        /// Short id of the image.
        id: String,
    },
    /// No image of the platform is here.
    #[error("image {name} was found but does not provide the specified platform ({platform})")]
    NoPlatform {
        /// The name, as given.
        name: String,
        /// The platform asked for.
        platform: Platform,
    },
    /// The platform to go is the one that the name stands for.
    #[error("`{name}` stands for its image for {platform}, which cannot go alone")]
    OwnPlatform {
        /// The name, as given.
        name: String,
        /// The platform asked for.
        platform: Platform,
    },
    /// A new name has a digest in it.
    #[error("`{0}` cannot be a new name: it has a digest, which the image decides")]
    DigestInName(String),
    /// What was found is an artifact of another kind.
    #[error("`{0}` is no image: its manifest describes another kind of content")]
    NotAnImage(String),
    /// A filter is not one of the verb's.
    #[error("invalid filter `{0}`")]
    Filter(String),
    /// The stored config or manifest cannot be read.
    #[error("cannot read the documents of {name}")]
    Document {
        /// The image.
        name: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Hint for ImageError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::NotFound { similar, .. } if similar.is_empty() => {
                vec!["davit images".to_owned()]
            }
            Self::NotFound { similar, .. } => {
                similar.iter().map(|name| format!("did you mean `{name}`?")).collect()
            }
            Self::InUse { running: true, container, .. } => {
                vec![format!("davit stop {container}")]
            }
            Self::InUse { running: false, container, .. } | Self::NameInUse { container, .. } => {
                vec![format!("davit rm {container}")]
            }
            Self::NoPlatform { name, platform } => {
                vec![format!("davit pull --platform {platform} {name}")]
            }
            Self::OwnPlatform { name, .. } => vec![format!("davit rmi {name}")],
            Self::Store(error) => error.hints(),
            _ => Vec::new(),
        }
    }
}

/// An image with its documents.
#[derive(Clone, Debug)]
pub struct OpenImage {
    /// What was named.
    pub find: ImageFind,
    /// Its row.
    pub row: ImageRow,
    /// Its config.
    pub config: ImageConfig,
    /// Its config's bytes.
    pub config_bytes: Vec<u8>,
}

impl Engine {
    /// All images that have a name, or are kept without one, newest first.
    ///
    /// # Errors
    /// What the store says.
    pub fn images(&self) -> Result<Vec<ImageRow>, ImageError> {
        Ok(self.store().images()?)
    }

    /// Finds an image by any name that the user may give.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] with near names, or what the store says.
    pub fn find_image(&self, name: &str) -> Result<ImageFind, ImageError> {
        self.store().find_image(name).map_err(|error| match error {
            StoreError::NotFound { .. } => {
                let Ok(wanted) = name.parse::<Reference>() else {
                    return ImageError::NotFound { name: name.to_owned(), similar: Vec::new() };
                };
                let similar = self.similar_images(&wanted);
                ImageError::NotFound { name: wanted.familiar(), similar }
            }
            error => error.into(),
        })
    }

    /// Finds an image and reads its config.
    ///
    /// # Errors
    /// As [`Self::find_image`]; [`ImageError::NotAnImage`] for other artifacts.
    pub fn open_image(&self, name: &str) -> Result<OpenImage, ImageError> {
        self.open_image_for(name, None)
    }

    /// Finds an image, of a platform if one is given, and reads its config.
    ///
    /// # Errors
    /// As [`Self::open_image`]; [`ImageError::NoPlatform`].
    pub(crate) fn open_image_for(
        &self,
        name: &str,
        platform: Option<&Platform>,
    ) -> Result<OpenImage, ImageError> {
        let mut find = self.find_image(name)?;
        let own = image_id(&find.target, name)?;
        let id = match platform {
            Some(platform) => self.image_for(&find.target, platform)?.ok_or_else(|| {
                ImageError::NoPlatform { name: name.to_owned(), platform: platform.clone() }
            })?,
            None => own,
        };
        let row_of = |id: ImageId| -> Result<ImageRow, ImageError> {
            let missing = || StoreError::NotFound { kind: "image", name: id.to_string() };
            Ok(self.store().image(&id)?.ok_or_else(missing)?)
        };
        let mut row = row_of(id)?;
        if id != own {
            // The names are those of the index, which stands for another image of it.
            let index = find.target.digest;
            let named = row_of(own)?;
            row.targets.extend(named.targets.into_iter().filter(|(top, _)| top.digest == index));
            let known = named.repo_digests.into_iter();
            row.repo_digests.extend(known.filter(|known| known.digest() == Some(&index)));
            find.target.image_id = Some(id);
        }
        let config_bytes = self.store().read_blob(&id.digest(), DOCUMENT_BYTES)?;
        let config = serde_json::from_slice(&config_bytes).map_err(|source| {
            ImageError::Document { name: name.to_owned(), source: source.into() }
        })?;
        Ok(OpenImage { find, row, config, config_bytes })
    }

    /// Gives an image one more name; a name that is taken moves.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::DigestInName`], or what the store says.
    pub fn tag_image(&self, source: &str, name: &Reference) -> Result<(), ImageError> {
        if name.digest().is_some() {
            return Err(ImageError::DigestInName(name.familiar()));
        }
        let find = self.find_image(source)?;
        Ok(self.store().tag(name, &find.target)?)
    }

    /// Reads the manifest or index that a target names.
    pub(crate) fn document(&self, target: &Target) -> Result<Document, ImageError> {
        let bytes = self.store().read_blob(&target.digest, DOCUMENT_BYTES)?;
        Document::parse(bytes, Some(&target.media_type)).map_err(|source| ImageError::Document {
            name: target.digest.to_string(),
            source: source.into(),
        })
    }

    /// The manifest of the image that a target stands for: itself, or the one of its index whose
    /// config is the image.
    pub(crate) fn manifest(&self, target: &Target) -> Result<(Target, Manifest), ImageError> {
        let found = match self.document(target)? {
            Document::Manifest(raw) => return Ok((target.clone(), raw.into_value())),
            Document::Index(_) => match target.image_id {
                Some(id) => find_manifest(self.store(), &target.descriptor(), Wanted::Image(id))?,
                None => None,
            },
        };
        let name = target.digest.to_string();
        let (descriptor, raw) = found.ok_or(StoreError::NotFound { kind: "manifest", name })?;
        Ok((Target::new(&descriptor, target.image_id), raw.into_value()))
    }
}

/// The image of a target, or the error that it has none.
pub(crate) fn image_id(target: &Target, name: &str) -> Result<ImageId, ImageError> {
    target.image_id.ok_or_else(|| ImageError::NotAnImage(name.to_owned()))
}
