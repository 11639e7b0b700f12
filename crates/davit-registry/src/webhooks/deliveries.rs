//! Deliveries: who is told next, what came of it, and what is remembered.

use std::{hash::BuildHasher as _, sync::Arc, time::Duration};

use tokio::task::JoinSet;

use super::{Answer, Sender, WebhookSettings};
use crate::{
    db::{Connection, Database, DbError, Lock, Transaction, ms, values},
    events::{Event, SubscriptionError, SubscriptionKind, find},
    fault::in_words,
};

/// Deliveries that a process tries at once.
const AT_ONCE: usize = 32;
/// How long a process holds a delivery: longer than a try may take.
const LEASE: Duration = Duration::from_secs(90);
/// Waits after each failure; the last one is followed by none. Together a little more than a day.
const WAITS: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 3600),
    Duration::from_secs(3 * 3600),
    Duration::from_secs(5 * 3600),
    Duration::from_secs(7 * 3600),
    Duration::from_secs(10 * 3600),
];
/// A webhook that failed for so long is given up.
const PATIENCE: Duration = Duration::from_secs(3 * 24 * 3600);
/// What has ended is remembered so long.
const REMEMBERED: Duration = Duration::from_secs(7 * 24 * 3600);
/// Status by which a receiver says that it wants nothing any more (Standard Webhooks § Delivery).
const GONE: u16 = 410;

/// A delivery, as its history tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRow {
    /// Its row.
    pub id: i64,
    /// What is told.
    pub event: Event,
    /// `waiting`, `delivered` or `failed`.
    pub state: String,
    /// Tries so far.
    pub attempts: i64,
    /// When the next is due, in milliseconds since 1970.
    pub run_after: i64,
    /// Status of the last answer.
    pub status: Option<i64>,
    /// The beginning of the last answer's body, or why there was none.
    pub reply: Option<String>,
    /// When it was made.
    pub created_at: i64,
    /// When it ended.
    pub finished_at: Option<i64>,
}

/// The newest deliveries of a webhook, newest first.
///
/// # Errors
/// [`SubscriptionError::Unknown`].
pub async fn history(
    database: &Database,
    webhook: &str,
    most: i64,
) -> Result<Vec<DeliveryRow>, SubscriptionError> {
    history_before(database, webhook, (i64::MAX, most)).await
}

/// As [`history`], of deliveries whose rows are before `before`.
///
/// # Errors
/// [`SubscriptionError::Unknown`].
pub async fn history_before(
    database: &Database,
    webhook: &str,
    (before, most): (i64, i64),
) -> Result<Vec<DeliveryRow>, SubscriptionError> {
    let sql = "SELECT id, event, state, attempts, run_after, status, reply, created_at, \
               finished_at FROM delivery WHERE subscription_id = $1 AND id < $2 \
               ORDER BY id DESC LIMIT $3";
    let webhook = find(database, SubscriptionKind::Webhook, webhook).await?;
    let mut reader = database.reader().await?;
    let rows = reader.rows(sql, values![webhook.id, before, most]).await?;
    let mut found = Vec::new();
    for row in rows {
        // What a later version wrote is passed over.
        let Ok(event) = serde_json::from_str(&row.get::<String>(1)?) else { continue };
        found.push(DeliveryRow {
            id: row.get(0)?,
            event,
            state: row.get(2)?,
            attempts: row.get(3)?,
            run_after: row.get(4)?,
            status: row.get(5)?,
            reply: row.get(6)?,
            created_at: row.get(7)?,
            finished_at: row.get(8)?,
        });
    }
    Ok(found)
}

/// Sends a delivery that has ended once more, with all its tries.
#[derive(Clone, Debug)]
pub struct Redeliver {
    /// Name of the webhook.
    pub webhook: String,
    /// Row of the delivery.
    pub id: i64,
}

impl Transaction for Redeliver {
    type Output = ();
    type Error = SubscriptionError;

    async fn run(&self, connection: &mut Connection) -> Result<(), SubscriptionError> {
        let sql = "UPDATE delivery SET state = 'waiting', attempts = 0, run_after = $1, \
                   locked_until = 0, finished_at = NULL WHERE id = $2 AND locked_until <= $1 \
                   AND subscription_id = \
                   (SELECT id FROM subscription WHERE name = $3 AND kind = 'webhook')";
        let values = values![connection.now_ms(), self.id, &self.webhook];
        if connection.execute(sql, values).await? == 0 {
            return Err(SubscriptionError::Unknown("delivery", self.id.to_string()));
        }
        Ok(())
    }
}

