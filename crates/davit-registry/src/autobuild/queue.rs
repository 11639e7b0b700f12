//! What is to be built: from a revision and the rules to rows that wait.
//!
//! A revision that a rule has built, or is building, is not built again when it is told a second time
//! (a webhook that is sent twice, a poll after a webhook); a newer one takes the place of one that still
//! waits.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    AutobuildError,
    rules::{PathPattern, RefKind, Revision, Rule},
    source::{find, parsed, rules_of},
};
use crate::{
    auth::audit::{self, Actor, Entry},
    db::{Connection, DbError, Lock, Transaction, values},
};

/// Builds of one owner that may wait.
pub const WAITING: u64 = 30;
/// Builds of one repository that are remembered, with their logs.
const REMEMBERED: i64 = 200;

/// What a build does: its rule as it was when the build was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What the reference is.
    pub kind: RefKind,
    /// Branch or tag, or the branch of a pull request.
    pub name: String,
    /// Number of a pull request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// Tags, in which `{commit}` may stand.
    pub tags: Vec<String>,
    /// Directory of the context, from the top.
    pub context: String,
    /// The Dockerfile, from the top.
    pub dockerfile: String,
    /// Whether steps of earlier builds are used again.
    pub caching: bool,
    /// Platforms; none here: the worker's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<String>,
    /// Stage to build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Changes that matter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathPattern>,
    /// The commit of which the changes are looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// Days after which the tags go again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_days: Option<u32>,
    /// Whether somebody else's repository is built: without secrets.
    #[serde(default)]
    pub is_fork: bool,
}

/// Why something is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A webhook.
    Push,
    /// A look at the git repository.
    Poll,
    /// Somebody asked for it.
    Manual,
    /// Somebody asked for it again.
    Retry,
    /// A base image changed.
    Base,
}

impl Cause {
    /// The word in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Poll => "poll",
            Self::Manual => "manual",
            Self::Retry => "retry",
            Self::Base => "base",
        }
    }
}

/// What became of an announcement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Announced {
    /// Builds that wait now.
    pub queued: Vec<i64>,
    /// Builds that would have been one too many.
    pub discarded: u64,
}

/// Revisions that are new in a git repository.
#[derive(Clone, Debug)]
pub struct Announce {
    /// Row of the source.
    pub source: i64,
    /// What is new.
    pub revisions: Vec<Revision>,
    /// How it was learnt.
    pub cause: Cause,
    /// Who pushed, as the git host says.
    pub actor: String,
}

impl Transaction for Announce {
    type Output = Announced;
    type Error = AutobuildError;

