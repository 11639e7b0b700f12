//! What a container must not be asked to be, in Docker's words (moby `daemon/daemon_unix.go`).

use std::{collections::BTreeMap, ops::RangeInclusive};

use davit_image::HealthConfig;
use davit_runtime::plan::{Limits, SysctlNamespace, sysctl_namespace};

use super::{
    ContainerError, ContainerSpec, MountSource, MountSpec, NamespaceMode, NetworkMode,
    log_attributes, stop::signal_number,
};

/// Least memory that a container can start with, in bytes.
const LEAST_MEMORY: u64 = 6 << 20;

/// Refuses a specification that can never be started.
///
/// # Errors
/// [`ContainerError::Invalid`] with Docker's sentence.
pub(super) fn check(spec: &ContainerSpec) -> Result<(), ContainerError> {
    memory(&spec.limits)?;
    cpu(spec)?;
    sysctls(spec)?;
    if let Some(score) = spec.oom_score_adj.filter(|score| !(-1000..=1000).contains(score)) {
        return refuse(format!("Invalid value {score}, range for oom score adj is [-1000, 1000]"));
    }
    if let Some(signal) = &spec.config.stop_signal
        && !signal.is_empty()
    {
        signal_number(signal)?;
    }
    if spec.uts == NamespaceMode::Host && !spec.hostname.is_empty() {
        return refuse("conflicting options: hostname and the UTS mode");
    }
    shared_network(spec)?;
    storage_options(&spec.storage_options)?;
    subpaths(&spec.mounts)?;
    if let Some(health) = &spec.config.healthcheck {
        health_times(health)?;
    }
    log_attributes::check(&spec.log_options)
}

/// What is mounted of a volume lies in it by its name already, not only by its resolution.
fn subpaths(mounts: &[MountSpec]) -> Result<(), ContainerError> {
    let leads_out = |mount: &MountSpec| match &mount.source {
        MountSource::Volume { subpath: Some(path), .. } => !is_local(path),
        _ => false,
    };
    if mounts.iter().any(leads_out) {
        return refuse(
            "invalid mount config for type \"volume\": subpath must be a relative path within the volume",
        );
    }
    Ok(())
}

/// Whether a path stays below where it begins, as far as its words tell.
fn is_local(path: &str) -> bool {
    let mut depth = Some(0_usize);
    for part in path.split('/') {
        depth = match part {
            "" | "." => depth,
            ".." => depth.and_then(|depth| depth.checked_sub(1)),
            _ => depth.map(|depth| depth + 1),
        };
    }
    !path.starts_with('/') && depth.is_some()
}

/// A quota that is not kept would be worse than none.
fn storage_options(options: &BTreeMap<String, String>) -> Result<(), ContainerError> {
    let refused = options.iter().find_map(|(key, value)| match (key.as_str(), value.as_str()) {
        ("xino", "on" | "off" | "auto") => None,
        ("xino", _) => Some(format!("invalid value {value:?}: xino is on, off or auto")),
        ("size", _) => Some(
            "--storage-opt size is not supported: a container's filesystem has no quota".to_owned(),
        ),
        (key, _) => Some(format!("unknown option {key} for --storage-opt")),
    });
    refused.map_or(Ok(()), refuse)
}

/// Refuses to join the IPC namespace of a container that did not offer it.
///
/// # Errors
/// [`ContainerError::Invalid`]: it has one of its own that is not shareable.
pub(super) fn shares_ipc(name: &str, other: &ContainerSpec) -> Result<(), ContainerError> {
    if matches!(other.ipc, NamespaceMode::Private | NamespaceMode::Bare) {
        return refuse(format!(
            "cannot join the IPC namespace of {name}: non-shareable IPC (hint: use \
             `--ipc shareable` for the donor container)"
        ));
    }
    Ok(())
}

/// What belongs to the container whose network is shared.
fn shared_network(spec: &ContainerSpec) -> Result<(), ContainerError> {
    if !matches!(spec.network, NetworkMode::Container(_)) {
        return Ok(());
    }
    if !spec.hostname.is_empty() {
        return refuse("conflicting options: hostname and the network mode");
    }
    if !spec.dns.is_empty() {
        return refuse("conflicting options: dns and the network mode");
    }
    if !spec.extra_hosts.is_empty() {
        return refuse("conflicting options: custom host-to-IP mapping and the network mode");
    }
    if !spec.publish.is_empty() || spec.publish_all.is_on() {
        return refuse("conflicting options: port publishing and the container type network mode");
    }
    Ok(())
}

fn health_times(health: &HealthConfig) -> Result<(), ContainerError> {
    const LEAST_NANOSECONDS: i64 = 1_000_000;
    let times = [
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ];
    match times.iter().find(|(_, time)| *time != 0 && *time < LEAST_NANOSECONDS) {
        Some((name, _)) => refuse(format!("{name} in Healthcheck cannot be less than 1ms")),
        None if health.retries < 0 => refuse("Retries in Healthcheck cannot be negative"),
        None => Ok(()),
    }
}

fn refuse(text: impl Into<String>) -> Result<(), ContainerError> {
    Err(ContainerError::invalid(text))
}

