//! A stored blob as what is uploaded.

use std::{fs::File, os::unix::fs::FileExt as _, sync::Arc};

use bytes::Bytes;
use davit_distribution::{BlobSource, SourceReader};
use tokio::sync::mpsc;

use crate::{blobs::Blob, fault::Fault, registry::Registry};

/// Bytes that are read at once.
const PIECE: u64 = 256 << 10;
/// Pieces that wait for the network.
const WAITING: usize = 2;

/// A blob of this registry.
pub(super) struct StoredBlob {
    file: Arc<File>,
    size_bytes: u64,
}

impl StoredBlob {
    pub(super) fn open(registry: &Registry, blob: &Blob) -> Result<Self, Fault> {
        let file = Arc::new(registry.store.read(&blob.key)?);
        Ok(Self { file, size_bytes: blob.size_bytes })
    }
}

impl BlobSource for StoredBlob {
    fn open(&self, offset: u64) -> SourceReader {
        let (sender, reader) = mpsc::channel(WAITING);
        let (file, size) = (Arc::clone(&self.file), self.size_bytes);
        tokio::task::spawn_blocking(move || {
            let mut at = offset;
            while at < size {
                let end = size.min(at + PIECE);
                let mut piece = vec![0; usize::try_from(end - at).unwrap_or_default()];
                let read = file.read_exact_at(&mut piece, at);
                let is_last = read.is_err();
                let piece = read.map(|()| Bytes::from(piece)).map_err(Into::into);
                if sender.blocking_send(piece).is_err() || is_last {
                    return;
                }
                at = end;
            }
        });
        reader
    }

    fn size(&self) -> Option<u64> {
        Some(self.size_bytes)
    }
}
