//! Caches of a command: claimed, filled when they are new, and given their owner.

use std::{io, os::fd::AsFd as _, path::Path, sync::PoisonError, thread, time::Duration};

use davit_dockerfile::Sharing;
use davit_image::{DiffId, Digest};
use davit_layer::{ExtractOptions, Kind, extract};
use davit_store::{CacheMountUse, CacheSharing};
use rustix::fs::{AtFlags, Gid, Mode, Uid};

use super::{Done, Session, failed, mount_layers::open_directory, run::Job};
use crate::{
    BuildEvent, CachePolicy,
    error::{BuildError, BuildErrorKind},
    plan::{CacheMount, MountSource, Ownership},
};

/// How long a step waits before it looks again whether a locked cache is free.
const LOCK_POLL: Duration = Duration::from_millis(20);
/// Mode of a new cache's directory.
const CACHE_MODE: u32 = 0o755;

impl Session<'_, '_> {
    /// Takes all caches of a command into use, in an order that is the same for all commands.
    pub(super) fn caches(
        &self,
        job: &Job<'_>,
        inputs: &[&Done],
    ) -> Result<Vec<(String, CacheMountUse)>, BuildError> {
        let mut caches: Vec<(String, &CacheMount)> = Vec::new();
        for mount in &job.spec.mounts {
            if let MountSource::Cache(cache) = &mount.source {
                caches.push((identity(cache, inputs), cache));
            }
        }
        caches.sort_by(|left, right| left.0.cmp(&right.0));
        caches.dedup_by(|left, right| left.0 == right.0);
        let claim = |(identity, cache): (String, &CacheMount)| -> Result<_, BuildError> {
            self.first_use(&identity)?;
            let used = self.claim_cache(job, (&identity, cache), inputs)?;
            Ok((identity, used))
        };
        caches.into_iter().map(claim).collect()
    }

    /// Notes that a cache mount is used. One that is to begin empty goes when that is the first time.
    fn first_use(&self, identity: &str) -> Result<(), BuildError> {
        let mut used = self.used_mounts.lock().unwrap_or_else(PoisonError::into_inner);
        if used.insert(identity.to_owned())
            && self.mount_policy == CachePolicy::Ignore
            && !self.store.forget_cache_mount(identity)?
        {
            let text = format!("cache mount {identity} is in use by another build; it stays");
            (self.events)(BuildEvent::Warning(text));
        }
        Ok(())
    }

    fn claim_cache(
        &self,
        job: &Job<'_>,
        (identity, cache): (&str, &CacheMount),
        inputs: &[&Done],
    ) -> Result<CacheMountUse, BuildError> {
        let sharing = match cache.sharing {
            Sharing::Shared => CacheSharing::Shared,
            Sharing::Private => CacheSharing::Private,
            Sharing::Locked => CacheSharing::Locked,
        };
        loop {
            let fill = |data: &Path| {
                if self.mount_policy == CachePolicy::Use {
                    self.import_mount(identity, data)?;
                }
                self.fill_cache(job, cache, inputs, data)
            };
            if let Some(used) = self.store.claim_cache_mount(identity, sharing, fill)? {
                return Ok(used);
            }
            if self.is_cancelled() {
                return Err(BuildError::new(BuildErrorKind::Cancelled));
            }
            thread::sleep(LOCK_POLL);
        }
    }

    /// Makes a new cache: what `from` names, or an empty directory that belongs to the command's
    /// user and looks like the one that it covers.
    fn fill_cache(
        &self,
        job: &Job<'_>,
        cache: &CacheMount,
        inputs: &[&Done],
        data: &Path,
    ) -> Result<(), BuildError> {
        let is_filled = fs_err::read_dir(data).is_ok_and(|mut entries| entries.next().is_some());
        if let Some(seed) = cache.seed {
            return if is_filled { Ok(()) } else { self.seed_cache(job, inputs[seed], data) };
        }
        let user = Ownership(job.spec.user.clone());
        let user = (!user.0.is_empty()).then_some(&user);
        let owner = self.owner(user, job.state, Some(job.merged))?.unwrap_or_default();
        let covered = job.spec.mounts.iter().find(|mount| match &mount.source {
            MountSource::Cache(other) => other == cache,
            _ => false,
        });
        let covered = covered.and_then(|mount| {
            let path = job.merged.follow(mount.target.trim_start_matches('/').as_bytes()).ok()?;
            let entry = job.merged.find(&path)?.entry;
            matches!(entry.kind, Kind::Directory { .. }).then(|| u32::from(entry.mode))
        });
        let mode = covered.unwrap_or(CACHE_MODE);
        set_owner(data, Some(owner.uid), Some(owner.gid))
            .and_then(|()| set_mode(data, mode))
            .map_err(|error| failed(job.node, error))
    }

    fn seed_cache(&self, job: &Job<'_>, seed: &Done, data: &Path) -> Result<(), BuildError> {
        let state = &seed.state;
        let merged = self.layers.merged(state).map_err(|error| failed(job.node, error))?;
        let merged = merged.flattened().map_err(|error| failed(job.node, error))?;
        let tars = self.layers.tars(state).map_err(|error| failed(job.node, error))?;
        let target = open_directory(data).map_err(|error| failed(job.node, error))?;
        let options = self.extract_options();
        extract(&merged, &tars, target.as_fd(), &options).map_err(|error| failed(job.node, error))
    }

    pub(super) fn extract_options(&self) -> ExtractOptions<'_> {
        ExtractOptions {
            workers: self.threads,
            cancelled: Some(self.cancelled),
            ..ExtractOptions::default()
        }
    }

    /// Gives a cache the owner and mode that the mount asks for.
    pub(super) fn dress(
        &self,
        job: &Job<'_>,
        cache: &CacheMount,
        data: &Path,
    ) -> Result<(), BuildError> {
        if !cache.path.is_empty() {
            return Ok(());
        }
        let owner = match cache.owner() {
            None => Ok(()),
            Some((uid, gid)) => set_owner(data, Some(uid), Some(gid)),
        };
        let mode = match cache.mode {
            None => Ok(()),
            Some(mode) => set_mode(data, mode),
        };
        owner.and(mode).map_err(|error| failed(job.node, error))
    }
}

/// What selects the directory: its name, its owner, and the files that a new one begins with.
pub(super) fn identity(cache: &CacheMount, inputs: &[&Done]) -> String {
    let identity = cache.identity();
    let Some(seed) = cache.seed else { return identity };
    let layers: Vec<String> = inputs[seed].state.layers.iter().map(DiffId::to_string).collect();
    format!("{identity} from {}", Digest::of(layers.join(" ").as_bytes()).short_hex())
}

fn set_owner(path: &Path, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    Ok(rustix::fs::chownat(rustix::fs::CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// The directory is the store's: nobody can put a link in its place.
fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode & 0o7777))?)
}
