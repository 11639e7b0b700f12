//! Providers, identities, log-ins under way and trust rules in the database.

use std::collections::BTreeMap;

use davit_distribution::Secret;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    super::{
        AccountError, TokenHash,
        accounts::{SignUp, find, need},
        audit::{self, Actor, Entry},
    },
    issuer::check_address,
};
use crate::db::{Connection, Database, DbError, Lock, Row, Transaction, values};

/// Rows of one answer.
const MOST: i64 = 1000;
/// Name of a key that a robot has by an issuer's token, and its life in milliseconds.
pub(super) const KEY: &str = "exchanged";
pub(super) const KEY_LIFE_MS: i64 = 60 * 60 * 1000;
/// Log-ins under way at most; the oldest make room.
const MOST_FLOWS: i64 = 10_000;

/// A provider by which people log in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Provider {
    /// Its address, exactly as it writes it in tokens.
    pub issuer: String,
    /// What it calls this registry.
    pub client_id: String,
    /// What this registry proves itself with, if it is asked to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<Secret>,
    /// Whether everyone whom it knows may have an account here, whatever sign-up is set to.
    #[serde(default)]
    pub signs_up: bool,
}

/// A provider in a list, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderRow {
    /// Name here, in addresses.
    pub name: String,
    /// Its address.
    pub issuer: String,
    /// What it calls this registry.
    pub client_id: String,
    /// Whether everyone whom it knows may have an account.
    pub signs_up: bool,
    /// Whether a secret is kept.
    pub has_secret: bool,
}

/// Why a provider or rule is refused.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Its address cannot be reached safely.
    #[error(transparent)]
    Address(#[from] super::issuer::IssuerError),
    /// The directory's address cannot be used.
    #[error(transparent)]
    Directory(super::super::ldap::LdapError),
    /// The directory's searcher has no password, and none is kept for this address and name.
    #[error("the searcher's password is needed: what is kept is told to no other address or name")]
    NoPassword,
    /// A rule that every token of the issuer fits.
    #[error("a rule names at least one claim by more than `*`")]
    Anyone,
    /// There is no such robot, provider or rule.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The database's.
    #[error(transparent)]
    Database(#[from] DbError),
}

/// Makes a provider known, or changes it. Without a secret it keeps that of the same issuer and client.
#[derive(Clone, Debug)]
pub struct SetProvider {
    /// Who does it.
    pub by: Actor,
    /// Name here: as an account's.
    pub name: String,
    /// What it is.
    pub provider: Provider,
}

impl SetProvider {
    /// The settings as they are kept: what is secret is told to no other address.
    async fn settings(&self, connection: &mut Connection) -> Result<Provider, DbError> {
        let mut provider = self.provider.clone();
        if provider.client_secret.is_none() {
            let row = connection.row(PROVIDER, values![&self.name]).await?;
            let known = row.map(|row| row.get(0)).transpose()?.and_then(parsed);
            let is_same =
                |it: &Provider| it.issuer == provider.issuer && it.client_id == provider.client_id;
            provider.client_secret = known.filter(is_same).and_then(|it| it.client_secret);
        }
        Ok(provider)
    }
}

impl Transaction for SetProvider {
    type Output = ();
    type Error = TrustError;

    async fn run(&self, connection: &mut Connection) -> Result<(), TrustError> {
        let Provider { issuer, client_id, signs_up, .. } = &self.provider;
        check_address(issuer, issuer)?;
        self.name.parse::<super::super::AccountName>().map_err(AccountError::from)?;
        let settings = json!(self.settings(connection).await?).to_string();
        let sql = "INSERT INTO identity_provider (name, kind, settings, created_at)
                   VALUES ($1, 'oidc', $2, $3) ON CONFLICT (name) DO UPDATE
                   SET settings = $2, kind = 'oidc'";
        let now = connection.now_ms();
        connection.execute(sql, values![&self.name, settings, now]).await?;
        let detail = json!({ "issuer": issuer, "client_id": client_id, "signs_up": signs_up });
        let (object, detail) = (self.name.as_str(), detail.to_string());
        let entry = Entry { action: "provider.set", object, detail: &detail };
        Ok(audit::append(connection, &self.by, entry).await?)
    }
}

/// Forgets a provider, or a directory; accounts and their identities stay.
#[derive(Clone, Debug)]
pub struct RemoveProvider {
    /// Who does it.
    pub by: Actor,
    /// Its name.
    pub name: String,
    /// Which of the two it is.
    pub kind: ProviderKind,
}

/// How people prove who they are elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderKind {
    /// OpenID Connect.
    Oidc,
    /// LDAP.
    Ldap,
}

