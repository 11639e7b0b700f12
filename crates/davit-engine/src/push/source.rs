//! What is sent, as content that can be read again from any offset: a blob's file, and a tar that
//! is compressed on the way.

use std::{
    io::{self, Read as _, Seek as _, SeekFrom, Write},
    path::PathBuf,
    thread,
};

use bytes::Bytes;
use davit_distribution::{BlobSource, SourceError, SourceReader};
use davit_image::{DiffId, Digest};
use davit_layer::{CompressOptions, compress};
use davit_store::{Store, StoreError};
use fs_err::File;
use tokio::sync::mpsc;

/// Pieces on their way.
const PIECES: usize = 6;
const PIECE_BYTES: usize = 256 << 10;

type Sender = mpsc::Sender<Result<Bytes, SourceError>>;

/// A blob as it lies in the store.
#[derive(Debug)]
pub(crate) struct StoredBlob {
    path: PathBuf,
    size_bytes: u64,
}

impl StoredBlob {
    /// A blob in a file of any place.
    pub(crate) const fn at(path: PathBuf, size_bytes: u64) -> Self {
        Self { path, size_bytes }
    }

    /// Where it is.
    pub(crate) fn into_path(self) -> PathBuf {
        self.path
    }

    /// Finds a blob, or a layer's plain tar by the same digest; `None` if neither is here.
    pub(crate) fn open(store: &Store, digest: &Digest) -> Result<Option<Self>, StoreError> {
        let found = store.open_content(digest)?;
        Ok(found.map(|(file, size_bytes)| Self { path: file.path().to_owned(), size_bytes }))
    }
}

impl BlobSource for StoredBlob {
    fn open(&self, offset: u64) -> SourceReader {
        let path = self.path.clone();
        start(move |sender| {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(offset))?;
            loop {
                let mut piece = vec![0; PIECE_BYTES];
                let count = file.read(&mut piece)?;
                if count == 0 {
                    return Ok(());
                }
                piece.truncate(count);
                if sender.blocking_send(Ok(piece.into())).is_err() {
                    // Nobody wants the rest.
                    return Ok(());
                }
            }
        })
    }

    fn size(&self) -> Option<u64> {
        Some(self.size_bytes)
    }
}

/// A layer's tar, compressed while it is sent. The bytes are the same each time.
#[derive(Debug)]
pub(crate) struct CompressedTar {
    path: PathBuf,
    options: CompressOptions,
}

impl CompressedTar {
    /// Finds a layer; `None` if it is not here.
    pub(crate) fn open(
        store: &Store,
        diff_id: &DiffId,
        options: CompressOptions,
    ) -> Result<Option<Self>, StoreError> {
        let row = store.layer(diff_id)?;
        Ok(row.map(|_| Self { path: store.layout().layer_tar(diff_id), options }))
    }
}

impl BlobSource for CompressedTar {
    fn open(&self, offset: u64) -> SourceReader {
        let (path, options) = (self.path.clone(), self.options);
        start(move |sender| {
            let tar = File::open(path)?;
            let mut sink = Pieces::new(sender, offset);
            match compress(tar.file(), &mut sink, &options) {
                Err(_) if sink.is_closed => Ok(()),
                result => result.map(drop).map_err(SourceError::from),
            }
        })
    }

    fn size(&self) -> Option<u64> {
        (self.options.compression == davit_image::Compression::None)
            .then(|| fs_err::metadata(&self.path).ok().map(|facts| facts.len()))
            .flatten()
    }
}

/// Runs `work` on a thread of its own; its error becomes the content's.
pub(super) fn start(
    work: impl FnOnce(&Sender) -> Result<(), SourceError> + Send + 'static,
) -> SourceReader {
    let (sender, receiver) = mpsc::channel(PIECES);
    thread::spawn(move || {
        if let Err(error) = work(&sender) {
            // A receiver that has gone does not want to know.
            drop(sender.blocking_send(Err(error)));
        }
    });
    receiver
}

/// Sends what is written, but for the first bytes, which the receiver has already.
pub(super) struct Pieces<'a> {
    sender: &'a Sender,
    skipped: u64,
    pub(super) is_closed: bool,
}

impl<'a> Pieces<'a> {
    pub(super) const fn new(sender: &'a Sender, skipped: u64) -> Self {
        Self { sender, skipped, is_closed: false }
    }
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let known = usize::try_from(self.skipped).unwrap_or(usize::MAX).min(bytes.len());
        self.skipped -= known as u64;
        if known < bytes.len() {
            let piece = Bytes::copy_from_slice(&bytes[known..]);
            if self.sender.blocking_send(Ok(piece)).is_err() {
                self.is_closed = true;
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
