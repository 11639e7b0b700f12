//! Limits in the words of each version's files. Pure.

use crate::plan::{IoLimit, Limits};

/// A controller that a limit needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    Cpuset,
    Cpu,
    Memory,
    Pids,
    Io,
}

/// A version of cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// A value for a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) file: &'static str,
    pub(super) value: String,
    /// A default of ours: a kernel without the file is no error.
    pub(super) is_optional: bool,
}

impl Controller {
    pub(super) const fn v1_name(self) -> &'static str {
        match self {
            Self::Cpuset => "cpuset",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Io => "blkio",
        }
    }

    pub(super) const fn v2_name(self) -> &'static str {
        match self {
            Self::Io => "io",
            other => other.v1_name(),
        }
    }

    /// For people.
    pub(super) const fn purpose(self) -> &'static str {
        match self {
            Self::Cpuset => "CPU and memory node lists",
            Self::Cpu => "CPU time",
            Self::Memory => "memory",
            Self::Pids => "the number of processes",
            Self::Io => "block devices",
        }
    }
}

/// The controllers that the limits need.
pub(super) fn needed(limits: &Limits) -> Vec<Controller> {
    let cpu = limits.cpu_quota_us.is_some()
        || limits.cpu_period_us.is_some()
        || limits.cpu_shares.is_some_and(|shares| shares > 0);
    let memory = limits.memory_bytes.is_some()
        || limits.memory_swap_bytes.is_some()
        || limits.memory_reservation_bytes.is_some()
        || limits.memory_swappiness.is_some();
    [
        (Controller::Cpuset, limits.cpuset_cpus.is_some() || limits.cpuset_mems.is_some()),
        (Controller::Cpu, cpu),
        (Controller::Memory, memory),
        (Controller::Pids, limits.pids.is_some()),
        (Controller::Io, limits.blkio_weight.is_some() || !limits.io.is_empty()),
    ]
    .into_iter()
    .filter_map(|(controller, is_needed)| is_needed.then_some(controller))
    .collect()
}

/// What is written for a controller, in this order.
pub(super) fn of(controller: Controller, version: Version, limits: &Limits) -> Vec<Setting> {
    match (controller, version) {
        (Controller::Cpuset, _) => cpuset(limits),
        (Controller::Cpu, Version::One) => cpu_v1(limits),
        (Controller::Cpu, Version::Two) => cpu_v2(limits),
        (Controller::Memory, Version::One) => memory_v1(limits),
        (Controller::Memory, Version::Two) => memory_v2(limits),
        (Controller::Pids, _) => pids(limits),
        (Controller::Io, Version::One) => io_v1(limits),
        (Controller::Io, Version::Two) => io_v2(limits),
    }
}

fn set(file: &'static str, value: impl ToString) -> Setting {
    Setting { file, value: value.to_string(), is_optional: false }
}

fn cpuset(limits: &Limits) -> Vec<Setting> {
    let cpus = limits.cpuset_cpus.iter().map(|list| set("cpuset.cpus", list));
    let mems = limits.cpuset_mems.iter().map(|list| set("cpuset.mems", list));
    cpus.chain(mems).collect()
}

fn cpu_v1(limits: &Limits) -> Vec<Setting> {
    let shares = limits.cpu_shares.filter(|shares| *shares > 0);
    let shares = shares.map(|shares| set("cpu.shares", shares));
    let period = limits.cpu_period_us.map(|period| set("cpu.cfs_period_us", period));
    let quota = limits.cpu_quota_us.map(|quota| set("cpu.cfs_quota_us", quota));
    [shares, period, quota].into_iter().flatten().collect()
}

