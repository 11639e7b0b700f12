//! Files that have their name only when they are whole.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use fs_err as fs;
use rustix::{
    fs::{AtFlags, CWD, FlockOperation, Mode, OFlags},
    io::Errno,
};

use super::{ArchiveError, file_error};
use crate::format::random_hex;

/// Ends the name of a file that is not whole, where files without a name are not to be had.
const UNFINISHED: &str = ".unfinished";

/// A file that is written. Until [`WholeFile::finish`] it has no name, so that nothing of it
/// remains however the process ends.
///
/// Where the file system has no such files, it has a hidden name beside its own, with a lock on it:
/// the next writer of the same file removes what a dead process has left.
#[derive(Debug)]
pub struct WholeFile {
    file: fs::File,
    target: PathBuf,
    name: Name,
}

/// What a file is called until it is whole.
#[derive(Debug)]
enum Name {
    None,
    Hidden(PathBuf),
    /// As ever: a pipe or device cannot be replaced.
    Own,
}

impl WholeFile {
    /// Starts what a user names as output: a link leads to what is replaced, and what is no regular
    /// file is written as it is.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn output(path: &Path, mode: u32) -> Result<Self, ArchiveError> {
        // One that is absent, or a link to nothing, is what it is called.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if target.metadata().is_ok_and(|facts| !facts.is_file()) {
            let file = fs::OpenOptions::new().write(true).open(&target);
            let file = file.map_err(|error| file_error("open", path, error))?;
            return Ok(Self { file, target, name: Name::Own });
        }
        Self::create(&target, mode)
    }

    /// Starts a file that is to replace `target`; `mode` is subject to the umask.
    ///
    /// # Errors
    /// When it cannot be made, by the name of `target`.
    pub fn create(target: &Path, mode: u32) -> Result<Self, ArchiveError> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = match rustix::fs::open(folder(target), flags, Mode::from_raw_mode(mode)) {
            Ok(file) => file,
            // The file system's answer, and that of a kernel that knows no such files.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                return Self::create_hidden(target, mode);
            }
            Err(errno) => return Err(file_error("create", target, errno.into())),
        };
        let file = fs::File::from_parts(file.into(), target);
        Ok(Self { file, target: target.to_owned(), name: Name::None })
    }

    fn create_hidden(target: &Path, mode: u32) -> Result<Self, ArchiveError> {
        let failed = |error: io::Error| file_error("create", target, error);
        remove_dead(target).map_err(failed)?;
        let hidden = hidden(target);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(&hidden, flags, Mode::from_raw_mode(mode))
            .map_err(|errno| failed(errno.into()))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| failed(errno.into()))?;
        let file = fs::File::from_parts(file.into(), target);
        Ok(Self { file, target: target.to_owned(), name: Name::Hidden(hidden) })
    }

    /// The file, to be written.
    pub const fn file(&mut self) -> &mut fs::File {
        &mut self.file
    }

    /// Makes its content durable, where that means something.
    ///
    /// # Errors
    /// What the disk says.
    pub fn sync(&self) -> Result<(), ArchiveError> {
        if matches!(self.name, Name::Own) {
            return Ok(());
        }
        rustix::fs::fdatasync(&self.file)
            .map_err(|errno| file_error("sync", &self.target, errno.into()))
    }

    /// Gives it its name, in place of what had it. What was written is not synced.
    ///
    /// # Errors
    /// What the disk says; then nothing has changed.
    pub fn finish(mut self) -> Result<(), ArchiveError> {
        let named = match std::mem::replace(&mut self.name, Name::Own) {
            Name::Hidden(hidden) => fs::rename(&hidden, &self.target).inspect_err(|_| {
                // The first error is the one to report.
                drop(fs::remove_file(&hidden));
            }),
            Name::None => self.link(),
            Name::Own => Ok(()),
        };
        named.map_err(|error| file_error("name", &self.target, error))
    }

    /// Gives up what was written; what remains is to close it, which takes a while if it is much.
    #[must_use]
    pub fn abandon(self) -> Option<OwnedFd> {
        self.file.file().try_clone().ok().map(OwnedFd::from)
    }

    fn link(&self) -> io::Result<()> {
        use std::os::fd::AsRawFd as _;
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let link = |name: &Path| rustix::fs::linkat(CWD, &own, CWD, name, AtFlags::SYMLINK_FOLLOW);
        match link(&self.target) {
            Err(Errno::EXIST) => {}
            done => return Ok(done?),
        }
        // A link replaces nothing, a rename does.
        let hidden = hidden(&self.target);
        link(&hidden)?;
        fs::rename(&hidden, &self.target).inspect_err(|_| drop(fs::remove_file(&hidden)))
    }
}

