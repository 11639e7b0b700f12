//! What refers to an image goes with it: attestations, signatures.
//!
//! Attestations of an image that was built here are about its manifest here; at the registry that
//! has another digest, since its layers are compressed there, and they are written anew about it.

use std::sync::PoisonError;

use davit_distribution::Target as RemoteTarget;
use davit_image::{Descriptor, Manifest, MediaType, Raw};
use davit_store::Lease;

use super::{Loaded, Novelty, Push, PushError, Referrers, Rewrite, Sent};
use crate::build::{about, referrers};

impl Push<'_> {
    /// Sends what refers to a manifest here, as what refers to the one that was sent for it.
    pub(super) fn push_referrers(
        &self,
        lease: &Lease<'_>,
        old: &Descriptor,
        new: &Descriptor,
    ) -> Result<(), PushError> {
        if self.request.referrers == Referrers::Omitted {
            return Ok(());
        }
        let found = referrers(self.engine.store(), &old.digest);
        for (descriptor, manifest) in found.map_err(|e| self.store_error(e))? {
            if !self.is_whole(manifest.value())? {
                let shown = descriptor.digest;
                self.message(&format!("warning: {shown} is not whole here; it is not pushed"));
                continue;
            }
            let sent = self.push_referrer(lease, (descriptor, &manifest), (old, new));
            self.tolerate(sent)?;
        }
        Ok(())
    }

    /// Lists what was sent under what it refers to, where the registry does not do so itself.
    pub(super) fn list_referrers(&self) -> Result<(), PushError> {
        self.tolerate(self.wait(self.session.list_referrers()))
    }

    /// Nobody asked for attestations that are made unasked.
    fn tolerate(&self, sent: Result<(), PushError>) -> Result<(), PushError> {
        match sent {
            Err(PushError::Registry { source, .. })
                if self.request.referrers == Referrers::Wished =>
            {
                self.message(&format!("warning: the provenance was not pushed: {source}"));
                Ok(())
            }
            other => other,
        }
    }

    fn push_referrer(
        &self,
        lease: &Lease<'_>,
        (descriptor, manifest): (Descriptor, &Raw<Manifest>),
        (old, new): (&Descriptor, &Descriptor),
    ) -> Result<(), PushError> {
        if old.digest == new.digest {
            let loaded = self.load(descriptor, manifest.clone())?;
            let sent = self.push_manifest(lease, &loaded, Rewrite::Refused)?;
            return self.put(&RemoteTarget::Digest(sent.descriptor.digest), &sent);
        }
        let shown = descriptor.digest;
        match self.send_about(manifest.value(), (old, new))? {
            Some(sent) => self.put(&RemoteTarget::Digest(sent.descriptor.digest), &sent),
            None => {
                self.message(&format!(
                    "warning: {shown} refers to {}, which has another digest at the registry; it is not pushed",
                    old.digest
                ));
                Ok(())
            }
        }
    }

    /// Sends the parts of attestations that are written anew about another manifest; `None` if
    /// they are none.
    pub(super) fn send_about(
        &self,
        manifest: &Manifest,
        (old, new): (&Descriptor, &Descriptor),
    ) -> Result<Option<Sent>, PushError> {
        let sent = self.sent_layers.lock().unwrap_or_else(PoisonError::into_inner);
        let made = about(self.engine.store(), manifest, (&old.digest, new), &sent);
        drop(sent);
        let Some(mut made) = made.map_err(|e| self.store_error(e))? else { return Ok(None) };
        let whole = made.documents.pop().expect("a manifest is the last of its documents");
        for part in made.documents {
            if self.wait(self.session.blob_size(&part.digest))?.is_none() {
                self.wait(self.session.upload_bytes(part.bytes.into()))?;
            }
        }
        let (descriptor, bytes) = (made.descriptor, whole.bytes);
        debug_assert_eq!(descriptor.media_type, MediaType::OCI_MANIFEST);
        Ok(Some(Sent { descriptor, bytes, image_id: None, novelty: Novelty::Document }))
    }

    /// As [`Self::send_about`], for attestations that an index names beside the image.
    pub(super) fn send_part(
        &self,
        loaded: &Loaded,
        (old, new): (&Descriptor, &Descriptor),
    ) -> Result<Option<Sent>, PushError> {
        if old.digest == new.digest {
            return Ok(None);
        }
        self.send_about(loaded.manifest.value(), (old, new))
    }
}
