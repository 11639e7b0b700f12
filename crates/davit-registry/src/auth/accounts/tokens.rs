//! Personal access tokens, robots' keys, refresh tokens and invitations in the database.

use davit_distribution::wire::Scope;
use serde_json::json;

use super::{
    super::{
        OpaqueKind, TokenHash,
        audit::{self, Actor, Entry},
    },
    AccountError, find, need,
};
use crate::db::{Connection, Transaction, values};

/// Refresh tokens, and sessions, of one account: one per device and then some; the oldest goes first.
const DEVICES: i64 = 100;

/// Keeps a new credential's hash; tells its row.
#[derive(Clone, Debug)]
pub struct AddToken {
    /// Who makes it.
    pub by: Actor,
    /// Whose it is; an invitation is the inviter's.
    pub account: String,
    /// What it is for.
    pub kind: OpaqueKind,
    /// What its owner calls it.
    pub name: String,
    /// Its hash.
    pub hash: TokenHash,
    /// To what it is limited; nothing here: to nothing less than the account.
    pub scopes: Vec<Scope>,
    /// Milliseconds from now to its end; `None`: it has no end.
    pub life_ms: Option<i64>,
}

impl Transaction for AddToken {
    type Output = i64;
    type Error = AccountError;

    async fn run(&self, connection: &mut Connection) -> Result<i64, AccountError> {
        let account = self.owner(connection).await?;
        let now = connection.now_ms();
        if matches!(self.kind, OpaqueKind::Refresh | OpaqueKind::Session) {
            let sql = "DELETE FROM token WHERE account_id = $1 AND kind = $4
                       AND (expires_at <= $2 OR id NOT IN (SELECT id FROM token
                       WHERE account_id = $1 AND kind = $4 ORDER BY id DESC LIMIT $3))";
            let kind = self.kind.as_str();
            connection.execute(sql, values![account, now, DEVICES - 1, kind]).await?;
        }
        let scopes: Vec<String> = self.scopes.iter().map(ToString::to_string).collect();
        let row = connection
            .row(
                "INSERT INTO token (account_id, kind, name, sha256, scopes, created_at, expires_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id",
                values![
                    account,
                    self.kind.as_str(),
                    &self.name,
                    self.hash.as_bytes(),
                    json!(scopes).to_string(),
                    now,
                    self.life_ms.map(|life| now.saturating_add(life)),
                ],
            )
            .await?;
        let id = row.ok_or(crate::db::DbError::Closed)?.get(0)?;
        let detail =
            json!({ "id": id, "kind": self.kind.as_str(), "name": self.name, "scopes": scopes });
        let entry =
            Entry { action: "token.add", object: &self.account, detail: &detail.to_string() };
        audit::append(connection, &self.by, entry).await?;
        Ok(id)
    }
}

impl AddToken {
    /// Row of a user, or for a robot's key of a robot: nobody logs in as an organisation.
    async fn owner(&self, connection: &mut Connection) -> Result<i64, AccountError> {
        let kind = if self.kind == OpaqueKind::Robot { "robot" } else { "user" };
        let id = match find(connection, &self.account).await? {
            Some((id, found)) if found == kind => id,
            _ => return Err(AccountError::Unknown(kind, self.account.clone())),
        };
        if self.kind == OpaqueKind::Invite {
            let sql = "SELECT 1 FROM account WHERE id = $1 AND is_admin = 1 AND state = 'active'";
            if connection.row(sql, values![id]).await?.is_none() {
                return Err(AccountError::NotAdmin(self.account.clone()));
            }
        }
        Ok(id)
    }
}

/// Ends a credential at once.
#[derive(Clone, Debug)]
pub struct RevokeToken {
    /// Who ends it.
    pub by: Actor,
    /// Whose it is: another's row does not count.
    pub account: String,
    /// Its row.
    pub id: i64,
}

impl Transaction for RevokeToken {
    type Output = ();
    type Error = AccountError;

    async fn run(&self, connection: &mut Connection) -> Result<(), AccountError> {
        let account = need(connection, &self.account, "account").await?;
        let sql = "DELETE FROM token WHERE id = $1 AND account_id = $2";
        if connection.execute(sql, values![self.id, account]).await? == 0 {
            return Err(AccountError::Unknown("token", self.id.to_string()));
        }
        let detail = json!({ "id": self.id }).to_string();
        let entry = Entry { action: "token.revoke", object: &self.account, detail: &detail };
        Ok(audit::append(connection, &self.by, entry).await?)
    }
}
