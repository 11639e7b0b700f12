//! Directories, and which of their groups are which teams, in the database.

use std::collections::BTreeSet;

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
    pub bind_password: String,
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
}

impl Default for LdapSource {
    fn default() -> Self {
        let text = str::to_owned;
        Self {
            url: String::new(),
            start_tls: true,
            certificates: None,
            bind_dn: String::new(),
            bind_password: String::new(),
            users: String::new(),
            user_class: text("person"),
            user_attribute: text("uid"),
            id_attribute: text("entryUUID"),
            groups: None,
            group_attribute: text("cn"),
            member_attribute: text("member"),
            signs_up: true,
        }
    }
}

/// Makes a directory known, or changes it.
#[derive(Clone, Debug)]
pub struct SetLdap {
    /// Who does it.
    pub by: Actor,
    /// Name here: as an account's.
    pub name: String,
    /// What it is.
    pub source: LdapSource,
}

impl Transaction for SetLdap {
    type Output = ();
    type Error = TrustError;

    async fn run(&self, connection: &mut Connection) -> Result<(), TrustError> {
        Address::of(&self.source).map_err(TrustError::Directory)?;
        self.name.parse::<AccountName>().map_err(AccountError::from)?;
        let settings = json!(self.source).to_string();
        let sql = "INSERT INTO identity_provider (name, kind, settings, created_at)
                   VALUES ($1, 'ldap', $2, $3) ON CONFLICT (name) DO UPDATE
                   SET settings = $2, kind = 'ldap'";
        let now = connection.now_ms();
        connection.execute(sql, values![&self.name, settings, now]).await?;
        let LdapSource { url, users, groups, signs_up, .. } = &self.source;
        let detail = json!({ "url": url, "users": users, "groups": groups, "signs_up": signs_up });
        let (object, detail) = (self.name.as_str(), detail.to_string());
        let entry = Entry { action: "provider.set", object, detail: &detail };
        Ok(audit::append(connection, &self.by, entry).await?)
    }
}

pub(super) async fn sources(database: &Database) -> Result<Vec<(String, LdapSource)>, DbError> {
    let sql = "SELECT name, settings FROM identity_provider WHERE kind = 'ldap'
               ORDER BY name LIMIT $1";
    let rows = database.reader().await?.rows(sql, values![MOST]).await?;
    let mut found = Vec::new();
    for row in &rows {
        let (name, settings): (String, String) = (row.get(0)?, row.get(1)?);
        // What a later version wrote is not for this one.
        if let Ok(source) = serde_json::from_str(&settings) {
            found.push((name, source));
        }
    }
    Ok(found)
}

/// Names and addresses of the directories.
///
/// # Errors
/// The database's.
pub async fn ldap_sources(database: &Database) -> Result<Vec<(String, String)>, DbError> {
    Ok(sources(database).await?.into_iter().map(|(name, source)| (name, source.url)).collect())
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

/// Ends that; members leave the team when they log in next.
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
pub(super) struct GroupMembers {
    source: String,
    account: i64,
    teams: BTreeSet<i64>,
}

impl GroupMembers {
    /// Does so where it is not so already.
    pub(super) async fn replace(
        database: &Database,
        source: &str,
        account: i64,
        teams: BTreeSet<i64>,
    ) -> Result<(), DbError> {
        let members = Self { source: source.to_owned(), account, teams };
        let (gone, new) = members.difference(&mut database.reader().await?).await?;
        if gone.is_empty() && new.is_empty() {
            return Ok(());
        }
        database.write(members).await
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
