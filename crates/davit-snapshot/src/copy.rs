//! The form without an overlay: a copy of everything below, in the container's own directory.
//!
//! Extents are shared with the original where the file system can (reflinks), holes stay holes. A
//! copy is complete once it has its name: what was interrupted is made anew.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use davit_sys::mount::{self, Extent};
use rustix::{
    fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Stat, Uid},
    io::Errno,
};

use crate::{Durability, SnapshotError, namespace::Lowers, upper};

/// Name of the copy in its directory.
pub(crate) const NAME: &str = "rootfs";
const UNFINISHED: &str = "rootfs.new";

/// The copy of `lowers` in `directory`, made where it is missing, as a mount of its own that is
/// attached nowhere.
pub(crate) fn mount(
    lowers: &Lowers,
    directory: &Path,
    durability: Durability,
) -> Result<OwnedFd, SnapshotError> {
    let copy = directory.join(NAME);
    if copy.symlink_metadata().is_err() {
        make(lowers, directory, durability)?;
    }
    mount::clone_tree(&copy, Extent::Single)
        .map_err(|source| SnapshotError::mount("a copied root", source))
}

fn make(lowers: &Lowers, directory: &Path, durability: Durability) -> Result<(), SnapshotError> {
    let unfinished = directory.join(UNFINISHED);
    let failed = |action, source: io::Error| SnapshotError::file(action, &unfinished, source);
    match fs_err::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", error));
        }
        _ => {}
    }
    fs_err::create_dir_all(&unfinished).map_err(|e| failed("create", e))?;
    let target = upper::open_directory(&unfinished)?;
    for lower in lowers.mounts.iter().rev() {
        let mut copy =
            Copy { source: lower.as_fd(), target: target.as_fd(), names: HashMap::new() };
        copy.all().map_err(|errno| failed("copy to", errno.into()))?;
    }
    if durability == Durability::Durable {
        // The name must not outlive the content: one call for thousands of files.
        rustix::fs::syncfs(&target).map_err(|errno| failed("sync", errno.into()))?;
    }
    let done = fs_err::rename(&unfinished, directory.join(NAME));
    done.map_err(|e| failed("rename", e))
}

/// One lower directory on its way over what was copied before.
struct Copy<'a> {
    source: BorrowedFd<'a>,
    target: BorrowedFd<'a>,
    /// Where files with several names were copied to.
    names: HashMap<(u64, u64), Vec<u8>>,
}

impl Copy<'_> {
    /// Copies everything; what is there already gives way, but directories merge.
    fn all(&mut self) -> Result<(), Errno> {
        let mut directories = vec![Vec::new()];
        let mut next = 0;
        while let Some(path) = directories.get(next).cloned() {
            next += 1;
            let (source, target) = (enter(self.source, &path)?, enter(self.target, &path)?);
            let mut names = Vec::new();
            for entry in Dir::read_from(&source)? {
                names.push(entry?.file_name().to_bytes().to_vec());
            }
            names.retain(|name| name != b"." && name != b"..");
            for name in names {
                let below =
                    if path.is_empty() { name.clone() } else { [&path[..], b"/", &name].concat() };
                if self.entry((&source, &target), &name, &below)? {
                    directories.push(below);
                }
            }
        }
        // Children before their directories, so that the times stay.
        for path in directories.iter().rev() {
            let (source, target) = (enter(self.source, path)?, enter(self.target, path)?);
            upper::copy_metadata(&source, &target)?;
        }
        Ok(())
    }

    /// Copies one entry; true for a directory, whose content and metadata come later.
    fn entry(
        &mut self,
        (source, target): (&OwnedFd, &OwnedFd),
        name: &[u8],
        path: &[u8],
    ) -> Result<bool, Errno> {
        let stat = rustix::fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        make_way(target, name, kind)?;
        if kind == FileType::Directory {
            return match rustix::fs::mkdirat(target, name, Mode::RWXU) {
                Err(Errno::EXIST) | Ok(()) => Ok(true),
                Err(errno) => Err(errno),
            };
        }
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.names.get(&key) {
                rustix::fs::linkat(self.target, &first[..], target, name, AtFlags::empty())?;
                return Ok(false);
            }
            self.names.insert(key, path.to_vec());
        }
        match kind {
            FileType::RegularFile => copy_file(source, target, name)?,
            FileType::Symlink => {
                let text = rustix::fs::readlinkat(source, name, Vec::new())?;
                rustix::fs::symlinkat(&text, target, name)?;
                finish_name((source, target), name, &stat)?;
            }
            kind => {
                rustix::fs::mknodat(target, name, kind, Mode::RUSR, stat.st_rdev)?;
                finish_name((source, target), name, &stat)?;
            }
        }
        Ok(false)
    }
}

