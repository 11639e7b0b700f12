//! The program's own code in memory.

use std::{io, ops::Range};

/// Lets go of the program's code, of which a server's start has touched much that nothing needs again:
/// the kernel keeps it in its cache and maps anew what is executed next.
///
/// # Errors
/// /proc cannot be read, or the kernel refuses; everything is as before then.
pub fn forget() -> io::Result<()> {
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
    fn only_the_program_s_code_counts() {
        let line =
            |mode: &str, path: &str| format!("400000-401000 {mode} 00001000 fe:00 247530   {path}");
        assert_eq!(code(&line("r-xp", "/bin/davit"), "/bin/davit"), Some(0x40_0000..0x40_1000));
        assert_eq!(code(&line("r--p", "/bin/davit"), "/bin/davit"), None);
        assert_eq!(code(&line("r-xp", "/lib/libc.so.6"), "/bin/davit"), None);
        assert_eq!(code(&line("r-xp", ""), "/bin/davit"), None);
    }
}
