//! Mirrors in the database.

use std::{fmt, str::FromStr};

use davit_distribution::Secret;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    auth::audit::{Actor, Audited},
    db::{Connection, Database, DbError, Transaction, values},
};

/// Mirrors at most.
const MOST: i64 = 100;

/// Who may do something with a mirror.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Who {
    /// Everyone.
    Everyone,
    /// Every account of this registry.
    #[default]
    Accounts,
    /// Who was given a role on the repositories: `pull` to pull, `push` to fill.
    Granted,
}

impl FromStr for Who {
    type Err = MirrorError;

    fn from_str(text: &str) -> Result<Self, MirrorError> {
        match text {
            "everyone" => Ok(Self::Everyone),
            "accounts" => Ok(Self::Accounts),
            "granted" => Ok(Self::Granted),
            _ => Err(MirrorError::Who(text.chars().take(40).collect())),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Everyone => "everyone",
            Self::Accounts => "accounts",
            Self::Granted => "granted",
        })
    }
}

/// How a mirror behaves, in `mirror.settings`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorSettings {
    /// Who may pull what is kept.
    pub pull: Who,
    /// Who may have something fetched.
    pub fill: Who,
    /// How long a tag is believed, in seconds.
    pub ttl_seconds: u32,
    /// How long something stays after it was pulled last, in days.
    pub keep_days: u32,
    /// Whether the upstream may speak plain HTTP or show a certificate that does not verify.
    #[serde(default)]
    pub insecure: bool,
    /// The account at the upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<(String, Secret)>,
    /// How many bytes of blobs a second a server may fetch from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
}

impl Default for MirrorSettings {
    fn default() -> Self {
        Self {
            pull: Who::default(),
            fill: Who::default(),
            ttl_seconds: 300,
            keep_days: 30,
            insecure: false,
            account: None,
            bytes_per_second: None,
        }
    }
}

/// A mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorRow {
    /// What the names of its repositories here begin with.
    pub name: String,
    /// The registry: `HOST[:PORT]`, as references write it.
    pub upstream: String,
    /// Whether it is asked for names that are not hosted here.
    pub is_default: bool,
    /// How it behaves.
    pub settings: MirrorSettings,
}

/// Why a mirror is refused.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// The name.
    #[error(
        "`{0}` is no name of a mirror: it is the first part of repository names, with a dot in it \
         (docker.io, quay.example)"
    )]
    Name(String),
    /// The upstream.
    #[error("`{0}` is no registry (HOST or HOST:PORT)")]
    Upstream(String),
    /// Who may do something.
    #[error("`{0}` is nobody; there are everyone, accounts, granted")]
    Who(String),
    /// It is there.
    #[error("the mirror {0} exists already")]
    Exists(String),
    /// Another is the default.
    #[error("the mirror {0} is the default already")]
    Default(String),
    /// Repositories of that name were pushed here.
    #[error("there are repositories {0}/… that were pushed here")]
    Hosted(String),
    /// It is not.
    #[error("there is no mirror {0}")]
    Unknown(String),
    /// There are too many.
    #[error("there are {MOST} mirrors already")]
    TooMany,
    /// The database.
    #[error(transparent)]
    Database(#[from] DbError),
}

/// All mirrors, by their names.
///
/// # Errors
/// The database's.
pub async fn mirrors(database: &Database) -> Result<Vec<MirrorRow>, DbError> {
    let sql = "SELECT name, upstream, is_default, settings FROM mirror ORDER BY name LIMIT $1";
    let mut reader = database.reader().await?;
    let mut found = Vec::new();
    for row in reader.rows(sql, values![MOST]).await? {
        // What a later version wrote is not served.
        let Ok(settings) = serde_json::from_str(&row.get::<String>(3)?) else { continue };
        let (name, upstream, is_default) = (row.get(0)?, row.get(1)?, row.get(2)?);
        found.push(MirrorRow { name, upstream, is_default, settings });
    }
    Ok(found)
}

/// Makes a mirror.
#[derive(Clone, Debug)]
pub struct AddMirror(pub MirrorRow);