    async fn run(&self, connection: &mut Connection) -> Result<Announced, AutobuildError> {
        // One at a time, or two tellers of the same push would not see each other.
        // The path of a deleted repository begins with `~`.
        let sql = "SELECT s.repo_id FROM build_source s WHERE s.id = $1 \
                   AND (SELECT r.path FROM repo r WHERE r.id = s.repo_id) < '~'";
        let rows = connection.rows_locked(sql, values![self.source], Lock::NoKeyUpdate).await?;
        let Some(row) = rows.first() else { return Ok(Announced::default()) };
        let (repo, mut announced) = (row.get(0)?, Announced::default());
        let rules = rules_of(connection, self.source).await?;
        let automatic = rules.iter().filter(|(_, rule)| rule.autobuild);
        for (id, rule) in automatic {
            for revision in &self.revisions {
                // A name that makes no tag is nobody's fault here.
                let Ok(Some(tags)) = rule.tags(revision) else { continue };
                let wanted = Wanted {
                    repo,
                    rule: (*id, rule),
                    revision,
                    tags,
                    cause: self.cause,
                    actor: &self.actor,
                };
                if wanted.is_known(connection).await? {
                    continue;
                }
                wanted.supersede(connection).await?;
                match wanted.insert(connection).await {
                    Ok(build) => announced.queued.push(build),
                    Err(AutobuildError::Full(..)) => announced.discarded += 1,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(announced)
    }
}

/// One build that a rule asks for.
struct Wanted<'a> {
    repo: i64,
    rule: (i64, &'a Rule),
    revision: &'a Revision,
    tags: Vec<String>,
    cause: Cause,
    actor: &'a str,
}

impl Wanted<'_> {
    /// Tells whether the newest build of this rule and reference is of this commit, and good.
    async fn is_known(&self, connection: &mut Connection) -> Result<bool, DbError> {
        let sql = "SELECT revision, state FROM build WHERE rule_id = $1 AND reference = $2 \
                   ORDER BY id DESC LIMIT 1";
        let row = connection.row(sql, values![self.rule.0, &self.revision.reference]).await?;
        let Some(row) = row else { return Ok(false) };
        let (revision, state): (Option<String>, String) = (row.get(0)?, row.get(1)?);
        let is_good = matches!(&*state, "waiting" | "running" | "done" | "skipped");
        Ok(is_good && revision.is_some() && revision == self.revision.commit)
    }

    async fn supersede(&self, connection: &mut Connection) -> Result<(), DbError> {
        let now = connection.now_ms();
        let sql = "UPDATE build SET state = 'cancelled', error = 'a newer push took its place', \
                   finished_at = $1 WHERE rule_id = $2 AND reference = $3 AND state = 'waiting'";
        connection.execute(sql, values![now, self.rule.0, &self.revision.reference]).await?;
        Ok(())
    }

    async fn insert(self, connection: &mut Connection) -> Result<i64, AutobuildError> {
        let plan = self.plan(connection).await?;
        let build = Row {
            repo: self.repo,
            rule: Some(self.rule.0),
            cause: self.cause,
            reference: &self.revision.reference,
            commit: self.revision.commit.as_deref(),
            plan: &json!(plan).to_string(),
            actor: self.actor,
        };
        build.insert(connection).await
    }

    async fn plan(&self, connection: &mut Connection) -> Result<Plan, DbError> {
        let (id, rule) = self.rule;
        let (context, dockerfile) = rule.places();
        // Who asks for a build by name wants it whatever has changed.
        let is_filtered = matches!(self.cause, Cause::Push | Cause::Poll);
        let paths = if is_filtered { rule.paths.clone() } else { Vec::new() };
        let sql = "SELECT revision FROM build WHERE rule_id = $1 AND reference = $2 \
                   AND state IN ('done', 'skipped') AND revision IS NOT NULL \
                   ORDER BY id DESC LIMIT 1";
        let row = connection.row(sql, values![id, &self.revision.reference]).await?;
        Ok(Plan {
            kind: self.revision.kind,
            name: self.revision.name.clone(),
            number: self.revision.number,
            tags: self.tags.clone(),
            context,
            dockerfile,
            caching: rule.caching,
            platforms: rule.platforms.clone(),
            target: rule.target.clone(),
            paths,
            previous: row.map(|row| row.get(0)).transpose()?,
            expires_days: rule.expires_days,
            is_fork: self.revision.is_fork,
        })
    }
}

/// A row that waits.
struct Row<'a> {
    repo: i64,
    rule: Option<i64>,
    cause: Cause,
    reference: &'a str,
    commit: Option<&'a str>,
    plan: &'a str,
    actor: &'a str,
}

impl Row<'_> {
    async fn insert(&self, connection: &mut Connection) -> Result<i64, AutobuildError> {
        let sql = "SELECT path, (SELECT COUNT(*) FROM build b JOIN repo q ON q.id = b.repo_id \
                   WHERE b.state = 'waiting' AND q.owner_id = r.owner_id) \
                   FROM repo r WHERE r.id = $1";
        let row = connection.row(sql, values![self.repo]).await?;
        let row = row.ok_or(DbError::Statement(sqlx::Error::RowNotFound))?;
        if row.get::<u64>(1)? >= WAITING {
            return Err(AutobuildError::Full(WAITING, row.get(0)?));
        }
        let now = connection.now_ms();
        let sql = "INSERT INTO build (repo_id, rule_id, state, cause, reference, revision, plan, \
                   actor, created_at) VALUES ($1, $2, 'waiting', $3, $4, $5, $6, $7, $8) \
                   RETURNING id";
        let row = values![
            self.repo,
            self.rule,
            self.cause.as_str(),
            self.reference,
            self.commit,
            self.plan,
            self.actor,
            now
        ];
        let row = connection.row(sql, row).await?;
        let id = row.ok_or(DbError::Statement(sqlx::Error::RowNotFound))?.get(0)?;
        let sql = "DELETE FROM build WHERE repo_id = $1 AND state NOT IN ('waiting', 'running') \
                   AND id NOT IN (SELECT id FROM build WHERE repo_id = $1 ORDER BY id DESC LIMIT $2)";
        connection.execute(sql, values![self.repo, REMEMBERED]).await?;
        Ok(id)
    }
}

