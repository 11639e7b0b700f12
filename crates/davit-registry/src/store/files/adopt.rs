//! Files of others that become blobs, and blobs that become files elsewhere: by a hard link where that
//! is safe, else by a copy.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use davit_image::{Digest, Digester};
use rustix::fs::{Mode, OFlags};

use super::{Files, Key, StoreError, blocking, fault, link, name};

/// Bytes that one read takes.
const PIECE: usize = 256 << 10;

/// How a blob came to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// It was there already.
    There,
    /// Both names are of one file.
    Linked,
    /// Its bytes were copied.
    Copied,
}

impl Files {
    /// Makes a file a blob; its bytes are read, and compared with the digest, before it has a name.
    pub(in crate::store) async fn adopt(
        &self,
        file: File,
        digest: Digest,
    ) -> Result<(Key, u64, Adopted), StoreError> {
        let key = Key::of(digest);
        let (files, to) = (self.clone(), self.path(&key));
        blocking(move || {
            let (size_bytes, how) = files.take(file, &digest, &to)?;
            Ok((key, size_bytes, how))
        })
        .await
    }

    /// Puts a blob of this store into another under the same key, unless it is there.
    pub(in crate::store) async fn copy_to(
        &self,
        key: &Key,
        other: &Self,
    ) -> Result<Adopted, StoreError> {
        let (from, to, other) = (self.read(key)?, other.path(key), other.clone());
        blocking(move || {
            if to.try_exists().map_err(fault("look at", &to))? {
                return Ok(Adopted::There);
            }
            match name(&to, || link(&from, &to)) {
                Ok(()) => return Ok(Adopted::Linked),
                Err(error) if may_be_copied(&error) => {}
                Err(error) => return Err(fault("link", &to)(error)),
            }
            let mut copy = other.nameless()?;
            io::copy(&mut &from, &mut copy).map_err(fault("copy", &to))?;
            other.settle(&copy, &to)?;
            Ok(Adopted::Copied)
        })
        .await
    }

    fn take(
        &self,
        mut file: File,
        digest: &Digest,
        to: &Path,
    ) -> Result<(u64, Adopted), StoreError> {
        let refused = |source| StoreError::Unreadable { digest: *digest, source };
        let metadata = file.metadata().map_err(refused)?;
        if is_ours_alone(&metadata) {
            let size_bytes = digest_into(&mut file, digest, &mut io::sink(), to)?;
            match name(to, || link(&file, to)) {
                Ok(()) => return Ok((size_bytes, Adopted::Linked)),
                Err(error) if may_be_copied(&error) => file.rewind().map_err(refused)?,
                Err(error) => return Err(fault("link", to)(error)),
            }
        }
        // What is compared is what is written: others may be writing to the file.
        let mut copy = self.nameless()?;
        let size_bytes = digest_into(&mut file, digest, &mut copy, to)?;
        self.settle(&copy, to)?;
        Ok((size_bytes, Adopted::Copied))
    }

    /// A file without a name in the store's file system.
    pub(super) fn nameless(&self) -> Result<File, StoreError> {
        let directory = self.root.join("blobs");
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let made = rustix::fs::open(&directory, flags, Mode::from_raw_mode(0o600));
        Ok(File::from(made.map_err(|error| fault("make a file in", &directory)(error.into()))?))
    }

    /// Makes a nameless file durable under its name.
    fn settle(&self, file: &File, to: &Path) -> Result<(), StoreError> {
        file.sync_data().map_err(fault("flush", to))?;
        name(to, || link(file, to)).map_err(fault("link", to))
    }
}

/// Whether nobody but this user (or root) can write to the file later.
fn is_ours_alone(metadata: &std::fs::Metadata) -> bool {
    let owner = metadata.uid();
    let is_owner_trusted = owner == 0 || owner == rustix::process::geteuid().as_raw();
    is_owner_trusted && metadata.mode() & 0o022 == 0
}

/// Whether a link failed for a reason that a copy does not meet: another file system, or one without
/// links, or a kernel that lets only owners link.
fn may_be_copied(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks, Unsupported};
    matches!(error.kind(), CrossesDevices | PermissionDenied | TooManyLinks | Unsupported)
}

/// Copies a file, and refuses it when its bytes have another digest; tells how many they are.
fn digest_into(
    file: &mut File,
    digest: &Digest,
    to: &mut impl io::Write,
    path: &Path,
) -> Result<u64, StoreError> {
    let refused = |error| fault("copy to", path)(error);
    let unreadable = |source| StoreError::Unreadable { digest: *digest, source };
    let mut digester = Digester::new(digest.algorithm());
    let (mut piece, mut size_bytes) = (vec![0; PIECE], 0);
    loop {
        match file.read(&mut piece).map_err(unreadable)? {
            0 => break,
            read => {
                digester.update(&piece[..read]);
                to.write_all(&piece[..read]).map_err(refused)?;
                size_bytes += read as u64;
            }
        }
    }
    let actual = digester.finish();
    if actual == *digest { Ok(size_bytes) } else { Err(StoreError::Digest { actual }) }
}
