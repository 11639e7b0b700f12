//! Which image a name means for a platform, where its index has several here.

use davit_image::{ImageId, Platform};
use davit_store::{StoreError, Target};

use super::{ImageError, index::find_best};
use crate::Engine;

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
                find_best(self.store(), &target.descriptor(), wanted, |id| self.whole(id, wanted))?
        {
            return Ok(Some(other));
        }
        Ok(own.map(|image| image.id))
    }

    /// The image, if it is for the platform and nothing of it is missing.
    fn whole(&self, id: ImageId, wanted: &Platform) -> Result<Option<ImageId>, StoreError> {
        let Some(image) = self.store().image(&id)? else { return Ok(None) };
        if wanted.rank(&image.platform).is_none() || self.store().blob(&id.digest())?.is_none() {
            return Ok(None);
        }
        // A load syncs what its names stand for; the index's other images are only whole.
        match self.store().make_durable(&image.layers) {
            Ok(()) => Ok(Some(id)),
            Err(StoreError::MissingLayer(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
