//! `davit inspect` of a container, volume or network, in Docker's shape.

mod mounts;
mod network;

use std::collections::{BTreeMap, BTreeSet};

use davit_image::Timestamp;
use davit_network::{ExposedPorts, PortMapping, Reach};
use davit_runtime::{
    capability::Capability,
    monitor::{
        log::LogDriver,
        probe::{self, Probe},
        spec::RestartPolicy,
        state::Health,
    },
    plan::Plan,
};
use davit_store::NetworkRow;
use serde_json::{Value, json};

use super::{
    Container, ContainerError, ContainerSpec, MountSource, MountSpec, NamespaceMode, NetworkMode,
    Phase, StdinMode, VolumeSummary, list::network_name, network::mappings, plan::hostname,
};
use crate::Engine;

/// Docker's zero time.
const NEVER: &str = "0001-01-01T00:00:00Z";

fn is_anonymous(mount: &MountSpec) -> bool {
    matches!(mount.source, MountSource::Volume { anonymous: true, .. })
}

fn time(time: Option<Timestamp>) -> String {
    time.map_or_else(|| NEVER.to_owned(), |time| time.to_string())
}

impl Engine {
    /// A container as `docker inspect` shows it.
    ///
    /// # Errors
    /// [`ContainerError::NotFound`].
    pub fn inspect_container(&self, name: &str, size: bool) -> Result<Value, ContainerError> {
        let container = self.container(name)?;
        let directory = self.store().layout().container(&container.id);
        let arguments = container.spec.arguments();
        let (path, rest) =
            arguments.split_first().map_or(("", &[][..]), |(path, rest)| (path.as_str(), rest));
        let file = |name: &str| directory.join(name).display().to_string();
        let run_directory = self.store().layout().run_container(&container.id);
        let run_file = |name: &str| run_directory.join(name).display().to_string();
        let mut value = json!({
            "Id": container.id,
            "Created": container.created,
            "Path": path,
            "Args": rest,
            "State": state(&container, &probe::read(&run_directory)),
            "Image": container.image_id.map(|id| id.to_string()).unwrap_or_default(),
            "ResolvConfPath": run_file("resolv.conf"),
            "HostnamePath": run_file("hostname"),
            "HostsPath": run_file("hosts"),
            "LogPath": if container.spec.log.driver == LogDriver::None { String::new() } else { file("log") },
            "Name": format!("/{}", container.name),
            "RestartCount": container.status.restarts,
            "Driver": "davit",
            "Platform": "linux",
            "MountLabel": "",
            "ProcessLabel": "",
            "AppArmorProfile": "",
            "ExecIDs": null,
            "HostConfig": host_config(&container.spec),
            "GraphDriver": {"Name": "davit", "Data": {"UpperDir": file("upper"), "WorkDir": file("work")}},
            "Mounts": container.spec.mounts.iter().filter(|mount| !mounts::is_short_tmpfs(mount))
                .map(|mount| self.mount_point(mount)).collect::<Vec<_>>(),
            "Config": config(&container),
            "NetworkSettings": self.network_settings(&container)?,
        });
        if size {
            let (own, all) = self.sizes(&container)?;
            value["SizeRw"] = own.into();
            value["SizeRootFs"] = all.into();
        }
        Ok(value)
    }

    fn mount_point(&self, mount: &MountSpec) -> Value {
        let (kind, source, name) = match &mount.source {
            MountSource::Bind { path, .. } => ("bind", path.clone(), None),
            MountSource::Volume { name, .. } => {
                let path = self.store().layout().volume_data(name);
                ("volume", path.display().to_string(), Some(name.clone()))
            }
            MountSource::Tmpfs { .. } => ("tmpfs", String::new(), None),
        };
        let mut value = json!({
            "Type": kind,
            "Source": source,
            "Destination": mount.target,
            "Mode": match (&name, mount.mode.as_str()) {
                // As Docker's parser leaves it; labels mean nothing here.
                (Some(_), "") if !is_anonymous(mount) => "z",
                (_, mode) => mode,
            },
            "RW": !mount.access.is_on(),
            "Propagation": match kind {
                "bind" if mount.propagation.is_empty() => "rprivate",
                _ => &mount.propagation,
            },
        });
        if let Some(name) = name {
            value["Name"] = name.into();
            value["Driver"] = "local".into();
        }
        value
    }

