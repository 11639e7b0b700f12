//! Layers of what was fetched: one file, or a tree of files.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, BufWriter, Write as _},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use davit_image::DiffId;
use davit_layer::{
    Change, ChangeKind, Mtime, Opener, Source, WriteOptions, XattrMap, path, write_layer,
};
use fs_err::os::unix::fs::OpenOptionsExt as _;
use rustix::fs::OFlags;

use super::{Fetcher, SourceError};

/// Mode of files that come from a web server.
const FILE_MODE: u16 = 0o600;
/// Git's own directory in a checkout, and what stands for it in one of a submodule.
const GIT: &[u8] = b".git";
const READERS: usize = 2;

/// A file that becomes a layer.
pub(super) struct OneFile<'a> {
    pub(super) name: &'a str,
    pub(super) size: u64,
    /// In seconds since 1970.
    pub(super) mtime: i64,
    pub(super) content: &'a File,
}

/// Whether a tree's `.git` belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GitDirectory {
    Keep,
    Drop,
}

impl Opener for OneFile<'_> {
    fn open(&self, _position: usize, _change: &Change) -> io::Result<File> {
        // The descriptor's own position is at the end of what was written.
        let mut file = self.content.try_clone()?;
        io::Seek::rewind(&mut file)?;
        Ok(file)
    }
}

/// A directory that nobody writes to any more.
struct Tree<'a> {
    root: &'a Path,
}

impl Opener for Tree<'_> {
    fn open(&self, _position: usize, change: &Change) -> io::Result<File> {
        let path = self.root.join(OsStr::from_bytes(&change.path));
        let mut options = fs_err::OpenOptions::new();
        options.read(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        Ok(options.open(path)?.into_parts().0)
    }
}

impl Fetcher<'_> {
    /// Stores a layer with one file in its root.
    pub(super) fn file_layer(&self, file: &OneFile<'_>) -> Result<DiffId, SourceError> {
        let kind = ChangeKind::File { size: file.size, source: Source::Opened };
        let change = change(file.name.as_bytes().to_vec(), kind, FILE_MODE, file.mtime);
        self.layer(&[change], file)
    }

    /// Stores a layer of all that lies below a directory, as git has it: owned by root, mode 0644
    /// or 0755, all of one time.
    pub(super) fn tree_layer(
        &self,
        root: &Path,
        git: GitDirectory,
        mtime: i64,
    ) -> Result<DiffId, SourceError> {
        let changes = changes(root, git, mtime).map_err(SourceError::Keep)?;
        self.layer(&changes, &Tree { root })
    }

    fn layer(&self, changes: &[Change], opener: &dyn Opener) -> Result<DiffId, SourceError> {
        let ingest = self.engine.store().begin_layer(self.lease)?;
        let mut tar = BufWriter::with_capacity(1 << 20, ingest.create_tar()?);
        let options = WriteOptions { readers: READERS, ..WriteOptions::default() };
        let table = write_layer(changes, opener, &mut tar, &options)?;
        tar.flush().map_err(SourceError::Keep)?;
        drop(tar);
        let layer = table.facts().diff_id;
        crate::layer::commit(ingest, &table)?;
        Ok(layer)
    }
}

fn change(path: Vec<u8>, kind: ChangeKind, mode: u16, mtime: i64) -> Change {
    let mtime = Mtime::from_seconds(mtime);
    Change { path, kind, mode, uid: 0, gid: 0, mtime, xattrs: XattrMap::new() }
}

/// The changes that make a tree, sorted; what git cannot hold is left out.
fn changes(root: &Path, git: GitDirectory, mtime: i64) -> io::Result<Vec<Change>> {
    let mut changes = Vec::new();
    let mut open: Vec<(PathBuf, Vec<u8>)> = vec![(root.to_path_buf(), Vec::new())];
    while let Some((directory, below)) = open.pop() {
        for entry in fs_err::read_dir(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.as_bytes() == GIT && git == GitDirectory::Drop {
                continue;
            }
            let path = path::join(&below, name.as_bytes());
            // Of the entry itself: symlinks are not followed.
            let facts = entry.metadata()?;
            let kind = if facts.is_dir() {
                open.push((entry.path(), path.clone()));
                ChangeKind::Directory
            } else if facts.is_symlink() {
                let target = fs_err::read_link(entry.path())?;
                ChangeKind::Symlink { target: target.into_os_string().as_bytes().to_vec() }
            } else if facts.is_file() {
                ChangeKind::File { size: facts.len(), source: Source::Opened }
            } else {
                continue;
            };
            let mode = mode(&kind, facts.mode());
            changes.push(change(path, kind, mode, mtime));
        }
    }
    changes.sort_by(|left, right| path::compare(&left.path, &right.path));
    Ok(changes)
}

/// What a file has with a umask of 022, whatever the one of this process is.
fn mode(kind: &ChangeKind, mode: u32) -> u16 {
    match kind {
        ChangeKind::Symlink { .. } => 0o777,
        ChangeKind::Directory => 0o755,
        _ => {
            let read_write = if mode & 0o200 == 0 { 0o444 } else { 0o644 };
            if mode & 0o100 == 0 { read_write } else { read_write | 0o111 }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_tree_is_read_as_git_has_it() {
        let temp = davit_test::TempDir::new();
        let root = temp.path();
        fs_err::create_dir_all(root.join("b/sub")).unwrap();
        fs_err::create_dir_all(root.join(".git/objects")).unwrap();
        for (name, mode) in [("b/x", 0o600), ("b/run", 0o700), ("b.c", 0o664), (".git/o", 0o400)] {
            fs_err::write(root.join(name), name).unwrap();
            fs_err::set_permissions(root.join(name), std::fs::Permissions::from_mode(mode))
                .unwrap();
        }
        fs_err::write(root.join("b/sub/.git"), "gitdir: x").unwrap();
        symlink("/etc", root.join("link")).unwrap();
        let list = |git| {
            let changes = changes(root, git, 7).unwrap();
            let line = |it: &Change| format!("{} {:o}", String::from_utf8_lossy(&it.path), it.mode);
            changes.iter().map(line).collect::<Vec<_>>()
        };
        let dropped = ["b 755", "b/run 755", "b/sub 755", "b/x 644", "b.c 644", "link 777"];
        assert_eq!(list(GitDirectory::Drop), dropped);
        let kept = list(GitDirectory::Keep);
        assert_eq!(kept[..3], [".git 755", ".git/o 444", ".git/objects 755"]);
        assert!(kept.contains(&"b/sub/.git 644".to_owned()), "{kept:?}");
    }
}
