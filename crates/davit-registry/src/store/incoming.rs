//! Bytes on their way to disk: one thread writes and hashes them as they arrive.

use std::{fs::File, io::Write as _, os::unix::fs::FileExt as _, path::Path, sync::Arc};

use bytes::Bytes;
use davit_image::{Algorithm, Digest, Digester};
use tokio::{sync::mpsc, task::JoinHandle};
use uuid::Uuid;

use super::{StoreError, fault};

/// Pieces that wait for the disk; a piece is what one read of the socket gave, at most 400 KiB.
const WAITING: usize = 4;

/// The sending end; dropping it keeps nothing, except in a session's file.
#[derive(Debug)]
pub struct Incoming {
    pieces: Option<mpsc::Sender<Bytes>>,
    task: Option<JoinHandle<Result<Received, StoreError>>>,
    received_bytes: u64,
}

/// What arrived; not flushed yet.
#[derive(Debug)]
pub struct Received {
    pub(super) file: Arc<File>,
    pub(super) session: Option<Uuid>,
    pub(super) started_at: u64,
    /// State of the digest over all bytes.
    pub digester: Digester,
    /// All bytes, those of earlier requests included.
    pub size_bytes: u64,
}

impl Incoming {
    pub(super) fn start(
        digester: Digester,
        offset: u64,
        open: impl FnOnce() -> Result<(File, Option<Uuid>), StoreError> + Send + 'static,
    ) -> Self {
        let (sender, pieces) = mpsc::channel(WAITING);
        let task = tokio::task::spawn_blocking(move || {
            let (file, session) = open()?;
            receive(file, session, digester, (offset, pieces))
        });
        Self { pieces: Some(sender), task: Some(task), received_bytes: 0 }
    }

    /// Hands over the next piece; waits while the disk is slow.
    ///
    /// # Errors
    /// The disk refused an earlier one.
    pub async fn write(&mut self, piece: Bytes) -> Result<(), StoreError> {
        self.received_bytes += piece.len() as u64;
        let sender = self.pieces.as_ref().ok_or(StoreError::Interrupted)?;
        if sender.send(piece).await.is_ok() {
            return Ok(());
        }
        Err(self.end().await.err().unwrap_or(StoreError::Interrupted))
    }

    /// Bytes of this request so far.
    #[must_use]
    pub const fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Waits until all of it is written.
    ///
    /// # Errors
    /// The disk refused a piece.
    pub async fn finish(mut self) -> Result<Received, StoreError> {
        self.end().await
    }

    async fn end(&mut self) -> Result<Received, StoreError> {
        self.pieces = None;
        let task = self.task.take().ok_or(StoreError::Interrupted)?;
        task.await.unwrap_or(Err(StoreError::Interrupted))
    }
}

impl Received {
    /// Reads all of it again, for another algorithm than the one that ran along.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn digest_again(self, algorithm: Algorithm) -> Result<(Self, Digest), StoreError> {
        super::blocking(move || {
            let refused = |error| fault("read", Path::new("the blob store"))(error);
            let mut digester = Digester::new(algorithm);
            let mut piece = vec![0; 256 << 10];
            let mut at = 0;
            loop {
                let read = self.file.read_at(&mut piece, at).map_err(refused)?;
                if read == 0 {
                    return Ok((self, digester.finish()));
                }
                digester.update(&piece[..read]);
                at += read as u64;
            }
        })
        .await
    }
}

fn receive(
    file: File,
    session: Option<Uuid>,
    mut digester: Digester,
    (offset, mut pieces): (u64, mpsc::Receiver<Bytes>),
) -> Result<Received, StoreError> {
    let mut size_bytes = offset;
    while let Some(piece) = pieces.blocking_recv() {
        let refused = fault("write to", Path::new("the blob store"));
        if session.is_some() {
            file.write_all_at(&piece, size_bytes).map_err(refused)?;
        } else {
            (&file).write_all(&piece).map_err(refused)?;
        }
        digester.update(&piece);
        size_bytes += piece.len() as u64;
        crate::pieces::give(piece);
    }
    Ok(Received { file: Arc::new(file), session, started_at: offset, digester, size_bytes })
}
