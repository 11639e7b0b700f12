//! What a build made on its way out: nothing here has to have the name that it goes to.

use std::sync::atomic::AtomicBool;

use davit_image::Descriptor;
use davit_store::{Lease, Target};

use super::{Push, PushError, PushRequest, setup};
use crate::{Engine, Progress};

impl Engine {
    /// Pushes a manifest or index whose documents are in the store; yields what the registry has. Ends
    /// within 0.1 s once `cancelled` is set.
    pub(crate) fn push_built(
        &self,
        lease: &Lease<'_>,
        target: &Target,
        request: &PushRequest,
        (progress, cancelled): (&dyn Progress, &AtomicBool),
    ) -> Result<Descriptor, PushError> {
        let registries = self.registries().map_err(|source| setup(request, source))?;
        let push = Push::new(self, &registries, request, progress)?;
        let push = Push { cancelled: Some(cancelled), ..push };
        push.message(&format!("Pushing {}", request.reference.familiar()));
        let sent = push.push_target(lease, &request.reference, target)?;
        push.message(&format!("Pushed {} ({} bytes)", sent.digest, sent.size));
        Ok(sent)
    }
}
