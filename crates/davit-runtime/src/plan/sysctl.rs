//! Which kernel parameters belong to a namespace, and to which one. Pure.

/// The namespace that a kernel parameter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SysctlNamespace {
    /// `net.*`.
    Network,
    /// System V IPC and message queues.
    Ipc,
    /// The domain name; the host name has an option of its own.
    Uts,
}

/// Parameters of the IPC namespace; a `/` at the end stands for everything below.
const IPC: [&str; 9] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
    "fs/mqueue/",
];

/// Path of a parameter below `/proc/sys`: `sysctl(8)` takes names with dots or slashes.
#[must_use]
pub fn sysctl_path(name: &str) -> String {
    if name.contains('/') { name.to_owned() } else { name.replace('.', "/") }
}

/// The namespace of a parameter; `None` for one that would change the whole machine, and for what
/// is no name.
#[must_use]
pub fn sysctl_namespace(name: &str) -> Option<SysctlNamespace> {
    let path = sysctl_path(name);
    if path.split('/').any(|component| matches!(component, "" | "." | "..")) {
        return None;
    }
    let is_ipc =
        IPC.iter().any(|own| path == *own || (own.ends_with('/') && path.starts_with(own)));
    if path.starts_with("net/") {
        Some(SysctlNamespace::Network)
    } else if is_ipc {
        Some(SysctlNamespace::Ipc)
    } else if path == "kernel/domainname" {
        Some(SysctlNamespace::Uts)
    } else {
        None
    }
}
