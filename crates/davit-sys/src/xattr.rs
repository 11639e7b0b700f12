//! Extended attributes of open files, and of what cannot be opened (xattr(7)).

use std::os::fd::AsFd;

use rustix::{
    fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr, lgetxattr, llistxattr, lsetxattr},
    io::Errno,
    path::Arg,
};

const SMALL: usize = 256;
/// Longest list and longest value that the kernel gives (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const LARGEST: usize = 65_536;

/// Names of all extended attributes; none where the file system has none.
///
/// # Errors
/// flistxattr(2).
pub fn names(file: impl AsFd) -> Result<Vec<Vec<u8>>, Errno> {
    split(grown(|buffer| flistxattr(&file, buffer)))
}

/// The same of what a path names, a link itself included.
///
/// # Errors
/// llistxattr(2).
pub fn names_at(path: impl Arg + Copy) -> Result<Vec<Vec<u8>>, Errno> {
    split(grown(|buffer| llistxattr(path, buffer)))
}

fn split(list: Result<Vec<u8>, Errno>) -> Result<Vec<Vec<u8>>, Errno> {
    match list {
        Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
        list => {
            let list = list?;
            let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
            Ok(names.map(<[u8]>::to_vec).collect())
        }
    }
}

/// Value of an extended attribute.
///
/// # Errors
/// fgetxattr(2).
pub fn value(file: impl AsFd, name: &[u8]) -> Result<Vec<u8>, Errno> {
    grown(|buffer| fgetxattr(&file, name, buffer))
}

/// The same of what a path names, a link itself included.
///
/// # Errors
/// lgetxattr(2).
pub fn value_at(path: impl Arg + Copy, name: &[u8]) -> Result<Vec<u8>, Errno> {
    grown(|buffer| lgetxattr(path, name, buffer))
}

/// Copies the attributes whose names `keeps` wants.
///
/// # Errors
/// flistxattr(2), fgetxattr(2), fsetxattr(2).
pub fn copy(from: impl AsFd, to: impl AsFd, keeps: impl Fn(&[u8]) -> bool) -> Result<(), Errno> {
    for name in names(&from)?.iter().filter(|name| keeps(name)) {
        fsetxattr(&to, name.as_slice(), &value(&from, name)?, XattrFlags::empty())?;
    }
    Ok(())
}

/// The same between what two paths name, links themselves included.
///
/// # Errors
/// llistxattr(2), lgetxattr(2), lsetxattr(2).
pub fn copy_at(
    from: impl Arg + Copy,
    to: impl Arg + Copy,
    keeps: impl Fn(&[u8]) -> bool,
) -> Result<(), Errno> {
    for name in names_at(from)?.iter().filter(|name| keeps(name)) {
        lsetxattr(to, name.as_slice(), &value_at(from, name)?, XattrFlags::empty())?;
    }
    Ok(())
}

/// Reads with a small buffer first: most files have no attributes at all.
fn grown(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    for size in [SMALL, LARGEST] {
        let mut buffer = vec![0; size];
        match read(&mut buffer) {
            Err(Errno::RANGE) => {}
            result => {
                buffer.truncate(result?);
                return Ok(buffer);
            }
        }
    }
    Err(Errno::RANGE)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{Mode, OFlags};

    use super::*;

    #[test]
    fn names_and_values_are_copied_as_asked() {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let file = || rustix::fs::open(std::env::temp_dir(), flags, Mode::RUSR).unwrap();
        let (from, to) = (file(), file());
        assert_eq!(names(&from).unwrap(), Vec::<Vec<u8>>::new());
        let large = vec![7; 300];
        for (name, value) in [("user.a", &large[..]), ("user.b", b""), ("user.c", b"1")] {
            match fsetxattr(&from, name, value, XattrFlags::empty()) {
                // A tmpfs keeps no user attributes before Linux 6.6.
                Err(Errno::OPNOTSUPP) => return,
                result => result.unwrap(),
            }
        }
        copy(&from, &to, |name| name != b"user.c").unwrap();
        let mut copied = names(&to).unwrap();
        copied.sort();
        assert_eq!(copied, [b"user.a".to_vec(), b"user.b".to_vec()]);
        assert_eq!(value(&to, b"user.a").unwrap(), large);
        assert_eq!(value(&to, b"user.b").unwrap(), b"");
        assert_eq!(value(&to, b"user.c"), Err(Errno::NODATA));
    }
}
