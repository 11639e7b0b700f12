//! Sources: the git repository behind a repository here, its rules and its variables.

mod address;
mod change;
mod lists;

use davit_distribution::Secret;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use serde_json::json;

use self::address::address;
pub use self::change::{ChangeSource, NewCredential, SourceChange};
pub use self::lists::{SourceRow, hook_of, source_of, sources};
use super::{AutobuildError, mask, rules::Rule};
use crate::{
    auth::{
        RepositoryGlob,
        audit::{self, Actor, Entry},
    },
    db::{Connection, DbError, Transaction, values},
    name::RepositoryName,
    registry::ensure_repo,
};

/// Bytes of one variable.
const VALUE_BYTES: usize = 32 << 10;
/// Rules, and variables, of one source.
const MOST: i64 = 100;
/// Random bytes of the webhook's address and of its secret.
const KEY_BYTES: usize = 24;

/// How the image is tested before it is pushed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Autotest {
    /// Not at all.
    #[default]
    Off,
    /// By the service `sut` of `docker-compose.test.yml`.
    Compose,
    /// By a command in a container of the image; its exit code decides.
    Command(String),
}

impl Autotest {
    /// The test that a word or command stands for; an empty one for none.
    #[must_use]
    pub fn of(text: &str) -> Self {
        match text.trim() {
            "" => Self::Off,
            "compose" => Self::Compose,
            command => Self::Command(command.to_owned()),
        }
    }

    /// What [`Self::of`] reads.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Off => "",
            Self::Compose => "compose",
            Self::Command(command) => command,
        }
    }
}

/// What a source says beside its address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceSettings {
    /// How images are tested.
    pub test: Autotest,
    /// Repositories of the same owner that builds may pull from, as patterns.
    pub pulls: Vec<String>,
}

/// What gives access to a private git repository.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A token, or password, over HTTPS.
    Token(Secret),
    /// A private key over ssh.
    Key(Secret),
}

impl Credential {
    const KEY: &str = "key:";
    const TOKEN: &str = "token:";

    fn to_row(&self) -> String {
        let (prefix, secret) = match self {
            Self::Token(secret) => (Self::TOKEN, secret),
            Self::Key(secret) => (Self::KEY, secret),
        };
        format!("{prefix}{}", secret.expose())
    }

    pub(super) fn of_row(text: &str) -> Option<Self> {
        let key = text.strip_prefix(Self::KEY).map(|key| Self::Key(Secret::new(key)));
        key.or_else(|| text.strip_prefix(Self::TOKEN).map(|it| Self::Token(Secret::new(it))))
    }
}

/// Connects a repository, which is made if it is not there, to a git repository.
#[derive(Clone, Debug)]
pub struct AddSource {
    by: Actor,
    path: RepositoryName,
    url: String,
    credential: Option<Credential>,
    settings: SourceSettings,
    poll_ms: Option<i64>,
    hook_key: Secret,
    hook_secret: Secret,
}

/// What a webhook needs to know.
#[derive(Clone, Debug)]
pub struct HookAddress {
    /// The path on this server, which nobody else knows.
    pub path: Secret,
    /// The secret, or token, of the webhook.
    pub secret: Secret,
}

impl AddSource {
    /// Checks what is asked for. An account in the address becomes the credential.
    ///
    /// # Errors
    /// The address, or a pattern of `settings.pulls`.
    pub fn new(
        by: Actor,
        path: RepositoryName,
        url: &str,
        credential: Option<Credential>,
        settings: SourceSettings,
    ) -> Result<Self, AutobuildError> {
        for pattern in &settings.pulls {
            pattern.parse::<RepositoryGlob>()?;
        }
        let (url, found) = address(url)?;
        let credential = credential.or(found);
        let (hook_key, hook_secret) = (random(), random());
        let poll_ms = None;
        Ok(Self { by, path, url, credential, settings, poll_ms, hook_key, hook_secret })
    }

    /// Asks the git repository for news as often as this, beside what its webhook tells.
    #[must_use]
    pub fn polled(mut self, every: Option<std::time::Duration>) -> Self {
        self.poll_ms = every.map(crate::db::ms);
        self
    }

    /// Where the git host's webhook is to send its events, and with which secret.
    #[must_use]
    pub fn hook(&self) -> HookAddress {
        HookAddress { path: hook_path(self.hook_key.expose()), secret: self.hook_secret.clone() }
    }
}

/// Path of a webhook.
fn hook_path(key: &str) -> Secret {
    Secret::new(format!("/hooks/{key}"))
}

