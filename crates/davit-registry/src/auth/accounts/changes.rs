//! Users, organisations and robots: made, changed, removed.

use serde_json::json;

use super::{
    super::{
        PasswordHash,
        audit::{self, Actor, Entry},
    },
    AccountError, find, has_repositories, need, parsed,
};
use crate::db::{Connection, Transaction, values};

/// What an account is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A person.
    User,
    /// A group with a namespace; nobody logs in as one.
    Organisation,
    /// A machine of a user or organisation, by whose name and `+` its name begins.
    Robot,
}

impl Kind {
    /// The word in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Organisation => "org",
            Self::Robot => "robot",
        }
    }
}

/// Makes an account; tells its row.
#[derive(Clone, Debug)]
pub struct AddAccount {
    /// Who makes it.
    pub by: Actor,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its password, for users.
    pub password: Option<PasswordHash>,
    /// Whether it manages the server.
    pub is_admin: bool,
}

impl Transaction for AddAccount {
    type Output = i64;
    type Error = AccountError;

    async fn run(&self, connection: &mut Connection) -> Result<i64, AccountError> {
        let name = parsed(&self.name)?;
        let owner = match name.robot_owner() {
            Some(owner) => Some(need(connection, owner, "account").await?),
            None => None,
        };
        if owner.is_some() != (self.kind == Kind::Robot) {
            return Err(super::NameError::Grammar(self.name.clone()).into());
        }
        let now = connection.now_ms();
        let password = self.password.as_ref().map(PasswordHash::as_str);
        let added = connection
            .execute(
                "INSERT INTO account (name, kind, is_admin, password, owner_id, created_at)
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (name) DO NOTHING",
                values![&self.name, self.kind.as_str(), self.is_admin, password, owner, now],
            )
            .await?;
        if added == 0 {
            return Err(AccountError::Exists(self.name.clone()));
        }
        let (id, _) = find(connection, &self.name)
            .await?
            .ok_or_else(|| AccountError::Unknown("account", self.name.clone()))?;
        // Repositories that came before their account belong to it from now on.
        connection
            .execute(
                "UPDATE repo SET owner_id = $1 WHERE path > $2 AND path < $3",
                values![id, format!("{name}/"), format!("{name}0")],
            )
            .await?;
        let detail = json!({ "kind": self.kind.as_str(), "admin": self.is_admin }).to_string();
        let entry = Entry { action: "account.add", object: &self.name, detail: &detail };
        audit::append(connection, &self.by, entry).await?;
        Ok(id)
    }
}

/// Removes an account, its robots, tokens, memberships and grants.
#[derive(Clone, Debug)]
pub struct RemoveAccount {
    /// Who removes it.
    pub by: Actor,
    /// Its name.
    pub name: String,
}

impl Transaction for RemoveAccount {
    type Output = ();
    type Error = AccountError;

    async fn run(&self, connection: &mut Connection) -> Result<(), AccountError> {
        let id = need(connection, &self.name, "account").await?;
        // The next who takes the name would own them.
        if has_repositories(connection, &self.name).await? {
            return Err(AccountError::HasRepositories(self.name.clone()));
        }
        let sql = "SELECT org.name FROM org_member m JOIN account org ON org.id = m.org_id
             WHERE m.account_id = $1 AND m.role = 'owner' AND NOT EXISTS (SELECT 1 FROM org_member
             other WHERE other.org_id = m.org_id AND other.role = 'owner'
             AND other.account_id <> $1) LIMIT 1";
        if let Some(row) = connection.row(sql, values![id]).await? {
            return Err(AccountError::LastOwner(self.name.clone(), row.get(0)?));
        }
        // Grants have no foreign key, since they are to accounts or teams.
        for sql in [
            "DELETE FROM access_grant WHERE subject_kind IN ('account', 'org')
             AND (subject_id = $1 OR subject_id IN (SELECT id FROM account WHERE owner_id = $1))",
            "DELETE FROM access_grant WHERE subject_kind = 'team'
             AND subject_id IN (SELECT id FROM team WHERE org_id = $1)",
            "DELETE FROM account WHERE id = $1",
        ] {
            connection.execute(sql, values![id]).await?;
        }
        // Nor have its webhooks, which it owns by their names.
        let sql = "DELETE FROM subscription WHERE SUBSTR(name, 1, LENGTH($1)) = $1";
        connection.execute(sql, values![format!("{}/", self.name)]).await?;
        let entry = Entry { action: "account.remove", object: &self.name, detail: "{}" };
        Ok(audit::append(connection, &self.by, entry).await?)
    }
}

