//! Files to a tar stream, read by descriptor: nothing below the first name is followed.

use std::{
    collections::HashMap,
    ffi::{CString, OsStr},
    io::{self, Read, Write},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    vec,
};

use rustix::{
    fs::{
        CWD, Dir, FileType, Mode, OFlags, Stat, fstat, fstatfs, major, minor, openat, readlinkat,
    },
    io::Errno,
};
use tar::{Builder, EntryType, Header};

use super::{
    area::{Area, KERNEL_FILES},
    xattr,
};

/// Deepest directory that is read.
const DEPTH: usize = 512;

/// Name of the entry that holds a target too long for a header (GNU tar manual, "Basic Tar Format").
const LONG_LINK: &[u8] = b"././@LongLink";

/// How a directory is opened to be listed.
const LISTED: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Writes what is at `path` of an area, under the name `name`, as a whole archive.
pub(super) fn pack(area: &Area, path: &[u8], name: &Path, out: impl Write) -> io::Result<()> {
    let node = area.open(path, OFlags::PATH | OFlags::NOFOLLOW)?;
    let mut packer = Packer {
        builder: Builder::new(out),
        links: HashMap::new(),
        runtime_device: area.runtime_device()?,
    };
    packer.tree(node, name)?;
    packer.builder.into_inner()?.flush()
}

struct Packer<W: Write> {
    builder: Builder<W>,
    /// First name of each file that has several.
    links: HashMap<(u64, u64), PathBuf>,
    /// Of what is mounted on the container's `/dev`.
    runtime_device: Option<u64>,
}

/// A directory whose entries are being read.
struct Level {
    directory: OwnedFd,
    name: PathBuf,
    device: u64,
    /// Names that are still to be read.
    rest: vec::IntoIter<CString>,
}

impl<W: Write> Packer<W> {
    /// Adds a node and all below it. A level takes one descriptor and no stack, so that `DEPTH` fits
    /// below the usual limit of 1024.
    fn tree(&mut self, node: OwnedFd, name: &Path) -> io::Result<()> {
        let mut levels = Vec::from_iter(self.add(node, name, None)?);
        while let Some(level) = levels.last_mut() {
            let Some(child) = level.rest.next() else {
                levels.pop();
                continue;
            };
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let node = match openat(&level.directory, &child, flags, Mode::empty()) {
                // Removed since it was listed.
                Err(Errno::NOENT) => continue,
                node => node?,
            };
            let name = level.name.join(OsStr::from_bytes(child.as_bytes()));
            if let Some(next) = self.add(node, &name, Some(level.device))? {
                if levels.len() > DEPTH {
                    return Err(Errno::NAMETOOLONG.into());
                }
                levels.push(next);
            }
        }
        Ok(())
    }

    /// Adds one node; what is below a directory comes next.
    fn add(
        &mut self,
        node: OwnedFd,
        name: &Path,
        device: Option<u64>,
    ) -> io::Result<Option<Level>> {
        let stat = fstat(&node)?;
        let mut header = header(&stat);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                header.set_entry_type(EntryType::Directory);
                let mut slashed = name.as_os_str().to_owned();
                slashed.push("/");
                let directory = openat(&node, c".", LISTED, Mode::empty())?;
                self.xattrs(&directory)?;
                self.builder.append_data(&mut header, slashed, io::empty())?;
                let foreign = device != Some(stat.st_dev);
                let is_kernels = || fstatfs(&node).map(|it| KERNEL_FILES.contains(&it.f_type));
                if foreign && (self.runtime_device == Some(stat.st_dev) || is_kernels()?) {
                    return Ok(None);
                }
                return list(directory, name, stat.st_dev).map(Some);
            }
            FileType::RegularFile => self.file(&node, name, &stat, header),
            FileType::Symlink => {
                let target = readlinkat(&node, c"", Vec::new())?;
                self.symlink(name, header, target.as_bytes())
            }
            FileType::Fifo => self.special(name, header, EntryType::Fifo, 0),
            FileType::CharacterDevice => self.special(name, header, EntryType::Char, stat.st_rdev),
            FileType::BlockDevice => self.special(name, header, EntryType::Block, stat.st_rdev),
            // A socket without its server means nothing.
            _ => Ok(()),
        }
        .map(|()| None)
    }

    fn file(
        &mut self,
        node: &OwnedFd,
        name: &Path,
        stat: &Stat,
        mut header: Header,
    ) -> io::Result<()> {
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key) {
                header.set_entry_type(EntryType::Link);
                return self.builder.append_link(&mut header, name, first);
            }
            self.links.insert(key, name.to_owned());
        }
        // Opened through its descriptor: it is known to be a file, never a device or a pipe.
        let path = format!("/proc/self/fd/{}", node.as_fd().as_raw_fd());
        let file = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        self.xattrs(&file)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        header.set_entry_type(EntryType::Regular);
        header.set_size(size);
        // A file that shrinks meanwhile is filled up with zeros, so that the archive stays whole.
        let content = std::fs::File::from(file).chain(io::repeat(0)).take(size);
        self.builder.append_data(&mut header, name, content)
    }

    /// Writes a symbolic link with its target as it is: `Builder::append_link` tidies it up.
    fn symlink(&mut self, name: &Path, mut header: Header, target: &[u8]) -> io::Result<()> {
        header.set_entry_type(EntryType::Symlink);
        if header.set_link_name_literal(target).is_err() {
            let mut long = Header::new_gnu();
            let gnu = long.as_gnu_mut().expect("it was made so");
            gnu.name[..LONG_LINK.len()].copy_from_slice(LONG_LINK);
            long.set_entry_type(EntryType::GNULongLink);
            // With a zero at its end, as GNU tar writes it.
            long.set_size(target.len() as u64 + 1);
            long.set_mode(0o644);
            long.set_uid(0);
            long.set_gid(0);
            long.set_mtime(0);
            long.set_cksum();
            self.builder.append(&long, target.chain(&[0][..]))?;
        }
        self.builder.append_data(&mut header, name, io::empty())
    }

    /// Writes the attributes of the entry that comes next.
    fn xattrs(&mut self, file: &OwnedFd) -> io::Result<()> {
        let records = xattr::records(file)?;
        let records = records.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        self.builder.append_pax_extensions(records)
    }

    fn special(
        &mut self,
        name: &Path,
        mut header: Header,
        kind: EntryType,
        device: u64,
    ) -> io::Result<()> {
        header.set_entry_type(kind);
        header.set_device_major(major(device))?;
        header.set_device_minor(minor(device))?;
        self.builder.append_data(&mut header, name, io::empty())
    }
}

fn list(directory: OwnedFd, name: &Path, device: u64) -> io::Result<Level> {
    let mut names = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort_unstable();
    Ok(Level { directory, name: name.to_owned(), device, rest: names.into_iter() })
}

fn header(stat: &Stat) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header
}
