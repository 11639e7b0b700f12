//! Time and memory of commands.

use std::{
    collections::BTreeSet,
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
    /// The most that the peak resident sizes of processes that were there together sum up to, in
    /// bytes; 0 if not measured.
    pub(crate) peak_bytes: u64,
    /// Processor time of all processes involved, in seconds; 0 if not measured.
    pub(crate) cpu_seconds: f64,
}

impl Measured {
    /// A figure alone.
    pub(crate) const fn of(value: f64) -> Self {
        Self { value, peak_bytes: 0, cpu_seconds: 0.0 }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, peak_bytes, cpu_seconds } = self;
        write!(f, "{value:.4}, {} MiB, CPU {cpu_seconds:.2} s", peak_bytes >> 20)
    }
}

/// Runs a command to its end and takes its time; `daemons` are processes that work for it.
pub(crate) fn timed(command: &mut Command, daemons: &[u32]) -> Result<Measured> {
    daemons.iter().for_each(|pid| reset_peak(*pid));
    quiet(command);
    let before = cpu_seconds(daemons);
    let start = Instant::now();
    let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let (value, peak_bytes) = watch(child, start, daemons, command)?;
    Ok(Measured { value, peak_bytes, cpu_seconds: cpu_seconds(daemons) - before })
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
    Ok(Measured::of(median(&mut seconds)))
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
    let stderr = child.stderr.take().context("stderr is piped")?;
    let reader = std::thread::spawn(move || std::io::read_to_string(stderr));
    let mut roots = daemons.to_vec();
    roots.push(child.id());
    let mut peak = 0;
    let seconds = loop {
        if let Some(status) = child.try_wait()? {
            let seconds = start.elapsed().as_secs_f64();
            let stderr = reader.join().ok().and_then(Result::ok).unwrap_or_default();
            ensure!(status.success(), "{command:?} ended with {status}: {stderr}");
            break seconds;
        }
        peak = peak.max(peaks_of(&roots));
        std::thread::sleep(Duration::from_millis(2));
    };
    Ok((seconds, peak.max(peaks_of(daemons))))
}

/// Sum of the peak resident sizes of processes and all below them.
fn peaks_of(roots: &[u32]) -> u64 {
    let found = with_descendants(roots).into_iter();
    let found = found.filter_map(status).filter(|status| !is_in_its_parents(status));
    found.filter_map(|status| number(&status, "VmHWM:")).sum::<u64>() << 10
}

/// A child works in its parent's memory until it executes its program (vfork(2)).
fn is_in_its_parents(child: &str) -> bool {
    let sizes = |status: &str| ["VmPeak:", "VmHWM:", "VmData:"].map(|key| number(status, key));
    let parent = number(child, "PPid:").and_then(|pid| status(u32::try_from(pid).ok()?));
    parent.is_some_and(|parent| sizes(&parent) == sizes(child))
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

/// Processor time so far of this process's ended children, and of the daemons and all that is or
/// was below them.
fn cpu_seconds(daemons: &[u32]) -> f64 {
    let own = cpu_ticks(std::process::id()).map_or(0, |ticks| ticks.children);
    let theirs = with_descendants(daemons).into_iter().filter_map(cpu_ticks);
    let ticks = own + theirs.map(|ticks| ticks.own + ticks.children).sum::<u32>();
    f64::from(ticks) / f64::from(TICKS_PER_SECOND)
}

/// What the kernel counts in for user space on all Linux ABIs of today.
const TICKS_PER_SECOND: u32 = 100;

struct Ticks {
    own: u32,
    children: u32,
}

/// `utime`, `stime`, `cutime` and `cstime` of a process (proc_pid_stat(5)).
fn cpu_ticks(pid: u32) -> Option<Ticks> {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map_while(|field| field.parse::<u32>().ok());
    let mut pair = || Some(times.next()? + times.next()?);
    Some(Ticks { own: pair()?, children: pair()? })
}

/// Peak resident size of a process (`VmHWM`, proc_pid_status(5)).
pub(crate) fn peak_bytes(pid: u32) -> Option<u64> {
    number(&status(pid)?, "VmHWM:").map(|kib| kib << 10)
}

/// Resident size of a process (`VmRSS`, proc_pid_status(5)).
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    number(&status(pid)?, "VmRSS:").map(|kib| kib << 10)
}

/// Processor time of a process so far, in seconds.
pub(crate) fn own_cpu_seconds(pid: u32) -> f64 {
    cpu_ticks(pid).map_or(0.0, |ticks| f64::from(ticks.own) / f64::from(TICKS_PER_SECOND))
}

fn status(pid: u32) -> Option<String> {
    fs_err::read_to_string(format!("/proc/{pid}/status")).ok()
}

/// A number of /proc/PID/status; sizes are in KiB.
fn number(status: &str, key: &str) -> Option<u64> {
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
    fn memory_that_a_child_borrows_counts_once() {
        // clone(2) of a process that does usleep(3), with CLONE_VM, CLONE_VFORK and SIGCHLD.
        let vfork = "import ctypes\n\
                     libc = ctypes.CDLL(None)\n\
                     held = b'x' * 80_000_000\n\
                     stack = ctypes.create_string_buffer(1 << 16)\n\
                     top = ctypes.c_void_p(ctypes.addressof(stack) + (1 << 16))\n\
                     work, wait = ctypes.cast(libc.usleep, ctypes.c_void_p), ctypes.c_void_p(200_000)\n\
                     assert libc.clone(work, top, 0x100 | 0x4000 | 17, wait) > 0\n";
        let measured = timed(Command::new("python3").args(["-c", vfork]), &[]).unwrap();
        assert!((76 << 20..140 << 20).contains(&measured.peak_bytes), "{measured}");
    }

    #[test]
    fn sees_the_memory_of_children() {
        let mut command = Command::new("sh");
        command.args(["-c", "head -c 30000000 /dev/zero | tail -c 29000000 >/dev/null"]);
        let measured = timed(&mut command, &[]).unwrap();
        assert!(measured.peak_bytes > 20 << 20, "{measured}");
        let work = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let measured = timed(Command::new("sh").args(["-c", work]), &[]).unwrap();
        assert!(measured.cpu_seconds >= 0.02, "{measured}");
        assert!(timed(Command::new("false").arg("x"), &[]).is_err());
    }
}
