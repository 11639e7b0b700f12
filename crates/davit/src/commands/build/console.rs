//! Who works in a build by hand: the caller, at the terminal or through pipes.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    thread,
};

use davit_engine::build::{At, Console, ConsoleKind, ConsoleStreams};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    pipe::{PipeFlags, pipe_with},
    termios::{Winsize, isatty, tcsetwinsize},
};

use crate::{
    commands::container::stream::{RawTerminal, copy_chunk, size, stdin_is_terminal},
    error::CliError,
};

const READ_BYTES: usize = 32 * 1024;
/// How often the size of the terminal is looked at.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// A place and who works there, and who looks at a step that fails.
type Chosen = (Option<(At, Arc<dyn Console>)>, Option<Arc<dyn Console>>);

/// Chooses terminal or pipes; refuses a shell without a terminal before anything is built.
pub(super) fn choose(at: Option<At>, on_error: bool) -> Result<Chosen, CliError> {
    let has_terminal = stdin_is_terminal();
    if on_error && !(has_terminal && (isatty(io::stdout()) || isatty(io::stderr()))) {
        return Err(CliError::usage("--on-error=shell needs a terminal on standard input"));
    }
    let at = at.map(|at| {
        let terminal = has_terminal && isatty(io::stdout());
        if at.command.is_empty() && !terminal {
            let error = CliError::usage("a shell needs a terminal on standard input and output");
            return Err(error.hint(format!("davit build --at {} DIRECTORY -- COMMAND", at.place)));
        }
        let console: Arc<dyn Console> = Arc::new(if terminal { Own::Terminal } else { Own::Pipes });
        Ok((at, console))
    });
    Ok((at.transpose()?, on_error.then(|| Arc::new(Own::Terminal) as Arc<dyn Console>)))
}

/// The caller's own standard streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    Terminal,
    Pipes,
}

impl Console for Own {
    fn kind(&self) -> ConsoleKind {
        match self {
            Self::Terminal => ConsoleKind::Terminal { size: size() },
            Self::Pipes => ConsoleKind::Pipes,
        }
    }

    fn relay(&self, streams: ConsoleStreams) {
        match streams {
            ConsoleStreams::Terminal(master) => terminal(&master),
            ConsoleStreams::Pipes { stdin, stdout, stderr } => pipes(stdin, stdout, stderr),
        }
    }
}

/// Moves keys and what is shown, with the caller's terminal in raw mode, until the command ends.
fn terminal(master: &OwnedFd) {
    let Ok((ended, end)) = pipe_with(PipeFlags::CLOEXEC) else { return };
    let raw = RawTerminal::enter();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut shown = size();
            let keys = |bytes: &[u8]| write_all(master, bytes).is_ok();
            let look = || {
                let now = size();
                if now != shown
                    && let Some((rows, columns)) = now
                {
                    let size =
                        Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
                    // Only a terminal whose command has ended refuses.
                    let _ = tcsetwinsize(master, size);
                }
                shown = now;
            };
            pass_input(&ended, keys, look);
        });
        // A terminal without users answers with an error.
        let mut is_open = true;
        while is_open {
            let copied = if isatty(io::stdout()) {
                copy_chunk(master, &mut io::stdout().lock())
            } else {
                copy_chunk(master, &mut io::stderr().lock())
            };
            is_open = matches!(copied, Ok(1..));
        }
        drop(end);
    });
    drop(raw);
}

/// Moves what comes and goes until the command's output ends.
fn pipes(stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd) {
    let Ok((ended, end)) = pipe_with(PipeFlags::CLOEXEC) else { return };
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut target = Some(stdin);
            let write = |bytes: &[u8]| {
                let written =
                    target.as_ref().is_some_and(|target| write_all(target, bytes).is_ok());
                if !written || bytes.is_empty() {
                    target = None;
                }
                written
            };
            pass_input(&ended, write, || ());
        });
        let errors = scope
            .spawn(|| while matches!(copy_chunk(&stderr, &mut io::stderr().lock()), Ok(1..)) {});
        while matches!(copy_chunk(&stdout, &mut io::stdout().lock()), Ok(1..)) {}
        // A command whose reader has gone is told so.
        drop(stdout);
        drop(errors.join());
        drop(end);
    });
}

/// Gives what is typed or piped in to `take`, an empty piece at its end, until that takes no more
/// or `ended` is closed, as the command has ended; `look` is called now and then.
fn pass_input(ended: &OwnedFd, mut take: impl FnMut(&[u8]) -> bool, mut look: impl FnMut()) {
    let input = io::stdin();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        look();
        let mut fds = [PollFd::new(&input, PollFlags::IN), PollFd::new(ended, PollFlags::IN)];
        match poll(&mut fds, Some(&LOOK)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) if fds[1].revents().is_empty() => {}
            _ => return,
        }
        match rustix::io::read(&input, buffer.as_mut_slice()) {
            Ok(length) if take(&buffer[..length]) && length > 0 => {}
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            _ => return,
        }
    }
}

fn write_all(target: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&target, bytes))?;
        bytes = &bytes[written..];
    }
    Ok(())
}
