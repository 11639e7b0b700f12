//! What a build and its supervisor say to each other, over a stream socket.
//!
//! A request is `length u32, JSON`. A reply is `length u32, kind u8, step u32, payload`; the length
//! counts what follows it. Both are little-endian and live only as long as one build: both ends are
//! the same program.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use davit_runtime::{Identity, Plan};
use davit_snapshot::{Stack, Upper};
use serde::{Deserialize, Serialize};

use super::{
    console::{self, ConsoleKind},
    mounts::StepMount,
    network::Attachment,
};
use crate::event::LogStream;

/// Longest message in bytes.
const LIMIT: u32 = 16 << 20;
const HEADER: usize = 5;

/// What a build asks of its supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Run a command.
    Run(Box<RunRequest>),
    /// Kill a command; its end is reported as always.
    Kill { id: u32 },
}

/// A command: mount the stack with this upper directory, add the mounts to the plan, and run that,
/// connected to a network. Descriptors for its streams, if it has a console, come with the request.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RunRequest {
    pub(crate) id: u32,
    pub(crate) stack: Stack,
    pub(crate) upper: Upper,
    pub(crate) plan: Plan,
    pub(crate) mounts: Vec<StepMount>,
    pub(crate) network: Option<Attachment>,
    /// The first process of the container whose network it joins.
    pub(crate) joined: Option<Identity>,
    /// Whose its streams are; `None` = output is told, and there is no input.
    pub(crate) console: Option<ConsoleKind>,
}

/// What a supervisor tells of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Output(LogStream, Vec<u8>),
    /// It ended, nothing of it is left, and its output is complete.
    Exited(i32),
    /// It could not be launched.
    Failed(String),
    /// A tree was gone or damaged.
    Stale(String),
    /// It could not be connected to its network.
    Unconnected(String),
}

/// Writes a request; the descriptors go with its length.
pub(crate) fn write_request(
    stream: &mut UnixStream,
    request: &Request,
    descriptors: &[OwnedFd],
) -> io::Result<()> {
    let json = serde_json::to_vec(request)?;
    let length = length(json.len())?.to_le_bytes();
    if descriptors.is_empty() {
        let mut message = Vec::with_capacity(json.len() + length.len());
        message.extend_from_slice(&length);
        message.extend_from_slice(&json);
        return stream.write_all(&message);
    }
    let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(|it| it.as_fd()).collect();
    console::send(&*stream, &length, &descriptors)?;
    stream.write_all(&json)
}

/// The next request and what came with it; `None` at the end of the connection.
pub(crate) fn read_request(stream: &mut UnixStream) -> io::Result<Option<(Request, Vec<OwnedFd>)>> {
    let (mut length, mut read, mut descriptors) = ([0; 4], 0, Vec::new());
    while read < length.len() {
        let (bytes, more) = console::receive(&*stream, &mut length[read..])?;
        if bytes == 0 {
            return Ok(None);
        }
        read += bytes;
        descriptors.extend(more);
    }
    let bytes = read_body(stream, length)?;
    Ok(Some((serde_json::from_slice(&bytes)?, descriptors)))
}

pub(crate) fn write_reply(stream: &mut impl Write, id: u32, reply: &Reply) -> io::Result<()> {
    let code;
    let (kind, payload): (u8, &[u8]) = match reply {
        Reply::Output(LogStream::Stdout, bytes) => (1, bytes),
        Reply::Output(LogStream::Stderr, bytes) => (2, bytes),
        Reply::Exited(status) => {
            code = status.to_le_bytes();
            (3, &code)
        }
        Reply::Failed(message) => (4, message.as_bytes()),
        Reply::Stale(message) => (5, message.as_bytes()),
        Reply::Unconnected(message) => (6, message.as_bytes()),
    };
    let mut message = Vec::with_capacity(payload.len() + HEADER + 4);
    message.extend_from_slice(&length(payload.len() + HEADER)?.to_le_bytes());
    message.push(kind);
    message.extend_from_slice(&id.to_le_bytes());
    message.extend_from_slice(payload);
    stream.write_all(&message)
}

/// The next reply and the step that it is about; `None` at the end of the connection.
pub(crate) fn read_reply(stream: &mut impl Read) -> io::Result<Option<(u32, Reply)>> {
    let Some(bytes) = read_message(stream)? else { return Ok(None) };
    let (header, payload) = bytes.split_at_checked(HEADER).ok_or(io::ErrorKind::InvalidData)?;
    let id = u32::from_le_bytes([header[1], header[2], header[3], header[4]]);
    let text = || String::from_utf8_lossy(payload).into_owned();
    let reply = match header[0] {
        1 => Reply::Output(LogStream::Stdout, payload.to_vec()),
        2 => Reply::Output(LogStream::Stderr, payload.to_vec()),
        3 => {
            let code = payload.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
            Reply::Exited(i32::from_le_bytes(code))
        }
        4 => Reply::Failed(text()),
        5 => Reply::Stale(text()),
        6 => Reply::Unconnected(text()),
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    Ok(Some((id, reply)))
}

fn length(length: usize) -> io::Result<u32> {
    let length = u32::try_from(length).ok().filter(|length| *length <= LIMIT);
    length.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

fn read_message(stream: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    read_body(stream, length).map(Some)
}

fn read_body(stream: &mut impl Read, length: [u8; 4]) -> io::Result<Vec<u8>> {
    let length = u32::from_le_bytes(length);
    if length > LIMIT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_round_trip() {
        let replies = [
            Reply::Output(LogStream::Stdout, b"out\0".to_vec()),
            Reply::Output(LogStream::Stderr, Vec::new()),
            Reply::Exited(-1),
            Reply::Failed("no such file".to_owned()),
            Reply::Stale(String::new()),
            Reply::Unconnected("no bridge".to_owned()),
        ];
        let mut bytes = Vec::new();
        for (id, reply) in (7..).zip(&replies) {
            write_reply(&mut bytes, id, reply).unwrap();
        }
        let mut stream = &bytes[..];
        for (id, reply) in (7..).zip(replies) {
            assert_eq!(read_reply(&mut stream).unwrap(), Some((id, reply)));
        }
        assert_eq!(read_reply(&mut stream).unwrap(), None);
    }

    #[test]
    fn descriptors_come_with_their_request() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let pipe = rustix::pipe::pipe().unwrap();
        write_request(&mut ours, &Request::Kill { id: 1 }, &[]).unwrap();
        write_request(&mut ours, &Request::Kill { id: 2 }, &[pipe.0, pipe.1]).unwrap();
        write_request(&mut ours, &Request::Kill { id: 3 }, &[]).unwrap();
        drop(ours);
        for (expected, count) in [(1, 0), (2, 2), (3, 0)] {
            let (request, descriptors) = read_request(&mut theirs).unwrap().unwrap();
            assert!(matches!(request, Request::Kill { id } if id == expected));
            assert_eq!(descriptors.len(), count);
        }
        assert!(read_request(&mut theirs).unwrap().is_none());
    }

    #[test]
    fn refuses_what_is_too_long_or_cut() {
        assert!(read_reply(&mut &[0xff, 0xff, 0xff, 0xff, 1][..]).is_err());
        assert!(read_reply(&mut &[9, 0, 0, 0, 1][..]).is_err());
        assert!(read_reply(&mut &[1, 0, 0, 0, 1][..]).is_err());
    }
}
