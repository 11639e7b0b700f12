//! An origin of the one image that its index has for a platform.

use davit_image::{Descriptor, Document, Platform};

use crate::origin::{BlobRead, MOST_NESTED, Origin, OriginError, Stop};

/// Names the manifest in place of the index.
pub(super) struct Alone<'a> {
    pub(super) origin: &'a dyn Origin,
    pub(super) platform: &'a Platform,
}

impl Origin for Alone<'_> {
    /// An index that has nothing for the platform is named itself: whoever takes it says so.
    fn resolve(&self) -> Result<Descriptor, OriginError> {
        let top = self.origin.resolve()?;
        let mut chosen = top.clone();
        for _ in 0..=MOST_NESTED {
            if !chosen.media_type.is_index() {
                return Ok(chosen);
            }
            let (Document::Index(index), _) = self.origin.document(&chosen)? else { break };
            let Some(entry) = index.value().choose(self.platform) else { break };
            chosen = Descriptor::new(entry.media_type.clone(), entry.digest, entry.size);
        }
        Ok(top)
    }

    fn document(&self, descriptor: &Descriptor) -> Result<(Document, Descriptor), OriginError> {
        self.origin.document(descriptor)
    }

    fn bytes(&self, descriptor: &Descriptor) -> Result<Vec<u8>, OriginError> {
        self.origin.bytes(descriptor)
    }

    fn stream(
        &self,
        descriptor: &Descriptor,
        offset: u64,
        stop: &Stop,
    ) -> Result<Box<dyn BlobRead>, OriginError> {
        self.origin.stream(descriptor, offset, stop)
    }

    fn distrust(&self) -> bool {
        self.origin.distrust()
    }
}