/// Starts to try what is due, each once, beside the tries that are under way; tells how many.
///
/// # Errors
/// The database's.
pub async fn start(
    database: &Database,
    sender: &Arc<Sender>,
    tries: &mut JoinSet<()>,
) -> Result<u64, DbError> {
    let free = AT_ONCE.saturating_sub(tries.len());
    let mut reader = database.reader().await?;
    let now = reader.now_ms();
    if free == 0 || reader.row(DUE, values![now, 1_i64]).await?.is_none() {
        return Ok(0);
    }
    drop(reader);
    let held = database.write(Claim { most: free as u64 }).await?;
    let count = held.len() as u64;
    for held in held {
        let (database, sender) = (database.clone(), Arc::clone(sender));
        tries.spawn(async move {
            let outcome = held.send(&sender).await;
            if let Err(error) = database.write(Finish { held, outcome }).await {
                // The delivery is tried again when its lease is over.
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "what came of a delivery is not written down");
            }
        });
    }
    Ok(count)
}

/// What may be tried now: of each webhook and repository the oldest.
const DUE: &str = "SELECT d.id, d.subscription_id, d.event, d.attempts FROM delivery d \
     WHERE d.state = 'waiting' AND d.run_after <= $1 AND d.locked_until <= $1 \
     AND EXISTS (SELECT 1 FROM subscription s WHERE s.id = d.subscription_id AND s.state = 'active') \
     AND NOT EXISTS (SELECT 1 FROM delivery e WHERE e.subscription_id = d.subscription_id \
         AND e.repository = d.repository AND e.state = 'waiting' AND e.number < d.number) \
     ORDER BY d.run_after, d.id LIMIT $2";

/// A delivery that this process tries.
struct Held {
    id: i64,
    subscription: i64,
    event: String,
    settings: String,
    attempts: i64,
    held_until: i64,
}

/// What came of a try.
enum Outcome {
    Answer(Answer),
    None(String),
}

impl Held {
    async fn send(&self, sender: &Sender) -> Outcome {
        let settings = serde_json::from_str::<WebhookSettings>(&self.settings);
        let event = serde_json::from_str::<Event>(&self.event);
        let (Ok(settings), Ok(event)) = (settings, event) else {
            return Outcome::None("a later version of the registry wrote this".to_owned());
        };
        match sender.send(&settings, &event).await {
            Ok(answer) => Outcome::Answer(answer),
            Err(error) => Outcome::None(in_words(&error)),
        }
    }
}

struct Claim {
    most: u64,
}

impl Transaction for Claim {
    type Output = Vec<Held>;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<Vec<Held>, DbError> {
        const TAKE: &str = "UPDATE delivery SET attempts = attempts + 1, locked_until = $1 \
                            WHERE id = $2";
        const SETTINGS: &str = "SELECT settings FROM subscription WHERE id = $1";
        let now = connection.now_ms();
        let held_until = now + ms(LEASE);
        let due = values![now, self.most];
        let rows = connection.rows_locked(DUE, due, Lock::UpdateSkipLocked).await?;
        let mut held = Vec::new();
        for row in rows {
            let (id, subscription): (i64, i64) = (row.get(0)?, row.get(1)?);
            let Some(settings) = connection.row(SETTINGS, values![subscription]).await? else {
                continue;
            };
            connection.execute(TAKE, values![held_until, id]).await?;
            held.push(Held {
                id,
                subscription,
                event: row.get(2)?,
                settings: settings.get(0)?,
                attempts: row.get::<i64>(3)? + 1,
                held_until,
            });
        }
        Ok(held)
    }
}

/// Writes down what came of a try.
struct Finish {
    held: Held,
    outcome: Outcome,
}

