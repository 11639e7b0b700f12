//! The writable part of a root filesystem.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use crate::{Location, SnapshotError, copy, overlay::Writable, stack::proc_path};

/// Where a container or a build step writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Upper {
    /// `upper` and `work` below this directory (`ROOT/containers/ID`, one on a volume, or the
    /// directory of a build step under `ROOT/tmp`). All are made when they are missing; `upper`
    /// then gets mode, owner, time and xattrs of the image's root directory. Where
    /// `ROOT/containers/ID` has a link to a volume, that decides before the settings do.
    Directory(PathBuf),
    /// The same on a tmpfs of at most `size_bytes` that only the mounting process's namespace has
    /// and that goes with it. Mounting the same name again there finds what was written.
    Tmpfs {
        /// Tells one upper directory of that process from another; a file name.
        name: String,
        /// Cap on content, in bytes.
        size_bytes: u64,
    },
    /// A whole copy of what is below, as `rootfs` in this directory; no overlay.
    Copy(PathBuf),
}

/// Link in a container's directory to its place on a volume.
const ELSEWHERE: &str = "elsewhere";

impl Upper {
    /// Below `volume`, and a link in `directory` that tells so to those who know no settings.
    pub(crate) fn on_volume(volume: &Path, directory: &Path) -> Result<Self, SnapshotError> {
        let place = volume.join(directory.file_name().unwrap_or_default());
        // Whoever reads the link works elsewhere.
        let place = std::path::absolute(&place)
            .map_err(|source| SnapshotError::file("find", &place, source))?;
        let link = directory.join(ELSEWHERE);
        match rustix::fs::symlink(&place, &link) {
            Ok(()) | Err(Errno::EXIST) => Ok(Self::Directory(place)),
            Err(errno) => Err(SnapshotError::file("create", link, errno)),
        }
    }

    /// Where on a volume it is written whose directory is `directory`; `None` where it was never
    /// elsewhere.
    ///
    /// # Errors
    /// What the disk says.
    pub fn elsewhere(directory: &Path) -> Result<Option<PathBuf>, SnapshotError> {
        let link = directory.join(ELSEWHERE);
        match fs_err::read_link(&link) {
            Ok(place) => Ok(Some(place)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(SnapshotError::file("read", link, error)),
        }
    }

    /// Removes what was written on a volume, before `directory` itself is removed. Idempotent.
    ///
    /// # Errors
    /// What the disk says.
    pub fn discard(directory: &Path) -> Result<(), SnapshotError> {
        let Some(place) = Self::elsewhere(directory)? else { return Ok(()) };
        match fs_err::remove_dir_all(&place) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(SnapshotError::file("remove", place, error))
            }
            _ => Ok(()),
        }
    }

    /// The directory that holds what is written (`upper` and `work`, or `rootfs`), as every process
    /// of root can reach it while the process `pid` lives, which has mounted it.
    #[must_use]
    pub fn directory(&self, location: &Location, pid: u32) -> PathBuf {
        match self {
            Self::Directory(directory) | Self::Copy(directory) => directory.clone(),
            Self::Tmpfs { name, .. } => {
                let inside = location.upper(name);
                let inside = inside.strip_prefix("/").unwrap_or(&inside);
                Path::new("/proc").join(pid.to_string()).join("root").join(inside)
            }
        }
    }

    /// Name of the directory in there that belongs to the container's files.
    #[must_use]
    pub const fn content_name(&self) -> &'static str {
        match self {
            Self::Copy(_) => copy::NAME,
            Self::Directory(_) | Self::Tmpfs { .. } => "upper",
        }
    }
}

/// Opens `upper` and `work` below `directory`, making them where they are missing.
pub(crate) fn open(directory: &Path, model: impl AsFd) -> Result<Writable, SnapshotError> {
    // On a configured volume nobody else makes it.
    fs_err::create_dir_all(directory)
        .map_err(|source| SnapshotError::file("create", directory, source))?;
    let work = directory.join("work");
    make(&work)?;
    let upper = open_or_make(directory, model)?;
    let opened = Writable { upper, work: open_directory(&work)? };
    forget_volatile(&work)?;
    Ok(opened)
}

/// `upper` gets its name when it looks like the image's root directory, so that nobody who is
/// killed leaves another one.
fn open_or_make(directory: &Path, model: impl AsFd) -> Result<OwnedFd, SnapshotError> {
    let (upper, new) = (directory.join("upper"), directory.join("upper.new"));
    if upper.symlink_metadata().is_ok() {
        return open_directory(&upper);
    }
    make(&new)?;
    let opened = open_directory(&new)?;
    copy_root_metadata(model, &opened)
        .map_err(|errno| SnapshotError::file("set metadata of", &new, errno))?;
    rustix::fs::rename(&new, &upper).map_err(|errno| SnapshotError::file("rename", &new, errno))?;
    Ok(opened)
}

fn make(path: &Path) -> Result<(), SnapshotError> {
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(SnapshotError::file("create", path, errno)),
    }
}

pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd, SnapshotError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| SnapshotError::file("open", path, errno))
}

/// Removes the mark of an earlier volatile mount; the kernel refuses the directory else.
///
/// It guards against lost writes after a power loss. Then the container's row is of another boot
/// and the caller has dropped the upper directory with it.
fn forget_volatile(work: &Path) -> Result<(), SnapshotError> {
    let mark = work.join("work/incompat/volatile");
    match fs_err::remove_dir_all(&mark) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(SnapshotError::file("remove", mark, error))
        }
        _ => Ok(()),
    }
}

/// A path for calls that take no directory descriptor.
pub(crate) fn proc_name(directory: &OwnedFd, name: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    proc_path(directory).join(std::ffi::OsStr::from_bytes(name))
}

/// Gives `target` what overlay shows of an upper directory's root: its own metadata.
fn copy_root_metadata(model: impl AsFd, target: &OwnedFd) -> Result<(), Errno> {
    // A mount descriptor may be O_PATH, which refuses xattr calls.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let model = rustix::fs::openat(model, c".", flags, Mode::empty())?;
    copy_metadata(&model, target)
}

/// Owner (which clears set-id bits and capabilities), mode, xattrs and time of an open file or
/// directory.
pub(crate) fn copy_metadata(source: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(source)?;
    rustix::fs::fchown(target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    davit_sys::xattr::copy(source, target, is_content)?;
    rustix::fs::futimens(target, &times(&stat))
}

/// Time of modification, also as that of access.
pub(crate) fn times(stat: &Stat) -> Timestamps {
    let mtime = Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: stat.st_mtime_nsec.try_into().unwrap_or_default(),
    };
    Timestamps { last_access: mtime, last_modification: mtime }
}

/// Overlay's own marks are no content.
pub(crate) fn is_content(xattr: &[u8]) -> bool {
    !xattr.starts_with(b"trusted.overlay.")
}