    fn network_settings(&self, container: &Container) -> Result<Value, ContainerError> {
        let name = network_name(&container.spec.network);
        let mut endpoint = no_endpoint();
        let alive = container.status.phase.is_alive();
        let rows = match self.network_rows() {
            // They are not made yet, which looking at a container does not need.
            Err(ContainerError::Store(error)) if error.is_no_space() => Vec::new(),
            rows => rows?,
        };
        if matches!(container.spec.network, NetworkMode::Network(_)) {
            let mut names = vec![container.name.clone()];
            names.extend(container.spec.aliases.iter().cloned());
            names.push(container.short_id().to_owned());
            endpoint["DNSNames"] = json!(names);
            if !container.spec.aliases.is_empty() {
                endpoint["Aliases"] = json!(container.spec.aliases);
            }
        }
        if let Some(row) = rows.into_iter().find(|row| row.network.name == name) {
            endpoint["NetworkID"] = row.network.id.clone().into();
            if alive && container.spec.network.bridge().is_some() {
                self.fill_endpoint(&mut endpoint, container, &row)?;
            }
        }
        let ports = if alive { self.store().ports(Some(&container.id))? } else { Vec::new() };
        let ports = mappings(ports.into_iter().map(|row| row.port));
        let mut value = json!({
            "Bridge": "", "SandboxID": "", "SandboxKey": sandbox_key(container),
            "Ports": port_map(&container.spec, &ports, alive),
            "HairpinMode": false, "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0,
            "SecondaryIPAddresses": null, "SecondaryIPv6Addresses": null,
        });
        let of_default = match container.spec.network {
            // Docker repeats the default network's address one level up.
            NetworkMode::Bridge => &endpoint,
            _ => &no_endpoint(),
        };
        for key in [
            "EndpointID",
            "Gateway",
            "GlobalIPv6Address",
            "GlobalIPv6PrefixLen",
            "IPAddress",
            "IPPrefixLen",
            "IPv6Gateway",
            "MacAddress",
        ] {
            value[key] = of_default[key].clone();
        }
        value["Networks"] = match container.spec.network {
            NetworkMode::Container(_) => json!({}),
            _ => json!({name: endpoint}),
        };
        Ok(value)
    }

    fn fill_endpoint(
        &self,
        endpoint: &mut Value,
        container: &Container,
        row: &NetworkRow,
    ) -> Result<(), ContainerError> {
        let bridge = self.bridge(row)?;
        let Some(held) = self.endpoint(&container.id)? else { return Ok(()) };
        endpoint["EndpointID"] = container.id.clone().into();
        if bridge.reach == Reach::Outside {
            endpoint["Gateway"] = bridge.gateway.to_string().into();
        }
        endpoint["IPAddress"] = held.ipv4.to_string().into();
        endpoint["IPPrefixLen"] = bridge.ipv4.prefix().into();
        endpoint["MacAddress"] = held.mac.to_string().into();
        if let (Some(address), Some(subnet)) = (held.ipv6, bridge.ipv6) {
            if let (Reach::Outside, Some(gateway)) = (bridge.reach, bridge.gateway6) {
                endpoint["IPv6Gateway"] = gateway.to_string().into();
            }
            endpoint["GlobalIPv6Address"] = address.to_string().into();
            endpoint["GlobalIPv6PrefixLen"] = subnet.prefix().into();
        }
        Ok(())
    }
}

