//! The mounts of a [`Plan`] in the form that the child needs: filesystem options as C strings, bind
//! sources as detached mounts.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use davit_sys::mount::{
    AttributeChange, Extent, MountAttributes, Propagation as SysPropagation, set_attributes,
    within_mounts_of,
};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::OpenTreeFlags;

use super::paths;
use crate::cgroup::Cgroups;
use crate::child::resolve::{Links, Shape, is_procfs, open_in_root};
use crate::error::LaunchError;
use crate::plan::{
    Access, Atime, BindSource, Mount, MountKind, MountOptions, Namespace, Plan, Propagation,
};

/// A mount that the child makes.
#[derive(Debug)]
pub(crate) struct PreparedMount {
    /// Relative to the root.
    pub(crate) target: CString,
    pub(crate) links: Links,
    /// Whether it may cover something of procfs.
    pub(crate) covers_proc: bool,
    pub(crate) attributes: MountAttributes,
    pub(crate) kind: PreparedKind,
}

/// Options of a filesystem; an empty value is a flag.
pub(crate) type Options = Vec<(CString, CString)>;

/// What the child mounts.
#[derive(Debug)]
pub(crate) enum PreparedKind {
    /// A filesystem of the child's own namespaces.
    Fresh { filesystem: CString, options: Options },
    /// A tmpfs, perhaps with the mode of what it covers.
    Tmpfs { options: Options, keeps_mode: bool },
    /// A tmpfs with Docker's nodes.
    Dev { size: CString },
    /// A bind mount made by the parent.
    Detached { mount: OwnedFd, shape: Shape },
}

/// What the mounts are made from.
#[derive(Clone, Copy)]
pub(crate) struct Sources<'a> {
    pub(crate) descriptors: &'a [BorrowedFd<'a>],
    pub(crate) cgroups: &'a Cgroups,
    /// See [`crate::Launch::sharing`].
    pub(crate) sharing: Option<BorrowedFd<'a>>,
}

/// Prepares all mounts of the plan; the cgroup filesystem is left out where there is none.
pub(crate) fn prepare(
    plan: &Plan,
    sources: Sources<'_>,
) -> Result<Vec<PreparedMount>, LaunchError> {
    plan.mounts.iter().map(|mount| prepare_one(plan, mount, sources)).collect()
}

fn prepare_one(
    plan: &Plan,
    mount: &Mount,
    sources: Sources<'_>,
) -> Result<PreparedMount, LaunchError> {
    let target = paths::in_root(&mount.target)?;
    if target.is_empty() {
        let what = "a mount's target must not be /".to_owned();
        return Err(LaunchError::Plan { what });
    }
    let kind = match &mount.kind {
        MountKind::Proc => fresh("proc", &[]),
        MountKind::Sysfs => fresh("sysfs", &[]),
        MountKind::Mqueue => fresh("mqueue", &[]),
        MountKind::DevPts => devpts(),
        MountKind::Dev { size_bytes } => PreparedKind::Dev { size: c_text(size_bytes) },
        MountKind::Tmpfs { size_bytes, mode, owner, options } => {
            tmpfs(*size_bytes, *mode, *owner, options)?
        }
        MountKind::Cgroup => cgroup(plan, mount, sources)?,
        MountKind::Bind { source, recursive } => {
            let extent = if *recursive { Extent::Recursive } else { Extent::Single };
            bind(mount, source, extent, sources)?
        }
    };
    let covers_proc = is_own(&mount.kind) || covers_proc(&target, &kind);
    if !covers_proc && is_in_proc(&target) {
        let what = format!("{:?} cannot be mounted because it is inside /proc", mount.target);
        return Err(LaunchError::Plan { what });
    }
    Ok(PreparedMount {
        target,
        covers_proc,
        links: if is_own(&mount.kind) { Links::Refuse } else { Links::Follow },
        attributes: attributes(mount.options),
        kind,
    })
}

/// Kernel filesystems are never mounted where a link of the image leads (CVE-2019-19921).
fn is_own(kind: &MountKind) -> bool {
    !matches!(kind, MountKind::Bind { .. } | MountKind::Tmpfs { .. })
}

