//! What happened, for those who listen: webhooks and rules of replication.
//!
//! ```text
//! transaction ── emit ──► event_outbox ── fan_out ─┬► delivery  (webhooks)
//!   of a change            (only where              └► job       (replication)
//!                           somebody listens)
//! ```
//! An event's row is written by the transaction that makes the change: there is none without the other.
//! Whether anybody listens is a column of the query that finds the repository, so that a change nobody
//! listens to costs no statement more. Events of one repository have numbers in the order of their
//! commits: on PostgreSQL the repository's row is locked before the number is taken.
//!
//! Any number of processes may hand events on ([`fan_out`]): each locks the rows that it takes.

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use davit_image::Digest;
use serde::{Deserialize, Serialize};

use crate::{
    auth::RepositoryGlob,
    db::{Connection, DbError, Lock, Transaction, values},
    name::RepositoryName,
    registry::{Registry, Repo, find_repo},
};

mod outbox;
mod subscriptions;
mod worker;

pub use outbox::fan_out;
pub use subscriptions::{
    AddSubscription, RemoveSubscription, Resume, Subscription, SubscriptionError, SubscriptionKind,
    TagGlob, find, is_name, subscriptions,
};
pub use worker::{Worker, round};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum EventKind {
    /// A manifest came, or a tag names another one.
    Push,
    /// A tag was removed.
    TagDelete,
    /// A manifest was removed.
    Delete,
    /// A manifest was read.
    Pull,
    /// A repository was made.
    RepositoryCreate,
    /// A repository was removed.
    RepositoryDelete,
    /// A blob came.
    BlobPush,
    /// A blob of another repository was linked.
    BlobMount,
    /// A blob was removed.
    BlobDelete,
    /// Somebody tries a webhook.
    Test,
}

const WORDS: [(EventKind, &str); 10] = [
    (EventKind::Push, "push"),
    (EventKind::TagDelete, "tag.delete"),
    (EventKind::Delete, "delete"),
    (EventKind::Pull, "pull"),
    (EventKind::RepositoryCreate, "repository.create"),
    (EventKind::RepositoryDelete, "repository.delete"),
    (EventKind::BlobPush, "blob.push"),
    (EventKind::BlobMount, "blob.mount"),
    (EventKind::BlobDelete, "blob.delete"),
    (EventKind::Test, "test"),
];

/// The text names no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no event; there are push, tag.delete, delete, pull, repository.create, \
     repository.delete, blob.push, blob.mount, blob.delete"
)]
pub struct KindError(pub String);

impl EventKind {
    /// What those are told who do not say what they want to hear: all changes but those of blobs.
    pub const USUAL: [Self; 5] =
        [Self::Push, Self::TagDelete, Self::Delete, Self::RepositoryCreate, Self::RepositoryDelete];

    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        WORDS.iter().find(|(kind, _)| *kind == self).map_or("", |(_, word)| word)
    }

    /// What a subscription's level must be at least for its row to be written.
    const fn level(self) -> i64 {
        match self {
            Self::BlobPush | Self::BlobMount | Self::BlobDelete => 2,
            _ => 1,
        }
    }
}

impl FromStr for EventKind {
    type Err = KindError;

    fn from_str(text: &str) -> Result<Self, KindError> {
        let found = WORDS.iter().find(|(_, word)| *word == text);
        found.map(|(kind, _)| *kind).ok_or_else(|| KindError(text.chars().take(40).collect()))
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<EventKind> for String {
    fn from(kind: EventKind) -> Self {
        kind.as_str().to_owned()
    }
}

impl TryFrom<String> for EventKind {
    type Error = KindError;

    fn try_from(text: String) -> Result<Self, KindError> {
        text.parse()
    }
}

/// What a transaction knows of what it does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Happened<'a> {
    pub(crate) kind: EventKind,
    pub(crate) digest: Option<&'a Digest>,
    pub(crate) tag: Option<&'a str>,
    /// What the tag named before.
    pub(crate) previous: Option<&'a Digest>,
    /// The repository that a blob was mounted from.
    pub(crate) source: Option<&'a str>,
    /// Account.
    pub(crate) by: Option<i64>,
}

impl Happened<'_> {
    pub(crate) const fn of(kind: EventKind) -> Self {
        Self { kind, digest: None, tag: None, previous: None, source: None, by: None }
    }
}

