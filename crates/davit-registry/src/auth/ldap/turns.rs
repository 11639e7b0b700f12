//! How many logins a directory is asked about at once, how long it may take, and which directories are
//! left alone for a while because they did not answer.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::{LdapError, LdapSource, Person, connection::Connection};
use crate::auth::{Refusal, TokenHash};

/// How directories are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LdapLimits {
    /// How long a connection may take until it can be used, TLS included.
    pub connect: Duration,
    /// How long a directory may take for one person after that; as long a login waits for its turn.
    pub person: Duration,
    /// How long a directory that did not answer is not asked again.
    pub rest: Duration,
    /// Logins about which directories are asked at once.
    pub at_once: usize,
}

impl Default for LdapLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            person: Duration::from_secs(7),
            rest: Duration::from_secs(10),
            at_once: 16,
        }
    }
}

/// Who asks directories now, and which of them rest.
#[derive(Debug)]
pub(in crate::auth) struct Turns {
    limits: LdapLimits,
    slots: Semaphore,
    /// When those did not answer whose settings have this hash: with others they are asked anew.
    resting: Mutex<HashMap<TokenHash, Instant>>,
}

impl Turns {
    pub(in crate::auth) fn new(limits: LdapLimits) -> Self {
        Self { limits, slots: Semaphore::new(limits.at_once), resting: Mutex::default() }
    }

    /// Waits for a turn, which ends when it is dropped.
    pub(in crate::auth) async fn turn(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        match timeout(self.limits.person, self.slots.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Refusal::Directory),
        }
    }

    /// Asks a directory for a person, unless it did not answer a moment ago.
    pub(super) async fn ask(
        &self,
        source: &LdapSource,
        who: (&str, &str),
    ) -> Result<Option<Person>, LdapError> {
        let key = TokenHash::of(json!(source).to_string().as_bytes());
        let is_resting = |at: &Instant| at.elapsed() < self.limits.rest;
        if self.resting().get(&key).is_some_and(is_resting) {
            return Err(LdapError::Resting);
        }
        let outcome = self.ask_now(source, who).await;
        if matches!(outcome, Err(LdapError::Io(_) | LdapError::Late)) {
            let mut resting = self.resting();
            resting.retain(|_, at| is_resting(at));
            resting.insert(key, Instant::now());
        }
        outcome
    }

    async fn ask_now(
        &self,
        source: &LdapSource,
        who: (&str, &str),
    ) -> Result<Option<Person>, LdapError> {
        let late = |_elapsed| LdapError::Late;
        let opened = timeout(self.limits.connect, Connection::open(source));
        let connection = opened.await.map_err(late)??;
        timeout(self.limits.person, source.ask(connection, who)).await.map_err(late)?
    }

    fn resting(&self) -> MutexGuard<'_, HashMap<TokenHash, Instant>> {
        // Each change of it is one call.
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