fn random() -> Secret {
    let mut bytes = [0; KEY_BYTES];
    SystemRandom::new().fill(&mut bytes).expect("the kernel gives random bytes");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

impl Transaction for AddSource {
    type Output = ();
    type Error = AutobuildError;

    async fn run(&self, connection: &mut Connection) -> Result<(), AutobuildError> {
        let sql = "SELECT id FROM account WHERE name = $1 AND kind <> 'robot'";
        let namespace = self.path.namespace().unwrap_or_default();
        if connection.row(sql, values![namespace]).await?.is_none() {
            return Err(AutobuildError::NoOwner(self.path.to_string()));
        }
        let repo = ensure_repo(connection, &self.path).await?;
        let now = connection.now_ms();
        let sql = "INSERT INTO build_source (repo_id, url, settings, credential, hook_key, \
                   hook_secret, poll_ms, poll_at, created_at) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (repo_id) DO NOTHING";
        let credential = self.credential.as_ref().map(Credential::to_row);
        // The first look only notes what is there.
        let row = values![
            repo.id,
            &self.url,
            json!(self.settings).to_string(),
            credential,
            self.hook_key.expose(),
            self.hook_secret.expose(),
            self.poll_ms,
            now,
            now
        ];
        if connection.execute(sql, row).await? == 0 {
            return Err(AutobuildError::Exists(self.path.to_string()));
        }
        let detail = json!({ "url": self.url }).to_string();
        tell(connection, &self.by, "source.add", (&self.path, &detail)).await
    }
}

/// Ends the connection, with its rules, variables and what waits; builds that have ended stay.
#[derive(Clone, Debug)]
pub struct RemoveSource {
    /// Who ends it.
    pub by: Actor,
    /// The repository.
    pub path: RepositoryName,
}

impl Transaction for RemoveSource {
    type Output = ();
    type Error = AutobuildError;

    async fn run(&self, connection: &mut Connection) -> Result<(), AutobuildError> {
        let (source, repo) = find(connection, self.path.as_str()).await?;
        let now = connection.now_ms();
        let sql = "UPDATE build SET state = 'cancelled', error = 'the source was removed', \
                   finished_at = $1 WHERE repo_id = $2 AND state = 'waiting'";
        connection.execute(sql, values![now, repo]).await?;
        let sql = "UPDATE build SET is_cancelled = 1 WHERE repo_id = $1 AND state = 'running'";
        connection.execute(sql, values![repo]).await?;
        connection.execute("DELETE FROM build_source WHERE id = $1", values![source]).await?;
        tell(connection, &self.by, "source.remove", (&self.path, "{}")).await
    }
}

/// Adds a rule; tells its number.
#[derive(Clone, Debug)]
pub struct AddRule {
    /// Who adds it.
    pub by: Actor,
    /// The repository.
    pub path: RepositoryName,
    /// The rule.
    pub rule: Rule,
}

impl Transaction for AddRule {
    type Output = i64;
    type Error = AutobuildError;

    async fn run(&self, connection: &mut Connection) -> Result<i64, AutobuildError> {
        self.rule.check()?;
        let (source, _) = find(connection, self.path.as_str()).await?;
        let text = json!(self.rule).to_string();
        let sql = "INSERT INTO build_rule (source_id, rule) SELECT $1, $2 \
                   WHERE (SELECT COUNT(*) FROM build_rule WHERE source_id = $1) < $3 RETURNING id";
        let row = connection.row(sql, values![source, &text, MOST]).await?;
        let row = row.ok_or(super::rules::RuleError::TooMany("rules beside it"))?;
        tell(connection, &self.by, "source.rule", (&self.path, &text)).await?;
        Ok(row.get(0)?)
    }
}

/// Removes a rule.
#[derive(Clone, Debug)]
pub struct RemoveRule {
    /// Who removes it.
    pub by: Actor,
    /// The repository: a rule of another one does not count.
    pub path: RepositoryName,
    /// Its number.
    pub id: i64,
}

impl Transaction for RemoveRule {
    type Output = ();
    type Error = AutobuildError;

    async fn run(&self, connection: &mut Connection) -> Result<(), AutobuildError> {
        let (source, _) = find(connection, self.path.as_str()).await?;
        let sql = "DELETE FROM build_rule WHERE id = $1 AND source_id = $2";
        if connection.execute(sql, values![self.id, source]).await? == 0 {
            return Err(AutobuildError::Unknown("rule", self.id.to_string()));
        }
        let detail = json!({ "removed": self.id }).to_string();
        tell(connection, &self.by, "source.rule", (&self.path, &detail)).await
    }
}

/// A variable of hooks and builds.
#[derive(Clone, Debug)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Secret,
    /// Whether it is hidden in logs, kept out of images, and not given to pull requests of others.
    pub is_secret: bool,
}

