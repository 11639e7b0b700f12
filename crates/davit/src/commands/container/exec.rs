//! `davit exec`, and the helper that joins the container.

use std::{
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use davit_engine::container::{
    ExecOrder, ExecRequest, Executed, ExitStatus, Process, StdinPlan, StdioPlan, Streams,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{FileType, fstat},
    termios::{Winsize, tcsetwinsize},
};

use super::{
    stream::{self, DETACH_KEYS, DetachFilter, RawTerminal, Signals},
    values,
};
use crate::{
    cli::Context,
    error::{CliError, io_error},
    printer,
};

/// How long output is read that a background process goes on writing, as Docker has it.
const DRAIN: Duration = Duration::from_secs(2);

// Arguments of `davit exec`.
#[derive(Debug, clap::Args)]
pub(crate) struct ExecArgs {
    /// Detached mode: run command in the background
    #[arg(short, long)]
    detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "KEYS", default_value = DETACH_KEYS)]
    detach_keys: String,
    /// Set environment variables
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "FILE")]
    env_file: Vec<std::path::PathBuf>,
    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    interactive: bool,
    /// Give extended privileges to the command
    #[arg(long)]
    privileged: bool,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    tty: bool,
    /// Username or UID (format: <name|uid>[:<group|gid>])
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Working directory inside the container
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Container, then command and arguments
    #[arg(
        value_names = ["CONTAINER", "COMMAND"],
        required = true,
        num_args = 2..,
        trailing_var_arg = true
    )]
    container_and_command: Vec<String>,
}

/// Runs `davit exec`: becomes the helper, which ends with the command's exit code.
///
/// # Errors
/// The container does not run.
pub(crate) fn run(args: &ExecArgs, context: &Context) -> Result<u8, CliError> {
    let (container, command) = args.container_and_command.split_first().expect("clap requires two");
    if args.tty && args.interactive && !args.detach && !stream::stdin_is_terminal() {
        return Err(CliError::user("the input device is not a TTY"));
    }
    let mut env = values::env_files(&args.env_file)?;
    env.extend(values::environment(&args.env)?);
    let request = ExecRequest {
        command: command.to_vec(),
        env,
        user: args.user.clone(),
        working_dir: args.workdir.clone(),
        tty: args.tty.into(),
        interactive: args.interactive,
        detach: args.detach,
        privileged: args.privileged,
        detach_keys: stream::detach_keys(&args.detach_keys)?,
    };
    match context.engine()?.exec(container, request)? {}
}

/// `davit __exec`: joins the container, executes, relays, and returns the exit code.
pub(crate) fn helper() -> u8 {
    let Ok(order) = ExecOrder::read() else { return 2 };
    match carry_out(&order) {
        Ok(code) => code,
        Err(error) => {
            printer::error(&error.to_string());
            error.code()
        }
    }
}

/// `davit __drain`: reads standard input to its end.
pub(crate) fn drain() -> u8 {
    let mut buffer = [0; 4096];
    loop {
        match rustix::io::read(io::stdin(), &mut buffer) {
            Ok(1..) | Err(rustix::io::Errno::INTR) => {}
            // A terminal without users answers with an error.
            Ok(0) | Err(_) => return 0,
        }
    }
}

fn carry_out(order: &ExecOrder) -> Result<u8, CliError> {
    let terminal = order.tty.is_on();
    let signals = if order.detach { None } else { Some(stream::catch_signals(Signals::Proxied)?) };
    let executed = order.carry_out(stdio(order)?).map_err(|error| {
        let code = u8::try_from(error.exit_code()).unwrap_or(126);
        CliError::user(chain(&error)).with_code(if code == 125 { 126 } else { code })
    })?;
    if order.detach {
        return Ok(0);
    }
    let raw = (terminal && order.interactive).then(RawTerminal::enter).flatten();
    let Executed { process, streams } = executed;
    let mut session = Session::new(order, process, streams);
    session.signals = signals;
    let end = session.run().map_err(io_error)?;
    drop(raw);
    if end.is_none() {
        session.leave_terminal().map_err(io_error)?;
    }
    Ok(end.map_or(0, |status| u8::try_from(status.code()).unwrap_or(255)))
}

