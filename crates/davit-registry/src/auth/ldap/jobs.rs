//! Comparisons with directories as jobs: whoever asks for one does not wait for the directory, and one at a
//! time is under way for each, whether a person or the clock asked.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    store::{NoteSync, TakeSync, due},
    sync::{SyncError, SyncMode, SyncReport, sync},
};
use crate::{
    auth::Auth,
    db::{Connection, Database, DbError, Transaction, values},
    fault::in_words,
    jobs::{self, AddJob, Ending},
};

const KIND: &str = "ldap-sync";
/// How long a process that has died holds a comparison.
const LEASE: Duration = Duration::from_secs(60);

/// What `job.payload` says.
#[derive(Debug, Serialize, Deserialize)]
struct Task {
    directory: String,
    how: SyncMode,
}

/// The last comparison with a directory that was asked for.
#[derive(Clone, Debug)]
pub struct SyncJob {
    /// `waiting`, `running`, `done` or `failed`.
    pub state: String,
    /// How it compares.
    pub how: SyncMode,
    /// What came of it, or why nothing did; `None` until it has ended.
    pub outcome: Option<Result<SyncReport, String>>,
    /// When it was asked for, in milliseconds since 1970.
    pub asked_at: i64,
    /// When it ended.
    pub ended_at: Option<i64>,
}

/// Asks for a comparison, unless one waits or goes on.
struct Ask(Task);

impl Transaction for Ask {
    type Output = ();
    type Error = SyncError;

    async fn run(&self, connection: &mut Connection) -> Result<(), SyncError> {
        let Task { directory, .. } = &self.0;
        let known = "SELECT 1 FROM identity_provider WHERE name = $1 AND kind = 'ldap'";
        if connection.row(known, values![directory]).await?.is_none() {
            return Err(SyncError::Unknown(directory.clone()));
        }
        let running = "SELECT 1 FROM job WHERE kind = $1 AND key = $2 AND state = 'running'";
        if connection.row(running, values![KIND, directory]).await?.is_some() {
            return Ok(());
        }
        let old = "DELETE FROM job WHERE kind = $1 AND key = $2 AND state IN ('done', 'failed')";
        connection.execute(old, values![KIND, directory]).await?;
        let key = Some(directory.clone());
        let payload = json!(self.0).to_string();
        let add = AddJob { kind: KIND, key, payload, delay: Duration::ZERO };
        add.run(connection).await?;
        Ok(())
    }
}

/// The last comparison with a directory that was asked for, by a person or the clock.
///
/// # Errors
/// The database's.
pub async fn last_sync(database: &Database, directory: &str) -> Result<Option<SyncJob>, DbError> {
    let sql = "SELECT payload, state, result, created_at, finished_at FROM job
               WHERE kind = $1 AND key = $2 ORDER BY id DESC LIMIT 1";
    let row = database.reader().await?.row(sql, values![KIND, directory]).await?;
    let Some(row) = row else { return Ok(None) };
    let payload: String = row.get(0)?;
    let result: Option<String> = row.get(2)?;
    let outcome = result.map(|text| serde_json::from_str(&text).map_err(|_words| text));
    Ok(Some(SyncJob {
        state: row.get(1)?,
        how: serde_json::from_str::<Task>(&payload).map(|task| task.how).unwrap_or_default(),
        outcome,
        asked_at: row.get(3)?,
        ended_at: row.get(4)?,
    }))
}

/// Does the next comparison that was asked for; `false` where there is none.
async fn run_one(database: &Database) -> Result<bool, DbError> {
    let Some(mut job) = jobs::claim(database, KIND, LEASE).await? else { return Ok(false) };
    let Ok(task) = serde_json::from_str::<Task>(&job.payload) else {
        // What a later version wrote.
        jobs::end(database, &job, Ending::Failed("unknown task".to_owned())).await?;
        return Ok(true);
    };
    let outcome = {
        let mut work = std::pin::pin!(sync(database, &task.directory, task.how));
        loop {
            tokio::select! {
                outcome = &mut work => break outcome,
                () = tokio::time::sleep(LEASE / 3) => {
                    if !jobs::renew(database, &mut job, LEASE).await? {
                        // Another process has it by now.
                        return Ok(true);
                    }
                }
            }
        }
    };
    let ending = match &outcome {
        Ok(report) => Ending::Done(json!(report).to_string()),
        Err(error) => Ending::Failed(in_words(error)),
    };
    let (name, is_done) = (task.directory, outcome.is_ok());
    let told = outcome.map_or_else(|error| in_words(&error), |report| report.to_string());
    if is_done {
        tracing::info!(directory = name, told, "accounts were compared with a directory");
    } else {
        tracing::warn!(directory = name, told, "a directory was not compared");
    }
    if !task.how.dry_run {
        database.write(NoteSync { name, told, is_done }).await?;
    }
    jobs::end(database, &job, ending).await?;
    Ok(true)
}

impl Auth {
    /// Asks for a comparison with a directory, and tells of the one that is under way then: another, if that
    /// was asked for before.
    ///
    /// # Errors
    /// [`SyncError::Unknown`], or the database's.
    pub async fn start_sync(&self, directory: &str, how: SyncMode) -> Result<SyncJob, SyncError> {
        let unknown = || SyncError::Unknown(directory.to_owned());
        self.database().write(Ask(Task { directory: directory.to_owned(), how })).await?;
        let job = last_sync(self.database(), directory).await?;
        self.syncs.notify_one();
        job.ok_or_else(unknown)
    }

    /// Waits until somebody asks this server for a comparison.
    pub(crate) async fn sync_is_asked(&self) {
        self.syncs.notified().await;
    }

    /// Compares the directories whose time has come, or for which somebody has asked; one server of a
    /// database does it.
    ///
    /// # Errors
    /// The database's. What goes wrong with a directory is told in the log, and beside its settings.
    pub async fn sync_due(&self) -> Result<(), DbError> {
        let database = self.database();
        for (directory, source) in due(database).await? {
            let take = TakeSync { name: directory.clone(), every_ms: source.sync_every_ms() };
            if !database.write(take).await? {
                continue;
            }
            let asked = database.write(Ask(Task { directory, how: SyncMode::default() })).await;
            // Otherwise it was removed just now.
            if let Err(SyncError::Database(error)) = asked {
                return Err(error);
            }
        }
        while run_one(database).await? {}
        Ok(())
    }
}
