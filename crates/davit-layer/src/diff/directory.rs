//! The diff of a directory tree: an overlay's upper directory, or a whole tree.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
};

use davit_sys::xattr;
use rustix::{
    fs::{AtFlags, FileType, OFlags, Statx, StatxFlags},
    io::Errno,
};

use super::{
    Changes, DiffError, Lower,
    compare::{self, Verdict},
    open_below,
};
use crate::{Change, ChangeKind, Kind, Mtime, Node, Source, XattrMap, extract::proc_path, path};

/// How to read the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tree {
    /// Only what differs is there; marks say what is gone.
    Upper,
    /// Everything is there; what is missing is gone.
    Whole,
}

pub(super) fn diff(
    root: BorrowedFd<'_>,
    lower: &Lower<'_>,
    tree: Tree,
) -> Result<Changes, DiffError> {
    let (changes, links, open) = (Vec::new(), HashMap::new(), RefCell::new(None));
    let walk = Walk { root, lower, tree, changes, links, open };
    let changes = walk.run()?;
    let root = root.try_clone_to_owned().map_err(|error| DiffError::read(b"", error))?;
    Ok(Changes { changes, root })
}

/// A directory that is being walked.
struct Frame {
    /// Position of its own change.
    change: usize,
    path: Vec<u8>,
    names: std::vec::IntoIter<Vec<u8>>,
    /// Of the layers below only what stands here too shows.
    hides_lower: bool,
    /// It stays in the layer for itself, whatever lies in it.
    changed: bool,
}

/// Device and inode.
type FileId = (u32, u32, u64);

/// What is known of a file with several names.
enum Linked {
    /// All its names are as they were.
    Unchanged,
    /// The first name; later ones become links to it.
    First(Vec<u8>),
}

struct Walk<'a> {
    root: BorrowedFd<'a>,
    lower: &'a Lower<'a>,
    tree: Tree,
    changes: Vec<Change>,
    links: HashMap<FileId, Linked>,
    /// The directory that was looked into last.
    open: RefCell<Option<(Vec<u8>, Rc<OwnedFd>)>>,
}

/// What stands at a name.
enum Item {
    /// Nothing that a layer could hold.
    Absent,
    /// The mark that something is gone.
    Whiteout,
    Entry {
        change: Change,
        stat: Box<Statx>,
        is_opaque: bool,
    },
}

impl<'a> Walk<'a> {
    fn run(mut self) -> Result<Vec<Change>, DiffError> {
        let read = |error| DiffError::read(b"", error);
        let stat = statx(self.root, b"").map_err(read)?;
        let (change, is_opaque) = self.describe(self.root, b"", b"", &stat)?;
        // The time of the root changes with everything that is made in it.
        let root_changed = match self.lower.merged.find(b"") {
            Some(node) => !compare::same_metadata(&change, &node.entry, self.lower.xattrs),
            None => true,
        };
        let mut frames = vec![self.enter(change, is_opaque, false, true)?];
        while let Some(frame) = frames.last_mut() {
            let Some(name) = frame.names.next() else {
                let Some(frame) = frames.pop() else { break };
                self.leave(&frame);
                continue;
            };
            let (path, hides_lower) = (path::join(&frame.path, &name), frame.hides_lower);
            if let Some(child) = self.visit(path, hides_lower)? {
                frames.push(child);
            }
        }
        if !root_changed && !self.changes.is_empty() {
            self.changes.remove(0);
        }
        Ok(self.changes)
    }

    /// Begins a directory whose change comes first.
    fn enter(
        &mut self,
        change: Change,
        is_opaque: bool,
        hides_lower: bool,
        changed: bool,
    ) -> Result<Frame, DiffError> {
        let path = change.path.clone();
        let hides_lower = hides_lower || is_opaque || self.tree == Tree::Whole;
        let directory = open_below(self.root, &path, OFlags::DIRECTORY);
        let directory = directory.map_err(|error| DiffError::read(&path, error))?;
        let mut names = list(&directory).map_err(|error| DiffError::read(&path, error))?;
        if hides_lower {
            names.extend(self.lower.merged.list(&path));
        }
        let position = self.changes.len();
        self.changes.push(change);
        let names = names.into_iter().collect::<Vec<_>>().into_iter();
        Ok(Frame { change: position, path, names, hides_lower, changed })
    }

