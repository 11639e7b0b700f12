//! Starts a program with the descriptors that it is meant to have, and no others.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use rustix::io::Errno;

use super::{
    CStringArray, CloneOptions, Cloned, clone, close_on_exec_from, duplicate_to, fexecve,
    reset_signals,
};

/// Which descriptor of the caller becomes which number in a program that [`spawn`] starts.
#[derive(Clone, Copy, Debug)]
pub struct Handover<'a> {
    /// The caller's.
    pub descriptor: BorrowedFd<'a>,
    /// The number that the program finds it under.
    pub number: i32,
}

/// A program to start.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// The executable's descriptor, as from [`crate::sealed::executable`].
    pub executable: BorrowedFd<'a>,
    /// Arguments, the program's name first.
    pub arguments: &'a CStringArray,
    /// Environment.
    pub environment: &'a CStringArray,
    /// Descriptors handed over; 0, 1 and 2 are `/dev/null` unless they are among them, all others
    /// are closed.
    pub descriptors: &'a [Handover<'a>],
    /// Cgroup v2 directory in which it is born.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Whether it leads a session of its own.
    pub session: Session,
}

/// The session of a program that [`spawn`] starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// The caller's: it gets the terminal's signals.
    Inherit,
    /// Its own: it outlives the terminal.
    New,
}

/// Starts a program; [`Spawned::executed`] waits until it has been executed.
///
/// # Errors
/// The kernel's; that of `execve` in the child comes from [`Spawned::executed`].
pub fn spawn(spawn: &Spawn<'_>) -> io::Result<Spawned> {
    let (report, report_child) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let null = rustix::fs::open(
        c"/dev/null",
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    // Copies above every number that is handed over, so that none is overwritten too early.
    let first =
        spawn.descriptors.iter().map(|handover| handover.number).max().unwrap_or(2).max(2) + 1;
    let above = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, first);
    let handed = spawn
        .descriptors
        .iter()
        .map(|handover| Ok((above(handover.descriptor)?, handover.number)))
        .collect::<Result<Vec<_>, Errno>>()?;
    let null = above(null.as_fd())?;
    let report_high = above(report_child.as_fd())?;
    drop(report_child);
    let executable = above(spawn.executable)?;
    let options = CloneOptions { cgroup: spawn.cgroup, ..CloneOptions::default() };
    let cloned = clone(options, || {
        let errno = spawn_child(spawn, &handed, &null, &executable);
        // A parent that is gone reads no report.
        let _ = rustix::io::write(&report_high, &errno.raw_os_error().to_ne_bytes());
        127
    })?;
    Ok(Spawned { cloned, report })
}

/// A child that is about to execute.
#[derive(Debug)]
pub struct Spawned {
    cloned: Cloned,
    /// Closed by a successful execution.
    report: OwnedFd,
}

impl Spawned {
    /// Waits until it executes.
    ///
    /// # Errors
    /// That of `execve` in the child, which then has ended.
    pub fn executed(self) -> io::Result<Cloned> {
        let mut errno = [0; 4];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.report, &mut errno))? {
            0 => Ok(self.cloned),
            _ => {
                let options = rustix::process::WaitIdOptions::EXITED;
                let child = rustix::process::WaitId::PidFd(self.cloned.pidfd.as_fd());
                // The error of the execution counts, whoever reaped the child.
                let _ = rustix::process::waitid(child, options);
                Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno)))
            }
        }
    }
}

fn spawn_child(
    spawn: &Spawn<'_>,
    handed: &[(OwnedFd, i32)],
    null: &OwnedFd,
    executable: &OwnedFd,
) -> Errno {
    reset_signals();
    if spawn.session == Session::New
        && let Err(errno) = rustix::process::setsid()
    {
        return errno;
    }
    for number in 0..3 {
        if let Err(errno) = duplicate_to(null.as_fd(), number) {
            return errno;
        }
    }
    if let Err(errno) = close_on_exec_from(3) {
        return errno;
    }
    for (descriptor, number) in handed {
        if let Err(errno) = duplicate_to(descriptor.as_fd(), *number) {
            return errno;
        }
    }
    fexecve(executable, spawn.arguments, spawn.environment)
}

#[cfg(test)]
mod tests {
    use rustix::process::{WaitId, WaitIdOptions, waitid};

    use super::*;

    #[test]
    fn spawned_program_has_only_what_was_handed_over() {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let shell = rustix::fs::open("/bin/sh", flags, rustix::fs::Mode::empty()).unwrap();
        let script = "echo hello >&7; ls /proc/self/fd | wc -l >&7; kill -PIPE $$";
        let spawned = spawn(&Spawn {
            executable: shell.as_fd(),
            arguments: &CStringArray::new(["sh", "-c", script]).unwrap(),
            environment: &CStringArray::new(["PATH=/usr/bin:/bin"]).unwrap(),
            descriptors: &[Handover { descriptor: write.as_fd(), number: 7 }],
            cgroup: None,
            session: Session::New,
        })
        .and_then(Spawned::executed)
        .unwrap();
        drop(write);
        let mut text = String::new();
        io::Read::read_to_string(&mut std::fs::File::from(read), &mut text).unwrap();
        // 0, 1, 2, 7 and the directory that ls reads.
        assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["hello", "5"]);
        let status = waitid(WaitId::PidFd(spawned.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
        assert_eq!(status.unwrap().terminating_signal(), Some(13), "SIGPIPE has its default");
    }

    #[test]
    fn what_cannot_be_executed_is_told() {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let text = rustix::fs::open("/etc/passwd", flags, rustix::fs::Mode::empty()).unwrap();
        let spawned = spawn(&Spawn {
            executable: text.as_fd(),
            arguments: &CStringArray::new(["x"]).unwrap(),
            environment: &CStringArray::new::<&str>([]).unwrap(),
            descriptors: &[],
            cgroup: None,
            session: Session::Inherit,
        });
        assert!(spawned.unwrap().executed().is_err());
    }
}