/// Builds of a branch, tag or commit that somebody asks for; tells their numbers.
#[derive(Clone, Debug)]
pub struct RunBuild {
    /// Who asks.
    pub by: Actor,
    /// The repository.
    pub path: String,
    /// What to build.
    pub revision: Revision,
    /// One rule; `None`: all that speak of it, whether they build by themselves or not.
    pub rule: Option<i64>,
}

impl Transaction for RunBuild {
    type Output = Vec<i64>;
    type Error = AutobuildError;

    async fn run(&self, connection: &mut Connection) -> Result<Vec<i64>, AutobuildError> {
        let (source, repo) = find(connection, &self.path).await?;
        let mut queued = Vec::new();
        for (id, rule) in rules_of(connection, source).await? {
            if self.rule.is_some_and(|wanted| wanted != id) {
                continue;
            }
            let Some(tags) = rule.tags(&self.revision)? else { continue };
            let (cause, actor) = (Cause::Manual, &*self.by.name);
            let (rule, revision) = ((id, &rule), &self.revision);
            let wanted = Wanted { repo, rule, revision, tags, cause, actor };
            queued.push(wanted.insert(connection).await?);
        }
        if queued.is_empty() {
            let what = format!("`{}`", self.revision.reference);
            return Err(AutobuildError::NoRule(self.path.clone(), what));
        }
        let detail = json!({ "builds": queued }).to_string();
        let entry = Entry { action: "build.run", object: &self.path, detail: &detail };
        audit::append(connection, &self.by, entry).await?;
        Ok(queued)
    }
}

/// Does again what a build that has ended did: the same commit by the same plan; tells the new number.
#[derive(Clone, Debug)]
pub struct RetryBuild {
    /// Who asks.
    pub by: Actor,
    /// The build.
    pub id: i64,
}

impl Transaction for RetryBuild {
    type Output = i64;
    type Error = AutobuildError;

    async fn run(&self, connection: &mut Connection) -> Result<i64, AutobuildError> {
        let sql = "SELECT b.repo_id, b.rule_id, b.state, b.reference, b.revision, b.plan, r.path \
                   FROM build b JOIN repo r ON r.id = b.repo_id WHERE b.id = $1";
        let row = connection.row(sql, values![self.id]).await?;
        let row = row.ok_or_else(|| AutobuildError::Unknown("build", self.id.to_string()))?;
        let state: String = row.get(2)?;
        if matches!(&*state, "waiting" | "running") {
            return Err(AutobuildError::Ended(self.id, state));
        }
        let path: String = row.get(6)?;
        find(connection, &path).await?;
        let mut plan: Plan = parsed(self.id, &row.get::<String>(5)?)?;
        plan.paths.clear();
        let (reference, commit) = (row.get::<String>(3)?, row.get::<Option<String>>(4)?);
        let build = Row {
            repo: row.get(0)?,
            rule: row.get(1)?,
            cause: Cause::Retry,
            reference: &reference,
            commit: commit.as_deref(),
            plan: &json!(plan).to_string(),
            actor: &self.by.name,
        };
        let id = build.insert(connection).await?;
        let detail = json!({ "build": id, "of": self.id }).to_string();
        let entry = Entry { action: "build.retry", object: &path, detail: &detail };
        audit::append(connection, &self.by, entry).await?;
        Ok(id)
    }
}

