//! Caches of a command: claimed, filled when they are new, and given their owner.

use std::{
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::Path,
    sync::PoisonError,
    thread,
    time::Duration,
};

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
    run::mounts::{OwnerExchange, exchanged},
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
                caches.push((self.identity(cache, inputs), cache));
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
                let owner = match self.mount_policy {
                    CachePolicy::Use => self.import_mount(identity, data)?,
                    CachePolicy::Ignore => None,
                };
                self.fill_cache(job, cache, inputs, (data, owner))
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
    /// user and looks like the one that it covers. What another machine left belongs to whom it
    /// belonged there, if this one can show it as the user's.
    fn fill_cache(
        &self,
        job: &Job<'_>,
        cache: &CacheMount,
        inputs: &[&Done],
        (data, left): (&Path, Option<(u32, u32)>),
    ) -> Result<(), BuildError> {
        let is_filled = fs_err::read_dir(data).is_ok_and(|mut entries| entries.next().is_some());
        if let Some(seed) = cache.seed {
            return if is_filled { Ok(()) } else { self.seed_cache(job, inputs[seed], data) };
        }
        let user = self.user(job)?;
        let (uid, gid) = left.filter(|_| self.may_exchange_owners()).unwrap_or(user);
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
        set_owner(data, (uid, gid))
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

    /// User and group of a command.
    fn user(&self, job: &Job<'_>) -> Result<(u32, u32), BuildError> {
        let user = Ownership(job.spec.user.clone());
        let user = (!user.0.is_empty()).then_some(&user);
        let owner = self.owner(user, job.state, Some(job.merged))?.unwrap_or_default();
        Ok((owner.uid, owner.gid))
    }

    /// Gives a cache the mode that the mount asks for. It belongs to whom the mount says, or to the
    /// command's user: what the owner of its directory has is shown as theirs, and what they write
    /// is that owner's.
    pub(super) fn dress(
        &self,
        job: &Job<'_>,
        cache: &CacheMount,
        data: &Path,
    ) -> Result<Option<OwnerExchange>, BuildError> {
        let owner = owner_of(data).map_err(|error| failed(job.node, error))?;
        let may_exchange = self.may_exchange_owners();
        let wanted = match cache.owner() {
            Some(asked) => asked,
            // Files that the mount begins with are whose they are.
            None if cache.seed.is_some() || !may_exchange => owner,
            None => self.user(job)?,
        };
        let dressed = match (cache.path.is_empty(), may_exchange) {
            (true, false) if wanted != owner => set_owner(data, wanted),
            _ => Ok(()),
        };
        let mode = match cache.mode.filter(|_| cache.path.is_empty()) {
            None => Ok(()),
            Some(mode) => set_mode(data, mode),
        };
        dressed.and(mode).map_err(|error| failed(job.node, error))?;
        let exchange = OwnerExchange { users: (owner.0, wanted.0), groups: (owner.1, wanted.1) };
        Ok((may_exchange && wanted != owner).then_some(exchange))
    }

    /// What selects the directory: its name, and the files that a new one begins with; its owner,
    /// too, where what one owner leaves there another could not write to.
    pub(super) fn identity(&self, cache: &CacheMount, inputs: &[&Done]) -> String {
        let mut identity = cache.name.clone();
        if let Some((uid, gid)) = cache.owner().filter(|_| !self.may_exchange_owners()) {
            identity += &format!(" of {uid}:{gid}");
        }
        let Some(seed) = cache.seed else { return identity };
        let layers: Vec<String> = inputs[seed].state.layers.iter().map(DiffId::to_string).collect();
        format!("{identity} from {}", Digest::of(layers.join(" ").as_bytes()).short_hex())
    }

    /// Whether mounts of the store's file system can show other owners; found out by one.
    fn may_exchange_owners(&self) -> bool {
        *self.exchanges_owners.get_or_init(|| {
            let (one, other) = (0, 1);
            let owners = OwnerExchange { users: (one, other), groups: (one, other) };
            let tried = exchanged(self.scratch, owners);
            if let Err(error) = &tried {
                tracing::debug!(%error, "owners of cache mounts cannot be exchanged");
            }
            tried.is_ok()
        })
    }
}

/// Owner and group of a directory.
fn owner_of(path: &Path) -> io::Result<(u32, u32)> {
    let facts = fs_err::symlink_metadata(path)?;
    Ok((facts.uid(), facts.gid()))
}

fn set_owner(path: &Path, (uid, gid): (u32, u32)) -> io::Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    Ok(rustix::fs::chownat(rustix::fs::CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// The directory is the store's: nobody can put a link in its place.
fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode & 0o7777))?)
}
