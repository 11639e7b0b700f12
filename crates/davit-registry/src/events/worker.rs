//! Hands events on and delivers them, beside the requests.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinSet};

use super::{EventKind, SubscriptionKind, fan_out, subscriptions};
use crate::{
    db::{ChangeMark, DbError},
    registry::Registry,
    webhooks::{self, Sender},
};

/// How often the worker looks.
const LOOK: Duration = Duration::from_millis(200);
/// So many looks without a change of the database, and what is due by the clock is looked for.
const IDLE_LOOKS: u32 = 5;
/// How often what is old is forgotten.
const FORGET: Duration = Duration::from_secs(60 * 60);

/// What hands events on and delivers them; one per process.
#[derive(Debug)]
pub struct Worker {
    registry: Registry,
    sender: Arc<Sender>,
    seen: Option<ChangeMark>,
    /// Deliveries under way.
    tries: JoinSet<()>,
}

impl Worker {
    /// A worker of this registry; `base_url` is how clients reach it.
    #[must_use]
    pub fn new(registry: Registry, base_url: &str) -> Self {
        Self {
            registry,
            sender: Arc::new(Sender::new(base_url)),
            seen: None,
            tries: JoinSet::new(),
        }
    }

    /// Works until the end.
    pub async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let mut idle = IDLE_LOOKS;
        let mut forgotten: Option<tokio::time::Instant> = None;
        loop {
            if self.has_changed() || idle >= IDLE_LOOKS {
                idle = 0;
                if let Err(error) = self.work().await {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(error, "events are not handed on");
                }
            }
            if forgotten.is_none_or(|at| at.elapsed() > FORGET) {
                forgotten = Some(tokio::time::Instant::now());
                if let Err(error) = webhooks::forget_old(&self.registry.database).await {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(error, "the history of webhooks is not cut");
                }
            }
            idle += 1;
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                // What waited for this one may go now.
                Some(_) = self.tries.join_next() => idle = IDLE_LOOKS,
                _ = stopped.changed() => return,
            }
        }
    }

    /// Tells whether anything was committed since the last look; always true on PostgreSQL's beat.
    fn has_changed(&mut self) -> bool {
        let mark = self.registry.database.change_mark();
        let changed = mark.is_some() && mark != self.seen;
        self.seen = mark;
        changed
    }

    async fn work(&mut self) -> Result<(), DbError> {
        let database = &self.registry.database;
        let listening = subscriptions(database, SubscriptionKind::Webhook).await?;
        let pulls = listening
            .into_iter()
            .filter(|one| one.is_active && one.events.contains(&EventKind::Pull))
            .map(|one| one.repositories);
        self.registry.listeners.set(pulls.collect());
        fan_out(database).await?;
        webhooks::start(database, &self.sender, &mut self.tries).await?;
        Ok(())
    }
}

/// Hands on what waits, and tries what is due once, to its end; tells how many deliveries it tried.
///
/// # Errors
/// The database's.
pub async fn round(registry: &Registry, sender: &Arc<Sender>) -> Result<u64, DbError> {
    fan_out(&registry.database).await?;
    let mut tries = JoinSet::new();
    let tried = webhooks::start(&registry.database, sender, &mut tries).await?;
    while tries.join_next().await.is_some() {}
    Ok(tried)
}
