//! `import` of what a web server has.

use davit_image::ImageId;

use super::{FileError, ImportRequest};
use crate::{
    Engine, Progress,
    origin::{Download, Pieces, Stop},
};

impl Engine {
    /// Makes an image of a tar stream, plain or compressed, that lies at an HTTP address, as
    /// [`Self::import_image`] does. Not tried again where it fails.
    ///
    /// # Errors
    /// [`FileError::Fetch`] if the server does not give the whole of it; else see [`FileError`].
    pub fn import_address(
        &self,
        address: &str,
        request: &ImportRequest,
        progress: &dyn Progress,
    ) -> Result<ImageId, FileError> {
        let failed = |source| FileError::Fetch { name: request.source.clone(), source };
        let registries = self.registries()?;
        let mut body = registries.wait(registries.client.download(address)).map_err(failed)?;
        let send = |pieces: Pieces| async move {
            while let Some(piece) = body.next_chunk().await? {
                if pieces.send(Ok(piece)).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        let mut stream = Download::start(registries.handle(), &Stop::default(), send);
        let imported = self.import_image(&mut stream, request, progress);
        stream.into_failure().map_or(imported, |source| Err(failed(source)))
    }
}
