//! Cache mounts as layers: how other machines get what commands left in them.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::PoisonError,
};

use davit_image::{DiffId, Timestamp};
use davit_layer::{Change, ChangeKind, Lower, Merged, WriteOptions, diff_directory, extract};
use rustix::fs::{Mode, OFlags};

use super::{Session, store_failed};
use crate::{
    BuildEvent,
    error::{BuildError, one_line},
    layers::State,
    shared::SharedMount,
};

/// Bytes of files in a cache mount that is shared.
const MOST_BYTES: u64 = 16 << 30;

impl Session<'_, '_> {
    /// Gives the cache mounts that the build used to the caches that want them.
    pub(crate) fn offer_mounts(&self) -> Result<(), BuildError> {
        let Some(shared) = self.shared.filter(|shared| shared.wants_mounts()) else {
            return Ok(());
        };
        let used = self.used_mounts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for name in used {
            match self.mount_layer(&name) {
                Ok(Some(mount)) => shared.offer_mount(mount),
                Ok(None) => self.tell(format!("cache mount {name} is in use; it is not shared")),
                Err(_) if self.is_cancelled() => return Ok(()),
                Err(error) => {
                    let cause = one_line(&error);
                    self.tell(format!("cache mount {name} is not shared: {cause}"));
                }
            }
        }
        Ok(())
    }

    fn tell(&self, text: String) {
        (self.events)(BuildEvent::Warning(text));
    }

    fn mount_layer(&self, name: &str) -> io::Result<Option<SharedMount>> {
        let held = self.store.hold_cache_mount(name).map_err(io::Error::other)?;
        let Some(mount) = held else { return Ok(None) };
        let root = open_directory(mount.data())?;
        let lower = Merged::new(Vec::new()).map_err(io::Error::other)?;
        let options = WriteOptions { readers: self.threads, ..WriteOptions::default() };
        let lower = Lower { merged: &lower, tars: &[], xattrs: options.xattrs };
        let mut changes = diff_directory(root.as_fd(), &lower).map_err(io::Error::other)?;
        let facts = rustix::fs::fstat(&root)?;
        // Its mode is the matter of whoever uses it next.
        changes.changes.retain(|change| !change.path.is_empty());
        let bytes: u64 = changes.changes.iter().map(size_of).sum();
        if bytes > MOST_BYTES {
            return Err(io::Error::other(format!("its files have {bytes} bytes")));
        }
        let written = self.writer().write(&changes.changes, &changes, &options);
        let written = written.map_err(io::Error::other)?;
        Ok(Some(SharedMount {
            name: name.to_owned(),
            layer: written.diff_id,
            size: written.size_bytes,
            made: Timestamp::now(),
            owner: Some((facts.st_uid, facts.st_gid)),
        }))
    }

    /// Fills a new cache mount with what another machine left in one of its name; yields whom that
    /// one belonged to, if it can be had and says so.
    pub(super) fn import_mount(
        &self,
        name: &str,
        data: &Path,
    ) -> Result<Option<(u32, u32)>, BuildError> {
        let Some(shared) = self.shared else { return Ok(None) };
        let Some(mount) = shared.mount(name).filter(|mount| mount.size <= 2 * MOST_BYTES) else {
            return Ok(None);
        };
        if !shared.bring(&mount.layer) {
            return Ok(None);
        }
        match self.unpack_mount(mount.layer, data) {
            Ok(()) => Ok(mount.owner.filter(|owner| is_somebody(*owner))),
            Err(error) if self.is_cancelled() => Err(store_failed(into_store(data, error))),
            Err(error) => {
                let cause = one_line(&error);
                self.tell(format!("what is shared of cache mount {name} is of no use: {cause}"));
                let emptied = fs_err::remove_dir_all(data).and_then(|()| fs_err::create_dir(data));
                emptied.map_err(|error| store_failed(into_store(data, error)))?;
                Ok(None)
            }
        }
    }

    fn unpack_mount(&self, layer: DiffId, data: &Path) -> io::Result<()> {
        let state = State::image(vec![layer]);
        let merged = self.layers.merged(&state).map_err(io::Error::other)?;
        let merged = merged.flattened().map_err(io::Error::other)?;
        let tars = self.layers.tars(&state).map_err(io::Error::other)?;
        let target = open_directory(data)?;
        let options = self.extract_options();
        extract(&merged, &tars, target.as_fd(), &options).map_err(io::Error::other)
    }
}

/// The last number is nobody's.
fn is_somebody((uid, gid): (u32, u32)) -> bool {
    uid != u32::MAX && gid != u32::MAX
}

fn size_of(change: &Change) -> u64 {
    match change.kind {
        ChangeKind::File { size, .. } => size,
        _ => 0,
    }
}

pub(super) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn into_store(path: &Path, source: io::Error) -> davit_store::StoreError {
    davit_store::StoreError::Io { action: "fill", path: path.to_path_buf(), source }
}
