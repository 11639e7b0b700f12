//! Archives that `ADD` unpacks: every tar, compressed or not, whatever its name.

use std::{collections::HashSet, fs::File, sync::Arc};

use davit_layer::{Kind, Table, path};

use super::{
    CopyProblem, Owner,
    outputs::{Content, Link, Output},
    target::Target,
};
use crate::files::{FileEntry, FileKind, join};

/// Mode of directories that an archive implies.
const IMPLIED_MODE: u16 = 0o755;

/// Opens archives among the sources.
pub(crate) trait Archives {
    /// The entry as an archive; `None` if it is none.
    fn open(&self, entry: &FileEntry) -> Result<Option<Archive>, CopyProblem>;
}

/// An archive, uncompressed.
#[derive(Clone, Debug)]
pub(crate) struct Archive {
    pub(crate) table: Arc<Table>,
    pub(crate) tar: Arc<File>,
}

/// No source is unpacked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoArchives;

impl Archives for NoArchives {
    fn open(&self, _entry: &FileEntry) -> Result<Option<Archive>, CopyProblem> {
        Ok(None)
    }
}

/// Unpacks an archive below `base`, which exists. Its entries replace what they find; symlinks on
/// the way to them are followed within the root.
pub(super) fn unpack(
    target: &mut Target<'_>,
    base: &[u8],
    archive: &Archive,
    (owner, group): (Option<Owner>, u32),
) -> Result<(), CopyProblem> {
    let linked: HashSet<u32> = archive
        .table
        .iter()
        .filter_map(|entry| match entry.kind {
            Kind::HardLink { index, .. } => index,
            _ => None,
        })
        .collect();
    for (index, entry) in (0..).zip(archive.table.iter()) {
        let implied = matches!(entry.kind, Kind::Directory { implied: true, .. });
        if entry.path.is_empty() || implied {
            continue;
        }
        let within = join(base, path::parent(entry.path).unwrap_or_default());
        let parent = target.follow(&within)?;
        // `--chown` is for what the archive holds; what it only implies is root's.
        target.make_directories(&parent, IMPLIED_MODE, Owner::default())?;
        let at = join(&parent, path::file_name(entry.path));
        let inode = match entry.kind {
            Kind::HardLink { index: Some(target), .. } => target,
            _ => index,
        };
        let link = linked.contains(&inode).then(|| Link::archived(group, inode));
        let Some(content) = content(archive, entry.kind, link)? else { continue };
        target.replace(Output {
            path: at,
            mode: if matches!(content, Content::Symlink(_)) { 0o777 } else { entry.mode },
            content,
            owner: owner.unwrap_or(Owner { uid: entry.uid, gid: entry.gid }),
            mtime: entry.mtime,
            xattrs: entry.xattrs.to_map(),
        });
    }
    Ok(())
}

/// What an entry puts at its path; `None` for nothing.
///
/// A hard link gets the content of the file that it names: which of the two becomes the link
/// depends on the layer's order.
fn content(
    archive: &Archive,
    kind: Kind<'_>,
    link: Option<Link>,
) -> Result<Option<Content>, CopyProblem> {
    Ok(Some(match kind {
        Kind::File { size, extents } => {
            let (tar, extents) = (Arc::clone(&archive.tar), extents.iter().collect());
            Content::InTar { size, tar, extents, link }
        }
        Kind::Directory { .. } => Content::Directory,
        Kind::Symlink { target } => Content::Symlink(target.into()),
        Kind::CharDevice { major, minor } => {
            Content::Device { kind: FileKind::CharDevice, major, minor }
        }
        Kind::BlockDevice { major, minor } => {
            Content::Device { kind: FileKind::BlockDevice, major, minor }
        }
        Kind::Fifo => Content::Device { kind: FileKind::Fifo, major: 0, minor: 0 },
        Kind::HardLink { index: Some(index), .. } => {
            let named = archive.table.at(index).kind;
            debug_assert!(
                !matches!(named, Kind::HardLink { .. }),
                "tables hold no chains of links"
            );
            return content(archive, named, link);
        }
        Kind::HardLink { target: name, index: None } => {
            let path = String::from_utf8_lossy(name).into_owned();
            let problem = "a hard link leads to a file that is not in the archive".to_owned();
            return Err(CopyProblem::Archive { path, problem });
        }
        Kind::Whiteout => return Ok(None),
    }))
}
