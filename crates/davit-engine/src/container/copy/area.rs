//! Paths of one side of a copy, each resolved anew by the kernel inside that side's root.

use std::os::fd::OwnedFd;

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, StatVfsMountFlags,
        StatxAttributes, StatxFlags, fstat, fstatfs, fstatvfs, mkdirat, openat, openat2,
        readlinkat, statx,
    },
    io::Errno,
};

/// File systems that a kernel writes: procfs, sysfs, cgroup, cgroup2.
pub(super) const KERNEL_FILES: [i64; 4] = [0x9fa0, 0x6265_6572, 0x0027_e0eb, 0x6367_7270];

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

    /// Device of the file system that the runtime has mounted on `/dev`; of the machine none.
    pub(super) fn runtime_device(&self) -> Result<Option<u64>, Errno> {
        let Some(dev) = self.stat(b"/dev")?.filter(|_| !self.resolve.is_empty()) else {
            return Ok(None);
        };
        Ok(Some(dev.st_dev).filter(|device| fstat(&self.root).is_ok_and(|it| it.st_dev != *device)))
    }

    /// Whether a path lies in a file system of the kernel or of the runtime: no file of the
    /// container. The directory that one is mounted on is no part of it.
    pub(super) fn is_of_runtime(&self, path: &[u8]) -> Result<bool, Errno> {
        let is_kernels =
            |node: &OwnedFd| fstatfs(node).map(|facts| KERNEL_FILES.contains(&facts.f_type));
        let node = self.open(path, OFlags::PATH | OFlags::NOFOLLOW)?;
        let is_runtimes = Some(fstat(&node)?.st_dev) == self.runtime_device()?;
        if is_runtimes || is_kernels(&node)? {
            let facts = statx(&node, c"", AtFlags::EMPTY_PATH, StatxFlags::empty())?;
            return Ok(!facts.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
        }
        // A file that hides one of the kernel's.
        let mut parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
        let (Some(first), Some(_)) = (parts.next(), parts.next()) else { return Ok(false) };
        is_kernels(&self.open(first, OFlags::PATH)?)
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
