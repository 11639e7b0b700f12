//! The monitor's ends of a container's standard streams.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::{Errno, read, write},
    termios::{Winsize, tcsetwinsize},
};

use super::log::Stream;
use crate::launch::Streams;

/// Bytes that may wait for the container before clients have to.
const STDIN_LIMIT: usize = 64 * 1024;

/// Pipes or a terminal, without blocking.
#[derive(Debug)]
pub(crate) struct Channels {
    /// Terminal, or standard output.
    output: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    queue: VecDeque<u8>,
    ending: bool,
    terminal: bool,
}

/// What reading an output came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// There will be no more.
    End,
}

impl Channels {
    /// Takes the streams of a launch.
    ///
    /// # Errors
    /// A descriptor cannot be made non-blocking.
    pub(crate) fn new(streams: Streams) -> io::Result<Self> {
        let (output, stderr, stdin, terminal) = match streams {
            Streams::Terminal(master) => (Some(master), None, None, true),
            Streams::Pipes { stdin, stdout, stderr } => (Some(stdout), Some(stderr), stdin, false),
            Streams::None => (None, None, None, false),
        };
        for fd in [&output, &stderr, &stdin].into_iter().flatten() {
            fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?;
        }
        Ok(Self { output, stderr, stdin, queue: VecDeque::new(), ending: false, terminal })
    }

    /// The output descriptor of a stream while it is open.
    pub(crate) fn output(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        match stream {
            Stream::Stdout => self.output.as_ref(),
            Stream::Stderr => self.stderr.as_ref(),
        }
        .map(AsFd::as_fd)
    }

    /// The descriptor for standard input while bytes wait for it.
    pub(crate) fn pending_input(&self) -> Option<BorrowedFd<'_>> {
        let descriptor = if self.terminal { &self.output } else { &self.stdin };
        descriptor.as_ref().filter(|_| !self.queue.is_empty()).map(AsFd::as_fd)
    }

    /// Whether no more input may be queued now.
    pub(crate) fn input_is_full(&self) -> bool {
        self.queue.len() > STDIN_LIMIT
    }

    /// Whether every output has ended.
    pub(crate) fn is_drained(&self) -> bool {
        self.output.is_none() && self.stderr.is_none()
    }

    /// Reads an output; after its end the descriptor is closed.
    pub(crate) fn read(&mut self, stream: Stream, buffer: &mut [u8]) -> Read {
        let slot = match stream {
            Stream::Stdout => &mut self.output,
            Stream::Stderr => &mut self.stderr,
        };
        let Some(fd) = slot else { return Read::End };
        match read(&*fd, buffer) {
            Ok(length) if length > 0 => Read::Bytes(length),
            Err(Errno::AGAIN | Errno::INTR) => Read::Nothing,
            // A terminal without a process answers EIO instead of an end.
            Ok(_) | Err(_) => {
                *slot = None;
                Read::End
            }
        }
    }

    /// Queues standard input; without an open one it is dropped.
    pub(crate) fn input(&mut self, bytes: &[u8]) {
        let open = if self.terminal { self.output.is_some() } else { self.stdin.is_some() };
        if open && !self.ending {
            self.queue.extend(bytes);
        }
    }

    /// Closes standard input after what is queued; a terminal has no such end.
    pub(crate) fn end_input(&mut self) {
        if !self.terminal {
            self.ending = true;
            self.flush_input();
        }
    }

    /// Writes queued input as far as the container takes it now.
    pub(crate) fn flush_input(&mut self) {
        let slot = if self.terminal { &mut self.output } else { &mut self.stdin };
        while let Some(fd) = slot.as_ref().filter(|_| !self.queue.is_empty()) {
            let (front, _) = self.queue.as_slices();
            match write(fd, front) {
                Ok(written) => drop(self.queue.drain(..written)),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                // The container closed its standard input.
                Err(_) => {
                    self.queue.clear();
                    self.ending = true;
                }
            }
        }
        if self.ending && !self.terminal {
            *slot = None;
        }
        self.queue.shrink_to(4096);
    }

    /// Sets the size of the terminal; without one nothing happens.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        if let Some(master) = self.output.as_ref().filter(|_| self.terminal) {
            let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            // Only a terminal whose container is going refuses.
            let _ = tcsetwinsize(master, size);
        }
    }

    /// Closes everything.
    pub(crate) fn close(&mut self) {
        self.output = None;
        self.stderr = None;
        self.stdin = None;
    }
}
