//! What of an image is copied: all of it, or the one manifest for a platform.

use davit_image::{Descriptor, ImageConfig, Index, Manifest, Platform};

use super::{CopyError, CopyRequest, Place};
use crate::{
    origin::{Origin, OriginError, descend},
    pull::platforms,
};

/// What is asked for, and what the destination can take.
pub(super) struct Choice<'a> {
    pub(super) origin: &'a dyn Origin,
    pub(super) request: &'a CopyRequest,
    /// One image alone can go, and no index.
    pub(super) is_single: bool,
}

impl Choice<'_> {
    /// What the source names; or the manifest of the wanted platform, or the only image of an index
    /// where no index can go.
    pub(super) fn top(&self) -> Result<Descriptor, CopyError> {
        let top = self.origin.resolve().map_err(|e| self.source_error(e))?;
        let platform = self.request.platform.as_ref();
        if platform.is_none() && !self.is_single {
            return Ok(top);
        }
        let failed = |error| match (error, platform, &self.request.source) {
            // The store has the index of a pull, and one of its images.
            (OriginError::Missing(_), Some(platform), Place::Store(_)) => {
                self.no_platform(platform, Vec::new())
            }
            (error, ..) => self.source_error(error),
        };
        let read = |descriptor: &Descriptor| self.origin.document(descriptor).map_err(failed);
        let choose = |index: &Index| match platform {
            Some(platform) => index
                .choose(platform)
                .cloned()
                .ok_or_else(|| self.no_platform(platform, platforms(&index.manifests))),
            None => self.only(index),
        };
        let chosen = descend(&top, read, choose)?;
        let (manifest, found) = chosen.ok_or_else(|| self.source_error(OriginError::Nested))?;
        self.check_platform(manifest.value())?;
        Ok(found)
    }

    /// The only image of an index.
    fn only(&self, index: &Index) -> Result<Descriptor, CopyError> {
        let mut images = index.manifests.iter().filter(|entry| !entry.is_attestation());
        match (images.next(), images.next()) {
            (Some(only), None) => Ok(only.clone()),
            _ => Err(CopyError::SinglePlatform { place: self.request.destination.clone() }),
        }
    }

    /// A platform that was asked for must fit, as that of a pull.
    fn check_platform(&self, manifest: &Manifest) -> Result<(), CopyError> {
        let Some(wanted) = self.request.platform.as_ref().filter(|_| manifest.is_image()) else {
            return Ok(());
        };
        let bytes = self.origin.bytes(&manifest.config).map_err(|e| self.source_error(e))?;
        // What cannot be read is no image for any platform, yet may be copied as it is.
        let Ok(config) = serde_json::from_slice::<ImageConfig>(&bytes) else { return Ok(()) };
        let found = config.platform();
        if wanted.rank(&found).is_some() || found.os.is_empty() {
            return Ok(());
        }
        Err(self.no_platform(wanted, vec![found.to_string()]))
    }

    fn no_platform(&self, platform: &Platform, offered: Vec<String>) -> CopyError {
        let (place, platform) = (self.request.source.clone(), platform.clone());
        CopyError::Platform { place, platform, offered }
    }

    fn source_error(&self, source: OriginError) -> CopyError {
        CopyError::Source { place: self.request.source.clone(), source }
    }
}
