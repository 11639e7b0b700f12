//! Bytes on their way out of an object store, or of a file, in pieces.

use std::{
    fmt, fs::File, ops::Range, os::unix::fs::FileExt as _, path::Path as FilePath, sync::Arc,
};

use bytes::Bytes;
use davit_image::{Algorithm, Digest, Digester};
use futures_util::{
    Stream, StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use object_store::{Error, GetOptions, GetRange, ObjectStore as _, path::Path};

use super::{Key, Objects, StoreError, TRIES, fault};
use crate::store::{blocking, fault as file_fault};

/// Bytes that one read of a file takes.
const PIECE: u64 = 256 << 10;

/// An object; cheap to clone.
#[derive(Clone, Debug)]
pub struct Remote {
    objects: Objects,
    path: Path,
}

/// The bytes of a part: exactly as many as were asked for, or an error.
pub struct PartStream(BoxStream<'static, Result<Bytes, StoreError>>);

impl fmt::Debug for PartStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PartStream")
    }
}

impl Stream for PartStream {
    type Item = Result<Bytes, StoreError>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

impl PartStream {
    pub(in crate::store) fn of_file(file: File, range: Range<u64>) -> Self {
        let file = Arc::new(file);
        Self(Box::pin(stream::try_unfold(range, move |range| {
            let file = Arc::clone(&file);
            async move {
                if range.is_empty() {
                    return Ok(None);
                }
                let end = range.end.min(range.start + PIECE);
                let length = usize::try_from(end - range.start).unwrap_or_default();
                let piece = blocking(move || {
                    let mut piece = vec![0; length];
                    let read = file.read_exact_at(&mut piece, range.start);
                    read.map_err(file_fault("read", FilePath::new("a blob")))?;
                    Ok(Bytes::from(piece))
                });
                Ok(Some((piece.await?, end..range.end)))
            }
        })))
    }

    /// As [`Self::of_file`], of a file that is to become a blob.
    pub(in crate::store) fn of_source(file: File, range: Range<u64>, digest: Digest) -> Self {
        let unreadable = move |error| match error {
            StoreError::File { source, .. } => StoreError::Unreadable { digest, source },
            error => error,
        };
        Self(Box::pin(Self::of_file(file, range).map_err(unreadable)))
    }
}

impl Remote {
    pub(super) fn new(objects: Objects, key: &Key) -> Self {
        let path = objects.path_of(key);
        Self { objects, path }
    }

    /// The bytes of a part; the first request was answered when this returns.
    ///
    /// A reply that breaks off is taken up where it ended, as long as each brings something.
    ///
    /// # Errors
    /// The object store refuses; see [`StoreError::is_absent`].
    pub async fn part(&self, range: Range<u64>) -> Result<PartStream, StoreError> {
        if range.is_empty() {
            // No server has a range of an empty object.
            return Ok(PartStream(stream::empty().boxed()));
        }
        let first = self.request(&range).await?;
        let state = Reading { remote: self.clone(), pieces: Some(first), range, fruitless: 0 };
        Ok(PartStream(stream::try_unfold(state, Reading::next).boxed()))
    }

    async fn request(&self, range: &Range<u64>) -> Result<Pieces, StoreError> {
        let range = Some(GetRange::Bounded(range.clone()));
        let options = GetOptions { range, ..GetOptions::default() };
        let reply =
            super::again(|| self.objects.inner.store.get_opts(&self.path, options.clone())).await;
        Ok(reply.map_err(fault("read", &self.path))?.into_stream())
    }

    /// The digest of all bytes, which are read.
    pub(in crate::store) async fn digest(
        &self,
        algorithm: Algorithm,
    ) -> Result<Digest, StoreError> {
        let mut digester = Digester::new(algorithm);
        let head = super::again(|| self.objects.inner.store.get_opts(&self.path, head())).await;
        let size = head.map_err(fault("ask for", &self.path))?.meta.size;
        let mut pieces = self.part(0..size).await?;
        while let Some(piece) = pieces.try_next().await? {
            digester.update(&piece);
        }
        Ok(digester.finish())
    }
}

fn head() -> GetOptions {
    GetOptions { head: true, ..GetOptions::default() }
}

type Pieces = BoxStream<'static, Result<Bytes, Error>>;

struct Reading {
    remote: Remote,
    pieces: Option<Pieces>,
    /// What is still to come.
    range: Range<u64>,
    /// Requests in a row that brought nothing.
    fruitless: u32,
}

impl Reading {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, StoreError> {
        while !self.range.is_empty() {
            let mut pieces = match self.pieces.take() {
                Some(pieces) => pieces,
                None => self.remote.request(&self.range).await?,
            };
            let failure = match pieces.next().await {
                Some(Ok(mut piece)) if !piece.is_empty() => {
                    let left = usize::try_from(self.range.end - self.range.start);
                    piece.truncate(left.unwrap_or(usize::MAX));
                    self.range.start += piece.len() as u64;
                    (self.pieces, self.fruitless) = (Some(pieces), 0);
                    return Ok(Some((piece, self)));
                }
                Some(Ok(_empty)) => {
                    self.pieces = Some(pieces);
                    continue;
                }
                Some(Err(error)) => fault("read", &self.remote.path)(error),
                None => StoreError::Truncated(self.remote.path.to_string()),
            };
            self.fruitless += 1;
            if self.fruitless == TRIES {
                return Err(failure);
            }
            tracing::info!(%failure, "the rest of an object is asked for again");
        }
        Ok(None)
    }
}
