//! Volumes whose options name a filesystem or directory of their own (`--opt type=… device=… o=…`).
//!
//! Each monitor mounts them over the volume's directory in its private mount namespace, so that
//! nothing is left when the container has ended.

use std::{
    collections::BTreeMap,
    ffi::CString,
    io,
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, mount, mount_bind, mount_bind_recursive, mount_remount};
use serde::{Deserialize, Serialize};

use super::ContainerError;

/// What Docker's `local` driver mounts for a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeMount {
    target: PathBuf,
    filesystem: String,
    device: String,
    options: String,
}

/// Checks the options of Docker's `local` driver.
///
/// # Errors
/// [`ContainerError::Invalid`] with Docker's sentence.
pub(super) fn check(options: &BTreeMap<String, String>) -> Result<(), ContainerError> {
    let known = |name: &str| matches!(name, "type" | "device" | "o");
    if let Some(option) = options.keys().find(|name| !known(name)) {
        return Err(ContainerError::Invalid(format!("invalid option: {option:?}")));
    }
    for needed in ["device", "type"] {
        if !options.is_empty() && !options.contains_key(needed) {
            return Err(ContainerError::Invalid(format!("missing required option: {needed:?}")));
        }
    }
    Ok(())
}

impl VolumeMount {
    /// What is mounted over `target`; `None` for a volume that is a plain directory.
    pub(super) fn of(target: PathBuf, options: &BTreeMap<String, String>) -> Option<Self> {
        let option = |name: &str| options.get(name).cloned().unwrap_or_default();
        let (filesystem, device) = (option("type"), option("device"));
        let mounts = !options.is_empty();
        mounts.then(|| Self { target, filesystem, device, options: option("o") })
    }

    /// Mounts it in this process's mount namespace.
    ///
    /// # Errors
    /// The kernel refuses, with the volume's device named.
    pub(super) fn mount(&self) -> io::Result<()> {
        let failed = |error: io::Error| {
            let text = format!("failed to mount local volume: mount {}: {error}", self.device);
            io::Error::new(error.kind(), text)
        };
        self.try_mount().map_err(failed)
    }

    fn try_mount(&self) -> io::Result<()> {
        let mut wishes = Wishes::new();
        self.options.split(',').filter(|word| !word.is_empty()).for_each(|word| wishes.add(word));
        let (device, target) = (Path::new(&self.device), self.target.as_path());
        let data = CString::new(wishes.data.join(","))?;
        match wishes.bind {
            Bind::No => mount(device, target, self.filesystem.as_str(), wishes.flags, &*data)?,
            Bind::One => mount_bind(device, target)?,
            Bind::All => mount_bind_recursive(device, target)?,
        }
        if wishes.bind != Bind::No && !wishes.flags.is_empty() {
            mount_remount(target, MountFlags::BIND | wishes.flags, c"")?;
        }
        Ok(())
    }
}

/// Whether a directory of the host is shown instead of a filesystem of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bind {
    No,
    One,
    All,
}

/// The words of `o=…`: flags of the mount, and the rest for the filesystem.
#[derive(Debug)]
struct Wishes {
    bind: Bind,
    flags: MountFlags,
    data: Vec<String>,
}

impl Wishes {
    fn new() -> Self {
        Self { bind: Bind::No, flags: MountFlags::empty(), data: Vec::new() }
    }

    fn add(&mut self, word: &str) {
        match word {
            "bind" => self.bind = Bind::One,
            "rbind" => self.bind = Bind::All,
            "rw" => self.flags.remove(MountFlags::RDONLY),
            "ro" => self.flags.insert(MountFlags::RDONLY),
            "nosuid" => self.flags.insert(MountFlags::NOSUID),
            "nodev" => self.flags.insert(MountFlags::NODEV),
            "noexec" => self.flags.insert(MountFlags::NOEXEC),
            "noatime" => self.flags.insert(MountFlags::NOATIME),
            "nodiratime" => self.flags.insert(MountFlags::NODIRATIME),
            "relatime" => self.flags.insert(MountFlags::RELATIME),
            "strictatime" => self.flags.insert(MountFlags::STRICTATIME),
            "sync" => self.flags.insert(MountFlags::SYNCHRONOUS),
            "dirsync" => self.flags.insert(MountFlags::DIRSYNC),
            "defaults" | "async" | "suid" | "dev" | "exec" | "atime" => {}
            other => self.data.push(other.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        let options = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        assert!(check(&options(&[])).is_ok());
        assert!(check(&options(&[("type", "tmpfs"), ("device", "tmpfs")])).is_ok());
        for bad in [&[("bogus", "1")][..], &[("type", "tmpfs")], &[("o", "bind")]] {
            assert!(check(&options(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn words_become_flags() {
        let mut wishes = Wishes::new();
        for word in ["rbind", "ro", "nosuid", "size=1m", "uid=5"] {
            wishes.add(word);
        }
        assert_eq!(wishes.bind, Bind::All);
        assert_eq!(wishes.flags, MountFlags::RDONLY | MountFlags::NOSUID);
        assert_eq!(wishes.data, ["size=1m", "uid=5"]);
    }
}
