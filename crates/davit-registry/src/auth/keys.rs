//! The keys that sign access tokens, in one file that only its owner may read.
//!
//! The newest key signs; older ones are kept until every token that they signed has ended, so that
//! a rotation is noticed by nobody. The key id is the start of the public key's SHA-256.

use std::{
    io::Write as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use fs_err as fs;
use ring::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use serde::{Deserialize, Serialize};

use super::opaque::hex;

const VERSION: u32 = 1;
/// A file with more keys than rotations can have left is not ours.
const MOST_KEYS: usize = 64;
/// An old key verifies this long after its successor came, in seconds: a token's life and skew.
const OVERLAP_SECONDS: i64 = 600;

/// The signing key, those before it, and what other nodes sign with.
#[derive(Debug)]
pub struct Keys {
    /// Oldest first; at least one.
    keys: std::sync::Arc<Vec<Key>>,
    others: Vec<PublicKey>,
}

/// What verifies a key's signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// Start of the SHA-256 of the bytes, in hexadecimal.
    pub id: String,
    /// 32 bytes of Ed25519.
    pub bytes: Vec<u8>,
    /// Seconds since 1970.
    pub created: i64,
    /// Seconds since 1970 from when it verifies nothing; `None`: it signs.
    pub ends: Option<i64>,
}

struct Key {
    id: String,
    pair: Ed25519KeyPair,
    pkcs8: Vec<u8>,
    /// Seconds since 1970.
    created: i64,
}

/// Why keys cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("cannot use the key file {0}")]
    File(PathBuf, #[source] std::io::Error),
    /// Others can read the file.
    #[error("the key file {0} is open to others (mode {1:o}); chmod 600 makes it safe")]
    Mode(PathBuf, u32),
    /// The file holds something else.
    #[error("{0} is no key file of this version")]
    Content(PathBuf),
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    keys: Vec<FileKey>,
}

#[derive(Serialize, Deserialize)]
struct FileKey {
    created: i64,
    pkcs8: String,
}

impl Keys {
    /// A key that no one keeps: tokens end with the process.
    #[must_use]
    pub fn ephemeral() -> Self {
        Self::of(vec![Key::generate(0)])
    }

    fn of(keys: Vec<Key>) -> Self {
        Self { keys: keys.into(), others: Vec::new() }
    }

    /// The same keys, and those of other nodes instead of what was known of them.
    #[must_use]
    pub fn with_others(&self, others: Vec<PublicKey>) -> Self {
        // An id says what key it is: nobody can put another under it.
        let is_whole = |key: &PublicKey| key.id == key_id(&key.bytes);
        let others = others.into_iter().filter(is_whole).collect();
        Self { keys: std::sync::Arc::clone(&self.keys), others }
    }

    /// What other nodes need to verify tokens of this one.
    #[must_use]
    pub fn public(&self) -> Vec<PublicKey> {
        let public = |(at, key): (usize, &Key)| PublicKey {
            id: key.id.clone(),
            bytes: key.pair.public_key().as_ref().to_owned(),
            created: key.created,
            ends: self.end(at),
        };
        self.keys.iter().enumerate().map(public).collect()
    }

    /// When the key that signs was made, in seconds since 1970.
    #[must_use]
    pub fn newest_created(&self) -> i64 {
        self.newest().created
    }

