//! One connection of the monitor's socket.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};

use super::protocol::{self, Decoder, Reply, Request, StreamSet};

/// Bytes that may wait for a client before the container's output has to.
const QUEUE_LIMIT: usize = 256 * 1024;
/// Bytes read from a client at once.
const READ_BYTES: usize = 16 * 1024;

/// A client that is connected.
#[derive(Debug)]
pub(crate) struct Client {
    socket: OwnedFd,
    decoder: Decoder,
    queue: VecDeque<u8>,
    greeted: bool,
    /// What it attached to; empty before.
    pub(crate) streams: StreamSet,
    /// Whether it brings the database up to date itself.
    pub(crate) settles: bool,
}

impl Client {
    /// Takes a connected, non-blocking socket and greets.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        let mut client = Self {
            socket,
            decoder: Decoder::default(),
            queue: VecDeque::new(),
            greeted: false,
            streams: StreamSet::default(),
            settles: false,
        };
        client.queue.extend(protocol::monitor_greeting());
        client
    }

    /// Whether so much waits for it that no more may be produced.
    pub(crate) fn is_full(&self) -> bool {
        self.queue.len() > QUEUE_LIMIT
    }

    /// Whether something waits for it.
    pub(crate) fn has_output(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Queues a reply.
    pub(crate) fn reply(&mut self, reply: &Reply) {
        self.queue.extend(reply.encode());
    }

    /// Queues a frame that is encoded already.
    pub(crate) fn queue(&mut self, frame: &[u8]) {
        self.queue.extend(frame);
    }

    /// Sends what the socket takes now.
    ///
    /// # Errors
    /// The client is gone.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while !self.queue.is_empty() {
            let (front, _) = self.queue.as_slices();
            match send(&self.socket, front, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(sent) => drop(self.queue.drain(..sent)),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        // A burst of output must not cost memory for the rest of the container's life.
        self.queue.shrink_to(4096);
        Ok(())
    }

    /// Reads what has arrived.
    ///
    /// # Errors
    /// The client is gone, or speaks another protocol.
    pub(crate) fn receive(&mut self) -> io::Result<Vec<Request>> {
        let mut buffer = vec![0; READ_BYTES];
        match recv(&self.socket, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((length, _)) => self.decoder.push(&buffer[..length]),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        }
        if !self.greeted {
            let Some(greeting) = self.decoder.greeting() else { return Ok(Vec::new()) };
            if !protocol::accepts_client(&greeting) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.greeted = true;
        }
        let mut requests = Vec::new();
        while let Some(request) = self.decoder.request().map_err(io::Error::other)? {
            requests.push(request);
        }
        Ok(requests)
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
