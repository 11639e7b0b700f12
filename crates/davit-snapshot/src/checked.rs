//! Remembering which tree files have been read whole.
//!
//! ```text
//! RUN_ROOT/ROOTID/checked/TREEID     "davit-checked 1 BOOT DEVICE INODE SIZE MTIME CTIME\n"
//! ```
//!
//! A tree is derived and never synced, so a power loss may tear it; a strict read of 70,000
//! entries costs some 10 ms. It is done once for each file and boot.

use std::{io, os::unix::fs::MetadataExt as _};

use davit_store::BootId;
use fs_err::File;

use crate::{
    Location, TreeId,
    erofs::{Tree, TreeError},
    holder,
};

/// Remembered trees from which on those that are gone are looked for.
const SWEEP_AT: usize = 256;

/// Reads the tree whole unless this very file has been read before.
///
/// # Errors
/// `InvalidData` with the fault.
pub(crate) fn ensure(location: &Location, id: TreeId, file: &File) -> io::Result<()> {
    let stamp = stamp(file)?;
    let path = location.run.join("checked").join(id.to_string());
    if fs_err::read_to_string(&path).is_ok_and(|found| found == stamp) {
        return Ok(());
    }
    let bytes = fs_err::read(file.path())?;
    let invalid = |fault: TreeError| io::Error::new(io::ErrorKind::InvalidData, fault);
    let tree = Tree::parse(&bytes).map_err(invalid)?;
    if tree.uuid != id.uuid() {
        return Err(invalid(TreeError::Whole("its UUID belongs to another tree")));
    }
    remember(location, id, file);
    Ok(())
}

/// Remembers that the file is whole: it has just been read, or written by this process.
pub(crate) fn remember(location: &Location, id: TreeId, file: &File) {
    let directory = location.run.join("checked");
    let written = stamp(file).and_then(|stamp| {
        fs_err::create_dir_all(&directory)?;
        fs_err::write(directory.join(id.to_string()), stamp)
    });
    // Then it is read again next time.
    if let Err(error) = written {
        tracing::debug!(%id, %error, "cannot remember a checked tree");
    }
}

/// Forgets trees that are gone, once there is much to forget: RUN_ROOT is memory, and every step of
/// every build leaves a name there.
pub(crate) fn sweep(location: &Location) {
    let directory = location.run.join("checked");
    let entries = fs_err::read_dir(&directory).into_iter().flatten().flatten();
    let ids: Vec<TreeId> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    if ids.len() < SWEEP_AT {
        return;
    }
    for id in ids.into_iter().filter(|id| !location.tree(*id).exists()) {
        if let Err(error) = fs_err::remove_file(directory.join(id.to_string())) {
            tracing::debug!(%id, %error, "another process forgets it too");
        }
        holder::forget(&location.holders(id));
    }
}

fn stamp(file: &File) -> io::Result<String> {
    let boot = BootId::current().map_err(io::Error::other)?;
    let metadata = file.metadata()?;
    Ok(format!(
        "davit-checked 1 {boot} {} {} {} {}.{:09} {}.{:09}\n",
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ))
}
