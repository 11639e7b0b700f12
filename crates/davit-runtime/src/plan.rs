//! What a container is to be: pure data, without descriptors, serialisable.
//!
//! [`Plan::container`] gives Docker's defaults (capabilities, mounts, masks, devices, sysctls); callers change fields from there.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::capability::Capabilities;
use crate::emulation::Emulator;
use crate::seccomp::Profile;

mod defaults;
mod sysctl;

pub use self::{
    defaults::DEFAULT_PATH,
    sysctl::{SysctlNamespace, sysctl_namespace, sysctl_path},
};

/// A container to launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The first process.
    pub process: ProcessPlan,
    /// Mounts the root filesystem read-only once everything is in place.
    pub read_only_root: bool,
    /// Mounts in the order in which they are made; sorted so that a parent precedes its children.
    pub mounts: Vec<Mount>,
    /// Which namespaces are new, shared or joined.
    pub namespaces: Namespaces,
    /// Host name in a new UTS namespace.
    pub hostname: Option<String>,
    /// NIS domain name in a new UTS namespace.
    pub domainname: Option<String>,
    /// Kernel parameters (`net.ipv4.ip_forward`), written after the network is ready.
    pub sysctls: BTreeMap<String, String>,
    /// Paths hidden by `/dev/null` or an empty read-only directory; missing ones are skipped. `*` matches within one component.
    pub masked_paths: Vec<String>,
    /// Paths bound read-only onto themselves; missing ones are skipped.
    pub readonly_paths: Vec<String>,
    /// Device nodes made besides the default ones.
    pub devices: Vec<Device>,
    /// The container's cgroup.
    pub cgroup: CgroupPlan,
    /// Whether a small reaper is process 1.
    pub init: Init,
    /// What executes its programs, where they are for another architecture and the machine itself
    /// has nothing for them.
    #[serde(default)]
    pub emulator: Option<Emulator>,
}

/// A process to execute, in a new container or a running one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessPlan {
    /// Command and arguments; the first without `/` is searched in the `PATH` of `env`.
    pub args: Vec<String>,
    /// `NAME=value`; `HOME` is added from the user database if absent.
    pub env: Vec<String>,
    /// Working directory, absolute.
    pub cwd: String,
    /// Makes a missing working directory (mode 0755), as Docker does at create.
    pub create_cwd: bool,
    /// Who runs it.
    pub user: UserChoice,
    /// Capability sets.
    pub capabilities: Capabilities,
    /// Sets `no_new_privs`.
    pub no_new_privileges: bool,
    /// System call filter.
    pub seccomp: Profile,
    /// AppArmor profile to change to on exec; it must be loaded.
    pub apparmor: Option<String>,
    /// Resource limits; those of `Origin::Default` are clamped to what is permitted.
    pub rlimits: Vec<Rlimit>,
    /// `oom_score_adj`; lowering below the caller's without privilege is clamped when `None` was asked.
    pub oom_score_adj: Option<i32>,
    /// File mode creation mask; `None` = 0022.
    pub umask: Option<u32>,
    /// Whether it is killed when its parent, the launching thread, ends.
    #[serde(default)]
    pub dies_with_parent: bool,
}

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserChoice {
    /// `user[:group]` as in Docker's `--user` (names or numbers; empty = root), looked up in the root filesystem's files,
    /// and further groups (names or numbers).
    Named {
        /// `user[:group]`.
        user: String,
        /// Supplementary groups besides those of `/etc/group`.
        groups: Vec<String>,
    },
    /// Numbers that need no lookup.
    Ids {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
        /// Supplementary groups.
        groups: Vec<u32>,
    },
}

/// A resource limit of `setrlimit(2)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Docker's name: `nofile`, `nproc`, `core`, …
    pub name: String,
    /// Soft limit; `u64::MAX` = unlimited.
    pub soft: u64,
    /// Hard limit; `u64::MAX` = unlimited.
    pub hard: u64,
    /// Whether the user asked for it.
    pub origin: Origin,
}

/// Where a value comes from: what the user did not ask is clamped, never an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// Asked by the user: failing to apply it is an error.
    Asked,
    /// A default: clamped to what the machine permits.
    Default,
}

/// Mount propagation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Propagation {
    /// No propagation.
    #[default]
    Private,
    /// The host's mounts appear in the container.
    Slave,
    /// Both ways.
    Shared,
}

/// One mount inside the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the container; resolved inside the root, created if missing.
    pub target: String,
    /// What is mounted.
    pub kind: MountKind,
    /// Attributes.
    pub options: MountOptions,
}

