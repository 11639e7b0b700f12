//! A worker's hold on a build: taken with a lease, renewed with each piece of log, given back at the end.
//!
//! Every statement names worker and attempt: who lost the build to another worker changes nothing.

use std::time::Duration;

use davit_distribution::{Secret, wire::Scope};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    AutobuildError,
    queue::Plan,
    source::{Credential, SourceSettings, Variable, parsed, variables_of},
};
use crate::{
    auth::{
        AccountError, AddToken, OpaqueKind, OpaqueToken, Role,
        accounts::{AddAccount, Kind, RevokeToken, SetGrant, Subject},
        audit::Actor,
    },
    db::{Connection, Database, DbError, Lock, Row, Transaction, ms, values},
};

/// How often a build is taken whose workers are lost: what kills three of them kills the next, too.
pub const ATTEMPTS: i64 = 3;
/// Name of the robot that pushes for an account.
const ROBOT: &str = "builds";
const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// How soon a base image of another registry is looked at again.
const LOOK_MS: i64 = 60 * 60 * 1000;

/// Tells whether there is anything to take, without the lock of a change.
///
/// # Errors
/// The database's.
pub(super) async fn is_due(database: &Database) -> Result<bool, DbError> {
    let mut reader = database.reader().await?;
    let sql = "SELECT id FROM build WHERE state = 'waiting' \
               OR (state = 'running' AND lease_until < $1) LIMIT 1";
    let now = reader.now_ms();
    Ok(reader.row(sql, values![now]).await?.is_some())
}

/// Takes the next build, if one may run.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Name of the worker: another one for each process.
    pub worker: String,
    /// How long the hold lasts without being renewed.
    pub lease: Duration,
    /// Builds of one owner that may run at a time.
    pub per_account: u64,
    /// What the build will push with; told if a build was taken.
    pub token: OpaqueToken,
    /// How long the token is good at most.
    pub token_life: Duration,
}

/// A build that was taken.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The hold.
    pub hold: Hold,
    /// The repository.
    pub path: String,
    /// What git fetches.
    pub reference: String,
    /// The commit, if it is known.
    pub commit: Option<String>,
    /// What to do.
    pub plan: Plan,
    /// Address of the git repository.
    pub url: String,
    /// What gives access to it.
    pub credential: Option<Credential>,
    /// What the source says.
    pub settings: SourceSettings,
    /// Variables; secret ones only where the repository that is built is the owner's.
    pub variables: Vec<Variable>,
    /// Name for the registry, and the token.
    pub login: (String, Secret),
    /// Bytes that its log has from earlier attempts.
    pub log_bytes: i64,
}

/// What tells a worker's hold from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The build.
    pub build: i64,
    /// Number of the attempt, from 1.
    pub attempt: i64,
    /// The worker.
    pub worker: String,
}

impl Transaction for Claim {
    type Output = Option<Claimed>;
    type Error = AutobuildError;

    async fn run(&self, connection: &mut Connection) -> Result<Option<Claimed>, AutobuildError> {
        let now = connection.now_ms();
        end_lost(connection).await?;
        // What was lost comes before what waits.
        let sql = "SELECT b.id FROM build b WHERE (b.state = 'waiting' \
                   OR (b.state = 'running' AND b.lease_until < $1)) AND (SELECT COUNT(*) \
                   FROM build o JOIN repo q ON q.id = o.repo_id \
                   WHERE o.state = 'running' AND o.lease_until >= $1 AND q.owner_id = \
                   (SELECT owner_id FROM repo WHERE id = b.repo_id)) < $2 \
                   ORDER BY b.state, b.id LIMIT 1";
        let values = values![now, self.per_account];
        let rows = connection.rows_locked(sql, values, Lock::UpdateSkipLocked).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let id: i64 = row.get(0)?;
        if !self.may_run(connection, id).await? {
            return Ok(None);
        }
        let sql = "UPDATE build SET state = 'running', worker = $1, attempts = attempts + 1, \
                   lease_until = $2, started_at = $3 WHERE id = $4 \
                   RETURNING attempts, token_id, repo_id, reference, revision, plan, log_bytes";
        let taken = values![&self.worker, now + ms(self.lease), now, id];
        let row = connection.row(sql, taken).await?;
        let row = row.ok_or(DbError::Statement(sqlx::Error::RowNotFound))?;
        match self.claimed(connection, id, &row).await {
            Ok(claimed) => Ok(Some(claimed)),
            Err(AutobuildError::Database(error)) => Err(error.into()),
            Err(AutobuildError::Account(AccountError::Database(error))) => Err(error.into()),
            // What cannot be built must not stand in the way of others.
            Err(error) => {
                end(connection, id, ("failed", Some(&error.to_string()))).await?;
                Ok(None)
            }
        }
    }
}

