//! Blob bytes: in a directory, or in an object store (S3, GCS, Azure).
//!
//! **Invariant:** a key that a reader may learn names bytes with its digest: they are hashed on the way,
//! and durable before the key is told.
//!
//! Both kinds stand behind enums, not behind a trait object: what a request does to files is a call, and
//! a file can go to the socket without being read ([`Stored::File`]).

use std::{fs::File, ops::Range};

use bytes::Bytes;
use davit_image::{Algorithm, Digest, Digester};
use futures_util::TryStreamExt as _;
use uuid::Uuid;

use crate::db::Database;

mod error;
mod files;
mod key;
mod location;
mod objects;

pub use error::StoreError;
pub use files::{Adopted, Files};
pub use key::{Key, KeyError};
pub use location::{ObjectLocation, StoreLocation, StoreUrlError};
pub(crate) use objects::ForgetUpload;
pub use objects::{Objects, PartStream, Remote};

use error::fault;
use key::made_ms;

/// Where the blobs are; cheap to clone.
#[derive(Clone, Debug)]
pub enum Store {
    /// In a directory.
    Files(Files),
    /// In an object store.
    Objects(Objects),
}

/// Bytes that are on their way in; dropping it keeps nothing, except in a session's file.
#[derive(Debug)]
pub struct Incoming {
    to: To,
    received_bytes: u64,
}

#[derive(Debug)]
enum To {
    File(files::Receiving),
    Object(Box<objects::Receiving>),
}

/// What arrived; not flushed yet.
#[derive(Debug)]
pub struct Received {
    at: At,
    /// State of the digest over all bytes.
    pub digester: Digester,
    /// All bytes, those of earlier requests included.
    pub size_bytes: u64,
}

#[derive(Debug)]
enum At {
    File(files::Written),
    Object(Box<objects::Upload>),
}

/// What arrived, as one kind of store tells it.
#[derive(Debug)]
struct Arrived<T> {
    at: T,
    digester: Digester,
    size_bytes: u64,
}

/// What a session's row keeps for the store between requests; a directory needs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Parts that the object store has, as JSON; empty without any.
    pub parts: String,
    /// The name that they will have together.
    pub key: String,
    /// Bytes after them that are too few for a part (less than 5 MiB).
    pub tail: Vec<u8>,
}

/// Where an upload session goes on.
#[derive(Clone, Copy, Debug)]
pub struct Place<'s> {
    /// Bytes that it has.
    pub offset: u64,
    /// What its row kept.
    pub kept: &'s Kept,
    /// Whether another node had it, and has not said that it let it go: it may still be writing.
    pub is_taken_over: bool,
}

/// An object that can be read.
#[derive(Debug)]
pub enum Stored {
    /// An open file.
    File(File),
    /// An object that requests ask for; nothing was asked yet.
    Remote(Remote),
}

impl Store {
    /// Opens the store, and makes the directories that are missing; sends no request.
    ///
    /// # Errors
    /// A directory cannot be made, or the object store's settings are wrong.
    pub fn open(location: &StoreLocation) -> Result<Self, StoreError> {
        Ok(match location {
            StoreLocation::Directory(root) => Self::Files(Files::open(root)?),
            StoreLocation::Objects(location) => Self::Objects(Objects::open(location)?),
        })
    }

    /// Writes down in this database what is under way in an object store, so that what a killed server
    /// leaves there is found.
    #[must_use]
    pub fn noting_in(self, database: &Database) -> Self {
        match self {
            Self::Files(files) => Self::Files(files),
            Self::Objects(objects) => Self::Objects(objects.noting_in(database)),
        }
    }

    /// Ends an upload in parts of which only a note is left; that it is gone already is no error.
    ///
    /// # Errors
    /// The object store fails.
    pub(crate) async fn end_upload(&self, key: &str, id: &str) -> Result<(), StoreError> {
        match self {
            Self::Files(_) => Ok(()),
            Self::Objects(objects) => objects.end_upload(key, id).await,
        }
    }

    /// Asks an object store for the first name that it has, so that wrong settings show at once.
    ///
    /// # Errors
    /// It refuses.
    pub async fn probe(&self) -> Result<(), StoreError> {
        match self {
            Self::Files(_) => Ok(()),
            Self::Objects(objects) => objects.probe().await,
        }
    }

    /// Takes bytes that get a name only when they are whole.
    #[must_use]
    pub fn receive(&self, digester: Digester) -> Incoming {
        let to = match self {
            Self::Files(files) => To::File(files.receive(digester)),
            Self::Objects(objects) => {
                To::Object(Box::new(objects.receive(digester, 0, &Kept::default())))
            }
        };
        Incoming { to, received_bytes: 0 }
    }

