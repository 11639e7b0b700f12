//! The writer of a blob: append, check, publish; what is kept when it ends early.

use std::{
    io::{self, Seek, SeekFrom, Write},
    path::Path,
};

use davit_image::{Digest, Digester, MediaType};
use davit_sys::bulk::BulkAppender;
use fs_err as fs;

use super::{BlobIngest, BlobRecord, digest_stream, find, insert};
use crate::{Durability, Lease, Store, StoreError, durable, lock::Lock};

/// Below this much free space an interrupted download is worth more as space.
const SCARCE_BYTES: u64 = 64 * 1024 * 1024;

impl<'a> BlobIngest<'a> {
    pub(super) fn resume(
        store: &'a Store,
        lease: &'a Lease<'a>,
        lock: Lock,
        expected: Option<(Digest, u64)>,
    ) -> Result<Self, StoreError> {
        let mut file = lock.file();
        let path = lock.path().to_path_buf();
        let present =
            file.seek(SeekFrom::End(0)).map_err(|e| StoreError::io("examine", &path, e))?;
        let mut ingest = Self {
            store,
            lease,
            expected,
            lock: Some(lock),
            appender: BulkAppender::new(present),
            written: present,
            resumed: present,
            keep: true,
        };
        if expected.is_some_and(|(_, size_bytes)| present > size_bytes) {
            ingest.restart()?;
        }
        Ok(ingest)
    }

    /// Bytes of an earlier attempt that are there already; ask the registry for the rest.
    #[must_use]
    pub const fn resumed(&self) -> u64 {
        self.resumed
    }

    /// Bytes written so far, those of earlier attempts included.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Opens what has been written, from its start: to digest or unpack the resumed part.
    ///
    /// # Errors
    /// What the disk says.
    pub fn open_written(&self) -> Result<fs::File, StoreError> {
        let path = self.lock().path();
        fs::File::open(path).map_err(|e| StoreError::io("open", path, e))
    }

    /// Digests the resumed part, so that the caller goes on from there.
    ///
    /// # Errors
    /// What the disk says.
    pub fn digest_written(&self, digester: &mut Digester) -> Result<(), StoreError> {
        let mut file = self.open_written()?;
        digest_stream(&mut file, self.lock().path(), digester).map(|_| ())
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// [`StoreError::Size`] beyond the announced size, before anything is written; otherwise what
    /// the disk says.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let total = self.written + bytes.len() as u64;
        if let Some((digest, expected)) = self.expected
            && total > expected
        {
            self.keep = false;
            return Err(StoreError::Size { digest, expected, actual: total });
        }
        let lock = self.lock.as_ref().expect("only commit and drop take the lock");
        let appended = self.appender.append(lock.file().file(), bytes);
        appended.map_err(|e| StoreError::io("write", lock.path(), e))?;
        self.written = total;
        Ok(())
    }

    /// Drops what has been written and starts at byte 0 again.
    ///
    /// # Errors
    /// What the disk says.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        self.flush_waiting()?;
        let path = self.lock().path().to_path_buf();
        let file = &mut self.lock().file();
        file.file()
            .set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .map_err(|e| StoreError::io("truncate", &path, e))?;
        self.appender = BulkAppender::new(0);
        (self.written, self.resumed) = (0, 0);
        Ok(())
    }

    /// Removes what has been written, which then does not resume.
    pub fn discard(mut self) {
        self.keep = false;
    }

    /// Makes the blob visible. `actual` is the digest that the caller computed over all bytes,
    /// resumed ones included. On any mismatch everything written is removed, so that the next
    /// attempt starts afresh.
    ///
    /// # Errors
    /// [`StoreError::Size`] or [`StoreError::Digest`] when the content is not what was announced;
    /// otherwise what the disk or the database says.
    pub fn commit(
        mut self,
        actual: &Digest,
        media_type: Option<&MediaType>,
        durability: Durability,
    ) -> Result<BlobRecord, StoreError> {
        self.verify(actual)?;
        self.flush_waiting()?;
        let path = self.lock().path().to_path_buf();
        rustix::fs::fchmod(self.lock().file(), rustix::fs::Mode::RUSR)
            .map_err(|e| StoreError::io("protect", &path, e))?;
        if durability == Durability::Durable {
            rustix::fs::fdatasync(self.lock().file())
                .map_err(|e| StoreError::io("sync", &path, e))?;
        }
        let record = BlobRecord {
            digest: *actual,
            size: self.written,
            media_type: media_type.cloned(),
            durable_boot: match durability {
                Durability::Durable => None,
                Durability::Lazy => Some(self.store.boot_id().clone()),
            },
        };
        let published = self.publish(&record, durability)?;
        let lock = self.lock.take().expect("only commit and drop take the lock");
        if !published {
            lock.remove_file()?;
            if durability == Durability::Durable {
                self.store.make_blobs_durable(&[*actual])?;
            }
        }
        Ok(record)
    }

    fn verify(&mut self, actual: &Digest) -> Result<(), StoreError> {
        let Some((expected, size_bytes)) = self.expected else { return Ok(()) };
        if self.written != size_bytes {
            // Too short is an interrupted stream: what is there may still be right.
            return Err(StoreError::Size {
                digest: expected,
                expected: size_bytes,
                actual: self.written,
            });
        }
        if *actual != expected {
            self.keep = false;
            return Err(StoreError::digest(expected, *actual));
        }
        Ok(())
    }

    fn publish(&self, record: &BlobRecord, durability: Durability) -> Result<bool, StoreError> {
        let store = self.store;
        let target = store.layout().blob(&record.digest);
        store.settle_blob(&record.digest)?;
        store.database.write(durability.into(), "record a blob", |tx| {
            self.lease.keep_in(tx, &record.digest)?;
            if find(&store.database, tx, &record.digest)?.is_some() {
                return Ok(false);
            }
            // A file without a row is replaced: its writer was killed before the commit.
            fs::rename(self.lock().path(), &target)
                .map_err(|e| StoreError::io("rename to", &target, e))?;
            if durability == Durability::Durable {
                durable::sync_dir(target.parent().expect("blobs lie below ROOT"))?;
            }
            insert(&store.database, tx, record)?;
            Ok(true)
        })
    }

    fn flush_waiting(&mut self) -> Result<(), StoreError> {
        let lock = self.lock.as_ref().expect("only commit and drop take the lock");
        let flushed = self.appender.flush(lock.file().file());
        flushed.map_err(|e| StoreError::io("write", lock.path(), e))
    }

    fn lock(&self) -> &Lock {
        self.lock.as_ref().expect("only commit and drop take the lock")
    }
}

impl Write for BlobIngest<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes).map(|()| bytes.len()).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlobIngest<'_> {
    fn drop(&mut self) {
        let Some(lock) = self.lock.take() else { return };
        let resumable = self.keep && self.expected.is_some() && self.written > 0;
        if resumable && !is_space_scarce(lock.path()) {
            // What cannot be written now is downloaded again.
            drop(self.appender.flush(lock.file().file()));
            return;
        }
        if let Err(error) = lock.remove_file() {
            tracing::debug!(%error, "the next sweep removes the blob");
        }
    }
}

fn is_space_scarce(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|f| f.f_bavail.saturating_mul(f.f_frsize) < SCARCE_BYTES)
}
