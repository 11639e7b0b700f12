//! Replication: images go to another registry as they are pushed here, or come from it by the clock.
//!
//! A rule is a [`Subscription`](crate::events::Subscription) of its kind. What is to be done is a job
//! ([`crate::jobs`]): of one image that was pushed, or of all that a rule means. Any process on the
//! database takes jobs; one that dies leaves its job to the next, which passes over what is there
//! already: manifests and blobs that the other side has are asked for by HEAD, and sent never twice.
//! Blobs that it has elsewhere are mounted.
//!
//! A job says which image, and not what to do with it: the other side is made to be as this one is when
//! the job is done. So an image that was deleted meanwhile is not copied, and a rule with deletions
//! deletes it there.

use std::{sync::Arc, time::Duration};

use davit_distribution::{
    Access, Client, ClientConfig, Credential, RegistryConfig, Secret, Session,
};
use davit_image::{Digest, Repository, Tag};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    bandwidth::Bandwidth,
    db::{Connection, Database, DbError, Transaction, ms, values},
    events::{Subscription, SubscriptionError, SubscriptionKind, find, subscriptions},
    fault::{Fault, in_words},
    jobs::{self, AddJob, Ending, Job},
    name::RepositoryName,
    registry::Registry,
};

mod manage;
mod pull;
mod push;
mod source;

pub use manage::{NewRule, NewRuleError, add, remove};

/// Kind of these jobs.
const KIND: &str = "replicate";
/// How long a process holds a job without a sign of life.
const LEASE: Duration = Duration::from_secs(90);
/// How often a server looks for jobs.
const LOOK: Duration = Duration::from_secs(1);
/// Tries of a job.
const TRIES: i64 = 8;
/// Wait after the first failure; it doubles.
const FIRST_WAIT: Duration = Duration::from_secs(10);
/// Shortest time between two runs by the clock.
pub const SHORTEST_INTERVAL: Duration = Duration::from_secs(60);

/// Which way images go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// To the other registry, when they are pushed here.
    Push,
    /// From the other registry, by the clock.
    Pull,
}

/// Settings of a rule, in `subscription.settings`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RuleSettings {
    /// Which way.
    pub direction: Direction,
    /// The other registry: `HOST[:PORT]`, as references write it.
    pub registry: String,
    /// What the names of repositories get in front: there when pushing, here when pulling.
    #[serde(default)]
    pub prefix: String,
    /// Whether it may speak plain HTTP or show a certificate that does not verify.
    #[serde(default)]
    pub insecure: bool,
    /// The account there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<(String, Secret)>,
    /// How often it runs by the clock, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_seconds: Option<u64>,
    /// Whether what is deleted where images come from is deleted where they go to.
    #[serde(default)]
    pub deletions: bool,
    /// How many bytes of blobs a second a server may send or fetch for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
}

/// What a job is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Task {
    rule: String,
    /// One image; else all that the rule means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<(String, Reference)>,
}

/// What names an image in its repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reference {
    Tag(String),
    Digest(String),
}

/// What came of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Images that were copied.
    pub copied: u64,
    /// Images that were there.
    pub same: u64,
    /// Tags and manifests that were deleted.
    pub deleted: u64,
    /// Images that could not be copied.
    pub failed: u64,
    /// Bytes of blobs that crossed the network.
    pub sent_bytes: u64,
    /// Why the first one that failed did.
    pub error: Option<String>,
}

