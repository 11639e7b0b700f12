//! What was written into a root filesystem, whatever its form.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

use davit_layer::{
    Changes, Lower, Merged, Opener, Table, WriteOptions, diff_directory, diff_upper, write_layer,
};
use rustix::{
    fs::{MemfdFlags, Mode, OFlags},
    io::Errno,
};

use crate::{
    Form, Mountpoints, SnapshotError, Snapshots, Upper,
    mountpoints::{Init, Shown},
};

impl Snapshots<'_> {
    /// What a container or build step with these mountpoints wrote on `lower`; `None` where it
    /// never ran. `pid` is of the process that has mounted an upper directory on a tmpfs.
    ///
    /// # Errors
    /// [`SnapshotError::Diff`], [`SnapshotError::File`].
    pub fn changes(
        &self,
        (upper, pid): (&Upper, u32),
        lower: &Lower<'_>,
        mountpoints: Mountpoints,
    ) -> Result<Option<Changes>, SnapshotError> {
        let path = upper.directory(self.location(), pid).join(upper.content_name());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(root) => root,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(SnapshotError::file("open", path, errno)),
        };
        let changes = match upper {
            Upper::Copy(_) => whole(&root, lower, mountpoints),
            Upper::Directory(_) | Upper::Tmpfs { .. } => Ok(diff_upper(root.as_fd(), lower)?),
        };
        changes.map(Some)
    }
}

/// Compares a whole tree: the mountpoints that were copied into it are no change.
fn whole(
    root: &OwnedFd,
    lower: &Lower<'_>,
    mountpoints: Mountpoints,
) -> Result<Changes, SnapshotError> {
    let shown = Shown::of(lower.merged);
    let Some(init) = Init::new(Form::Copy, mountpoints, &shown) else {
        return Ok(diff_directory(root.as_fd(), lower)?);
    };
    let (table, tar) = layer_of(&init)?;
    let (mut tables, mut tars) = (lower.merged.all_layers(), lower.tars.to_vec());
    tables.push(Arc::new(table));
    tars.push(Arc::new(tar));
    let merged = Merged::new(tables)?;
    let with_points = Lower { merged: &merged, tars: &tars, ..*lower };
    let mut changes = diff_directory(root.as_fd(), &with_points)?;
    // A mountpoint that was removed hides nothing of the image.
    changes.changes.retain(|change| {
        let removed = matches!(change.kind, davit_layer::ChangeKind::Whiteout);
        !removed || lower.merged.find(&change.path).is_some()
    });
    Ok(changes)
}

/// The mountpoints as a layer.
fn layer_of(init: &Init) -> Result<(Table, File), SnapshotError> {
    let failed = |source: io::Error| SnapshotError::file("write", "mountpoints", source);
    let tar = rustix::fs::memfd_create("davit-mountpoints", MemfdFlags::CLOEXEC);
    let mut tar = File::from(tar.map_err(|errno| failed(errno.into()))?);
    let table = write_layer(&init.changes(), &Empty, &mut tar, &WriteOptions::default());
    Ok((table.map_err(|error| failed(io::Error::other(error)))?, tar))
}

/// All files of an init part are empty.
struct Empty;

impl Opener for Empty {
    fn open(&self, _position: usize, _change: &davit_layer::Change) -> io::Result<File> {
        Ok(rustix::fs::memfd_create("empty", MemfdFlags::CLOEXEC).map(File::from)?)
    }
}