impl io::Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if let Name::Hidden(hidden) = &self.name {
            // Half a file is of no use; the error that led here is the one to report.
            drop(fs::remove_file(hidden));
        }
    }
}

fn folder(target: &Path) -> &Path {
    target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn prefix(target: &Path) -> String {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    // Names end at 255 bytes.
    let short: String = name.chars().take(60).collect();
    format!(".{short}.")
}

fn hidden(target: &Path) -> PathBuf {
    folder(target).join(format!("{}{}{UNFINISHED}", prefix(target), random_hex(4)))
}

/// Removes files that earlier writers of `target` have left: whoever lives holds the lock.
fn remove_dead(target: &Path) -> io::Result<()> {
    let prefix = prefix(target);
    for entry in fs::read_dir(folder(target))?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with(&prefix) || !name.ends_with(UNFINISHED) {
            continue;
        }
        // One that is gone meanwhile is gone.
        let Ok(file) = fs::File::open(entry.path()) else { continue };
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            drop(fs::remove_file(entry.path()));
        }
    }
    Ok(())
}

/// Directories that were made for what is to come; the empty ones go again if nothing comes.
#[derive(Debug)]
pub struct MadeDirs(Vec<PathBuf>);

impl MadeDirs {
    /// Makes a directory with those above it, where they are not there.
    ///
    /// # Errors
    /// What the disk says.
    pub fn create(path: &Path) -> Result<Self, ArchiveError> {
        let missing =
            path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists());
        let made = Self(missing.map(Path::to_owned).collect());
        fs::create_dir_all(path).map_err(|e| file_error("create", path, e))?;
        Ok(made)
    }
}

impl Drop for MadeDirs {
    fn drop(&mut self) {
        for path in &self.0 {
            // One with content stays, and those above it.
            if rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_whole_or_not_there() {
        type Create = fn(&Path, u32) -> Result<WholeFile, ArchiveError>;
        for create in [WholeFile::create as Create, WholeFile::create_hidden] {
            let folder = davit_test::TempDir::new();
            let target = folder.join("a.tar");
            drop(create(&target, 0o600).unwrap());
            assert!(names(folder.path()).is_empty());
            for content in ["one", "two"] {
                let mut file = create(&target, 0o600).unwrap();
                file.file().write_all(content.as_bytes()).unwrap();
                file.finish().unwrap();
                assert_eq!(fs::read_to_string(&target).unwrap(), content);
                assert_eq!(names(folder.path()), ["a.tar"]);
            }
            let error = create(&folder.join("none/x"), 0o600).unwrap_err().to_string();
            assert!(error.ends_with("/none/x"), "{error}");
        }
    }

    #[test]
    fn an_output_goes_where_a_link_leads() {
        let folder = davit_test::TempDir::new();
        let is_link = |name: &str| folder.join(name).is_symlink();
        for (name, target) in [("link", "a.tar"), ("null", "/dev/null")] {
            std::os::unix::fs::symlink(target, folder.join(name)).unwrap();
        }
        fs::write(folder.join("a.tar"), "old").unwrap();
        for name in ["link", "null"] {
            let mut file = WholeFile::output(&folder.join(name), 0o600).unwrap();
            file.write_all(b"new").unwrap();
            file.sync().unwrap();
            file.finish().unwrap();
        }
        assert_eq!(fs::read_to_string(folder.join("a.tar")).unwrap(), "new");
        assert!(is_link("link") && is_link("null") && !Path::new("/dev/null").is_file());
        assert!(WholeFile::output(folder.path(), 0o600).is_err(), "a directory");
    }

    #[test]
    fn what_a_dead_writer_left_is_removed() {
        let folder = davit_test::TempDir::new();
        let target = folder.join("a.tar");
        fs::write(hidden(&target), "dead").unwrap();
        let alive = WholeFile::create_hidden(&target, 0o600).unwrap();
        let next = WholeFile::create_hidden(&target, 0o600).unwrap();
        assert_eq!(names(folder.path()).len(), 2, "the dead one is gone, both live ones are there");
        drop((alive, next));
        assert!(names(folder.path()).is_empty());
    }
}