impl Transaction for Finish {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        const END: &str = "UPDATE delivery SET state = $1, run_after = $2, locked_until = 0, \
                           status = $3, reply = $4, finished_at = $5 \
                           WHERE id = $6 AND locked_until = $7";
        const WELL: &str = "UPDATE subscription SET failing_since = NULL \
                            WHERE id = $1 AND failing_since IS NOT NULL";
        let now = connection.now_ms();
        let (status, reply, is_success) = match &self.outcome {
            Outcome::Answer(answer) => {
                (Some(i64::from(answer.status)), answer.body.as_str(), answer.is_success())
            }
            Outcome::None(why) => (None, why.as_str(), false),
        };
        let wait = if is_success { None } else { self.wait() };
        let state = match (is_success, wait) {
            (true, _) => "delivered",
            (false, Some(_)) => "waiting",
            (false, None) => "failed",
        };
        let run_after = now + wait.map_or(0, ms);
        let finished = wait.is_none().then_some(now);
        let held = &self.held;
        let row = values![state, run_after, status, reply, finished, held.id, held.held_until];
        if connection.execute(END, row).await? == 0 {
            // The lease was over, or the webhook was removed: another one tells what came of it.
            return Ok(());
        }
        if is_success {
            connection.execute(WELL, values![held.subscription]).await?;
            return Ok(());
        }
        self.count_failure(connection, status == Some(i64::from(GONE))).await
    }
}

impl Finish {
    /// How long until the next try; `None`: there is none.
    fn wait(&self) -> Option<Duration> {
        let tried = usize::try_from(self.held.attempts).unwrap_or(usize::MAX);
        let usual = jittered(*WAITS.get(tried.checked_sub(1)?)?);
        let asked = match &self.outcome {
            Outcome::Answer(answer) => answer.wait,
            Outcome::None(_) => None,
        };
        Some(asked.map_or(usual, |asked| asked.max(usual)))
    }

    async fn count_failure(&self, connection: &mut Connection, gone: bool) -> Result<(), DbError> {
        const FAILING: &str = "UPDATE subscription SET failing_since = $1 \
                               WHERE id = $2 AND failing_since IS NULL";
        const GIVE_UP: &str = "UPDATE subscription SET state = 'failed' \
                               WHERE id = $1 AND failing_since <= $2";
        let (now, id) = (connection.now_ms(), self.held.subscription);
        connection.execute(FAILING, values![now, id]).await?;
        let since = if gone { now } else { now - ms(PATIENCE) };
        connection.execute(GIVE_UP, values![id, since]).await?;
        Ok(())
    }
}

/// Up to a fifth more, so that what failed together does not return together.
fn jittered(wait: Duration) -> Duration {
    let random = std::hash::RandomState::new().hash_one(0_u8) % 1024;
    wait + wait.mul_f64(0.2 * f64::from(u32::try_from(random).unwrap_or(0)) / 1024.0)
}

/// Forgets what ended long ago.
///
/// # Errors
/// The database's.
pub async fn forget_old(database: &Database) -> Result<u64, DbError> {
    let mut reader = database.reader().await?;
    let old = reader.now_ms() - ms(REMEMBERED);
    let sql = "SELECT id FROM delivery WHERE finished_at < $1 LIMIT 1";
    if reader.row(sql, values![old]).await?.is_none() {
        return Ok(0);
    }
    drop(reader);
    database.write(Forget).await
}

struct Forget;

impl Transaction for Forget {
    type Output = u64;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<u64, DbError> {
        let sql = "DELETE FROM delivery WHERE finished_at < $1 AND state <> 'waiting'";
        let old = connection.now_ms() - ms(REMEMBERED);
        connection.execute(sql, values![old]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_go_on_for_a_day_and_then_end() {
        let held = |attempts| Held {
            id: 1,
            subscription: 1,
            event: String::new(),
            settings: String::new(),
            attempts,
            held_until: 0,
        };
        let wait = |attempts, asked: Option<u64>| {
            let wait = asked.map(Duration::from_secs);
            let outcome = Outcome::Answer(Answer { status: 503, body: String::new(), wait });
            Finish { held: held(attempts), outcome }.wait()
        };
        let all: Option<Duration> = (1..=9).map(|attempts| wait(attempts, None)).sum();
        assert!(all.unwrap() > Duration::from_secs(24 * 3600), "{all:?}");
        assert_eq!(wait(10, None), None);
        assert_eq!(wait(10, Some(5)), None, "asking for a wait is no further try");
        assert_eq!(wait(1, Some(3600)), Some(Duration::from_secs(3600)));
        assert!(wait(2, Some(1)).unwrap() >= Duration::from_secs(30));
    }
}
