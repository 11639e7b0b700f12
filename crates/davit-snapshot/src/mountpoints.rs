//! The *init* part: mountpoints that every container needs, in a small part of their own.
//!
//! Overlay takes a merged directory's metadata from its topmost layer, so `/`, `/dev`, `/etc` …
//! here carry those of the chain. What the chain shows there is kept in the row of its topmost
//! tree, and equal content is one part for all chains. A directory here also hides a symbolic link
//! or file of that name in the image: nothing is ever mounted through an image's links.

use std::collections::BTreeMap;

use davit_layer::{
    Change, ChangeKind, Entry, Extents, Kind, Merged, Mtime, Source, XattrMap, Xattrs, path,
};
use serde::{Deserialize, Serialize};

use crate::{
    Form, TreeId,
    erofs::{Image, Node, NodeKind},
};

/// Raised whenever the content of an init part would differ from that of an earlier davit.
const VERSION: u32 = 1;

/// Which mountpoints a stack has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mountpoints {
    /// None: exactly the image.
    None,
    /// Those of a container, as Docker's init layer has them: `/dev`, `/proc`, `/sys`, empty
    /// `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf`, `/.dockerenv`, and `/etc/mtab`.
    Container,
    /// Those of a build step: `/dev`, `/proc`, `/sys`, empty `/etc/hosts` and `/etc/resolv.conf`.
    Build,
}

/// What a chain shows where mountpoints go; part of the row of its topmost tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shown {
    root: Metadata,
    /// The directories among [`PARENTS`] by name.
    directories: BTreeMap<String, Metadata>,
}