impl ProviderKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Oidc => "oidc",
            Self::Ldap => "ldap",
        }
    }
}

impl Transaction for RemoveProvider {
    type Output = ();
    type Error = TrustError;

    async fn run(&self, connection: &mut Connection) -> Result<(), TrustError> {
        let sql = "DELETE FROM identity_provider WHERE name = $1 AND kind = $2";
        if connection.execute(sql, values![&self.name, self.kind.as_str()]).await? == 0 {
            return Err(AccountError::Unknown("provider", self.name.clone()).into());
        }
        let entry = Entry { action: "provider.remove", object: &self.name, detail: "{}" };
        Ok(audit::append(connection, &self.by, entry).await?)
    }
}

/// The providers, by name.
///
/// # Errors
/// The database's.
pub async fn providers(database: &Database) -> Result<Vec<ProviderRow>, DbError> {
    let sql = "SELECT name, settings FROM identity_provider WHERE kind = 'oidc'
               ORDER BY name LIMIT $1";
    let rows = database.reader().await?.rows(sql, values![MOST]).await?;
    let mut found = Vec::new();
    for row in &rows {
        let Some(provider) = parsed(row.get(1)?) else { continue };
        let name = row.get(0)?;
        let Provider { issuer, client_id, client_secret, signs_up } = provider;
        let has_secret = client_secret.is_some();
        found.push(ProviderRow { name, issuer, client_id, signs_up, has_secret });
    }
    Ok(found)
}

const PROVIDER: &str = "SELECT settings FROM identity_provider WHERE name = $1 AND kind = 'oidc'";

pub(super) async fn provider(database: &Database, name: &str) -> Result<Option<Provider>, DbError> {
    let row = database.reader().await?.row(PROVIDER, values![name]).await?;
    Ok(row.map(|row| row.get(0)).transpose()?.and_then(parsed))
}

#[allow(clippy::needless_pass_by_value, reason = "what a row's column is")]
fn parsed(settings: String) -> Option<Provider> {
    // What a later version wrote is not for this one.
    serde_json::from_str(&settings).ok()
}

/// Who someone is elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignIdentity {
    /// Who knows them, as it writes itself in tokens.
    pub issuer: String,
    /// As whom.
    pub subject: String,
}

/// Row of the account that has this identity.
pub(in crate::auth) async fn account_of(
    database: &Database,
    identity: &ForeignIdentity,
) -> Result<Option<i64>, DbError> {
    let sql = "SELECT account_id FROM identity WHERE issuer = $1 AND subject = $2";
    let values = values![&identity.issuer, &identity.subject];
    let row = database.reader().await?.row(sql, values).await?;
    row.map(|row| row.get(0)).transpose()
}

/// Identities of an account, by issuer.
///
/// # Errors
/// The database's.
pub async fn identities(
    database: &Database,
    account: &str,
) -> Result<Vec<ForeignIdentity>, DbError> {
    let sql = "SELECT identity.issuer, identity.subject FROM identity
               JOIN account ON account.id = identity.account_id
               WHERE account.name = $1 ORDER BY identity.issuer, identity.subject LIMIT $2";
    let rows = database.reader().await?.rows(sql, values![account, MOST]).await?;
    let identity = |row: &Row| Ok(ForeignIdentity { issuer: row.get(0)?, subject: row.get(1)? });
    rows.iter().map(identity).collect()
}

/// Takes an identity from an account, which nobody logs in to by it any more.
#[derive(Clone, Debug)]
pub struct RemoveIdentity {
    /// Who does it.
    pub by: Actor,
    /// The account: another's identity does not count.
    pub account: String,
    /// The identity.
    pub identity: ForeignIdentity,
}

impl Transaction for RemoveIdentity {
    type Output = ();
    type Error = AccountError;

    async fn run(&self, connection: &mut Connection) -> Result<(), AccountError> {
        let account = need(connection, &self.account, "account").await?;
        // Two removals at once do not each leave what the other takes.
        let sql = "SELECT password FROM account WHERE id = $1";
        let rows = connection.rows_locked(sql, values![account], Lock::Update).await?;
        let password: Option<String> = rows.first().map_or(Ok(None), |row| row.get(0))?;
        let ForeignIdentity { issuer, subject } = &self.identity;
        let sql = "DELETE FROM identity WHERE issuer = $1 AND subject = $2 AND account_id = $3";
        if connection.execute(sql, values![issuer, subject, account]).await? == 0 {
            return Err(AccountError::Unknown("identity", subject.clone()));
        }
        let sql = "SELECT 1 FROM identity WHERE account_id = $1 LIMIT 1";
        if password.is_none() && connection.row(sql, values![account]).await?.is_none() {
            return Err(AccountError::LastWayIn(self.account.clone()));
        }
        let detail = json!({ "issuer": issuer, "subject": subject }).to_string();
        let entry = Entry { action: "identity.remove", object: &self.account, detail: &detail };
        Ok(audit::append(connection, &self.by, entry).await?)
    }
}

