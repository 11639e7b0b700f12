//! `system check --repair`: an image that lost something gets it again, from its registry or from
//! what is here; its names stay as they are.

use davit_image::{Descriptor, Reference};
use davit_store::{ImageCommit, Lacking, RepoDigest, Target};

use crate::{
    Engine, Progress,
    origin::{BlobRead, Origin, OriginError, Registry, Stop},
};

use super::{Naming, Pull, PullError};

impl Engine {
    /// Makes an image whole again.
    ///
    /// # Errors
    /// [`PullError`] of the last source that was tried.
    pub(crate) fn restore(
        &self,
        image: &Lacking,
        progress: &dyn Progress,
    ) -> Result<(), PullError> {
        // A layer may be made of its compressed form, which is here: that needs no registry.
        let mut result = self.restore_from(image, (&Nowhere, None), progress);
        for (reference, target) in &image.known {
            if result.is_ok() {
                break;
            }
            result = self.fetch_again(image, (reference, target), progress);
        }
        result
    }

    fn fetch_again(
        &self,
        image: &Lacking,
        (reference, target): (&Reference, &Target),
        progress: &dyn Progress,
    ) -> Result<(), PullError> {
        let registries = self
            .registries()
            .map_err(|source| PullError::Setup { reference: reference.familiar(), source })?;
        let origin = Registry::new(&registries.client, registries.handle(), reference);
        self.restore_from(image, (&origin, Some((reference, target))), progress)
    }

    fn restore_from(
        &self,
        image: &Lacking,
        (origin, known): (&dyn Origin, Option<(&Reference, &Target)>),
        progress: &dyn Progress,
    ) -> Result<(), PullError> {
        let pull = Pull {
            engine: self,
            origin,
            name: known.map_or_else(|| image.name.clone(), |(name, _)| name.to_string()),
            remote: known.map(|(reference, _)| reference),
            naming: Naming::Untagged,
            platform: image.platform.as_ref(),
            parallel: 0,
            stop: Stop::default(),
            progress,
        };
        match known {
            Some((reference, target)) => pull.restore(target, Some(reference), image),
            None => {
                let mut targets =
                    image.targets.iter().chain(image.known.iter().map(|(_, target)| target));
                targets.try_for_each(|target| pull.restore(target, None, image))
            }
        }
    }
}

impl Pull<'_> {
    fn restore(
        &self,
        target: &Target,
        known: Option<&Reference>,
        image: &Lacking,
    ) -> Result<(), PullError> {
        let store = self.engine.store();
        let lease = store.lease("restore").map_err(|e| self.store_error(e))?;
        let documents = self.documents(&lease, &target.descriptor())?;
        if documents.image_id() != image.id {
            return Err(self.unusable("its index now leads to another image"));
        }
        self.layers(&lease, &documents)?;
        self.make_ready(&documents)?;
        // Without a registry nothing but layers can have come.
        let Some(reference) = known else { return Ok(()) };
        let known = RepoDigest { reference: reference.clone(), target: target.clone() };
        let commit = ImageCommit {
            documents: documents.stored,
            repo_digests: vec![known],
            ..ImageCommit::default()
        };
        store.commit_images(&lease, &commit).map_err(|e| self.store_error(e))
    }
}

/// The origin of an image that no registry is known to have.
struct Nowhere;

impl Origin for Nowhere {
    fn resolve(&self) -> Result<Descriptor, OriginError> {
        Err(OriginError::Unknown)
    }

    fn stream(&self, _: &Descriptor, _: u64, _: &Stop) -> Result<Box<dyn BlobRead>, OriginError> {
        Err(OriginError::Unknown)
    }
}