impl Claim {
    /// Counts again while nobody else takes a build of the same owner.
    async fn may_run(&self, connection: &mut Connection, id: i64) -> Result<bool, DbError> {
        let sql = "SELECT id FROM account WHERE id = \
                   (SELECT owner_id FROM repo WHERE id = (SELECT repo_id FROM build WHERE id = $1))";
        let rows = connection.rows_locked(sql, values![id], Lock::NoKeyUpdate).await?;
        let Some(row) = rows.first() else { return Ok(true) };
        let sql = "SELECT COUNT(*) FROM build b JOIN repo r ON r.id = b.repo_id \
                   WHERE b.state = 'running' AND b.lease_until >= $1 AND r.owner_id = $2";
        let now = connection.now_ms();
        let running = connection.row(sql, values![now, row.get::<i64>(0)?]).await?;
        Ok(running.map_or(Ok(0), |row| row.get::<u64>(0))? < self.per_account)
    }

    async fn claimed(
        &self,
        connection: &mut Connection,
        build: i64,
        row: &Row,
    ) -> Result<Claimed, AutobuildError> {
        let sql = "SELECT r.path, s.id, s.url, s.credential, s.settings FROM repo r \
                   JOIN build_source s ON s.repo_id = r.id WHERE r.id = $1";
        let source = connection.row(sql, values![row.get::<i64>(2)?]).await?;
        let source =
            source.ok_or_else(|| AutobuildError::Unknown("source of", build.to_string()))?;
        let (path, source_id): (String, i64) = (source.get(0)?, source.get(1)?);
        let settings: SourceSettings = parsed(source_id, &source.get::<String>(4)?)?;
        let plan: Plan = parsed(build, &row.get::<String>(5)?)?;
        let robot = robot(connection, &path).await?;
        revoke(connection, &robot, row.get(1)?).await?;
        // Who sends pull requests is not to read what else the owner has.
        let pulls: &[String] = if plan.is_fork { &[] } else { &settings.pulls };
        let token = self.add_token(connection, (&robot, &path), pulls).await?;
        let sql = "UPDATE build SET token_id = $1 WHERE id = $2";
        connection.execute(sql, values![token, build]).await?;
        let mut variables = variables_of(connection, source_id).await?;
        variables.retain(|variable| !(plan.is_fork && variable.is_secret));
        let credential = source.get::<Option<String>>(3)?;
        Ok(Claimed {
            hold: Hold { build, attempt: row.get(0)?, worker: self.worker.clone() },
            path,
            reference: row.get(3)?,
            commit: row.get(4)?,
            plan,
            url: source.get(2)?,
            credential: credential.as_deref().and_then(Credential::of_row),
            settings,
            variables,
            login: (robot, self.token.secret().clone()),
            log_bytes: row.get(6)?,
        })
    }

    /// A token that is good for this repository, and for pulls of what the source names.
    async fn add_token(
        &self,
        connection: &mut Connection,
        (robot, path): (&str, &str),
        pulls: &[String],
    ) -> Result<i64, AutobuildError> {
        let pulls = pulls.iter().map(|pattern| (pattern.as_str(), Role::Pull));
        let mut scopes = Vec::new();
        for (pattern, role) in std::iter::once((path, Role::Push)).chain(pulls) {
            grant(connection, robot, pattern, role).await?;
            let words: Vec<String> = role.rights().words().into_iter().collect();
            let scope = format!("repository:{pattern}:{}", words.join(","));
            // Patterns were read when they were set.
            scopes.extend(scope.parse::<Scope>());
        }
        let add = AddToken {
            by: actor(),
            account: robot.to_owned(),
            kind: OpaqueKind::Robot,
            name: format!("build of {path}"),
            hash: self.token.hash(),
            scopes,
            life_ms: Some(ms(self.token_life)),
        };
        Ok(add.run(connection).await?)
    }
}

fn actor() -> Actor {
    Actor { id: None, name: "builds".to_owned(), address: None }
}

/// The robot of the repository's owner, made at its first build.
async fn robot(connection: &mut Connection, path: &str) -> Result<String, AutobuildError> {
    let owner = path.split_once('/').map(|(owner, _)| owner);
    let owner = owner.ok_or_else(|| AutobuildError::NoOwner(path.to_owned()))?;
    let name = format!("{owner}+{ROBOT}");
    let sql = "SELECT id FROM account WHERE name = $1";
    if connection.row(sql, values![&name]).await?.is_none() {
        let kind = Kind::Robot;
        let add =
            AddAccount { by: actor(), name: name.clone(), kind, password: None, is_admin: false };
        add.run(connection).await?;
    }
    Ok(name)
}