    /// Reads the file, or makes it with a first key. `now` is in seconds since 1970.
    ///
    /// Several processes may do this at once: one makes the file, the others read it.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn open(path: &Path, now: i64) -> Result<Self, KeyError> {
        if let Some(keys) = Self::read(path)? {
            return Ok(keys);
        }
        let keys = Self::of(vec![Key::generate(now)]);
        let temporary = keys.write_beside(path)?;
        // Linking fails where another process was first; its key counts.
        let linked = fs::hard_link(&temporary, path);
        fs::remove_file(&temporary).map_err(|error| file_error(path, error))?;
        match linked {
            Ok(()) => sync_folder(path).map(|()| keys),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Self::read(path)?.ok_or_else(|| KeyError::Content(path.to_owned()))
            }
            Err(error) => Err(file_error(path, error)),
        }
    }

    /// Adds a key that signs from now on and drops those whose tokens have all ended; durable on
    /// return.
    ///
    /// # Errors
    /// See [`KeyError`]; the keys are as before then.
    pub fn rotate(path: &Path, now: i64) -> Result<Self, KeyError> {
        Self::rotate_aged(path, now, i64::MIN)
    }

    /// Does so where the newest key is at least this many seconds old. Processes that share the file
    /// wait for each other: only one of them makes the key.
    ///
    /// # Errors
    /// See [`KeyError`]; the keys are as before then.
    pub fn rotate_aged(path: &Path, now: i64, age_seconds: i64) -> Result<Self, KeyError> {
        Self::open(path, now)?;
        let _lock = lock(path)?;
        let mut keys = Self::read_file(path)?.ok_or_else(|| KeyError::Content(path.to_owned()))?;
        if keys.last().is_some_and(|key| now.saturating_sub(key.created) < age_seconds) {
            return Ok(Self::of(keys));
        }
        keys.push(Key::generate(now));
        // A key's tokens end a token's life after its successor began to sign.
        let ends: Vec<i64> = keys.iter().skip(1).map(|key| key.created).collect();
        let dead =
            ends.iter().take_while(|&&end| end.saturating_add(OVERLAP_SECONDS) < now).count();
        keys.drain(..dead);
        let keys = Self::of(keys);
        let temporary = keys.write_beside(path)?;
        fs::rename(&temporary, path).map_err(|error| file_error(path, error))?;
        sync_folder(path)?;
        Ok(keys)
    }

    /// When the last token of the key at this place has ended; `None` for the one that signs.
    fn end(&self, at: usize) -> Option<i64> {
        Some(self.keys.get(at + 1)?.created.saturating_add(OVERLAP_SECONDS))
    }

    /// Id of the key that signs.
    #[must_use]
    pub fn newest_id(&self) -> &str {
        &self.newest().id
    }

    /// Ids of all keys, oldest first.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|key| key.id.as_str())
    }

    fn newest(&self) -> &Key {
        self.keys.last().expect("there is at least one key")
    }

    /// Signs with the newest key.
    #[must_use]
    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.newest().pair.sign(message).as_ref().to_owned()
    }

    /// Tells whether this key signed it; `None`: there is no such key any more. `now` is in seconds
    /// since 1970.
    #[must_use]
    pub(super) fn verify(
        &self,
        id: &str,
        now: i64,
        (message, signature): (&[u8], &[u8]),
    ) -> Option<bool> {
        let (bytes, end) = match self.keys.iter().position(|key| key.id == id) {
            Some(at) => (self.keys[at].pair.public_key().as_ref(), self.end(at)),
            None => {
                let other = self.others.iter().find(|key| key.id == id)?;
                (&other.bytes[..], other.ends)
            }
        };
        // Whoever came by an old key makes no tokens with it.
        if end.is_some_and(|end| end < now) {
            return None;
        }
        Some(UnparsedPublicKey::new(&ED25519, bytes).verify(message, signature).is_ok())
    }

    fn read(path: &Path) -> Result<Option<Self>, KeyError> {
        Ok(Self::read_file(path)?.map(Self::of))
    }

    fn read_file(path: &Path) -> Result<Option<Vec<Key>>, KeyError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file_error(path, error)),
        };
        let mode =
            fs::metadata(path).map_err(|error| file_error(path, error))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(KeyError::Mode(path.to_owned(), mode & 0o777));
        }
        let content = || KeyError::Content(path.to_owned());
        let file: File = serde_json::from_slice(&bytes).map_err(|_| content())?;
        if file.version != VERSION || file.keys.is_empty() || file.keys.len() > MOST_KEYS {
            return Err(content());
        }
        let keys: Option<Vec<Key>> = file.keys.iter().map(Key::read).collect();
        Ok(Some(keys.ok_or_else(content)?))
    }

    /// Writes a durable file beside the path and tells its name.
    fn write_beside(&self, path: &Path) -> Result<PathBuf, KeyError> {
        let keys = self
            .keys
            .iter()
            .map(|key| FileKey { created: key.created, pkcs8: BASE64.encode(&key.pkcs8) });
        let file = File { version: VERSION, keys: keys.collect() };
        let text = serde_json::to_vec_pretty(&file).expect("keys are plain JSON");
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", uuid::Uuid::now_v7().simple()));
        let temporary = PathBuf::from(name);
        let write = || {
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(&text)?;
            file.sync_all()
        };
        write().map_err(|error| file_error(&temporary, error))?;
        Ok(temporary)
    }
}

impl Key {
    fn generate(created: i64) -> Self {
        let random = SystemRandom::new();
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).expect("the kernel gives random bytes");
        Self::parse(pkcs8.as_ref().to_owned(), created).expect("a generated key is well-formed")
    }

    fn read(key: &FileKey) -> Option<Self> {
        Self::parse(BASE64.decode(&key.pkcs8).ok()?, key.created)
    }

    fn parse(pkcs8: Vec<u8>, created: i64) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).ok()?;
        let id = key_id(pair.public_key().as_ref());
        Some(Self { id, pair, pkcs8, created })
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("created", &self.created).finish()
    }
}

fn key_id(public: &[u8]) -> String {
    hex(&digest(&SHA256, public).as_ref()[..8])
}

fn file_error(path: &Path, error: std::io::Error) -> KeyError {
    KeyError::File(path.to_owned(), error)
}

