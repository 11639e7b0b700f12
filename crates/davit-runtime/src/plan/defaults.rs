//! Docker's defaults (moby `daemon/pkg/oci/defaults.go`): mounts, masks, devices, sysctls.

use std::collections::BTreeMap;

use super::{
    Access, Atime, CgroupPlan, DeviceKind, DeviceRule, Init, Limits, Mount, MountKind,
    MountOptions, Namespace, Namespaces, Plan, ProcessPlan, UserChoice,
};
use crate::capability::Capabilities;
use crate::seccomp::Profile;

/// The search path of an image that names none.
pub const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/system/cpu/cpu*/thermal_throttle",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// 64 MiB, the size of `/dev` and `/dev/shm`.
const DEV_SIZE_BYTES: u64 = 64 << 20;

impl Plan {
    /// A container with Docker's defaults that runs `args` as root in new namespaces, in the cgroup `cgroup_path`.
    pub fn container(args: Vec<String>, cgroup_path: impl Into<String>) -> Self {
        Self {
            process: ProcessPlan::new(args),
            read_only_root: false,
            mounts: default_mounts(),
            namespaces: Namespaces::default(),
            hostname: None,
            domainname: None,
            sysctls: Self::default_sysctls(),
            masked_paths: MASKED.map(str::to_owned).to_vec(),
            readonly_paths: READONLY.map(str::to_owned).to_vec(),
            devices: Vec::new(),
            cgroup: CgroupPlan {
                path: cgroup_path.into(),
                limits: Limits::default(),
                devices: DeviceRule::defaults(),
            },
            init: Init::Command,
            emulator: None,
        }
    }

    /// Docker's kernel parameters; they are left out where the network namespace is not new.
    #[must_use]
    pub fn default_sysctls() -> BTreeMap<String, String> {
        BTreeMap::from([
            ("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned()),
            ("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned()),
        ])
    }

    /// Adds a mount: it replaces one at the same target, and comes after those that its target lies
    /// in and before those that lie in it.
    pub fn add_mount(&mut self, mount: Mount) {
        let path = crate::launch::paths::clean(&mount.target);
        self.mounts.retain(|other| crate::launch::paths::clean(&other.target) != path);
        let inside = |other: &Mount| {
            let other = crate::launch::paths::clean(&other.target);
            path.is_empty() || other.strip_prefix(&path).is_some_and(|rest| rest.starts_with('/'))
        };
        let place = self.mounts.iter().position(inside).unwrap_or(self.mounts.len());
        self.mounts.insert(place, mount);
    }

    /// Turns the protections off as `--privileged` does: all capabilities, no filter, no masks, writable `/sys` and cgroups,
    /// every device allowed. The host's device nodes are the caller's to add.
    pub fn make_privileged(&mut self) {
        self.process.capabilities = Capabilities::ALL;
        self.process.seccomp = Profile::Unconfined;
        self.masked_paths.clear();
        self.readonly_paths.clear();
        self.cgroup.devices.clear();
        for mount in &mut self.mounts {
            if matches!(mount.kind, MountKind::Sysfs | MountKind::Cgroup) {
                mount.options.access = Access::ReadWrite;
            }
        }
    }
}

impl ProcessPlan {
    /// A process with Docker's capabilities and filter, as root in `/`.
    pub fn new(args: Vec<String>) -> Self {
        Self {
            args,
            env: vec![DEFAULT_PATH.to_owned()],
            cwd: "/".to_owned(),
            create_cwd: true,
            user: UserChoice::Ids { uid: 0, gid: 0, groups: Vec::new() },
            capabilities: Capabilities::DEFAULT,
            no_new_privileges: false,
            seccomp: Profile::Default,
            apparmor: None,
            rlimits: Vec::new(),
            oom_score_adj: None,
            umask: None,
            dies_with_parent: false,
        }
    }
}

impl Default for Namespaces {
    /// All new.
    fn default() -> Self {
        let new = Namespace::New;
        Self { pid: new, network: new, ipc: new, uts: new, cgroup: new }
    }
}

fn default_mounts() -> Vec<Mount> {
    let locked =
        MountOptions { nosuid: true, nodev: true, noexec: true, ..MountOptions::default() };
    let read_only = MountOptions { access: Access::ReadOnly, ..locked };
    let dev = MountOptions { nosuid: true, atime: Atime::Strict, ..MountOptions::default() };
    let pts = MountOptions { nosuid: true, noexec: true, ..MountOptions::default() };
    let shm = MountKind::Tmpfs {
        size_bytes: Some(DEV_SIZE_BYTES),
        mode: Some(0o1777),
        owner: None,
        options: Vec::new(),
    };
    let mount = |target: &str, kind, options| Mount { target: target.to_owned(), kind, options };
    vec![
        mount("/proc", MountKind::Proc, locked),
        mount("/dev", MountKind::Dev { size_bytes: DEV_SIZE_BYTES }, dev),
        mount("/dev/pts", MountKind::DevPts, pts),
        mount("/sys", MountKind::Sysfs, read_only),
        mount("/sys/fs/cgroup", MountKind::Cgroup, read_only),
        mount("/dev/mqueue", MountKind::Mqueue, locked),
        mount("/dev/shm", shm, locked),
    ]
}

impl DeviceRule {
    /// Docker's rules: nothing but nodes of any kind may be made; null, zero, full, random, urandom, tty, console, ptmx and
    /// pseudo-terminals may be used; never fuse.
    pub fn defaults() -> Vec<Self> {
        let use_char = |major, minor| Self::allow(Some(DeviceKind::Char), Some(major), minor);
        let make = |kind| Self { read: false, write: false, ..Self::allow(Some(kind), None, None) };
        let fuse = Self { allow: false, ..use_char(10, Some(229)) };
        vec![
            make(DeviceKind::Char),
            make(DeviceKind::Block),
            use_char(1, Some(3)),
            use_char(1, Some(5)),
            use_char(1, Some(7)),
            use_char(1, Some(8)),
            use_char(1, Some(9)),
            use_char(5, Some(0)),
            use_char(5, Some(1)),
            use_char(5, Some(2)),
            use_char(136, None),
            fuse,
        ]
    }

    /// A rule that allows reading, writing and making.
    pub fn allow(kind: Option<DeviceKind>, major: Option<u32>, minor: Option<u32>) -> Self {
        Self { allow: true, kind, major, minor, read: true, write: true, mknod: true }
    }
}
