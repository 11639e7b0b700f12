//! Volumes and bind mounts of a container that does not run, mounted over its root.
//!
//! Everything happens in the helper's own mount namespace. Targets are resolved by the kernel inside
//! the root: its links are followed there, magic links are refused.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use davit_runtime::plan::{Access, BindSource, Mount, MountKind};
use davit_sys::mount::{
    self, AttributeChange, Extent, MountAttributes, Propagation, set_attributes,
};
use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use serde::{Deserialize, Serialize};

use super::{
    super::{
        Container, ContainerError, MountSource,
        copy_up::{CopyUp, copy_up},
        plan,
        volume_mount::VolumeMount,
    },
    area::{Area, is_directory},
};
use crate::Engine;

/// What the helper mounts over the root.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MountOrder {
    /// A directory that exists; the root is attached there, in the helper's namespace alone.
    place: PathBuf,
    /// Volumes that are mounts of their own.
    volumes: Vec<VolumeMount>,
    /// Empty volumes that get the image's files.
    copy_up: Vec<CopyUp>,
    /// What is bound, outer targets first.
    binds: Vec<Mount>,
    /// Whether the root itself may be written.
    root: Access,
}

impl Engine {
    pub(super) fn mount_order(&self, container: &Container) -> Result<MountOrder, ContainerError> {
        let spec = &container.spec;
        let volume = |name: &str| self.store().layout().volume_data(name);
        let wishes = spec.mounts.iter();
        let mut binds: Vec<_> = wishes
            .filter(|wish| !matches!(wish.source, MountSource::Tmpfs { .. }))
            .map(|wish| plan::mount(wish, &volume))
            .collect();
        binds.sort_by_key(plan::depth);
        Ok(MountOrder {
            place: self.store().layout().container(&container.id),
            volumes: self.volume_mounts(spec)?,
            copy_up: self.copies(spec),
            binds,
            root: if spec.root.is_on() { Access::ReadOnly } else { Access::ReadWrite },
        })
    }
}

impl MountOrder {
    /// Copies of all that is bound, attached nowhere.
    pub(super) fn open(&self) -> io::Result<Vec<OwnedFd>> {
        self.volumes.iter().try_for_each(VolumeMount::mount)?;
        self.binds.iter().map(open).collect()
    }

    /// The root with everything on it, attached nowhere.
    pub(super) fn attach(&self, root: OwnedFd, sources: Vec<OwnedFd>) -> io::Result<OwnedFd> {
        for copy in &self.copy_up {
            copy_up(&root, copy)?;
        }
        mount::attach(&root, &self.place).map_err(io::Error::other)?;
        let area = Area::container(root.try_clone()?);
        for (bind, source) in self.binds.iter().zip(sources) {
            attach(&area, &bind.target, &source).map_err(|error| named(&bind.target, error))?;
        }
        let change = AttributeChange { set: attributes(self.root), ..AttributeChange::default() };
        set_attributes(&root, Extent::Single, change)
            .and_then(|()| mount::clone_tree_at(&root, Extent::Recursive))
            .map_err(io::Error::other)
    }
}

fn attach(area: &Area, target: &str, source: &OwnedFd) -> io::Result<()> {
    let target = target.trim_end_matches('/').as_bytes();
    let target = if is_directory(&fstat(source)?) {
        area.make_directory(target)
    } else {
        area.make_file(target)
    };
    mount::attach_at(source, target?).map_err(|error| error.source)
}

fn open(bind: &Mount) -> io::Result<OwnedFd> {
    let MountKind::Bind { source, recursive } = &bind.kind else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let host = |path: &Path| openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let (shown, found) = match source {
        BindSource::Path(path) => (path.clone(), host(path)),
        BindSource::Subpath { root, path } => {
            let area = host(root).map(Area::container);
            (root.join(path), area.and_then(|area| area.open(path.as_bytes(), OFlags::PATH)))
        }
        BindSource::Descriptor(_) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let extent = if *recursive { Extent::Recursive } else { Extent::Single };
    let copy = |found: OwnedFd| -> Result<OwnedFd, mount::MountError> {
        let copy = mount::clone_tree_at(found, extent)?;
        let change = AttributeChange {
            propagation: Some(Propagation::Private),
            ..AttributeChange::default()
        };
        set_attributes(&copy, extent, change)?;
        let access = bind.options.access;
        let extent = if access == Access::ReadOnlyTop { Extent::Single } else { extent };
        let change = AttributeChange { set: attributes(access), ..AttributeChange::default() };
        set_attributes(&copy, extent, change)?;
        Ok(copy)
    };
    found
        .map_err(io::Error::from)
        .and_then(|found| copy(found).map_err(|error| error.source))
        .map_err(|error| named(&shown.display().to_string(), error))
}

fn attributes(access: Access) -> Option<MountAttributes> {
    (access != Access::ReadWrite).then_some(MountAttributes::MOUNT_ATTR_RDONLY)
}

fn named(path: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{path}: {error}"))
}
