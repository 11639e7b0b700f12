//! Paths that an image or a user names, resolved inside a root by descriptor.
//!
//! Symbolic links and `..` stay inside (`RESOLVE_IN_ROOT`), magic links of procfs are refused, and
//! nothing is looked up twice: what was found is used through its `O_PATH` descriptor
//! (CVE-2021-30465, CVE-2024-21626, CVE-2025-31133).

use std::{
    ffi::CStr,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// How often a lookup that raced with a rename is repeated.
const ATTEMPTS: usize = 256;

/// What a mountpoint is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A directory.
    Directory,
    /// Anything but a directory.
    File,
}

/// Whether a path may lead over symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// They are followed inside the root.
    Follow,
    /// They are an error: `ELOOP`.
    Refuse,
}

/// Opens `path`, which exists, below `root`.
pub(crate) fn open_in_root(
    root: impl AsFd,
    path: &CStr,
    flags: OFlags,
    links: Links,
) -> Result<OwnedFd, Errno> {
    let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    if links == Links::Refuse {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    open(root, path, flags, resolve)
}

/// Opens `path` below `directory` of a kernel filesystem, over neither links nor mounts.
pub(crate) fn open_fixed(
    directory: impl AsFd,
    path: &CStr,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    open(directory, path, flags, resolve)
}

fn open(
    root: impl AsFd,
    path: &CStr,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let root = root.as_fd();
    let path = if path.is_empty() { c"." } else { path };
    let mut attempts = 0;
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A rename or a mount happened meanwhile.
            Err(Errno::AGAIN) if attempts < ATTEMPTS => attempts += 1,
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Opens `path` below `root` as a mountpoint, and makes what is missing of it: directories of mode
/// 0755, an empty file of mode 0755 as the last component of a [`Shape::File`].
pub(crate) fn open_or_make(
    root: impl AsFd,
    path: &CStr,
    shape: Shape,
    links: Links,
) -> Result<OwnedFd, Errno> {
    let root = root.as_fd();
    let found = match open_in_root(root, path, OFlags::PATH, links) {
        Err(Errno::NOENT) => make(root, path, shape, links)?,
        result => result?,
    };
    let is_directory = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode)
        == rustix::fs::FileType::Directory;
    match (shape, is_directory) {
        (Shape::Directory, false) => Err(Errno::NOTDIR),
        (Shape::File, true) => Err(Errno::ISDIR),
        _ => Ok(found),
    }
}

/// Whether a file or directory is the kernel's procfs.
pub(crate) fn is_procfs(found: impl AsFd) -> Result<bool, Errno> {
    const PROC_SUPER_MAGIC: u64 = 0x9fa0;
    let kind = rustix::fs::fstatfs(found)?.f_type;
    Ok(u64::try_from(kind).is_ok_and(|kind| kind == PROC_SUPER_MAGIC))
}

/// Longest path that the kernel takes, with its NUL.
const PATH_MAX: usize = 4096;

fn make(root: impl AsFd, path: &CStr, shape: Shape, links: Links) -> Result<OwnedFd, Errno> {
    let bytes = path.to_bytes();
    let mut buffer = [0; PATH_MAX];
    // The longest part that exists, links and all; then one component after the other.
    let mut existing = bytes.len();
    let mut parent = loop {
        existing = last_slash(bytes, existing);
        let prefix = prefix_of(&mut buffer, bytes, existing)?;
        match open_in_root(root.as_fd(), prefix, OFlags::PATH | OFlags::DIRECTORY, links) {
            Err(Errno::NOENT) if existing > 0 => {}
            result => break result?,
        }
    };
    let mut rest = bytes.get(existing..).unwrap_or(&[]);
    loop {
        let (component, after) = next_component(rest);
        if component.is_empty() {
            return Ok(parent);
        }
        // `..` in the missing part would leave the component that is being made.
        if component == b".." {
            return Err(Errno::NOENT);
        }
        let is_last = next_component(after).0.is_empty();
        let name = prefix_of(&mut buffer, component, component.len())?;
        parent = make_component(&parent, name, if is_last { shape } else { Shape::Directory })?;
        rest = after;
    }
}

fn make_component(parent: &OwnedFd, name: &CStr, shape: Shape) -> Result<OwnedFd, Errno> {
    let mode = Mode::from_raw_mode(0o755);
    let made = match shape {
        Shape::Directory => rustix::fs::mkdirat(parent, name, mode),
        Shape::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags | OFlags::WRONLY, mode).map(drop)
        }
    };
    match made {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    // A dangling link answers EXIST above and ELOOP here; with NOFOLLOW it would be opened itself.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    open(parent, name, OFlags::PATH, resolve)
}

