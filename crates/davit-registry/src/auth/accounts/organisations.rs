//! Members, teams and grants.

use serde_json::json;

use super::{
    super::{
        AccountName, RepositoryGlob, Role,
        audit::{self, Actor, Entry},
    },
    AccountError, find, need, team_id,
};
use crate::db::{Connection, DbError, Transaction, values};

/// What someone is in an organisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrgRole {
    /// Is in it; what it may do comes by teams and grants.
    Member,
    /// Owns its namespace.
    Owner,
}

impl OrgRole {
    /// The word in commands and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Owner => "owner",
        }
    }
}

/// Puts a user into an organisation, or takes it out of it and all its teams.
#[derive(Clone, Debug)]
pub struct SetMember {
    /// Who sets it.
    pub by: Actor,
    /// The organisation.
    pub org: String,
    /// The user.
    pub account: String,
    /// What it is from now on; `None`: nothing.
    pub role: Option<OrgRole>,
}

impl Transaction for SetMember {
    type Output = ();
    type Error = AccountError;

    async fn run(&self, connection: &mut Connection) -> Result<(), AccountError> {
        let org = need(connection, &self.org, "organisation").await?;
        let account = need(connection, &self.account, "user").await?;
        if self.role != Some(OrgRole::Owner) && self.is_last_owner(connection, org, account).await?
        {
            return Err(AccountError::LastOwner(self.account.clone(), self.org.clone()));
        }
        match self.role {
            Some(role) => {
                let sql = "INSERT INTO org_member (org_id, account_id, role) VALUES ($1, $2, $3)
                           ON CONFLICT (org_id, account_id) DO UPDATE SET role = $3, source = ''";
                connection.execute(sql, values![org, account, role.as_str()]).await?;
            }
            None => {
                for sql in [
                    "DELETE FROM team_member WHERE account_id = $2
                     AND team_id IN (SELECT id FROM team WHERE org_id = $1)",
                    "DELETE FROM org_member WHERE org_id = $1 AND account_id = $2",
                ] {
                    connection.execute(sql, values![org, account]).await?;
                }
            }
        }
        let detail =
            json!({ "account": self.account, "role": self.role.map(OrgRole::as_str) }).to_string();
        let entry = Entry { action: "org.member", object: &self.org, detail: &detail };
        Ok(audit::append(connection, &self.by, entry).await?)
    }
}

impl SetMember {
    async fn is_last_owner(
        &self,
        connection: &mut Connection,
        org: i64,
        account: i64,
    ) -> Result<bool, DbError> {
        let sql = "SELECT account_id FROM org_member WHERE org_id = $1 AND role = 'owner' LIMIT 2";
        let owners = connection.rows(sql, values![org]).await?;
        let owners: Vec<i64> = owners.iter().map(|row| row.get(0)).collect::<Result<_, _>>()?;
        Ok(owners == [account])
    }
}

/// Makes a team of an organisation.
#[derive(Clone, Debug)]
pub struct AddTeam {
    /// Who makes it.
    pub by: Actor,
    /// The organisation.
    pub org: String,
    /// Its name, as an account's.
    pub team: String,
}

impl Transaction for AddTeam {
    type Output = ();
    type Error = AccountError;

    async fn run(&self, connection: &mut Connection) -> Result<(), AccountError> {
        let org = need(connection, &self.org, "organisation").await?;
        // A robot's grammar is that of a team: no reserved words, they are on pages of their own.
        AccountName::robot(&self.org.parse()?, &self.team)?;
        let sql = "INSERT INTO team (org_id, name) VALUES ($1, $2)
                   ON CONFLICT (org_id, name) DO NOTHING";
        if connection.execute(sql, values![org, &self.team]).await? == 0 {
            return Err(AccountError::Exists(format!("{}/{}", self.org, self.team)));
        }
        let detail = json!({ "team": self.team }).to_string();
        let entry = Entry { action: "team.add", object: &self.org, detail: &detail };
        Ok(audit::append(connection, &self.by, entry).await?)
    }
}

/// Removes a team and what was granted to it.
#[derive(Clone, Debug)]
pub struct RemoveTeam {
    /// Who removes it.
    pub by: Actor,
    /// The organisation.
    pub org: String,
    /// Its name.
    pub team: String,
}

impl Transaction for RemoveTeam {
    type Output = ();
    type Error = AccountError;

    async fn run(&self, connection: &mut Connection) -> Result<(), AccountError> {
        let team = team_id(connection, &self.org, &self.team).await?;
        for sql in [
            "DELETE FROM access_grant WHERE subject_kind = 'team' AND subject_id = $1",
            "DELETE FROM team WHERE id = $1",
        ] {
            connection.execute(sql, values![team]).await?;
        }
        let detail = json!({ "team": self.team }).to_string();
        let entry = Entry { action: "team.remove", object: &self.org, detail: &detail };
        Ok(audit::append(connection, &self.by, entry).await?)
    }
}

