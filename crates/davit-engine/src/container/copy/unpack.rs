//! A tar stream to files: every entry's directory is resolved anew by the kernel inside the area,
//! and every name is created anew, so no link that lies there or comes along leads out of it.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    os::fd::OwnedFd,
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, chmodat, chownat, fchmod,
        fchown, futimens, linkat, makedev, mkdirat, mknodat, openat, statat, symlinkat, unlinkat,
        utimensat,
    },
    io::Errno,
};
use tar::{Archive, Entry, EntryType};

use super::{
    Ownership,
    area::{Area, is_directory, parts},
    xattr::{self, Headers, Xattr},
};

/// Where an archive is unpacked.
pub(super) struct Unpacker<'a> {
    /// The files.
    pub(super) area: &'a Area,
    /// The directory in it, without a `/` at its end.
    pub(super) directory: &'a [u8],
    /// Whose the files become.
    pub(super) ownership: Ownership,
}

/// Why an entry cannot be written.
#[derive(Debug)]
pub(super) enum UnpackError {
    /// In Docker's words.
    Refused(String),
    /// The archive cannot be read.
    Archive(io::Error),
    /// This name cannot be made.
    Entry(String, io::Error),
}

/// What is set on an entry once it is there.
struct Metadata {
    owner: Option<(Uid, Gid)>,
    mode: Mode,
    times: Timestamps,
    ownership: Ownership,
    xattrs: Vec<Xattr>,
}

impl Unpacker<'_> {
    /// Unpacks an archive up to its end.
    pub(super) fn unpack(&self, archive: impl Read) -> Result<(), UnpackError> {
        let headers = Headers::default();
        let mut archive = Archive::new(headers.watch(archive));
        // Directories get their metadata last: what is made in them changes their times.
        let mut directories = BTreeMap::new();
        let mut entries = archive.entries().map_err(UnpackError::Archive)?;
        loop {
            headers.begin();
            let Some(entry) = entries.next() else { break };
            let mut entry = entry.map_err(UnpackError::Archive)?;
            let path = relative(&entry.path_bytes())?;
            let mut metadata = self.metadata(&entry).map_err(UnpackError::Archive)?;
            metadata.xattrs = headers.end().map_err(UnpackError::Archive)?;
            self.entry(&mut entry, &path, &metadata)?;
            // What nobody wanted, so that nothing but headers comes next.
            io::copy(&mut entry, &mut io::sink()).map_err(UnpackError::Archive)?;
            if entry.header().entry_type() == EntryType::Directory {
                directories.insert(path, metadata);
            }
        }
        for (path, metadata) in directories.iter().rev() {
            self.finish_directory(path, metadata).map_err(|source| failed(path, source))?;
        }
        Ok(())
    }

    fn metadata(&self, entry: &Entry<'_, impl Read>) -> io::Result<Metadata> {
        let header = entry.header();
        let number = |value: u64| u32::try_from(value).map_err(|_| io::ErrorKind::InvalidData);
        let seconds = i64::try_from(header.mtime()?).unwrap_or(0);
        let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let (owner, bits) = match self.ownership {
            Ownership::Keep => {
                let ids = (number(header.uid()?)?, number(header.gid()?)?);
                (Some((Uid::from_raw(ids.0), Gid::from_raw(ids.1))), 0o7777)
            }
            // Set-id bits were meant for another owner.
            Ownership::Caller => (None, 0o1777),
        };
        Ok(Metadata {
            owner,
            mode: Mode::from_raw_mode(header.mode()? & bits),
            times: Timestamps { last_access: time, last_modification: time },
            ownership: self.ownership,
            xattrs: Vec::new(),
        })
    }

    /// The whole path of an entry's relative one.
    fn within(&self, path: &[u8]) -> Vec<u8> {
        if self.directory.is_empty() {
            path.to_owned()
        } else {
            [self.directory, b"/", path].concat()
        }
    }

    /// Opens the directory of an entry, made if it is missing.
    fn parent(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.area.make_directory(&self.within(path))
    }

    fn entry(
        &self,
        entry: &mut Entry<'_, impl Read>,
        path: &[u8],
        metadata: &Metadata,
    ) -> Result<(), UnpackError> {
        let kind = entry.header().entry_type();
        if path.is_empty() {
            return Ok(());
        }
        let (above, name) = parts(path);
        let parent = self.parent(above).map_err(|errno| failed(path, errno.into()))?;
        self.make_way(&parent, name, kind, path)?;
        self.make(entry, &parent, name, metadata).map_err(|source| failed(path, source))
    }

    /// Removes what an entry replaces; directories and other files never replace each other.
    fn make_way(
        &self,
        parent: &OwnedFd,
        name: &[u8],
        kind: EntryType,
        path: &[u8],
    ) -> Result<(), UnpackError> {
        let there = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            there => there.map_err(|errno| failed(path, errno.into()))?,
        };
        let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        let (whole, shown) = (text(&self.within(path)), text(path));
        match (is_directory(&there), kind == EntryType::Directory) {
            (true, true) => Ok(()),
            (true, false) => Err(UnpackError::Refused(format!(
                "cannot overwrite directory {whole:?} with non-directory {shown:?}"
            ))),
            (false, true) => Err(UnpackError::Refused(format!(
                "cannot overwrite non-directory {whole:?} with directory {shown:?}"
            ))),
            (false, false) => {
                unlinkat(parent, name, AtFlags::empty()).map_err(|errno| failed(path, errno.into()))
            }
        }
    }

    fn make(
        &self,
        entry: &mut Entry<'_, impl Read>,
        parent: &OwnedFd,
        name: &[u8],
        metadata: &Metadata,
    ) -> io::Result<()> {
        let kind = entry.header().entry_type();
        match kind {
            EntryType::Directory => match mkdirat(parent, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => Ok(()),
                Err(errno) => Err(errno.into()),
            },
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or(io::ErrorKind::InvalidData)?;
                symlinkat(&*target, parent, name)?;
                finish_name(parent, name, metadata)
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().ok_or(io::ErrorKind::InvalidData)?;
                let target = relative(&target).map_err(|_| io::ErrorKind::InvalidData)?;
                let (above, first) = parts(&target);
                let directory = self.parent(above)?;
                Ok(linkat(directory, first, parent, name, AtFlags::empty())?)
            }
            EntryType::Fifo => special(parent, name, FileType::Fifo, 0, metadata),
            EntryType::Char | EntryType::Block => {
                let part = |value: io::Result<Option<u32>>| Ok::<_, io::Error>(value?.unwrap_or(0));
                let header = entry.header();
                let device = makedev(part(header.device_major())?, part(header.device_minor())?);
                let kind = if kind == EntryType::Char {
                    FileType::CharacterDevice
                } else {
                    FileType::BlockDevice
                };
                special(parent, name, kind, device, metadata)
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let mode = Mode::RUSR | Mode::WUSR;
                let file = openat(parent, name, flags | OFlags::CLOEXEC, mode)?;
                let mut file = std::fs::File::from(file);
                io::copy(entry, &mut file)?;
                finish(&file.into(), metadata)
            }
            // Comments of an archive.
            _ => Ok(()),
        }
    }

    fn finish_directory(&self, path: &[u8], metadata: &Metadata) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let flags = if path.is_empty() { flags } else { flags | OFlags::NOFOLLOW };
        match self.area.open(&self.within(path), flags) {
            // Somebody put something else there meanwhile.
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => Ok(()),
            directory => finish(&directory?, metadata),
        }
    }
}

