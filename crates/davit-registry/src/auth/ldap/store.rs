//! Directories, and which of their groups are which teams, in the database.

use std::collections::BTreeSet;

use davit_distribution::Secret;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::connection::Address;
use crate::{
    auth::{
        AccountError, AccountName,
        accounts::team_id,
        audit::{self, Actor, Entry},
        oidc::{ForeignIdentity, TrustError},
    },
    db::{Connection, Database, DbError, Transaction, values},
};

/// Rows of one answer.
const MOST: i64 = 1000;

/// A directory of people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LdapSource {
    /// `ldaps://HOST[:PORT]` or `ldap://HOST[:PORT]`.
    pub url: String,
    /// Whether `ldap://` turns to TLS before anything is said: off on this machine only.
    pub start_tls: bool,
    /// Certificates in PEM that are trusted instead of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificates: Option<String>,
    /// Who searches.
    pub bind_dn: String,
    /// The searcher's password.
    pub bind_password: Secret,
    /// Below which people are.
    pub users: String,
    /// Class of people.
    pub user_class: String,
    /// Attribute that is the name here.
    pub user_attribute: String,
    /// Attribute that is another for each entry and never changes.
    pub id_attribute: String,
    /// Below which groups are; `None`: groups do not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<String>,
    /// Attribute that is a group's name.
    pub group_attribute: String,
    /// Attribute with the DN of each member.
    pub member_attribute: String,
    /// Whether everyone whom it knows may have an account here, whatever sign-up is set to.
    pub signs_up: bool,
    /// How often its people are compared with their accounts; 0: never.
    pub sync_minutes: u32,
}

impl LdapSource {
    pub(super) fn sync_every_ms(&self) -> i64 {
        60_000 * i64::from(self.sync_minutes)
    }
}

impl Default for LdapSource {
    fn default() -> Self {
        let text = str::to_owned;
        Self {
            url: String::new(),
            start_tls: true,
            certificates: None,
            bind_dn: String::new(),
            bind_password: Secret::default(),
            users: String::new(),
            user_class: text("person"),
            user_attribute: text("uid"),
            id_attribute: text("entryUUID"),
            groups: None,
            group_attribute: text("cn"),
            member_attribute: text("member"),
            signs_up: true,
            sync_minutes: 60,
        }
    }
}

/// Makes a directory known, or changes it. Without a password it keeps that of the same searcher at the
/// same address.
#[derive(Clone, Debug)]
pub struct SetLdap {
    /// Who does it.
    pub by: Actor,
    /// Name here: as an account's.
    pub name: String,
    /// What it is.
    pub source: LdapSource,
}

impl SetLdap {
    /// The settings as they are kept: what is secret is told to no other address.
    async fn settings(&self, connection: &mut Connection) -> Result<LdapSource, TrustError> {
        let mut source = self.source.clone();
        if !source.bind_password.expose().is_empty() || source.bind_dn.is_empty() {
            return Ok(source);
        }
        let sql = "SELECT settings FROM identity_provider WHERE name = $1 AND kind = 'ldap'";
        let row = connection.row(sql, values![&self.name]).await?;
        let text: Option<String> = row.map(|row| row.get(0)).transpose()?;
        let known: Option<LdapSource> = text.and_then(|text| serde_json::from_str(&text).ok());
        let is_same = |it: &LdapSource| it.url == source.url && it.bind_dn == source.bind_dn;
        let known = known.filter(is_same).ok_or(TrustError::NoPassword)?;
        source.bind_password = known.bind_password;
        Ok(source)
    }
}

impl Transaction for SetLdap {
    type Output = ();
    type Error = TrustError;

    async fn run(&self, connection: &mut Connection) -> Result<(), TrustError> {
        Address::of(&self.source).map_err(TrustError::Directory)?;
        self.name.parse::<AccountName>().map_err(AccountError::from)?;
        let source = self.settings(connection).await?;
        let settings = json!(source).to_string();
        let sql = "INSERT INTO identity_provider (name, kind, settings, created_at, sync_at)
                   VALUES ($1, 'ldap', $2, $3, $4) ON CONFLICT (name) DO UPDATE
                   SET settings = $2, kind = 'ldap', sync_at = $4";
        let now = connection.now_ms();
        let due = now.saturating_add(source.sync_every_ms());
        connection.execute(sql, values![&self.name, settings, now, due]).await?;
        let LdapSource { url, users, groups, signs_up, .. } = &source;
        let detail = json!({ "url": url, "users": users, "groups": groups, "signs_up": signs_up });
        let (object, detail) = (self.name.as_str(), detail.to_string());
        let entry = Entry { action: "provider.set", object, detail: &detail };
        Ok(audit::append(connection, &self.by, entry).await?)
    }
}

/// A directory in a list.
#[derive(Clone, Debug)]
pub struct LdapRow {
    /// Its name here.
    pub name: String,
    /// What it is, without the password.
    pub source: LdapSource,
    /// When its people are compared next, in milliseconds; `None`: never.
    pub sync_at: Option<i64>,
    /// When they were compared last.
    pub synced_at: Option<i64>,
    /// What came of the last try.
    pub sync_result: Option<String>,
}

