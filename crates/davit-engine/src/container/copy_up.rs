//! Filling an empty volume with what the image has at its mount point.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, RawDir, ResolveFlags, Timestamps, Uid, fchmod,
        fchown, futimens, mkdirat, openat, openat2, readlinkat, statat, symlinkat, utimensat,
    },
    io::Errno,
};
use serde::{Deserialize, Serialize};

/// One volume to fill.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CopyUp {
    /// Content of the volume on the host.
    pub(crate) volume: PathBuf,
    /// Path in the container.
    pub(crate) path: String,
}

/// Deepest directory that is copied; deeper ones are an error, as no real image has them.
const DEPTH: usize = 200;

/// Copies the directory at `copy.path` of the root filesystem into the volume if that is empty.
///
/// The source is resolved inside `root` (a symbolic link of the image cannot lead out), and nothing
/// is followed below it. A half-finished copy is finished by nobody: it is made only while the
/// volume is empty, so a crash leaves it partial, as Docker's does.
pub(crate) fn copy_up(root: impl AsFd, copy: &CopyUp) -> io::Result<()> {
    let target = directory(&fs_err::File::open(&copy.volume)?, c".")?;
    if !is_empty(&target)? {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let source =
        match openat2(&root, copy.path.trim_start_matches('/'), flags, Mode::empty(), inside) {
            Ok(source) => source,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
    copy_directory(&source, &target, 0)
}

fn directory(parent: impl AsFd, name: &std::ffi::CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

fn is_empty(directory: &OwnedFd) -> io::Result<bool> {
    let mut entries = Dir::read_from(directory)?;
    Ok(!entries.any(|entry| {
        entry.is_ok_and(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."))
    }))
}

fn copy_directory(source: &OwnedFd, target: &OwnedFd, depth: usize) -> io::Result<()> {
    if depth > DEPTH {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut entries = RawDir::new(source, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            copy_entry(source, target, name, depth)?;
        }
    }
    copy_metadata(source, target)
}

fn copy_entry(
    source: &OwnedFd,
    target: &OwnedFd,
    name: &std::ffi::CStr,
    depth: usize,
) -> io::Result<()> {
    let stat = statat(source, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            mkdirat(target, name, Mode::RWXU)?;
            copy_directory(&directory(source, name)?, &directory(target, name)?, depth + 1)
        }
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let from = openat(source, name, flags, Mode::empty())?;
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let to = openat(target, name, flags, Mode::RUSR | Mode::WUSR)?;
            let (mut reader, mut writer) = (std::fs::File::from(from), std::fs::File::from(to));
            io::copy(&mut reader, &mut writer)?;
            copy_metadata(&reader.into(), &writer.into())
        }
        FileType::Symlink => {
            let link = readlinkat(source, name, Vec::new())?;
            symlinkat(link, target, name)?;
            let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            rustix::fs::chownat(
                target,
                name,
                Some(owner.0),
                Some(owner.1),
                AtFlags::SYMLINK_NOFOLLOW,
            )?;
            Ok(utimensat(target, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)?)
        }
        FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo => {
            let kind = FileType::from_raw_mode(stat.st_mode);
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            rustix::fs::mknodat(target, name, kind, mode, stat.st_rdev)?;
            let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            Ok(rustix::fs::chownat(
                target,
                name,
                Some(owner.0),
                Some(owner.1),
                AtFlags::SYMLINK_NOFOLLOW,
            )?)
        }
        // A socket without its server means nothing.
        _ => Ok(()),
    }
}

fn times(stat: &rustix::fs::Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Owner, xattrs, mode and times, in an order in which none undoes another.
fn copy_metadata(source: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(source)?;
    fchown(target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    copy_xattrs(source, target)?;
    fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    Ok(futimens(target, &times(&stat))?)
}

/// Overlay's own marks belong to the layer, not to its content.
fn copy_xattrs(source: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    let is_content =
        |name: &[u8]| !name.starts_with(b"trusted.overlay.") && !name.starts_with(b"user.overlay.");
    match davit_sys::xattr::copy(source, target, is_content) {
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