fn special(
    parent: &OwnedFd,
    name: &[u8],
    kind: FileType,
    device: u64,
    metadata: &Metadata,
) -> io::Result<()> {
    mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, device)?;
    finish_name(parent, name, metadata)?;
    match chmodat(parent, name, metadata.mode, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Owner first: changing it clears set-id bits and capabilities.
fn finish(file: &OwnedFd, metadata: &Metadata) -> io::Result<()> {
    if let Some((uid, gid)) = metadata.owner {
        fchown(file, Some(uid), Some(gid))?;
    }
    xattr::set(file, &metadata.xattrs, metadata.ownership)?;
    fchmod(file, metadata.mode)?;
    Ok(futimens(file, &metadata.times)?)
}

/// Metadata of what must not be opened.
fn finish_name(parent: &OwnedFd, name: &[u8], metadata: &Metadata) -> io::Result<()> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    if let Some((uid, gid)) = metadata.owner {
        chownat(parent, name, Some(uid), Some(gid), flags)?;
    }
    Ok(utimensat(parent, name, &metadata.times, flags)?)
}

fn failed(path: &[u8], source: io::Error) -> UnpackError {
    UnpackError::Entry(String::from_utf8_lossy(path).into_owned(), source)
}

/// A name of an archive without `.` and needless slashes; `..` is refused.
fn relative(path: &[u8]) -> Result<Vec<u8>, UnpackError> {
    let parts: Vec<_> =
        path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if parts.contains(&&b".."[..]) || path.contains(&0) {
        let shown = String::from_utf8_lossy(path);
        return Err(UnpackError::Refused(format!("{shown:?} is outside of the destination")));
    }
    Ok(parts.join(&b'/'))
}