const SOURCES: &str =
    "SELECT name, settings, sync_at, synced_at, sync_result FROM identity_provider
    WHERE kind = 'ldap' AND ($1 = '' OR name = $1) AND sync_at <= $2 ORDER BY name LIMIT $3";

/// Directories with their passwords: one of them where a name is given, and whose time has come.
async fn rows(database: &Database, name: &str, due: i64) -> Result<Vec<LdapRow>, DbError> {
    let rows = database.reader().await?.rows(SOURCES, values![name, due, MOST]).await?;
    let mut found = Vec::new();
    for row in &rows {
        let settings: String = row.get(1)?;
        // What a later version wrote is not for this one.
        let Ok(source) = serde_json::from_str::<LdapSource>(&settings) else { continue };
        let at: i64 = row.get(2)?;
        found.push(LdapRow {
            name: row.get(0)?,
            sync_at: (source.sync_minutes > 0).then_some(at),
            source,
            synced_at: row.get(3)?,
            sync_result: row.get(4)?,
        });
    }
    Ok(found)
}

pub(super) async fn sources(database: &Database) -> Result<Vec<(String, LdapSource)>, DbError> {
    let rows = rows(database, "", i64::MAX).await?;
    Ok(rows.into_iter().map(|row| (row.name, row.source)).collect())
}

pub(super) async fn source(database: &Database, name: &str) -> Result<Option<LdapSource>, DbError> {
    // An empty text asks for all.
    if name.is_empty() {
        return Ok(None);
    }
    Ok(rows(database, name, i64::MAX).await?.pop().map(|row| row.source))
}

/// Directories whose people are to be compared now.
pub(super) async fn due(database: &Database) -> Result<Vec<(String, LdapSource)>, DbError> {
    let rows = rows(database, "", database.now_ms()).await?.into_iter();
    Ok(rows.filter(|row| row.sync_at.is_some()).map(|row| (row.name, row.source)).collect())
}

/// The directories, by name.
///
/// # Errors
/// The database's.
pub async fn ldap_sources(database: &Database) -> Result<Vec<LdapRow>, DbError> {
    let mut rows = rows(database, "", i64::MAX).await?;
    rows.iter_mut().for_each(|row| row.source.bind_password = Secret::default());
    Ok(rows)
}

/// Takes the comparison of a directory that is due; tells whether it was.
pub(super) struct TakeSync {
    pub(super) name: String,
    pub(super) every_ms: i64,
}

impl Transaction for TakeSync {
    type Output = bool;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<bool, DbError> {
        let sql = "UPDATE identity_provider SET sync_at = $1
                   WHERE name = $2 AND kind = 'ldap' AND sync_at <= $3";
        let now = connection.now_ms();
        let values = values![now.saturating_add(self.every_ms), &self.name, now];
        Ok(connection.execute(sql, values).await? == 1)
    }
}

/// Writes down what came of it.
pub(super) struct NoteSync {
    pub(super) name: String,
    pub(super) told: String,
    pub(super) is_done: bool,
}

impl Transaction for NoteSync {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let done_at = self.is_done.then(|| connection.now_ms());
        let sql = "UPDATE identity_provider SET sync_result = $1,
                   synced_at = COALESCE($2, synced_at) WHERE name = $3";
        connection.execute(sql, values![&self.told, done_at, &self.name]).await.map(drop)
    }
}

/// Who an entry is, for the table that accounts are found by.
pub(super) fn identity(source: &str, id: String) -> ForeignIdentity {
    // No issuer of tokens has such an address.
    ForeignIdentity { issuer: format!("ldap:{source}"), subject: id }
}

/// Makes the members of a directory's group members of a team.
#[derive(Clone, Debug)]
pub struct AddGroupMap {
    /// Who does it.
    pub by: Actor,
    /// The directory.
    pub source: String,
    /// The group's name there.
    pub group: String,
    /// Organisation and team.
    pub team: (String, String),
}

impl Transaction for AddGroupMap {
    type Output = ();
    type Error = AccountError;

    async fn run(&self, connection: &mut Connection) -> Result<(), AccountError> {
        let known = "SELECT 1 FROM identity_provider WHERE name = $1 AND kind = 'ldap'";
        if connection.row(known, values![&self.source]).await?.is_none() {
            return Err(AccountError::Unknown("directory", self.source.clone()));
        }
        let team = team_id(connection, &self.team.0, &self.team.1).await?;
        let sql = "INSERT INTO group_map (source, group_name, team_id) VALUES ($1, $2, $3)
                   ON CONFLICT (source, group_name, team_id) DO NOTHING";
        connection.execute(sql, values![&self.source, &self.group, team]).await?;
        let team = format!("{}/{}", self.team.0, self.team.1);
        let detail = json!({ "group": self.group, "team": team }).to_string();
        let entry = Entry { action: "group.map", object: &self.source, detail: &detail };
        Ok(audit::append(connection, &self.by, entry).await?)
    }
}

/// Ends that; members leave the team when they log in next, or are compared.
#[derive(Clone, Debug)]
pub struct RemoveGroupMap {
    /// Who does it.
    pub by: Actor,
    /// The directory.
    pub source: String,
    /// The group's name there.
    pub group: String,
}

