//! Which image a name means for a platform, where its index has several here.

use std::collections::HashSet;

use davit_image::{Descriptor, Digest, Document, ImageId, Platform};
use davit_store::{StoreError, Target};

use super::ImageError;
use crate::{Engine, origin::MOST_NESTED};

impl Engine {
    /// The image that a target gives for a platform, if all of it is here: the one that the target
    /// stands for, unless its index has another that fits better.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) fn image_for(
        &self,
        target: &Target,
        wanted: &Platform,
    ) -> Result<Option<ImageId>, ImageError> {
        let own = match &target.image_id {
            Some(id) => self.store().image(id)?,
            None => None,
        };
        let own = own.filter(|image| wanted.rank(&image.platform).is_some());
        let is_exact = |platform: &Platform| platform.normalized() == wanted.normalized();
        if own.as_ref().is_none_or(|image| !is_exact(&image.platform))
            && target.media_type.is_index()
            && let Some(other) =
                self.whole_in(&target.descriptor(), wanted, (MOST_NESTED + 1, &mut HashSet::new()))?
        {
            return Ok(Some(other));
        }
        Ok(own.map(|image| image.id))
    }

    /// The best image for a platform below a manifest or index of which nothing is missing, `depth`
    /// indexes deep; what was met before is not looked at again.
    fn whole_in(
        &self,
        descriptor: &Descriptor,
        wanted: &Platform,
        (depth, met): (usize, &mut HashSet<Digest>),
    ) -> Result<Option<ImageId>, ImageError> {
        let target = Target::new(descriptor, None);
        if depth == 0 || !met.insert(target.digest) || self.store().blob(&target.digest)?.is_none()
        {
            return Ok(None);
        }
        let mut index = match self.document(&target)? {
            Document::Index(raw) => raw.into_value(),
            Document::Manifest(raw) => {
                return self.whole(ImageId::new(raw.value().config.digest), wanted);
            }
        };
        while let Some(entry) = index.choose(wanted).cloned() {
            if let Some(found) = self.whole_in(&entry, wanted, (depth - 1, &mut *met))? {
                return Ok(Some(found));
            }
            index.manifests.retain(|other| other.digest != entry.digest);
        }
        Ok(None)
    }

    fn whole(&self, id: ImageId, wanted: &Platform) -> Result<Option<ImageId>, ImageError> {
        let Some(image) = self.store().image(&id)? else { return Ok(None) };
        if wanted.rank(&image.platform).is_none() || self.store().blob(&id.digest())?.is_none() {
            return Ok(None);
        }
        // A load syncs what its names stand for; the index's other images are only whole.
        match self.store().make_durable(&image.layers) {
            Ok(()) => Ok(Some(id)),
            Err(StoreError::MissingLayer(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