/// An error with its causes in one line, as Docker shows it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Only `/dev/null` is handed over as it is. Of a terminal, file or pipe of the host the container
/// could use more than was meant, and a process that outlives the command would keep a pipe open
/// for whoever reads it.
fn stdio(order: &ExecOrder) -> Result<StdioPlan, CliError> {
    if order.tty.is_on() {
        return Ok(StdioPlan::Terminal { size: stream::size() });
    }
    let null = || -> io::Result<OwnedFd> {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true);
        Ok(fs_err::OpenOptions::from_options(options).open("/dev/null")?.into_parts().0.into())
    };
    if order.detach {
        let open = || null().map_err(io_error);
        return Ok(StdioPlan::Descriptors([open()?, open()?, open()?]));
    }
    let harmless = [is_harmless(&io::stdout()), is_harmless(&io::stderr())] == [true, true]
        && (!order.interactive || is_harmless(&io::stdin()));
    if !harmless {
        let stdin = if order.interactive { StdinPlan::Pipe } else { StdinPlan::Null };
        return Ok(StdioPlan::Pipes { stdin });
    }
    let copy = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().map_err(io_error);
    let stdin =
        if order.interactive { copy(io::stdin().as_fd())? } else { null().map_err(io_error)? };
    Ok(StdioPlan::Descriptors([stdin, copy(io::stdout().as_fd())?, copy(io::stderr().as_fd())?]))
}

fn is_harmless(stream: &(impl std::os::fd::AsFd + io::IsTerminal)) -> bool {
    let Ok(stat) = fstat(stream) else { return false };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => {
            !stream.is_terminal() && stat.st_rdev == rustix::fs::makedev(1, 3)
        }
        _ => false,
    }
}

/// A command that runs, with what is relayed for it.
struct Session {
    process: Process,
    signals: Option<davit_engine::signals::SignalFd>,
    terminal: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    outputs: Vec<(OwnedFd, Target)>,
    reads: bool,
    detach: Option<DetachFilter>,
}

/// Where an output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Stdout,
    Stderr,
}

impl Session {
    fn new(order: &ExecOrder, process: Process, streams: Streams) -> Self {
        let mut session = Self {
            process,
            signals: None,
            terminal: None,
            stdin: None,
            outputs: Vec::new(),
            reads: false,
            detach: None,
        };
        match streams {
            Streams::Terminal(master) => {
                session.reads = order.interactive;
                session.terminal = Some(master);
                session.detach = Some(DetachFilter::new(order.detach_keys.clone()));
            }
            Streams::Pipes { stdin, stdout, stderr } => {
                session.reads = stdin.is_some();
                session.stdin = stdin;
                session.outputs = vec![(stdout, Target::Stdout), (stderr, Target::Stderr)];
            }
            Streams::None => {}
        }
        session
    }

    /// Relays until the command has ended and its output is read; `None` if the caller detached.
    fn run(&mut self) -> io::Result<Option<ExitStatus>> {
        let mut ended = None;
        loop {
            let ready = self.wait(ended.is_some())?;
            if ready.signals {
                self.pass_signals();
            }
            if ready.stdin && !self.pass_input() {
                return Ok(None);
            }
            let mut idle = true;
            for index in ready.outputs.into_iter().rev() {
                idle = false;
                self.pass_output(index);
            }
            if ready.terminal {
                idle = false;
                self.pass_terminal();
            }
            if ended.is_none() {
                ended = self.process.try_wait()?.map(|status| (status, Instant::now() + DRAIN));
            }
            // A background process may hold the output open, or write, for ever: after the end only
            // what is there is read.
            let drained = self.outputs.is_empty() && self.terminal.is_none();
            if let Some((status, deadline)) = ended
                && (drained || idle || Instant::now() >= deadline)
            {
                return Ok(Some(status));
            }
        }
    }

