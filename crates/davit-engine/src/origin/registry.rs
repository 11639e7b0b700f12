//! A registry as origin.

use davit_distribution::{Access, Client, Session, Target};
use davit_image::{Descriptor, Document, Reference};
use tokio::runtime::Handle;

use super::{BlobRead, Origin, OriginError, Stop, fetch::Download};

/// One reference at its registry.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    session: Session,
    target: Target,
    runtime: Handle,
    stop: Stop,
}

impl Registry {
    pub(crate) fn new(client: &Client, runtime: &Handle, reference: &Reference) -> Self {
        Self {
            session: client.session(reference.repository(), Access::Pull),
            target: Target::of(reference),
            runtime: runtime.clone(),
            stop: Stop::default(),
        }
    }

    /// Lets nobody wait for the registry once this is set.
    pub(crate) fn until(self, stop: &Stop) -> Self {
        Self { stop: stop.clone(), ..self }
    }

    fn wait<T>(
        &self,
        answer: impl Future<Output = Result<T, davit_distribution::Error>>,
    ) -> Result<T, OriginError> {
        Ok(self.runtime.block_on(self.stop.unless(answer))??)
    }
}

impl Origin for Registry {
    fn resolve(&self) -> Result<Descriptor, OriginError> {
        self.wait(self.session.resolve(&self.target))
    }

    fn document(&self, descriptor: &Descriptor) -> Result<(Document, Descriptor), OriginError> {
        let target = Target::Digest(descriptor.digest);
        let fetched = self.wait(self.session.manifest(&target))?;
        if fetched.descriptor.size != descriptor.size {
            return Err(OriginError::Wrong(descriptor.digest));
        }
        Ok((fetched.document, fetched.descriptor))
    }

    fn bytes(&self, descriptor: &Descriptor) -> Result<Vec<u8>, OriginError> {
        self.wait(self.session.blob_bytes(descriptor))
    }

    fn stream(
        &self,
        descriptor: &Descriptor,
        offset: u64,
        stop: &Stop,
    ) -> Result<Box<dyn BlobRead>, OriginError> {
        let blob = (descriptor, offset);
        Ok(Box::new(Download::of_blob(&self.runtime, &self.session, blob, stop)))
    }

    fn distrust(&self) -> bool {
        self.session.distrust_mirrors()
    }
}
