//! Blobs: bytes exactly as received, under their digest; downloads that resume.

mod ingest;

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use davit_image::{Digest, Digester, MediaType};
use davit_sys::bulk::BulkAppender;
use fs_err as fs;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::{
    BootId, Durability, Lease, Store, StoreError,
    database::{Class, Database, parsed, size, to_sql_size},
    durable,
    format::random_hex,
    lock::Lock,
    regular,
    store::now,
};

const POLL: Duration = Duration::from_millis(20);

/// A blob's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobRecord {
    /// Digest of the bytes.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Media type, where the writer knew it.
    pub media_type: Option<MediaType>,
    /// The boot that wrote it, while it is not yet safe from power loss.
    pub durable_boot: Option<BootId>,
}

/// What a process that wants a blob has to do.
#[derive(Debug)]
pub enum BlobBegin<'a> {
    /// Nothing: it is there, and the lease keeps it.
    Present(BlobRecord),
    /// Write it.
    Owner(BlobIngest<'a>),
    /// Wait for the process that writes it, then begin again.
    Busy(BlobWait),
}

/// A blob being written: a locked file under `tmp/`.
///
/// Dropped uncommitted, a blob whose digest is known keeps what was written, and the next
/// [`Store::begin_blob`] resumes there; one without is removed. When space is scarce both are.
#[derive(Debug)]
pub struct BlobIngest<'a> {
    store: &'a Store,
    lease: &'a Lease<'a>,
    expected: Option<(Digest, u64)>,
    lock: Option<Lock>,
    appender: BulkAppender,
    written: u64,
    resumed: u64,
    keep: bool,
}

/// Another process writes the blob.
#[derive(Debug)]
pub struct BlobWait {
    path: PathBuf,
}