/// Writes an event, where somebody listens; part of the transaction that makes the change.
pub(crate) async fn emit(
    connection: &mut Connection,
    repo: Repo,
    happened: Happened<'_>,
) -> Result<(), DbError> {
    if repo.listened < happened.kind.level() {
        return Ok(());
    }
    write(connection, repo.id, happened).await
}

/// As [`emit`], for who knows only the repository's row.
pub(crate) async fn emit_at(
    connection: &mut Connection,
    repo_id: i64,
    happened: Happened<'_>,
) -> Result<(), DbError> {
    let row = connection.row("SELECT path FROM repo WHERE id = $1", values![repo_id]).await?;
    let path: Option<String> = row.map(|row| row.get(0)).transpose()?;
    let Some(name) = path.and_then(|path| path.parse().ok()) else { return Ok(()) };
    match find_repo(connection, &name).await? {
        Some(repo) => emit(connection, repo, happened).await,
        None => Ok(()),
    }
}

async fn write(
    connection: &mut Connection,
    repo_id: i64,
    happened: Happened<'_>,
) -> Result<(), DbError> {
    const ORDER: &str = "SELECT id FROM repo WHERE id = $1";
    const EVENT: &str = "INSERT INTO event_outbox \
                         (kind, repository, digest, tag, previous, source, by_id, created_at) \
                         SELECT $1, path, $2, $3, $4, $5, $6, $7 FROM repo WHERE id = $8";
    if connection.is_postgres() {
        connection.rows_locked(ORDER, values![repo_id], Lock::NoKeyUpdate).await?;
    }
    let Happened { kind, digest, tag, previous, source, by } = happened;
    let now = connection.now_ms();
    let row = values![kind.as_str(), digest, tag, previous, source, by, now, repo_id];
    connection.execute(EVENT, row).await?;
    Ok(())
}

/// An event as those who listen are told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its name, the same in every delivery of it.
    pub id: String,
    /// What happened.
    pub kind: EventKind,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// Where.
    pub repository: String,
    /// The manifest or blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// What the tag named before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// The repository that a blob was mounted from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The manifest's type; unknown once it has gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Bytes of the manifest or blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// The account that did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// What is known of the repository.
    #[serde(default)]
    pub about: About,
}

/// What is known of a repository when its event is handed on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// When it was made, in milliseconds since 1970.
    pub created_at_ms: i64,
    /// Whether everyone may pull from it.
    pub is_public: bool,
    /// One line.
    pub description: String,
}

/// Who wants to hear of pulls, as this process knows it: a pull is no change of the database, and shall
/// not ask it.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    any: AtomicBool,
    pulls: RwLock<Arc<Vec<RepositoryGlob>>>,
}

impl Listeners {
    /// Takes the list that was read last.
    pub(crate) fn set(&self, pulls: Vec<RepositoryGlob>) {
        self.any.store(!pulls.is_empty(), Ordering::Relaxed);
        *self.pulls.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pulls);
    }

    fn wants(&self, name: &str) -> bool {
        self.any.load(Ordering::Relaxed) && {
            let pulls = Arc::clone(&self.pulls.read().unwrap_or_else(PoisonError::into_inner));
            pulls.iter().any(|glob| glob.matches(name))
        }
    }
}

/// Tells of a pull, where somebody listens to them; the reply does not wait for that.
pub(crate) fn pulled(
    registry: &Registry,
    name: &RepositoryName,
    (digest, tag): (Digest, Option<&str>),
    by: Option<i64>,
) {
    if !registry.listeners.wants(name.as_str()) {
        return;
    }
    let pull = Pulled { name: name.clone(), digest, tag: tag.map(str::to_owned), by };
    let database = registry.database.clone();
    tokio::spawn(async move {
        if let Err(error) = database.write(pull).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "a pull was not told");
        }
    });
}

struct Pulled {
    name: RepositoryName,
    digest: Digest,
    tag: Option<String>,
    by: Option<i64>,
}

impl Transaction for Pulled {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let Some(repo) = find_repo(connection, &self.name).await? else { return Ok(()) };
        let (digest, tag, by) = (Some(&self.digest), self.tag.as_deref(), self.by);
        let happened = Happened { digest, tag, by, ..Happened::of(EventKind::Pull) };
        emit(connection, repo, happened).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_round_trip() {
        for (kind, word) in WORDS {
            assert_eq!(word.parse::<EventKind>().unwrap(), kind);
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{word}\""));
        }
        assert!("pushed".parse::<EventKind>().is_err());
    }
}
