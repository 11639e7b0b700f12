//! Work that any process on the database may do, one at a time: rows of `job`.
//!
//! Who takes a job holds it by a lease, which [`renew`] prolongs; a process that dies leaves it to the
//! next one. Of jobs with a key at most one waits, so that asking often is asking once.

use std::time::Duration;

use crate::db::{Connection, Database, DbError, Lock, Transaction, ms, values};

/// A job that this process holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its row.
    pub id: i64,
    /// What to do, as whoever made it wrote it.
    pub payload: String,
    /// How often it was taken, this time included.
    pub attempts: i64,
    /// Until when it is held: names this holding of it.
    held_until: i64,
}

/// Makes a job; `false` where one of its kind and key waits already.
#[derive(Clone, Debug)]
pub struct AddJob {
    /// What it is for.
    pub kind: &'static str,
    /// What makes it the same as another.
    pub key: Option<String>,
    /// What to do.
    pub payload: String,
    /// When, from now on.
    pub delay: Duration,
}

impl Transaction for AddJob {
    type Output = bool;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<bool, DbError> {
        let sql = "INSERT INTO job (kind, key, payload, state, run_after, created_at) \
                   VALUES ($1, $2, $3, 'waiting', $4, $5) \
                   ON CONFLICT (kind, key) WHERE state = 'waiting' DO NOTHING";
        let now = connection.now_ms();
        let row = values![self.kind, self.key.clone(), &self.payload, now + ms(self.delay), now];
        Ok(connection.execute(sql, row).await? == 1)
    }
}

/// How a holding of a job ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is done; what it brought.
    Done(String),
    /// It failed, and is tried again after this time.
    Again(String, Duration),
    /// It failed for good.
    Failed(String),
}

/// Takes the next job of a kind that is due.
///
/// # Errors
/// The database's.
pub async fn claim(
    database: &Database,
    kind: &'static str,
    lease: Duration,
) -> Result<Option<Job>, DbError> {
    let mut reader = database.reader().await?;
    let now = reader.now_ms();
    if reader.row(DUE, values![kind, now]).await?.is_none() {
        return Ok(None);
    }
    drop(reader);
    database.write(Claim { kind, lease_ms: ms(lease) }).await
}

const DUE: &str = "SELECT id, payload, attempts FROM job WHERE kind = $1 \
                   AND (state = 'waiting' AND run_after <= $2 \
                        OR state = 'running' AND locked_until <= $2) ORDER BY run_after, id LIMIT 1";

struct Claim {
    kind: &'static str,
    lease_ms: i64,
}

impl Transaction for Claim {
    type Output = Option<Job>;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<Option<Job>, DbError> {
        const TAKE: &str = "UPDATE job SET state = 'running', attempts = attempts + 1, \
                            locked_until = $1 WHERE id = $2";
        let now = connection.now_ms();
        let due = values![self.kind, now];
        let rows = connection.rows_locked(DUE, due, Lock::UpdateSkipLocked).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let (id, attempts): (i64, i64) = (row.get(0)?, row.get(2)?);
        let held_until = now + self.lease_ms;
        connection.execute(TAKE, values![held_until, id]).await?;
        Ok(Some(Job { id, payload: row.get(1)?, attempts: attempts + 1, held_until }))
    }
}

/// Holds a job for another lease; `false` where it was lost to another process or cancelled.
///
/// # Errors
/// The database's.
pub async fn renew(database: &Database, job: &mut Job, lease: Duration) -> Result<bool, DbError> {
    let renew = Renew { id: job.id, held_until: job.held_until, lease_ms: ms(lease) };
    let Some(until) = database.write(renew).await? else { return Ok(false) };
    job.held_until = until;
    Ok(true)
}

struct Renew {
    id: i64,
    held_until: i64,
    lease_ms: i64,
}

impl Transaction for Renew {
    type Output = Option<i64>;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<Option<i64>, DbError> {
        let sql = "UPDATE job SET locked_until = $1 \
                   WHERE id = $2 AND state = 'running' AND locked_until = $3";
        let until = (connection.now_ms() + self.lease_ms).max(self.held_until + 1);
        let changed = connection.execute(sql, values![until, self.id, self.held_until]).await?;
        Ok((changed == 1).then_some(until))
    }
}

/// Gives a job back; nothing happens where it was lost meanwhile.
///
/// # Errors
/// The database's.
pub async fn end(database: &Database, job: &Job, ending: Ending) -> Result<(), DbError> {
    database.write(End { id: job.id, held_until: job.held_until, ending }).await
}

struct End {
    id: i64,
    held_until: i64,
    ending: Ending,
}

impl Transaction for End {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        const ENDED: &str = "UPDATE job SET state = $1, result = $2, finished_at = $3 \
                             WHERE id = $4 AND state = 'running' AND locked_until = $5";
        // Another of its key may wait by now: then that one is the next try.
        const AGAIN: &str = "UPDATE job SET result = $1, run_after = $2, locked_until = 0, state = \
                             CASE WHEN key IS NOT NULL AND EXISTS (SELECT 1 FROM job o \
                             WHERE o.kind = job.kind AND o.key = job.key AND o.state = 'waiting') \
                             THEN 'failed' ELSE 'waiting' END \
                             WHERE id = $3 AND state = 'running' AND locked_until = $4";
        let now = connection.now_ms();
        let (state, result) = match &self.ending {
            Ending::Done(result) => ("done", result),
            Ending::Failed(result) => ("failed", result),
            Ending::Again(result, delay) => {
                let row = values![result, now + ms(*delay), self.id, self.held_until];
                connection.execute(AGAIN, row).await?;
                return Ok(());
            }
        };
        let row = values![state, result, now, self.id, self.held_until];
        connection.execute(ENDED, row).await?;
        Ok(())
    }
}