impl AddMirror {
    fn check(&self) -> Result<(), MirrorError> {
        let row = &self.0;
        let name = || MirrorError::Name(row.name.chars().take(80).collect());
        let is_part = !row.name.contains('/') && row.name.contains('.');
        let parsed = format!("{}/x", row.name).parse::<crate::name::RepositoryName>();
        if !is_part || parsed.is_err() {
            return Err(name());
        }
        let upstream = format!("{}/library/x", row.upstream).parse::<davit_image::Repository>();
        if upstream.is_ok_and(|repository| repository.registry() == row.upstream) {
            Ok(())
        } else {
            Err(MirrorError::Upstream(row.upstream.chars().take(80).collect()))
        }
    }
}

impl Transaction for AddMirror {
    type Output = ();
    type Error = MirrorError;

    async fn run(&self, connection: &mut Connection) -> Result<(), MirrorError> {
        const HOSTED: &str = "SELECT path FROM repo WHERE path > $1 AND path < $2 \
                              AND kind = 'hosted' LIMIT 1";
        const DEFAULT: &str = "SELECT name FROM mirror WHERE is_default = 1";
        const ADD: &str = "INSERT INTO mirror (name, upstream, is_default, settings, created_at) \
                           VALUES ($1, $2, $3, $4, $5) ON CONFLICT (name) DO NOTHING";
        self.check()?;
        let row = &self.0;
        let range = values![format!("{}/", row.name), format!("{}0", row.name)];
        if connection.row(HOSTED, range).await?.is_some() {
            return Err(MirrorError::Hosted(row.name.clone()));
        }
        if row.is_default
            && let Some(other) = connection.row(DEFAULT, values![]).await?
        {
            return Err(MirrorError::Default(other.get(0)?));
        }
        let count = connection.row("SELECT COUNT(*) FROM mirror", values![]).await?;
        if count.map_or(Ok(0), |row| row.get::<i64>(0))? >= MOST {
            return Err(MirrorError::TooMany);
        }
        // Only maps with keys that are no strings fail, and settings have none.
        let settings = serde_json::to_string(&row.settings).unwrap_or_default();
        let now = connection.now_ms();
        let added = values![&row.name, &row.upstream, row.is_default, settings, now];
        if connection.execute(ADD, added).await? == 0 {
            return Err(MirrorError::Exists(row.name.clone()));
        }
        Ok(())
    }
}

/// Removes a mirror; what it kept stays until nobody pulls it any more.
#[derive(Clone, Debug)]
pub struct RemoveMirror(pub String);

impl Transaction for RemoveMirror {
    type Output = ();
    type Error = MirrorError;

    async fn run(&self, connection: &mut Connection) -> Result<(), MirrorError> {
        let sql = "DELETE FROM mirror WHERE name = $1";
        if connection.execute(sql, values![&self.0]).await? == 0 {
            return Err(MirrorError::Unknown(self.0.clone()));
        }
        Ok(())
    }
}

/// Makes a mirror, and tells of it in the audit log.
///
/// # Errors
/// See [`MirrorError`].
pub async fn add(database: &Database, by: Actor, row: MirrorRow) -> Result<(), MirrorError> {
    let detail = json!({ "upstream": row.upstream, "default": row.is_default });
    let (action, object) = ("mirror.add", row.name.clone());
    database.write(Audited { change: AddMirror(row), by, action, object, detail }).await
}

/// Removes a mirror, and tells of it in the audit log.
///
/// # Errors
/// [`MirrorError::Unknown`], or the database's.
pub async fn remove(database: &Database, by: Actor, name: String) -> Result<(), MirrorError> {
    let (action, object, detail) = ("mirror.remove", name.clone(), json!({}));
    database.write(Audited { change: RemoveMirror(name), by, action, object, detail }).await
}

/// Makes a repository for what is kept, with the rule that lets go of it; nothing happens when it is there.
pub(super) struct MakeRepository {
    pub(super) path: String,
    pub(super) keep_days: u32,
}

impl Transaction for MakeRepository {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let sql = "INSERT INTO repo (path, kind, sparse, settings, created_at) \
                   VALUES ($1, 'proxy', 1, $2, $3) ON CONFLICT (path) DO NOTHING";
        let days = self.keep_days;
        let settings = serde_json::json!({
            "keep_pulled_days": days,
            "retention": [{
                "tags": ".*", "pushed_within_days": days, "pulled_within_days": days,
            }],
        });
        let row = values![&self.path, settings.to_string(), connection.now_ms()];
        connection.execute(sql, row).await?;
        Ok(())
    }
}