    /// Takes more bytes of an upload session; what an interrupted request left beyond its place is cut
    /// off.
    #[must_use]
    pub fn resume(&self, session: Uuid, digester: Digester, place: &Place) -> Incoming {
        let to = match self {
            Self::Files(files) => To::File(files.resume(session, digester, place)),
            Self::Objects(objects) => {
                To::Object(Box::new(objects.receive(digester, place.offset, place.kept)))
            }
        };
        Incoming { to, received_bytes: 0 }
    }

    /// Makes durable what a session has received; tells what its row must keep.
    ///
    /// # Errors
    /// The disk or the object store cannot keep it.
    pub async fn keep(&self, received: &mut Received) -> Result<Kept, StoreError> {
        match (self, &mut received.at) {
            (Self::Files(files), At::File(written)) => {
                files.keep(written).await?;
                Ok(Kept::default())
            }
            (_, At::Object(upload)) => upload.keep().await,
            (Self::Objects(_), At::File(_)) => Err(StoreError::Interrupted),
        }
    }

    /// Gives received bytes their name: after it they are durable, and can be read.
    ///
    /// The caller has compared `digest` with the bytes'.
    ///
    /// # Errors
    /// The disk or the object store cannot keep them.
    pub async fn publish(&self, received: Received, digest: Digest) -> Result<Key, StoreError> {
        match (self, received.at) {
            (Self::Files(files), At::File(written)) => files.publish(written, digest).await,
            (_, At::Object(mut upload)) => upload.publish(received.size_bytes).await,
            (Self::Objects(_), At::File(_)) => Err(StoreError::Interrupted),
        }
    }

    /// Opens an object for reading; quick, no data is read, and no request is sent.
    ///
    /// # Errors
    /// A file that is absent, see [`StoreError::is_absent`], or cannot be read.
    pub fn read(&self, key: &Key) -> Result<Stored, StoreError> {
        Ok(match self {
            Self::Files(files) => Stored::File(files.read(key)?),
            Self::Objects(objects) => Stored::Remote(objects.remote(key)),
        })
    }

    /// The digest of an object's bytes, all of which are read; nothing when it has gone.
    ///
    /// # Errors
    /// The object store fails. A file that cannot be read has no sound bytes: it has another digest.
    pub async fn digest_of(
        &self,
        key: &Key,
        algorithm: Algorithm,
    ) -> Result<Option<Digest>, StoreError> {
        let read = match self.read(key) {
            Ok(Stored::Remote(remote)) => remote.digest(algorithm).await.map(Some),
            Ok(Stored::File(file)) => {
                blocking(move || {
                    // An unreadable sector is corruption too.
                    let read = files::digest_of(&file, algorithm);
                    Ok(Some(
                        read.unwrap_or_else(|_fault| Digest::of_with(algorithm, b"unreadable")),
                    ))
                })
                .await
            }
            Err(error) => Err(error),
        };
        match read {
            Err(error) if error.is_absent() => Ok(None),
            read => read,
        }
    }

    /// Makes a file that lies elsewhere a blob: by a hard link where nobody else can write to it, else
    /// by a copy. Its bytes are compared with the digest before it has a name.
    ///
    /// # Errors
    /// [`StoreError::Digest`], [`StoreError::Unreadable`], or the store cannot keep it.
    pub async fn adopt(
        &self,
        file: File,
        digest: Digest,
    ) -> Result<(Key, u64, Adopted), StoreError> {
        match self {
            Self::Files(files) => files.adopt(file, digest).await,
            Self::Objects(_) => {
                let unreadable = |source| StoreError::Unreadable { digest, source };
                let size_bytes = file.metadata().map_err(unreadable)?.len();
                let stream = PartStream::of_source(file, 0..size_bytes, digest);
                let (key, size_bytes) = self.store(stream, digest).await?;
                Ok((key, size_bytes, Adopted::Copied))
            }
        }
    }

    /// Puts an object into a directory under the same key, unless it is there; what comes from an
    /// object store is compared with its digest.
    ///
    /// # Errors
    /// [`StoreError::Digest`], the object is absent, or the directory cannot keep it.
    pub async fn copy_to(
        &self,
        (key, digest, size_bytes): (&Key, Digest, u64),
        other: &Files,
    ) -> Result<Adopted, StoreError> {
        match self {
            Self::Files(files) => files.copy_to(key, other).await,
            Self::Objects(_) if other.size(key).await? == Some(size_bytes) => Ok(Adopted::There),
            Self::Objects(objects) => {
                let mut pieces = objects.remote(key).part(0..size_bytes).await?;
                let mut receiving = other.receive(Digester::new(digest.algorithm()));
                while let Some(piece) = pieces.try_next().await? {
                    receiving.write(piece).await?;
                }
                let arrived = receiving.finish().await?;
                let actual = arrived.digester.finish();
                if actual != digest {
                    return Err(StoreError::Digest { actual });
                }
                other.publish_as(arrived.at, key.clone()).await?;
                Ok(Adopted::Copied)
            }
        }
    }

