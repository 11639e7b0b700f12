//! Unfinished and deleted things under `tmp/`: how they are made, and how they go.

use std::path::{Path, PathBuf};

use davit_image::Digest;
use fs_err as fs;

use crate::{Store, StoreError, blob, database::Class, format::random_hex, lock::Lock};

/// An interrupted download is kept this long for its next attempt.
const PARTIAL_LIFE: std::time::Duration = std::time::Duration::from_secs(7 * 24 * 3600);

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Unfinished things whose owner is gone.
    pub unfinished: u64,
    /// Files and directories of content, trees and removed volumes without a row.
    pub orphans: u64,
    /// Bytes on disk of what was unfinished.
    pub bytes: u64,
}

/// Which interrupted downloads a sweep removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partials {
    /// Those that nobody resumed for a week.
    Old,
    /// All that nobody writes right now.
    All,
}

impl Store {
    /// Removes what killed processes left under `tmp/`. Cheap when there is nothing.
    ///
    /// # Errors
    /// What the disk says.
    pub fn sweep(&self, partials: Partials) -> Result<SweepReport, StoreError> {
        let mut report = SweepReport::default();
        let tmp = self.layout().tmp();
        for path in list(&tmp)? {
            if is_partial(&path) && partials == Partials::Old && is_young(&path) {
                continue;
            }
            // A free lock means that the owner is gone; what is deleted here was never visible.
            if let Some(lock) = Lock::try_existing(&path)? {
                report.bytes += disk_bytes(&path);
                remove_any(&path)?;
                drop(lock);
                report.unfinished += 1;
            }
        }
        Ok(report)
    }

    /// Bytes on disk of what [`Partials::All`] would remove of `tmp/`.
    ///
    /// # Errors
    /// What the disk says.
    pub fn unfinished_size(&self) -> Result<u64, StoreError> {
        let mut total = 0;
        for path in list(&self.layout().tmp())? {
            if let Some(lock) = Lock::try_existing(&path)? {
                total += disk_bytes(&path);
                drop(lock);
            }
        }
        Ok(total)
    }

    /// Removes what has come of a download that nobody writes right now.
    ///
    /// # Errors
    /// What the disk says.
    pub fn discard_partial(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.layout().tmp().join(blob::partial_name(digest));
        match Lock::try_existing(&path)? {
            Some(lock) => lock.remove_file(),
            None => Ok(()),
        }
    }

    /// [`Self::sweep`], then removes files that no row names: those of a process killed between
    /// rename and commit, or between commit and removal. Reads all names under `blobs/`, `layers/`,
    /// `trees/`, `dirs/` and `volumes/`, and run-time directories of containers.
    ///
    /// # Errors
    /// What the disk or the database says.
    pub fn sweep_orphans(&self, partials: Partials) -> Result<SweepReport, StoreError> {
        let mut report = self.sweep(partials)?;
        let mut candidates = Vec::new();
        for (directory, _) in self.content_dirs() {
            candidates.extend(list(&directory)?);
        }
        candidates.extend(self.removed_volumes()?);
        report.orphans = self.remove_unnamed(&candidates)? + self.remove_unnamed_runs()?;
        Ok(report)
    }