/// Locks the file that the path names until the lock is dropped; blocks.
fn lock(path: &Path) -> Result<fs::File, KeyError> {
    let fault = |error| file_error(path, error);
    loop {
        let file = fs::File::open(path).map_err(fault)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|error| fault(error.into()))?;
        // Whoever had the lock has put another file in its place.
        let (locked, named) = (file.metadata().map_err(fault)?, fs::metadata(path).map_err(fault)?);
        if locked.ino() == named.ino() {
            return Ok(file);
        }
    }
}

fn sync_folder(path: &Path) -> Result<(), KeyError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let sync = || fs::File::open(folder)?.sync_all();
    sync().map_err(|error| file_error(folder, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn the_file_is_made_once_and_closed_to_others() {
        let dir = davit_test::TempDir::new();
        let path = dir.join("keys.json");
        let first = Keys::open(&path, NOW).unwrap();
        let again = Keys::open(&path, NOW).unwrap();
        assert_eq!(first.newest_id(), again.newest_id());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
        let id = first.newest_id();
        assert_eq!(again.verify(id, NOW, (b"m", &first.sign(b"m"))), Some(true));
        assert_eq!(again.verify(id, NOW, (b"n", &first.sign(b"m"))), Some(false));
        assert_eq!(again.verify("other", NOW, (b"m", &first.sign(b"m"))), None);
        fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Keys::open(&path, NOW), Err(KeyError::Mode(_, 0o640))));
    }

    #[test]
    fn rotation_overlaps_and_forgets() {
        let dir = davit_test::TempDir::new();
        let path = dir.join("keys.json");
        let first = Keys::open(&path, NOW).unwrap();
        let second = Keys::rotate(&path, NOW + 1000).unwrap();
        assert_ne!(first.newest_id(), second.newest_id());
        let by_first = (&b"m"[..], &first.sign(b"m")[..]);
        let end = NOW + 1000 + OVERLAP_SECONDS;
        for (now, expected) in [(NOW + 1000, Some(true)), (end, Some(true)), (end + 1, None)] {
            assert_eq!(second.verify(first.newest_id(), now, by_first), expected, "{now}");
        }
        // Its successor has signed for long, so that no token of the first key can be left.
        let third = Keys::rotate(&path, NOW + 3000).unwrap();
        assert_eq!(third.ids().count(), 2);
        assert_eq!(third.verify(first.newest_id(), NOW + 3000, by_first), None);
        let by_second = (&b"m"[..], &second.sign(b"m")[..]);
        assert_eq!(third.verify(second.newest_id(), NOW + 3000, by_second), Some(true));
        let young = Keys::rotate_aged(&path, NOW + 3010, 11).unwrap();
        assert_eq!(young.newest_id(), third.newest_id());
        let old = Keys::rotate_aged(&path, NOW + 3010, 10).unwrap();
        assert_ne!(old.newest_id(), third.newest_id());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn keys_of_other_nodes_verify_and_cannot_be_passed_off() {
        let (here, there) = (Keys::ephemeral(), Keys::ephemeral());
        let signature = there.sign(b"m");
        let signed = (&b"m"[..], &signature[..]);
        assert_eq!(here.verify(there.newest_id(), NOW, signed), None);
        let both = here.with_others(there.public());
        assert_eq!(both.verify(there.newest_id(), NOW, signed), Some(true));
        assert_eq!(both.newest_id(), here.newest_id());
        let mut forged = there.public();
        forged[0].id = here.newest_id().chars().rev().collect();
        assert_eq!(here.with_others(forged.clone()).verify(&forged[0].id, NOW, signed), None);
        let mut ended = there.public();
        ended[0].ends = Some(NOW - 1);
        assert_eq!(here.with_others(ended).verify(there.newest_id(), NOW, signed), None);
    }

    #[test]
    fn what_is_no_key_file_is_refused() {
        let dir = davit_test::TempDir::new();
        let path = dir.join("keys.json");
        for text in [
            "",
            "{}",
            r#"{"version":2,"keys":[]}"#,
            r#"{"version":1,"keys":[]}"#,
            r#"{"version":1,"keys":[{"created":1,"pkcs8":"AAAA"}]}"#,
        ] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(Keys::open(&path, NOW), Err(KeyError::Content(_))), "{text}");
        }
    }

    #[test]
    fn racing_processes_make_one_successor() {
        let dir = davit_test::TempDir::new();
        let path = dir.join("keys.json");
        Keys::open(&path, NOW).unwrap();
        let ids: Vec<String> = std::thread::scope(|scope| {
            let rotate = || Keys::rotate_aged(&path, NOW + 100, 50).unwrap().newest_id().to_owned();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(rotate)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        assert_eq!(Keys::open(&path, NOW).unwrap().ids().count(), 2);
    }

    #[test]
    fn racing_processes_share_one_key() {
        let dir = davit_test::TempDir::new();
        let path = dir.join("keys.json");
        let ids: Vec<String> = std::thread::scope(|scope| {
            let open = || Keys::open(&path, NOW).unwrap().newest_id().to_owned();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }
}