    fn wait(&self, ended: bool) -> io::Result<Ready> {
        let input = io::stdin();
        let mut fds = Vec::with_capacity(6);
        let mut sources = Vec::with_capacity(6);
        let mut add = |source: Source, fd| {
            sources.push(source);
            fds.push(fd);
        };
        if !ended {
            add(Source::Process, PollFd::new(&self.process, PollFlags::IN));
        }
        if let Some(signals) = &self.signals {
            add(Source::Signals, PollFd::new(signals, PollFlags::IN));
        }
        if self.reads {
            add(Source::Stdin, PollFd::new(&input, PollFlags::IN));
        }
        if let Some(terminal) = &self.terminal {
            add(Source::Terminal, PollFd::new(terminal, PollFlags::IN));
        }
        for (index, (output, _)) in self.outputs.iter().enumerate() {
            add(Source::Output(index), PollFd::new(output, PollFlags::IN));
        }
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut fds, ended.then_some(&now)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut ready = Ready::default();
        for (source, _) in sources.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty())
        {
            match source {
                Source::Process => {}
                Source::Signals => ready.signals = true,
                Source::Stdin => ready.stdin = true,
                Source::Terminal => ready.terminal = true,
                Source::Output(index) => ready.outputs.push(index),
            }
        }
        Ok(ready)
    }

    fn pass_signals(&self) {
        const SIGCHLD: i32 = 17;
        const SIGWINCH: i32 = 28;
        let Some(signals) = &self.signals else { return };
        while let Ok(Some(signal)) = signals.next() {
            match signal {
                SIGWINCH => {
                    if let (Some(terminal), Some((rows, columns))) =
                        (&self.terminal, stream::size())
                    {
                        let size =
                            Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
                        // Only a terminal whose command has ended refuses.
                        let _ = tcsetwinsize(terminal, size);
                    }
                }
                SIGCHLD => {}
                // Docker's `exec` does not proxy signals; the command would outlive a Ctrl-C.
                signal => drop(self.process.signal(signal)),
            }
        }
    }

    /// Leaves the terminal to a process that reads what the command still writes: without a reader
    /// it would be hung up.
    fn leave_terminal(&mut self) -> io::Result<()> {
        let Some(terminal) = self.terminal.take() else { return Ok(()) };
        let mut reader = Command::new("/proc/self/exe");
        reader.arg("__drain").env_clear().current_dir("/").process_group(0);
        reader.stdin(terminal).stdout(Stdio::null()).stderr(Stdio::null());
        reader.spawn().map(drop)
    }

    fn pass_input(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let length = rustix::io::read(io::stdin(), &mut buffer).unwrap_or(0);
        if length == 0 {
            self.reads = false;
            self.stdin = None;
            return true;
        }
        let (bytes, detached) = match &mut self.detach {
            Some(filter) => filter.pass(&buffer[..length]),
            None => (buffer[..length].to_vec(), false),
        };
        let target = self.terminal.as_ref().or(self.stdin.as_ref());
        if target.is_some_and(|target| write_all(target, &bytes).is_err()) {
            // The command closed its standard input.
            self.reads = false;
            self.stdin = None;
        }
        !detached
    }

    fn pass_output(&mut self, index: usize) {
        let (source, target) = &self.outputs[index];
        let copied = match target {
            Target::Stdout => stream::copy_chunk(source, &mut io::stdout().lock()),
            Target::Stderr => stream::copy_chunk(source, &mut io::stderr().lock()),
        };
        if !matches!(copied, Ok(length) if length > 0) {
            self.outputs.remove(index);
        }
    }

    fn pass_terminal(&mut self) {
        let Some(terminal) = &self.terminal else { return };
        let copied = stream::copy_chunk(terminal, &mut io::stdout().lock());
        if !matches!(copied, Ok(length) if length > 0) {
            self.terminal = None;
        }
    }
}

fn write_all(target: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(target, bytes))?;
        bytes = &bytes[written..];
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Ready {
    signals: bool,
    stdin: bool,
    terminal: bool,
    outputs: Vec<usize>,
}

#[derive(Debug, Clone, Copy)]
enum Source {
    Process,
    Signals,
    Stdin,
    Terminal,
    Output(usize),
}
