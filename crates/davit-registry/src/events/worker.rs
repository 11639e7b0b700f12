//! Hands events on and delivers them, beside the requests.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

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
}

impl Worker {
    /// A worker of this registry; `base_url` is how clients reach it.
    #[must_use]
    pub fn new(registry: Registry, base_url: &str) -> Self {
        Self { registry, sender: Arc::new(Sender::new(base_url)), seen: None }
    }

    /// Works until the end.
    pub async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let mut idle = IDLE_LOOKS;
        let mut forgotten: Option<tokio::time::Instant> = None;
        loop {
            if self.has_changed() || idle >= IDLE_LOOKS {
                idle = 0;
                if let Err(error) = self.work(&stopped).await {
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

    async fn work(&self, stopped: &watch::Receiver<bool>) -> Result<(), DbError> {
        let registry = &self.registry;
        let listening = subscriptions(&registry.database, SubscriptionKind::Webhook).await?;
        let pulls = listening
            .into_iter()
            .filter(|one| one.is_active && one.events.contains(&EventKind::Pull))
            .map(|one| one.repositories);
        registry.listeners.set(pulls.collect());
        while round(registry, &self.sender).await? > 0 && !*stopped.borrow() {}
        Ok(())
    }
}

/// Hands on what waits, and delivers what is due once; tells how many deliveries it tried.
///
/// # Errors
/// The database's.
pub async fn round(registry: &Registry, sender: &Arc<Sender>) -> Result<u64, DbError> {
    fan_out(&registry.database).await?;
    webhooks::deliver(&registry.database, sender).await
}