fn is_in_proc(target: &CStr) -> bool {
    matches!(target.to_bytes().strip_prefix(b"proc"), Some([] | [b'/', ..]))
}

/// Only these files of procfs may be covered, as runc has it: a mount elsewhere would hide what
/// protects the container, or be read by the kernel's and the runtime's own users of procfs.
fn covers_proc(target: &CStr, kind: &PreparedKind) -> bool {
    const FILES: [&CStr; 11] = [
        c"proc/cpuinfo",
        c"proc/diskstats",
        c"proc/loadavg",
        c"proc/meminfo",
        c"proc/net/dev",
        c"proc/slabinfo",
        c"proc/stat",
        c"proc/swaps",
        c"proc/sys/crypto/fips_enabled",
        c"proc/sys/kernel/ns_last_pid",
        c"proc/uptime",
    ];
    let is_procfs = |kind: &PreparedKind| match kind {
        PreparedKind::Detached { mount, .. } => is_procfs(mount).unwrap_or(false),
        _ => false,
    };
    FILES.contains(&target) || (target == c"proc" && is_procfs(kind))
}

fn c_text(value: impl ToString) -> CString {
    CString::new(value.to_string()).expect("numbers and own names hold no NUL")
}

fn fresh(filesystem: &str, options: &[(&str, &str)]) -> PreparedKind {
    let options = options.iter().map(|(key, value)| (c_text(key), c_text(value))).collect();
    PreparedKind::Fresh { filesystem: c_text(filesystem), options }
}

/// Group 5 is `tty` in every distribution; Docker counts on it as well.
fn devpts() -> PreparedKind {
    let options = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    fresh("devpts", &options)
}

fn tmpfs(
    size: Option<u64>,
    mode: Option<u32>,
    owner: Option<(u32, u32)>,
    more: &[(String, String)],
) -> Result<PreparedKind, LaunchError> {
    let mut options = Vec::new();
    if let Some(size) = size {
        options.push((c_text("size"), c_text(size)));
    }
    if let Some(mode) = mode {
        options.push((c_text("mode"), c_text(format!("{:o}", mode & 0o7777))));
    }
    if let Some((uid, gid)) = owner {
        options.push((c_text("uid"), c_text(uid)));
        options.push((c_text("gid"), c_text(gid)));
    }
    for (key, value) in more {
        options.push((paths::text(key)?, paths::text(value)?));
    }
    Ok(PreparedKind::Tmpfs { options, keeps_mode: mode.is_none() })
}

/// The unified hierarchy: seen from the container's cgroup in a namespace of its own, else the
/// host's view. On a hybrid host version 1 is not shown.
fn cgroup(plan: &Plan, mount: &Mount, sources: Sources<'_>) -> Result<PreparedKind, LaunchError> {
    if plan.namespaces.cgroup != Namespace::Host {
        return Ok(fresh("cgroup2", &[]));
    }
    let root = clone_tree(sources.cgroups.root(), Extent::Recursive)
        .map_err(|source| prepare_error("the cgroup hierarchy", source))?;
    change(&root, mount.options, Extent::Recursive)?;
    Ok(PreparedKind::Detached { mount: root, shape: Shape::Directory })
}

fn bind(
    mount: &Mount,
    source: &BindSource,
    extent: Extent,
    sources: Sources<'_>,
) -> Result<PreparedKind, LaunchError> {
    let clone = match source {
        BindSource::Path(path) => {
            let clone = || open_source(path).and_then(|found| clone_tree(&found, extent));
            match sources.sharing.filter(|_| mount.options.propagation == Propagation::Shared) {
                // A copy of the caller's own slave would share with nobody.
                Some(space) => {
                    within_mounts_of(space, clone).unwrap_or_else(|error| Err(error.source))
                }
                None => clone(),
            }
        }
        BindSource::Subpath { root, path } => {
            open_below(root, path).and_then(|found| clone_tree(&found, extent))
        }
        BindSource::Descriptor(number) => {
            let Some(descriptor) = sources.descriptors.get(*number) else {
                return Err(missing_descriptor(*number));
            };
            clone_descriptor(*descriptor, extent)
        }
    }
    .map_err(|cause| prepare_error(&describe(source), cause))?;
    let status = rustix::fs::fstat(&clone)
        .map_err(|errno| prepare_error(&describe(source), errno.into()))?;
    let is_directory =
        rustix::fs::FileType::from_raw_mode(status.st_mode) == rustix::fs::FileType::Directory;
    change(&clone, mount.options, extent)?;
    let shape = if is_directory { Shape::Directory } else { Shape::File };
    Ok(PreparedKind::Detached { mount: clone, shape })
}

