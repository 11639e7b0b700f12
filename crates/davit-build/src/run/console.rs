//! A command that somebody works with by hand: its streams go to the caller, past the supervisor.
//!
//! Of pipes the build passes the command's ends along; the master of a terminal, which is made in
//! the command's own devpts, comes back over a socket. Nothing of the caller's own is passed: of a
//! file or terminal of the host the command could use more than was meant.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
    pipe::{PipeFlags, pipe_with},
};
use serde::{Deserialize, Serialize};

/// Most descriptors that go with a request.
pub(super) const MOST: usize = 3;
/// What goes with a terminal's descriptor.
const TERMINAL: &[u8] = b"terminal";

/// What a command's streams are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConsoleKind {
    /// A terminal of its own, of so many rows and columns.
    Terminal {
        /// `None` = the kernel's zero.
        size: Option<(u16, u16)>,
    },
    /// Three pipes.
    Pipes,
}

/// The caller's ends of a command's streams.
#[derive(Debug)]
pub enum ConsoleStreams {
    /// Master of the terminal.
    Terminal(OwnedFd),
    /// What is written to it is standard input; output and error are read from the others.
    Pipes {
        /// Standard input.
        stdin: OwnedFd,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
}

/// Somebody who works with a command by hand.
pub trait Console: Send + Sync {
    /// What the command's streams are to be.
    fn kind(&self) -> ConsoleKind;

    /// Moves bytes until the command's output ends, which is when the command has ended; called in a
    /// thread of its own.
    fn relay(&self, streams: ConsoleStreams);
}

/// Streams that are passed along with a command.
#[derive(Debug)]
pub(crate) struct Passed {
    pub(super) kind: ConsoleKind,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// The caller's side of them.
#[derive(Debug)]
pub(crate) enum Kept {
    /// Where the terminal comes from.
    Socket(OwnedFd),
    Streams(ConsoleStreams),
}

/// Makes both sides.
pub(crate) fn open(kind: ConsoleKind) -> io::Result<(Passed, Kept)> {
    match kind {
        ConsoleKind::Terminal { .. } => {
            let (ours, theirs) =
                socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
            Ok((Passed { kind, descriptors: vec![theirs] }, Kept::Socket(ours)))
        }
        ConsoleKind::Pipes => {
            let (input, stdin) = pipe_with(PipeFlags::CLOEXEC)?;
            let (stdout, output) = pipe_with(PipeFlags::CLOEXEC)?;
            let (stderr, error) = pipe_with(PipeFlags::CLOEXEC)?;
            let streams = ConsoleStreams::Pipes { stdin, stdout, stderr };
            Ok((Passed { kind, descriptors: vec![input, output, error] }, Kept::Streams(streams)))
        }
    }
}

impl Kept {
    /// Lets somebody work until the command has ended, or is not launched.
    pub(crate) fn relay(self, console: &dyn Console) {
        let streams = match self {
            Self::Streams(streams) => Some(streams),
            Self::Socket(socket) => match receive(&socket, &mut [0; TERMINAL.len()]) {
                Ok((_, mut descriptors)) => descriptors.pop().map(ConsoleStreams::Terminal),
                Err(error) => {
                    tracing::debug!(%error, "no terminal comes");
                    None
                }
            },
        };
        if let Some(streams) = streams {
            console.relay(streams);
        }
    }
}

/// Sends the terminal of a command to who asked for it.
pub(super) fn send_terminal(socket: &OwnedFd, master: &OwnedFd) -> io::Result<()> {
    send(socket, TERMINAL, &[master.as_fd()])
}

/// Sends bytes and with them descriptors.
pub(super) fn send(
    socket: impl AsFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let parts = [IoSlice::new(bytes)];
    let sent =
        rustix::io::retry_on_intr(|| sendmsg(&socket, &parts, &mut control, SendFlags::NOSIGNAL))?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives bytes and the descriptors that come with them; no bytes at the end.
pub(super) fn receive(socket: impl AsFd, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(bytes)];
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(&socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    Ok((received.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read as _, Write as _},
        sync::Mutex,
    };

    use super::*;

    /// Writes a word, and keeps what comes.
    struct Echo(ConsoleKind, Mutex<String>);

    impl Console for Echo {
        fn kind(&self) -> ConsoleKind {
            self.0
        }

        fn relay(&self, streams: ConsoleStreams) {
            let mut text = String::new();
            match streams {
                ConsoleStreams::Terminal(master) => {
                    File::from(master).read_to_string(&mut text).unwrap();
                }
                ConsoleStreams::Pipes { stdin, stdout, .. } => {
                    File::from(stdin).write_all(b"word").unwrap();
                    File::from(stdout).read_to_string(&mut text).unwrap();
                }
            }
            *self.1.lock().unwrap() = text;
        }
    }

    #[test]
    fn streams_reach_both_sides() {
        let pipes = Echo(ConsoleKind::Pipes, Mutex::default());
        let (passed, kept) = open(pipes.kind()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| kept.relay(&pipes));
            let [input, output, _error] = <[OwnedFd; 3]>::try_from(passed.descriptors).unwrap();
            let mut text = String::new();
            File::from(input).read_to_string(&mut text).unwrap();
            File::from(output).write_all(format!("{text}s").as_bytes()).unwrap();
        });
        assert_eq!(*pipes.1.lock().unwrap(), "words");
        // A file stands for the terminal here.
        let terminal = Echo(ConsoleKind::Terminal { size: None }, Mutex::default());
        let (passed, kept) = open(terminal.kind()).unwrap();
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        File::from(write).write_all(b"shown").unwrap();
        send_terminal(&passed.descriptors[0], &read).unwrap();
        drop((passed, read));
        kept.relay(&terminal);
        assert_eq!(*terminal.1.lock().unwrap(), "shown");
        // A command that is not launched has no terminal, and nobody waits for one.
        let (passed, kept) = open(terminal.kind()).unwrap();
        drop(passed);
        kept.relay(&terminal);
    }
}