/// Why a job failed.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationError {
    /// The other registry.
    #[error(transparent)]
    Client(#[from] davit_distribution::Error),
    /// This one.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The database.
    #[error(transparent)]
    Database(#[from] DbError),
    /// The rule.
    #[error(transparent)]
    Rule(#[from] SubscriptionError),
    /// The rule's settings, or a name that they make.
    #[error("the rule {0} cannot be followed: {1}")]
    Settings(String, String),
}

/// A rule that is followed.
struct Rule {
    subscription: Subscription,
    settings: RuleSettings,
    client: Client,
    bandwidth: Bandwidth,
}

impl RuleSettings {
    /// Reads the settings of a subscription; `None` if a later version wrote them.
    #[must_use]
    pub fn of(subscription: &Subscription) -> Option<Self> {
        serde_json::from_str(subscription.settings.expose()).ok()
    }

    /// What is kept of them.
    #[must_use]
    pub fn to_json(&self) -> Secret {
        // Only maps with keys that are no strings fail, and settings have none.
        Secret::new(serde_json::to_string(self).unwrap_or_default())
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { copied, same, deleted, failed, sent_bytes, error } = self;
        write!(f, "{copied} copied ({sent_bytes} bytes), {same} there already, {failed} failed")?;
        if *deleted > 0 {
            write!(f, ", {deleted} deleted")?;
        }
        error.as_ref().map_or(Ok(()), |error| write!(f, ": {error}"))
    }
}

impl Report {
    /// Counts what came of one image.
    fn count(&mut self, outcome: Result<Copied, ReplicationError>, what: &str) {
        match outcome {
            Ok(Copied { is_new: true, sent_bytes }) => {
                self.copied += 1;
                self.sent_bytes += sent_bytes;
            }
            Ok(_) => self.same += 1,
            Err(error) => self.fail(&error, what),
        }
    }

    fn fail(&mut self, error: &ReplicationError, what: &str) {
        self.failed += 1;
        let why = || format!("{what}: {}", in_words(error));
        self.error.get_or_insert_with(why);
    }
}

/// What came of one image.
#[derive(Clone, Copy, Debug, Default)]
struct Copied {
    is_new: bool,
    sent_bytes: u64,
}

/// The job that follows from an image that was pushed or deleted; part of the transaction that hands its
/// event on.
pub(crate) fn job_of(
    rule: &Subscription,
    repository: &str,
    (tag, digest): (Option<&str>, Option<&str>),
) -> Option<AddJob> {
    let reference = match (tag, digest) {
        (Some(tag), _) => Reference::Tag(tag.to_owned()),
        (None, Some(digest)) => Reference::Digest(digest.to_owned()),
        (None, None) => return None,
    };
    let name = match &reference {
        Reference::Tag(name) | Reference::Digest(name) => name,
    };
    let key = format!("{} {repository} {name}", rule.id);
    let task = Task { rule: rule.name.clone(), image: Some((repository.to_owned(), reference)) };
    Some(job(key, &task))
}

fn job(key: String, task: &Task) -> AddJob {
    // Only maps with keys that are no strings fail, and a task has none.
    let payload = serde_json::to_string(task).unwrap_or_default();
    AddJob { kind: KIND, key: Some(key), payload, delay: Duration::ZERO }
}

/// Asks for all that a rule means; once, however often it is asked for.
///
/// # Errors
/// [`SubscriptionError::Unknown`].
pub async fn request(database: &Database, rule: &str) -> Result<(), SubscriptionError> {
    let rule = find(database, SubscriptionKind::Replication, rule).await?;
    database.write(whole(&rule)).await?;
    Ok(())
}

fn whole(rule: &Subscription) -> AddJob {
    job(format!("{} all", rule.id), &Task { rule: rule.name.clone(), image: None })
}

/// Asks for what is due by the clock.
///
/// # Errors
/// The database's.
pub async fn schedule(database: &Database) -> Result<(), DbError> {
    let now = database.now_ms();
    let rules = subscriptions(database, SubscriptionKind::Replication).await?;
    for rule in rules.into_iter().filter(|rule| rule.next_run.is_some_and(|due| due <= now)) {
        let Some(every) = RuleSettings::of(&rule).and_then(|settings| settings.every_seconds)
        else {
            continue;
        };
        let every = Duration::from_secs(every).max(SHORTEST_INTERVAL);
        database.write(Schedule { rule, every_ms: ms(every) }).await?;
    }
    Ok(())
}

struct Schedule {
    rule: Subscription,
    every_ms: i64,
}

impl Transaction for Schedule {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        // Whoever moves the time asks for the run; another process finds it moved.
        let sql = "UPDATE subscription SET next_run = $1 WHERE id = $2 AND next_run = $3";
        let next = connection.now_ms() + self.every_ms;
        let moved = values![next, self.rule.id, self.rule.next_run];
        if connection.execute(sql, moved).await? == 1 {
            whole(&self.rule).run(connection).await?;
        }
        Ok(())
    }
}

/// Takes jobs until the end.
pub async fn run(registry: Registry, mut stopped: watch::Receiver<bool>) {
    let mut seen = None;
    let mut looks = 0_u32;
    loop {
        let mark = registry.database.change_mark();
        // Without a change only the clock brings something.
        if mark.is_none() || mark != seen || looks.is_multiple_of(10) {
            seen = mark;
            let done = async {
                schedule(&registry.database).await?;
                while run_one(&registry).await?.is_some() {
                    if *stopped.borrow() {
                        break;
                    }
                }
                Ok::<_, DbError>(())
            };
            if let Err(error) = done.await {
                tracing::error!(error = &error as &dyn std::error::Error, "replication fails");
            }
        }
        looks = looks.wrapping_add(1);
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = stopped.changed() => return,
        }
    }
}