fn describe(source: &BindSource) -> String {
    match source {
        BindSource::Path(path) => format!("bind source {}", path.display()),
        BindSource::Subpath { root, path } => {
            format!("bind source {} below {}", path, root.display())
        }
        BindSource::Descriptor(number) => format!("bind source number {number}"),
    }
}

fn prepare_error(object: &str, source: io::Error) -> LaunchError {
    LaunchError::Prepare { object: object.to_owned(), source }
}

/// A number in the plan without a descriptor.
pub(crate) fn missing_descriptor(number: usize) -> LaunchError {
    LaunchError::Plan { what: format!("the plan's descriptor {number} was not given") }
}

fn open_source(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// A path of a volume: what its users put there cannot lead out of it (CVE-2021-25741).
fn open_below(root: &Path, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, root, flags, Mode::empty())?;
    let path = CString::new(paths::clean(path)).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(open_in_root(&root, &path, OFlags::PATH, Links::Follow)?)
}

fn clone_tree(source: impl AsFd, extent: Extent) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if extent == Extent::Recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(source, c"", flags)?)
}

/// A copy of the mount; before Linux 6.15 a detached one cannot be copied and is used itself.
fn clone_descriptor(descriptor: BorrowedFd<'_>, extent: Extent) -> io::Result<OwnedFd> {
    match clone_tree(descriptor, extent) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
            Ok(rustix::io::fcntl_dupfd_cloexec(descriptor, 3)?)
        }
        result => result,
    }
}

/// Applies attributes and propagation to a bind mount; flags of the source are never taken away.
fn change(mount: &OwnedFd, options: MountOptions, extent: Extent) -> Result<(), LaunchError> {
    let propagation = Some(propagation(options.propagation));
    let all = AttributeChange {
        set: Some(bind_attributes(options)),
        propagation,
        ..AttributeChange::default()
    };
    let failed = |source: davit_sys::mount::MountError| LaunchError::Prepare {
        object: "attributes of a bind mount".to_owned(),
        source: source.source,
    };
    if options.access == Access::ReadOnlyTop && extent == Extent::Recursive {
        let top = AttributeChange {
            set: Some(MountAttributes::MOUNT_ATTR_RDONLY),
            ..AttributeChange::default()
        };
        set_attributes(mount, Extent::Single, top).map_err(failed)?;
    }
    set_attributes(mount, extent, all).map_err(failed)
}

fn bind_attributes(options: MountOptions) -> MountAttributes {
    let mut set = attributes(options);
    if options.access == Access::ReadOnlyTop {
        set &= !MountAttributes::MOUNT_ATTR_RDONLY;
    }
    // How a filesystem of the host keeps access times is not the container's business.
    set & !(MountAttributes::MOUNT_ATTR_STRICTATIME | MountAttributes::MOUNT_ATTR_NOATIME)
}

/// The plan's propagation in the words of the mount API.
fn propagation(propagation: Propagation) -> SysPropagation {
    match propagation {
        Propagation::Private => SysPropagation::Private,
        Propagation::Slave => SysPropagation::Slave,
        Propagation::Shared => SysPropagation::Shared,
    }
}

fn attributes(options: MountOptions) -> MountAttributes {
    let mut set = match options.atime {
        Atime::Relative => MountAttributes::empty(),
        Atime::Strict => MountAttributes::MOUNT_ATTR_STRICTATIME,
        Atime::Never => MountAttributes::MOUNT_ATTR_NOATIME,
    };
    set.set(MountAttributes::MOUNT_ATTR_RDONLY, options.access != Access::ReadWrite);
    set.set(MountAttributes::MOUNT_ATTR_NOSUID, options.nosuid);
    set.set(MountAttributes::MOUNT_ATTR_NODEV, options.nodev);
    set.set(MountAttributes::MOUNT_ATTR_NOEXEC, options.noexec);
    set
}
