//! Removing a whole store.

use std::{io, path::Path};

use fs_err as fs;

use crate::{Layout, Store, StoreError};

/// Directories of ROOT that davit makes.
const DIRECTORIES: [&str; 9] =
    ["blobs", "layers", "trees", "dirs", "containers", "volumes", "builds", "cache", "tmp"];

impl Store {
    /// Closes the store and removes all that it has made in ROOT and RUN_ROOT, and the two
    /// directories themselves if nothing else is in them.
    ///
    /// `ROOT/format` goes last: after an interruption the same call ends the work. Containers and
    /// mounts must be gone. Cost: one unlink for each file.
    ///
    /// # Errors
    /// What the disk says; what is left is a store that can be opened and erased again.
    pub fn erase(self) -> Result<(), StoreError> {
        let (layout, run_root) = (self.layout().clone(), self.run_root().to_path_buf());
        // Before the files go: closing may still empty the log.
        drop(self);
        remove_tree(layout.run())?;
        remove_if_empty(&run_root)?;
        for name in DIRECTORIES {
            remove_tree(&layout.root().join(name))?;
        }
        for file in files(&layout) {
            gone(fs::remove_file(&file)).map_err(|e| StoreError::io("remove", &file, e))?;
        }
        remove_if_empty(layout.root())
    }
}

fn files(layout: &Layout) -> [std::path::PathBuf; 5] {
    let database = layout.database();
    [
        database.with_extension("db-wal"),
        database.with_extension("db-shm"),
        database,
        layout.reserve(),
        layout.root().join("format"),
    ]
}

fn remove_tree(path: &Path) -> Result<(), StoreError> {
    gone(fs::remove_dir_all(path)).map_err(|e| StoreError::io("remove", path, e))
}

/// Keeps a directory that has something else in it or that is a mount point.
fn remove_if_empty(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir(path) {
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy
            ) =>
        {
            Ok(())
        }
        result => gone(result).map_err(|e| StoreError::io("remove", path, e)),
    }
}

/// What is not there need not be removed.
fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Durability, StoreOptions};

    #[test]
    fn only_its_own_files_go() {
        let temp = davit_test::TempDir::new();
        let options = StoreOptions::new(temp.join("root"), temp.join("run"));
        let store = Store::open(options.clone()).expect("a store");
        let lease = store.lease("test").expect("a lease");
        store.put_blob(&lease, b"hello", None, Durability::Durable).expect("a blob");
        drop(lease);
        store.make_dir(&store.layout().run_container("a")).expect("a directory");
        store.erase().expect("erased");
        assert_eq!(fs::read_dir(temp.path()).expect("readable").count(), 0);

        let store = Store::open(options).expect("a new store");
        fs::write(temp.join("root/mine"), "of the user").expect("written");
        fs::create_dir_all(temp.join("run/other")).expect("made");
        store.erase().expect("erased");
        let left = |name: &str| {
            let entries = fs::read_dir(temp.join(name)).expect("readable").flatten();
            entries.map(|entry| entry.file_name()).collect::<Vec<_>>()
        };
        assert_eq!((left("root"), left("run")), (vec!["mine".into()], vec!["other".into()]));
    }
}
