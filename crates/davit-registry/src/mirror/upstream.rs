//! One upstream: its client, and what is known of it in memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use davit_distribution::{
    Access, Client, ClientConfig, Credential, RegistryConfig, RetryConfig, Session, TimeoutConfig,
};
use davit_image::{Descriptor, Digest, Repository};

use super::{MirrorRow, bound};
use crate::{bandwidth::Bandwidth, manifests::Target, name::RepositoryName};

/// How long it is believed that something does not exist.
const ABSENT: Duration = Duration::from_secs(30);
/// How long nobody asks again after a failure.
const FAILED: Duration = Duration::from_secs(5);
/// Bytes of a list of referrers that is remembered, and lists of an upstream.
const LIST_BYTES: usize = 16 << 10;
const LISTS: usize = 1000;
/// How long nobody asks after 429 without `Retry-After`.
const BLOCKED: Duration = Duration::from_secs(60);
/// Longest time that an upstream may ask not to be asked.
const LONGEST_BLOCKED: Duration = Duration::from_secs(60 * 60);

/// A registry that is mirrored.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) row: MirrorRow,
    client: Client,
    /// What all fetches from it share.
    pub(super) bandwidth: Bandwidth,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    answers: HashMap<(RepositoryName, Target), (Answer, Instant)>,
    /// One at a time asks for a manifest.
    turns: HashMap<(RepositoryName, Target), Arc<tokio::sync::Mutex<()>>>,
    /// What refers to a manifest.
    referrers: HashMap<(RepositoryName, Digest), Arc<tokio::sync::Mutex<Listed>>>,
    blocked_until: Option<Instant>,
}

/// What the upstream said of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// What is here is what it has.
    Same,
    /// It has none.
    Absent,
    /// It did not say.
    Failed,
}

/// What an upstream said that refers to a manifest; who holds its lock is the only one to ask.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// The last list, as JSON, whose size is known.
    entries: Option<Vec<u8>>,
    /// Until when nobody asks again.
    until: Option<Instant>,
}

impl Listed {
    /// The last list that is known.
    pub(super) fn entries(&self) -> Option<Vec<Descriptor>> {
        serde_json::from_slice(self.entries.as_ref()?).ok()
    }

    /// Tells whether nobody is to ask now.
    pub(super) fn is_believed(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    /// Keeps a new list, unless it is a long one.
    pub(super) fn keep(&mut self, entries: &[Descriptor], ttl: Duration) {
        let bytes = serde_json::to_vec(entries).ok().filter(|it| it.len() <= LIST_BYTES);
        self.until = bytes.as_ref().map(|_| Instant::now() + ttl);
        self.entries = bytes;
    }

    /// The upstream did not say.
    pub(super) fn fail(&mut self, ttl: Duration) {
        self.until = Some(Instant::now() + FAILED.min(ttl));
    }
}

impl Upstream {
    pub(super) fn new(row: MirrorRow) -> Self {
        let insecure = row.settings.insecure;
        let settings = RegistryConfig { insecure, ..RegistryConfig::default() };
        // Somebody waits for the answer, and the next one asks again.
        let retry = RetryConfig {
            attempts: 3,
            longest_delay: Duration::from_secs(2),
            longest_retry_after: Duration::from_secs(2),
            ..RetryConfig::default()
        };
        let timeouts = TimeoutConfig { reply: Duration::from_secs(30), ..TimeoutConfig::default() };
        let account = row.settings.account.clone().map(|(username, password)| {
            (row.upstream.clone(), Credential::Password { username, password })
        });
        let client = Client::new(ClientConfig {
            registries: [(row.upstream.clone(), settings)].into(),
            accounts: account.into_iter().collect(),
            retry,
            timeouts,
            ..ClientConfig::default()
        });
        let bandwidth = Bandwidth::new(row.settings.bytes_per_second);
        Self { row, client, bandwidth, memory: Mutex::default() }
    }

    pub(super) fn session(&self, repository: &Repository) -> Session {
        self.client.session(repository, Access::Pull)
    }

    /// Tells whether a client means it by this name of a registry.
    pub(super) fn is_called(&self, namespace: &str) -> bool {
        let hub = ["docker.io", "index.docker.io", "registry-1.docker.io"];
        namespace == self.row.name
            || namespace == self.row.upstream
            || (self.row.upstream == hub[0] && hub.contains(&namespace))
    }

    /// What it said of a manifest, as long as that is believed.
    pub(super) fn answer(&self, name: &RepositoryName, target: &Target) -> Option<Answer> {
        let memory = self.memory();
        let (answer, at) = memory.answers.get(&(name.clone(), target.clone()))?;
        let ttl = self.ttl();
        let believed = match answer {
            Answer::Same => ttl,
            Answer::Absent => ABSENT.min(ttl),
            Answer::Failed => FAILED.min(ttl),
        };
        (at.elapsed() < believed).then_some(*answer)
    }

    pub(super) fn note(&self, name: &RepositoryName, target: &Target, answer: Answer) {
        let mut memory = self.memory();
        bound(&mut memory.answers);
        memory.answers.insert((name.clone(), target.clone()), (answer, Instant::now()));
    }

    /// Who holds it is the only one to ask for this manifest.
    pub(super) fn turn(
        &self,
        name: &RepositoryName,
        target: &Target,
    ) -> Arc<tokio::sync::Mutex<()>> {
        let mut memory = self.memory();
        // Those that nobody holds are forgotten when there are many.
        if memory.turns.len() >= 1000 {
            memory.turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        let key = (name.clone(), target.clone());
        Arc::clone(memory.turns.entry(key).or_default())
    }

    /// What it said that refers to a manifest.
    pub(super) fn listed(
        &self,
        name: &RepositoryName,
        subject: &Digest,
    ) -> Arc<tokio::sync::Mutex<Listed>> {
        let mut memory = self.memory();
        if memory.referrers.len() >= LISTS {
            memory.referrers.retain(|_, listed| Arc::strong_count(listed) > 1);
        }
        Arc::clone(memory.referrers.entry((name.clone(), *subject)).or_default())
    }

    /// How long it is believed.
    pub(super) fn ttl(&self) -> Duration {
        Duration::from_secs(self.row.settings.ttl_seconds.into())
    }

    /// Tells whether it asked not to be asked.
    pub(super) fn is_blocked(&self) -> bool {
        self.memory().blocked_until.is_some_and(|until| Instant::now() < until)
    }

    /// Takes note of its rate limit.
    pub(super) fn heed(&self, error: &davit_distribution::Error) {
        if error.is_rate_limit() {
            let wait = error.retry_after().unwrap_or(BLOCKED).min(LONGEST_BLOCKED);
            self.memory().blocked_until = Some(Instant::now() + wait);
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
