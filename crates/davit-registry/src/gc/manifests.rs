//! Phase A: manifests that nothing names any more.

use davit_image::Digest;

use crate::{
    db::{Connection, Database, DbError, Lock, Transaction, ms, values},
    gc::{BATCH, GcError, GcSettings, Mode},
    manifests::{Delays, unlink},
    settings::RepositorySettings,
};

/// Why a queued manifest stays or goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It has gone already.
    Absent,
    /// A tag, an index or its subject holds it; whoever lets it go queues it again.
    Held,
    /// Look again at this time.
    Later(i64),
    /// Nothing holds it.
    Goes,
}

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

struct Queued {
    repo_id: i64,
    digest: Digest,
}

pub(super) async fn collect(
    database: &Database,
    settings: &GcSettings,
    mode: Mode,
) -> Result<u64, GcError> {
    const DUE: &str = "SELECT repo_id, digest, after_ms FROM gc_queue \
                       WHERE after_ms <= $1 AND (after_ms, repo_id, digest) > ($2, $3, $4) \
                       ORDER BY after_ms, repo_id, digest LIMIT 200";
    let mut at = (i64::MIN, 0_i64, String::new());
    let mut gone = 0;
    loop {
        let mut reader = database.reader().await?;
        let values = values![reader.now_ms(), at.0, at.1, &at.2];
        let rows = reader.rows(DUE, values).await?;
        let Some(last) = rows.last() else { return Ok(gone) };
        at = (last.get(2)?, last.get(0)?, last.get(1)?);
        let queued: Result<Vec<_>, DbError> = rows
            .iter()
            .map(|row| Ok(Queued { repo_id: row.get(0)?, digest: row.get(1)? }))
            .collect();
        let queued = queued?;
        debug_assert!(queued.len() <= BATCH);
        if mode == Mode::DryRun {
            for one in &queued {
                let fate = fate(&mut reader, one.repo_id, &one.digest, settings).await?;
                gone += u64::from(fate == Fate::Goes);
            }
            continue;
        }
        drop(reader);
        // One by one: each touches rows that pushes touch too.
        for Queued { repo_id, digest } in queued {
            let removed = database.write(Remove { repo_id, digest, settings: *settings }).await?;
            gone += u64::from(removed);
        }
    }
}

/// Judges a queued manifest by the rows as they are.
pub(super) async fn fate(
    connection: &mut Connection,
    repo_id: i64,
    digest: &Digest,
    settings: &GcSettings,
) -> Result<Fate, DbError> {
    const MANIFEST: &str = "SELECT m.id, m.lease_until, m.subject, m.pushed_at, r.settings, \
         COALESCE(m.pulled_at, m.pushed_at) \
         FROM manifest m JOIN repo r ON r.id = m.repo_id WHERE m.repo_id = $1 AND m.digest = $2";
    const HOLDERS: &str = "SELECT CAST(1 AS BIGINT) WHERE \
         EXISTS (SELECT 1 FROM tag WHERE manifest_id = $1) \
         OR EXISTS (SELECT 1 FROM manifest_child WHERE child_id = $1) \
         OR EXISTS (SELECT 1 FROM manifest WHERE repo_id = $2 AND digest = $3)";
    const LEFT: &str = "SELECT MAX(at) FROM tag_event WHERE repo_id = $1 AND old_digest = $2";
    let now = connection.now_ms();
    let rows = connection.rows(MANIFEST, values![repo_id, digest]).await?;
    let Some(row) = rows.first() else { return Ok(Fate::Absent) };
    let (id, lease, subject): (i64, i64, Option<Digest>) = (row.get(0)?, row.get(1)?, row.get(2)?);
    if connection.row(HOLDERS, values![id, repo_id, subject]).await?.is_some() {
        return Ok(Fate::Held);
    }
    let keeps = row.get::<String>(4)?.parse::<RepositorySettings>();
    if keeps.as_ref().map_or(true, |settings| settings.keep_untagged) {
        return Ok(Fate::Later(now + ms(settings.lease)));
    }
    let mut until = lease;
    let keep_pulled_days = keeps.ok().and_then(|settings| settings.keep_pulled_days);
    if let Some(days) = keep_pulled_days {
        until = until.max(row.get::<i64>(5)? + i64::from(days) * DAY_MS);
    }
    if subject.is_some() {
        until = until.max(row.get::<i64>(3)? + ms(settings.referrers));
    }
    if keep_pulled_days.is_some() {
        // Nothing is undone there: what a mirror let go of is fetched again.
        return Ok(if until <= now { Fate::Goes } else { Fate::Later(until) });
    }
    let left = connection.row(LEFT, values![repo_id, digest]).await?;
    if let Some(left) = left.map(|row| row.get::<Option<i64>>(0)).transpose()?.flatten() {
        until = until.max(left + ms(settings.undo));
    }
    Ok(if until <= now { Fate::Goes } else { Fate::Later(until) })
}

struct Remove {
    repo_id: i64,
    digest: Digest,
    settings: GcSettings,
}

impl Transaction for Remove {
    type Output = bool;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<bool, DbError> {
        const TURN: &str = "SELECT repo_id FROM gc_queue WHERE repo_id = $1 AND digest = $2";
        const MANIFEST: &str = "SELECT id FROM manifest WHERE repo_id = $1 AND digest = $2";
        const DONE: &str = "DELETE FROM gc_queue WHERE repo_id = $1 AND digest = $2";
        const LATER: &str = "UPDATE gc_queue SET after_ms = $3 WHERE repo_id = $1 AND digest = $2";
        let key = || values![self.repo_id, &self.digest];
        if connection.rows_locked(TURN, key(), Lock::UpdateSkipLocked).await?.is_empty() {
            return Ok(false);
        }
        // New tags, parents and edges take a key-share lock on the manifest, and wait for this one.
        let rows = connection.rows_locked(MANIFEST, key(), Lock::Update).await?;
        let fate = fate(connection, self.repo_id, &self.digest, &self.settings).await?;
        if let Fate::Later(at) = fate {
            connection.execute(LATER, values![self.repo_id, &self.digest, at]).await?;
            return Ok(false);
        }
        connection.execute(DONE, key()).await?;
        match rows.first() {
            Some(row) if fate == Fate::Goes => {
                let delays = Delays {
                    lease_ms: ms(self.settings.lease),
                    referrers_ms: ms(self.settings.referrers),
                };
                unlink(connection, self.repo_id, (row.get(0)?, &self.digest), delays).await?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}
