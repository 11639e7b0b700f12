//! Manifests in memory, by repository and tag or digest.
//!
//! Changes of this process take entries out as they commit. What other processes change (the command
//! line on SQLite) is noticed within [`TRUSTED`]. On a shared database every read asks which manifest is
//! meant, and memory only saves reading its bytes.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use davit_image::Digest;

use super::{Stored, Target};
use crate::name::RepositoryName;

/// Bytes of bodies that are kept, entries counted as [`OVERHEAD`] each.
const LARGEST: usize = 8 << 20;
/// What an entry costs beside its body.
const OVERHEAD: usize = 512;
/// How long an entry is believed without a look at the database.
const TRUSTED: Duration = Duration::from_secs(1);

type Name = (RepositoryName, Target);

#[derive(Debug)]
pub(crate) struct Cache {
    is_shared: bool,
    /// Raised with each change, so that what was read before is not kept after.
    generation: AtomicU64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    entries: HashMap<Name, (Arc<Stored>, Instant)>,
    /// Oldest first; names that were taken out are passed over.
    order: VecDeque<Name>,
    bytes: usize,
}

/// What memory knows.
pub(crate) enum Entry {
    /// It may be served.
    Fresh(Arc<Stored>),
    /// It may be served if the database still means this one.
    Stale(Arc<Stored>),
}

impl Cache {
    pub(crate) fn new(is_shared: bool) -> Self {
        Self { is_shared, generation: AtomicU64::new(0), kept: Mutex::default() }
    }

    pub(crate) fn get(&self, name: &RepositoryName, target: &Target) -> Option<Entry> {
        let key = (name.clone(), target.clone());
        let kept = self.kept();
        let (stored, at) = kept.entries.get(&key)?;
        let stored = Arc::clone(stored);
        let is_fresh = !self.is_shared && at.elapsed() < TRUSTED;
        Some(if is_fresh { Entry::Fresh(stored) } else { Entry::Stale(stored) })
    }

    /// The bytes of a manifest, which never change; the caller knows that the repository has it.
    pub(crate) fn body(&self, name: &RepositoryName, digest: &Digest) -> Option<Arc<Stored>> {
        let key = (name.clone(), Target::Digest(*digest));
        self.kept().entries.get(&key).map(|(stored, _)| Arc::clone(stored))
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Keeps what was read while the generation was this one, if it still is.
    pub(crate) fn insert(
        &self,
        name: &RepositoryName,
        target: &Target,
        stored: &Arc<Stored>,
        generation: u64,
    ) {
        let cost = stored.body.len() + OVERHEAD;
        if cost > LARGEST / 4 {
            return;
        }
        let key = (name.clone(), target.clone());
        let mut kept = self.kept();
        if self.generation() != generation {
            return;
        }
        let entry = (Arc::clone(stored), Instant::now());
        if let Some((old, _)) = kept.entries.insert(key.clone(), entry) {
            kept.bytes -= old.body.len() + OVERHEAD;
        } else {
            kept.order.push_back(key);
        }
        kept.bytes += cost;
        while kept.bytes > LARGEST {
            let Some(oldest) = kept.order.pop_front() else { break };
            kept.remove(&oldest);
        }
    }

    /// Forgets what these name.
    pub(crate) fn forget<'t>(
        &self,
        name: &RepositoryName,
        targets: impl IntoIterator<Item = &'t Target>,
    ) {
        let mut kept = self.kept();
        self.generation.fetch_add(1, Ordering::SeqCst);
        for target in targets {
            kept.remove(&(name.clone(), target.clone()));
        }
    }

    /// Forgets all of a repository: by a digest, any of its tags may have gone.
    pub(crate) fn forget_repository(&self, name: &RepositoryName) {
        let mut kept = self.kept();
        self.generation.fetch_add(1, Ordering::SeqCst);
        let gone: Vec<Name> = kept.entries.keys().filter(|(of, _)| of == name).cloned().collect();
        for key in gone {
            kept.remove(&key);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn remove(&mut self, key: &Name) {
        if let Some((old, _)) = self.entries.remove(key) {
            self.bytes -= old.body.len() + OVERHEAD;
        }
        // Names that come and go must not pile up.
        if self.order.len() > 2 * self.entries.len() + 64 {
            let entries = &self.entries;
            self.order.retain(|key| entries.contains_key(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(body: Vec<u8>) -> Arc<Stored> {
        let digest = Digest::of(&body);
        Arc::new(Stored { digest, media_type: "a/b".to_owned(), body: body.into() })
    }

    #[test]
    fn old_entries_make_room_and_changes_win() {
        let cache = Cache::new(false);
        let name: RepositoryName = "a/b".parse().unwrap();
        let target = |n: usize| Target::Tag(format!("t{n}").parse().unwrap());
        for n in 0..100 {
            cache.insert(&name, &target(n), &stored(vec![0; 256 << 10]), cache.generation());
        }
        assert!(cache.get(&name, &target(0)).is_none());
        assert!(matches!(cache.get(&name, &target(99)), Some(Entry::Fresh(_))));
        assert!(cache.kept().bytes <= LARGEST);

        let before = cache.generation();
        cache.forget(&name, [&target(99)]);
        assert!(cache.get(&name, &target(99)).is_none());
        cache.insert(&name, &target(99), &stored(vec![1]), before);
        assert!(cache.get(&name, &target(99)).is_none(), "what was read before the change");
        for n in 0..10_000 {
            cache.insert(&name, &target(n), &stored(vec![1]), cache.generation());
            cache.forget(&name, [&target(n)]);
        }
        assert!(cache.kept().order.len() < 1000);
        cache.forget_repository(&name);
        assert!(cache.kept().entries.is_empty() && cache.kept().bytes == 0);
    }
}
