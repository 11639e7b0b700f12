//! Blobs in a directory.
//!
//! ```text
//! ROOT/blobs/sha256/3f/3fa1….0192f0c1-…   one blob
//! ROOT/uploads/0192f0c2-…                 bytes of an upload session that is not finished
//! ```
//! A blob's file appears whole, after its bytes are on disk: they are written without a name
//! (`O_TMPFILE`) or under `uploads/`, hashed on the way, linked, flushed, and the directory is
//! flushed too.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use davit_image::{Digest, Digester};
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags},
    io::Errno,
};
use uuid::Uuid;

use super::{Key, Place, StoreError, blocking, fault, made_ms};

mod adopt;
mod incoming;
mod listing;

pub use adopt::Adopted;

use incoming::SessionFile;
pub(super) use incoming::{Receiving, Written, digest_of};

/// A directory of blobs; cheap to clone.
#[derive(Clone, Debug)]
pub struct Files {
    root: Arc<PathBuf>,
}

impl Files {
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

    pub(super) fn receive(&self, digester: Digester) -> Receiving {
        let files = self.clone();
        Receiving::start(digester, 0, move || Ok((files.nameless()?, None)))
    }

    pub(super) fn resume(&self, session: Uuid, digester: Digester, place: &Place) -> Receiving {
        let (offset, is_taken_over) = (place.offset, place.is_taken_over);
        let (files, path) = (self.clone(), self.session_path(session));
        Receiving::start(digester, offset, move || {
            if is_taken_over {
                files.replace(&path, offset)?;
            }
            let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let opened = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600));
            let file = File::from(opened.map_err(|error| fault("open", &path)(error.into()))?);
            let length = file.metadata().map_err(fault("read", &path))?.len();
            if length < offset {
                return Err(StoreError::Truncated(path.display().to_string()));
            }
            if length > offset {
                file.set_len(offset).map_err(fault("truncate", &path))?;
            }
            let is_new = offset == 0 || is_taken_over;
            Ok((file, Some(SessionFile { session, is_new })))
        })
    }

    /// Puts a copy of a session's first bytes in the place of its file: the node that had the session
    /// before may still be writing to that.
    fn replace(&self, path: &Path, offset: u64) -> Result<(), StoreError> {
        use std::io::Read as _;

        // The scan removes it as a session that has no row, should this process die here.
        let copy = self.session_path(Uuid::now_v7());
        let mut to = fs_err::File::create_new(&copy).map_err(fault("make", &copy))?;
        if offset > 0 {
            let from = fs_err::File::open(path).map_err(fault("open", path))?;
            io::copy(&mut from.take(offset), &mut to).map_err(fault("copy", path))?;
        }
        fs_err::rename(&copy, path).map_err(fault("replace", path))
    }

    pub(super) async fn keep(&self, written: &Written) -> Result<(), StoreError> {
        let file = Arc::clone(&written.file);
        let path = self.root.join("uploads");
        let is_new = written.session.is_some_and(|session| session.is_new);
        blocking(move || {
            file.sync_data().map_err(fault("flush", &path))?;
            // Its name must outlive a crash too.
            if is_new { flush_directory(&path) } else { Ok(()) }
        })
        .await
    }

    pub(super) async fn publish(
        &self,
        written: Written,
        digest: Digest,
    ) -> Result<Key, StoreError> {
        self.publish_as(written, Key::of(digest)).await
    }

    pub(super) async fn publish_as(&self, written: Written, key: Key) -> Result<Key, StoreError> {
        let to = self.path(&key);
        let from = written.session.map(|file| self.session_path(file.session));
        blocking(move || {
            // The open file, and not what has its name by now: it has no name any more when another
            // node took the session over, and cannot be linked. The name comes before the flush, which
            // then needs one commit of the file system's journal for both; nobody learns the key before.
            let link_and_flush = || link(&written.file, &to).and_then(|()| written.file.sync_all());
            name(&to, link_and_flush).map_err(fault("name", &to))?;
            if let Some(Err(error)) = from.map(|from| unlink(&from)) {
                // The blob is whole; the scan removes what a session without a row left.
                tracing::warn!(error = &error as &dyn std::error::Error, "a session's file stays");
            }
            Ok(key)
        })
        .await
    }

    pub(super) fn read(&self, key: &Key) -> Result<File, StoreError> {
        let path = self.path(key);
        let opened = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        Ok(File::from(opened.map_err(|error| fault("open", &path)(error.into()))?))
    }

    /// Opens a blob's file in a directory where anything may lie under its name.
    ///
    /// # Errors
    /// [`StoreError::Strange`]: a link, no regular file, or one of another size.
    pub(crate) fn read_foreign(&self, key: &Key, size_bytes: u64) -> Result<File, StoreError> {
        let path = self.path(key);
        // A FIFO would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match rustix::fs::open(&path, flags, Mode::empty()) {
            Err(Errno::LOOP | Errno::NXIO) => return Err(StoreError::Strange(path)),
            opened => File::from(opened.map_err(|error| fault("open", &path)(error.into()))?),
        };
        let metadata = file.metadata().map_err(fault("read", &path))?;
        if metadata.is_file() && metadata.len() == size_bytes {
            Ok(file)
        } else {
            Err(StoreError::Strange(path))
        }
    }

    pub(super) async fn remove(&self, key: &Key) -> Result<(), StoreError> {
        let path = self.path(key);
        blocking(move || unlink(&path)).await
    }

    pub(super) async fn remove_session(&self, session: Uuid) -> Result<(), StoreError> {
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

/// Gives a file its durable name below one of the 256 directories, which is made when it is absent.
fn name(to: &Path, link: impl Fn() -> io::Result<()>) -> io::Result<()> {
    let directory = to.parent().unwrap_or(Path::new("/"));
    match link() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_directory(directory)?;
            link()?;
        }
        linked => linked?,
    }
    flush(directory)
}

/// Gives an open file a name.
fn link(file: &File, to: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;

    let open = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::linkat(CWD, open, CWD, to, AtFlags::SYMLINK_FOLLOW)?)
}

/// Makes one of the 256 directories of an algorithm, durably.
fn make_directory(path: &Path) -> io::Result<()> {
    let above = path.parent().unwrap_or(path);
    match std::fs::DirBuilder::new().create(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // In a backup of an object store, whose names are not by digest.
            std::fs::DirBuilder::new().create(above)?;
            flush(above.parent().unwrap_or(above))?;
            make_directory(path)
        }
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => flush(above),
    }
}

fn flush(directory: &Path) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(directory, flags, Mode::empty()).and_then(rustix::fs::fsync)?)
}

fn flush_directory(path: &Path) -> Result<(), StoreError> {
    flush(path).map_err(fault("flush", path))
}

fn unlink(path: &Path) -> Result<(), StoreError> {
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(fault("remove", path)(error.into())),
    }
}
