//! Blob bytes, in a directory.
//!
//! ```text
//! ROOT/blobs/sha256/3f/3fa1….0192f0c1-…   one blob, under a key that no other upload ever has
//! ROOT/uploads/0192f0c2-…                 bytes of an upload session that is not finished
//! ```
//! A blob's file appears whole, after its bytes are on disk: they are written without a name
//! (`O_TMPFILE`) or under `uploads/`, hashed on the way, flushed, then linked, and the directory is
//! flushed too. **Invariant:** a key that a reader may learn names bytes with its digest.
//!
//! Keys are unique per upload, so that removing an old copy can never meet a new one of the same digest.
//! The key's UUID carries the time of its making, which lets a scan pass over what is young.

use std::{
    fmt,
    fs::File,
    io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use davit_image::{Digest, Digester};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use uuid::Uuid;

mod incoming;
mod listing;

pub use incoming::{Incoming, Received};

/// Name of one stored object: `blobs/sha256/3f/3fa1….UUID`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    digest: Digest,
    upload: Uuid,
}

/// The text is no [`Key`].
#[derive(Debug, thiserror::Error)]
#[error("malformed name of a stored object: `{0}`")]
pub struct KeyError(String);

/// The bytes cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file is shorter than what was flushed before: the disk lost bytes.
    #[error("`{}` lost bytes that were flushed", .0.display())]
    Truncated(PathBuf),
    /// The sender stopped, or the server ends.
    #[error("the upload was interrupted")]
    Interrupted,
}

impl StoreError {
    /// Tells whether there is no such object.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Tells whether the disk or a quota of the system is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::File { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }
}

/// A directory of blobs; cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    root: Arc<PathBuf>,
}

impl Store {
    /// Opens the directory, and makes what is missing.
    ///
    /// # Errors
    /// A directory cannot be made.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        for directory in ["blobs/sha256", "blobs/sha512", "uploads"] {
            let path = root.join(directory);
            std::fs::DirBuilder::new()
                .recursive(true)
                .create(&path)
                .map_err(fault("make", &path))?;
        }
        Ok(Self { root: Arc::new(root.to_owned()) })
    }

    /// Takes bytes that get a name only when they are whole.
    #[must_use]
    pub fn receive(&self, digester: Digester) -> Incoming {
        let directory = self.root.join("blobs");
        Incoming::start(digester, 0, move || {
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
            let made = rustix::fs::open(&directory, flags, Mode::from_raw_mode(0o600));
            let file = made.map_err(|error| fault("make a file in", &directory)(error.into()))?;
            Ok((File::from(file), None))
        })
    }

    /// Takes more bytes of an upload session, which has `offset` of them; what lies beyond, which an
    /// interrupted request left, is cut off.
    #[must_use]
    pub fn resume(&self, session: Uuid, digester: Digester, offset: u64) -> Incoming {
        let path = self.session_path(session);
        Incoming::start(digester, offset, move || {
            let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let opened = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600));
            let file = File::from(opened.map_err(|error| fault("open", &path)(error.into()))?);
            let length = file.metadata().map_err(fault("read", &path))?.len();
            if length < offset {
                return Err(StoreError::Truncated(path));
            }
            if length > offset {
                file.set_len(offset).map_err(fault("truncate", &path))?;
            }
            Ok((file, Some(session)))
        })
    }

    /// Flushes what a session has received.
    ///
    /// # Errors
    /// The disk cannot keep it.
    pub async fn keep(&self, received: &Received) -> Result<(), StoreError> {
        let file = Arc::clone(&received.file);
        let path = self.root.join("uploads");
        let is_new = received.started_at == 0;
        blocking(move || {
            file.sync_data().map_err(fault("flush", &path))?;
            // Its name must outlive a crash too.
            if is_new { flush_directory(&path) } else { Ok(()) }
        })
        .await
    }

    /// Gives received bytes their name: after it they are durable, and can be read.
    ///
    /// The caller has compared `digest` with the bytes'.
    ///
    /// # Errors
    /// The disk cannot keep them.
    pub async fn publish(&self, received: Received, digest: Digest) -> Result<Key, StoreError> {
        let key = Key { digest, upload: Uuid::now_v7() };
        let to = self.path(&key);
        let from = received.session.map(|session| self.session_path(session));
        blocking(move || {
            received.file.sync_data().map_err(fault("flush", &to))?;
            let linked = link(&received.file, from.as_deref(), &to);
            let directory = to.parent().unwrap_or(Path::new("/"));
            if linked.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                make_directory(directory)?;
                link(&received.file, from.as_deref(), &to).map_err(fault("link", &to))?;
            } else {
                linked.map_err(fault("link", &to))?;
            }
            flush_directory(directory)?;
            Ok(key)
        })
        .await
    }

    /// Opens an object for reading; quick, no data is read.
    ///
    /// # Errors
    /// It is absent, see [`StoreError::is_absent`], or cannot be read.
    pub fn read(&self, key: &Key) -> Result<File, StoreError> {
        let path = self.path(key);
        let opened = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        Ok(File::from(opened.map_err(|error| fault("open", &path)(error.into()))?))
    }

    /// Removes an object; that it is gone already is no error.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub async fn remove(&self, key: &Key) -> Result<(), StoreError> {
        let path = self.path(key);
        blocking(move || unlink(&path)).await
    }

    /// Removes the bytes of an upload session; that they are gone already is no error.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub async fn remove_session(&self, session: Uuid) -> Result<(), StoreError> {
        let path = self.session_path(session);
        blocking(move || unlink(&path)).await
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.to_string())
    }

    fn session_path(&self, session: Uuid) -> PathBuf {
        self.root.join("uploads").join(session.to_string())
    }
}