    /// Removes run-time directories of containers that have no row, as a command leaves them that
    /// is killed before it writes one. While it lives, it or the monitor holds the lock.
    fn remove_unnamed_runs(&self) -> Result<u64, StoreError> {
        let mut removed = 0;
        for directory in list(&self.layout().run_containers())? {
            let Some(id) = directory.file_name().and_then(|name| name.to_str()) else { continue };
            // Before the lock is asked for: whoever looks would take this for its monitor.
            if self.has_container(id)? {
                continue;
            }
            if let Some(lock) = Lock::try_existing(&directory.join("lock"))?
                && !self.has_container(id)?
            {
                remove_any(&directory)?;
                drop(lock);
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn has_container(&self, id: &str) -> Result<bool, StoreError> {
        match self.container(id) {
            Err(error) if error.is_not_found() => Ok(false),
            found => found.map(|_| true),
        }
    }

    /// Sweeps before the first write of this process; a failure is not the caller's.
    pub(crate) fn sweep_once(&self) {
        self.swept.call_once(|| {
            if let Err(error) = self.sweep(Partials::Old) {
                tracing::debug!(%error, "leftovers stay until the next sweep");
            }
        });
    }

    /// Of `candidates` (paths of content, trees and volumes), removes those that no row names. Rows
    /// are asked while no other process writes, so that a commit is never torn.
    pub(crate) fn remove_unnamed(&self, candidates: &[PathBuf]) -> Result<u64, StoreError> {
        if candidates.is_empty() {
            return Ok(0);
        }
        let trash = self.database.write(Class::Normal, "collect garbage", |tx| {
            let mut trash = Vec::new();
            for path in candidates {
                if !self.is_named(tx, path)? && path.symlink_metadata().is_ok() {
                    trash.push(self.move_to_trash(path)?);
                }
            }
            Ok(trash)
        })?;
        trash.iter().try_for_each(|path| remove_any(path))?;
        Ok(trash.len() as u64)
    }

    /// Directories of content, with the query that finds the row of a name in it.
    fn content_dirs(&self) -> Vec<(PathBuf, &'static str)> {
        let root = self.layout().root();
        let mut dirs = Vec::new();
        for algorithm in ["sha256", "sha512"] {
            dirs.push((root.join("blobs").join(algorithm), "SELECT 1 FROM blobs WHERE digest = ?"));
            dirs.push((
                root.join("layers").join(algorithm),
                "SELECT 1 FROM layers WHERE diff_id = ?",
            ));
        }
        dirs.push((root.join("trees"), "SELECT 1 FROM trees WHERE id = ? AND form != 'extracted'"));
        dirs.push((root.join("dirs"), "SELECT 1 FROM trees WHERE id = ? AND form = 'extracted'"));
        dirs
    }

    fn is_named(&self, tx: &rusqlite::Transaction<'_>, path: &Path) -> Result<bool, StoreError> {
        let sql = |e| self.database.error("collect garbage", e);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(true);
        };
        let mut dirs = self.content_dirs();
        let volumes = self.layout().root().join("volumes");
        dirs.push((volumes, "SELECT 1 FROM volumes WHERE name = ?"));
        let Some((directory, query)) = dirs.iter().find(|(directory, _)| directory == parent)
        else {
            return Ok(true);
        };
        let name = name.to_string_lossy();
        let key = match directory.file_name().and_then(|name| name.to_str()) {
            Some(algorithm @ ("sha256" | "sha512")) => format!("{algorithm}:{name}"),
            Some("trees") => name.strip_suffix(".erofs").unwrap_or(&name).to_owned(),
            _ => name.into_owned(),
        };
        tx.prepare_cached(query).and_then(|mut s| s.exists([key])).map_err(sql)
    }

    /// Takes something out of sight, in one step; the caller then removes it.
    pub(crate) fn move_to_trash(&self, path: &Path) -> Result<PathBuf, StoreError> {
        let trash = self.layout().tmp().join(format!("gone-{}", random_hex(8)));
        fs::rename(path, &trash).map_err(|e| StoreError::io("remove", path, e))?;
        Ok(trash)
    }

    /// Makes an empty directory under `tmp/`, locked.
    pub(crate) fn make_locked_dir(&self, kind: &str) -> Result<Lock, StoreError> {
        loop {
            let path = self.layout().tmp().join(format!("{kind}-{}", random_hex(8)));
            rustix::fs::mkdir(&path, rustix::fs::Mode::RWXU)
                .map_err(|e| StoreError::io("create", &path, e))?;
            // A sweep may have come between; then the name is gone.
            if let Some(lock) = Lock::try_existing(&path)? {
                return Ok(lock);
            }
        }
    }

    /// Makes an empty file under `tmp/`, locked.
    pub(crate) fn make_locked_file(&self, path: &Path) -> Result<Lock, StoreError> {
        loop {
            if let Some(lock) = Lock::try_file(path)? {
                return Ok(lock);
            }
        }
    }
}

fn is_partial(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("blob-"))
}

fn is_young(path: &Path) -> bool {
    let modified = fs::symlink_metadata(path).and_then(|facts| facts.modified());
    modified.is_ok_and(|time| time.elapsed().map_or(true, |age| age < PARTIAL_LIFE))
}

/// Bytes on disk of a file, or of a directory with all below it; what cannot be read counts
/// nothing.
pub(crate) fn disk_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(facts) = fs::symlink_metadata(path) else { return 0 };
    let below = if facts.is_dir() { list(path).unwrap_or_default() } else { Vec::new() };
    facts.blocks() * 512 + below.iter().map(|path| disk_bytes(path)).sum::<u64>()
}

/// Names in a directory; an absent one is empty.
pub(crate) fn list(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(StoreError::io("list", directory, e)),
    };
    entries
        .map(|entry| {
            entry.map(|entry| entry.path()).map_err(|e| StoreError::io("list", directory, e))
        })
        .collect()
}

/// Removes a file, or a directory with all below it, without following links. Absence is no error.
pub(crate) fn remove_any(path: &Path) -> Result<(), StoreError> {
    let gone = match fs::symlink_metadata(path) {
        Ok(facts) if facts.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match gone {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", path, e))
        }
        _ => Ok(()),
    }
}