impl Store {
    /// Starts, resumes or awaits a blob whose digest and size are known. The lease keeps the blob
    /// from now on.
    ///
    /// # Errors
    /// What the disk or the database says.
    pub fn begin_blob<'a>(
        &'a self,
        lease: &'a Lease<'a>,
        digest: &Digest,
        size_bytes: u64,
    ) -> Result<BlobBegin<'a>, StoreError> {
        match self.hold_blob(lease, digest)? {
            Some(record) => Ok(BlobBegin::Present(record)),
            None => self.claim_blob(lease, digest, size_bytes),
        }
    }

    /// Takes the lock of a blob that was not there a moment ago.
    fn claim_blob<'a>(
        &'a self,
        lease: &'a Lease<'a>,
        digest: &Digest,
        size_bytes: u64,
    ) -> Result<BlobBegin<'a>, StoreError> {
        let path = self.layout().tmp().join(partial_name(digest));
        let Some(lock) = Lock::try_file(&path)? else {
            return Ok(BlobBegin::Busy(BlobWait { path }));
        };
        // The former owner's rename frees the name before its row is committed. Looking in a
        // write transaction, which this is, waits for that.
        if let Some(record) = self.hold_blob(lease, digest)? {
            lock.remove_file()?;
            return Ok(BlobBegin::Present(record));
        }
        let expected = Some((*digest, size_bytes));
        BlobIngest::resume(self, lease, lock, expected).map(BlobBegin::Owner)
    }

    /// Starts a blob whose digest is not known yet.
    ///
    /// # Errors
    /// What the disk says.
    pub fn begin_new_blob<'a>(
        &'a self,
        lease: &'a Lease<'a>,
    ) -> Result<BlobIngest<'a>, StoreError> {
        let path = self.layout().tmp().join(format!("new-{}", random_hex(8)));
        let lock = self.make_locked_file(&path)?;
        BlobIngest::resume(self, lease, lock, None)
    }

    /// Writes a small blob; a no-op when it is there.
    ///
    /// # Errors
    /// What the disk or the database says.
    pub fn put_blob(
        &self,
        lease: &Lease<'_>,
        bytes: &[u8],
        media_type: Option<&MediaType>,
        durability: Durability,
    ) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        if let Some(record) = self.hold_blob(lease, &digest)? {
            if durability == Durability::Durable && record.durable_boot.is_some() {
                self.make_blobs_durable(&[digest])?;
            }
            return Ok(digest);
        }
        let mut ingest = self.begin_new_blob(lease)?;
        ingest.append(bytes)?;
        ingest.commit(&digest, media_type, durability)?;
        Ok(digest)
    }

    /// Looks up a blob.
    ///
    /// # Errors
    /// What the database says.
    pub fn blob(&self, digest: &Digest) -> Result<Option<BlobRecord>, StoreError> {
        self.database.read("look up a blob", |c| find(&self.database, c, digest))
    }

    /// Reads a blob of at most `limit_bytes` and verifies its digest.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is absent, [`StoreError::Size`] when it is larger,
    /// [`StoreError::Digest`] when it is damaged.
    pub fn read_blob(&self, digest: &Digest, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
        let path = self.layout().blob(digest);
        let file = match regular::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::not_found("blob", digest));
            }
            Err(e) => return Err(StoreError::io("open", &path, e)),
        };
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, limit_bytes + 1), &mut bytes)
            .map_err(|e| StoreError::io("read", &path, e))?;
        let actual = bytes.len() as u64;
        if actual > limit_bytes {
            return Err(StoreError::Size { digest: *digest, expected: limit_bytes, actual });
        }
        let actual = Digest::of_with(digest.algorithm(), &bytes);
        if actual != *digest {
            return Err(StoreError::digest(*digest, actual));
        }
        Ok(bytes)
    }

    /// Opens content by digest, be it a blob or a layer's plain tar; `None` when it is absent.
    /// Yields its size in bytes too. The caller holds a lease, a tag or a container on it.
    ///
    /// # Errors
    /// What the disk or the database says.
    pub fn open_content(&self, digest: &Digest) -> Result<Option<(fs::File, u64)>, StoreError> {
        let layer = davit_image::DiffId::new(*digest);
        let (path, size_bytes) = if let Some(blob) = self.blob(digest)? {
            (self.layout().blob(digest), blob.size)
        } else if let Some(row) = self.layer(&layer)? {
            (self.layout().layer_tar(&layer), row.tar_size)
        } else {
            return Ok(None);
        };
        let file = regular::open(&path).map_err(|e| StoreError::io("open", &path, e))?;
        Ok(Some((file, size_bytes)))
    }

    /// Looks a blob up and keeps it by the lease, in one step.
    ///
    /// # Errors
    /// What the disk or the database says.
    pub fn hold_blob(
        &self,
        lease: &Lease<'_>,
        digest: &Digest,
    ) -> Result<Option<BlobRecord>, StoreError> {
        self.settle_blob(digest)?;
        self.database.write(Class::Normal, "hold a blob", |tx| {
            lease.keep_in(tx, digest)?;
            find(&self.database, tx, digest)
        })
    }

    /// Syncs lazily committed blobs and clears their marks; absent ones are no error.
    ///
    /// # Errors
    /// What the disk or the database says.
    pub fn make_blobs_durable(&self, digests: &[Digest]) -> Result<(), StoreError> {
        let pending = self.lazy_blobs(digests)?;
        if pending.is_empty() {
            return Ok(());
        }
        self.sync_blobs(&pending)?;
        self.database.write(Class::Full, "mark blobs durable", |tx| {
            clear_marks(&self.database, tx, &pending)
        })
    }

    pub(crate) fn lazy_blobs(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        let mut lazy = Vec::new();
        for digest in digests {
            self.settle_blob(digest)?;
            if self.blob(digest)?.is_some_and(|record| record.durable_boot.is_some()) {
                lazy.push(*digest);
            }
        }
        Ok(lazy)
    }

    pub(crate) fn sync_blobs(&self, digests: &[Digest]) -> Result<(), StoreError> {
        let paths: Vec<_> = digests.iter().map(|digest| self.layout().blob(digest)).collect();
        paths.iter().try_for_each(|path| durable::sync_file(path))?;
        let mut parents: Vec<_> = paths.iter().filter_map(|path| path.parent()).collect();
        parents.sort();
        parents.dedup();
        parents.into_iter().try_for_each(durable::sync_dir)
    }

    /// Decides about a blob that an earlier boot committed lazily, as for layers.
    pub(crate) fn settle_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        let Some(row) = self.blob(digest)? else { return Ok(()) };
        if row.durable_boot.as_ref().is_none_or(|boot| boot == self.boot_id()) {
            return Ok(());
        }
        if self.verify_blob(&row)?.is_none() {
            self.sync_blobs(&[*digest])?;
            return self.database.write(Class::Full, "mark blobs durable", |tx| {
                clear_marks(&self.database, tx, &[*digest])
            });
        }
        tracing::info!(%digest, "a blob that was not yet synced did not survive the reboot");
        self.drop_blobs(&[*digest])
    }
}

impl BlobWait {
    /// Bytes that the other process has written so far.
    #[must_use]
    pub fn progress(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |facts| facts.len())
    }

    /// Waits until the other process has ended its ingest; `false` when `timeout` came first.
    ///
    /// # Errors
    /// What the disk says.
    pub fn wait(&self, timeout: Duration) -> Result<bool, StoreError> {
        let since = Instant::now();
        loop {
            if self.path.symlink_metadata().is_err() || Lock::try_existing(&self.path)?.is_some() {
                return Ok(true);
            }
            if since.elapsed() >= timeout {
                return Ok(false);
            }
            std::thread::sleep(POLL.min(timeout));
        }
    }
}

