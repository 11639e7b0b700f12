//! Mounts in `HostConfig`: each as its flag asked for it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::super::{ContainerSpec, MountSource, MountSpec, VolumeMaking};

/// `Binds`: what `--volume` asked for.
pub(super) fn binds(spec: &ContainerSpec) -> Vec<String> {
    let text = |mount: &MountSpec| {
        let source = match &mount.source {
            MountSource::Bind { path, .. } => path,
            MountSource::Volume { name, anonymous: false, .. } => name,
            _ => return None,
        };
        let mode = if mount.mode.is_empty() { String::new() } else { format!(":{}", mount.mode) };
        Some(format!("{source}:{}{mode}", mount.target))
    };
    spec.mounts.iter().filter(|mount| !mount.source.is_listed()).filter_map(text).collect()
}

/// `Tmpfs`: what `--tmpfs` asked for.
pub(super) fn tmpfs(spec: &ContainerSpec) -> Value {
    let entries = spec.mounts.iter().filter(|mount| is_short_tmpfs(mount));
    let map: BTreeMap<&str, &str> =
        entries.map(|mount| (mount.target.as_str(), mount.mode.as_str())).collect();
    if map.is_empty() { Value::Null } else { json!(map) }
}

/// Of `--tmpfs`, which is in `HostConfig.Tmpfs` alone.
pub(super) fn is_short_tmpfs(mount: &MountSpec) -> bool {
    matches!(mount.source, MountSource::Tmpfs { .. }) && !mount.source.is_listed()
}

/// `Mounts`: what `--mount` asked for; Docker leaves the field out where there is none.
pub(super) fn listed(spec: &ContainerSpec) -> Vec<Value> {
    spec.mounts.iter().filter(|mount| mount.source.is_listed()).map(mount_value).collect()
}

fn mount_value(mount: &MountSpec) -> Value {
    let (kind, source, options) = match &mount.source {
        MountSource::Bind { path, .. } => ("bind", path.as_str(), ("BindOptions", bind(mount))),
        MountSource::Volume { name, anonymous, .. } => {
            let name = if *anonymous { "" } else { name };
            ("volume", name, ("VolumeOptions", volume(&mount.source)))
        }
        MountSource::Tmpfs { .. } => ("tmpfs", "", ("TmpfsOptions", tmpfs_options(&mount.source))),
    };
    let (key, options) = options;
    present([
        ("Type", kind.into()),
        ("Source", source.into()),
        ("Target", mount.target.as_str().into()),
        ("ReadOnly", mount.access.is_on().into()),
        (key, options),
    ])
}

fn bind(mount: &MountSpec) -> Value {
    let (non_recursive, writable_below) = match mount.source {
        MountSource::Bind { recursive, writable_below, .. } => (!recursive, writable_below),
        _ => (false, false),
    };
    present([
        ("Propagation", mount.propagation.as_str().into()),
        ("NonRecursive", non_recursive.into()),
        ("ReadOnlyNonRecursive", writable_below.into()),
    ])
}

fn volume(source: &MountSource) -> Value {
    let MountSource::Volume { copy_up, subpath, making, .. } = source else { return Value::Null };
    let VolumeMaking { driver, labels, options } = making;
    let driver = present([("Name", driver.as_str().into()), ("Options", json!(options))]);
    present([
        ("NoCopy", (!copy_up).into()),
        ("Labels", json!(labels)),
        ("Subpath", json!(subpath)),
        ("DriverConfig", driver),
    ])
}

fn tmpfs_options(source: &MountSource) -> Value {
    let MountSource::Tmpfs { size_bytes, mode, .. } = source else { return Value::Null };
    present([("SizeBytes", json!(size_bytes)), ("Mode", json!(mode))])
}

/// The fields that say anything, as Go's `omitempty` leaves them.
fn present<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let is_empty = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    let said = fields.into_iter().filter(|(_, value)| !is_empty(value));
    Value::Object(said.map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_of_an_earlier_record_is_a_bind() {
        let row = json!({"mounts": [{
            "source": {"volume": {"name": "v", "copy_up": true, "subpath": null, "anonymous": false}},
            "target": "/v", "access": "read-write", "propagation": "", "mode": "ro",
        }]});
        let spec: ContainerSpec = serde_json::from_value(row).unwrap();
        assert_eq!((binds(&spec), listed(&spec)), (vec!["v:/v:ro".to_owned()], Vec::new()));
    }
}
