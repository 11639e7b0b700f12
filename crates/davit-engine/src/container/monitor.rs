//! Helpers that are this binary executed again: the monitor, the settling of its end, `exec`.

use std::{
    error::Error,
    ffi::OsString,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use davit_runtime::monitor::{Root, Settlement, Spec, run, settle};
use davit_snapshot::{Durability, InodeNumbers, MountNamespace, OverlayOptions, Stack, Upper};
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
/// Number of the pipe that brings the [`Birth`].
pub(crate) const BIRTH: i32 = 5;

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
    let (lock, starter, birth) = (inherited(LOCK)?, inherited(STARTER)?, inherited(BIRTH)?);
    let birth: Birth = serde_json::from_reader(io::BufReader::new(fs_err::File::from_parts(
        birth.into(),
        PathBuf::from("birth"),
    )))?;
    let Birth { monitor, stack, upper, volatile, narrow, volumes, copy_up } = birth;
    std::env::set_current_dir("/")?;
    let namespace = MountNamespace::enter(stack.location.clone()).map_err(io::Error::other)?;
    let durability = if volatile { Durability::Volatile } else { Durability::Durable };
    let inode_numbers = if narrow { InodeNumbers::Narrow } else { InodeNumbers::Unique };
    let options = OverlayOptions { inode_numbers, durability, ..Default::default() };
    let mut root = SnapshotRoot { namespace, stack, upper, options, volumes, copy_up };
    if run(&monitor, &mut root, starter, lock)? == Settlement::Monitor {
        settle(&monitor);
    }
    Ok(())
}

/// Takes a descriptor that the parent left under this number.
fn inherited(number: i32) -> io::Result<OwnedFd> {
    davit_sys::inherit::take(number)
}

/// The root filesystem of one container, mounted anew for every start.
struct SnapshotRoot {
    namespace: MountNamespace,
    stack: Stack,
    upper: Upper,
    options: OverlayOptions,
    /// Those that are not mounted yet.
    volumes: Vec<VolumeMount>,
    copy_up: Vec<CopyUp>,
}

impl Root for SnapshotRoot {
    fn mount(&mut self) -> Result<OwnedFd, Box<dyn Error + Send + Sync>> {
        let lowers = self.namespace.lowers(&self.stack)?;
        let root = self.namespace.overlay(&lowers, &self.upper, self.options)?;
        for volume in self.volumes.drain(..) {
            volume.mount()?;
        }
        for copy in self.copy_up.drain(..) {
            copy_up(&root, &copy)?;
        }
        Ok(root)
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