/// Takes the next job and does it; tells what came of it, `None` when there is no job.
///
/// # Errors
/// The database's.
pub async fn run_one(registry: &Registry) -> Result<Option<Report>, DbError> {
    let database = &registry.database;
    let Some(mut job) = jobs::claim(database, KIND, LEASE).await? else { return Ok(None) };
    let outcome = {
        let mut work = std::pin::pin!(work(registry, job.payload.clone()));
        loop {
            tokio::select! {
                outcome = &mut work => break outcome,
                () = tokio::time::sleep(LEASE / 3) => {
                    if !jobs::renew(database, &mut job, LEASE).await? {
                        // Another process has it by now.
                        return Ok(Some(Report::default()));
                    }
                }
            }
        }
    };
    let report = outcome.unwrap_or_else(|error| {
        let error = Some(in_words(&error));
        Report { failed: 1, error, ..Report::default() }
    });
    jobs::end(database, &job, ending(&job, &report)).await?;
    if let Ok(task) = serde_json::from_str::<Task>(&job.payload) {
        database.write(Note { rule: task.rule, report: report.clone() }).await?;
    }
    Ok(Some(report))
}

fn ending(job: &Job, report: &Report) -> Ending {
    if report.failed == 0 {
        Ending::Done(report.to_string())
    } else if job.attempts >= TRIES {
        Ending::Failed(report.to_string())
    } else {
        let doubled = u32::try_from(job.attempts).unwrap_or(1).saturating_sub(1).min(16);
        Ending::Again(report.to_string(), FIRST_WAIT * 2_u32.pow(doubled))
    }
}

/// Writes down what came of a rule's last job.
struct Note {
    rule: String,
    report: Report,
}

impl Transaction for Note {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        const WELL: &str = "UPDATE subscription SET result = $1, failing_since = NULL \
                            WHERE name = $2 AND kind = 'replication'";
        const ILL: &str = "UPDATE subscription SET result = $1, \
                           failing_since = COALESCE(failing_since, $3) \
                           WHERE name = $2 AND kind = 'replication'";
        let text = self.report.to_string();
        if self.report.failed == 0 {
            connection.execute(WELL, values![text, &self.rule]).await?;
        } else {
            let now = connection.now_ms();
            connection.execute(ILL, values![text, &self.rule, now]).await?;
        }
        Ok(())
    }
}

async fn work(registry: &Registry, payload: String) -> Result<Report, ReplicationError> {
    let task: Task = serde_json::from_str(&payload)
        .map_err(|error| ReplicationError::Settings(payload.clone(), error.to_string()))?;
    let rule = match find(&registry.database, SubscriptionKind::Replication, &task.rule).await {
        Ok(rule) => Rule::of(rule)?,
        // It was removed: nothing is left to do.
        Err(SubscriptionError::Unknown(..)) => return Ok(Report::default()),
        Err(error) => return Err(error.into()),
    };
    match (rule.settings.direction, task.image) {
        (Direction::Push, Some((repository, reference))) => {
            push::image(registry, &rule, &repository, &reference).await
        }
        (Direction::Push, None) => push::all(registry, &rule).await,
        (Direction::Pull, _) => pull::all(registry, &rule).await,
    }
}

impl Rule {
    fn of(subscription: Subscription) -> Result<Self, ReplicationError> {
        let newer = || {
            let why = "a later version of the registry wrote it".to_owned();
            ReplicationError::Settings(subscription.name.clone(), why)
        };
        let settings = RuleSettings::of(&subscription).ok_or_else(newer)?;
        let account = settings.account.clone().map(|(username, password)| {
            (settings.registry.clone(), Credential::Password { username, password })
        });
        let known = RegistryConfig { insecure: settings.insecure, ..RegistryConfig::default() };
        let client = Client::new(ClientConfig {
            registries: [(settings.registry.clone(), known)].into(),
            accounts: account.into_iter().collect(),
            ..ClientConfig::default()
        });
        let bandwidth = Bandwidth::new(settings.bytes_per_second);
        Ok(Self { subscription, settings, client, bandwidth })
    }

    /// A repository of the other registry.
    fn session(&self, path: &str, access: Access) -> Result<Session, ReplicationError> {
        Ok(self.client.session(&self.remote(path)?, access))
    }

    fn remote(&self, path: &str) -> Result<Repository, ReplicationError> {
        let text = format!("{}/{path}", self.settings.registry);
        text.parse().map_err(|_error| self.bad(format!("`{text}` is no repository")))
    }

    /// The name with the rule's prefix in front.
    fn prefixed(&self, name: &str) -> String {
        match self.settings.prefix.trim_matches('/') {
            "" => name.to_owned(),
            prefix => format!("{prefix}/{name}"),
        }
    }

    fn local(&self, path: &str) -> Result<RepositoryName, ReplicationError> {
        path.parse().map_err(|_error| self.bad(format!("`{path}` is no repository")))
    }

    fn bad(&self, why: String) -> ReplicationError {
        ReplicationError::Settings(self.subscription.name.clone(), why)
    }
}

fn tag(text: &str) -> Result<Tag, Fault> {
    text.parse().map_err(|_error| Fault::MANIFEST_UNKNOWN)
}

fn digest(text: &str) -> Result<Digest, Fault> {
    text.parse().map_err(|_error| Fault::MANIFEST_UNKNOWN)
}

/// Shares what was read with tasks.
type Shared = Arc<crate::manifests::Stored>;
