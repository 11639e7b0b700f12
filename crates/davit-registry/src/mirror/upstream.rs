//! One upstream: its client, and what is known of it in memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use davit_distribution::{
    Access, Client, ClientConfig, Credential, RegistryConfig, RetryConfig, Session, TimeoutConfig,
};
use davit_image::Repository;

use super::{MirrorRow, bound};
use crate::{bandwidth::Bandwidth, manifests::Target, name::RepositoryName};

/// How long it is believed that something does not exist.
const ABSENT: Duration = Duration::from_secs(30);
/// How long nobody asks again after a failure.
const FAILED: Duration = Duration::from_secs(5);
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
        let ttl = Duration::from_secs(self.row.settings.ttl_seconds.into());
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
