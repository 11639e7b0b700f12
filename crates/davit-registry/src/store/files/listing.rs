//! What lies in the store, for the scan that finds what no row names.

use std::path::Path;

use uuid::Uuid;

use super::{Files, Key, StoreError, blocking, fault, made_ms};

impl Files {
    /// Names of all entries directly below a directory of the store, sorted; empty when it is absent.
    fn names(&self, below: &str) -> Result<Vec<String>, StoreError> {
        let path = self.root.join(below);
        let entries = match fs_err::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(fault("list", &path)(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(fault("list", &path))?;
            names.extend(entry.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    /// Directories that [`Files::keys`] lists one by one, so that a scan of many objects stays small.
    pub(in crate::store) async fn shards(&self) -> Result<Vec<String>, StoreError> {
        let store = self.clone();
        blocking(move || {
            let mut shards = Vec::new();
            for algorithm in store.names("blobs")? {
                let below = format!("blobs/{algorithm}");
                shards.extend(store.names(&below)?.iter().map(|name| format!("{below}/{name}")));
            }
            Ok(shards)
        })
        .await
    }

    /// Objects of one shard; files that are no object are passed over.
    pub(in crate::store) async fn keys(&self, shard: &str) -> Result<Vec<Key>, StoreError> {
        let (store, shard) = (self.clone(), shard.to_owned());
        blocking(move || {
            let names = store.names(&shard)?;
            Ok(names.iter().filter_map(|name| format!("{shard}/{name}").parse().ok()).collect())
        })
        .await
    }

    /// Upload sessions that have bytes here, and when each began (milliseconds since 1970).
    pub(in crate::store) async fn sessions(&self) -> Result<Vec<(Uuid, u64)>, StoreError> {
        let store = self.clone();
        blocking(move || {
            let ids = store.names("uploads")?.into_iter().filter_map(|name| name.parse().ok());
            Ok(ids.map(|id: Uuid| (id, made_ms(&id))).collect())
        })
        .await
    }

    /// Size of an object in bytes; `None` when it is absent.
    pub(in crate::store) async fn size(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        let path = self.path(key);
        blocking(move || match fs_err::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(fault("read", Path::new(&path))(error)),
        })
        .await
    }
}