/// A container's place in a network where it has none.
fn no_endpoint() -> Value {
    json!({
        "IPAMConfig": null, "Links": null, "Aliases": null, "DriverOpts": null, "GwPriority": 0,
        "NetworkID": "", "EndpointID": "", "Gateway": "", "IPAddress": "", "MacAddress": "",
        "IPPrefixLen": 0, "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
        "DNSNames": null,
    })
}

/// Where a tool like `nsenter --net=` finds the network namespace of one that runs.
fn sandbox_key(container: &Container) -> String {
    match (&container.spec.network, container.status.process) {
        (NetworkMode::Container(_), _) | (_, None) => String::new(),
        (_, Some(process)) => format!("/proc/{}/ns/net", process.pid),
    }
}

/// A volume as `docker volume inspect` shows it.
#[must_use]
pub(crate) fn volume_value(volume: &VolumeSummary) -> Value {
    json!({
        "CreatedAt": volume.created,
        "Driver": volume.driver,
        "Labels": if volume.labels.is_empty() { Value::Null } else { json!(volume.labels) },
        "Mountpoint": volume.mountpoint,
        "Name": volume.name,
        "Options": if volume.options.is_empty() { Value::Null } else { json!(volume.options) },
        "Scope": "local",
    })
}

impl VolumeSummary {
    /// As `docker volume inspect` shows it.
    #[must_use]
    pub fn inspect(&self) -> Value {
        volume_value(self)
    }
}

pub(crate) fn from_nanoseconds(nanoseconds: i64) -> Timestamp {
    let rest = u32::try_from(nanoseconds.rem_euclid(1_000_000_000)).unwrap_or(0);
    Timestamp::from_unix(nanoseconds.div_euclid(1_000_000_000), rest).unwrap_or(Timestamp::EPOCH)
}

fn state(container: &Container, probes: &[Probe]) -> Value {
    let status = &container.status;
    let mut value = json!({
        "Status": status.phase.word(),
        "Running": status.phase.is_alive(),
        "Paused": status.phase == Phase::Paused,
        "Restarting": status.phase == Phase::Restarting,
        "OOMKilled": status.out_of_memory,
        "Dead": false,
        "Pid": status.process.map_or(0, |process| process.pid),
        "ExitCode": if status.phase == Phase::Running { 0 } else { status.exit_code },
        "Error": status.error,
        "StartedAt": time(status.started),
        "FinishedAt": time(status.finished),
    });
    if let Some((health, failures)) = status.health {
        let word = match health {
            Health::Starting => "starting",
            Health::Healthy => "healthy",
            Health::Unhealthy => "unhealthy",
        };
        value["Health"] = json!({"Status": word, "FailingStreak": failures, "Log": probes});
    }
    value
}

fn config(container: &Container) -> Value {
    let spec = &container.spec;
    let mut value = serde_json::to_value(&spec.config).unwrap_or_default();
    let attached = |stream: &str| spec.attach.iter().any(|name| name.eq_ignore_ascii_case(stream));
    let own = json!({
        "Hostname": hostname(spec, &container.id),
        "Domainname": spec.domainname,
        "User": spec.config.user,
        "AttachStdin": attached("stdin"),
        "AttachStdout": attached("stdout"),
        "AttachStderr": attached("stderr"),
        "Tty": spec.tty.is_on(),
        "OpenStdin": spec.stdin != StdinMode::Closed,
        "StdinOnce": spec.stdin == StdinMode::Once,
        "Env": spec.config.env.clone().unwrap_or_default(),
        "Cmd": spec.config.cmd,
        "Image": spec.image,
        "Volumes": spec.config.volumes,
        "WorkingDir": spec.config.working_dir,
        "Entrypoint": spec.config.entrypoint,
        "OnBuild": null,
        "Labels": spec.config.labels.clone().unwrap_or_default(),
    });
    if let (Value::Object(value), Value::Object(own)) = (&mut value, own) {
        value.extend(own);
    }
    value
}

