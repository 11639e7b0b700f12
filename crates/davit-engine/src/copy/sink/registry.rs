//! A registry as destination.

use davit_distribution::{Error, Session, Target};
use davit_image::{Descriptor, Reference, Repository};
use tokio::runtime::Handle;

use super::{CopyError, OriginBlob, Sink};
use crate::copy::Place;

/// One reference at its registry.
#[derive(Debug)]
pub(crate) struct RegistrySink {
    pub(crate) session: Session,
    pub(crate) target: Target,
    pub(crate) runtime: Handle,
    /// The source, if it is on a registry too, perhaps the same.
    pub(crate) mount_from: Option<Repository>,
}

impl RegistrySink {
    fn wait<T>(&self, future: impl Future<Output = Result<T, Error>>) -> Result<T, CopyError> {
        self.runtime.block_on(future).map_err(|source| CopyError::Registry {
            place: Place::Registry(self.reference()),
            source,
        })
    }

    fn reference(&self) -> Reference {
        let repository = self.session.repository();
        match &self.target {
            Target::Tag(tag) => repository.with_tag(tag.clone()),
            Target::Digest(digest) => repository.with_digest(*digest),
        }
    }
}

impl Sink for RegistrySink {
    fn has(&self, blob: &Descriptor) -> Result<bool, CopyError> {
        if self.wait(self.session.blob_size(&blob.digest))?.is_some() {
            return Ok(true);
        }
        match &self.mount_from {
            Some(from) if from != self.session.repository() => {
                self.wait(self.session.mount_blob(&blob.digest, from))
            }
            _ => Ok(false),
        }
    }

    fn put(&self, blob: &Descriptor, source: &OriginBlob) -> Result<(), CopyError> {
        self.wait(self.session.upload(source, Some(blob))).map(drop)
    }

    fn put_document(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), CopyError> {
        let target = Target::Digest(descriptor.digest);
        let put = self.session.put_manifest(&target, &descriptor.media_type, bytes.to_vec());
        self.wait(put)
    }

    fn finish(&self, top: &Descriptor, bytes: &[u8]) -> Result<(), CopyError> {
        if self.target != Target::Digest(top.digest) {
            let put = self.session.put_manifest(&self.target, &top.media_type, bytes.to_vec());
            self.wait(put)?;
        }
        self.wait(self.session.list_referrers())
    }
}