    /// Ends a directory: with nothing in it and nothing new about it, it is left out.
    fn leave(&mut self, frame: &Frame) {
        if !frame.changed && self.changes.len() == frame.change + 1 {
            self.changes.truncate(frame.change);
        }
    }

    /// Decides about one path; a directory is to be walked next.
    fn visit(&mut self, path: Vec<u8>, hides_lower: bool) -> Result<Option<Frame>, DiffError> {
        let lower = self.lower.merged;
        let (change, stat, is_opaque) = match self.look(&path)? {
            Item::Absent if !hides_lower && !self.is_shadowing(&path)? => return Ok(None),
            Item::Absent | Item::Whiteout => {
                if lower.find(&path).is_some() {
                    self.changes.push(Change::whiteout(path));
                }
                return Ok(None);
            }
            Item::Entry { change, stat, is_opaque } => (change, stat, is_opaque),
        };
        let below = lower.find(&path);
        if change.kind.is_directory() {
            let changed = below.as_ref().is_none_or(|node| {
                compare::compare(&change, &node.entry, self.lower.xattrs) == Verdict::Changed
            });
            return self.enter(change, is_opaque, hides_lower, changed).map(Some);
        }
        let is_unchanged = match &below {
            Some(node) => self.is_unchanged(&change, node)?,
            None => false,
        };
        if stat.stx_nlink > 1 {
            self.visit_linked(change, &stat, below.as_ref().filter(|_| is_unchanged))?;
        } else if !is_unchanged {
            self.changes.push(change);
        }
        Ok(None)
    }

