//! A connection to a container's monitor.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use davit_runtime::{
    monitor::{
        dial,
        protocol::{Decoder, PAYLOAD_LIMIT, Reply, Request, accepts_monitor, client_greeting},
    },
    process::ExitStatus,
};
use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};

use super::ContainerError;
use crate::Engine;

const READ_BYTES: usize = 64 * 1024 + 64;

/// A connection to a container's monitor; poll its descriptor, then receive.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    decoder: Decoder,
    greeted: bool,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, decoder: Decoder::default(), greeted: false }
    }

    /// Sends the greeting and the first wishes, which the socket's buffer takes at once.
    pub(crate) fn greet(&mut self, wishes: &[Request]) -> io::Result<()> {
        self.send_all(&client_greeting())?;
        wishes.iter().try_for_each(|wish| self.send(wish))
    }

    /// Sends a request; blocks while the monitor does not read.
    ///
    /// # Errors
    /// The monitor is gone.
    pub fn send(&self, request: &Request) -> io::Result<()> {
        match request {
            Request::Stdin(bytes) if bytes.len() > PAYLOAD_LIMIT => bytes
                .chunks(PAYLOAD_LIMIT)
                .try_for_each(|chunk| self.send_all(&Request::Stdin(chunk.to_vec()).encode())),
            request => self.send_all(&request.encode()),
        }
    }

    fn send_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Reads what has arrived; waits if nothing has.
    ///
    /// # Errors
    /// `UnexpectedEof` when the monitor is gone, `InvalidData` when it speaks another version.
    pub fn receive(&mut self) -> io::Result<Vec<Reply>> {
        loop {
            let mut replies = Vec::new();
            if self.greeted {
                while let Some(reply) = self.decoder.reply().map_err(io::Error::other)? {
                    replies.push(reply);
                }
            } else if let Some(greeting) = self.decoder.greeting() {
                if !accepts_monitor(&greeting) {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                self.greeted = true;
                continue;
            }
            if !replies.is_empty() {
                return Ok(replies);
            }
            self.read()?;
        }
    }

    /// What arrived together with something else that was waited for; reads nothing. Ask once
    /// before the descriptor is polled: it does not show what was read already.
    ///
    /// # Errors
    /// `InvalidData` when the monitor speaks another version.
    pub fn buffered(&mut self) -> io::Result<Vec<Reply>> {
        let mut replies = Vec::new();
        while self.greeted
            && let Some(reply) = self.decoder.reply().map_err(io::Error::other)?
        {
            replies.push(reply);
        }
        Ok(replies)
    }

    fn read(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((length, _)) => {
                    self.decoder.push(&buffer[..length]);
                    return Ok(());
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Waits for the start's outcome.
    pub(crate) fn first_word(&mut self) -> io::Result<Reply> {
        loop {
            while !self.greeted {
                match self.decoder.greeting() {
                    Some(greeting) if accepts_monitor(&greeting) => self.greeted = true,
                    Some(_) => return Err(io::ErrorKind::InvalidData.into()),
                    None => self.read()?,
                }
            }
            while let Some(reply) = self.decoder.reply().map_err(io::Error::other)? {
                if matches!(reply, Reply::Started(_) | Reply::Failed(..)) {
                    return Ok(reply);
                }
            }
            self.read()?;
        }
    }

    /// Waits for the command's end; restarts are passed over.
    ///
    /// # Errors
    /// The monitor ended without telling.
    pub fn wait_for_end(&mut self) -> io::Result<ExitStatus> {
        loop {
            for reply in self.receive()? {
                if let Reply::Exited { status, restarting: false, .. } = reply {
                    return Ok(status);
                }
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Engine {
    /// Connects to the monitor of a running container.
    ///
    /// # Errors
    /// [`ContainerError::Conflict`] when it does not run.
    pub fn connect(&self, id: &str, wishes: &[Request]) -> Result<Connection, ContainerError> {
        let directory = self.store().layout().run_container(id);
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ContainerError::Conflict(format!("container {id} is not running"))
            }
            _ => ContainerError::io("connect to the monitor in", &directory, source),
        };
        let mut connection = Connection::new(dial(&directory).map_err(failed)?);
        connection.greet(wishes).map_err(failed)?;
        Ok(connection)
    }

    /// Brings a container up to date after its end; call it with a connection that settles.
    ///
    /// # Errors
    /// What the store says.
    pub fn settle(&self, id: &str) -> Result<(), ContainerError> {
        let (row, _lock) = match self.lock_row(id) {
            // Another command has removed it, or started it again.
            Err(error) if error.is_not_found() => return Ok(()),
            Ok(None) => return Ok(()),
            Ok(Some(locked)) => locked,
            Err(error) => return Err(error),
        };
        let container = super::Container::of_row(row)?;
        if !container.status.phase.is_alive() {
            return Ok(());
        }
        let summary = davit_runtime::monitor::state::Summary::of(&self.records(id)?);
        if summary.ended.is_some() {
            self.settle_container(container, &summary)?;
        }
        Ok(())
    }
}