/// Name of a resumable blob under `tmp/`.
pub(crate) fn partial_name(digest: &Digest) -> String {
    format!("blob-{}-{}", digest.algorithm(), digest.hex())
}

/// Digests a stream to its end; yields its length in bytes.
pub(crate) fn digest_stream(
    stream: &mut impl io::Read,
    path: &Path,
    digester: &mut Digester,
) -> Result<u64, StoreError> {
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(got) => {
                digester.update(&buffer[..got]);
                total += got as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(StoreError::io("read", path, e)),
        }
    }
}

/// Reads a blob's row.
pub(crate) fn find(
    database: &Database,
    connection: &Connection,
    digest: &Digest,
) -> Result<Option<BlobRecord>, StoreError> {
    connection
        .prepare_cached("SELECT digest, size, media_type, durable_boot FROM blobs WHERE digest = ?")
        .and_then(|mut s| s.query_row([digest.to_string()], of_row).optional())
        .map_err(|e| database.error("look up a blob", e))
}

/// Reads all blobs' rows.
pub(crate) fn all(database: &Database) -> Result<Vec<BlobRecord>, StoreError> {
    let sql = |e| database.error("list the blobs", e);
    database.read("list the blobs", |c| {
        let mut statement = c
            .prepare_cached("SELECT digest, size, media_type, durable_boot FROM blobs")
            .map_err(sql)?;
        let rows = statement.query_map([], of_row).map_err(sql)?;
        rows.collect::<Result<_, _>>().map_err(sql)
    })
}

fn of_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<BlobRecord> {
    let boot: Option<String> = row.get(3)?;
    let media_type: Option<String> = row.get(2)?;
    Ok(BlobRecord {
        digest: parsed(row, 0)?,
        size: size(row, 1)?,
        media_type: media_type.map(MediaType::new),
        durable_boot: boot.as_deref().map(BootId::new),
    })
}

pub(crate) fn insert(
    database: &Database,
    tx: &Transaction<'_>,
    record: &BlobRecord,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO blobs (digest, size, media_type, durable_boot, created)
         VALUES (?, ?, ?, ?, ?)",
    )
    .and_then(|mut s| {
        s.execute(params![
            record.digest.to_string(),
            to_sql_size(record.size),
            record.media_type.as_ref().map(MediaType::as_str),
            record.durable_boot.as_ref().map(BootId::as_str),
            now(),
        ])
    })
    .and_then(|_| {
        tx.prepare_cached("UPDATE layer_blobs SET lost = 0 WHERE digest = ? AND lost = 1")?
            .execute([record.digest.to_string()])
    })
    .map(|_| ())
    .map_err(|e| database.error("record a blob", e))
}

/// Declares synced blobs durable.
pub(crate) fn clear_marks(
    database: &Database,
    tx: &Transaction<'_>,
    digests: &[Digest],
) -> Result<(), StoreError> {
    for digest in digests {
        tx.prepare_cached("UPDATE blobs SET durable_boot = NULL WHERE digest = ?")
            .and_then(|mut s| s.execute([digest.to_string()]))
            .map_err(|e| database.error("mark blobs durable", e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::StoreOptions;

    #[test]
    fn a_blob_about_to_be_committed_is_not_written_again() {
        let temp = davit_test::TempDir::new();
        let open = || Store::open(StoreOptions::new(temp.join("root"), temp.join("run"))).unwrap();
        let (one, two) = (open(), open());
        let digest = Digest::of(b"x");
        let record = BlobRecord { digest, size: 1, media_type: None, durable_boot: None };
        let lease = two.lease("test").unwrap();
        let (tell, told) = mpsc::channel();
        std::thread::scope(|scope| {
            // The first store is between its rename and its commit.
            one.database
                .write(Class::Full, "test", |tx| {
                    scope.spawn(|| {
                        let begin = two.claim_blob(&lease, &digest, 1).unwrap();
                        tell.send(matches!(begin, BlobBegin::Present(_))).unwrap();
                    });
                    // A wrong answer comes at once; the right one needs the commit.
                    let early = told.recv_timeout(Duration::from_millis(100));
                    assert_eq!(early, Err(mpsc::RecvTimeoutError::Timeout));
                    insert(&one.database, tx, &record)
                })
                .unwrap();
            assert!(told.recv().unwrap(), "it is there");
        });
    }
}
