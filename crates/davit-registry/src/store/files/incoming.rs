//! Bytes on their way to disk: one thread writes and hashes them as they arrive.

use std::{
    fs::File, io::Write as _, num::NonZeroU64, os::unix::fs::FileExt as _, path::Path, sync::Arc,
};

use bytes::Bytes;
use davit_image::{Algorithm, Digest, Digester};
use tokio::{sync::mpsc, task::JoinHandle};
use uuid::Uuid;

use super::{StoreError, fault};
use crate::store::Arrived;

/// Pieces that wait for the disk; a piece is what one read of the socket gave, at most 400 KiB.
const WAITING: usize = 4;
/// Bytes that the disk is asked to write while more arrive.
const WRITE_BACK: u64 = 8 << 20;
/// Bytes that one read takes.
const PIECE: usize = 256 << 10;

/// The sending end; dropping it keeps nothing, except in a session's file.
#[derive(Debug)]
pub(in crate::store) struct Receiving {
    pieces: Option<mpsc::Sender<Bytes>>,
    task: Option<JoinHandle<Result<Arrived<Written>, StoreError>>>,
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
            receive(file, session, digester, (offset, pieces))
        });
        Self { pieces: Some(sender), task: Some(task) }
    }

    pub(in crate::store) async fn write(&mut self, piece: Bytes) -> Result<(), StoreError> {
        let sender = self.pieces.as_ref().ok_or(StoreError::Interrupted)?;
        if sender.send(piece).await.is_ok() {
            return Ok(());
        }
        Err(self.finish().await.err().unwrap_or(StoreError::Interrupted))
    }

    pub(in crate::store) async fn finish(&mut self) -> Result<Arrived<Written>, StoreError> {
        self.pieces = None;
        let task = self.task.take().ok_or(StoreError::Interrupted)?;
        task.await.unwrap_or(Err(StoreError::Interrupted))
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
pub(in crate::store) fn digest_of(file: &File, algorithm: Algorithm) -> std::io::Result<Digest> {
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

/// Asks the kernel to write a part of a file to the disk now, without waiting, so that the flush at the
/// end finds little left: so does `POSIX_FADV_DONTNEED` with what is not written yet.
fn start_writing(file: &File, from: u64, to: u64) {
    let length = NonZeroU64::new(to - from);
    // Without it the flush takes longer.
    let _late = rustix::fs::fadvise(file, from, length, rustix::fs::Advice::DontNeed);
}

fn receive(
    file: File,
    session: Option<SessionFile>,
    mut digester: Digester,
    (offset, mut pieces): (u64, mpsc::Receiver<Bytes>),
) -> Result<Arrived<Written>, StoreError> {
    let (mut size_bytes, mut asked) = (offset, offset);
    while let Some(piece) = pieces.blocking_recv() {
        let refused = fault("write to", Path::new("the blob store"));
        if session.is_some() {
            file.write_all_at(&piece, size_bytes).map_err(refused)?;
        } else {
            (&file).write_all(&piece).map_err(refused)?;
        }
        digester.update(&piece);
        size_bytes += piece.len() as u64;
        if size_bytes - asked >= WRITE_BACK {
            start_writing(&file, asked, size_bytes);
            asked = size_bytes;
        }
        crate::pieces::give(piece);
    }
    let written = Written { file: Arc::new(file), session };
    Ok(Arrived { at: written, digester, size_bytes })
}