/// Gives the robot a role, if it lacks it.
async fn grant(
    connection: &mut Connection,
    robot: &str,
    pattern: &str,
    role: Role,
) -> Result<(), AutobuildError> {
    let sql = "SELECT g.id FROM access_grant g JOIN account a ON a.id = g.subject_id \
               WHERE g.subject_kind = 'account' AND a.name = $1 AND g.repo_glob = $2 \
               AND g.role IN ($3, 'push')";
    if connection.row(sql, values![robot, pattern, role.as_str()]).await?.is_some() {
        return Ok(());
    }
    let subject = Subject::Account(robot.to_owned());
    let (by, glob) = (actor(), pattern.parse()?);
    let set = SetGrant { by, subject, glob, role: Some(role), is_adding_only: false };
    Ok(set.run(connection).await?)
}

async fn revoke(
    connection: &mut Connection,
    robot: &str,
    token: Option<i64>,
) -> Result<(), AutobuildError> {
    let Some(id) = token else { return Ok(()) };
    let revoke = RevokeToken { by: actor(), account: robot.to_owned(), id };
    match revoke.run(connection).await {
        // Somebody else has revoked it.
        Ok(()) | Err(AccountError::Unknown(..)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Ends what was cancelled, or tried often enough, when its worker was lost.
async fn end_lost(connection: &mut Connection) -> Result<(), AutobuildError> {
    let now = connection.now_ms();
    let sql = "SELECT id, is_cancelled FROM build WHERE state = 'running' AND lease_until < $1 \
               AND (is_cancelled = 1 OR attempts >= $2) LIMIT 10";
    let values = values![now, ATTEMPTS];
    for row in connection.rows_locked(sql, values, Lock::UpdateSkipLocked).await? {
        let id = row.get(0)?;
        let (state, error) = match row.get::<bool>(1)? {
            true => ("cancelled", None),
            false => ("failed", Some("its workers were lost, each time")),
        };
        end(connection, id, (state, error)).await?;
    }
    Ok(())
}

/// Sets the last state, and revokes the token.
async fn end(
    connection: &mut Connection,
    build: i64,
    (state, error): (&str, Option<&str>),
) -> Result<(), AutobuildError> {
    let now = connection.now_ms();
    let sql = "UPDATE build SET state = $1, error = COALESCE(error, $2), finished_at = $3, \
               lease_until = 0 WHERE id = $4 RETURNING token_id, repo_id";
    let row = connection.row(sql, values![state, error, now, build]).await?;
    let Some(row) = row else { return Ok(()) };
    let (token, repo): (Option<i64>, i64) = (row.get(0)?, row.get(1)?);
    let row = connection.row("SELECT path FROM repo WHERE id = $1", values![repo]).await?;
    let path: String = row.map_or(Ok(String::new()), |row| row.get(0))?;
    let robot = path.split_once('/').map(|(owner, _)| format!("{owner}+{ROBOT}"));
    revoke(connection, &robot.unwrap_or_default(), token).await
}

/// Whether a worker goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    Go,
    /// Somebody asked for the end.
    Cancelled,
    /// The build is another worker's, or gone.
    Lost,
}

/// Writes a piece of the log, and renews the lease.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The hold.
    pub hold: Hold,
    /// Place of the piece in the log.
    pub position: i64,
    /// The piece; nothing only renews.
    pub content: Vec<u8>,
    /// How long the hold lasts from now on.
    pub lease: Duration,
}

impl Transaction for Progress {
    type Output = Standing;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<Standing, DbError> {
        let end = self.position + i64::try_from(self.content.len()).unwrap_or(0);
        let lease = connection.now_ms() + ms(self.lease);
        let sql = "UPDATE build SET lease_until = $1, log_bytes = $2 WHERE id = $3 \
                   AND worker = $4 AND attempts = $5 AND state = 'running' RETURNING is_cancelled";
        let Hold { build, attempt, worker } = &self.hold;
        let row = connection.row(sql, values![lease, end, *build, worker, *attempt]).await?;
        let Some(row) = row else { return Ok(Standing::Lost) };
        if !self.content.is_empty() {
            let sql = "INSERT INTO build_log (build_id, position, content) VALUES ($1, $2, $3)";
            connection.execute(sql, values![*build, self.position, self.content.clone()]).await?;
        }
        Ok(if row.get(0)? { Standing::Cancelled } else { Standing::Go })
    }
}

/// What came of a build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The commit.
    pub commit: Option<String>,
    /// First line of its message.
    #[serde(default)]
    pub message: String,
    /// Tags that were pushed.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Images that it began with: name and digest.
    #[serde(default)]
    pub bases: Vec<(String, String)>,
    /// Milliseconds of each phase, in order.
    #[serde(default)]
    pub phases: Vec<(String, u64)>,
    /// Why nothing was built, or what went wrong.
    #[serde(default)]
    pub reason: Option<String>,
}

