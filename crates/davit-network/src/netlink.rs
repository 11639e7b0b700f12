//! Netlink messages and blocking sockets.
//!
//! A request is written into one [`Batch`] and sent at once; the kernel has queued every answer
//! when `send` returns, so that reading never waits.

use rustix::{
    buffer::spare_capacity,
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send,
        socket_with, sockopt,
    },
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::NetworkError;

/// The message is a request.
const REQUEST: u16 = 0x01;
/// An answer is wanted even for success.
const ACK: u16 = 0x04;
/// Fail if the object exists.
pub(crate) const EXCL: u16 = 0x200;
/// Make the object if it does not exist.
pub(crate) const CREATE: u16 = 0x400;
/// Replace the object if it exists.
pub(crate) const REPLACE: u16 = 0x100;
/// Append instead of insert (rules).
pub(crate) const APPEND: u16 = 0x800;
/// List all objects.
const DUMP: u16 = 0x300;

const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;
const HEADER: usize = 16;
/// Largest answer the kernel gives in one read of a dump.
const ANSWER: usize = 32 * 1024;
/// What the kernel charges for a bare answer, rounded up.
const ANSWER_ROOM: usize = 1024;
/// Fits every socket as it is opened, with its answers (the kernel's default is 208 KiB).
const SMALL: usize = 64 * 1024;
const NESTED: u16 = 0x8000;
const KIND: u16 = 0x3fff;

/// Netlink attributes being written.
#[derive(Debug)]
pub(crate) struct Attributes<'a>(&'a mut Vec<u8>);

impl<'a> Attributes<'a> {
    /// Appends attributes to `buffer`.
    pub(crate) fn new(buffer: &'a mut Vec<u8>) -> Self {
        Self(buffer)
    }

    /// Appends one attribute.
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        self.0.extend_from_slice(value);
        self.close(start, kind);
        self
    }

    /// Appends a NUL-terminated string.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// Appends a number in the machine's byte order.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Appends a number in network order.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Appends bytes that are no attribute: a fixed header at the start of a nest.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends an attribute that holds attributes.
    pub(crate) fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        inner(&mut Attributes(self.0));
        self.close(start, kind | NESTED);
        self
    }

    fn close(&mut self, start: usize, kind: u16) {
        let length =
            u16::try_from(self.0.len() - start).expect("attributes are shorter than 64 KiB");
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        pad(self.0);
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Walks the attributes in `bytes`; stops at the first malformed one.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind & KIND, value))
    })
}

/// The value of attribute `kind`, if it is there.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// Reads a 32-bit number in the machine's byte order.
pub(crate) fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// Messages that are sent together, in order.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    acknowledged: usize,
    messages: u32,
}

impl Batch {
    /// Appends a message that the kernel answers.
    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        header: &[u8],
        inner: impl FnOnce(&mut Attributes<'_>),
    ) {
        self.append(kind, REQUEST | ACK | flags, header, inner);
        self.acknowledged += 1;
    }

    /// Appends a message without an answer of its own.
    pub(crate) fn silent(&mut self, kind: u16, header: &[u8]) {
        self.append(kind, REQUEST, header, |_| {});
    }

    fn append(
        &mut self,
        kind: u16,
        flags: u16,
        header: &[u8],
        inner: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.messages.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(header);
        inner(&mut Attributes(&mut self.bytes));
        let length =
            u32::try_from(self.bytes.len() - start).expect("messages are shorter than 4 GiB");
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.messages += 1;
    }
}

/// What sending a batch came to.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The socket failed, or the answer was malformed.
    Network(NetworkError),
    /// The kernel refused a message.
    Refused(Errno),
}

impl Refusal {
    /// Gives a refusal its context.
    pub(crate) fn or(self, context: impl FnOnce(Errno) -> NetworkError) -> NetworkError {
        match self {
            Self::Network(error) => error,
            Self::Refused(errno) => context(errno),
        }
    }

    /// Whether the kernel answered `errno`.
    pub(crate) fn is(&self, errno: Errno) -> bool {
        matches!(self, Self::Refused(found) if *found == errno)
    }
}

