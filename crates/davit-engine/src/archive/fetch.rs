//! `import` of what a web server has.

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};
use davit_distribution::{Download, Error};
use davit_image::ImageId;

use super::{FileError, ImportRequest};
use crate::{Engine, Progress, registry::Registries};

/// A download as a blocking stream, which keeps why it broke off.
struct Body<'a> {
    registries: &'a Registries,
    download: Download,
    current: Bytes,
    failure: Option<Error>,
}

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
        let download = registries.wait(registries.client.download(address)).map_err(failed)?;
        let current = Bytes::new();
        let mut body = Body { registries: &registries, download, current, failure: None };
        let imported = self.import_image(&mut body, request, progress);
        body.failure.map_or(imported, |source| Err(failed(source)))
    }
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.registries.wait(self.download.next_chunk()) {
                Ok(Some(piece)) => self.current = piece,
                Ok(None) => return Ok(0),
                Err(error) => {
                    let text = error.to_string();
                    self.failure = Some(error);
                    return Err(io::Error::other(text));
                }
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