fn memory(limits: &Limits) -> Result<(), ContainerError> {
    let memory = limits.memory_bytes.unwrap_or(0);
    let reservation = limits.memory_reservation_bytes.unwrap_or(0);
    let swap = limits.memory_swap_bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0);
    if memory > 0 && memory < LEAST_MEMORY {
        return refuse("Minimum memory limit allowed is 6MB");
    }
    if memory > 0 && swap > 0 && swap < memory {
        return refuse("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if memory == 0 && swap > 0 {
        return refuse(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        );
    }
    if let Some(value) = limits.memory_swappiness.filter(|value| *value > 100) {
        return refuse(format!("Invalid value: {value}, valid memory swappiness range is 0-100"));
    }
    if reservation > 0 && reservation < LEAST_MEMORY {
        return refuse("Minimum memory reservation allowed is 6MB");
    }
    if reservation > 0 && memory > 0 && memory < reservation {
        return refuse(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        );
    }
    Ok(())
}

fn cpu(spec: &ContainerSpec) -> Result<(), ContainerError> {
    let limits = &spec.limits;
    // The kernel's own range, which it would take other values to.
    match limits.cpu_shares {
        Some(..2) => return refuse("the minimum allowed cpu-shares is 2"),
        Some(262_145..) => return refuse("the maximum allowed cpu-shares is 262144"),
        _ => {}
    }
    if let Some(list) = &limits.cpuset_cpus {
        available(list, "CPUs", "/sys/devices/system/cpu/online")?;
    }
    if let Some(list) = &limits.cpuset_mems {
        available(list, "memory nodes", "/sys/devices/system/node/online")?;
    }
    if spec.nano_cpus != 0 {
        let cpus = i64::from(processors());
        // Less than a hundredth is less than the kernel's shortest quota.
        if !(10_000_000..=cpus * 1_000_000_000).contains(&spec.nano_cpus) {
            return refuse(format!(
                "Range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
            ));
        }
        return Ok(());
    }
    if limits.cpu_period_us.is_some_and(|period| !(1000..=1_000_000).contains(&period)) {
        return refuse(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if limits.cpu_quota_us.is_some_and(|quota| quota > 0 && quota < 1000) {
        return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    Ok(())
}

/// Refuses a list of which the machine has not all.
fn available(list: &str, what: &str, online: &str) -> Result<(), ContainerError> {
    let Some(asked) = numbers(list) else {
        return refuse(format!("invalid list of {what}: {list:?}"));
    };
    // Where the kernel does not tell, it refuses by itself.
    let Ok(text) = fs_err::read_to_string(online) else { return Ok(()) };
    let there = numbers(&text).unwrap_or_default();
    let has = |range: &RangeInclusive<u32>| {
        there.iter().any(|part| part.contains(range.start()) && part.contains(range.end()))
    };
    if asked.iter().all(has) {
        return Ok(());
    }
    let there = text.trim();
    refuse(format!("Requested {what} are not available - requested {list}, available: {there}"))
}

/// Reads `0-3,7` (`cpuset(7)` § Formats for lists).
fn numbers(list: &str) -> Option<Vec<RangeInclusive<u32>>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last).then_some(first..=last)
    };
    list.trim().split(',').map(|part| range(part.trim())).collect()
}

/// CPUs that this process may run on.
fn processors() -> u32 {
    let set = rustix::thread::sched_getaffinity(None);
    set.map_or(1, |set| set.count()).max(1)
}

fn sysctls(spec: &ContainerSpec) -> Result<(), ContainerError> {
    for name in spec.sysctls.keys() {
        let host = match sysctl_namespace(name) {
            Some(SysctlNamespace::Network) => spec.network == NetworkMode::Host,
            Some(SysctlNamespace::Ipc) => spec.ipc == NamespaceMode::Host,
            Some(SysctlNamespace::Uts) => spec.uts == NamespaceMode::Host,
            None => return refuse(format!("sysctl '{name}' is not allowed")),
        };
        if host {
            return refuse(format!(
                "sysctl '{name}' is not allowed, the container shares the host's namespace"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut ContainerSpec)) -> Option<String> {
        let mut spec = ContainerSpec::default();
        change(&mut spec);
        check(&spec).err().map(|error| error.to_string())
    }

    #[test]
    fn memory_limits_fit_each_other() {
        let limits = |memory: u64, swap: i64, reservation: u64| {
            refused(|spec| {
                spec.limits.memory_bytes = Some(memory << 20).filter(|bytes| *bytes > 0);
                spec.limits.memory_swap_bytes = Some(swap << 20).filter(|bytes| *bytes != 0);
                spec.limits.memory_reservation_bytes = Some(reservation << 20);
            })
        };
        for (memory, swap, reservation) in [(0, 0, 0), (6, 0, 0), (64, 64, 64), (64, -1, 6)] {
            assert_eq!(limits(memory, swap, reservation), None, "{memory} {swap} {reservation}");
        }
        for (memory, swap, reservation) in
            [(5, 0, 0), (64, 32, 0), (0, 32, 0), (64, 0, 65), (0, 0, 5)]
        {
            assert!(limits(memory, swap, reservation).is_some(), "{memory} {swap} {reservation}");
        }
    }

    #[test]
    fn processors_and_parameters_are_there() {
        let cpus = |nano| refused(|spec| spec.nano_cpus = nano);
        assert_eq!(cpus(10_000_000), None);
        assert!(cpus(9_999_999).is_some() && cpus(-1).is_some() && cpus(i64::MAX).is_some());
        let sysctl =
            |name: &str| refused(|spec| drop(spec.sysctls.insert(name.to_owned(), String::new())));
        assert_eq!(sysctl("net.ipv4.ip_forward"), None);
        assert!(sysctl("kernel.panic").is_some() && sysctl("net/../kernel/panic").is_some());
        assert!(refused(|spec| spec.config.stop_signal = Some("BOGUS".to_owned())).is_some());
    }
}