/// What a [`Mount`] shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// procfs of the container's PID namespace.
    Proc,
    /// sysfs of the container's network namespace (a bind of the host's where that is shared).
    Sysfs,
    /// tmpfs with Docker's device nodes and links, and those of [`Plan::devices`].
    Dev {
        /// Size limit in bytes.
        size_bytes: u64,
    },
    /// A devpts instance of its own.
    DevPts,
    /// POSIX message queues of the container's IPC namespace.
    Mqueue,
    /// The cgroup hierarchy as the container sees it.
    Cgroup,
    /// An empty tmpfs.
    Tmpfs {
        /// Size limit in bytes; `None` = the kernel's default.
        size_bytes: Option<u64>,
        /// Mode of its root; `None` = that of the directory it covers.
        mode: Option<u32>,
        /// Owner of its root.
        owner: Option<(u32, u32)>,
        /// More options of the filesystem (`nr_inodes`, `mpol`, a size in per cent), as they are.
        #[serde(default)]
        options: Vec<(String, String)>,
    },
    /// A file or directory of the host.
    Bind {
        /// Where it comes from.
        source: BindSource,
        /// Whether mounts below the source come along.
        recursive: bool,
    },
}

/// The source of a bind mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BindSource {
    /// A path of the caller's mount namespace.
    Path(PathBuf),
    /// A path below a directory of the caller's mount namespace, resolved without leaving it (volume subpath).
    Subpath {
        /// The directory.
        root: PathBuf,
        /// Path below it; symbolic links are resolved inside.
        path: String,
    },
    /// Number of a descriptor in [`crate::Launch::descriptors`]: a detached mount (moved), or any other descriptor (bound).
    Descriptor(usize),
}

/// Attributes of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MountOptions {
    /// Read or write.
    pub access: Access,
    /// Ignores set-user-ID bits.
    pub nosuid: bool,
    /// Ignores device nodes.
    pub nodev: bool,
    /// Refuses to execute.
    pub noexec: bool,
    /// How access times are kept.
    pub atime: Atime,
    /// Propagation; recursive for recursive binds.
    pub propagation: Propagation,
}

/// Whether a mount may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Access {
    /// Read and write.
    #[default]
    ReadWrite,
    /// Read-only, including mounts below it where the kernel can (5.12).
    ReadOnly,
    /// Read-only, mounts below it stay as they are.
    ReadOnlyTop,
}

/// Access times of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Atime {
    /// The kernel's default.
    #[default]
    Relative,
    /// Always updated.
    Strict,
    /// Never updated.
    Never,
}

/// The namespaces of a container. The mount namespace is always new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Processes.
    pub pid: Namespace,
    /// Network.
    pub network: Namespace,
    /// System V IPC and message queues.
    pub ipc: Namespace,
    /// Host name.
    pub uts: Namespace,
    /// Cgroup root.
    pub cgroup: Namespace,
}

/// One namespace of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Namespace {
    /// A new one.
    New,
    /// The caller's.
    Host,
    /// Number of a descriptor in [`crate::Launch::descriptors`] that is a namespace.
    Join(usize),
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Absolute path in the container, usually below `/dev`.
    pub path: String,
    /// Type.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Type of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    /// Character device.
    Char,
    /// Block device.
    Block,
}

/// The cgroup of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPlan {
    /// Path below each hierarchy's root, without leading `/`: `davit/ID`.
    pub path: String,
    /// Limits that were asked.
    pub limits: Limits,
    /// Device access; empty = everything is allowed (privileged).
    pub devices: Vec<DeviceRule>,
}

/// Resource limits; only those that are `Some` are written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory plus swap in bytes as Docker counts it; -1 = unlimited swap.
    pub memory_swap_bytes: Option<i64>,
    /// Soft limit in bytes.
    pub memory_reservation_bytes: Option<u64>,
    /// 0 to 100 (cgroup v1 only).
    pub memory_swappiness: Option<u64>,
    /// CPU time per period in µs.
    pub cpu_quota_us: Option<i64>,
    /// Period in µs; 100,000 if only the quota is given.
    pub cpu_period_us: Option<u64>,
    /// Relative weight, 2 to 262,144 (1,024 = normal).
    pub cpu_shares: Option<u64>,
    /// List of CPUs (`0-3,5`).
    pub cpuset_cpus: Option<String>,
    /// List of memory nodes.
    pub cpuset_mems: Option<String>,
    /// Processes and threads; -1 = unlimited.
    pub pids: Option<i64>,
    /// 10 to 1,000.
    pub blkio_weight: Option<u16>,
    /// Limits per block device.
    pub io: Vec<IoLimit>,
}

/// Input and output limit of one block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct IoLimit {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Bytes read per second.
    pub read_bytes: Option<u64>,
    /// Bytes written per second.
    pub write_bytes: Option<u64>,
    /// Reads per second.
    pub read_operations: Option<u64>,
    /// Writes per second.
    pub write_operations: Option<u64>,
}

/// A rule of the device filter; the last rule that matches decides, and what none matches is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// Whether a match allows.
    pub allow: bool,
    /// Type; `None` = both.
    pub kind: Option<DeviceKind>,
    /// Major number; `None` = any.
    pub major: Option<u32>,
    /// Minor number; `None` = any.
    pub minor: Option<u32>,
    /// May read.
    pub read: bool,
    /// May write.
    pub write: bool,
    /// May make nodes.
    pub mknod: bool,
}

/// Whether a reaper is process 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Init {
    /// The command is process 1.
    #[default]
    Command,
    /// davit's embedded init is process 1: it reaps, forwards signals and exits as the command does. No file of the image is used.
    Reaper,
}