fn cpu_v2(limits: &Limits) -> Vec<Setting> {
    const USUAL_PERIOD_US: u64 = 100_000;
    let shares = limits.cpu_shares.filter(|shares| *shares > 0);
    let weight = shares.map(|shares| set("cpu.weight", weight_of_shares(shares)));
    let maximum = match (limits.cpu_quota_us, limits.cpu_period_us) {
        (None, None) => None,
        (quota, period) => {
            let quota = match quota {
                Some(quota) if quota > 0 => quota.to_string(),
                _ => "max".to_owned(),
            };
            let period = period.unwrap_or(USUAL_PERIOD_US);
            Some(set("cpu.max", format!("{quota} {period}")))
        }
    };
    [weight, maximum].into_iter().flatten().collect()
}

/// Shares 2 to 262,144 as weight 1 to 10,000 so that 1,024 is 100, the default of both: the
/// quadratic curve through the three points on logarithmic axes, as runc has it since 1.3.2.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "values between 1 and 262,144"
)]
fn weight_of_shares(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let l = (shares as f64).log2();
    let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
    10_f64.powf(exponent).ceil() as u64
}

/// Memory plus swap: what was asked, else twice the memory as Docker does.
fn total_bytes(limits: &Limits) -> Option<(i64, bool)> {
    match (limits.memory_swap_bytes, limits.memory_bytes) {
        (Some(total), _) if total != 0 => Some((total, false)),
        (_, Some(memory)) => {
            let twice = i64::try_from(memory.saturating_mul(2)).unwrap_or(i64::MAX);
            Some((twice, true))
        }
        _ => None,
    }
}

fn memory_v1(limits: &Limits) -> Vec<Setting> {
    let memory = limits.memory_bytes.map(|bytes| set("memory.limit_in_bytes", bytes));
    let total = total_bytes(limits).map(|(bytes, is_optional)| Setting {
        is_optional,
        ..set("memory.memsw.limit_in_bytes", bytes)
    });
    let soft = limits.memory_reservation_bytes;
    let soft = soft.map(|bytes| set("memory.soft_limit_in_bytes", bytes));
    let swappiness = limits.memory_swappiness.map(|value| set("memory.swappiness", value));
    [memory, total, soft, swappiness].into_iter().flatten().collect()
}

fn memory_v2(limits: &Limits) -> Vec<Setting> {
    let maximum = limits.memory_bytes.map(|bytes| set("memory.max", bytes));
    let swap = total_bytes(limits).map(|(total, is_optional)| {
        let memory = i64::try_from(limits.memory_bytes.unwrap_or(0)).unwrap_or(i64::MAX);
        let value = match total {
            ..0 => "max".to_owned(),
            total => total.saturating_sub(memory).max(0).to_string(),
        };
        Setting { is_optional, ..set("memory.swap.max", value) }
    });
    let low = limits.memory_reservation_bytes.map(|bytes| set("memory.low", bytes));
    [maximum, swap, low].into_iter().flatten().collect()
}

fn pids(limits: &Limits) -> Vec<Setting> {
    let value = |limit: i64| if limit > 0 { limit.to_string() } else { "max".to_owned() };
    limits.pids.map(|limit| set("pids.max", value(limit))).into_iter().collect()
}

fn io_v1(limits: &Limits) -> Vec<Setting> {
    let weight = limits.blkio_weight.filter(|weight| *weight > 0);
    let mut settings: Vec<Setting> =
        weight.map(|weight| set("blkio.weight", weight)).into_iter().collect();
    for limit in &limits.io {
        let device = format!("{}:{}", limit.major, limit.minor);
        let files = [
            ("blkio.throttle.read_bps_device", limit.read_bytes),
            ("blkio.throttle.write_bps_device", limit.write_bytes),
            ("blkio.throttle.read_iops_device", limit.read_operations),
            ("blkio.throttle.write_iops_device", limit.write_operations),
        ];
        let given = files.into_iter().filter_map(|(file, value)| Some((file, value?)));
        settings.extend(given.map(|(file, value)| set(file, format!("{device} {value}"))));
    }
    settings
}

