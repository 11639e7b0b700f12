//! Files to a tar stream, read by descriptor: nothing below the first name is followed.

use std::{
    collections::HashMap,
    ffi::OsStr,
    io::{self, Read, Write},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        CWD, Dir, FileType, Mode, OFlags, Stat, fstat, fstatfs, major, minor, openat, readlinkat,
    },
    io::Errno,
};
use tar::{Builder, EntryType, Header};

use super::{area::Area, xattr};

/// Deepest directory that is read.
const DEPTH: usize = 512;

/// How a directory is opened to be listed.
const LISTED: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// File systems that a kernel writes: procfs, sysfs, cgroup, cgroup2.
const KERNEL_FILES: [i64; 4] = [0x9fa0, 0x6265_6572, 0x0027_e0eb, 0x6367_7270];

/// Writes what is at `path` of an area, under the name `name`, as a whole archive.
pub(super) fn pack(area: &Area, path: &[u8], name: &Path, out: impl Write) -> io::Result<()> {
    let node = area.open(path, OFlags::PATH | OFlags::NOFOLLOW)?;
    let mut packer = Packer { builder: Builder::new(out), links: HashMap::new() };
    packer.add(&node, name, None, 0)?;
    packer.builder.into_inner()?.flush()
}

struct Packer<W: Write> {
    builder: Builder<W>,
    /// First name of each file that has several.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<W> {
    fn add(
        &mut self,
        node: &OwnedFd,
        name: &Path,
        device: Option<u64>,
        depth: usize,
    ) -> io::Result<()> {
        let stat = fstat(node)?;
        let mut header = header(&stat);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                header.set_entry_type(EntryType::Directory);
                let mut slashed = name.as_os_str().to_owned();
                slashed.push("/");
                let directory = openat(node, c".", LISTED, Mode::empty())?;
                self.xattrs(&directory)?;
                self.builder.append_data(&mut header, slashed, io::empty())?;
                let foreign = device.is_some_and(|device| device != stat.st_dev);
                if foreign && KERNEL_FILES.contains(&fstatfs(node)?.f_type) {
                    return Ok(());
                }
                self.directory(&directory, name, stat.st_dev, depth)
            }
            FileType::RegularFile => self.file(node, name, &stat, header),
            FileType::Symlink => {
                header.set_entry_type(EntryType::Symlink);
                let target = readlinkat(node, c"", Vec::new())?;
                self.builder.append_link(&mut header, name, OsStr::from_bytes(target.as_bytes()))
            }
            FileType::Fifo => self.special(name, header, EntryType::Fifo, 0),
            FileType::CharacterDevice => self.special(name, header, EntryType::Char, stat.st_rdev),
            FileType::BlockDevice => self.special(name, header, EntryType::Block, stat.st_rdev),
            // A socket without its server means nothing.
            _ => Ok(()),
        }
    }

    fn directory(
        &mut self,
        directory: &OwnedFd,
        name: &Path,
        device: u64,
        depth: usize,
    ) -> io::Result<()> {
        if depth > DEPTH {
            return Err(Errno::NAMETOOLONG.into());
        }
        let mut names = Vec::new();
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort_unstable();
        for child in names {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match openat(directory, &child, flags, Mode::empty()) {
                // Removed since it was listed.
                Err(Errno::NOENT) => {}
                node => {
                    let name = name.join(OsStr::from_bytes(child.as_bytes()));
                    self.add(&node?, &name, Some(device), depth + 1)?;
                }
            }
        }
        Ok(())
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

fn header(stat: &Stat) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header
}
