//! Repositories and manifests that were deleted, when they can no longer be had back.

use davit_image::Digest;

use crate::{
    db::{Connection, Database, DbError, Lock, Transaction, ms, values},
    gc::{GcError, GcSettings, Mode},
    quota,
};

pub(super) async fn collect(
    database: &Database,
    settings: &GcSettings,
    mode: Mode,
) -> Result<u64, GcError> {
    // An upload that is open ends first, for its bytes are in the store.
    const DUE: &str = "SELECT repo_id FROM deleted_repo d WHERE deleted_at <= $1 \
         AND NOT EXISTS (SELECT 1 FROM upload u WHERE u.repo_id = d.repo_id) ORDER BY repo_id";
    let mut reader = database.reader().await?;
    let before = reader.now_ms() - ms(settings.undo);
    let rows = reader.rows(DUE, values![before]).await?;
    drop(reader);
    let due: Vec<i64> = rows.iter().map(|row| row.get(0)).collect::<Result<_, _>>()?;
    if mode == Mode::DryRun {
        return Ok(due.len() as u64);
    }
    let mut gone = 0;
    for repo_id in due {
        gone += loop {
            match database.write(Purge { repo_id, before }).await? {
                Purged::Part => {}
                Purged::All => break 1,
                Purged::Kept => break 0,
            }
        };
    }
    database.write(Forget { before }).await?;
    Ok(gone)
}

/// Removes a part of what a deleted repository holds, or at last its row.
struct Purge {
    repo_id: i64,
    before: i64,
}

#[derive(Debug, PartialEq, Eq)]
enum Purged {
    Part,
    All,
    /// It was had back meanwhile, or another node purges it.
    Kept,
}

impl Transaction for Purge {
    type Output = Purged;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<Purged, DbError> {
        const TURN: &str =
            "SELECT repo_id FROM deleted_repo WHERE repo_id = $1 AND deleted_at <= $2";
        const TAGS: &str = "DELETE FROM tag WHERE repo_id = $1 AND name IN \
             (SELECT name FROM tag WHERE repo_id = $1 LIMIT 200)";
        const EVENTS: &str = "DELETE FROM tag_event WHERE id IN \
             (SELECT id FROM tag_event WHERE repo_id = $1 LIMIT 200)";
        let turn = values![self.repo_id, self.before];
        if connection.rows_locked(TURN, turn, Lock::UpdateSkipLocked).await?.is_empty() {
            return Ok(Purged::Kept);
        }
        let repo = || values![self.repo_id];
        for sql in [TAGS, EVENTS] {
            if connection.execute(sql, repo()).await? > 0 {
                return Ok(Purged::Part);
            }
        }
        if self.manifests(connection).await? || self.links(connection).await? {
            return Ok(Purged::Part);
        }
        connection.execute("DELETE FROM repo WHERE id = $1", repo()).await?;
        Ok(Purged::All)
    }
}

impl Purge {
    async fn manifests(&self, connection: &mut Connection) -> Result<bool, DbError> {
        const SOME: &str = "SELECT id FROM manifest WHERE repo_id = $1 ORDER BY id LIMIT 200";
        const LEAVE: &str = "UPDATE manifest_child SET child_id = NULL WHERE child_id = $1";
        let rows = connection.rows(SOME, values![self.repo_id]).await?;
        for row in &rows {
            let id: i64 = row.get(0)?;
            connection.execute(LEAVE, values![id]).await?;
            connection.execute("DELETE FROM manifest WHERE id = $1", values![id]).await?;
        }
        Ok(!rows.is_empty())
    }

    async fn links(&self, connection: &mut Connection) -> Result<bool, DbError> {
        const SOME: &str = "SELECT digest FROM repo_blob WHERE repo_id = $1 LIMIT 200";
        const DELETE: &str = "DELETE FROM repo_blob WHERE repo_id = $1 AND digest = $2";
        let rows = connection.rows_locked(SOME, values![self.repo_id], Lock::Update).await?;
        for row in &rows {
            let digest: Digest = row.get(0)?;
            connection.execute(DELETE, values![self.repo_id, &digest]).await?;
            quota::refund(connection, self.repo_id, &digest).await?;
        }
        Ok(!rows.is_empty())
    }
}

/// Forgets the bodies of deleted manifests.
struct Forget {
    before: i64,
}

impl Transaction for Forget {
    type Output = u64;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<u64, DbError> {
        let sql = "DELETE FROM deleted_manifest WHERE deleted_at <= $1";
        connection.execute(sql, values![self.before]).await
    }
}