/// Puts a member of the organisation into a team, or takes it out.
#[derive(Clone, Debug)]
pub struct SetTeamMember {
    /// Who sets it.
    pub by: Actor,
    /// The organisation.
    pub org: String,
    /// The team.
    pub team: String,
    /// The user.
    pub account: String,
    /// Whether it is in the team from now on.
    pub is_member: bool,
}

impl Transaction for SetTeamMember {
    type Output = ();
    type Error = AccountError;

    async fn run(&self, connection: &mut Connection) -> Result<(), AccountError> {
        let team = team_id(connection, &self.org, &self.team).await?;
        let account = need(connection, &self.account, "user").await?;
        if self.is_member {
            let sql = "INSERT INTO team_member (team_id, account_id)
                       SELECT team.id, m.account_id FROM team JOIN org_member m
                       ON m.org_id = team.org_id WHERE team.id = $1 AND m.account_id = $2
                       ON CONFLICT (team_id, account_id) DO UPDATE SET source = ''";
            connection.execute(sql, values![team, account]).await?;
            let sql = "SELECT 1 FROM team_member WHERE team_id = $1 AND account_id = $2";
            if connection.row(sql, values![team, account]).await?.is_none() {
                return Err(AccountError::NotMember(self.account.clone(), self.org.clone()));
            }
        } else {
            let sql = "DELETE FROM team_member WHERE team_id = $1 AND account_id = $2";
            connection.execute(sql, values![team, account]).await?;
        }
        let detail =
            json!({ "team": self.team, "account": self.account, "member": self.is_member });
        let entry = Entry { action: "team.member", object: &self.org, detail: &detail.to_string() };
        Ok(audit::append(connection, &self.by, entry).await?)
    }
}

/// Who gets a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A user or robot.
    Account(String),
    /// Every member of an organisation.
    Members(String),
    /// A team of an organisation.
    Team(String, String),
    /// Every account.
    Everyone,
}

/// The condition of a grant that moves no tag.
pub(crate) const ADDING_ONLY: &str = "create";

/// Gives a role on repositories, or takes it back.
#[derive(Clone, Debug)]
pub struct SetGrant {
    /// Who gives it.
    pub by: Actor,
    /// Who gets it.
    pub subject: Subject,
    /// On what.
    pub glob: RepositoryGlob,
    /// Which; `None`: none any more.
    pub role: Option<Role>,
    /// Whether tags may be made but not moved.
    pub is_adding_only: bool,
}

impl Transaction for SetGrant {
    type Output = ();
    type Error = AccountError;

    async fn run(&self, connection: &mut Connection) -> Result<(), AccountError> {
        let (kind, id, shown) = self.subject(connection).await?;
        match self.role {
            Some(role) => {
                let condition = self.is_adding_only.then_some(ADDING_ONLY);
                let now = connection.now_ms();
                let sql = "INSERT INTO access_grant (subject_kind, subject_id, repo_glob, role,
                           condition, created_at) VALUES ($1, $2, $3, $4, $5, $6)
                           ON CONFLICT (subject_kind, subject_id, repo_glob)
                           DO UPDATE SET role = $4, condition = $5";
                let glob = self.glob.as_str();
                let values = values![kind, id, glob, role.as_str(), condition, now];
                connection.execute(sql, values).await?;
            }
            None => {
                let sql = "DELETE FROM access_grant WHERE subject_kind = $1 AND subject_id = $2
                           AND repo_glob = $3";
                let removed =
                    connection.execute(sql, values![kind, id, self.glob.as_str()]).await?;
                if removed == 0 {
                    let what = format!("{} to {shown}", self.glob);
                    return Err(AccountError::Unknown("grant", what));
                }
            }
        }
        let detail = json!({
            "subject": shown,
            "role": self.role.map(Role::as_str),
            "adding_only": self.is_adding_only,
        });
        let entry =
            Entry { action: "grant.set", object: self.glob.as_str(), detail: &detail.to_string() };
        Ok(audit::append(connection, &self.by, entry).await?)
    }
}

impl SetGrant {
    /// Kind, row and printed name of who gets it; teams and robots stay in their namespace.
    async fn subject(
        &self,
        connection: &mut Connection,
    ) -> Result<(&'static str, i64, String), AccountError> {
        let (kind, id, shown, owner) = match &self.subject {
            Subject::Account(name) => {
                let (id, kind) = find(connection, name)
                    .await?
                    .filter(|(_, kind)| kind != "org")
                    .ok_or_else(|| AccountError::Unknown("account", name.clone()))?;
                let owner = if kind == "robot" { name.split('+').next() } else { None };
                ("account", id, name.clone(), owner)
            }
            Subject::Members(org) => {
                let id = need(connection, org, "organisation").await?;
                ("org", id, org.clone(), Some(org.as_str()))
            }
            Subject::Team(org, team) => {
                let id = team_id(connection, org, team).await?;
                ("team", id, format!("{org}/{team}"), Some(org.as_str()))
            }
            Subject::Everyone => ("everyone", 0, "everyone".to_owned(), None),
        };
        if let Some(owner) = owner
            && !self.glob.is_within(owner)
        {
            return Err(AccountError::OutsideNamespace(self.glob.to_string(), owner.to_owned()));
        }
        Ok((kind, id, shown))
    }
}
