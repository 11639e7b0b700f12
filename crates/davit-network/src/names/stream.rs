//! One connection of a program that asks by TCP: one question after the other, each with its length
//! before it (RFC 7766).

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    time::Instant,
};

use rustix::{
    event::epoll,
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, connect, socket_with},
};

use super::{
    Fate, Lookup,
    message::{Code, Question, answers, id},
};

/// Largest question with its length.
const QUESTION_BYTES: usize = 2 + 4096;
/// Largest answer with its length.
const ANSWER_BYTES: usize = 2 + 65_535;

#[derive(Debug)]
pub(super) struct Stream {
    client: TcpStream,
    /// What the client has sent and nobody has looked at.
    input: Vec<u8>,
    /// What it is to get.
    output: Vec<u8>,
    asked: Option<Asked>,
    /// When it is given up.
    pub(super) deadline: Instant,
}

/// A question on its way to another server.
#[derive(Debug)]
struct Asked {
    server: TcpStream,
    /// Number of the server.
    index: usize,
    query: Vec<u8>,
    /// Bytes of it that were sent.
    sent: usize,
    reply: Vec<u8>,
}

impl Stream {
    pub(super) fn new(
        client: TcpStream,
        epoll: &OwnedFd,
        token: u64,
        deadline: Instant,
    ) -> io::Result<Self> {
        client.set_nonblocking(true)?;
        watch(epoll, &client, token)?;
        Ok(Self { client, input: Vec::new(), output: Vec::new(), asked: None, deadline })
    }

    /// Goes on until it must wait for client or server.
    ///
    /// # Errors
    /// When the client has gone, or sends what is no question: the connection is then over.
    pub(super) fn advance(
        &mut self,
        lookup: &mut Lookup,
        place: (&OwnedFd, u64),
    ) -> io::Result<()> {
        loop {
            if !write_all(&mut self.client, &mut self.output)? {
                return Ok(());
            }
            if self.asked.is_some() {
                if !self.hear(lookup, place) {
                    return Ok(());
                }
                continue;
            }
            match framed(&mut self.input) {
                Some(message) => self.take(&message, lookup, place)?,
                None if !self.read()? => return Ok(()),
                None => {}
            }
        }
    }

    /// Reads more of a question; `false` if there is nothing yet.
    fn read(&mut self) -> io::Result<bool> {
        let room = QUESTION_BYTES.saturating_sub(self.input.len());
        if room == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        read_some(&mut self.client, &mut self.input, room)
    }

    fn take(
        &mut self,
        message: &[u8],
        lookup: &mut Lookup,
        place: (&OwnedFd, u64),
    ) -> io::Result<()> {
        let question = Question::read(message).ok_or(io::ErrorKind::InvalidData)?;
        match lookup.decide(message, &question) {
            Fate::Answer(answer) => self.output = with_length(&answer),
            Fate::Ask => {
                self.asked = Asked::begin(with_length(message), 0, lookup, place);
                if self.asked.is_none() {
                    self.output = with_length(&question.refuse(message, Code::Failure));
                }
            }
        }
        Ok(())
    }

    /// Goes on with the server; `false` if it must be waited for.
    fn hear(&mut self, lookup: &Lookup, place: (&OwnedFd, u64)) -> bool {
        let Some(mut asked) = self.asked.take() else { return true };
        match asked.advance() {
            Ok(None) => {
                self.asked = Some(asked);
                false
            }
            Ok(Some(reply)) => {
                self.output = reply;
                true
            }
            Err(_) => {
                let message = asked.query.get(2..).unwrap_or_default().to_vec();
                self.asked = Asked::begin(asked.query, asked.index + 1, lookup, place);
                if let (None, Some(question)) = (&self.asked, Question::read(&message)) {
                    self.output = with_length(&question.refuse(&message, Code::Failure));
                }
                true
            }
        }
    }
}

impl Asked {
    /// Turns to the first server from `first` on that takes connections.
    fn begin(
        query: Vec<u8>,
        first: usize,
        lookup: &Lookup,
        (epoll, token): (&OwnedFd, u64),
    ) -> Option<Self> {
        let mut servers = lookup.servers.iter().enumerate().skip(first);
        let (index, server) = servers.find_map(|(index, address)| {
            let server = open(*address).ok()?;
            watch(epoll, &server, token).ok()?;
            Some((index, server))
        })?;
        Some(Self { server, index, query, sent: 0, reply: Vec::new() })
    }

    /// The whole answer with its length, once it is there.
    fn advance(&mut self) -> io::Result<Option<Vec<u8>>> {
        while self.sent < self.query.len() {
            match self.server.write(&self.query[self.sent..]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => self.sent += written?,
            }
        }
        loop {
            if let Some(message) = framed(&mut self.reply) {
                let query = &self.query[2..];
                return match answers(&message, query, id(query)) {
                    true => Ok(Some(with_length(&message))),
                    false => Err(io::ErrorKind::InvalidData.into()),
                };
            }
            let room = ANSWER_BYTES.saturating_sub(self.reply.len());
            if !read_some(&mut self.server, &mut self.reply, room)? {
                return Ok(None);
            }
        }
    }
}

/// Tells of every change of a socket, once each.
fn watch(epoll: &OwnedFd, socket: &TcpStream, token: u64) -> io::Result<()> {
    let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
    Ok(epoll::add(epoll, socket, epoll::EventData::new_u64(token), flags)?)
}

/// Begins a connection, which is there once it can be written to.
fn open(server: SocketAddr) -> io::Result<TcpStream> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    match connect(&socket, &server) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket.into()),
        Err(errno) => Err(errno.into()),
    }
}

/// Takes the first message out of what came in, without its length, if it is whole.
fn framed(bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]));
    let message = bytes.get(2..2 + length)?.to_vec();
    bytes.drain(..2 + length);
    Some(message)
}

fn with_length(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("messages are no longer than their sources");
    [&length.to_be_bytes(), message].concat()
}

/// Adds at most `room` bytes; `false` if there are none yet, an error at the end.
fn read_some(from: &mut impl Read, to: &mut Vec<u8>, room: usize) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    let most = room.min(buffer.len());
    loop {
        match from.read(&mut buffer[..most]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                to.extend(&buffer[..length]);
                return Ok(true);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes what it can; whether that was all.
fn write_all(to: &mut impl Write, bytes: &mut Vec<u8>) -> io::Result<bool> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            written => drop(bytes.drain(..written?)),
        }
    }
    Ok(true)
}
