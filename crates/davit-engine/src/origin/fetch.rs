//! A download as a blocking stream: the async side sends pieces, a reader takes them.

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};
use davit_distribution::{Error, Session};
use davit_image::Descriptor;
use tokio::{runtime::Handle, sync::mpsc};

use super::{BlobRead, OriginError, Stop};

/// Pieces on their way; one is at most some 400 KiB.
const PIECES: usize = 6;

/// What comes over the network, in pieces.
pub(crate) type Pieces = mpsc::Sender<Result<Bytes, Error>>;

/// Bytes as they come over the network. Dropping it ends the download.
pub(crate) struct Download {
    pieces: mpsc::Receiver<Result<Bytes, Error>>,
    current: Bytes,
    runtime: Handle,
    stop: Stop,
    failure: Option<Error>,
}

impl Download {
    /// A blob from some offset on.
    pub(super) fn of_blob(
        runtime: &Handle,
        session: &Session,
        (descriptor, offset): (&Descriptor, u64),
        stop: &Stop,
    ) -> Self {
        let (session, descriptor) = (session.clone(), descriptor.clone());
        Self::start(runtime, stop, |sender| async move {
            let mut blob = session.blob(&descriptor, offset).await?;
            while let Some(piece) = blob.next_chunk().await? {
                if sender.send(Ok(piece)).await.is_err() {
                    break;
                }
            }
            Ok(())
        })
    }

    /// What `send` sends, until it ends or fails; a send that fails has lost its reader.
    pub(crate) fn start<F>(runtime: &Handle, stop: &Stop, send: impl FnOnce(Pieces) -> F) -> Self
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let (sender, pieces) = mpsc::channel(PIECES);
        let sent = send(sender.clone());
        runtime.spawn(async move {
            if let Err(error) = sent.await {
                // A reader that has gone does not want to know.
                drop(sender.send(Err(error)).await);
            }
        });
        let (runtime, stop) = (runtime.clone(), stop.clone());
        Self { pieces, current: Bytes::new(), runtime, stop, failure: None }
    }

    /// The error that ended it, if the network did.
    pub(crate) fn into_failure(self) -> Option<Error> {
        self.failure
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            let piece = self.runtime.block_on(self.stop.unless(self.pieces.recv()));
            match piece.map_err(io::Error::other)? {
                Some(Ok(piece)) => self.current = piece,
                Some(Err(error)) => {
                    let text = error.to_string();
                    self.failure = Some(error);
                    return Err(io::Error::other(text));
                }
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

impl BlobRead for Download {
    fn take_failure(&mut self) -> Option<OriginError> {
        self.failure.take().map(OriginError::Registry)
    }
}
