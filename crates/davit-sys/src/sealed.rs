//! davit's own executable behind a read-only mount.
//!
//! A process that a container can see must not run from a file that the container could write
//! through `/proc/PID/exe` or through a script that names `/proc/self/exe` as its interpreter
//! (CVE-2019-5736). Executing it from a detached read-only clone of its mount costs 0.1 ms and no
//! copy.

use std::{io, os::fd::OwnedFd};

use rustix::fs::{CWD, StatVfsMountFlags};

use crate::mount::{AttributeChange, Extent, MountAttributes, MountError, set_attributes};

/// Opens the running executable behind a read-only mount that is attached nowhere.
///
/// # Errors
/// [`MountError`]: `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` from another mount namespace.
pub fn executable() -> Result<OwnedFd, MountError> {
    use rustix::mount::{OpenTreeFlags, open_tree};
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let clone = open_tree(CWD, c"/proc/self/exe", flags).map_err(|errno| MountError {
        call: "open_tree",
        object: "/proc/self/exe".to_owned(),
        log: Vec::new(),
        source: errno.into(),
    })?;
    let read_only = MountAttributes::MOUNT_ATTR_RDONLY;
    let change = AttributeChange { set: Some(read_only), ..AttributeChange::default() };
    set_attributes(&clone, Extent::Single, change)?;
    Ok(clone)
}

/// Whether the running executable lies on a read-only mount already.
///
/// # Errors
/// `/proc` is not mounted.
pub fn is_sealed() -> io::Result<bool> {
    let status = rustix::fs::statvfs(c"/proc/self/exe")?;
    Ok(status.f_flag.contains(StatVfsMountFlags::RDONLY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clone_is_read_only() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let sealed = match executable() {
            Ok(sealed) => sealed,
            Err(error) => panic!("{error}"),
        };
        let flags = rustix::fs::fstatvfs(&sealed).unwrap().f_flag;
        assert!(flags.contains(StatVfsMountFlags::RDONLY));
        assert!(!is_sealed().unwrap());
    }
}