/// A netlink socket of the network namespace it was opened in.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Socket {
    /// Opens a socket for links, addresses and routes.
    pub(crate) fn route() -> Result<Self, NetworkError> {
        Self::open(None)
    }

    /// Opens a socket for nftables and connection tracking.
    pub(crate) fn netfilter() -> Result<Self, NetworkError> {
        Self::open(Some(rustix::net::netlink::NETFILTER))
    }

    fn open(protocol: Option<Protocol>) -> Result<Self, NetworkError> {
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .map(Self)
            .map_err(NetworkError::Socket)
    }

    /// Sends a batch; the first refusal is the result.
    pub(crate) fn transact(&self, batch: &Batch) -> Result<(), Refusal> {
        self.make_room(batch).map_err(Refusal::Network)?;
        self.send(&batch.bytes).map_err(Refusal::Network)?;
        let mut answers = 0;
        let mut refused = None;
        self.receive(|kind, body| {
            if kind == MESSAGE_ERROR {
                answers += 1;
                refused = refused.or(errno_of(body));
            }
        })
        .map_err(Refusal::Network)?;
        match refused {
            Some(errno) => Err(Refusal::Refused(errno)),
            None if answers < batch.acknowledged => Err(Refusal::Network(NetworkError::Malformed)),
            None => Ok(()),
        }
    }

    /// Asks for one object; `None` if it does not exist.
    pub(crate) fn get<T>(
        &self,
        batch: &Batch,
        mut parse: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        self.send(&batch.bytes).map_err(Refusal::Network)?;
        let mut found = None;
        let mut refused = None;
        self.receive(|kind, body| match kind {
            MESSAGE_ERROR => refused = refused.or(errno_of(body)),
            MESSAGE_DONE => {}
            _ => found = parse(body),
        })
        .map_err(Refusal::Network)?;
        match refused {
            Some(Errno::NOENT | Errno::NODEV) => Ok(None),
            Some(errno) => Err(Refusal::Refused(errno)),
            None => Ok(found),
        }
    }

    /// Lists all objects of a kind.
    pub(crate) fn dump(
        &self,
        kind: u16,
        header: &[u8],
        attributes: impl FnOnce(&mut Attributes<'_>),
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), Refusal> {
        let mut batch = Batch::default();
        batch.append(kind, REQUEST | DUMP, header, attributes);
        self.send(&batch.bytes).map_err(Refusal::Network)?;
        let mut refused = None;
        self.receive(|kind, body| match kind {
            MESSAGE_ERROR => refused = refused.or(errno_of(body)),
            MESSAGE_DONE => {}
            _ => each(body),
        })
        .map_err(Refusal::Network)?;
        refused.map_or(Ok(()), |errno| Err(Refusal::Refused(errno)))
    }

    /// A batch that the socket cannot hold would not be sent; answers that it cannot hold would be
    /// lost, although the kernel has done what was asked. A refusal comes with its message.
    fn make_room(&self, batch: &Batch) -> Result<(), NetworkError> {
        let need = batch.bytes.len() + batch.acknowledged * ANSWER_ROOM;
        if need <= SMALL {
            return Ok(());
        }
        sockopt::set_socket_send_buffer_size_force(&self.0, need)
            .and_then(|()| sockopt::set_socket_recv_buffer_size_force(&self.0, 2 * need))
            .map_err(NetworkError::Socket)
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NetworkError> {
        send(&self.0, bytes, SendFlags::empty()).map_err(NetworkError::Socket)?;
        Ok(())
    }

    fn receive(&self, mut each: impl FnMut(u16, &[u8])) -> Result<(), NetworkError> {
        let mut buffer = Vec::with_capacity(ANSWER);
        loop {
            buffer.clear();
            match recv(&self.0, spare_capacity(&mut buffer), RecvFlags::DONTWAIT) {
                Ok(_) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(NetworkError::Socket(errno)),
            }
            let mut rest = buffer.as_slice();
            while !rest.is_empty() {
                let (message, next) = split_message(rest).ok_or(NetworkError::Malformed)?;
                let kind = u16::from_ne_bytes([message[4], message[5]]);
                each(kind, &message[HEADER..]);
                rest = next;
            }
        }
    }
}

fn split_message(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(number(bytes)?).ok()?;
    if length < HEADER {
        return None;
    }
    let message = bytes.get(..length)?;
    Some((message, bytes.get(length.next_multiple_of(4)..).unwrap_or(&[])))
}

/// The error number at the start of an answer; `None` for success.
fn errno_of(body: &[u8]) -> Option<Errno> {
    let negative = i32::from_ne_bytes(body.get(..4)?.try_into().ok()?);
    (negative != 0).then(|| Errno::from_raw_os_error(-negative))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_round_trip() {
        let mut bytes = Vec::new();
        Attributes(&mut bytes).text(3, "davit0").u32(4, 1500).nest(18, |inner| {
            inner.text(1, "veth");
        });
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(attribute(&bytes, 3), Some(&b"davit0\0"[..]));
        assert_eq!(attribute(&bytes, 4).and_then(number), Some(1500));
        let nest = attribute(&bytes, 18).expect("the nest");
        assert_eq!(attribute(nest, 1), Some(&b"veth\0"[..]));
    }

    #[test]
    fn malformed_input_ends_the_walk() {
        for bad in [&[][..], &[1][..], &[3, 0, 1, 0][..], &[255, 0, 1, 0, 9][..], &[0, 0, 0, 0][..]]
        {
            assert_eq!(attributes(bad).count(), 0, "{bad:?}");
        }
        assert!(split_message(&[8, 0, 0, 0]).is_none());
        assert!(split_message(&[200, 0, 0, 0, 0, 0, 0, 0]).is_none());
    }

    #[test]
    fn the_kernel_answers() {
        let socket = Socket::route().expect("a route socket");
        let mut links = 0;
        // RTM_GETLINK with an empty ifinfomsg.
        socket.dump(18, &[0; 16], |_| {}, |_| links += 1).expect("a dump of links");
        assert!(links >= 1, "the loopback interface at least");
    }
}