/// Ends a build: at once if it waits, else its worker stops it.
#[derive(Clone, Debug)]
pub struct CancelBuild {
    /// Who ends it.
    pub by: Actor,
    /// The build.
    pub id: i64,
}

impl Transaction for CancelBuild {
    type Output = ();
    type Error = AutobuildError;

    async fn run(&self, connection: &mut Connection) -> Result<(), AutobuildError> {
        let sql = "SELECT state, repo_id FROM build WHERE id = $1";
        let rows = connection.rows_locked(sql, values![self.id], Lock::NoKeyUpdate).await?;
        let row = rows.first();
        let row = row.ok_or_else(|| AutobuildError::Unknown("build", self.id.to_string()))?;
        let (state, repo): (String, i64) = (row.get(0)?, row.get(1)?);
        let now = connection.now_ms();
        let by = format!("cancelled by {}", self.by.name);
        match &*state {
            "waiting" => {
                let sql = "UPDATE build SET state = 'cancelled', error = $1, finished_at = $2 \
                           WHERE id = $3";
                connection.execute(sql, values![by, now, self.id]).await?;
            }
            "running" => {
                let sql = "UPDATE build SET is_cancelled = 1, error = $1 WHERE id = $2";
                connection.execute(sql, values![by, self.id]).await?;
            }
            _ => return Err(AutobuildError::Ended(self.id, state)),
        }
        let row = connection.row("SELECT path FROM repo WHERE id = $1", values![repo]).await?;
        let path: String = row.map_or(Ok(String::new()), |row| row.get(0))?;
        let detail = json!({ "build": self.id }).to_string();
        let entry = Entry { action: "build.cancel", object: &path, detail: &detail };
        Ok(audit::append(connection, &self.by, entry).await?)
    }
}

/// Builds what a changed base image is part of, once for each change; tells what it was.
pub(super) struct Rebuild {
    pub(super) rule: i64,
    pub(super) reference: String,
    pub(super) image: String,
    /// The digest that was known, and that there is now.
    pub(super) digests: (String, String),
}

impl Transaction for Rebuild {
    type Output = Option<i64>;
    type Error = AutobuildError;

    async fn run(&self, connection: &mut Connection) -> Result<Option<i64>, AutobuildError> {
        // Whoever noted the change builds; another watcher finds it noted.
        let sql = "UPDATE build_base SET digest = $1 WHERE rule_id = $2 AND reference = $3 \
                   AND image = $4 AND digest = $5";
        let (old, new) = &self.digests;
        let changed = values![new, self.rule, &self.reference, &self.image, old];
        if connection.execute(sql, changed).await? == 0 {
            return Ok(None);
        }
        let sql = "SELECT s.repo_id, u.rule, b.plan FROM build_rule u \
                   JOIN build_source s ON s.id = u.source_id \
                   JOIN build b ON b.rule_id = u.id AND b.reference = $2 AND b.state = 'done' \
                   WHERE u.id = $1 ORDER BY b.id DESC LIMIT 1";
        let row = connection.row(sql, values![self.rule, &self.reference]).await?;
        let Some(row) = row else { return Ok(None) };
        let rule: Rule = parsed(self.rule, &row.get::<String>(1)?)?;
        let plan: Plan = parsed(self.rule, &row.get::<String>(2)?)?;
        let revision = Revision {
            kind: plan.kind,
            name: plan.name,
            reference: self.reference.clone(),
            commit: None,
            number: plan.number,
            is_fork: false,
        };
        let Some(tags) = rule.tags(&revision)?.filter(|_| rule.rebuild) else { return Ok(None) };
        let actor = format!("{} is {new} now", self.image);
        let wanted = Wanted {
            repo: row.get(0)?,
            rule: (self.rule, &rule),
            revision: &revision,
            tags,
            cause: Cause::Base,
            actor: &actor,
        };
        wanted.supersede(connection).await?;
        wanted.insert(connection).await.map(Some)
    }
}