fn namespace(mode: &NamespaceMode, private: &str) -> String {
    match mode {
        NamespaceMode::Private => private.to_owned(),
        NamespaceMode::Host => "host".to_owned(),
        NamespaceMode::Container(id) => format!("container:{id}"),
        NamespaceMode::Bare => "none".to_owned(),
        NamespaceMode::Shareable => "shareable".to_owned(),
    }
}

fn list_or_null<T: serde::Serialize>(list: &[T]) -> Value {
    if list.is_empty() { Value::Null } else { json!(list) }
}

/// Names as Docker's command line sends them: sorted, each once, and `ALL` alone.
fn capabilities(names: &[String]) -> Value {
    let full = |name: &String| match name.parse::<Capability>() {
        Ok(known) => known.to_string(),
        Err(_) => name.to_ascii_uppercase(),
    };
    let names: BTreeSet<String> = names.iter().map(full).collect();
    if names.contains("ALL") { json!(["ALL"]) } else { list_or_null(&Vec::from_iter(names)) }
}

fn host_config(spec: &ContainerSpec) -> Value {
    let security = &spec.security;
    let (restart, retries) = match spec.restart {
        RestartPolicy::No => ("no", 0),
        RestartPolicy::Always => ("always", 0),
        RestartPolicy::UnlessStopped => ("unless-stopped", 0),
        RestartPolicy::OnFailure(limit) => ("on-failure", limit),
    };
    let driver = match spec.log.driver {
        LogDriver::JsonFile => "json-file",
        LogDriver::Local => "local",
        LogDriver::None => "none",
    };
    let extra_hosts: Vec<String> =
        spec.extra_hosts.iter().map(|(name, address)| format!("{name}:{address}")).collect();
    let mut value = json!({
        "Binds": list_or_null(&mounts::binds(spec)),
        "ContainerIDFile": "",
        "LogConfig": {"Type": driver, "Config": spec.log_options},
        "NetworkMode": network_name(&spec.network),
        "PortBindings": asked_ports(spec),
        "RestartPolicy": {"Name": restart, "MaximumRetryCount": retries},
        "AutoRemove": spec.auto_remove.is_on(),
        "VolumeDriver": "", "VolumesFrom": null, "ConsoleSize": [0, 0],
        "CapAdd": capabilities(&security.cap_add),
        "CapDrop": capabilities(&security.cap_drop),
        "CgroupnsMode": namespace(&spec.cgroup, "private"),
        "Dns": spec.dns, "DnsOptions": spec.dns_options, "DnsSearch": spec.dns_search,
        "ExtraHosts": list_or_null(&extra_hosts),
        "GroupAdd": list_or_null(&security.groups),
        "IpcMode": namespace(&spec.ipc, "private"),
        "Cgroup": "", "Links": null,
        "OomScoreAdj": spec.oom_score_adj.unwrap_or(0),
        "PidMode": namespace(&spec.pid, ""),
        "Privileged": security.privileged,
        "PublishAllPorts": spec.publish_all.is_on(),
        "ReadonlyRootfs": spec.root.is_on(),
        "SecurityOpt": list_or_null(&security.options),
    });
    let more = resources(spec);
    if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
        value.extend(more);
    }
    let listed = mounts::listed(spec);
    if !listed.is_empty() {
        value["Mounts"] = listed.into();
    }
    value
}