/// Top directories that hold mountpoints, or are some.
const PARENTS: [&str; 4] = ["dev", "etc", "proc", "sys"];

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Metadata {
    mode: u16,
    uid: u32,
    gid: u32,
    seconds: i64,
    nanoseconds: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Metadata {
    fn of(entry: &Entry<'_>) -> Self {
        let owned = |(name, value): (&[u8], &[u8])| (name.to_vec(), value.to_vec());
        Self {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            seconds: entry.mtime.seconds,
            nanoseconds: entry.mtime.nanoseconds,
            xattrs: entry.xattrs.iter().map(owned).collect(),
        }
    }

    const fn plain(mode: u16) -> Self {
        Self { mode, uid: 0, gid: 0, seconds: 0, nanoseconds: 0, xattrs: Vec::new() }
    }
}

impl Shown {
    /// Looks at what `view` shows.
    pub(crate) fn of(view: &Merged) -> Self {
        let directory = |path: &str| {
            let node = view.find(path.as_bytes())?;
            matches!(node.entry.kind, Kind::Directory { .. }).then(|| Metadata::of(&node.entry))
        };
        let named = |name: &str| Some((name.to_owned(), directory(name)?));
        Self {
            root: directory("").unwrap_or(Metadata::plain(0o755)),
            directories: PARENTS.into_iter().filter_map(named).collect(),
        }
    }
}

/// A file, directory or link of an init part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    /// Path without a leading slash; `""` is the root.
    pub(crate) path: &'static str,
    pub(crate) kind: PointKind,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Mtime,
    pub(crate) xattrs: XattrMap,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PointKind {
    Directory,
    File,
    Symlink(&'static str),
}

/// An init part to be made: its identity and its content, in path order.
#[derive(Clone, Debug)]
pub(crate) struct Init {
    pub(crate) id: TreeId,
    pub(crate) points: Vec<Point>,
}

impl Init {
    /// The init part over what a chain shows; `None` where none is wanted.
    pub(crate) fn new(form: Form, mountpoints: Mountpoints, shown: &Shown) -> Option<Self> {
        use PointKind::{Directory, File, Symlink};
        let paths: &[(&str, PointKind)] = match mountpoints {
            Mountpoints::None => return None,
            Mountpoints::Container => &[
                ("", Directory),
                (".dockerenv", File),
                ("dev", Directory),
                ("dev/console", File),
                ("dev/pts", Directory),
                ("dev/shm", Directory),
                ("etc", Directory),
                ("etc/hostname", File),
                ("etc/hosts", File),
                ("etc/mtab", Symlink("/proc/mounts")),
                ("etc/resolv.conf", File),
                ("proc", Directory),
                ("sys", Directory),
            ],
            Mountpoints::Build => &[
                ("", Directory),
                ("dev", Directory),
                ("etc", Directory),
                ("etc/hosts", File),
                ("etc/resolv.conf", File),
                ("proc", Directory),
                ("sys", Directory),
            ],
        };
        let points: Vec<_> = paths.iter().map(|(path, kind)| shown.point(path, *kind)).collect();
        let kind = if form == Form::Erofs { "erofs" } else { "directory" };
        let text = format!("davit init {VERSION}\nform {kind}\n{points:?}");
        Some(Self { id: TreeId::of(text.as_bytes()), points })
    }

    /// The content as changes, in the order of a layer.
    pub(crate) fn changes(&self) -> Vec<Change> {
        let mut changes: Vec<_> = self
            .points
            .iter()
            .map(|point| Change {
                path: point.path.as_bytes().to_vec(),
                kind: match point.kind {
                    PointKind::Directory => ChangeKind::Directory,
                    PointKind::File => ChangeKind::File { size: 0, source: Source::Opened },
                    PointKind::Symlink(target) => {
                        ChangeKind::Symlink { target: target.as_bytes().to_vec() }
                    }
                },
                mode: point.mode,
                uid: point.uid,
                gid: point.gid,
                mtime: point.mtime,
                xattrs: point.xattrs.clone(),
            })
            .collect();
        changes.sort_by(|one, other| path::compare(&one.path, &other.path));
        changes
    }

    /// The content as a file system.
    pub(crate) fn image(&self) -> Image<'_> {
        let position = |path: &str| {
            let found = self.points.iter().position(|point| point.path == path);
            found.and_then(|at| u32::try_from(at).ok()).expect("every parent is a point")
        };
        let nodes = self.points.iter().map(|point| {
            let (parent, name) = point.path.rsplit_once('/').unwrap_or(("", point.path));
            Node {
                parent: position(parent),
                name: name.as_bytes(),
                kind: match point.kind {
                    PointKind::Directory => NodeKind::Directory { opaque: false },
                    PointKind::File => {
                        NodeKind::File { size: 0, device: 0, extents: Extents::NONE }
                    }
                    PointKind::Symlink(target) => NodeKind::Symlink { target: target.as_bytes() },
                },
                mode: point.mode,
                uid: point.uid,
                gid: point.gid,
                mtime: point.mtime,
                xattrs: Xattrs::from(&point.xattrs),
            }
        });
        Image { uuid: self.id.uuid(), nodes: nodes.collect(), ..Image::default() }
    }
}

impl Shown {
    fn point(&self, path: &'static str, kind: PointKind) -> Point {
        let plain = match kind {
            PointKind::Directory => Metadata::plain(0o755),
            PointKind::File => Metadata::plain(0o644),
            PointKind::Symlink(_) => Metadata::plain(0o777),
        };
        let metadata = match path {
            "" => &self.root,
            _ => self.directories.get(path).unwrap_or(&plain),
        };
        Point {
            path,
            kind,
            mode: metadata.mode,
            uid: metadata.uid,
            gid: metadata.gid,
            mtime: Mtime { seconds: metadata.seconds, nanoseconds: metadata.nanoseconds },
            xattrs: metadata.xattrs.iter().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown() -> Shown {
        let etc = Metadata { mode: 0o750, uid: 5, ..Metadata::plain(0) };
        Shown { root: Metadata::plain(0o711), directories: [("etc".to_owned(), etc)].into() }
    }

    #[test]
    fn parents_carry_the_metadata_of_the_chain() {
        let init = Init::new(Form::Erofs, Mountpoints::Container, &shown()).unwrap();
        let point = |path: &str| init.points.iter().find(|point| point.path == path).unwrap();
        assert_eq!(point("").mode, 0o711);
        assert_eq!((point("etc").mode, point("etc").uid), (0o750, 5));
        assert_eq!(point("dev").mode, 0o755);
        assert_eq!(point("etc/hosts").mode, 0o644);
    }

    #[test]
    fn they_can_be_written() {
        for mountpoints in [Mountpoints::Container, Mountpoints::Build] {
            let init = Init::new(Form::Erofs, mountpoints, &shown()).unwrap();
            let mut bytes = Vec::new();
            crate::erofs::write(&init.image(), &mut bytes).unwrap();
            assert_eq!(
                crate::erofs::Tree::parse(&bytes).unwrap().names.len() + 1,
                init.points.len()
            );
        }
    }

    #[test]
    fn identity_follows_the_content() {
        let id = |form, mountpoints, shown: &Shown| Init::new(form, mountpoints, shown).unwrap().id;
        let container = id(Form::Erofs, Mountpoints::Container, &shown());
        let other = Shown { root: Metadata::plain(0o755), ..shown() };
        assert_ne!(container, id(Form::Erofs, Mountpoints::Build, &shown()));
        assert_ne!(container, id(Form::Directories, Mountpoints::Container, &shown()));
        assert_ne!(container, id(Form::Erofs, Mountpoints::Container, &other));
        let json = serde_json::to_string(&shown()).unwrap();
        assert_eq!(serde_json::from_str::<Shown>(&json).unwrap(), shown());
    }
}