/// Gives an identity to an account whose owner is logged in and has proved the identity as well.
pub(super) struct Link {
    pub(super) by: Actor,
    pub(super) account: i64,
    pub(super) identity: ForeignIdentity,
}

impl Transaction for Link {
    type Output = ();
    type Error = AccountError;

    async fn run(&self, connection: &mut Connection) -> Result<(), AccountError> {
        let ForeignIdentity { issuer, subject } = &self.identity;
        let sql = "INSERT INTO identity (issuer, subject, account_id, created_at)
                   VALUES ($1, $2, $3, $4) ON CONFLICT (issuer, subject) DO NOTHING";
        let values = values![issuer, subject, self.account, connection.now_ms()];
        if connection.execute(sql, values).await? == 0 {
            // Whose it is stays so: it would be a way to take an account over, or to hand one on.
            return Err(AccountError::Exists(subject.clone()));
        }
        let detail = json!({ "issuer": issuer, "subject": subject }).to_string();
        let entry = Entry { action: "identity.add", object: &self.by.name, detail: &detail };
        Ok(audit::append(connection, &self.by, entry).await?)
    }
}

/// Makes an account together with its identity; tells its row.
pub(in crate::auth) struct SignUpWith {
    pub(in crate::auth) sign_up: SignUp,
    pub(in crate::auth) identity: ForeignIdentity,
    /// Whether the provider's word is enough.
    pub(in crate::auth) is_vouched: bool,
}

impl Transaction for SignUpWith {
    type Output = i64;
    type Error = AccountError;

    async fn run(&self, connection: &mut Connection) -> Result<i64, AccountError> {
        if !self.is_vouched {
            self.sign_up.admit(connection).await?;
        }
        let account = self.sign_up.make(connection).await?;
        let (name, address) = (self.sign_up.name.clone(), self.sign_up.address.clone());
        let by = Actor { id: Some(account), name, address };
        Link { by, account, identity: self.identity.clone() }.run(connection).await?;
        Ok(account)
    }
}

/// What must be known again when a browser comes back. It is used once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Flow {
    pub(super) provider: String,
    /// SHA-256 of the browser's cookie.
    pub(super) browser: String,
    pub(super) nonce: Secret,
    pub(super) verifier: Secret,
    pub(super) redirect: String,
    /// Account to which the identity is to be added.
    pub(super) link: Option<i64>,
    /// Hash of an invitation.
    pub(super) invitation: Option<String>,
    /// The identity that was proved, where only a name is missing.
    pub(super) identity: Option<ForeignIdentity>,
    /// Where it was begun, and counts as an attempt.
    #[serde(default)]
    pub(super) address: Option<std::net::IpAddr>,
}

pub(super) struct KeepFlow {
    pub(super) key: TokenHash,
    pub(super) flow: Flow,
    pub(super) life_ms: i64,
}

impl Transaction for KeepFlow {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let now = connection.now_ms();
        let sql = "DELETE FROM login_flow WHERE expires_at <= $1 OR state IN
                   (SELECT state FROM login_flow ORDER BY expires_at DESC LIMIT 1000 OFFSET $2)";
        connection.execute(sql, values![now, MOST_FLOWS]).await?;
        let sql = "INSERT INTO login_flow (state, flow, expires_at) VALUES ($1, $2, $3)";
        let flow = json!(self.flow).to_string();
        let values = values![self.key.as_bytes(), flow, now.saturating_add(self.life_ms)];
        connection.execute(sql, values).await.map(drop)
    }
}

/// Takes a log-in under way out: whoever comes second finds none.
pub(super) struct TakeFlow(pub(super) TokenHash);

impl Transaction for TakeFlow {
    type Output = Option<Flow>;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<Option<Flow>, DbError> {
        let sql = "DELETE FROM login_flow WHERE state = $1 RETURNING flow, expires_at";
        let row = connection.row(sql, values![self.0.as_bytes()]).await?;
        let Some(row) = row else { return Ok(None) };
        let (flow, end): (String, i64) = (row.get(0)?, row.get(1)?);
        Ok(serde_json::from_str(&flow).ok().filter(|_: &Flow| end > connection.now_ms()))
    }
}

