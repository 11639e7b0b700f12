//! A registry as origin.

use std::sync::{Arc, atomic::AtomicBool};

use davit_distribution::{Access, Client, Session, Target};
use davit_image::{Descriptor, Document, Reference};
use tokio::runtime::Handle;

use super::{BlobRead, Origin, OriginError, fetch::Download};

/// One reference at its registry.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    session: Session,
    target: Target,
    runtime: Handle,
}

impl Registry {
    pub(crate) fn new(client: &Client, runtime: &Handle, reference: &Reference) -> Self {
        Self {
            session: client.session(reference.repository(), Access::Pull),
            target: Target::of(reference),
            runtime: runtime.clone(),
        }
    }
}

impl Origin for Registry {
    fn resolve(&self) -> Result<Descriptor, OriginError> {
        Ok(self.runtime.block_on(self.session.resolve(&self.target))?)
    }

    fn document(&self, descriptor: &Descriptor) -> Result<(Document, Descriptor), OriginError> {
        let target = Target::Digest(descriptor.digest);
        let fetched = self.runtime.block_on(self.session.manifest(&target))?;
        if fetched.descriptor.size != descriptor.size {
            return Err(OriginError::Wrong(descriptor.digest));
        }
        Ok((fetched.document, fetched.descriptor))
    }

    fn bytes(&self, descriptor: &Descriptor) -> Result<Vec<u8>, OriginError> {
        Ok(self.runtime.block_on(self.session.blob_bytes(descriptor))?)
    }

    fn stream(
        &self,
        descriptor: &Descriptor,
        offset: u64,
        cancelled: &Arc<AtomicBool>,
    ) -> Result<Box<dyn BlobRead>, OriginError> {
        let blob = (descriptor, offset);
        Ok(Box::new(Download::start(&self.runtime, &self.session, blob, cancelled)))
    }

    fn distrust(&self) -> bool {
        self.session.distrust_mirrors()
    }
}
