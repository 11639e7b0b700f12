//! Making one path and giving it its metadata. The order matters: content, owner (which clears
//! set-id bits and capabilities), mode, xattrs, times.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, makedev},
    io::Errno,
};

use super::{ExtractOptions, Privilege};
use crate::{Entry, Extents, Kind, Node};

/// Content is copied in pieces of this size.
const PIECE: usize = 256 << 10;

/// Makes a file, link, device, pipe or whiteout, with all its metadata.
pub(super) fn make_leaf(
    directory: BorrowedFd<'_>,
    name: &[u8],
    node: &Node<'_>,
    tar: Option<&File>,
    options: &ExtractOptions<'_>,
    buffer: &mut Vec<u8>,
) -> io::Result<()> {
    options.check()?;
    let entry = &node.entry;
    match entry.kind {
        Kind::File { size, extents } => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            let mode = Mode::RUSR | Mode::WUSR;
            let file = rustix::fs::openat(directory, name, flags | OFlags::CLOEXEC, mode)?;
            let file = File::from(file);
            let tar = tar.ok_or_else(|| io::Error::other("the tar of its layer is not given"))?;
            let content = Content { size, extents, tar };
            copy_content(&file, &content, options, buffer)?;
            finish_file(&file, entry, options)
        }
        Kind::Symlink { target } => {
            rustix::fs::symlinkat(target, directory, name)?;
            finish_name(directory, name, entry, options)
        }
        Kind::Fifo => make_node(directory, name, FileType::Fifo, (0, 0), entry, options),
        Kind::CharDevice { major, minor } => {
            let device = (major, minor);
            make_node(directory, name, FileType::CharacterDevice, device, entry, options)
        }
        Kind::BlockDevice { major, minor } => {
            let device = (major, minor);
            make_node(directory, name, FileType::BlockDevice, device, entry, options)
        }
        Kind::Whiteout => {
            let kind = FileType::CharacterDevice;
            let device = makedev(0, 0);
            Ok(rustix::fs::mknodat(directory, name, kind, Mode::empty(), device)?)
        }
        Kind::Directory { .. } | Kind::HardLink { .. } => Ok(()),
    }
}

fn make_node(
    directory: BorrowedFd<'_>,
    name: &[u8],
    kind: FileType,
    (major, minor): (u32, u32),
    entry: &Entry<'_>,
    options: &ExtractOptions<'_>,
) -> io::Result<()> {
    if options.privilege == Privilege::Unprivileged && kind != FileType::Fifo {
        return Ok(());
    }
    rustix::fs::mknodat(directory, name, kind, Mode::RUSR | Mode::WUSR, makedev(major, minor))?;
    finish_name(directory, name, entry, options)
}

/// Where a file's content comes from.
struct Content<'a> {
    size: u64,
    extents: Extents<'a>,
    tar: &'a File,
}

fn copy_content(
    file: &File,
    &Content { size, extents, tar }: &Content<'_>,
    options: &ExtractOptions<'_>,
    buffer: &mut Vec<u8>,
) -> io::Result<()> {
    buffer.resize(PIECE, 0);
    let mut end = 0;
    for extent in extents.iter() {
        let mut done = 0;
        while done < extent.length {
            options.check()?;
            let left = extent.length - done;
            let length = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
            let piece = &mut buffer[..length];
            tar.read_exact_at(piece, extent.tar_offset + done)?;
            file.write_all_at(piece, extent.file_offset + done)?;
            done += length as u64;
        }
        end = extent.file_offset + extent.length;
    }
    // A hole at the end.
    if end == size { Ok(()) } else { file.set_len(size) }
}

fn finish_file(file: &File, entry: &Entry<'_>, options: &ExtractOptions<'_>) -> io::Result<()> {
    let (uid, gid) = owner(entry, options);
    allow(rustix::fs::fchown(file, uid, gid), options.privilege)?;
    rustix::fs::fchmod(file, mode(entry))?;
    for (name, value) in entry.xattrs.iter() {
        let set = rustix::fs::fsetxattr(file, name, value, XattrFlags::empty());
        allow(set, options.privilege)?;
    }
    Ok(rustix::fs::futimens(file, &times(entry, options))?)
}

/// Gives a directory its metadata, and its opaque mark in a tree on a base.
pub(super) fn finish_directory(
    directory: &OwnedFd,
    node: &Node<'_>,
    options: &ExtractOptions<'_>,
) -> io::Result<()> {
    let entry = &node.entry;
    let (uid, gid) = owner(entry, options);
    allow(rustix::fs::fchown(directory, uid, gid), options.privilege)?;
    rustix::fs::fchmod(directory, mode(entry))?;
    for (name, value) in entry.xattrs.iter() {
        let set = rustix::fs::fsetxattr(directory, name, value, XattrFlags::empty());
        allow(set, options.privilege)?;
    }
    if let Kind::Directory { opaque: true, .. } = entry.kind {
        let name: &[u8] = match options.privilege {
            Privilege::Full => b"trusted.overlay.opaque",
            Privilege::Unprivileged => b"user.overlay.opaque",
        };
        rustix::fs::fsetxattr(directory, name, b"y", XattrFlags::empty())?;
    }
    Ok(rustix::fs::futimens(directory, &times(entry, options))?)
}

/// Metadata of what cannot be opened: by name, without following.
fn finish_name(
    directory: BorrowedFd<'_>,
    name: &[u8],
    entry: &Entry<'_>,
    options: &ExtractOptions<'_>,
) -> io::Result<()> {
    let (uid, gid) = owner(entry, options);
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    allow(rustix::fs::chownat(directory, name, uid, gid, flags), options.privilege)?;
    if !matches!(entry.kind, Kind::Symlink { .. }) {
        rustix::fs::chmodat(directory, name, mode(entry), AtFlags::empty())?;
    }
    if !entry.xattrs.is_empty() {
        let path = proc_path(directory, name);
        for (name, value) in entry.xattrs.iter() {
            let set = rustix::fs::lsetxattr(&path[..], name, value, XattrFlags::empty());
            allow(set, options.privilege)?;
        }
    }
    Ok(rustix::fs::utimensat(directory, name, &times(entry, options), flags)?)
}

/// A path for calls that take no directory descriptor.
pub(crate) fn proc_path(directory: impl AsFd, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

fn allow(result: Result<(), Errno>, privilege: Privilege) -> io::Result<()> {
    match result {
        Err(Errno::PERM | Errno::NOTSUP | Errno::INVAL) if privilege == Privilege::Unprivileged => {
            Ok(())
        }
        other => Ok(other?),
    }
}

fn owner(entry: &Entry<'_>, options: &ExtractOptions<'_>) -> (Option<Uid>, Option<Gid>) {
    let (uid, gid) = options.owner.unwrap_or((entry.uid, entry.gid));
    (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

fn mode(entry: &Entry<'_>) -> Mode {
    Mode::from_raw_mode(entry.mode.into())
}

fn times(entry: &Entry<'_>, options: &ExtractOptions<'_>) -> Timestamps {
    let mtime = options.mtime.unwrap_or(entry.mtime);
    let mtime = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() };
    Timestamps { last_access: mtime, last_modification: mtime }
}
