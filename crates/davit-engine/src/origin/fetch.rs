//! A download as a blocking stream: the async side sends pieces, a reader takes them.

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};
use davit_distribution::{Error, Session};
use davit_image::Descriptor;
use tokio::{runtime::Handle, sync::mpsc};

use super::{BlobRead, OriginError, Stop};

/// Pieces on their way; one is at most some 400 KiB.
const PIECES: usize = 6;

/// A blob's bytes from some offset on. Dropping it ends the download.
pub(super) struct Download {
    pieces: mpsc::Receiver<Result<Bytes, Error>>,
    current: Bytes,
    runtime: Handle,
    stop: Stop,
    failure: Option<Error>,
}

impl Download {
    pub(super) fn start(
        runtime: &Handle,
        session: &Session,
        (descriptor, offset): (&Descriptor, u64),
        stop: &Stop,
    ) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES);
        let (session, descriptor) = (session.clone(), descriptor.clone());
        runtime.spawn(async move { download(session, descriptor, offset, sender).await });
        let (runtime, stop) = (runtime.clone(), stop.clone());
        Self { pieces, current: Bytes::new(), runtime, stop, failure: None }
    }
}

async fn download(
    session: Session,
    descriptor: Descriptor,
    offset: u64,
    sender: mpsc::Sender<Result<Bytes, Error>>,
) {
    let failed = async {
        let mut blob = session.blob(&descriptor, offset).await?;
        while let Some(piece) = blob.next_chunk().await? {
            if sender.send(Ok(piece)).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    if let Err(error) = failed.await {
        // A reader that has gone does not want to know.
        drop(sender.send(Err(error)).await);
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