/// Sets a password and ends every session and access token that came by the old one.
#[derive(Clone, Debug)]
pub struct SetPassword {
    /// Who sets it.
    pub by: Actor,
    /// Whose it is.
    pub name: String,
    /// The new one.
    pub password: PasswordHash,
}

impl Transaction for SetPassword {
    type Output = ();
    type Error = AccountError;

    async fn run(&self, connection: &mut Connection) -> Result<(), AccountError> {
        let id = need(connection, &self.name, "user").await?;
        let sql = "UPDATE account SET password = $1, epoch = epoch + 1 WHERE id = $2";
        connection.execute(sql, values![self.password.as_str(), id]).await?;
        let sql = "DELETE FROM token WHERE account_id = $1 AND kind IN ('refresh', 'session')";
        connection.execute(sql, values![id]).await?;
        let entry = Entry { action: "account.password", object: &self.name, detail: "{}" };
        Ok(audit::append(connection, &self.by, entry).await?)
    }
}

/// Lets an account in, or keeps it out at once; what it owns stays.
#[derive(Clone, Debug)]
pub struct SetState {
    /// Who sets it.
    pub by: Actor,
    /// Which account.
    pub name: String,
    /// Whether it may do anything.
    pub is_active: bool,
}

impl Transaction for SetState {
    type Output = ();
    type Error = AccountError;

    async fn run(&self, connection: &mut Connection) -> Result<(), AccountError> {
        let id = need(connection, &self.name, "account").await?;
        let state = if self.is_active { "active" } else { "disabled" };
        let sql = "UPDATE account SET state = $1, epoch = epoch + 1 WHERE id = $2";
        connection.execute(sql, values![state, id]).await?;
        let detail = json!({ "state": state }).to_string();
        let entry = Entry { action: "account.state", object: &self.name, detail: &detail };
        Ok(audit::append(connection, &self.by, entry).await?)
    }
}

/// What only administrators set of an account; what is absent stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether it manages the whole registry.
    pub is_admin: Option<bool>,
    /// Bytes that its repositories may hold; 0: there is no bound.
    pub quota_bytes: Option<u64>,
}

/// Changes the standing of a user or organisation.
#[derive(Clone, Debug)]
pub struct SetStanding {
    /// Who sets it.
    pub by: Actor,
    /// Which account.
    pub name: String,
    /// What becomes other.
    pub standing: Standing,
}

impl Transaction for SetStanding {
    type Output = ();
    type Error = AccountError;

    async fn run(&self, connection: &mut Connection) -> Result<(), AccountError> {
        let Standing { is_admin, quota_bytes } = self.standing;
        if self.standing == Standing::default() {
            return Ok(());
        }
        // Only people manage servers.
        let sql = "UPDATE account SET is_admin = COALESCE($1, is_admin), quota_bytes = CASE
                   WHEN $2 IS NULL THEN quota_bytes WHEN $2 = 0 THEN NULL ELSE $2 END
                   WHERE name = $3 AND kind <> 'robot' AND ($1 IS NULL OR kind = 'user')";
        let bound = quota_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        let values = values![is_admin.map(i64::from), bound, &self.name];
        if connection.execute(sql, values).await? == 0 {
            need(connection, &self.name, "account").await?;
            return Err(AccountError::Standing(self.name.clone()));
        }
        let detail = json!({ "admin": is_admin, "quota_bytes": quota_bytes }).to_string();
        let entry = Entry { action: "account.standing", object: &self.name, detail: &detail };
        Ok(audit::append(connection, &self.by, entry).await?)
    }
}

/// Shows a repository to everyone, or only to those with rights.
#[derive(Clone, Debug)]
pub struct SetVisibility {
    /// Who sets it.
    pub by: Actor,
    /// Path of the repository.
    pub path: String,
    /// Whether everyone may pull.
    pub is_public: bool,
}

impl Transaction for SetVisibility {
    type Output = ();
    type Error = AccountError;

    async fn run(&self, connection: &mut Connection) -> Result<(), AccountError> {
        let visibility = if self.is_public { "public" } else { "private" };
        let sql = "UPDATE repo SET visibility = $1 WHERE path = $2";
        if connection.execute(sql, values![visibility, &self.path]).await? == 0 {
            return Err(AccountError::Unknown("repository", self.path.clone()));
        }
        let detail = json!({ "visibility": visibility }).to_string();
        let entry = Entry { action: "repo.visibility", object: &self.path, detail: &detail };
        Ok(audit::append(connection, &self.by, entry).await?)
    }
}