impl Transaction for RemoveGroupMap {
    type Output = ();
    type Error = AccountError;

    async fn run(&self, connection: &mut Connection) -> Result<(), AccountError> {
        let sql = "DELETE FROM group_map WHERE source = $1 AND group_name = $2";
        if connection.execute(sql, values![&self.source, &self.group]).await? == 0 {
            return Err(AccountError::Unknown("group", self.group.clone()));
        }
        let detail = json!({ "group": self.group }).to_string();
        let entry = Entry { action: "group.unmap", object: &self.source, detail: &detail };
        Ok(audit::append(connection, &self.by, entry).await?)
    }
}

/// Directory, group and `ORG/TEAM` of each rule.
///
/// # Errors
/// The database's.
pub async fn group_maps(database: &Database) -> Result<Vec<(String, String, String)>, DbError> {
    let sql = "SELECT map.source, map.group_name, org.name, team.name FROM group_map map
               JOIN team ON team.id = map.team_id JOIN account org ON org.id = team.org_id
               ORDER BY map.source, map.group_name, org.name, team.name LIMIT $1";
    let rows = database.reader().await?.rows(sql, values![MOST]).await?;
    rows.iter()
        .map(|row| {
            let (org, team): (String, String) = (row.get(2)?, row.get(3)?);
            Ok((row.get(0)?, row.get(1)?, format!("{org}/{team}")))
        })
        .collect()
}

/// Rows of the teams that these groups are.
pub(super) async fn teams_of(
    database: &Database,
    source: &str,
    groups: &[String],
) -> Result<BTreeSet<i64>, DbError> {
    let sql = "SELECT group_name, team_id FROM group_map WHERE source = $1 LIMIT $2";
    let rows = database.reader().await?.rows(sql, values![source, MOST]).await?;
    let mut teams = BTreeSet::new();
    for row in &rows {
        let (group, team): (String, i64) = (row.get(0)?, row.get(1)?);
        if groups.contains(&group) {
            teams.insert(team);
        }
    }
    Ok(teams)
}

/// Puts someone into the teams of their groups, and out of those that a group put them into before.
#[derive(Debug)]
pub(super) struct GroupMembers {
    source: String,
    account: i64,
    teams: BTreeSet<i64>,
}

impl GroupMembers {
    pub(super) fn new(source: &str, account: i64, teams: BTreeSet<i64>) -> Self {
        Self { source: source.to_owned(), account, teams }
    }

    /// Tells whether it is not so already.
    pub(super) async fn differ(&self, database: &Database) -> Result<bool, DbError> {
        let (gone, new) = self.difference(&mut database.reader().await?).await?;
        Ok(!gone.is_empty() || !new.is_empty())
    }

    /// Teams to leave and to join; what an administrator gave by hand is neither.
    async fn difference(
        &self,
        connection: &mut Connection,
    ) -> Result<(Vec<i64>, Vec<i64>), DbError> {
        let sql = "SELECT team_id, source FROM team_member WHERE account_id = $1 LIMIT $2";
        let rows = connection.rows(sql, values![self.account, MOST]).await?;
        let (mut gone, mut there) = (Vec::new(), BTreeSet::new());
        for row in &rows {
            let (team, source): (i64, String) = (row.get(0)?, row.get(1)?);
            there.insert(team);
            if source == self.source && !self.teams.contains(&team) {
                gone.push(team);
            }
        }
        Ok((gone, self.teams.difference(&there).copied().collect()))
    }
}

impl Transaction for GroupMembers {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let (gone, new) = self.difference(connection).await?;
        for team in &new {
            let member = "INSERT INTO org_member (org_id, account_id, role, source)
                          SELECT org_id, $2, 'member', $3 FROM team WHERE id = $1
                          ON CONFLICT (org_id, account_id) DO NOTHING";
            connection.execute(member, values![*team, self.account, &self.source]).await?;
            let sql = "INSERT INTO team_member (team_id, account_id, source) VALUES ($1, $2, $3)
                       ON CONFLICT (team_id, account_id) DO NOTHING";
            connection.execute(sql, values![*team, self.account, &self.source]).await?;
        }
        for team in &gone {
            let sql = "DELETE FROM team_member WHERE team_id = $1 AND account_id = $2";
            connection.execute(sql, values![*team, self.account]).await?;
        }
        // Who came into an organisation by a group leaves it with the last team there.
        let sql = "DELETE FROM org_member WHERE account_id = $1 AND source = $2 AND role = 'member'
                   AND NOT EXISTS (SELECT 1 FROM team_member m JOIN team ON team.id = m.team_id
                   WHERE m.account_id = $1 AND team.org_id = org_member.org_id)";
        connection.execute(sql, values![self.account, &self.source]).await?;
        let detail = json!({ "account": self.account, "joins": new, "leaves": gone }).to_string();
        let by = Actor { id: None, name: format!("ldap:{}", self.source), address: None };
        let entry = Entry { action: "team.groups", object: &self.source, detail: &detail };
        audit::append(connection, &by, entry).await
    }
}