    /// The directory of `path`, open, and the name in it.
    fn parent<'p>(&self, path: &'p [u8]) -> Result<(Rc<OwnedFd>, &'p [u8]), DiffError> {
        let (parent, name) = path::split(path).unwrap_or_default();
        let mut open = self.open.borrow_mut();
        if let Some((known, directory)) = &*open
            && known == parent
        {
            return Ok((Rc::clone(directory), name));
        }
        let directory = open_below(self.root, parent, OFlags::DIRECTORY | OFlags::PATH);
        let directory = Rc::new(directory.map_err(|error| DiffError::read(path, error))?);
        *open = Some((parent.to_vec(), Rc::clone(&directory)));
        Ok((directory, name))
    }

    /// A socket that took the place of something below hides it.
    fn is_shadowing(&self, path: &[u8]) -> Result<bool, DiffError> {
        let (directory, name) = self.parent(path)?;
        Ok(statx(directory.as_fd(), name).is_ok())
    }

    /// A file with several names: unchanged only if all of them are, else all are written.
    fn visit_linked(
        &mut self,
        mut change: Change,
        stat: &Statx,
        unchanged: Option<&Node<'_>>,
    ) -> Result<(), DiffError> {
        let id = file_id(stat);
        match self.links.get(&id) {
            Some(Linked::Unchanged) => return Ok(()),
            Some(Linked::First(target)) => {
                change.kind = ChangeKind::HardLink { target: target.clone() };
            }
            None => {
                let keeps_names = match unchanged {
                    Some(node) => self.has_same_names(node, stat)?,
                    None => false,
                };
                let path = change.path.clone();
                let known = if keeps_names { Linked::Unchanged } else { Linked::First(path) };
                self.links.insert(id, known);
                if keeps_names {
                    return Ok(());
                }
            }
        }
        self.changes.push(change);
        Ok(())
    }

    /// Whether the names of the file below are just the names of this one.
    fn has_same_names(&self, node: &Node<'_>, stat: &Statx) -> Result<bool, DiffError> {
        let names = self.lower.merged.names_of(node.layer, node.index);
        if names.len() != stat.stx_nlink as usize {
            return Ok(false);
        }
        for path in names {
            let (parent, name) = path::split(&path).unwrap_or_default();
            let Ok(directory) = open_below(self.root, parent, OFlags::DIRECTORY | OFlags::PATH)
            else {
                return Ok(false);
            };
            match statx(directory.as_fd(), name) {
                Ok(found) if file_id(&found) == file_id(stat) => {}
                Ok(_) | Err(Errno::NOENT) => return Ok(false),
                Err(error) => return Err(DiffError::read(&path, error)),
            }
        }
        Ok(true)
    }

    fn is_unchanged(&self, change: &Change, node: &Node<'_>) -> Result<bool, DiffError> {
        match compare::compare(change, &node.entry, self.lower.xattrs) {
            Verdict::Changed => Ok(false),
            Verdict::Unchanged => Ok(true),
            Verdict::ReadContent => {
                let read = |error| DiffError::read(&change.path, error);
                let Kind::File { size, extents } = node.entry.kind else { return Ok(false) };
                let Some(tar) = self.lower.tars.get(node.layer) else { return Ok(false) };
                let file = open_below(self.root, &change.path, OFlags::NONBLOCK).map_err(read)?;
                compare::same_content(&File::from(file), size, extents, tar).map_err(read)
            }
        }
    }

    /// Reads what stands at `path`.
    fn look(&self, path: &[u8]) -> Result<Item, DiffError> {
        let (directory, name) = self.parent(path)?;
        let stat = match statx(directory.as_fd(), name) {
            Ok(stat) => stat,
            // Gone since it was listed, or known only from below.
            Err(Errno::NOENT) => return Ok(Item::Absent),
            Err(error) => return Err(DiffError::read(path, error)),
        };
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        let device = (stat.stx_rdev_major, stat.stx_rdev_minor);
        match kind {
            FileType::CharacterDevice if device == (0, 0) => {
                return Ok(if self.tree == Tree::Upper { Item::Whiteout } else { Item::Absent });
            }
            FileType::Socket => return Ok(Item::Absent),
            FileType::RegularFile if stat.stx_size == 0 && self.tree == Tree::Upper => {
                let marks = [&b"trusted.overlay.whiteout"[..], b"user.overlay.whiteout"];
                let names = xattr_names(directory.as_fd(), name);
                let names = names.map_err(|error| DiffError::read(path, error))?;
                if names.iter().any(|name| marks.contains(&name.as_slice())) {
                    return Ok(Item::Whiteout);
                }
            }
            _ => {}
        }
        let (change, is_opaque) = self.describe(directory.as_fd(), name, path, &stat)?;
        Ok(Item::Entry { change, stat: Box::new(stat), is_opaque })
    }

    /// Makes the change for what stands there, and tells whether it is an opaque directory.
    fn describe(
        &self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        stat: &Statx,
    ) -> Result<(Change, bool), DiffError> {
        let read = |error: io::Error| DiffError::read(path, error);
        let (major, minor) = (stat.stx_rdev_major, stat.stx_rdev_minor);
        let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::Directory => ChangeKind::Directory,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new());
                let target = target.map_err(|error| read(error.into()))?.into_bytes();
                ChangeKind::Symlink { target }
            }
            FileType::CharacterDevice => ChangeKind::CharDevice { major, minor },
            FileType::BlockDevice => ChangeKind::BlockDevice { major, minor },
            FileType::Fifo => ChangeKind::Fifo,
            _ => ChangeKind::File { size: stat.stx_size, source: Source::Opened },
        };
        let mut xattrs = XattrMap::new();
        let mut is_opaque = false;
        for xattr in xattr_names(directory, name).map_err(read)? {
            let opaque_mark =
                matches!(&xattr[..], b"trusted.overlay.opaque" | b"user.overlay.opaque");
            if opaque_mark && self.tree == Tree::Upper {
                is_opaque |= xattr_value(directory, name, &xattr).map_err(read)? == b"y";
            } else if compare::counts(&xattr, self.lower.xattrs) {
                let value = xattr_value(directory, name, &xattr).map_err(read)?;
                xattrs.insert(xattr, value);
            }
        }
        let change = Change {
            path: path.to_vec(),
            kind,
            mode: stat.stx_mode & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            mtime: Mtime { seconds: stat.stx_mtime.tv_sec, nanoseconds: stat.stx_mtime.tv_nsec },
            xattrs,
        };
        Ok((change, is_opaque))
    }
}

const fn file_id(stat: &Statx) -> FileId {
    (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino)
}

fn statx(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Statx, Errno> {
    let mut flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    if name.is_empty() {
        flags |= AtFlags::EMPTY_PATH;
    }
    rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS)
}

fn list(directory: impl AsFd) -> io::Result<BTreeSet<Vec<u8>>> {
    let mut names = BTreeSet::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.insert(name.to_vec());
        }
    }
    Ok(names)
}

fn xattr_names(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    Ok(xattr::names_at(&proc_path(directory, name)[..])?)
}

fn xattr_value(directory: BorrowedFd<'_>, name: &[u8], attribute: &[u8]) -> io::Result<Vec<u8>> {
    Ok(xattr::value_at(&proc_path(directory, name)[..], attribute)?)
}
