//! Mounts one tree, after checking by ourselves what the kernel does not notice.
//!
//! A forgotten device, a torn tar and two swapped tars all mount, and their files read as zeros or
//! as other files. So this is the one place that builds the list of devices, and every tar is
//! compared with the tree's device table through the very descriptor that is mounted.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
};

use davit_sys::mount::{FsContext, MountAttributes};
use fs_err::File;

use crate::{Device, Location, Part, SnapshotError, checked, erofs::Header, stack::proc_path};

/// Mounts the tree `part`; attached nowhere.
pub(crate) fn mount(location: &Location, part: &Part) -> Result<OwnedFd, SnapshotError> {
    let path = location.tree(part.id);
    let tree = File::open(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => SnapshotError::TreeMissing(part.id),
        _ => SnapshotError::file("open", &path, source),
    })?;
    let damaged = |source| SnapshotError::TreeDamaged { id: part.id, source };
    Header::read(&tree).and_then(|header| header.matches(part)).map_err(damaged)?;
    checked::ensure(location, part.id, &tree).map_err(damaged)?;
    let open = |device: &Device| open_tar(&location.layer(device.diff_id).join("tar"), device);
    let tars = part.devices.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    compose(&tree, &tars)
        .map_err(|source| SnapshotError::mount(format!("tree {}", part.id), source))
}

fn open_tar(path: &Path, device: &Device) -> Result<File, SnapshotError> {
    let failed = |source| SnapshotError::file("open", path, source);
    let tar = File::open(path).map_err(failed)?;
    let actual = tar.metadata().map_err(failed)?.len();
    if actual != device.size_bytes {
        let (diff_id, expected) = (device.diff_id, device.size_bytes);
        return Err(SnapshotError::LayerSize { diff_id, expected, actual });
    }
    Ok(tar)
}

fn compose(tree: &File, tars: &[File]) -> Result<OwnedFd, davit_sys::mount::MountError> {
    let context = FsContext::open(c"erofs")?;
    let path = |file: &File| proc_path(&file.as_raw_fd()).into_os_string().into_encoded_bytes();
    // `device` takes no descriptor; a path through one is short whatever ROOT is, and names the
    // file that was checked.
    context.string(c"source", &path(tree))?.flag(c"ro")?;
    for tar in tars {
        context.string(c"device", &path(tar))?;
    }
    context.mount(MountAttributes::MOUNT_ATTR_RDONLY)
}
