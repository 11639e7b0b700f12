//! Cache mounts: directories of `RUN` steps that outlive builds.
//!
//! ```text
//! ROOT/cache/mounts/HEX[.N]/about     {"name", "created"}; its mtime is the last use
//! ROOT/cache/mounts/HEX[.N]/data/     what steps see
//! ```
//!
//! HEX is the digest of the name; `.N` is a further directory for who found the others busy. A step
//! holds a `flock` on the directory as long as it runs, so that a killed build leaves nothing
//! locked. A directory appears whole, by a rename; collections leave it alone, and it goes only
//! when somebody asks.

use std::path::{Path, PathBuf};

use davit_image::Digest;
use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::{
    Store, StoreError,
    lock::{Attempt, Company, Lock},
    store::now,
    sweep,
};

/// Directories of one name at most; as many steps that want one of their own can run at a time.
const MOST_COPIES: u32 = 1000;

/// How steps that run at the same time share a cache mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheSharing {
    /// All use one directory at the same time.
    Shared,
    /// Who finds it in use gets another one.
    Private,
    /// One after the other.
    Locked,
}

/// A cache mount in use: nobody removes it, and nobody else uses it unless it is shared. Dropping
/// this ends the use.
#[derive(Debug)]
pub struct CacheMountUse {
    data: PathBuf,
    _lock: Lock,
}

impl CacheMountUse {
    /// Its directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }
}

/// A cache mount as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheMount {
    /// Name of its directory; what removes it.
    pub key: String,
    /// `NAMESPACE/ID` as the Dockerfile gives them.
    pub name: String,
    /// When it was made, in nanoseconds since 1970.
    pub created: i64,
    /// When a step last began to use it, in nanoseconds since 1970.
    pub last_used: i64,
    /// Bytes on disk.
    pub size: u64,
}

#[derive(Serialize, Deserialize)]
struct About {
    name: String,
    created: i64,
}

impl Store {
    /// Takes the cache mount of this name into use; a new one is filled by `fill`, which gets its
    /// empty directory. `None`: somebody else has it locked, try again.
    ///
    /// # Errors
    /// What the disk says, or `fill`.
    pub fn claim_cache_mount<E: From<StoreError>>(
        &self,
        name: &str,
        sharing: CacheSharing,
        mut fill: impl FnMut(&Path) -> Result<(), E>,
    ) -> Result<Option<CacheMountUse>, E> {
        let company = match sharing {
            CacheSharing::Shared => Company::Shared,
            CacheSharing::Private | CacheSharing::Locked => Company::Alone,
        };
        let directory = self.layout().cache_mounts();
        self.make_dir(&directory)?;
        let mut copy = 0;
        loop {
            let path = directory.join(key(name, copy));
            match Lock::try_directory(&path, company)? {
                Attempt::Held(lock) => return Ok(Some(used(&path, lock))),
                Attempt::Missing => self.make_cache_mount(name, &path, &mut fill)?,
                Attempt::Busy if sharing == CacheSharing::Locked => return Ok(None),
                Attempt::Busy if copy == MOST_COPIES => return Ok(None),
                Attempt::Busy => copy += 1,
            }
        }
    }

    /// Takes an existing cache mount into use, alone; `None` if there is none or somebody uses it.
    ///
    /// # Errors
    /// What the disk says.
    pub fn hold_cache_mount(&self, name: &str) -> Result<Option<CacheMountUse>, StoreError> {
        let path = self.layout().cache_mounts().join(key(name, 0));
        Ok(match Lock::try_directory(&path, Company::Alone)? {
            Attempt::Held(lock) => Some(CacheMountUse { data: path.join("data"), _lock: lock }),
            Attempt::Missing | Attempt::Busy => None,
        })
    }

    fn make_cache_mount<E: From<StoreError>>(
        &self,
        name: &str,
        path: &Path,
        fill: &mut impl FnMut(&Path) -> Result<(), E>,
    ) -> Result<(), E> {
        let new = self.make_locked_dir("cache-mount")?;
        let made = fill_cache_mount(name, new.path(), fill).and_then(|()| {
            match fs::rename(new.path(), path) {
                Err(error) if is_there(&error) => Ok(false),
                Err(error) => Err(StoreError::io("create", path, error).into()),
                Ok(()) => Ok(true),
            }
        });
        if matches!(made, Ok(true)) {
            return Ok(());
        }
        self.discard(new)?;
        made.map(|_another_was_faster| ())
    }

    /// Removes all directories of the cache mount of this name; `false` if a step uses one, which
    /// stays.
    ///
    /// # Errors
    /// What the disk says.
    pub fn forget_cache_mount(&self, name: &str) -> Result<bool, StoreError> {
        let mut all = true;
        for copy in 0..=MOST_COPIES {
            let path = self.layout().cache_mounts().join(key(name, copy));
            match Lock::try_directory(&path, Company::Alone)? {
                Attempt::Missing => break,
                Attempt::Busy => all = false,
                Attempt::Held(lock) => self.discard_cache_mount(&path, lock)?,
            }
        }
        Ok(all)
    }

    /// All cache mounts, least recently used first; each is walked.
    ///
    /// # Errors
    /// What the disk says.
    pub fn cache_mounts(&self) -> Result<Vec<CacheMount>, StoreError> {
        let paths = sweep::list(&self.layout().cache_mounts())?;
        let mut mounts: Vec<CacheMount> = paths.iter().filter_map(|path| look(path)).collect();
        mounts
            .sort_by(|left, right| (left.last_used, &left.key).cmp(&(right.last_used, &right.key)));
        Ok(mounts)
    }

