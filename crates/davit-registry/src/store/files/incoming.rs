//! Bytes on their way to disk: a thread writes them while they are hashed and more arrive.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path, sync::Arc};

use bytes::Bytes;
use davit_image::{Algorithm, Digest, Digester};
use davit_sys::bulk::BulkAppender;
use tokio::{sync::mpsc, task::JoinHandle};
use uuid::Uuid;

use super::{StoreError, fault};
use crate::{pieces, store::Arrived};

/// Pieces that wait for the disk; a piece is what one read of the socket gave, at most 400 KiB.
const WAITING: usize = 4;
/// Bytes that one read takes.
const PIECE: usize = 256 << 10;

/// The sending end; dropping it keeps nothing, except in a session's file.
#[derive(Debug)]
pub(in crate::store) struct Receiving {
    pieces: Option<mpsc::Sender<Bytes>>,
    task: Option<JoinHandle<Result<Written, StoreError>>>,
    digester: Digester,
    size_bytes: u64,
}

/// A file that has what arrived; not flushed yet.
#[derive(Debug)]
pub(in crate::store) struct Written {
    pub(super) file: Arc<File>,
    pub(super) session: Option<SessionFile>,
}

/// The file of an upload session.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionFile {
    pub(super) session: Uuid,
    /// Whether its name is not durable yet.
    pub(super) is_new: bool,
}

impl Receiving {
    pub(super) fn start(
        digester: Digester,
        offset: u64,
        open: impl FnOnce() -> Result<(File, Option<SessionFile>), StoreError> + Send + 'static,
    ) -> Self {
        let (sender, pieces) = mpsc::channel(WAITING);
        let task = tokio::task::spawn_blocking(move || {
            let (file, session) = open()?;
            append(&file, offset, pieces)
                .map_err(fault("write to", Path::new("the blob store")))?;
            Ok(Written { file: Arc::new(file), session })
        });
        Self { pieces: Some(sender), task: Some(task), digester, size_bytes: offset }
    }

    pub(in crate::store) async fn write(&mut self, piece: Bytes) -> Result<(), StoreError> {
        let sender = self.pieces.as_ref().ok_or(StoreError::Interrupted)?;
        if sender.send(piece.clone()).await.is_err() {
            return Err(self.finish().await.err().unwrap_or(StoreError::Interrupted));
        }
        // Here and not on the thread: the disk works meanwhile, and the bytes are still in the cache of
        // the processor that received them. A piece takes a tenth of a millisecond.
        self.digester.update(&piece);
        self.size_bytes += piece.len() as u64;
        pieces::give(piece);
        Ok(())
    }

    pub(in crate::store) async fn finish(&mut self) -> Result<Arrived<Written>, StoreError> {
        self.pieces = None;
        let task = self.task.take().ok_or(StoreError::Interrupted)?;
        let at = task.await.unwrap_or(Err(StoreError::Interrupted))?;
        Ok(Arrived { at, digester: self.digester.clone(), size_bytes: self.size_bytes })
    }
}

impl Written {
    /// Reads all of it again, for another algorithm than the one that ran along.
    pub(in crate::store) async fn digest_again(
        &self,
        algorithm: Algorithm,
    ) -> Result<Digest, StoreError> {
        let file = Arc::clone(&self.file);
        let refused = fault("read", Path::new("the blob store"));
        super::blocking(move || digest_of(&file, algorithm).map_err(refused)).await
    }
}

/// The digest of a file's bytes from its start; blocks.
pub(in crate::store) fn digest_of(file: &File, algorithm: Algorithm) -> io::Result<Digest> {
    let mut digester = Digester::new(algorithm);
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    loop {
        let read = file.read_at(&mut piece, at)?;
        if read == 0 {
            return Ok(digester.finish());
        }
        digester.update(&piece[..read]);
        at += read as u64;
    }
}

/// Appends the pieces, past the page cache: most of what is pushed is not pulled from here soon, and the
/// pages of it cost more than the disk's own time.
fn append(file: &File, offset: u64, mut arriving: mpsc::Receiver<Bytes>) -> io::Result<()> {
    let mut appender = BulkAppender::from_start(offset);
    while let Some(piece) = arriving.blocking_recv() {
        appender.append(file, &piece)?;
        pieces::give(piece);
    }
    appender.flush(file)
}
