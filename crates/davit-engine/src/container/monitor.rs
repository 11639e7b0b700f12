//! Helpers that are this binary executed again: the monitor, the settling of its end, `exec`.

use std::{
    error::Error,
    ffi::OsString,
    io::{self, BufRead as _},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use davit_runtime::{
    monitor::{Beginning, Root, Settlement, Spec, run, settle},
    plan::{Mount, Propagation},
};
use davit_snapshot::{
    Durability, InodeNumbers, Lowers, MountNamespace, OverlayOptions, Stack, Upper,
};
use serde::{Deserialize, Serialize};

use super::{
    copy_up::{CopyUp, copy_up},
    volume_mount::VolumeMount,
};
use crate::{Config, Engine};

/// Number of the container's lock in the monitor.
pub(crate) const LOCK: i32 = 3;
/// Number of the socket pair's end.
pub(crate) const STARTER: i32 = 4;
/// Number of the pipe that brings a line of [`Foundation`] (or `null`) and the [`Birth`].
pub(crate) const BIRTH: i32 = 5;

/// What a monitor can make while the container's row is written. Its [`Birth`] decides.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Foundation {
    /// Lower directories of the root filesystem.
    pub(crate) stack: Stack,
    /// Whether the container gets a network namespace of its own.
    pub(crate) own_network: bool,
}

/// What a monitor is born with.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Birth {
    /// What it looks after.
    pub(crate) monitor: Spec,
    /// Lower directories of the root filesystem.
    pub(crate) stack: Stack,
    /// Where the container writes.
    pub(crate) upper: Upper,
    /// Whether that may be lost with the power.
    pub(crate) volatile: bool,
    /// Whether inode numbers stay small.
    pub(crate) narrow: bool,
    /// Volumes that are mounts of their own.
    pub(crate) volumes: Vec<VolumeMount>,
    /// Empty volumes that get the image's files.
    pub(crate) copy_up: Vec<CopyUp>,
}

/// `davit __monitor ID`; returns its exit code.
pub(crate) fn monitor_helper() -> u8 {
    match live() {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

fn live() -> io::Result<()> {
    let (lock, starter, orders) = (inherited(LOCK)?, inherited(STARTER)?, inherited(BIRTH)?);
    let orders = fs_err::File::from_parts(orders.into(), PathBuf::from("orders"));
    let mut orders = io::BufReader::new(orders);
    std::env::set_current_dir("/")?;
    let born_in = fs_err::File::open("/proc/self/ns/mnt")?;
    let mut foundation = Vec::new();
    orders.read_until(b'\n', &mut foundation)?;
    let foundation: Option<Foundation> = serde_json::from_slice(&foundation)?;
    let Ahead { namespace, lowers, network } = foundation.map(Ahead::make).unwrap_or_default();
    let birth: Birth = serde_json::from_reader(orders)?;
    let Birth { monitor, stack, upper, volatile, narrow, volumes, copy_up } = birth;
    let namespace = match namespace {
        Some(namespace) => namespace,
        None => MountNamespace::enter(stack.location.clone()).map_err(io::Error::other)?,
    };
    let lowers = lowers.filter(|(guessed, _)| *guessed == stack).map(|(_, lowers)| lowers);
    let shares = |mount: &Mount| mount.options.propagation == Propagation::Shared;
    let sharing = monitor.plan.mounts.iter().any(shares).then_some(born_in);
    let durability = if volatile { Durability::Volatile } else { Durability::Durable };
    let inode_numbers = if narrow { InodeNumbers::Narrow } else { InodeNumbers::Unique };
    let options = OverlayOptions { inode_numbers, durability, ..Default::default() };
    let mut root =
        SnapshotRoot { sharing, namespace, stack, lowers, upper, options, volumes, copy_up };
    let beginning = Beginning { starter, lock, network };
    if run(&monitor, &mut root, beginning)? == Settlement::Monitor {
        settle(&monitor);
    }
    Ok(())
}

/// What was made from a [`Foundation`]. What failed is missing: it fails again, and is told, when
/// the container starts.
#[derive(Default)]
struct Ahead {
    namespace: Option<MountNamespace>,
    lowers: Option<(Stack, Lowers)>,
    network: Option<OwnedFd>,
}

impl Ahead {
    fn make(foundation: Foundation) -> Self {
        let Foundation { stack, own_network } = foundation;
        let mut namespace = MountNamespace::enter(stack.location.clone()).ok();
        let lowers = namespace.as_mut().and_then(|namespace| namespace.lowers(&stack).ok());
        let make = davit_sys::process::new_network_namespace;
        Self {
            namespace,
            lowers: lowers.map(|lowers| (stack, lowers)),
            network: own_network.then(|| make().ok()).flatten(),
        }
    }
}

/// Takes a descriptor that the parent left under this number.
fn inherited(number: i32) -> io::Result<OwnedFd> {
    davit_sys::inherit::take(number)
}

/// The root filesystem of one container, mounted anew for every start.
struct SnapshotRoot {
    /// The mount namespace that the monitor was born in, where binds share it.
    sharing: Option<fs_err::File>,
    namespace: MountNamespace,
    stack: Stack,
    /// Those of the first start, where they are mounted already.
    lowers: Option<Lowers>,
    upper: Upper,
    options: OverlayOptions,
    /// Those that are not mounted yet.
    volumes: Vec<VolumeMount>,
    copy_up: Vec<CopyUp>,
}

impl Root for SnapshotRoot {
    fn mount(&mut self) -> Result<OwnedFd, Box<dyn Error + Send + Sync>> {
        let lowers = match self.lowers.take() {
            Some(lowers) => lowers,
            None => self.namespace.lowers(&self.stack)?,
        };
        let root = self.namespace.overlay(&lowers, &self.upper, self.options)?;
        for volume in self.volumes.drain(..) {
            volume.mount()?;
        }
        for copy in self.copy_up.drain(..) {
            copy_up(&root, &copy)?;
        }
        Ok(root)
    }

    fn sharing(&self) -> Option<BorrowedFd<'_>> {
        self.sharing.as_ref().map(AsFd::as_fd)
    }
}

/// `davit __settle ROOT RUN_ROOT ID`: brings the row up to date after the end of a container whose
/// command did not wait; returns its exit code.
pub(crate) fn settle_helper(arguments: &[OsString]) -> u8 {
    let [root, run_root, id] = arguments else { return 2 };
    let Some(id) = id.to_str() else { return 2 };
    let config = Config::for_helper(Path::new(root), Path::new(run_root));
    let settled = Engine::open(config).ok().and_then(|engine| engine.settle(id).ok());
    u8::from(settled.is_none())
}
