//! What a build made on its way out: nothing here has to have the name that it goes to.

use std::sync::atomic::AtomicBool;

use davit_image::{Descriptor, DiffId, Manifest, MediaType};
use davit_store::{Lease, Target};

use super::{Push, PushError, PushRequest, Rewrite, Sent, setup};
use crate::{Engine, Progress, Silent, compressed::CompressedLayers, registry::Registries};

/// A layer of an image that is not made yet.
pub(crate) struct LayerPush<'a> {
    pub(crate) registries: &'a Registries,
    pub(crate) lease: &'a Lease<'a>,
    pub(crate) request: &'a PushRequest,
    /// Media type of the image's manifest.
    pub(crate) manifest_type: MediaType,
    /// Each of them ends the sending.
    pub(crate) cancelled: [&'a AtomicBool; 2],
    /// Layers that others of the same build want compressed, too.
    pub(crate) compressed: &'a CompressedLayers<'a>,
}

impl Engine {
    /// Pushes a manifest or index whose documents are in the store; yields what the registry has. Ends
    /// within 0.1 s once `cancelled` is set. `compressed` are layers that others want, too.
    pub(crate) fn push_built(
        &self,
        lease: &Lease<'_>,
        target: &Target,
        request: &PushRequest,
        (progress, cancelled, compressed): (&dyn Progress, &AtomicBool, &CompressedLayers<'_>),
    ) -> Result<Sent, PushError> {
        let registries = self.registries().map_err(|source| setup(request, source))?;
        let push = Push::new(self, &registries, request, progress)?;
        let push = Push { cancelled: vec![cancelled], compressed: Some(compressed), ..push };
        push.message(&format!("Pushing {}", request.reference.familiar()));
        let sent = push.push_target(lease, &request.reference, target)?;
        push.list_referrers()?;
        let Descriptor { digest, size, .. } = &sent.descriptor;
        push.message(&format!("Pushed {digest} ({size} bytes)"));
        Ok(sent)
    }

    /// Sends a layer before there is an image of it. Ends within 0.1 s once it is cancelled.
    pub(crate) fn push_layer_early(
        &self,
        layer: &LayerPush<'_>,
        diff_id: DiffId,
    ) -> Result<(), PushError> {
        let LayerPush { registries, lease, request, manifest_type, cancelled, compressed } = layer;
        let push = Push::new(self, registries, request, &Silent)?;
        let push = Push { cancelled: cancelled.to_vec(), compressed: Some(compressed), ..push };
        let row = self.store().layer(&diff_id).map_err(|e| push.store_error(e))?;
        // One that stayed elsewhere comes when the image is made.
        let Some(row) = row else { return Ok(()) };
        let plain = Descriptor::new(MediaType::OCI_LAYER, diff_id.digest(), row.tar_size);
        let config = Descriptor::of(MediaType::OCI_CONFIG, b"{}");
        let mut manifest = Manifest::new(config, Vec::new());
        manifest.media_type = Some(manifest_type.clone());
        push.push_layer(lease, (&plain, diff_id), &manifest, Rewrite::Allowed)?;
        Ok(())
    }
}