/// How a build ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Its image was pushed.
    Done,
    /// No change mattered.
    Skipped,
    /// Something went wrong.
    Failed,
    /// Somebody ended it.
    Cancelled,
    /// The worker ends, and somebody else is to take it.
    Released,
}

/// Gives a build back; tells whether it was still held.
#[derive(Clone, Debug)]
pub struct Finish {
    /// The hold.
    pub hold: Hold,
    /// How it ended.
    pub outcome: Outcome,
    /// What came of it.
    pub report: Report,
    /// How images are called that this registry has: `HOST:PORT/`.
    pub own: String,
}

impl Transaction for Finish {
    type Output = bool;
    type Error = AutobuildError;

    async fn run(&self, connection: &mut Connection) -> Result<bool, AutobuildError> {
        let Hold { build, attempt, worker } = &self.hold;
        let sql = "SELECT repo_id, rule_id, reference, plan FROM build WHERE id = $1 \
                   AND worker = $2 AND attempts = $3 AND state = 'running'";
        let values = values![*build, worker, *attempt];
        let rows = connection.rows_locked(sql, values, Lock::NoKeyUpdate).await?;
        let Some(row) = rows.first() else { return Ok(false) };
        let state = match self.outcome {
            Outcome::Done => "done",
            Outcome::Skipped => "skipped",
            Outcome::Failed => "failed",
            Outcome::Cancelled => "cancelled",
            Outcome::Released => {
                end(connection, *build, ("waiting", None)).await?;
                // The attempt did not count: nothing went wrong.
                let sql = "UPDATE build SET attempts = attempts - 1, finished_at = NULL, \
                           token_id = NULL, worker = NULL WHERE id = $1";
                connection.execute(sql, values![*build]).await?;
                return Ok(true);
            }
        };
        end(connection, *build, (state, self.report.reason.as_deref())).await?;
        let sql = "UPDATE build SET revision = COALESCE($1, revision), report = $2, \
                   token_id = NULL WHERE id = $3";
        let report = json!(self.report).to_string();
        connection.execute(sql, values![self.report.commit.clone(), report, *build]).await?;
        if self.outcome == Outcome::Done {
            let (repo, reference) = (row.get(0)?, row.get::<String>(2)?);
            let plan: Plan = parsed(*build, &row.get::<String>(3)?)?;
            self.note_tags(connection, repo, (&reference, &plan)).await?;
            if let Some(rule) = row.get::<Option<i64>>(1)? {
                self.note_bases(connection, rule, &reference).await?;
            }
        }
        Ok(true)
    }
}

impl Finish {
    /// Notes the digest, and when the tags go again.
    async fn note_tags(
        &self,
        connection: &mut Connection,
        repo: i64,
        (reference, plan): (&str, &Plan),
    ) -> Result<(), DbError> {
        let end = connection.now_ms() + i64::from(plan.expires_days.unwrap_or(0)) * DAY_MS;
        for tag in &self.report.tags {
            let sql = "SELECT m.digest FROM tag t JOIN manifest m ON m.id = t.manifest_id \
                       WHERE t.repo_id = $1 AND t.name = $2";
            let Some(row) = connection.row(sql, values![repo, tag]).await? else { continue };
            let digest: String = row.get(0)?;
            let sql = "UPDATE build SET digest = $1 WHERE id = $2";
            connection.execute(sql, values![&digest, self.hold.build]).await?;
            let sql = "DELETE FROM build_expiry WHERE repo_id = $1 AND tag = $2";
            connection.execute(sql, values![repo, tag]).await?;
            if plan.expires_days.is_some() {
                let sql = "INSERT INTO build_expiry (repo_id, tag, reference, digest, expires_at) \
                           VALUES ($1, $2, $3, $4, $5)";
                connection.execute(sql, values![repo, tag, reference, &digest, end]).await?;
            }
        }
        Ok(())
    }

    async fn note_bases(
        &self,
        connection: &mut Connection,
        rule: i64,
        reference: &str,
    ) -> Result<(), DbError> {
        let sql = "DELETE FROM build_base WHERE rule_id = $1 AND reference = $2";
        connection.execute(sql, values![rule, reference]).await?;
        let look = connection.now_ms() + LOOK_MS;
        for (image, digest) in &self.report.bases {
            let own = image.strip_prefix(&*self.own).and_then(|name| name.rsplit_once(':'));
            let sql = "INSERT INTO build_base (rule_id, reference, image, digest, path, tag, look_at) \
                       VALUES ($1, $2, $3, $4, $5, $6, $7) \
                       ON CONFLICT (rule_id, reference, image) DO NOTHING";
            let (path, tag) = (own.map(|(path, _)| path), own.map(|(_, tag)| tag));
            let row = values![rule, reference, image, digest, path, tag, look];
            connection.execute(sql, row).await?;
        }
        Ok(())
    }
}
