//! CRC-32C of an extracted tree: of everything that an overlay shows of it.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use davit_sys::xattr;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};

/// Labels that the host gives and changes.
const OF_HOST: [&[u8]; 3] = [b"security.selinux", b"security.ima", b"security.evm"];
const PIECE_BYTES: usize = 128 << 10;

/// The checksum of names, types, modes, owners, times, devices, link targets, xattrs and contents
/// below `root`, and of what `root` itself is. No symlink is followed. Needs `/proc`.
pub(super) fn extracted(root: &Path) -> io::Result<u32> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    let mut sum = Sum { crc: 0, piece: vec![0; PIECE_BYTES] };
    sum.entry(root.as_fd(), b".", b"")?;
    let mut directories = vec![Vec::new()];
    while let Some(path) = directories.pop() {
        let directory =
            if path.is_empty() { root.try_clone()? } else { open(&root, &path, flags)? };
        for name in names(&directory)? {
            let below = [&path[..], if path.is_empty() { b"" } else { b"/" }, &name[..]].concat();
            if sum.entry(directory.as_fd(), &name, &below)? == FileType::Directory {
                directories.push(below);
            }
        }
    }
    Ok(sum.crc)
}

fn open(root: &OwnedFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(root, path, flags, Mode::empty(), inside)?)
}

fn names(directory: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

struct Sum {
    crc: u32,
    piece: Vec<u8>,
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, &(bytes.len() as u64).to_le_bytes());
        self.crc = crc32c::crc32c_append(self.crc, bytes);
    }

    fn number(&mut self, number: impl Into<i128>) {
        self.add(&number.into().to_le_bytes());
    }

    fn entry(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
    ) -> io::Result<FileType> {
        let stat: Stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        self.add(path);
        self.number(stat.st_mode);
        self.number(stat.st_uid);
        self.number(stat.st_gid);
        self.number(stat.st_rdev);
        self.number(stat.st_mtime);
        self.number(stat.st_mtime_nsec);
        self.xattrs(directory, name)?;
        match kind {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
                self.add(target.as_bytes());
            }
            FileType::RegularFile => self.content(directory, name)?,
            _ => {}
        }
        Ok(kind)
    }

    fn xattrs(&mut self, directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
        let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        let mut names = xattr::names_at(&path[..])?;
        names.retain(|name| !OF_HOST.contains(&&name[..]));
        names.sort_unstable();
        for name in names {
            self.add(&name);
            self.add(&xattr::value_at(&path[..], &name)?);
        }
        Ok(())
    }

    fn content(&mut self, directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(directory, name, flags, Mode::empty())?);
        let mut piece = std::mem::take(&mut self.piece);
        let mut length = 0_u64;
        loop {
            let got = file.read(&mut piece)?;
            if got == 0 {
                break;
            }
            length += got as u64;
            self.crc = crc32c::crc32c_append(self.crc, &piece[..got]);
        }
        self.piece = piece;
        self.number(length);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, time::UNIX_EPOCH};

    use fs_err as fs;
    use rustix::fs::{XattrFlags, chmod, setxattr};

    use super::*;

    type Edit = fn(&Path);

    #[test]
    fn whatever_shows_counts() {
        let temp = davit_test::TempDir::new();
        let edits: [(&str, Edit); 9] = [
            ("content", |root| fs::write(root.join("d/f"), "2").unwrap()),
            ("length", |root| fs::write(root.join("d/f"), "11").unwrap()),
            ("mode", |root| chmod(root.join("d/f"), Mode::RWXU).unwrap()),
            ("time", |root| {
                fs::File::open(root.join("d/f")).unwrap().file().set_modified(UNIX_EPOCH).unwrap();
            }),
            ("name", |root| fs::rename(root.join("d/f"), root.join("d/g")).unwrap()),
            ("link", |root| {
                fs::remove_file(root.join("l")).unwrap();
                symlink("e", root.join("l")).unwrap();
            }),
            ("new directory", |root| fs::create_dir(root.join("d/e")).unwrap()),
            ("mode of the root", |root| chmod(root, Mode::RWXU).unwrap()),
            ("xattr", |root| {
                setxattr(root.join("d"), "user.a", b"1", XattrFlags::empty()).unwrap();
            }),
        ];
        for (what, edit) in edits {
            let root = temp.join(what);
            fs::create_dir_all(root.join("d")).unwrap();
            fs::write(root.join("d/f"), "1").unwrap();
            symlink("d", root.join("l")).unwrap();
            let before = extracted(&root).unwrap();
            assert_eq!(extracted(&root).unwrap(), before, "{what}: reading changes nothing");
            edit(&root);
            assert_ne!(extracted(&root).unwrap(), before, "{what}");
        }
    }
}
