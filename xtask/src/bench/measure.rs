//! Time and memory of commands.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

/// What one repetition took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Measured {
    /// The figure: seconds, or a rate or size where the workload says so.
    pub(crate) value: f64,
    /// Sum of the peak resident sizes of all processes involved, in bytes; 0 if not measured.
    pub(crate) peak_bytes: u64,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.4}, {} MiB", self.value, self.peak_bytes >> 20)
    }
}

/// Runs a command to its end and takes its time; `daemons` are processes that work for it.
pub(crate) fn timed(command: &mut Command, daemons: &[u32]) -> Result<Measured> {
    daemons.iter().for_each(|pid| reset_peak(*pid));
    quiet(command);
    let start = Instant::now();
    let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let (value, peak_bytes) = watch(child, start, daemons, command)?;
    Ok(Measured { value, peak_bytes })
}

/// Runs a short command `count` times in a row and takes the median time, without memory: looking
/// at /proc would cost a command of some milliseconds a part of its time.
pub(crate) fn median_of(count: usize, mut command: impl FnMut() -> Command) -> Result<Measured> {
    let mut seconds = Vec::with_capacity(count);
    for _ in 0..count {
        let mut command = command();
        quiet(&mut command);
        let start = Instant::now();
        let output = command.spawn()?.wait_with_output()?;
        seconds.push(start.elapsed().as_secs_f64());
        check(&command, &output)?;
    }
    Ok(Measured { value: median(&mut seconds), peak_bytes: 0 })
}

/// Runs a command outside the clock; it must succeed.
pub(crate) fn prepare(command: &mut Command) -> Result<()> {
    quiet(command);
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    check(command, &output)
}

fn quiet(command: &mut Command) {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
}

fn check(command: &Command, output: &std::process::Output) -> Result<()> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {stderr}", output.status);
    Ok(())
}

/// Middle value; the mean of the two middle ones for an even number.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

fn watch(
    mut child: Child,
    start: Instant,
    daemons: &[u32],
    command: &Command,
) -> Result<(f64, u64)> {
    let mut peaks = BTreeMap::new();
    let stderr = child.stderr.take().context("stderr is piped")?;
    let reader = std::thread::spawn(move || std::io::read_to_string(stderr));
    let mut roots = daemons.to_vec();
    roots.push(child.id());
    let seconds = loop {
        if let Some(status) = child.try_wait()? {
            let seconds = start.elapsed().as_secs_f64();
            let stderr = reader.join().ok().and_then(Result::ok).unwrap_or_default();
            ensure!(status.success(), "{command:?} ended with {status}: {stderr}");
            break seconds;
        }
        for pid in with_descendants(&roots) {
            if let Some(bytes) = peak_bytes(pid) {
                peaks.insert(pid, bytes);
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    for pid in with_descendants(daemons) {
        peak_bytes(pid).map(|bytes| peaks.insert(pid, bytes));
    }
    Ok((seconds, peaks.values().sum()))
}

/// The processes and everything below them, as /proc shows it now.
fn with_descendants(roots: &[u32]) -> BTreeSet<u32> {
    let mut found: BTreeSet<u32> = BTreeSet::new();
    let mut open = roots.to_vec();
    while let Some(pid) = open.pop() {
        if !found.insert(pid) {
            continue;
        }
        let Ok(tasks) = fs_err::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let children = fs_err::read_to_string(task.path().join("children")).unwrap_or_default();
            open.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    found
}

/// Peak resident size of a process (`VmHWM`, proc_pid_status(5)).
pub(crate) fn peak_bytes(pid: u32) -> Option<u64> {
    status_kib(pid, "VmHWM:").map(|kib| kib << 10)
}

/// One line of /proc/PID/status that is in kB.
fn status_kib(pid: u32, key: &str) -> Option<u64> {
    let status = fs_err::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Private memory of a process (`Private_Clean` and `Private_Dirty`, proc_pid_smaps(5)).
pub(crate) fn private_bytes(pid: u32) -> Option<u64> {
    let rollup = fs_err::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let kib = rollup
        .lines()
        .filter(|line| line.starts_with("Private_"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    Some(kib.sum::<u64>() << 10)
}

/// Forgets a daemon's earlier peak (`clear_refs` 5, proc_pid_clear_refs(5)).
fn reset_peak(pid: u32) {
    // Without it the figure is that of the daemon's whole life, which is not less.
    drop(fs_err::write(format!("/proc/{pid}/clear_refs"), "5"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert!((median(&mut [3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&mut [4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }

    #[test]
    fn sees_the_memory_of_children() {
        let mut command = Command::new("sh");
        command.args(["-c", "head -c 30000000 /dev/zero | tail -c 29000000 >/dev/null"]);
        let measured = timed(&mut command, &[]).unwrap();
        assert!(measured.peak_bytes > 20 << 20, "{measured}");
        assert!(timed(Command::new("false").arg("x"), &[]).is_err());
    }
}
