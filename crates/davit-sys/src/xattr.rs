//! Extended attributes of open files (xattr(7)).

use std::os::fd::AsFd;

use rustix::{
    fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr},
    io::Errno,
};

const SMALL: usize = 256;
/// Longest list and longest value that the kernel gives (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const LARGEST: usize = 65_536;

/// Names of all extended attributes; none where the file system has none.
///
/// # Errors
/// flistxattr(2).
pub fn names(file: impl AsFd) -> Result<Vec<Vec<u8>>, Errno> {
    let names = match grown(|buffer| flistxattr(&file, buffer)) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        result => result?,
    };
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(<[u8]>::to_vec).collect())
}

/// Value of an extended attribute.
///
/// # Errors
/// fgetxattr(2).
pub fn value(file: impl AsFd, name: &[u8]) -> Result<Vec<u8>, Errno> {
    grown(|buffer| fgetxattr(&file, name, buffer))
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
