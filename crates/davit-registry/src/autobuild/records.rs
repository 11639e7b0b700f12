//! Builds as they are listed and shown, and their logs.

use super::{AutobuildError, claim::Report, queue::Plan, rules::with_commit, source::parsed};
use crate::db::{Database, Row, values};

/// Pieces of a log that are read at once.
const PIECES: i64 = 64;

/// A build as it is shown.
#[derive(Clone, Debug)]
pub struct BuildRow {
    /// Its number.
    pub id: i64,
    /// The repository.
    pub path: String,
    /// `waiting`, `running`, `done`, `failed`, `cancelled` or `skipped`.
    pub state: String,
    /// `push`, `poll`, `manual`, `retry` or `base`.
    pub cause: String,
    /// What git fetches.
    pub reference: String,
    /// The commit, once it is known.
    pub commit: Option<String>,
    /// What it does; tags have the commit in them, once it is known.
    pub plan: Plan,
    /// Who pushed or asked, or what changed.
    pub actor: String,
    /// Milliseconds since 1970.
    pub created_at: i64,
    /// When its last attempt began.
    pub started_at: Option<i64>,
    /// When it ended.
    pub finished_at: Option<i64>,
    /// The manifest that was pushed.
    pub digest: Option<String>,
    /// Why it failed or was ended.
    pub error: Option<String>,
    /// What came of it.
    pub report: Option<Report>,
    /// How often it was begun.
    pub attempts: i64,
    /// Bytes of its log.
    pub log_bytes: i64,
}

impl BuildRow {
    /// Tells whether nothing happens any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        !matches!(&*self.state, "waiting" | "running")
    }

    fn read(row: &Row) -> Result<Self, AutobuildError> {
        let id = row.get(0)?;
        let report = row.get::<Option<String>>(13)?;
        let commit: Option<String> = row.get(5)?;
        let mut plan: Plan = parsed(id, &row.get::<String>(6)?)?;
        if let Some(commit) = &commit {
            for tag in &mut plan.tags {
                // What can be no tag failed by it, and is told as it stands.
                if let Ok(whole) = with_commit(tag, commit) {
                    *tag = whole.to_string();
                }
            }
        }
        Ok(Self {
            id,
            path: row.get(1)?,
            state: row.get(2)?,
            cause: row.get(3)?,
            reference: row.get(4)?,
            commit,
            plan,
            actor: row.get(7)?,
            created_at: row.get(8)?,
            started_at: row.get(9)?,
            finished_at: row.get(10)?,
            digest: row.get(11)?,
            error: row.get(12)?,
            report: report.map(|text| parsed(id, &text)).transpose()?,
            attempts: row.get(14)?,
            log_bytes: row.get(15)?,
        })
    }
}

/// Builds, the newest first: of one repository or of all that are not deleted, before this number.
///
/// # Errors
/// The database's, or a row that cannot be read.
pub async fn builds(
    database: &Database,
    path: Option<&str>,
    before: Option<i64>,
    most: u32,
) -> Result<Vec<BuildRow>, AutobuildError> {
    let mut reader = database.reader().await?;
    let sql = "SELECT b.id, r.path, b.state, b.cause, b.reference, b.revision, b.plan, b.actor, \
               b.created_at, b.started_at, b.finished_at, b.digest, b.error, b.report, b.attempts, \
               b.log_bytes FROM build b JOIN repo r ON r.id = b.repo_id \
               WHERE ($1 = '' OR r.path = $1) AND b.id < $2 AND r.path < '~' ORDER BY b.id DESC LIMIT $3";
    let values = values![path.unwrap_or_default(), before.unwrap_or(i64::MAX), most];
    reader.rows(sql, values).await?.iter().map(BuildRow::read).collect()
}

/// One build.
///
/// # Errors
/// There is none, the database's, or a row that cannot be read.
pub async fn build(database: &Database, id: i64) -> Result<BuildRow, AutobuildError> {
    let unknown = || AutobuildError::Unknown("build", id.to_string());
    let before = id.checked_add(1).ok_or_else(unknown)?;
    let found = builds(database, None, Some(before), 1).await?;
    found.into_iter().find(|build| build.id == id).ok_or_else(unknown)
}

/// What a log holds from this place on, as far as one reading goes; empty where there is no more yet.
///
/// # Errors
/// The database's.
pub async fn log(database: &Database, id: i64, from: i64) -> Result<Vec<u8>, AutobuildError> {
    let mut reader = database.reader().await?;
    // The piece that begins before the place may hold it.
    let sql = "SELECT position, content FROM build_log WHERE build_id = $1 AND position >= \
               COALESCE((SELECT MAX(position) FROM build_log WHERE build_id = $1 \
               AND position <= $2), 0) ORDER BY position LIMIT $3";
    let mut log = Vec::new();
    for row in reader.rows(sql, values![id, from, PIECES]).await? {
        let (position, content): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let passed = usize::try_from(from - position).unwrap_or(0).min(content.len());
        log.extend_from_slice(&content[passed..]);
    }
    Ok(log)
}
