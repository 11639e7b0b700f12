//! A directory of a cgroup hierarchy by descriptor, with its path for messages.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::{AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};

use super::CgroupError;

/// Longest file that is read: `cgroup.procs` of a million members.
const MAX_BYTES: usize = 8 << 20;

#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Directory {
    pub(super) fn from_parts(fd: OwnedFd, path: PathBuf) -> Self {
        Self { fd, path }
    }

    /// Opens a directory by path.
    pub(super) fn at(path: PathBuf) -> Result<Self, CgroupError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path }),
            Err(errno) => Err(CgroupError::Io { path, source: errno.into() }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn try_clone(&self) -> Result<Self, CgroupError> {
        let fd = self.fd.try_clone().map_err(|source| self.error("", source))?;
        Ok(Self { fd, path: self.path.clone() })
    }

    fn error(&self, name: &str, source: impl Into<io::Error>) -> CgroupError {
        let path = if name.is_empty() { self.path.clone() } else { self.path.join(name) };
        CgroupError::Io { path, source: source.into() }
    }

    pub(super) fn open(&self, name: &str) -> Result<Self, CgroupError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())
            .map_err(|errno| self.error(name, errno))?;
        Ok(Self { fd, path: self.path.join(name) })
    }

    pub(super) fn make(&self, name: &str) -> Result<Self, CgroupError> {
        rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o755))
            .map_err(|errno| self.error(name, errno))?;
        self.open(name)
    }

    pub(super) fn make_or_open(&self, name: &str) -> Result<Self, CgroupError> {
        match rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => self.open(name),
            Err(errno) => Err(self.error(name, errno)),
        }
    }

    pub(super) fn descend(&self, components: &[&str]) -> Result<Self, CgroupError> {
        let mut directory = self.try_clone()?;
        for component in components {
            directory = directory.open(component)?;
        }
        Ok(directory)
    }

    /// Names of the directories in it.
    pub(super) fn children(&self) -> Result<Vec<String>, CgroupError> {
        let entries = Dir::read_from(&self.fd).map_err(|errno| self.error("", errno))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = match entry {
                // It was removed while it was read.
                Err(Errno::NODEV | Errno::NOENT) => break,
                result => result.map_err(|errno| self.error("", errno))?,
            };
            let name = entry.file_name().to_string_lossy();
            if entry.file_type() == FileType::Directory && name != "." && name != ".." {
                names.push(name.into_owned());
            }
        }
        Ok(names)
    }

    pub(super) fn read(&self, name: &str) -> Result<String, CgroupError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&self.fd, name, flags, Mode::empty())
            .map_err(|errno| self.error(name, errno))?;
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        while text.len() < MAX_BYTES {
            let read = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut buffer));
            match read.map_err(|errno| self.error(name, errno))? {
                0 => break,
                length => text.extend_from_slice(buffer.get(..length).unwrap_or_default()),
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    pub(super) fn open_for_writing(&self, name: &str) -> Result<OwnedFd, CgroupError> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&self.fd, name, flags, Mode::empty())
            .map_err(|errno| self.error(name, errno))
    }

    pub(super) fn write(&self, name: &str, value: &str) -> Result<(), CgroupError> {
        let file = self.open_for_writing(name)?;
        rustix::io::retry_on_intr(|| rustix::io::write(&file, value.as_bytes()))
            .map_err(|errno| self.error(name, errno))?;
        Ok(())
    }

    /// Whether it has not been removed.
    pub(super) fn exists(&self) -> bool {
        rustix::fs::accessat(&self.fd, "cgroup.procs", rustix::fs::Access::EXISTS, AtFlags::empty())
            .is_ok()
    }

    /// A line of `cgroup.events`.
    pub(super) fn event(&self, name: &str) -> Result<bool, CgroupError> {
        let text = self.read("cgroup.events")?;
        Ok(super::settings::field(&text, name) == Some(1))
    }

    /// Whether it or one below it has members.
    pub(super) fn is_populated(&self) -> Result<bool, CgroupError> {
        match self.event("populated") {
            // Version 1 has no such file.
            Err(error) if error.is_not_found() => Ok(!self.read("cgroup.procs")?.is_empty()),
            result => result,
        }
    }

    /// Waits until `cgroup.events` changes, at most so long.
    pub(super) fn wait_for_event(&self, most: Duration) {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::openat(&self.fd, "cgroup.events", flags, Mode::empty()) else {
            std::thread::sleep(most.min(Duration::from_millis(2)));
            return;
        };
        let timeout = Timespec::try_from(most).ok();
        let mut files = [PollFd::new(&file, PollFlags::PRI)];
        // Whatever it says, the caller looks again.
        let _ = rustix::event::poll(&mut files, timeout.as_ref());
    }

    /// Removes the directory itself, waiting for dying members until the deadline.
    pub(super) fn remove(&self, deadline: Instant) -> Result<(), CgroupError> {
        let (Some(parent), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Err(CgroupError::Path(self.path.display().to_string()));
        };
        let parent = rustix::fs::openat(
            &self.fd,
            "..",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| CgroupError::Io { path: parent.to_owned(), source: errno.into() });
        let parent = match parent {
            Err(error) if error.is_not_found() => return Ok(()),
            result => result?,
        };
        loop {
            match rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::BUSY) if Instant::now() < deadline => {
                    if self.event("populated").is_ok_and(|is_populated| is_populated) {
                        self.wait_for_event(Duration::from_millis(100));
                    } else {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
                Err(errno) => return Err(self.error("", errno)),
            }
        }
    }
}
