//! Process 1 of a container with `--init`: it starts the command, reaps what is orphaned, forwards
//! signals, and ends as the command does. It is a copy of davit in memory; the image needs no file.

use std::os::fd::AsFd as _;

use davit_sys::process as sys;
use rustix::{
    io::Errno,
    process::{Pid, WaitOptions},
};

use super::channel::ChildEnd;
use super::finish::execute;
use super::{At, Failure};
use crate::error::Step;
use crate::launch::process::PreparedProcess;

const SIGCHLD: i32 = 17;
/// Stopping process 1 would stop nothing but the forwarding.
const SIGTTIN: i32 = 21;
const SIGTTOU: i32 = 22;

/// Starts the command and serves it; returns its exit code.
pub(crate) fn run(process: &PreparedProcess<'_>, channel: &ChildEnd) -> Result<u8, Failure> {
    sys::block_signals();
    // The command gets a name of its own when it is executed, and may look at this one at once.
    rename();
    let terminal = process.terminal_size().is_some();
    let command = sys::fork_and_let_go(|| {
        sys::reset_signals();
        lead_foreground(terminal);
        channel.failed(execute(process));
        125
    })
    .at(Step::Init)?;
    // The channel went with the other descriptors: the command's own copy reports.
    Ok(serve(command))
}

/// The command gets a process group of its own, in the foreground of the terminal.
fn lead_foreground(terminal: bool) {
    // A failure leaves it in the reaper's group, which works for everything but job control.
    if rustix::process::setpgid(None, None).is_ok() && terminal {
        let group = rustix::process::getpgrp();
        sys::block_signals();
        let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin().as_fd(), group);
        sys::reset_signals();
    }
}

fn rename() {
    let _ = rustix::thread::set_name(c"davit-init");
}

fn serve(command: i32) -> u8 {
    loop {
        let Ok(signal) = sys::take_signal() else { continue };
        match signal {
            SIGCHLD => {
                if let Some(code) = reap(command) {
                    return code;
                }
            }
            SIGTTIN | SIGTTOU => {}
            // The command may have ended just now; the next SIGCHLD says so.
            signal => drop(sys::kill(command, signal)),
        }
    }
}

/// Reaps every dead child; the command's exit code if it is among them.
fn reap(command: i32) -> Option<u8> {
    let mut code = None;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == Pid::from_raw(command)? => {
                let signal = status.terminating_signal().map(|signal| signal + 128);
                let number = status.exit_status().or(signal).unwrap_or(255);
                code = Some(u8::try_from(number & 0xff).unwrap_or(255));
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return code,
        }
    }
}