/// Splits the first component off.
fn next_component(path: &[u8]) -> (&[u8], &[u8]) {
    let start = path.iter().position(|byte| *byte != b'/').unwrap_or(path.len());
    let path = path.get(start..).unwrap_or(&[]);
    let end = path.iter().position(|byte| *byte == b'/').unwrap_or(path.len());
    path.split_at_checked(end).unwrap_or((path, &[]))
}

/// Where the last component of the first `length` bytes begins, without the slash before it.
fn last_slash(path: &[u8], length: usize) -> usize {
    path.get(..length).and_then(|part| part.iter().rposition(|byte| *byte == b'/')).unwrap_or(0)
}

/// The first `length` bytes as a C string in `buffer`.
fn prefix_of<'a>(
    buffer: &'a mut [u8; PATH_MAX],
    path: &[u8],
    length: usize,
) -> Result<&'a CStr, Errno> {
    let part = path.get(..length).ok_or(Errno::NAMETOOLONG)?;
    let space = buffer.get_mut(..=length).ok_or(Errno::NAMETOOLONG)?;
    let (text, end) = space.split_at_mut_checked(length).ok_or(Errno::NAMETOOLONG)?;
    for (to, from) in text.iter_mut().zip(part) {
        *to = *from;
    }
    for byte in end {
        *byte = 0;
    }
    CStr::from_bytes_with_nul(space).map_err(|_| Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use davit_test::TempDir;
    use rustix::fs::CWD;

    use super::*;

    fn root(directory: &TempDir) -> OwnedFd {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, directory.path(), flags, Mode::empty()).unwrap()
    }

    #[test]
    fn missing_parts_are_made_inside() {
        let directory = TempDir::new();
        let root = root(&directory);
        let path = directory.path();
        fs_err::create_dir(path.join("real")).unwrap();
        symlink("/real", path.join("link")).unwrap();
        symlink("../../../../../../etc", path.join("up")).unwrap();
        let make = |name: &CStr, shape| open_or_make(&root, name, shape, Links::Follow);
        make(c"a/b/c", Shape::Directory).unwrap();
        assert!(path.join("a/b/c").is_dir());
        make(c"link/new/file", Shape::File).unwrap();
        assert!(path.join("real/new/file").is_file());
        assert_eq!(path.join("real/new/file").metadata().unwrap().mode() & 0o777, 0o755 & !0o022);
        // The link leads to the root's own /etc, which is missing and is a dangling link then.
        assert_eq!(make(c"up/hosts", Shape::File).unwrap_err(), Errno::LOOP);
        make(c"etc", Shape::Directory).unwrap();
        make(c"up/hosts", Shape::File).unwrap();
        assert!(path.join("etc/hosts").is_file());
        make(c"", Shape::Directory).unwrap();
        make(c"//x//y/", Shape::Directory).unwrap();
        assert!(path.join("x/y").is_dir());
    }

    #[test]
    fn shapes_and_links_are_checked() {
        let directory = TempDir::new();
        let root = root(&directory);
        let path = directory.path();
        fs_err::write(path.join("file"), "").unwrap();
        fs_err::create_dir(path.join("dir")).unwrap();
        symlink("dir", path.join("link")).unwrap();
        symlink("/proc/self/fd/0", path.join("magic")).unwrap();
        let make = |name: &CStr, shape, links| open_or_make(&root, name, shape, links).map(drop);
        assert_eq!(make(c"file", Shape::Directory, Links::Follow), Err(Errno::NOTDIR));
        assert_eq!(make(c"dir", Shape::File, Links::Follow), Err(Errno::ISDIR));
        assert_eq!(make(c"link", Shape::Directory, Links::Follow), Ok(()));
        assert_eq!(make(c"link", Shape::Directory, Links::Refuse), Err(Errno::LOOP));
        assert_eq!(make(c"link/x", Shape::Directory, Links::Refuse), Err(Errno::LOOP));
        assert_eq!(make(c"magic", Shape::File, Links::Follow), Err(Errno::LOOP));
        assert_eq!(make(c"file/x", Shape::Directory, Links::Follow), Err(Errno::NOTDIR));
    }
}
