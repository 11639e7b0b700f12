//! The program's own code in memory.

use std::{io, ops::Range, thread, time::Duration};

use rustix::time::{ClockId, clock_gettime};

/// How often a server asks whether it rests.
const LOOK: Duration = Duration::from_secs(10);
/// CPU time between two looks below which it does: health checks and its own timers.
const REST: Duration = Duration::from_millis(20);
/// CPU time since the code was let go of below which there is nothing to win.
const LITTLE: Duration = Duration::from_millis(5);
/// Enough for reading /proc/self/maps.
const STACK_BYTES: usize = 64 << 10;

/// Lets go of the program's code, of which a server's start has touched much that nothing needs again:
/// the kernel keeps it in its cache and maps anew what is executed next.
fn forget() -> io::Result<()> {
    let program = fs_err::read_link("/proc/self/exe")?;
    let maps = fs_err::read_to_string("/proc/self/maps")?;
    let program = program.to_string_lossy();
    for range in maps.lines().filter_map(|line| code(line, &program)) {
        let start = std::ptr::without_provenance_mut(range.start);
        // SAFETY: the range is code of this program's file, which nobody writes to: the kernel reads
        // the same bytes again when it is executed.
        let outcome = unsafe { libc::madvise(start, range.len(), libc::MADV_DONTNEED) };
        if outcome != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Lets go of the code now and whenever the program has rested for some seconds, by a thread.
///
/// # Errors
/// /proc cannot be read, the kernel refuses, or there is no thread; everything is as before then.
pub fn forget_at_rest() -> io::Result<()> {
    forget()?;
    let mut rest = Rest { looked: cpu_time(), forgotten: cpu_time() };
    let watch = move || {
        loop {
            thread::sleep(LOOK);
            if rest.is_due(cpu_time()) && forget().is_err() {
                // It stays in memory: nothing else comes of it.
                return;
            }
        }
    };
    thread::Builder::new().name("rest".into()).stack_size(STACK_BYTES).spawn(watch)?;
    Ok(())
}

fn cpu_time() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap_or_default()
}

/// The CPU time of the program at the last look, and when its code was let go of.
#[derive(Debug, Default)]
struct Rest {
    looked: Duration,
    forgotten: Duration,
}

impl Rest {
    /// Whether the code is to go, at this CPU time.
    fn is_due(&mut self, now: Duration) -> bool {
        let rests = now.saturating_sub(self.looked) < REST;
        self.looked = now;
        let is_due = rests && now.saturating_sub(self.forgotten) >= LITTLE;
        if is_due {
            self.forgotten = now;
        }
        is_due
    }
}

/// The addresses of a line of /proc/PID/maps that is code of the program (proc_pid_maps(5)).
///
/// Read-only data may have been changed when the program was loaded, and is not asked for again.
fn code(line: &str, program: &str) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let is_code = words.next()? == "r-xp" && words.nth(3)? == program;
    let number = |text| usize::from_str_radix(text, 16).ok();
    is_code.then_some(number(start)?..number(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_forgotten_and_found_again() {
        let mapped = || {
            let status = fs_err::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
            line.trim_end_matches("kB").trim().parse::<u64>().unwrap()
        };
        let before = mapped();
        forget().unwrap();
        assert!(mapped() < before, "{} of {before} KiB", mapped());
    }

    #[test]
    fn the_code_goes_when_the_program_rests() {
        let mut rest = Rest::default();
        let mut at = |ms| rest.is_due(Duration::from_millis(ms));
        assert!(!at(200), "the start is work");
        assert!(at(205), "that is rest");
        assert!(!at(207), "nothing new to let go of");
        assert!(at(211), "timers add up");
        assert!(!at(900), "work");
        assert!(at(900), "no work since");
        assert!(!at(900));
    }

    #[test]
    fn only_the_program_s_code_counts() {
        let line =
            |mode: &str, path: &str| format!("400000-401000 {mode} 00001000 fe:00 247530   {path}");
        assert_eq!(code(&line("r-xp", "/bin/davit"), "/bin/davit"), Some(0x40_0000..0x40_1000));
        assert_eq!(code(&line("r--p", "/bin/davit"), "/bin/davit"), None);
        assert_eq!(code(&line("r-xp", "/lib/libc.so.6"), "/bin/davit"), None);
        assert_eq!(code(&line("r-xp", ""), "/bin/davit"), None);
    }
}
