//! What a cgroup uses.

use std::time::Duration;

use super::directory::Directory;
use super::settings::field;
use super::{Cgroup, CgroupError};

/// Usage of a cgroup; what the machine cannot tell is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time.
    pub cpu: Option<Duration>,
    /// CPU time in user mode.
    pub cpu_user: Option<Duration>,
    /// CPU time in the kernel.
    pub cpu_system: Option<Duration>,
    /// Periods in which the quota was used up.
    pub throttled_periods: Option<u64>,
    /// Time spent waiting for quota.
    pub throttled: Option<Duration>,
    /// Memory in bytes, including page cache.
    pub memory_bytes: Option<u64>,
    /// Inactive file pages in bytes, which Docker subtracts for display.
    pub memory_inactive_file_bytes: Option<u64>,
    /// Limit in bytes.
    pub memory_limit_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Limit of processes and threads.
    pub pids_limit: Option<u64>,
    /// Bytes read from block devices.
    pub read_bytes: Option<u64>,
    /// Bytes written to block devices.
    pub write_bytes: Option<u64>,
}

/// Reads what is there; a cgroup that is gone is an error, a missing file is not.
pub(super) fn read(cgroup: &Cgroup) -> Result<Stats, CgroupError> {
    let mut stats = Stats::default();
    // Accounted in version 2 on every machine, also without its controllers.
    let cpu = cgroup.unified.read("cpu.stat")?;
    let micros = |name| field(&cpu, name).map(Duration::from_micros);
    stats.cpu = micros("usage_usec");
    stats.cpu_user = micros("user_usec");
    stats.cpu_system = micros("system_usec");
    stats.throttled_periods = field(&cpu, "nr_throttled");
    stats.throttled = micros("throttled_usec");
    if let Some(directory) = cgroup.v1_of("cpu") {
        let text = directory.read("cpu.stat")?;
        stats.throttled_periods = field(&text, "nr_throttled");
        stats.throttled = field(&text, "throttled_time").map(Duration::from_nanos);
    }
    memory(cgroup, &mut stats);
    let pids = cgroup.v1_of("pids").unwrap_or(&cgroup.unified);
    stats.pids = number(pids, "pids.current").or_else(|| threads(&cgroup.unified));
    stats.pids_limit = number(pids, "pids.max");
    blocks(cgroup, &mut stats);
    Ok(stats)
}

fn memory(cgroup: &Cgroup, stats: &mut Stats) {
    match cgroup.v1_of("memory") {
        Some(directory) => {
            // "Unlimited" is the largest multiple of the page size.
            const UNLIMITED: u64 = 0x7fff_ffff_ffff_f000;
            stats.memory_bytes = number(directory, "memory.usage_in_bytes");
            stats.memory_limit_bytes =
                number(directory, "memory.limit_in_bytes").filter(|limit| *limit < UNLIMITED);
            let text = directory.read("memory.stat").unwrap_or_default();
            stats.memory_inactive_file_bytes = field(&text, "total_inactive_file");
        }
        None => {
            stats.memory_bytes = number(&cgroup.unified, "memory.current");
            stats.memory_limit_bytes = number(&cgroup.unified, "memory.max");
            let text = cgroup.unified.read("memory.stat").unwrap_or_default();
            stats.memory_inactive_file_bytes = field(&text, "inactive_file");
        }
    }
}

fn blocks(cgroup: &Cgroup, stats: &mut Stats) {
    let (read, write) = match cgroup.v1_of("blkio") {
        Some(directory) => {
            let text = directory.read("blkio.throttle.io_service_bytes").unwrap_or_default();
            (sum(&text, " Read "), sum(&text, " Write "))
        }
        None => match cgroup.unified.read("io.stat") {
            Ok(text) => (sum(&text, " rbytes="), sum(&text, " wbytes=")),
            Err(_) => return,
        },
    };
    (stats.read_bytes, stats.write_bytes) = (Some(read), Some(write));
}

/// Adds the numbers that follow `word`, one per line.
fn sum(text: &str, word: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(word)?.1.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

fn number(directory: &Directory, file: &str) -> Option<u64> {
    directory.read(file).ok()?.trim().parse().ok()
}

/// Counts threads where the `pids` controller does not.
fn threads(directory: &Directory) -> Option<u64> {
    let own = u64::try_from(directory.read("cgroup.threads").ok()?.lines().count()).ok()?;
    let children = directory.children().ok()?;
    let below = children.iter().filter_map(|name| threads(&directory.open(name).ok()?));
    Some(own + below.sum::<u64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_counters_are_added() {
        let v2 = "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=5 wbytes=7\n";
        assert_eq!((sum(v2, " rbytes="), sum(v2, " wbytes=")), (15, 27));
        let v1 = "8:0 Read 10\n8:0 Write 3\n8:16 Read 1\nTotal 14\n";
        assert_eq!((sum(v1, " Read "), sum(v1, " Write ")), (11, 3));
    }
}