/// Sets a variable, or removes it.
#[derive(Clone, Debug)]
pub struct SetVariable {
    /// Who sets it.
    pub by: Actor,
    /// The repository.
    pub path: RepositoryName,
    /// Its name.
    pub name: String,
    /// The rest; `None` removes it.
    pub value: Option<(Secret, bool)>,
}

impl SetVariable {
    fn check(&self) -> Result<(), AutobuildError> {
        let refused = |why| Err(AutobuildError::Variable(self.name.clone(), why));
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let starts = self.name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts || self.name.len() > 128 || !self.name.chars().all(is_word) {
            return refused("a name has letters, digits and _");
        }
        let Some((value, is_secret)) = &self.value else { return Ok(()) };
        if value.expose().len() > VALUE_BYTES || value.expose().contains('\0') {
            return refused("it is too long");
        }
        if *is_secret && value.expose().trim().len() < mask::SHORTEST {
            return refused("a secret that is so short cannot be hidden in logs");
        }
        Ok(())
    }
}

impl Transaction for SetVariable {
    type Output = ();
    type Error = AutobuildError;

    async fn run(&self, connection: &mut Connection) -> Result<(), AutobuildError> {
        self.check()?;
        let (source, _) = find(connection, self.path.as_str()).await?;
        match &self.value {
            Some((value, is_secret)) => {
                let sql = "INSERT INTO build_variable (source_id, name, value, is_secret) \
                           SELECT $1, $2, $3, $4 WHERE \
                           (SELECT COUNT(*) FROM build_variable WHERE source_id = $1) < $5 \
                           ON CONFLICT (source_id, name) DO UPDATE SET value = $3, is_secret = $4";
                let row = values![source, &self.name, value.expose(), *is_secret, MOST];
                if connection.execute(sql, row).await? == 0 {
                    let why = "there are too many";
                    return Err(AutobuildError::Variable(self.name.clone(), why));
                }
            }
            None => {
                let sql = "DELETE FROM build_variable WHERE source_id = $1 AND name = $2";
                if connection.execute(sql, values![source, &self.name]).await? == 0 {
                    return Err(AutobuildError::Unknown("variable", self.name.clone()));
                }
            }
        }
        let detail = json!({ "name": self.name, "set": self.value.is_some() }).to_string();
        tell(connection, &self.by, "source.variable", (&self.path, &detail)).await
    }
}

/// Rules of a source, oldest first.
pub(super) async fn rules_of(
    connection: &mut Connection,
    source: i64,
) -> Result<Vec<(i64, Rule)>, AutobuildError> {
    let sql = "SELECT id, rule FROM build_rule WHERE source_id = $1 ORDER BY id";
    let rows = connection.rows(sql, values![source]).await?;
    let rule = |row: &crate::db::Row| {
        let id = row.get(0)?;
        Ok((id, parsed(id, &row.get::<String>(1)?)?))
    };
    rows.iter().map(rule).collect()
}

/// Variables of a source, with their values.
pub(super) async fn variables_of(
    connection: &mut Connection,
    source: i64,
) -> Result<Vec<Variable>, DbError> {
    let sql =
        "SELECT name, value, is_secret FROM build_variable WHERE source_id = $1 ORDER BY name";
    let rows = connection.rows(sql, values![source]).await?;
    let variable = |row: &crate::db::Row| {
        let value = Secret::new(row.get::<String>(1)?);
        Ok(Variable { name: row.get(0)?, value, is_secret: row.get(2)? })
    };
    rows.iter().map(variable).collect()
}

/// Reads JSON of a row.
pub(super) fn parsed<T: serde::de::DeserializeOwned>(
    id: i64,
    text: &str,
) -> Result<T, AutobuildError> {
    serde_json::from_str(text).map_err(|error| AutobuildError::Row(id, error))
}

/// Rows of a repository's source and of the repository.
pub(super) async fn find(
    connection: &mut Connection,
    path: &str,
) -> Result<(i64, i64), AutobuildError> {
    let sql = "SELECT s.id, r.id FROM build_source s JOIN repo r ON r.id = s.repo_id \
               WHERE r.path = $1";
    let row = connection.row(sql, values![path]).await?;
    let row = row.ok_or_else(|| AutobuildError::Unknown("source of", path.to_owned()))?;
    Ok((row.get(0)?, row.get(1)?))
}

async fn tell(
    connection: &mut Connection,
    by: &Actor,
    action: &'static str,
    (path, detail): (&RepositoryName, &str),
) -> Result<(), AutobuildError> {
    Ok(audit::append(connection, by, Entry { action, object: path.as_str(), detail }).await?)
}
