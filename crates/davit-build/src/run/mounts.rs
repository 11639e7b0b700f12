//! Mounts of a command at the supervisor: views of other states, directories, secrets, sockets.
//!
//! What is not a path of the host yet is attached in the supervisor's own mount namespace for the
//! moment of the launch, which takes copies of it: with the command the last of them is gone.

use std::{
    ffi::CStr,
    fmt,
    fs::File,
    io::{self, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use davit_runtime::plan::{Access, BindSource, Mount, MountKind, MountOptions, Plan};
use davit_snapshot::{MountNamespace, SnapshotError, Stack, Upper};
use davit_sys::{
    mount::{Extent, FsContext, MountAttributes, MountError, clone_tree},
    owners::{Exchange, exchange_owners},
};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::supervisor::overlay;

/// Most bytes of all secrets of a command.
pub(crate) const SECRET_LIMIT: usize = 4 << 20;

/// One mount of a command.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StepMount {
    pub(crate) target: String,
    pub(crate) kind: StepMountKind,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum StepMountKind {
    /// A path of other layers; what is written goes to an upper directory that nobody reads.
    View { stack: Stack, upper: Upper, path: String, writable: bool },
    /// A path below a directory of the host.
    Directory { root: PathBuf, path: String, writable: bool, owners: Option<OwnerExchange> },
    /// An empty file system in memory.
    Tmpfs { size_bytes: Option<u64>, writable: bool },
    /// A file in memory.
    Secret { content: Content, mode: u32, uid: u32, gid: u32 },
    /// A socket of the host.
    Socket { path: PathBuf },
}

/// Whose files are shown as whose, and the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OwnerExchange {
    pub(crate) users: (u32, u32),
    pub(crate) groups: (u32, u32),
}

/// Bytes that no message shows; hexadecimal on the wire.
#[derive(Clone)]
pub(crate) struct Content(pub(crate) Vec<u8>);

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use fmt::Write as _;
        let mut hex = String::with_capacity(2 * self.0.len());
        for byte in &self.0 {
            write!(hex, "{byte:02x}").expect("a string takes all");
        }
        serializer.serialize_str(&hex)
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let hex = String::deserialize(deserializer)?;
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|it| u8::try_from(it).ok());
        let byte = |pair: &[u8]| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        };
        let bytes = hex.as_bytes().chunks(2).map(byte).collect::<Option<Vec<u8>>>();
        bytes.map(Self).ok_or_else(|| D::Error::custom("no hexadecimal digits"))
    }
}

/// What is attached until the launch has copies of it.
#[derive(Debug)]
pub(super) struct Attached<'n> {
    namespace: &'n MountNamespace,
    names: Vec<String>,
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        for name in &self.names {
            if let Err(error) = self.namespace.detach(name) {
                tracing::debug!(%error, "a view stays until the build ends");
            }
        }
    }
}

impl<'n> Attached<'n> {
    fn attach(&mut self, name: String, mount: &OwnedFd) -> Result<PathBuf, SnapshotError> {
        let path = self.namespace.attach(&name, mount)?;
        self.names.push(name);
        Ok(path)
    }
}

/// Adds the mounts of the command `id` to its plan.
pub(super) fn add<'n>(
    namespace: &'n mut MountNamespace,
    id: u32,
    mounts: &[StepMount],
    plan: &mut Plan,
) -> Result<Attached<'n>, SnapshotError> {
    let mut views = Vec::new();
    for mount in mounts {
        views.push(match &mount.kind {
            StepMountKind::View { stack, upper, .. } => Some(overlay(namespace, stack, upper)?),
            StepMountKind::Directory { root, owners: Some(owners), .. } => {
                let what = "a cache mount with other owners".to_owned();
                let mounted = exchanged(root, *owners);
                Some(mounted.map_err(|source| SnapshotError::Mount { what, source })?)
            }
            _ => None,
        });
    }
    let mut attached = Attached { namespace, names: Vec::new() };
    let secrets = secrets(&mut attached, id, mounts)?;
    for (number, (mount, view)) in mounts.iter().zip(&views).enumerate() {
        let view = match view {
            Some(view) => Some(attached.attach(format!("step-{id}-{number}"), view)?),
            None => None,
        };
        let secret = secrets.as_ref().map(|directory| directory.join(number.to_string()));
        plan.mounts.push(planned(mount, view, secret));
    }
    Ok(attached)
}

