//! A [`Plan`] in the form that the child needs.

use std::{
    ffi::CString,
    os::fd::{BorrowedFd, OwnedFd},
};

use davit_sys::process::NewNamespaces;
use rustix::{fs::FileType, thread::LinkNameSpaceType};

use super::mounts::{self, PreparedMount, Sources, missing_descriptor};
use super::paths;
use super::process::PreparedProcess;
use crate::error::LaunchError;
use crate::plan::{
    Device, DeviceKind, Init, Namespace, Plan, SysctlNamespace, sysctl_namespace, sysctl_path,
};

/// Everything that the first process needs, without anything left to allocate.
#[derive(Debug)]
pub(crate) struct Prepared<'a> {
    pub(crate) process: PreparedProcess<'a>,
    pub(crate) root: BorrowedFd<'a>,
    pub(crate) read_only_root: bool,
    pub(crate) mounts: Vec<PreparedMount>,
    pub(crate) devices: Vec<PreparedDevice>,
    pub(crate) readonly_paths: Vec<CString>,
    pub(crate) masked_paths: Vec<CString>,
    pub(crate) hostname: Option<CString>,
    pub(crate) domainname: Option<CString>,
    /// Path below `/proc/sys`, value.
    pub(crate) sysctls: Vec<(CString, CString)>,
    /// Namespaces that the child enters itself.
    pub(crate) joined: Vec<(BorrowedFd<'a>, LinkNameSpaceType)>,
    pub(crate) new_cgroup_namespace: bool,
    pub(crate) v1_procs: Vec<OwnedFd>,
}

/// A device node.
#[derive(Debug)]
pub(crate) struct PreparedDevice {
    /// Directory, relative to the root.
    pub(crate) parent: CString,
    pub(crate) name: CString,
    pub(crate) kind: FileType,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Prepares the plan; the cgroups of version 1 are added later.
pub(crate) fn prepare<'a>(
    plan: &Plan,
    mut process: PreparedProcess<'a>,
    root: BorrowedFd<'a>,
    sources: Sources<'a>,
) -> Result<Prepared<'a>, LaunchError> {
    process.reaper = plan.init == Init::Reaper;
    let spaces = plan.namespaces;
    if spaces.uts == Namespace::Host && (plan.hostname.is_some() || plan.domainname.is_some()) {
        let what = "a host name needs a UTS namespace of its own".to_owned();
        return Err(LaunchError::Plan { what });
    }
    let optional = |text: &Option<String>| text.as_deref().map(paths::text).transpose();
    Ok(Prepared {
        process,
        root,
        read_only_root: plan.read_only_root,
        mounts: mounts::prepare(plan, sources)?,
        devices: plan.devices.iter().map(device).collect::<Result<_, _>>()?,
        readonly_paths: in_root(&plan.readonly_paths)?,
        masked_paths: in_root(&expand(&plan.masked_paths))?,
        hostname: optional(&plan.hostname)?,
        domainname: optional(&plan.domainname)?,
        sysctls: sysctls(plan)?,
        joined: joined(plan, sources.descriptors)?,
        new_cgroup_namespace: spaces.cgroup == Namespace::New,
        v1_procs: Vec::new(),
    })
}

/// The namespaces that `clone3` makes. The cgroup namespace is not among them: its root would be
/// the parent's cgroup, since the child enters its own cgroup later in the same call. Nor are those
/// that were made beforehand.
pub(crate) fn new_namespaces(
    plan: &Plan,
    beforehand: &[(BorrowedFd<'_>, LinkNameSpaceType)],
) -> NewNamespaces {
    let spaces = plan.namespaces;
    let is_made = |wanted| beforehand.iter().any(|(_, kind)| *kind == wanted);
    let unless_made = |space, kind| if is_made(kind) { Namespace::Host } else { space };
    let network = unless_made(spaces.network, LinkNameSpaceType::Network);
    let ipc = unless_made(spaces.ipc, LinkNameSpaceType::InterProcessCommunication);
    let uts = unless_made(spaces.uts, LinkNameSpaceType::HostNameAndNISDomainName);
    [
        (spaces.pid, NewNamespaces::PID),
        (network, NewNamespaces::NETWORK),
        (ipc, NewNamespaces::IPC),
        (uts, NewNamespaces::UTS),
    ]
    .into_iter()
    .filter(|(space, _)| *space == Namespace::New)
    .fold(NewNamespaces::MOUNT, |set, (_, one)| set.and(one))
}

fn joined<'a>(
    plan: &Plan,
    descriptors: &'a [BorrowedFd<'a>],
) -> Result<Vec<(BorrowedFd<'a>, LinkNameSpaceType)>, LaunchError> {
    let spaces = plan.namespaces;
    let mut joined = Vec::new();
    for (space, kind) in [
        (spaces.network, LinkNameSpaceType::Network),
        (spaces.ipc, LinkNameSpaceType::InterProcessCommunication),
        (spaces.uts, LinkNameSpaceType::HostNameAndNISDomainName),
        (spaces.cgroup, LinkNameSpaceType::ControlGroup),
    ] {
        if let Namespace::Join(number) = space {
            let descriptor = descriptors.get(number).ok_or_else(|| missing_descriptor(number))?;
            joined.push((*descriptor, kind));
        }
    }
    Ok(joined)
}