fn io_v2(limits: &Limits) -> Vec<Setting> {
    let weight = limits.blkio_weight.filter(|weight| *weight > 0);
    // 10 to 1,000 becomes 1 to 10,000, as runc has it.
    let weight = weight.map(|weight| {
        let scaled = 1 + (u64::from(weight).saturating_sub(10)) * 9_999 / 990;
        set("io.weight", format!("default {scaled}"))
    });
    weight.into_iter().chain(limits.io.iter().map(io_maximum)).collect()
}

fn io_maximum(limit: &IoLimit) -> Setting {
    let words = [
        ("rbps", limit.read_bytes),
        ("wbps", limit.write_bytes),
        ("riops", limit.read_operations),
        ("wiops", limit.write_operations),
    ];
    let mut value = format!("{}:{}", limit.major, limit.minor);
    for (word, number) in words {
        if let Some(number) = number {
            value = format!("{value} {word}={number}");
        }
    }
    set("io.max", value)
}

/// The number after `name` on a line of its own (`NAME NUMBER`).
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        (key == name).then(|| value.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(version: Version, limits: &Limits, expected: &[&str]) {
        let written: Vec<String> = needed(limits)
            .into_iter()
            .flat_map(|controller| of(controller, version, limits))
            .map(|setting| format!("{}={}", setting.file, setting.value))
            .collect();
        assert_eq!(written, expected, "{limits:?}");
    }

    #[test]
    fn nothing_asked_needs_no_controller() {
        assert!(needed(&Limits::default()).is_empty());
        check(Version::One, &Limits::default(), &[]);
    }

    #[test]
    fn memory_counts_swap_as_docker_does() {
        let memory = |memory, swap| Limits {
            memory_bytes: memory,
            memory_swap_bytes: swap,
            ..Limits::default()
        };
        check(Version::Two, &memory(Some(100), None), &["memory.max=100", "memory.swap.max=100"]);
        check(
            Version::Two,
            &memory(Some(100), Some(100)),
            &["memory.max=100", "memory.swap.max=0"],
        );
        check(
            Version::Two,
            &memory(Some(100), Some(-1)),
            &["memory.max=100", "memory.swap.max=max"],
        );
        check(
            Version::One,
            &memory(Some(100), Some(150)),
            &["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=150"],
        );
    }

    #[test]
    fn cpu_in_both_versions() {
        let limits = Limits {
            cpu_quota_us: Some(150_000),
            cpu_shares: Some(1024),
            cpuset_cpus: Some("0-1".to_owned()),
            pids: Some(-1),
            ..Limits::default()
        };
        check(
            Version::Two,
            &limits,
            &["cpuset.cpus=0-1", "cpu.weight=100", "cpu.max=150000 100000", "pids.max=max"],
        );
        check(
            Version::One,
            &limits,
            &["cpuset.cpus=0-1", "cpu.shares=1024", "cpu.cfs_quota_us=150000", "pids.max=max"],
        );
        assert_eq!([2, 1024, 262_144].map(weight_of_shares), [1, 100, 10_000]);
    }

    #[test]
    fn devices_in_both_versions() {
        let io = IoLimit {
            major: 8,
            minor: 1,
            read_bytes: Some(10),
            write_operations: Some(5),
            ..IoLimit::default()
        };
        let limits = Limits { blkio_weight: Some(1000), io: vec![io], ..Limits::default() };
        check(Version::Two, &limits, &["io.weight=default 10000", "io.max=8:1 rbps=10 wiops=5"]);
        check(
            Version::One,
            &limits,
            &[
                "blkio.weight=1000",
                "blkio.throttle.read_bps_device=8:1 10",
                "blkio.throttle.write_iops_device=8:1 5",
            ],
        );
    }

    #[test]
    fn fields_are_found() {
        let text = "low 0\noom 3\noom_kill 2\n";
        assert_eq!(field(text, "oom_kill"), Some(2));
        assert_eq!(field(text, "kill"), None);
    }
}