/// Lets tokens of an issuer stand for a robot.
#[derive(Clone, Debug)]
pub struct AddTrust {
    /// Who does it.
    pub by: Actor,
    /// The robot, `OWNER+NAME`.
    pub robot: String,
    /// The issuer, exactly as it writes itself in tokens.
    pub issuer: String,
    /// For whom the tokens must be.
    pub audience: String,
    /// Patterns by claim, all of which must match; `*` is any text.
    pub claims: BTreeMap<String, String>,
}

impl Transaction for AddTrust {
    type Output = i64;
    type Error = TrustError;

    async fn run(&self, connection: &mut Connection) -> Result<i64, TrustError> {
        check_address(&self.issuer, &self.issuer)?;
        if self.claims.values().all(|pattern| pattern.bytes().all(|byte| byte == b'*')) {
            return Err(TrustError::Anyone);
        }
        let robot = match find(connection, &self.robot).await? {
            Some((id, kind)) if kind == "robot" => id,
            _ => return Err(AccountError::Unknown("robot", self.robot.clone()).into()),
        };
        let sql = "INSERT INTO trust_rule (issuer, audience, claims, account_id, created_at)
                   VALUES ($1, $2, $3, $4, $5) RETURNING id";
        let claims = json!(self.claims).to_string();
        let now = connection.now_ms();
        let row = connection.row(sql, values![&self.issuer, &self.audience, claims, robot, now]);
        let id = row.await?.ok_or(DbError::Closed)?.get(0)?;
        let detail = json!({
            "id": id, "issuer": self.issuer, "audience": self.audience, "claims": self.claims,
        });
        let detail = detail.to_string();
        let entry = Entry { action: "trust.add", object: &self.robot, detail: &detail };
        audit::append(connection, &self.by, entry).await?;
        Ok(id)
    }
}

/// Ends a trust rule, and the keys that the robot has by any: which rule gave them is not kept.
#[derive(Clone, Debug)]
pub struct RemoveTrust {
    /// Who does it.
    pub by: Actor,
    /// The robot: another's rule does not count.
    pub robot: String,
    /// Its row.
    pub id: i64,
}

impl Transaction for RemoveTrust {
    type Output = ();
    type Error = TrustError;

    async fn run(&self, connection: &mut Connection) -> Result<(), TrustError> {
        let robot = need(connection, &self.robot, "account").await?;
        let sql = "DELETE FROM trust_rule WHERE id = $1 AND account_id = $2";
        if connection.execute(sql, values![self.id, robot]).await? == 0 {
            return Err(AccountError::Unknown("trust rule", self.id.to_string()).into());
        }
        let sql = "DELETE FROM token
                   WHERE account_id = $1 AND kind = 'robot' AND name = $2 AND expires_at = created_at + $3";
        connection.execute(sql, values![robot, KEY, KEY_LIFE_MS]).await?;
        let detail = json!({ "id": self.id }).to_string();
        let entry = Entry { action: "trust.remove", object: &self.robot, detail: &detail };
        Ok(audit::append(connection, &self.by, entry).await?)
    }
}

/// A trust rule in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustRow {
    /// Its row.
    pub id: i64,
    /// The robot's row and name.
    pub robot: (i64, String),
    /// The issuer.
    pub issuer: String,
    /// For whom the tokens must be.
    pub audience: String,
    /// Patterns by claim.
    pub claims: BTreeMap<String, String>,
}

const RULES: &str =
    "SELECT rule.id, account.id, account.name, rule.issuer, rule.audience, rule.claims
    FROM trust_rule rule JOIN account ON account.id = rule.account_id
    WHERE ($1 = '' OR account.name = $1) AND ($2 = '' OR rule.issuer = $2)
    ORDER BY rule.id LIMIT $3";

/// The rules of a robot, or of all where no name is given.
///
/// # Errors
/// The database's.
pub async fn trust_rules(database: &Database, robot: &str) -> Result<Vec<TrustRow>, DbError> {
    let rows = database.reader().await?.rows(RULES, values![robot, "", MOST]).await?;
    rows.iter().map(rule).collect()
}

pub(super) async fn rules_of(database: &Database, issuer: &str) -> Result<Vec<TrustRow>, DbError> {
    // An empty text asks for those of every issuer.
    if issuer.is_empty() {
        return Ok(Vec::new());
    }
    let rows = database.reader().await?.rows(RULES, values!["", issuer, MOST]).await?;
    rows.iter().map(rule).collect()
}

fn rule(row: &Row) -> Result<TrustRow, DbError> {
    let claims: String = row.get(5)?;
    Ok(TrustRow {
        id: row.get(0)?,
        robot: (row.get(1)?, row.get(2)?),
        issuer: row.get(3)?,
        audience: row.get(4)?,
        // Claims that cannot be read match nothing: there are none.
        claims: serde_json::from_str(&claims).unwrap_or_default(),
    })
}