/// The second half of `HostConfig`: limits and what is mounted by them.
fn resources(spec: &ContainerSpec) -> Value {
    let limits = &spec.limits;
    let security = &spec.security;
    let ulimits: Vec<Value> = spec
        .ulimits
        .iter()
        .map(|(name, soft, hard)| json!({"Name": name, "Hard": hard, "Soft": soft}))
        .collect();
    let device = |device: &super::DeviceSpec| {
        json!({
            "PathOnHost": device.host,
            "PathInContainer": device.container,
            "CgroupPermissions": device.permissions,
        })
    };
    let (named, paths): (Vec<_>, Vec<_>) =
        security.devices.iter().partition(|device| device.container.is_empty());
    let devices: Vec<Value> = paths.into_iter().map(device).collect();
    let names: Vec<&String> = named.iter().map(|device| &device.host).collect();
    let requests = (!names.is_empty()).then(|| {
        json!([{"Driver": "cdi", "Count": 0, "DeviceIDs": names, "Capabilities": null,
                "Options": null}])
    });
    let hidden = !security.privileged && !security.system_paths_unconfined;
    let plan = Plan::container(Vec::new(), "");
    let twice = |bytes: Option<u64>| bytes.unwrap_or(0).saturating_mul(2).cast_signed();
    json!({
        "UTSMode": namespace(&spec.uts, ""), "UsernsMode": "",
        "ShmSize": spec.shm_size_bytes.unwrap_or(64 << 20),
        "Runtime": "davit", "Isolation": "",
        "CpuShares": limits.cpu_shares.unwrap_or(0),
        "Memory": limits.memory_bytes.unwrap_or(0),
        "NanoCpus": spec.nano_cpus,
        "CgroupParent": "", "BlkioWeight": limits.blkio_weight.unwrap_or(0),
        "CpuPeriod": if spec.nano_cpus == 0 { limits.cpu_period_us.unwrap_or(0) } else { 0 },
        "CpuQuota": if spec.nano_cpus == 0 { limits.cpu_quota_us.unwrap_or(0) } else { 0 },
        "CpusetCpus": limits.cpuset_cpus.clone().unwrap_or_default(),
        "CpusetMems": limits.cpuset_mems.clone().unwrap_or_default(),
        "Devices": list_or_null(&devices),
        "DeviceCgroupRules": list_or_null(&security.device_rules),
        "DeviceRequests": requests,
        "MemoryReservation": limits.memory_reservation_bytes.unwrap_or(0),
        // Unasked, it is twice the memory where the kernel counts swap.
        "MemorySwap": limits.memory_swap_bytes.unwrap_or_else(|| twice(limits.memory_bytes)),
        "MemorySwappiness": limits.memory_swappiness,
        "OomKillDisable": false,
        "MaskedPaths": hidden.then_some(plan.masked_paths),
        "ReadonlyPaths": hidden.then_some(plan.readonly_paths),
        "PidsLimit": limits.pids,
        "Ulimits": list_or_null(&ulimits),
        "Sysctls": if spec.sysctls.is_empty() { Value::Null } else { json!(spec.sysctls) },
        "Tmpfs": mounts::tmpfs(spec),
        "Init": spec.init.is_on().then_some(true),
    })
}

fn asked_ports(spec: &ContainerSpec) -> Value {
    let mut map: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for request in spec.publish.iter().flat_map(davit_network::PublishSpec::requests) {
        let host = request.host_ports.map(|(first, last)| {
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        });
        map.entry(format!("{}/{}", request.container_port, request.protocol)).or_default().push(json!({
            "HostIp": request.host_address.map(|address| address.to_string()).unwrap_or_default(),
            "HostPort": host.unwrap_or_default(),
        }));
    }
    json!(map)
}

fn port_map(spec: &ContainerSpec, ports: &[PortMapping], alive: bool) -> Value {
    let mut map: BTreeMap<String, Value> = BTreeMap::new();
    if alive {
        for (port, protocol) in spec.exposed_ports().into_iter().flat_map(ExposedPorts::ports) {
            map.insert(format!("{port}/{protocol}"), Value::Null);
        }
    }
    for port in ports {
        let entry = map.entry(format!("{}/{}", port.container_port, port.protocol)).or_default();
        let host = port.host_address.to_string();
        let binding = json!({"HostIp": host, "HostPort": port.host_port.to_string()});
        match entry {
            Value::Array(list) => list.push(binding),
            entry => *entry = json!([binding]),
        }
    }
    json!(map)
}
