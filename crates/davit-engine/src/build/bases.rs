//! Base images: from the store, a registry or an OCI layout.

use std::{
    error::Error,
    sync::{Arc, atomic::AtomicBool},
};

use davit_build::{BaseImage, BaseImages, ImageSource, LayoutImage, PullPolicy};
use davit_image::{Digest, ImageConfig, ImageId, Platform, Reference};
use davit_store::Lease;

use crate::{
    Engine, Hint, ImageError, Progress, PullRequest, Pulled,
    origin::{Layout, OriginError, Stop},
    pull::{Naming, Pull},
};

/// Name of the image of a layout that is taken where none is named.
const DEFAULT_NAME: &str = "latest";

/// A base image is here for another platform alone, and cannot be had for the one that is wanted.
#[derive(Debug, thiserror::Error)]
#[error("{name} is here for {own} and not for {wanted}")]
struct OtherPlatform {
    name: String,
    own: Platform,
    wanted: Platform,
    /// What the registry said, if it was asked.
    #[source]
    source: Option<crate::PullError>,
}

pub(super) fn hints(error: &(dyn Error + Send + Sync + 'static)) -> Vec<String> {
    if let Some(OtherPlatform { own, .. }) = error.downcast_ref() {
        return vec![format!("`FROM --platform={own}` takes what is here")];
    }
    if let Some(error) = error.downcast_ref::<crate::PullError>() {
        return error.hints();
    }
    error.downcast_ref::<ImageError>().map(Hint::hints).unwrap_or_default()
}

/// Base images: from the store, else from the registry.
pub(super) struct Bases<'e> {
    pub(super) engine: &'e Engine,
    pub(super) lease: &'e Lease<'e>,
    pub(super) pull: PullPolicy,
    pub(super) wanted: Wanted,
    pub(super) progress: &'e dyn Progress,
    pub(super) cancelled: &'e Arc<AtomicBool>,
}

/// How much of a base image is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it.
    Image,
    /// Its config; of a layout all comes nevertheless, for it is on this machine.
    Config,
}

/// What came from a registry.
enum Brought {
    Image(Digest, ImageId),
    Config(Digest, Box<ImageConfig>),
}

impl From<Pulled> for Brought {
    fn from(pulled: Pulled) -> Self {
        Self::Image(pulled.digest, pulled.image_id)
    }
}

impl BaseImages for Bases<'_> {
    fn resolve(
        &self,
        image: &ImageSource,
        platform: &Platform,
    ) -> Result<BaseImage, Box<dyn Error + Send + Sync>> {
        match image {
            ImageSource::Reference(reference) => self.named(reference, platform),
            ImageSource::Layout(layout) => self.layout(layout, platform, image.to_string()),
        }
    }
}

impl Bases<'_> {
    /// The image of that name, from the store, else from the registry.
    fn named(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<BaseImage, Box<dyn Error + Send + Sync>> {
        let name = reference.to_string();
        if self.pull != PullPolicy::Always
            && let Some(image) = self.local(&name, platform)?
        {
            return Ok(image);
        }
        let here = self.engine.open_image(&name).map(|image| image.row.platform);
        let other = |own: &Platform, source| {
            let (name, own) = (name.clone(), own.clone());
            OtherPlatform { name, own, wanted: platform.clone(), source }
        };
        if self.pull == PullPolicy::Never {
            // The same words as for any other name that is not here.
            return Err(other(&here?, None).into());
        }
        let (reference, wanted) = (reference.clone(), Some(platform.clone()));
        let cancelled = Some(Arc::clone(self.cancelled));
        let request = PullRequest { reference, platform: wanted, parallel: 0, cancelled };
        let brought = match self.wanted {
            Wanted::Config => {
                let fetched = self.engine.fetch_config(self.lease, &request, self.progress);
                fetched.map(|(manifest, config)| Brought::Config(manifest, Box::new(config)))
            }
            Wanted::Image if self.may_name(&name, request.platform.as_ref())? => {
                self.engine.pull(&request, self.progress).map(Brought::from)
            }
            Wanted::Image => {
                let pulled = self.engine.pull_base(self.lease, &request, self.progress);
                pulled.map(Brought::from)
            }
        };
        match (brought, here) {
            (Ok(Brought::Image(manifest, id)), _) => self.base(name, manifest, id),
            (Ok(Brought::Config(manifest, config)), _) => {
                Ok(BaseImage { name, manifest, config: *config })
            }
            (Err(error), Ok(own)) if platform.rank(&own).is_none() => {
                Err(other(&own, Some(error)).into())
            }
            (Err(error), _) => Err(error.into()),
        }
    }

    /// The image of an OCI layout, brought into the store for as long as the lease lives.
    fn layout(
        &self,
        image: &LayoutImage,
        platform: &Platform,
        name: String,
    ) -> Result<BaseImage, Box<dyn Error + Send + Sync>> {
        let origin = open_layout(image)?;
        let pull = Pull {
            engine: self.engine,
            origin: &origin,
            name: name.clone(),
            remote: None,
            naming: Naming::Nothing(self.lease),
            platform: Some(platform),
            parallel: 0,
            stop: Stop::with(Some(self.cancelled)),
            progress: self.progress,
        };
        let brought = pull.run()?;
        self.base(name, brought.digest, brought.image_id)
    }

    /// Whether a pull may move the tag: what `FROM` asks for a moment must not turn a name, now
    /// or later, to an image of another machine.
    fn may_name(&self, name: &str, platform: Option<&Platform>) -> Result<bool, ImageError> {
        let host = Platform::host();
        if platform.is_some_and(|platform| *platform != host) {
            return Ok(false);
        }
        match self.engine.open_image(name) {
            Ok(image) => Ok(host.rank(&image.row.platform).is_some()),
            Err(ImageError::NotFound { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The image in the store, kept by the lease: the one for this platform, or the only one that
    /// the name stands for.
    fn local(
        &self,
        name: &str,
        platform: &Platform,
    ) -> Result<Option<BaseImage>, Box<dyn Error + Send + Sync>> {
        let target = match self.engine.find_image(name) {
            Ok(find) => find.target,
            Err(ImageError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let only = target.image_id.filter(|_| !target.media_type.is_index());
        let found = match (self.engine.image_for(&target, platform)?, only) {
            (None, Some(only)) => self.engine.store().image(&only)?.map(|row| row.id),
            (found, _) => found,
        };
        found.map(|id| self.base(name.to_owned(), target.digest, id)).transpose()
    }

    fn base(
        &self,
        name: String,
        manifest: Digest,
        id: ImageId,
    ) -> Result<BaseImage, Box<dyn Error + Send + Sync>> {
        let config = self.engine.stored_config(&id)?;
        let layers = config.rootfs.diff_ids.iter().map(|layer| layer.digest());
        let kept: Vec<_> = layers.chain([manifest, id.digest()]).collect();
        self.lease.keep(&kept)?;
        Ok(BaseImage { name, manifest, config })
    }
}

fn open_layout(image: &LayoutImage) -> Result<Layout, OriginError> {
    if let Some(digest) = &image.digest {
        return Layout::open_digest(&image.path, digest);
    }
    if image.name.is_some() {
        return Layout::open(&image.path, image.name.as_deref());
    }
    match Layout::open(&image.path, Some(DEFAULT_NAME)) {
        Err(OriginError::Name { .. }) => Layout::open(&image.path, None),
        found => found,
    }
}