    /// Removes a cache mount unless a step uses it; `false` where one does, or none is there.
    ///
    /// # Errors
    /// What the disk says.
    pub fn remove_cache_mount(&self, mount: &CacheMount) -> Result<bool, StoreError> {
        let path = self.layout().cache_mounts().join(&mount.key);
        let Attempt::Held(lock) = Lock::try_directory(&path, Company::Alone)? else {
            return Ok(false);
        };
        self.discard_cache_mount(&path, lock)?;
        Ok(true)
    }

    fn discard_cache_mount(&self, path: &Path, lock: Lock) -> Result<(), StoreError> {
        let trash = self.move_to_trash(path)?;
        drop(lock);
        sweep::remove_any(&trash)
    }
}

fn key(name: &str, copy: u32) -> String {
    let hex = Digest::of(name.as_bytes()).hex();
    if copy == 0 { hex } else { format!("{hex}.{copy}") }
}

fn is_there(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{AlreadyExists, DirectoryNotEmpty};
    matches!(error.kind(), AlreadyExists | DirectoryNotEmpty)
}

fn fill_cache_mount<E: From<StoreError>>(
    name: &str,
    path: &Path,
    fill: &mut impl FnMut(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let data = path.join("data");
    fs::create_dir(&data).map_err(|e| StoreError::io("create", &data, e))?;
    let about = About { name: name.to_owned(), created: now() };
    let json = serde_json::to_vec(&about).expect("plain data is JSON");
    let file = path.join("about");
    fs::write(&file, json).map_err(|e| StoreError::io("write", &file, e))?;
    fill(&data)
}

fn used(path: &Path, lock: Lock) -> CacheMountUse {
    let about = path.join("about");
    let now = std::time::SystemTime::now();
    let noted = fs::OpenOptions::new()
        .append(true)
        .open(&about)
        .and_then(|file| file.file().set_modified(now));
    if let Err(error) = noted {
        tracing::debug!(%error, "the last use of a cache mount is not known");
    }
    CacheMountUse { data: path.join("data"), _lock: lock }
}

fn look(path: &Path) -> Option<CacheMount> {
    let key = path.file_name()?.to_str()?.to_owned();
    let file = path.join("about");
    let facts = fs::metadata(&file).ok()?;
    let last_used = facts.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    let last_used = i64::try_from(last_used.as_nanos()).ok()?;
    // After a power loss it may hold nothing; the directory is as good as before.
    let about = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let about = about.unwrap_or_else(|| About { name: key.clone(), created: last_used });
    let (name, created) = (about.name, about.created);
    Some(CacheMount { key, name, created, last_used, size: sweep::disk_bytes(path) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreOptions;

    fn claim(store: &Store, sharing: CacheSharing) -> Option<CacheMountUse> {
        let empty = |_: &Path| Ok::<(), StoreError>(());
        store.claim_cache_mount("/a", sharing, empty).unwrap()
    }

    #[test]
    fn each_sharing_has_its_company() {
        use CacheSharing::{Locked, Private, Shared};
        let temp = davit_test::TempDir::new();
        let store = Store::open(StoreOptions::new(temp.join("root"), temp.join("run"))).unwrap();
        let first = claim(&store, Shared).unwrap();
        let second = claim(&store, Shared).unwrap();
        assert_eq!(first.data(), second.data());
        assert!(claim(&store, Locked).is_none(), "it is in use");
        let own = claim(&store, Private).unwrap();
        assert_ne!(own.data(), first.data());
        drop((first, second));
        let locked = claim(&store, Locked).unwrap();
        assert!(claim(&store, Locked).is_none());
        let listed = store.cache_mounts().unwrap();
        assert_eq!(listed.len(), 2);
        assert!(listed.iter().all(|mount| mount.name == "/a" && mount.size > 0));
        for mount in &listed {
            assert!(!store.remove_cache_mount(mount).unwrap(), "it is in use");
        }
        drop((locked, own));
        assert!(listed.iter().all(|mount| store.remove_cache_mount(mount).unwrap()));
        assert_eq!(store.cache_mounts().unwrap(), []);
        assert!(!store.remove_cache_mount(&listed[0]).unwrap());
    }

    #[test]
    fn a_new_one_is_filled_once_and_appears_whole() {
        let temp = davit_test::TempDir::new();
        let store = Store::open(StoreOptions::new(temp.join("root"), temp.join("run"))).unwrap();
        let refuse = |_: &Path| {
            assert_eq!(store.cache_mounts().unwrap(), [], "nobody sees it");
            Err(StoreError::io("fill", Path::new("x"), std::io::Error::other("no")))
        };
        store.claim_cache_mount("/a", CacheSharing::Shared, refuse).unwrap_err();
        assert_eq!(store.cache_mounts().unwrap(), []);
        assert_eq!(sweep::list(&store.layout().tmp()).unwrap(), Vec::<PathBuf>::new());
        let mut filled = 0;
        let mut fill = |data: &Path| {
            filled += 1;
            // Another process was faster.
            let other = claim(&store, CacheSharing::Shared).unwrap();
            fs::write(other.data().join("theirs"), "").unwrap();
            fs::write(data.join("ours"), "").unwrap();
            Ok::<(), StoreError>(())
        };
        let mount = store.claim_cache_mount("/a", CacheSharing::Shared, &mut fill).unwrap();
        let data = mount.unwrap().data().to_path_buf();
        assert!(data.join("theirs").exists() && !data.join("ours").exists());
        assert!(claim(&store, CacheSharing::Shared).unwrap().data().join("theirs").exists());
        assert_eq!(filled, 1);
    }
}
