//! Sign-up: who may make an account for themselves, and how it is made.

use std::{fmt, str::FromStr};

use serde_json::json;

use super::{
    super::{
        OpaqueKind, PasswordHash, TokenHash,
        audit::{self, Actor, Entry},
    },
    AccountError, AddAccount, Kind, has_repositories,
};
use crate::db::{Connection, Database, DbError, Transaction, values};

/// Name of the setting in the database.
const SETTING: &str = "sign_up";

/// Who may make an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignUpMode {
    /// Everyone.
    Open,
    /// Whoever has an invitation of an administrator.
    Invite,
    /// Nobody: administrators and the command line make accounts.
    Closed,
}

/// Why a text is no mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` says nothing of sign-up (open, invite, closed)")]
pub struct SignUpModeError(String);

impl SignUpMode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Open, Self::Invite, Self::Closed];

    /// The word in commands and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Invite => "invite",
            Self::Closed => "closed",
        }
    }

    /// What was set; `None` until something was.
    ///
    /// # Errors
    /// The database's.
    pub async fn of(database: &Database) -> Result<Option<Self>, DbError> {
        Self::read(&mut database.reader().await?).await
    }

    async fn read(connection: &mut Connection) -> Result<Option<Self>, DbError> {
        let row = connection.row("SELECT value FROM setting WHERE name = $1", values![SETTING]);
        let Some(row) = row.await? else { return Ok(None) };
        // What a later version may have set opens no door here.
        Ok(Some(row.get::<String>(0)?.parse().unwrap_or(Self::Closed)))
    }
}

impl fmt::Display for SignUpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SignUpMode {
    type Err = SignUpModeError;

    fn from_str(text: &str) -> Result<Self, SignUpModeError> {
        let mode = Self::ALL.into_iter().find(|mode| mode.as_str() == text);
        mode.ok_or_else(|| SignUpModeError(text.to_owned()))
    }
}

/// Sets who may make an account, from now on and for every server of the database.
#[derive(Clone, Debug)]
pub struct SetSignUp {
    /// Who sets it.
    pub by: Actor,
    /// Who may.
    pub mode: SignUpMode,
}

impl Transaction for SetSignUp {
    type Output = ();
    type Error = AccountError;

    async fn run(&self, connection: &mut Connection) -> Result<(), AccountError> {
        let sql = "INSERT INTO setting (name, value) VALUES ($1, $2)
                   ON CONFLICT (name) DO UPDATE SET value = $2";
        connection.execute(sql, values![SETTING, self.mode.as_str()]).await?;
        let detail = json!({ "mode": self.mode.as_str() }).to_string();
        let entry = Entry { action: "sign_up.set", object: SETTING, detail: &detail };
        Ok(audit::append(connection, &self.by, entry).await?)
    }
}

/// Makes an account for whoever asks, as far as that is allowed; tells its row.
#[derive(Clone, Debug)]
pub struct SignUp {
    /// Its name.
    pub name: String,
    /// Its password; `None` for who logs in elsewhere.
    pub password: Option<PasswordHash>,
    /// Who may, until it was set.
    pub usual: SignUpMode,
    /// The invitation that was shown.
    pub invitation: Option<TokenHash>,
    /// Where the request came from.
    pub address: Option<String>,
}

impl Transaction for SignUp {
    type Output = i64;
    type Error = AccountError;

    async fn run(&self, connection: &mut Connection) -> Result<i64, AccountError> {
        self.admit(connection).await?;
        self.make(connection).await
    }
}

impl SignUp {
    /// Refuses who may not, and uses an invitation up.
    pub(in crate::auth) async fn admit(
        &self,
        connection: &mut Connection,
    ) -> Result<(), AccountError> {
        if let Some(token) = may_sign_up(connection, self.usual, self.invitation).await? {
            // An invitation is good for one account.
            let sql = "DELETE FROM token WHERE id = $1";
            connection.execute(sql, values![token]).await?;
        }
        Ok(())
    }

    /// Makes the account of who may have one.
    pub(in crate::auth) async fn make(
        &self,
        connection: &mut Connection,
    ) -> Result<i64, AccountError> {
        // Otherwise whoever comes first would own what an administrator has put there.
        if has_repositories(connection, &self.name).await? {
            return Err(AccountError::Exists(self.name.clone()));
        }
        let by = Actor { id: None, name: self.name.clone(), address: self.address.clone() };
        let account = AddAccount {
            by,
            name: self.name.clone(),
            kind: Kind::User,
            password: self.password.clone(),
            is_admin: false,
        };
        account.run(connection).await
    }
}

/// Refuses who may not sign up; tells the row of the invitation that is needed for it.
///
/// # Errors
/// [`AccountError::Closed`], or the database's.
pub(in crate::auth) async fn may_sign_up(
    connection: &mut Connection,
    usual: SignUpMode,
    invitation: Option<TokenHash>,
) -> Result<Option<i64>, AccountError> {
    match SignUpMode::read(connection).await?.unwrap_or(usual) {
        SignUpMode::Open => return Ok(None),
        SignUpMode::Closed => return Err(AccountError::Closed("")),
        SignUpMode::Invite => {}
    }
    let needed = AccountError::Closed(" without an invitation");
    let Some(invitation) = invitation else { return Err(needed) };
    // Whoever is no administrator any more has invited nobody.
    let sql = "SELECT token.id FROM token JOIN account ON account.id = token.account_id
               WHERE token.sha256 = $1 AND token.kind = $2 AND token.expires_at > $3
               AND account.state = 'active' AND account.is_admin = 1";
    let now = connection.now_ms();
    let values = values![invitation.as_bytes(), OpaqueKind::Invite.as_str(), now];
    // Locked, lest two sign up by one invitation.
    let lock = crate::db::Lock::Update;
    let rows = connection.rows_locked(sql, values, lock).await?;
    Ok(Some(rows.first().ok_or(needed)?.get(0)?))
}
