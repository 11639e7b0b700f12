//! The socket between a child and the process that cloned it: barriers one way, reports the other.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    cmsg_space,
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    },
};

use super::Failure;
use crate::error::Step;

/// Kinds of a report's first byte.
const PREPARED: u8 = 1;
const FAILED: u8 = 2;
const DESCRIPTOR: u8 = 3;

/// Barriers that a child waits at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Release {
    /// The network is wired.
    Network = b'n',
    /// Execute.
    Start = b'x',
}

/// What a child says.
#[derive(Debug)]
pub(crate) enum Report {
    /// Everything but the command is in place.
    Prepared,
    /// A step failed; the child ends.
    Failed(Failure),
    /// What the caller is to have: a pseudo-terminal's master, an emulator's registration.
    Descriptor(OwnedFd),
    /// The child has closed its end: it has executed the command, or it is dead.
    Closed,
}

/// The child's end.
#[derive(Debug)]
pub(crate) struct ChildEnd(OwnedFd);

/// The parent's end.
#[derive(Debug)]
pub(crate) struct ParentEnd(OwnedFd);

/// Makes a channel; neither end is 0, 1 or 2.
pub(crate) fn channel() -> Result<(ParentEnd, ChildEnd), Errno> {
    let (parent, child) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let child = rustix::io::fcntl_dupfd_cloexec(&child, 3)?;
    Ok((ParentEnd(parent), ChildEnd(child)))
}

impl ChildEnd {
    /// Waits for a barrier's release.
    pub(crate) fn wait(&self, release: Release) -> Result<(), Errno> {
        let mut byte = [0];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut byte))? {
            1 if byte[0] == release as u8 => Ok(()),
            // The parent is gone.
            _ => Err(Errno::PIPE),
        }
    }

    /// Says that only the command is missing.
    pub(crate) fn prepared(&self) -> Result<(), Errno> {
        self.send(&[PREPARED; 8])
    }

    /// Reports a failure. `write` rather than `send`: a filter may be loaded already.
    pub(crate) fn failed(&self, failure: Failure) {
        let [low, high] = failure.number.to_le_bytes();
        let [a, b, c, d] = failure.errno.raw_os_error().to_le_bytes();
        // Nothing else can be done if the parent is gone.
        let _ = self.send(&[FAILED, failure.step as u8, low, high, a, b, c, d]);
    }

    fn send(&self, message: &[u8; 8]) -> Result<(), Errno> {
        rustix::io::retry_on_intr(|| rustix::io::write(&self.0, message)).map(drop)
    }

    /// Hands a descriptor over.
    pub(crate) fn send_descriptor(&self, descriptor: &OwnedFd) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor.as_fd()];
        if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(Errno::NOBUFS);
        }
        let message = [DESCRIPTOR; 8];
        let slices = [IoSlice::new(&message)];
        rustix::net::sendmsg(&self.0, &slices, &mut control, SendFlags::NOSIGNAL).map(drop)
    }
}

impl AsFd for ParentEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl ParentEnd {
    /// Releases a barrier; a child that has ended is noticed by [`ParentEnd::receive`].
    pub(crate) fn release(&self, release: Release) {
        let _ = rustix::net::send(&self.0, &[release as u8], SendFlags::NOSIGNAL);
    }

    /// Waits for the child's next report.
    pub(crate) fn receive(&self) -> Result<Report, Errno> {
        let mut message = [0; 8];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let bytes = loop {
            let mut slices = [IoSliceMut::new(&mut message)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            match rustix::net::recvmsg(&self.0, &mut slices, &mut control, flags) {
                Ok(received) => break received.bytes,
                // A child that ended with an unread release resets the connection; that is said
                // once, before what it reported.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(errno) => return Err(errno),
            }
        };
        let [kind, step, low, high, a, b, c, d] = message;
        match (bytes, kind) {
            (0, _) => Ok(Report::Closed),
            (8, PREPARED) => Ok(Report::Prepared),
            (8, FAILED) => Ok(Report::Failed(Failure {
                step: Step::from_number(step).ok_or(Errno::BADMSG)?,
                number: u16::from_le_bytes([low, high]),
                errno: Errno::from_raw_os_error(i32::from_le_bytes([a, b, c, d])),
            })),
            (8, DESCRIPTOR) => control
                .drain()
                .find_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
                    _ => None,
                })
                .map(Report::Descriptor)
                .ok_or(Errno::BADMSG),
            _ => Err(Errno::BADMSG),
        }
    }
}
