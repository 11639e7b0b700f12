//! Paths of one side of a copy, each resolved anew by the kernel inside that side's root.

use std::os::fd::OwnedFd;

use rustix::{
    fs::{
        CWD, FileType, Mode, OFlags, ResolveFlags, Stat, StatVfsMountFlags, fstat, fstatvfs,
        mkdirat, openat, openat2, readlinkat,
    },
    io::Errno,
};

/// A tree of files: the machine's, or a container's, which no link in it leads out of.
#[derive(Debug)]
pub(super) struct Area {
    root: OwnedFd,
    resolve: ResolveFlags,
}

impl Area {
    /// The machine's files.
    pub(super) fn host() -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, "/", flags, Mode::empty())?;
        Ok(Self { root, resolve: ResolveFlags::empty() })
    }

    /// The files of a container whose root this is: links and `..` stay inside.
    pub(super) const fn container(root: OwnedFd) -> Self {
        Self { root, resolve: ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS) }
    }

    /// What lies below one directory, where no link is followed at all.
    pub(super) const fn beneath(directory: OwnedFd) -> Self {
        let resolve = ResolveFlags::BENEATH
            .union(ResolveFlags::NO_SYMLINKS)
            .union(ResolveFlags::NO_MAGICLINKS);
        Self { root: directory, resolve }
    }

    /// Opens a path; a leading `/` is this area's root.
    pub(super) fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let start = path.iter().position(|byte| *byte != b'/').unwrap_or(path.len());
        let path = if start == path.len() { b"." } else { &path[start..] };
        loop {
            let flags = flags | OFlags::CLOEXEC;
            match openat2(&self.root, path, flags, Mode::empty(), self.resolve) {
                // A rename elsewhere made it uncertain whether `..` stayed inside.
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
    }

    /// What a path is; its last part is followed only where a `/` ends it. `None`: nothing there.
    pub(super) fn stat(&self, path: &[u8]) -> Result<Option<Stat>, Errno> {
        match self.open(path, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(node) => fstat(&node).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Opens a directory by path, made if it is missing, with those above it.
    pub(super) fn make_directory(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.open(path, flags) {
            Err(Errno::NOENT) if !path.is_empty() => {
                let (above, name) = parts(path);
                match mkdirat(self.make_directory(above)?, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => self.open(path, flags),
                    Err(errno) => Err(errno),
                }
            }
            result => result,
        }
    }

    /// Opens a path, made as an empty file if it is missing.
    pub(super) fn make_file(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        match self.open(path, OFlags::PATH) {
            Err(Errno::NOENT) => {
                let (above, name) = parts(path);
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let mode = Mode::from_raw_mode(0o755);
                openat(self.make_directory(above)?, name, flags | OFlags::CLOEXEC, mode)?;
                self.open(path, OFlags::PATH)
            }
            result => result,
        }
    }

    /// Which mount forbids to write in a directory; `None` if none does.
    pub(super) fn forbids_writing(&self, path: &[u8]) -> Result<Option<Forbids>, Errno> {
        let directory = self.open(path, OFlags::PATH)?;
        let is_read_only = |file: &OwnedFd| {
            fstatvfs(file).map(|facts| facts.f_flag.contains(StatVfsMountFlags::RDONLY))
        };
        if !is_read_only(&directory)? {
            return Ok(None);
        }
        let is_root = fstat(&directory)?.st_dev == fstat(&self.root)?.st_dev;
        let root = is_root && is_read_only(&self.root)?;
        Ok(Some(if root { Forbids::Root } else { Forbids::Volume }))
    }

    /// The path that a symbolic link at `path` names, not resolved further; `None` if it is none.
    pub(super) fn link(&self, path: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        let node = match self.open(path, OFlags::PATH | OFlags::NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            node => node?,
        };
        if FileType::from_raw_mode(fstat(&node)?.st_mode) != FileType::Symlink {
            return Ok(None);
        }
        let target = readlinkat(&node, c"", Vec::new())?.into_bytes();
        if target.starts_with(b"/") {
            return Ok(Some(target));
        }
        Ok(Some([parts(path).0, b"/", &target].concat()))
    }
}

/// What is mounted read-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forbids {
    Root,
    Volume,
}

/// The directory and the name of a path without a `/` at its end.
pub(super) fn parts(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Whether this is a directory.
pub(super) const fn is_directory(stat: &Stat) -> bool {
    matches!(FileType::from_raw_mode(stat.st_mode), FileType::Directory)
}