impl Key {
    /// The digest of its bytes.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// When it was made, in milliseconds since 1970 of the machine that made it.
    #[must_use]
    pub fn made_ms(&self) -> u64 {
        made_ms(&self.upload)
    }
}

/// The time in a UUID of version 7.
fn made_ms(id: &Uuid) -> u64 {
    let (seconds, nanoseconds) = id.get_timestamp().map_or((0, 0), |time| time.to_unix());
    seconds * 1000 + u64::from(nanoseconds) / 1_000_000
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (algorithm, hex) = (self.digest.algorithm(), self.digest.hex());
        write!(f, "blobs/{algorithm}/{}/{hex}.{}", &hex[..2], self.upload)
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let fault = || KeyError(text.to_owned());
        let parts: Vec<&str> = text.split('/').collect();
        let ["blobs", algorithm, _, file] = parts[..] else { return Err(fault()) };
        let (hex, upload) = file.split_once('.').ok_or_else(fault)?;
        let digest = format!("{algorithm}:{hex}").parse().map_err(|_error| fault())?;
        let key = Self { digest, upload: upload.parse().map_err(|_error| fault())? };
        if key.to_string() == text { Ok(key) } else { Err(fault()) }
    }
}

fn fault(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File { action, path, source }
}

/// Names a file: renames the session's, or links the one without a name.
fn link(file: &File, from: Option<&Path>, to: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;

    if let Some(from) = from {
        return Ok(rustix::fs::rename(from, to)?);
    }
    let open = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::linkat(CWD, open, CWD, to, AtFlags::SYMLINK_FOLLOW)?)
}

/// Makes one of the 256 directories of an algorithm, durably.
fn make_directory(path: &Path) -> Result<(), StoreError> {
    match std::fs::DirBuilder::new().create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(fault("make", path)(error))
        }
        _ => flush_directory(path.parent().unwrap_or(path)),
    }
}

fn flush_directory(path: &Path) -> Result<(), StoreError> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let flushed = rustix::fs::open(path, flags, Mode::empty()).and_then(rustix::fs::fsync);
    flushed.map_err(|error| fault("flush", path)(error.into()))
}

fn unlink(path: &Path) -> Result<(), StoreError> {
    match rustix::fs::unlink(path) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(fault("remove", path)(error.into())),
    }
}

/// Runs what waits for the disk away from the threads that answer.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(StoreError::Interrupted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_and_hostile_ones_are_refused() {
        let key = Key { digest: Digest::of(b"a"), upload: Uuid::now_v7() };
        let text = key.to_string();
        assert_eq!(text.parse::<Key>().unwrap(), key);
        assert!(key.made_ms() > 1_700_000_000_000);
        for bad in [
            text.replace("/ca/", "/cb/"),
            text.replace("blobs", ".."),
            text.replace('.', "/"),
            text.to_uppercase(),
            format!("{text}/.."),
            String::new(),
        ] {
            assert!(bad.parse::<Key>().is_err(), "{bad}");
        }
    }
}