    /// Stores bytes that have this digest.
    async fn store(
        &self,
        mut pieces: PartStream,
        digest: Digest,
    ) -> Result<(Key, u64), StoreError> {
        let mut incoming = self.receive(Digester::new(digest.algorithm()));
        while let Some(piece) = pieces.try_next().await? {
            incoming.write(piece).await?;
        }
        let received = incoming.finish().await?;
        let (actual, size_bytes) = (received.digester.clone().finish(), received.size_bytes);
        if actual != digest {
            return Err(StoreError::Digest { actual });
        }
        Ok((self.publish(received, digest).await?, size_bytes))
    }

    /// Removes an object; that it is gone already is no error.
    ///
    /// # Errors
    /// It cannot be removed.
    pub async fn remove(&self, key: &Key) -> Result<(), StoreError> {
        match self {
            Self::Files(files) => files.remove(key).await,
            Self::Objects(objects) => objects.remove(key).await,
        }
    }

    /// Removes the bytes of an upload session, of which its row keeps `parts`; that they are gone
    /// already is no error.
    ///
    /// # Errors
    /// They cannot be removed.
    pub async fn remove_session(&self, session: Uuid, parts: &str) -> Result<(), StoreError> {
        match self {
            Self::Files(files) => files.remove_session(session).await,
            Self::Objects(objects) => objects.abort(parts).await,
        }
    }

    /// Prefixes that [`Store::keys`] lists one by one, so that a scan of many objects stays small.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub async fn shards(&self) -> Result<Vec<String>, StoreError> {
        match self {
            Self::Files(files) => files.shards().await,
            Self::Objects(objects) => objects.shards().await,
        }
    }

    /// Objects of one shard; what is no object is passed over.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub async fn keys(&self, shard: &str) -> Result<Vec<Key>, StoreError> {
        match self {
            Self::Files(files) => files.keys(shard).await,
            Self::Objects(objects) => objects.keys(shard).await,
        }
    }

    /// Upload sessions that have files here, and when each began (milliseconds since 1970). In an
    /// object store only their rows know them.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub async fn sessions(&self) -> Result<Vec<(Uuid, u64)>, StoreError> {
        match self {
            Self::Files(files) => files.sessions().await,
            Self::Objects(_) => Ok(Vec::new()),
        }
    }

    /// Size of an object in bytes; `None` when it is absent.
    ///
    /// # Errors
    /// The store cannot tell.
    pub async fn size(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        match self {
            Self::Files(files) => files.size(key).await,
            Self::Objects(objects) => objects.size(key).await,
        }
    }
}

impl Incoming {
    /// Hands over the next piece; waits while the store is slow.
    ///
    /// # Errors
    /// The store refused an earlier one.
    pub async fn write(&mut self, piece: Bytes) -> Result<(), StoreError> {
        self.received_bytes += piece.len() as u64;
        match &mut self.to {
            To::File(receiving) => receiving.write(piece).await,
            To::Object(receiving) => receiving.write(&piece).await,
        }
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
    pub async fn finish(self) -> Result<Received, StoreError> {
        Ok(match self.to {
            To::File(mut receiving) => {
                let Arrived { at, digester, size_bytes } = receiving.finish().await?;
                Received { at: At::File(at), digester, size_bytes }
            }
            To::Object(receiving) => {
                let Arrived { at, digester, size_bytes } = receiving.finish();
                Received { at: At::Object(Box::new(at)), digester, size_bytes }
            }
        })
    }
}

impl Received {
    /// Reads all of it again, for another algorithm than the one that ran along.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn digest_again(&mut self, algorithm: Algorithm) -> Result<Digest, StoreError> {
        match &mut self.at {
            At::File(written) => written.digest_again(algorithm).await,
            At::Object(upload) => upload.digest_again(self.size_bytes, algorithm).await,
        }
    }

    /// Tells that a row has what [`Store::keep`] told: until then, dropping this undoes it.
    pub fn noted(&mut self) {
        if let At::Object(upload) = &mut self.at {
            upload.noted();
        }
    }
}

impl Stored {
    /// The bytes of a part, in pieces.
    ///
    /// # Errors
    /// The object store refuses; see [`StoreError::is_absent`].
    pub async fn part(self, range: Range<u64>) -> Result<PartStream, StoreError> {
        match self {
            Self::File(file) => Ok(PartStream::of_file(file, range)),
            Self::Remote(remote) => remote.part(range).await,
        }
    }
}

/// Runs what waits for the disk away from the threads that answer.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(StoreError::Interrupted))
}