/// Opens a directory below `root`, which may lie deep: each is opened anew, so that the number of
/// open files stays small.
fn enter(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags, Mode::empty(), inside)
}

/// Removes what a lower layer has at a name, unless both are directories.
fn make_way(target: &OwnedFd, name: &[u8], kind: FileType) -> Result<(), Errno> {
    let present = match rustix::fs::statat(target, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    match (present, kind) {
        (FileType::Directory, FileType::Directory) => Ok(()),
        (FileType::Directory, _) => {
            let path = upper::proc_name(target, name);
            fs_err::remove_dir_all(path)
                .map_err(|error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
        }
        _ => rustix::fs::unlinkat(target, name, AtFlags::empty()),
    }
}

fn copy_file(source: &OwnedFd, target: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOATIME;
    let from = rustix::fs::openat(source, name, flags, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let to = rustix::fs::openat(target, name, flags, Mode::RUSR | Mode::WUSR)?;
    if rustix::fs::ioctl_ficlone(&to, &from).is_err() {
        copy_content(&from, &to)?;
    }
    upper::copy_metadata(&from, &to)
}

/// Copies what is data; the rest stays a hole.
fn copy_content(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let size = rustix::fs::fstat(from)?.st_size.unsigned_abs();
    let mut start = 0;
    while start < size {
        let data = match rustix::fs::seek(from, SeekFrom::Data(start)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(data))?;
        copy_range(from, to, data..end)?;
        start = end;
    }
    rustix::fs::ftruncate(to, size)
}

fn copy_range(from: &OwnedFd, to: &OwnedFd, range: std::ops::Range<u64>) -> Result<(), Errno> {
    let (mut read_at, mut write_at) = (range.start, range.start);
    while read_at < range.end {
        let wanted = usize::try_from(range.end - read_at).unwrap_or(usize::MAX);
        let copied =
            rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), wanted);
        match copied {
            // It has been cut meanwhile.
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => {
                return copy_by_hand(from, to, read_at..range.end);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn copy_by_hand(from: &OwnedFd, to: &OwnedFd, range: std::ops::Range<u64>) -> Result<(), Errno> {
    use std::os::unix::fs::FileExt as _;
    let failed = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let from = File::from(from.try_clone().map_err(failed)?);
    let to = File::from(to.try_clone().map_err(failed)?);
    let mut buffer = vec![0; 256 << 10];
    let mut at = range.start;
    while at < range.end {
        let left = usize::try_from(range.end - at).unwrap_or(usize::MAX);
        let piece = left.min(buffer.len());
        let count = from.read_at(&mut buffer[..piece], at).map_err(failed)?;
        if count == 0 {
            break;
        }
        to.write_all_at(&buffer[..count], at).map_err(failed)?;
        at += count as u64;
    }
    Ok(())
}

/// [`upper::copy_metadata`] for what cannot be opened.
fn finish_name(
    (source, target): (&OwnedFd, &OwnedFd),
    name: &[u8],
    stat: &Stat,
) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(target, name, Some(uid), Some(gid), flags)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        rustix::fs::chmodat(target, name, mode, AtFlags::empty())?;
    }
    let (from, to) = (upper::proc_name(source, name), upper::proc_name(target, name));
    davit_sys::xattr::copy_at(&*from, &*to, upper::is_content)?;
    rustix::fs::utimensat(target, name, &upper::times(stat), flags)
}
