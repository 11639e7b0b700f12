//! Devices of the host in a container, and rules for those that it may make.

use std::{
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use davit_runtime::{
    cdi::{CdiError, Devices, inject},
    plan::{Device, DeviceKind, DeviceRule, Plan},
};

use super::super::{ContainerError, spec::DeviceSpec};

pub(super) fn add_device(wish: &DeviceSpec, plan: &mut Plan) -> Result<(), ContainerError> {
    let host = Path::new(&wish.host);
    let metadata = fs_err::metadata(host).map_err(|error| {
        let reason = match error.kind() {
            std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            _ => error.to_string(),
        };
        ContainerError::Invalid(gathering(&wish.host, &reason))
    })?;
    let mut found = Vec::new();
    if metadata.is_dir() {
        devices_below(host, &wish.container, &mut found);
    } else {
        found.extend(device(host, &wish.container));
    }
    if found.is_empty() {
        return Err(ContainerError::Invalid(gathering(&wish.host, "not a device node")));
    }
    for device in found {
        let permission = |letter| wish.permissions.contains(letter);
        if !plan.cgroup.devices.is_empty() {
            plan.cgroup.devices.push(DeviceRule {
                allow: true,
                kind: Some(device.kind),
                major: Some(device.major),
                minor: Some(device.minor),
                read: permission('r'),
                write: permission('w'),
                mknod: permission('m'),
            });
        }
        plan.devices.retain(|known| known.path != device.path);
        plan.devices.push(device);
    }
    Ok(())
}

/// Adds devices by their names; each must be known.
pub(super) fn add_named(
    wishes: &[&DeviceSpec],
    directories: &[PathBuf],
    plan: &mut Plan,
) -> Result<(), ContainerError> {
    let known = Devices::read(directories);
    let mut all = Vec::new();
    for wish in wishes {
        let found = known.find(&wish.host).map_err(refused)?;
        if found.is_empty() {
            let name = &wish.host;
            let mut text = format!("CDI device injection failed: unresolvable CDI devices {name}");
            for problem in known.problems() {
                text.push_str("; ");
                text.push_str(problem);
            }
            return Err(ContainerError::Invalid(text));
        }
        all.extend(found);
    }
    inject(plan, &all).map_err(refused)
}

fn refused(error: CdiError) -> ContainerError {
    let text = match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    ContainerError::Invalid(text)
}

/// Docker's sentence for a device that cannot be shown.
fn gathering(path: &str, reason: &str) -> String {
    format!("error gathering device information while adding custom device \"{path}\": {reason}")
}

/// What every container has of its own in `/dev`: filesystems, its console, and the multiplexer of
/// its own terminals.
const OWN: [&str; 6] = ["pts", "shm", "fd", "mqueue", "console", "ptmx"];

pub(super) fn devices_below(host: &Path, container: &str, found: &mut Vec<Device>) {
    for entry in fs_err::read_dir(host).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| !OWN.contains(name)) else {
            continue;
        };
        let path = format!("{container}/{name}");
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => devices_below(&entry.path(), &path, found),
            Ok(kind) if kind.is_char_device() || kind.is_block_device() => {
                found.extend(device(&entry.path(), &path));
            }
            _ => {}
        }
    }
}

fn device(host: &Path, container: &str) -> Option<Device> {
    let metadata = fs_err::metadata(host).ok()?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => DeviceKind::Char,
        kind if kind.is_block_device() => DeviceKind::Block,
        _ => return None,
    };
    Some(Device {
        path: container.to_owned(),
        kind,
        major: rustix::fs::major(metadata.rdev()),
        minor: rustix::fs::minor(metadata.rdev()),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

/// Parses `c 1:3 rwm` (`--device-cgroup-rule`), as strictly as Docker.
///
/// # Errors
/// [`ContainerError::Invalid`]: no kind, two numbers or `*`, and letters of `rwm`.
pub fn device_rule(text: &str) -> Result<DeviceRule, ContainerError> {
    let invalid = || ContainerError::Invalid(format!("invalid device cgroup format: {text:?}"));
    let words: Vec<&str> = text.split_whitespace().collect();
    let [kind, numbers, permissions] = words[..] else { return Err(invalid()) };
    let (major, minor) = numbers.split_once(':').ok_or_else(invalid)?;
    let number = |text: &str| match text {
        "*" => Ok(None),
        signed if signed.starts_with('+') => Err(invalid()),
        digits => digits.parse().map(Some).map_err(|_| invalid()),
    };
    if permissions.len() > 3 || permissions.contains(|letter| !"rwm".contains(letter)) {
        return Err(invalid());
    }
    let kind = match kind {
        "a" => None,
        "b" => Some(DeviceKind::Block),
        "c" => Some(DeviceKind::Char),
        _ => return Err(invalid()),
    };
    Ok(DeviceRule {
        allow: true,
        kind,
        major: number(major)?,
        minor: number(minor)?,
        read: permissions.contains('r'),
        write: permissions.contains('w'),
        mknod: permissions.contains('m'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_rules_parse() {
        let rule = device_rule("c 1:* rw").unwrap();
        assert_eq!((rule.major, rule.minor, rule.mknod), (Some(1), None, false));
        for bad in
            ["", "c 1:3", "x 1:3 r", "c 1 r", "c a:b r", "c 1:3 rx", "c 1:3 rwmr", "c 1:+3 r"]
        {
            assert!(device_rule(bad).is_err(), "{bad:?}");
        }
    }
}
