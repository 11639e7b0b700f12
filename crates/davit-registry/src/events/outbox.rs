//! From the outbox to those who listen.

use uuid::Uuid;

use super::{About, Event, EventKind, Subscription, SubscriptionKind, subscriptions::all};
use crate::{
    db::{Connection, Database, DbError, Lock, Row, Transaction, values},
    replication, webhooks,
};

/// Events of one transaction.
const BATCH: i64 = 100;
/// Bytes of a description that are told.
const DESCRIPTION: usize = 500;

/// Hands waiting events to those who listen; tells how many.
///
/// Processes that do this at one time take turns: the order of a repository's events stays.
///
/// # Errors
/// The database's.
pub async fn fan_out(database: &Database) -> Result<u64, DbError> {
    let mut handed = 0;
    loop {
        let mut reader = database.reader().await?;
        if reader.row("SELECT id FROM event_outbox LIMIT 1", values![]).await?.is_none() {
            return Ok(handed);
        }
        drop(reader);
        let batch = database.write(FanOut).await?;
        if batch == 0 {
            return Ok(handed);
        }
        handed += batch;
    }
}

struct FanOut;

impl Transaction for FanOut {
    type Output = u64;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<u64, DbError> {
        const WAITING: &str = "SELECT id, kind, repository, digest, tag, previous, source, by_id, \
                               created_at FROM event_outbox ORDER BY id LIMIT $1";
        const DONE: &str = "DELETE FROM event_outbox WHERE id = $1";
        let rows = connection.rows_locked(WAITING, values![BATCH], Lock::Update).await?;
        let mut listeners = all(connection).await?;
        listeners.retain(|one| one.is_active);
        for row in &rows {
            let number: i64 = row.get(0)?;
            if let Ok(kind) = row.get::<String>(1)?.parse() {
                hand_on(connection, &listeners, (number, kind), row).await?;
            }
            connection.execute(DONE, values![number]).await?;
        }
        Ok(rows.len() as u64)
    }
}

/// Makes what follows from one event: a delivery or a job for each who wants to hear of it.
async fn hand_on(
    connection: &mut Connection,
    listeners: &[Subscription],
    (number, kind): (i64, EventKind),
    row: &Row,
) -> Result<(), DbError> {
    let (repository, tag): (String, Option<String>) = (row.get(2)?, row.get(4)?);
    let wanting = listeners.iter().filter(|one| one.wants(kind, &repository, tag.as_deref()));
    let mut event = None;
    for listener in wanting {
        if event.is_none() {
            event = Some(describe(connection, kind, row).await?);
        }
        let Some(event) = &event else { continue };
        match listener.kind {
            SubscriptionKind::Webhook => {
                if webhooks::tells(listener, event) {
                    add_delivery(connection, listener.id, number, event).await?;
                }
            }
            SubscriptionKind::Replication => {
                let named = (event.tag.as_deref(), event.digest.as_deref());
                if let Some(job) = replication::job_of(listener, &event.repository, named) {
                    job.run(connection).await?;
                }
            }
        }
    }
    Ok(())
}

/// Adds what the database knows besides: what may have gone is left out.
async fn describe(
    connection: &mut Connection,
    kind: EventKind,
    row: &Row,
) -> Result<Event, DbError> {
    const ABOUT: &str = "SELECT created_at, visibility, description FROM repo WHERE path = $1";
    const MANIFEST: &str = "SELECT m.media_type, m.size_bytes FROM manifest m \
                            JOIN repo r ON r.id = m.repo_id WHERE r.path = $1 AND m.digest = $2";
    const BLOB: &str = "SELECT size_bytes FROM blob WHERE digest = $1";
    const ACTOR: &str = "SELECT name FROM account WHERE id = $1";
    let (repository, digest): (String, Option<String>) = (row.get(2)?, row.get(3)?);
    let mut event = Event {
        id: Uuid::now_v7().to_string(),
        kind,
        at_ms: row.get(8)?,
        repository,
        digest,
        tag: row.get(4)?,
        previous: row.get(5)?,
        source: row.get(6)?,
        media_type: None,
        size_bytes: None,
        actor: None,
        about: About::default(),
    };
    if let Some(found) = connection.row(ABOUT, values![&event.repository]).await? {
        event.about = About {
            created_at_ms: found.get(0)?,
            is_public: found.get::<String>(1)? == "public",
            description: found.get::<String>(2)?.chars().take(DESCRIPTION).collect(),
        };
    }
    if let Some(digest) = &event.digest {
        if kind.level() > 1 {
            let found = connection.row(BLOB, values![digest]).await?;
            event.size_bytes = found.map(|found| found.get(0)).transpose()?;
        } else if let Some(found) =
            connection.row(MANIFEST, values![&event.repository, digest]).await?
        {
            (event.media_type, event.size_bytes) = (Some(found.get(0)?), Some(found.get(1)?));
        }
    }
    if let Some(by) = row.get::<Option<i64>>(7)? {
        let found = connection.row(ACTOR, values![by]).await?;
        event.actor = found.map(|found| found.get(0)).transpose()?;
    }
    Ok(event)
}

async fn add_delivery(
    connection: &mut Connection,
    subscription: i64,
    number: i64,
    event: &Event,
) -> Result<(), DbError> {
    let sql = "INSERT INTO delivery \
               (subscription_id, number, repository, event, state, run_after, created_at) \
               VALUES ($1, $2, $3, $4, 'waiting', $5, $6)";
    let now = connection.now_ms();
    // Only maps with keys that are no strings fail, and an event has none.
    let text = serde_json::to_string(event).unwrap_or_default();
    let row = values![subscription, number, &event.repository, text, now, now];
    connection.execute(sql, row).await?;
    Ok(())
}
