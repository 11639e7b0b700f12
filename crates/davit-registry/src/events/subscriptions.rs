//! Who listens to what.

use std::{fmt, str::FromStr};

use davit_distribution::Secret;

use super::EventKind;
use crate::{
    auth::{RepositoryGlob, matches},
    db::{Connection, Database, DbError, Lock, Row, Transaction, values},
};

/// Those who listen at most, of all kinds.
const MOST: i64 = 1000;
/// Those that one account has at most.
const MOST_OF_ONE: i64 = 50;
/// Bytes of a name, without its owner's.
const LONGEST_NAME: usize = 64;

/// Names tags: `*` stands for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagGlob(String);

impl TagGlob {
    /// Every tag.
    #[must_use]
    pub fn all() -> Self {
        Self("*".to_owned())
    }

    /// Tells whether every tag is meant.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.0.bytes().all(|byte| byte == b'*')
    }

    /// Tells whether the tag is meant.
    #[must_use]
    pub fn matches(&self, tag: &str) -> bool {
        matches(self.0.as_bytes(), tag.as_bytes())
    }
}

impl FromStr for TagGlob {
    type Err = SubscriptionError;

    fn from_str(text: &str) -> Result<Self, SubscriptionError> {
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-*".contains(&byte);
        if text.is_empty() || text.len() > 128 || !text.bytes().all(is_good) {
            return Err(SubscriptionError::Tags(text.chars().take(128).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for TagGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What becomes of the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscriptionKind {
    /// They are sent to a URL.
    Webhook,
    /// Images are sent to another registry, or fetched from it by the clock.
    Replication,
}

impl SubscriptionKind {
    /// The word in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Replication => "replication",
        }
    }
}

/// Somebody who listens.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Its row.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// What becomes of the events.
    pub kind: SubscriptionKind,
    /// Which repositories.
    pub repositories: RepositoryGlob,
    /// Which tags; what has no tag is heard as well.
    pub tags: TagGlob,
    /// What.
    pub events: Vec<EventKind>,
    /// Whether it works; `false`: it failed for so long that it was given up.
    pub is_active: bool,
    /// Settings of its kind, as JSON; they hold secrets.
    pub settings: Secret,
    /// Since when every try fails, in milliseconds since 1970.
    pub failing_since: Option<i64>,
    /// When its next run by the clock is due.
    pub next_run: Option<i64>,
    /// What its last run brought.
    pub result: Option<String>,
    /// When it was made.
    pub created_at: i64,
}

/// Why a subscription is refused.
#[derive(Debug, thiserror::Error)]
pub enum SubscriptionError {
    /// The name.
    #[error("a name has 1 to {LONGEST_NAME} of a-z 0-9 . _ -; `{0}` is none")]
    Name(String),
    /// The pattern of tags.
    #[error("`{0}` is no pattern of tags (letters, digits, `_`, `.`, `-`, and `*` for any run)")]
    Tags(String),
    /// It is there.
    #[error("{0} exists already")]
    Exists(String),
    /// It is not.
    #[error("there is no {0} {1}")]
    Unknown(&'static str, String),
    /// There are too many.
    #[error("there are too many webhooks and rules of replication already")]
    TooMany,
    /// Who owns it may not hear of these.
    #[error("`{0}` reaches beyond the repositories of `{1}`")]
    Outside(String, String),
    /// The database.
    #[error(transparent)]
    Database(#[from] DbError),
}

impl Subscription {
    /// Tells whether it wants to hear of an event.
    #[must_use]
    pub fn wants(&self, kind: EventKind, repository: &str, tag: Option<&str>) -> bool {
        self.events.contains(&kind)
            && self.repositories.matches(repository)
            && tag.is_none_or(|tag| self.tags.matches(tag))
    }

    /// Reads a row; `None` if a later version wrote what this one does not know: it is not heard.
    fn read(row: &Row) -> Result<Option<Self>, DbError> {
        let (kind, globs): (String, String) = (row.get(2)?, row.get(3)?);
        let (tags, events): (String, String) = (row.get(4)?, row.get(5)?);
        let kind = match kind.as_str() {
            "webhook" => SubscriptionKind::Webhook,
            "replication" => SubscriptionKind::Replication,
            _ => return Ok(None),
        };
        let (Ok(repositories), Ok(tags)) = (globs.parse(), tags.parse()) else { return Ok(None) };
        Ok(Some(Self {
            id: row.get(0)?,
            name: row.get(1)?,
            kind,
            repositories,
            tags,
            events: events.split_whitespace().filter_map(|word| word.parse().ok()).collect(),
            is_active: row.get::<String>(6)? == "active",
            settings: row.get::<String>(7)?.into(),
            failing_since: row.get(8)?,
            next_run: row.get(9)?,
            result: row.get(10)?,
            created_at: row.get(11)?,
        }))
    }
}

/// All subscriptions, by their names.
pub(super) async fn all(connection: &mut Connection) -> Result<Vec<Subscription>, DbError> {
    let sql = "SELECT id, name, kind, repositories, tags, events, state, settings, failing_since, \
               next_run, result, created_at FROM subscription ORDER BY name LIMIT $1";
    let rows = connection.rows(sql, values![MOST]).await?;
    rows.iter().filter_map(|row| Subscription::read(row).transpose()).collect()
}

/// All subscriptions of a kind, by their names.
///
/// # Errors
/// The database's.
pub async fn subscriptions(
    database: &Database,
    kind: SubscriptionKind,
) -> Result<Vec<Subscription>, DbError> {
    let mut found = all(&mut database.reader().await?).await?;
    found.retain(|one| one.kind == kind);
    Ok(found)
}

/// Finds one by its name.
///
/// # Errors
/// [`SubscriptionError::Unknown`].
pub async fn find(
    database: &Database,
    kind: SubscriptionKind,
    name: &str,
) -> Result<Subscription, SubscriptionError> {
    let found = subscriptions(database, kind).await?.into_iter().find(|one| one.name == name);
    found.ok_or_else(|| SubscriptionError::Unknown(kind.as_str(), name.to_owned()))
}

/// Makes a subscription; tells its row.
#[derive(Clone, Debug)]
pub struct AddSubscription {
    /// Its name: `NAME` of the registry's own, `ACCOUNT/NAME` of an account's, which hears only of that
    /// account's repositories and ends with it.
    pub name: String,
    /// What becomes of the events.
    pub kind: SubscriptionKind,
    /// Which repositories.
    pub repositories: RepositoryGlob,
    /// Which tags.
    pub tags: TagGlob,
    /// What.
    pub events: Vec<EventKind>,
    /// Settings of its kind, as JSON; they hold secrets.
    pub settings: Secret,
    /// When its first run by the clock is due, from now on in milliseconds.
    pub first_run_ms: Option<i64>,
}

impl Transaction for AddSubscription {
    type Output = i64;
    type Error = SubscriptionError;

    async fn run(&self, connection: &mut Connection) -> Result<i64, SubscriptionError> {
        let name = &self.name;
        let (owner, own_name) =
            name.split_once('/').map_or((None, name.as_str()), |(owner, own)| (Some(owner), own));
        if !is_name(own_name) {
            return Err(SubscriptionError::Name(name.chars().take(LONGEST_NAME).collect()));
        }
        if let Some(owner) = owner {
            self.check_owner(connection, owner).await?;
        }
        let count = connection.row("SELECT COUNT(*) FROM subscription", values![]).await?;
        if count.map_or(Ok(0), |row| row.get::<i64>(0))? >= MOST {
            return Err(SubscriptionError::TooMany);
        }
        let sql = "INSERT INTO subscription (name, kind, repositories, prefix, tags, events, level, \
                   settings, next_run, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
                   ON CONFLICT (name) DO NOTHING";
        let words: Vec<&str> = self.events.iter().map(|kind| kind.as_str()).collect();
        let level = self.events.iter().map(|kind| kind.level()).max().unwrap_or(0);
        let now = connection.now_ms();
        let glob = self.repositories.as_str();
        let row = values![
            name,
            self.kind.as_str(),
            glob,
            glob.split('*').next().unwrap_or_default(),
            self.tags.to_string(),
            words.join(" "),
            level,
            self.settings.expose(),
            self.first_run_ms.map(|delay| now + delay),
            now
        ];
        if connection.execute(sql, row).await? == 0 {
            return Err(SubscriptionError::Exists(name.clone()));
        }
        let row = connection.row("SELECT id FROM subscription WHERE name = $1", values![name]);
        Ok(row.await?.ok_or(DbError::Statement(sqlx::Error::RowNotFound))?.get(0)?)
    }
}

impl AddSubscription {
    /// An account hears of its own, and has its share of what there may be.
    async fn check_owner(
        &self,
        connection: &mut Connection,
        owner: &str,
    ) -> Result<(), SubscriptionError> {
        let sql = "SELECT id FROM account WHERE name = $1 AND kind <> 'robot'";
        // Nobody removes it meanwhile.
        if connection.rows_locked(sql, values![owner], Lock::KeyShare).await?.is_empty() {
            return Err(SubscriptionError::Unknown("account", owner.to_owned()));
        }
        if !self.repositories.is_within(owner) {
            let glob = self.repositories.to_string();
            return Err(SubscriptionError::Outside(glob, owner.to_owned()));
        }
        let sql = "SELECT COUNT(*) FROM subscription WHERE SUBSTR(name, 1, LENGTH($1)) = $1";
        let count = connection.row(sql, values![format!("{owner}/")]).await?;
        if count.map_or(Ok(0), |row| row.get::<i64>(0))? >= MOST_OF_ONE {
            return Err(SubscriptionError::TooMany);
        }
        Ok(())
    }
}

/// Tells whether a webhook or rule may be called so, without its owner's name.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let is_good = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= LONGEST_NAME && name.bytes().all(is_good)
}

/// Removes a subscription, with what waits for it and its history.
#[derive(Clone, Debug)]
pub struct RemoveSubscription {
    /// Of which kind.
    pub kind: SubscriptionKind,
    /// Its name.
    pub name: String,
}

impl Transaction for RemoveSubscription {
    type Output = ();
    type Error = SubscriptionError;

    async fn run(&self, connection: &mut Connection) -> Result<(), SubscriptionError> {
        let sql = "DELETE FROM subscription WHERE kind = $1 AND name = $2";
        let values = values![self.kind.as_str(), &self.name];
        if connection.execute(sql, values).await? == 0 {
            return Err(SubscriptionError::Unknown(self.kind.as_str(), self.name.clone()));
        }
        Ok(())
    }
}

/// Lets a subscription work again that was given up; what waits for it goes at once.
#[derive(Clone, Debug)]
pub struct Resume {
    /// Of which kind.
    pub kind: SubscriptionKind,
    /// Its name.
    pub name: String,
}

impl Transaction for Resume {
    type Output = ();
    type Error = SubscriptionError;

    async fn run(&self, connection: &mut Connection) -> Result<(), SubscriptionError> {
        let sql = "UPDATE subscription SET state = 'active', failing_since = NULL \
                   WHERE kind = $1 AND name = $2";
        let values = values![self.kind.as_str(), &self.name];
        if connection.execute(sql, values).await? == 0 {
            return Err(SubscriptionError::Unknown(self.kind.as_str(), self.name.clone()));
        }
        let sql = "UPDATE delivery SET run_after = $1 WHERE state = 'waiting' AND subscription_id = \
                   (SELECT id FROM subscription WHERE name = $2)";
        connection.execute(sql, values![connection.now_ms(), &self.name]).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_matched_whole() {
        for (glob, tag, expected) in [
            ("*", "v1.0", true),
            ("v1.*", "v1.0", true),
            ("v1.*", "V1.0", false),
            ("v1", "v1.0", false),
            ("*-rc*", "1-rc2", true),
        ] {
            assert_eq!(glob.parse::<TagGlob>().unwrap().matches(tag), expected, "{glob} {tag}");
        }
        for bad in ["", "a/b", "a b", &"a".repeat(129)] {
            assert!(bad.parse::<TagGlob>().is_err(), "{bad}");
        }
    }
}
