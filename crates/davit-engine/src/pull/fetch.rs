//! A download as a blocking stream: the async side sends pieces, a reader takes them.

use std::{
    io::{self, Read},
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::{Buf as _, Bytes};
use davit_distribution::{Error, Session};
use davit_image::Descriptor;
use tokio::{runtime::Handle, sync::mpsc};

/// Pieces on their way; one is at most some 400 KiB.
const PIECES: usize = 6;

/// A blob's bytes from some offset on. Dropping it ends the download.
pub(crate) struct BlobStream<'a> {
    pieces: mpsc::Receiver<Result<Bytes, Error>>,
    current: Bytes,
    cancelled: &'a AtomicBool,
    failure: Option<Error>,
}

impl<'a> BlobStream<'a> {
    /// Starts a download; `cancelled` ends it from another thread.
    pub(crate) fn start(
        runtime: &Handle,
        session: &Session,
        descriptor: &Descriptor,
        offset: u64,
        cancelled: &'a AtomicBool,
    ) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES);
        let (session, descriptor) = (session.clone(), descriptor.clone());
        runtime.spawn(async move { download(session, descriptor, offset, sender).await });
        Self { pieces, current: Bytes::new(), cancelled, failure: None }
    }

    /// The network's error, if that is what ended the stream.
    pub(crate) const fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
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

impl Read for BlobStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(io::Error::other("another layer has failed"));
            }
            match self.pieces.blocking_recv() {
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
