//! The root of a container: a running one's as it is, a stopped one's mounted by a helper.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
};

use davit_snapshot::{Durability, InodeNumbers, MountNamespace, OverlayOptions, Stack, Upper};
use davit_sys::process::{CStringArray, Handover, Session, Spawn};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use super::{
    super::{
        Container, ContainerError,
        newborn::{sealed_executable, told},
    },
    mounts::MountOrder,
};
use crate::Engine;

/// Number of the socket on which the helper answers.
const ANSWER: i32 = 3;
/// Number of the file that holds the [`RootOrder`].
const ORDER: i32 = 4;

/// What the helper mounts.
#[derive(Debug, Serialize, Deserialize)]
struct RootOrder {
    stack: Stack,
    upper: Upper,
    volatile: bool,
    narrow: bool,
    mounts: MountOrder,
}

impl Engine {
    /// The mounted root filesystem of a container that does not run; hold its lock.
    ///
    /// The mount is attached nowhere and goes with the descriptor. A helper makes it, so that this
    /// process never leaves the mount namespace of the user's own files.
    pub(super) fn mounted_root(&self, container: &Container) -> Result<OwnedFd, ContainerError> {
        let failed = |source: io::Error| ContainerError::io("start", "davit __root", source);
        let directory = self.store().layout().container(&container.id);
        self.store().make_dir(&directory)?;
        let platform = self.image_platform(container)?;
        let (stack, upper, options) =
            self.root_filesystem(container, platform.as_ref(), directory)?;
        let order = RootOrder {
            stack,
            upper,
            volatile: options.durability == Durability::Volatile,
            narrow: options.inode_numbers == InodeNumbers::Narrow,
            mounts: self.mount_order(container)?,
        };
        let json = serde_json::to_vec(&order)
            .map_err(|source| ContainerError::Row { id: container.id.clone(), source })?;
        spawn(&json).and_then(|socket| receive(&socket)).map_err(failed)?.map_err(|reason| {
            ContainerError::Conflict(format!("cannot mount the root filesystem: {reason}"))
        })
    }
}

/// Starts the helper; returns our end of its socket.
fn spawn(order: &[u8]) -> io::Result<OwnedFd> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let told = told("davit-root", order)?;
    let executable = sealed_executable()?;
    davit_sys::process::spawn(&Spawn {
        executable: executable.as_fd(),
        arguments: &CStringArray::new(["davit", "__root"])?,
        environment: &CStringArray::new::<&str>([])?,
        descriptors: &[
            Handover { descriptor: theirs.as_fd(), number: ANSWER },
            Handover { descriptor: told.as_fd(), number: ORDER },
        ],
        cgroup: None,
        session: Session::Inherit,
    })?
    .executed()?;
    Ok(ours)
}

/// The root that the helper sends, or why it has none.
fn receive(socket: &OwnedFd) -> io::Result<Result<OwnedFd, String>> {
    let mut text = [0_u8; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut text)];
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let root = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    match root {
        Some(root) => Ok(Ok(root)),
        None if received.bytes == 0 => Err(io::ErrorKind::UnexpectedEof.into()),
        None => Ok(Err(String::from_utf8_lossy(&text[..received.bytes]).into_owned())),
    }
}

/// `davit __root`: mounts a root filesystem and sends its descriptor; returns its exit code.
pub(crate) fn root_helper() -> u8 {
    let Ok(socket) = davit_sys::inherit::take(ANSWER) else { return 2 };
    let sent = match mount() {
        Ok(root) => {
            let descriptors = [root.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
            sendmsg(&socket, &[IoSlice::new(b"root")], &mut control, SendFlags::NOSIGNAL)
        }
        Err(error) => {
            let mut text = error.to_string();
            text.truncate(text.floor_char_boundary(4000));
            let mut control = SendAncillaryBuffer::default();
            sendmsg(&socket, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL)
        }
    };
    u8::from(sent.is_err())
}

fn mount() -> io::Result<OwnedFd> {
    let file = fs_err::File::from_parts(
        davit_sys::inherit::take(ORDER)?.into(),
        PathBuf::from("the root order"),
    );
    let RootOrder { stack, upper, volatile, narrow, mounts } =
        serde_json::from_reader(io::BufReader::new(file))?;
    std::env::set_current_dir("/")?;
    let mut namespace = MountNamespace::enter(stack.location.clone()).map_err(io::Error::other)?;
    // Before anything of the container is attached: a bind mount of the host's root would show it.
    let sources = mounts.open()?;
    let lowers = namespace.lowers(&stack).map_err(io::Error::other)?;
    let options = OverlayOptions {
        durability: if volatile { Durability::Volatile } else { Durability::Durable },
        inode_numbers: if narrow { InodeNumbers::Narrow } else { InodeNumbers::Unique },
        ..OverlayOptions::default()
    };
    let root = namespace.overlay(&lowers, &upper, options).map_err(io::Error::other)?;
    mounts.attach(root, sources)
}
