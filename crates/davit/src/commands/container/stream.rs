//! Moving bytes between the caller's terminal or pipes and a container.

use std::{
    io::{self, Write},
    os::fd::AsFd,
};

use davit_engine::{
    container::{Connection, ExitStatus, Process, Reply, Request},
    signals::SignalFd,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr},
};

use crate::error::{CliError, io_error};

const SIGCHLD: i32 = 17;
const SIGWINCH: i32 = 28;
/// Signals that are not passed on: they end or stop at once, tell of children, of a reader that
/// left or of a socket, are what the terminal says to the background, or the caller's own faults.
const KEPT: [i32; 10] = [4, 7, 8, 9, 11, 13, 19, 21, 22, 23];
/// Signals that end this command: hang-up, interrupt, quit, terminate.
const ENDING: [i32; 4] = [1, 2, 3, 15];
const READ_BYTES: usize = 32 * 1024;

/// The caller's terminal in raw mode; dropping it restores the mode.
#[derive(Debug)]
pub(crate) struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Sets standard input raw; `None` if it is no terminal.
    pub(crate) fn enter() -> Option<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Rows and columns of the caller's terminal.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size =
        [tcgetwinsize(io::stdout()), tcgetwinsize(io::stdin())].into_iter().find_map(Result::ok)?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Whether standard input is a terminal.
pub(crate) fn stdin_is_terminal() -> bool {
    isatty(io::stdin())
}

/// Whose the caller's signals are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signals {
    /// The container's: they are passed on.
    Proxied,
    /// This command's: they end it, with the terminal restored; the container goes on.
    Own,
}

impl From<bool> for Signals {
    fn from(proxied: bool) -> Self {
        if proxied { Self::Proxied } else { Self::Own }
    }
}

/// The signals that are handled, as a descriptor.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn catch_signals(whose: Signals) -> Result<SignalFd, CliError> {
    let caught = |signal: &i32| match whose {
        Signals::Proxied => !KEPT.contains(signal),
        Signals::Own => ENDING.contains(signal) || *signal == SIGWINCH,
    };
    SignalFd::new((1..=64).filter(caught)).map_err(io_error)
}

/// Parses `ctrl-p,ctrl-q` or `a,b`.
///
/// # Errors
/// Anything else.
pub(crate) fn detach_keys(text: &str) -> Result<Vec<u8>, CliError> {
    // Empty is as not given.
    let text = if text.is_empty() { DETACH_KEYS } else { text };
    let invalid = || CliError::usage(format!("invalid detach keys ({text}) provided"));
    let key = |key: &str| match key.strip_prefix("ctrl-").map(str::as_bytes) {
        Some([letter @ b'a'..=b'z']) => Ok(letter - b'a' + 1),
        Some(b"@") => Ok(0),
        Some(b"[") => Ok(27),
        Some(b"\\") => Ok(28),
        Some(b"]") => Ok(29),
        Some(b"^") => Ok(30),
        Some(b"_") => Ok(31),
        Some(_) => Err(invalid()),
        None => match key.as_bytes() {
            [byte] => Ok(*byte),
            _ => Err(invalid()),
        },
    };
    text.split(',').map(key).collect()
}

/// The default of `--detach-keys`.
pub(crate) const DETACH_KEYS: &str = "ctrl-p,ctrl-q";

/// Looks for the detach keys in what is typed; held-back bytes that turn out to be none go on.
#[derive(Debug)]
pub(crate) struct DetachFilter {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachFilter {
    pub(crate) fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// What to send of `bytes`, and whether the sequence is complete.
    pub(crate) fn pass(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if self.keys.get(self.matched) == Some(byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return (passed, true);
                }
                continue;
            }
            passed.extend_from_slice(&self.keys[..self.matched]);
            self.matched = 0;
            if self.keys.first() == Some(byte) {
                self.matched = 1;
            } else {
                passed.push(*byte);
            }
        }
        (passed, false)
    }
}

/// How a session is relayed.
#[derive(Debug)]
pub(crate) struct Relay<'a> {
    /// Connection to the monitor.
    pub(crate) connection: &'a mut Connection,
    /// Whether standard input is passed on.
    pub(crate) stdin: bool,
    /// Keys that detach, where the container has a terminal.
    pub(crate) detach: Option<DetachFilter>,
    /// Who gets the caller's signals.
    pub(crate) process: Option<Process>,
    /// The caller's signals.
    pub(crate) signals: Option<SignalFd>,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    /// The command ended.
    Exited(ExitStatus),
    /// The caller typed the detach keys.
    Detached,
    /// A signal for this command itself ended it.
    Interrupted(i32),
    /// The monitor went away.
    Lost,
}

