//! What a container gets of a device.

use std::{
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::PathBuf,
};

use super::{
    CdiDevice, CdiError,
    spec::{Edits, Mount as MountEdit, Node},
};
use crate::plan::{
    Access, BindSource, Device, DeviceKind, DeviceRule, Mount, MountKind, MountOptions, Plan,
    UserChoice,
};

/// Mode of a node whose specification and machine say nothing.
const MODE: u32 = 0o666;

/// Adds devices to a plan: variables, device nodes, mounts, groups.
///
/// # Errors
/// [`CdiError::Unsupported`], [`CdiError::Node`]; the plan is then not to be used.
pub fn inject(plan: &mut Plan, devices: &[CdiDevice]) -> Result<(), CdiError> {
    // What several devices of a file share is there once.
    let mut done: Vec<&Edits> = Vec::new();
    for device in devices {
        for edits in [&*device.shared, &device.own] {
            if !done.contains(&edits) {
                apply(plan, device, edits)?;
                done.push(edits);
            }
        }
    }
    Ok(())
}

fn apply(plan: &mut Plan, device: &CdiDevice, edits: &Edits) -> Result<(), CdiError> {
    let refused = [
        (!edits.hooks.is_empty(), "hooks: programs of the machine"),
        (edits.intel_rdt.is_some(), "intelRdt"),
        (!edits.net_devices.is_empty(), "netDevices"),
    ];
    if let Some((_, what)) = refused.iter().find(|(is_there, _)| *is_there) {
        return Err(unsupported(device, what));
    }
    for variable in &edits.env {
        let (name, _) = variable.split_once('=').ok_or_else(|| unsupported(device, variable))?;
        let same = format!("{name}=");
        plan.process.env.retain(|known| !known.starts_with(&same));
        plan.process.env.push(variable.clone());
    }
    for node in &edits.device_nodes {
        let (node, rule) = node_of(device, node)?;
        plan.devices.retain(|known| known.path != node.path);
        plan.devices.push(node);
        // Without rules everything is allowed.
        if !plan.cgroup.devices.is_empty() {
            plan.cgroup.devices.push(rule);
        }
    }
    for mount in &edits.mounts {
        plan.add_mount(mount_of(device, mount)?);
    }
    if let UserChoice::Named { groups, .. } = &mut plan.process.user {
        groups.extend(edits.additional_groups.iter().filter(|it| **it > 0).map(u32::to_string));
    }
    Ok(())
}

fn unsupported(device: &CdiDevice, what: &str) -> CdiError {
    CdiError::Unsupported { device: device.name.clone(), what: what.to_owned() }
}

fn node_of(device: &CdiDevice, edit: &Node) -> Result<(Device, DeviceRule), CdiError> {
    let host = edit.host_path.as_ref().unwrap_or(&edit.path);
    if !edit.path.starts_with('/') || !host.starts_with('/') {
        return Err(unsupported(device, &format!("the path `{}`", edit.path)));
    }
    let failed = |source| CdiError::Node { path: host.clone(), source };
    let given = match edit.kind.as_deref() {
        None => None,
        Some("c" | "u") => Some(DeviceKind::Char),
        Some("b") => Some(DeviceKind::Block),
        Some(other) => return Err(unsupported(device, &format!("a node of the type `{other}`"))),
    };
    let found = match (given, edit.major, edit.minor) {
        (Some(kind), Some(major), Some(minor)) => {
            (kind, major, minor, edit.file_mode.unwrap_or(MODE))
        }
        _ => {
            let facts = fs_err::metadata(host).map_err(failed)?;
            let kind = match facts.file_type() {
                kind if kind.is_char_device() => DeviceKind::Char,
                kind if kind.is_block_device() => DeviceKind::Block,
                _ => return Err(failed(std::io::Error::other("it is no device"))),
            };
            let number = facts.rdev();
            let mode = edit.file_mode.unwrap_or(facts.mode());
            let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
            (given.unwrap_or(kind), edit.major.unwrap_or(major), edit.minor.unwrap_or(minor), mode)
        }
    };
    let (kind, major, minor, mode) = found;
    let access = edit.permissions.as_deref().filter(|it| !it.is_empty()).unwrap_or("rwm");
    if access.contains(|letter| !"rwm".contains(letter)) {
        return Err(unsupported(device, &format!("the permissions `{access}`")));
    }
    let rule = DeviceRule {
        allow: true,
        kind: Some(kind),
        major: Some(major),
        minor: Some(minor),
        read: access.contains('r'),
        write: access.contains('w'),
        mknod: access.contains('m'),
    };
    let (uid, gid) = (edit.uid.unwrap_or(0), edit.gid.unwrap_or(0));
    let path = edit.path.clone();
    Ok((Device { path, kind, major, minor, mode: mode & 0o7777, uid, gid }, rule))
}

fn mount_of(device: &CdiDevice, edit: &MountEdit) -> Result<Mount, CdiError> {
    let is_bind = edit.kind.as_deref().is_none_or(|kind| matches!(kind, "" | "bind" | "none"));
    if !is_bind || !edit.host_path.starts_with('/') || !edit.container_path.starts_with('/') {
        return Err(unsupported(device, &format!("the mount at `{}`", edit.container_path)));
    }
    let (mut options, mut recursive) = (MountOptions::default(), false);
    for option in &edit.options {
        match option.as_str() {
            "ro" => options.access = Access::ReadOnly,
            "rw" => options.access = Access::ReadWrite,
            "nosuid" => options.nosuid = true,
            "nodev" => options.nodev = true,
            "noexec" => options.noexec = true,
            "rbind" => recursive = true,
            "bind" | "private" | "rprivate" => {}
            other => return Err(unsupported(device, &format!("the mount option `{other}`"))),
        }
    }
    let source = BindSource::Path(PathBuf::from(&edit.host_path));
    let kind = MountKind::Bind { source, recursive };
    Ok(Mount { target: edit.container_path.clone(), kind, options })
}