fn in_root(paths: &[String]) -> Result<Vec<CString>, LaunchError> {
    paths.iter().map(|path| paths::in_root(path)).collect()
}

/// Replaces `*` in paths below `/sys` by what the host has: sysfs shows the container the same.
fn expand(patterns: &[String]) -> Vec<String> {
    let mut paths = Vec::new();
    for pattern in patterns {
        match pattern.split_once('*') {
            None => paths.push(pattern.clone()),
            Some((before, after)) if pattern.starts_with("/sys/") => {
                paths.extend(matches(before, after));
            }
            // No other filesystem is the same inside.
            Some(_) => {}
        }
    }
    paths
}

/// Existing paths `before` + anything but `/` + `after`.
fn matches(before: &str, after: &str) -> Vec<String> {
    let Some((directory, prefix)) = before.rsplit_once('/') else { return Vec::new() };
    let Ok(entries) = fs_err::read_dir(directory) else { return Vec::new() };
    let mut found: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .map(|name| format!("{directory}/{name}{after}"))
        .filter(|path| std::path::Path::new(path).exists())
        .collect();
    found.sort();
    found
}

fn device(device: &Device) -> Result<PreparedDevice, LaunchError> {
    let path = paths::clean(&device.path);
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
    if name.is_empty() || !device.path.starts_with('/') {
        return Err(LaunchError::Plan { what: format!("device path {:?}", device.path) });
    }
    Ok(PreparedDevice {
        parent: paths::text(parent)?,
        name: paths::text(name)?,
        kind: match device.kind {
            DeviceKind::Char => FileType::CharacterDevice,
            DeviceKind::Block => FileType::BlockDevice,
        },
        major: device.major,
        minor: device.minor,
        mode: device.mode,
        uid: device.uid,
        gid: device.gid,
    })
}

/// Kernel parameters that belong to a namespace of the container; any other would change the host.
fn sysctls(plan: &Plan) -> Result<Vec<(CString, CString)>, LaunchError> {
    let defaults = Plan::default_sysctls();
    let mut prepared = Vec::new();
    for (name, value) in &plan.sysctls {
        let space = match sysctl_namespace(name) {
            Some(SysctlNamespace::Network) => plan.namespaces.network,
            Some(SysctlNamespace::Ipc) => plan.namespaces.ipc,
            Some(SysctlNamespace::Uts) => plan.namespaces.uts,
            None => {
                let what = format!("kernel parameter {name:?} is not of a namespace");
                return Err(LaunchError::Plan { what });
            }
        };
        // What Docker sets by itself concerns new namespaces only.
        let is_default = defaults.get(name) == Some(value);
        if is_default && space != Namespace::New {
            continue;
        }
        if space == Namespace::Host {
            let what = format!("kernel parameter {name:?} would change the host");
            return Err(LaunchError::Plan { what });
        }
        prepared.push((paths::text(&sysctl_path(name))?, paths::text(value)?));
    }
    Ok(prepared)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, change: impl FnOnce(&mut Plan)) -> Result<String, LaunchError> {
        let mut plan = Plan::container(vec!["true".to_owned()], "x");
        plan.sysctls.clear();
        plan.sysctls.insert(name.to_owned(), "1".to_owned());
        change(&mut plan);
        sysctls(&plan).map(|list| list[0].0.to_str().unwrap().to_owned())
    }

    #[test]
    fn only_namespaced_parameters_are_written() {
        assert_eq!(check("net.ipv4.ip_forward", |_| ()).unwrap(), "net/ipv4/ip_forward");
        assert_eq!(check("net/ipv4/conf/eth0.1/x", |_| ()).unwrap(), "net/ipv4/conf/eth0.1/x");
        assert_eq!(check("fs.mqueue.msg_max", |_| ()).unwrap(), "fs/mqueue/msg_max");
        assert_eq!(check("kernel.shmmax", |_| ()).unwrap(), "kernel/shmmax");
        for name in
            ["kernel.core_pattern", "vm.swappiness", "net/../kernel/core_pattern", "fs.mqueue"]
        {
            assert!(check(name, |_| ()).is_err(), "{name}");
        }
        let host = |plan: &mut Plan| plan.namespaces.network = Namespace::Host;
        assert!(check("net.ipv4.ip_forward", host).is_err());
    }
}