impl Relay<'_> {
    /// Relays until the end.
    ///
    /// # Errors
    /// Polling failed; nobody takes the output any more: the container goes on without.
    pub(crate) fn run(mut self) -> Result<SessionEnd, CliError> {
        // The start's outcome may have come with the first output behind it.
        if let Ok(replies) = self.connection.buffered()
            && let Some(end) = show(replies)?
        {
            return Ok(end);
        }
        loop {
            let (stdin, connection, signals) = self.wait().map_err(io_error)?;
            if signals && let Some(end) = self.pass_signals() {
                return Ok(end);
            }
            if stdin && !self.pass_input() {
                return Ok(SessionEnd::Detached);
            }
            if connection && let Some(end) = self.pass_output()? {
                return Ok(end);
            }
        }
    }

    fn wait(&self) -> io::Result<(bool, bool, bool)> {
        let input = io::stdin();
        let mut fds = vec![PollFd::new(&self.connection, PollFlags::IN)];
        fds.extend(self.signals.as_ref().map(|signals| PollFd::new(signals, PollFlags::IN)));
        if self.stdin {
            fds.push(PollFd::new(&input, PollFlags::IN));
        }
        loop {
            match poll(&mut fds, None) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        let has_signals = self.signals.is_some();
        let stdin = self.stdin && ready(1 + usize::from(has_signals));
        Ok((stdin, ready(0), has_signals && ready(1)))
    }

    /// Handles signals; the end if one of them means it.
    fn pass_signals(&mut self) -> Option<SessionEnd> {
        let signals = self.signals.as_ref()?;
        while let Ok(Some(signal)) = signals.next() {
            match (signal, &self.process) {
                (SIGWINCH, None) => {
                    if let Some((rows, columns)) = size() {
                        // The end of a monitor shows when its output is read.
                        drop(self.connection.send(&Request::Resize(rows, columns)));
                    }
                }
                (SIGCHLD, _) => {}
                (signal, Some(process)) => drop(process.signal(signal)),
                (signal, None) if ENDING.contains(&signal) => {
                    return Some(SessionEnd::Interrupted(signal));
                }
                (_, None) => {}
            }
        }
        None
    }

    /// Passes input on; `false` when the caller detaches.
    fn pass_input(&mut self) -> bool {
        let mut buffer = vec![0; READ_BYTES];
        let length = match rustix::io::read(io::stdin(), buffer.as_mut_slice()) {
            Ok(length) => length,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return true,
            Err(_) => 0,
        };
        if length == 0 {
            self.stdin = false;
            drop(self.connection.send(&Request::StdinEnd));
            return true;
        }
        let (bytes, detached) = match &mut self.detach {
            Some(filter) => filter.pass(&buffer[..length]),
            None => (buffer[..length].to_vec(), false),
        };
        if !bytes.is_empty() {
            drop(self.connection.send(&Request::Stdin(bytes)));
        }
        !detached
    }

    fn pass_output(&mut self) -> Result<Option<SessionEnd>, CliError> {
        self.connection.receive().map_or(Ok(Some(SessionEnd::Lost)), show)
    }
}

/// Shows output; the end if it is among the replies.
fn show(replies: Vec<Reply>) -> Result<Option<SessionEnd>, CliError> {
    for reply in replies {
        match reply {
            Reply::Stdout(bytes) => write("stdout", &mut io::stdout().lock(), &bytes)?,
            Reply::Stderr(bytes) => write("stderr", &mut io::stderr().lock(), &bytes)?,
            Reply::Exited { status, restarting: false, .. } => {
                return Ok(Some(SessionEnd::Exited(status)));
            }
            _ => {}
        }
    }
    Ok(None)
}

fn write(name: &str, target: &mut (impl Write + AsFd), bytes: &[u8]) -> Result<(), CliError> {
    let written = write_all(target, bytes);
    // In words, since the cause alone would be as quiet as the end of `davit ps | head -1`.
    written.map_err(|error| CliError::user(format!("write /dev/{name}: {}", error.kind())))
}

/// Writes everything, also where the target is not blocking, as a pipe that another program set so.
fn write_all(target: &mut (impl Write + AsFd), mut bytes: &[u8]) -> io::Result<()> {
    loop {
        let written = match bytes {
            [] => target.flush().map(|()| None),
            bytes => target.write(bytes).map(Some),
        };
        match written {
            Ok(None) => return Ok(()),
            Ok(Some(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(Some(length)) => bytes = &bytes[length..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut fds = [PollFd::new(target, PollFlags::OUT)];
                rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Copies a descriptor to standard output or error.
pub(crate) fn copy_chunk(source: impl AsFd, target: &mut (impl Write + AsFd)) -> io::Result<usize> {
    let mut buffer = vec![0; READ_BYTES];
    let length = rustix::io::read(source, buffer.as_mut_slice())?;
    write_all(target, &buffer[..length])?;
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_waits_for_its_reader() {
        use std::io::Read as _;
        let flags = rustix::pipe::PipeFlags::NONBLOCK;
        let (reader, writer) = rustix::pipe::pipe_with(flags).unwrap();
        rustix::io::ioctl_fionbio(&reader, false).unwrap();
        let (mut reader, mut writer) = (std::fs::File::from(reader), std::fs::File::from(writer));
        let sent = vec![7; 1 << 20];
        let reading = std::thread::spawn(move || {
            let mut got = Vec::new();
            reader.read_to_end(&mut got).unwrap();
            got
        });
        write("stdout", &mut writer, &sent).unwrap();
        drop(writer);
        assert_eq!(reading.join().unwrap(), sent);
    }

    #[test]
    fn detach_keys_parse() {
        assert_eq!(detach_keys(DETACH_KEYS).unwrap(), [16, 17]);
        assert_eq!(detach_keys("a,ctrl-@,ctrl-_").unwrap(), [b'a', 0, 31]);
        assert_eq!(detach_keys("").unwrap(), [16, 17]);
        for bad in [",", "ctrl-", "ctrl-A", "ctrl-1", "ab"] {
            assert!(detach_keys(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn detach_keys_are_found_across_reads() {
        let mut filter = DetachFilter::new(vec![16, 17]);
        assert_eq!(filter.pass(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(filter.pass(b"c"), (b"\x10c".to_vec(), false), "held back and released");
        assert_eq!(filter.pass(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(filter.pass(b"\x11rest"), (Vec::new(), true));
    }
}
