//! A stored blob as what is uploaded.

use std::io;

use bytes::Bytes;
use davit_distribution::{BlobSource, SourceReader};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use crate::{
    bandwidth::Bandwidth,
    blobs::Blob,
    fault::Fault,
    registry::Registry,
    store::{Store, StoreError},
};

/// Pieces that wait for the network.
const WAITING: usize = 2;

/// A blob of this registry.
pub(super) struct StoredBlob {
    store: Store,
    blob: Blob,
    bandwidth: Bandwidth,
}

impl StoredBlob {
    pub(super) fn open(
        registry: &Registry,
        blob: &Blob,
        bandwidth: &Bandwidth,
    ) -> Result<Self, Fault> {
        // One that is lost shows before anything is sent.
        registry.store.read(&blob.key)?;
        let (store, bandwidth) = (registry.store.clone(), bandwidth.clone());
        Ok(Self { store, blob: blob.clone(), bandwidth })
    }
}

impl BlobSource for StoredBlob {
    fn open(&self, offset: u64) -> SourceReader {
        let (sender, reader) = mpsc::channel(WAITING);
        let (store, blob, bandwidth) =
            (self.store.clone(), self.blob.clone(), self.bandwidth.clone());
        tokio::spawn(async move {
            let send = async |piece: Result<Bytes, StoreError>| {
                let piece = piece.map_err(|error| io::Error::other(error).into());
                sender.send(piece).await.is_ok()
            };
            let opened = match store.read(&blob.key) {
                Ok(stored) => stored.part(offset..blob.size_bytes).await,
                Err(error) => Err(error),
            };
            match opened {
                Ok(mut pieces) => {
                    while let Some(piece) = pieces.next().await {
                        let is_last = piece.is_err();
                        bandwidth.take(piece.as_ref().map_or(0, Bytes::len)).await;
                        if !send(piece).await || is_last {
                            return;
                        }
                    }
                }
                Err(error) => {
                    // Nobody waits for it any more when this cannot be sent.
                    send(Err(error)).await;
                }
            }
        });
        reader
    }

    fn size(&self) -> Option<u64> {
        Some(self.blob.size_bytes)
    }
}