/// A copy of the mount that a directory is in, from there, with owners exchanged.
pub(crate) fn exchanged(root: &Path, owners: OwnerExchange) -> Result<OwnedFd, MountError> {
    let mount = clone_tree(root, Extent::Single)?;
    let OwnerExchange { users, groups } = owners;
    exchange_owners(&mount, Exchange { users, groups })?;
    Ok(mount)
}

/// A mount as the runtime has it; `place` is where a view is attached, `secret` the secret's file.
fn planned(mount: &StepMount, place: Option<PathBuf>, secret: Option<PathBuf>) -> Mount {
    let bind = |source| MountKind::Bind { source, recursive: false };
    let inside =
        |root: PathBuf, path: &str| bind(BindSource::Subpath { root, path: path.to_owned() });
    let closed = MountOptions { nosuid: true, nodev: true, noexec: true, ..options(false) };
    let (kind, options) = match &mount.kind {
        StepMountKind::View { path, writable, .. } => {
            (inside(place.unwrap_or_default(), path), options(*writable))
        }
        StepMountKind::Directory { root, path, writable, .. } => {
            (inside(place.unwrap_or_else(|| root.clone()), path), options(*writable))
        }
        StepMountKind::Tmpfs { size_bytes, writable } => {
            let kind = MountKind::Tmpfs {
                size_bytes: *size_bytes,
                mode: Some(0o1777),
                owner: None,
                options: Vec::new(),
            };
            (kind, MountOptions { nosuid: true, ..options(*writable) })
        }
        StepMountKind::Secret { mode, .. } => {
            let noexec = mode & 0o111 == 0;
            let source = BindSource::Path(secret.unwrap_or_default());
            (bind(source), MountOptions { noexec, ..closed })
        }
        StepMountKind::Socket { path } => {
            (bind(BindSource::Path(path.clone())), MountOptions { ..closed })
        }
    };
    Mount { target: mount.target.clone(), kind, options }
}

fn options(writable: bool) -> MountOptions {
    let access = if writable { Access::ReadWrite } else { Access::ReadOnly };
    MountOptions { access, ..MountOptions::default() }
}

/// Writes the secrets into memory, each under the number of its mount; `None` if there are none.
fn secrets(
    attached: &mut Attached<'_>,
    id: u32,
    mounts: &[StepMount],
) -> Result<Option<PathBuf>, SnapshotError> {
    if !mounts.iter().any(|mount| matches!(mount.kind, StepMountKind::Secret { .. })) {
        return Ok(None);
    }
    let memory = memory(&[c"noswap"]).or_else(|_before_linux_6_4| memory(&[]));
    let memory =
        memory.map_err(|source| SnapshotError::Mount { what: "the secrets".to_owned(), source })?;
    let directory = attached.attach(format!("step-{id}-secrets"), &memory)?;
    for (number, mount) in mounts.iter().enumerate() {
        let StepMountKind::Secret { content, mode, uid, gid } = &mount.kind else { continue };
        let path = directory.join(number.to_string());
        write_secret(&path, &content.0, (*mode, *uid, *gid)).map_err(|source| {
            SnapshotError::File { action: "write", path: path.clone(), source }
        })?;
    }
    Ok(Some(directory))
}

/// A tmpfs of a size that any command's secrets fit in.
fn memory(flags: &[&CStr]) -> Result<OwnedFd, MountError> {
    let context = FsContext::open(c"tmpfs")?;
    context.string(c"source", b"secrets")?.string(c"mode", b"0700")?;
    context.string(c"size", (2 * SECRET_LIMIT).to_string().as_bytes())?;
    for flag in flags {
        context.flag(flag)?;
    }
    context.mount(MountAttributes::empty())
}

fn write_secret(path: &Path, content: &[u8], (mode, uid, gid): (u32, u32, u32)) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(content)?;
    rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_crosses_as_it_is_and_is_not_shown() {
        let content = Content((0..=255).collect());
        let json = serde_json::to_string(&content).unwrap();
        let read: Content = serde_json::from_str(&json).unwrap();
        assert_eq!(read.0, content.0);
        assert_eq!(format!("{content:?}"), "****");
        for bad in ["\"0g\"", "\"+1\"", "\"012\"", "\"\u{e9}\"", "1"] {
            assert!(serde_json::from_str::<Content>(bad).is_err(), "{bad}");
        }
    }
}
