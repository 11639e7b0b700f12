//! Files that builds leave beside their records: the digests of contexts' files.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use fs_err as fs;

use crate::{Store, StoreError, format::random_hex, sweep};

/// Files that are kept.
const KEPT_FILES: usize = 50;
/// Bytes that are kept.
const KEPT_BYTES: u64 = 64 << 20;

/// One of the files.
struct BuildFile {
    path: PathBuf,
    bytes: u64,
    modified: SystemTime,
}

/// Bytes of the salt of secrets.
const SALT_BYTES: usize = 32;

impl Store {
    /// Random bytes of this store, the same each time: digests of secrets are made with them, and
    /// nobody without them can try values. They never leave the machine.
    ///
    /// # Errors
    /// What the disk says.
    pub fn secret_salt(&self) -> Result<Vec<u8>, StoreError> {
        let path = self.layout().cache().join("secret-salt");
        self.make_dir(&self.layout().cache())?;
        loop {
            match fs::read(&path) {
                Ok(salt) if salt.len() == SALT_BYTES => return Ok(salt),
                // A power loss took it.
                Ok(_) => sweep::remove_any(&path)?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io("read", &path, error)),
            }
            let new = self.layout().tmp().join(format!("salt-{}", random_hex(8)));
            let lock = self.make_locked_file(&new)?;
            let salt = random_hex(SALT_BYTES / 2).into_bytes();
            let written = fs::write(&new, salt).and_then(|()| match fs::hard_link(&new, &path) {
                // Another process was faster.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
                linked => linked,
            });
            lock.remove_file()?;
            written.map_err(|error| StoreError::io("write", &path, error))?;
        }
    }

    /// Bytes on disk of digests.
    ///
    /// # Errors
    /// What the disk says.
    pub fn build_files_size(&self) -> Result<u64, StoreError> {
        Ok(self.context_digests()?.iter().map(|file| file.bytes).sum())
    }

    /// Removes the oldest digests until few enough are left; cheap when they are.
    ///
    /// # Errors
    /// What the disk says.
    pub fn trim_build_files(&self) -> Result<(), StoreError> {
        remove(oldest(self.context_digests()?, KEPT_FILES, KEPT_BYTES)).map(drop)
    }

    /// Removes all digests; yields the bytes.
    ///
    /// # Errors
    /// What the disk says.
    pub fn drop_build_files(&self) -> Result<u64, StoreError> {
        remove(self.context_digests()?)
    }

    fn context_digests(&self) -> Result<Vec<BuildFile>, StoreError> {
        let is_one = |name: &str| name.starts_with("context-") && !is_being_written(name);
        files(self.layout().cache(), is_one)
    }
}

fn remove(files: Vec<BuildFile>) -> Result<u64, StoreError> {
    let mut freed = 0;
    for file in files {
        sweep::remove_any(&file.path)?;
        freed += file.bytes;
    }
    Ok(freed)
}

/// Whether the name is `NAME.PID.tmp` of a process that lives.
fn is_being_written(name: &str) -> bool {
    let stem = name.strip_suffix(".tmp").and_then(|stem| stem.rsplit_once('.'));
    stem.is_some_and(|(_, pid)| Path::new("/proc").join(pid).exists())
}

fn files(folder: PathBuf, is_one: impl Fn(&str) -> bool) -> Result<Vec<BuildFile>, StoreError> {
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io("list", &folder, error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| StoreError::io("list", &folder, error))?;
        // Another process may have removed it.
        let Ok(facts) = entry.metadata() else { continue };
        if facts.is_file() && is_one(&entry.file_name().to_string_lossy()) {
            let modified = facts.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let path = entry.path();
            files.push(BuildFile { bytes: sweep::disk_bytes(&path), path, modified });
        }
    }
    Ok(files)
}

/// The files beyond the newest ones that keep within both bounds; the newest itself always stays.
fn oldest(mut files: Vec<BuildFile>, most: usize, most_bytes: u64) -> Vec<BuildFile> {
    files.sort_by_key(|file| std::cmp::Reverse(file.modified));
    let mut bytes = 0;
    let within = |(index, file): (usize, &BuildFile)| {
        bytes += file.bytes;
        index == 0 || (index < most && bytes <= most_bytes)
    };
    let kept = files.iter().enumerate().map(within).take_while(|within| *within).count();
    files.split_off(kept)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_salt_is_of_the_store_and_stays() {
        let open = |temp: &davit_test::TempDir| {
            let options = crate::StoreOptions::new(temp.join("root"), temp.join("run"));
            Store::open(options).unwrap()
        };
        let (one, two) = (davit_test::TempDir::new(), davit_test::TempDir::new());
        let salt = open(&one).secret_salt().unwrap();
        assert_eq!((salt.len(), open(&one).secret_salt().unwrap()), (SALT_BYTES, salt.clone()));
        assert_ne!(open(&two).secret_salt().unwrap(), salt);
        assert_eq!(sweep::list(&open(&one).layout().tmp()).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn the_newest_files_within_both_bounds_stay() {
        let file = |age: u64, bytes| BuildFile {
            path: PathBuf::from(age.to_string()),
            bytes,
            modified: SystemTime::UNIX_EPOCH + Duration::from_secs(100 - age),
        };
        let gone = |most, most_bytes| -> Vec<String> {
            let files = vec![file(3, 1), file(1, 5), file(2, 5)];
            let gone = oldest(files, most, most_bytes);
            gone.into_iter().map(|file| file.path.display().to_string()).collect()
        };
        assert_eq!(gone(3, 100), [""; 0]);
        assert_eq!(gone(2, 100), ["3"]);
        assert_eq!(gone(3, 9), ["2", "3"]);
        assert_eq!(gone(0, 9), ["2", "3"]);
        assert_eq!(gone(3, 4), ["2", "3"], "large as it is, the next build needs it");
    }
}
