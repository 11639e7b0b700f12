//! Accounts, organisations, teams and grants in the database.
//!
//! Each change is a [`Transaction`] that also writes its entry of the audit log.

mod changes;
mod lists;
mod organisations;
mod sign_up;
mod tokens;

pub use changes::{
    AddAccount, Kind, RemoveAccount, SetPassword, SetStanding, SetState, SetVisibility, Standing,
};
pub use lists::{
    AccountRow, AuditRow, GrantRow, MemberRow, RepositoryRow, TeamRow, TokenRow, accounts,
    audit_entries, grants, members, repositories, teams, tokens,
};
pub(crate) use organisations::ADDING_ONLY;
pub use organisations::{
    AddTeam, OrgRole, RemoveTeam, SetGrant, SetMember, SetTeamMember, Subject,
};
pub(in crate::auth) use sign_up::may_sign_up;
pub use sign_up::{SetSignUp, SignUp, SignUpMode, SignUpModeError};
pub use tokens::{AddToken, RevokeToken};

use super::{AccountName, NameError, PasswordError};
use crate::db::{Connection, Database, DbError, values};

/// Why a change of accounts is refused.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// There is no such account, team, token or repository.
    #[error("there is no {0} `{1}`")]
    Unknown(&'static str, String),
    /// The name is taken.
    #[error("the name `{0}` is taken")]
    Exists(String),
    /// The name cannot be used.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The password cannot be used.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// Its repositories would be someone else's.
    #[error("`{0}` has repositories")]
    HasRepositories(String),
    /// An organisation has an owner at all times.
    #[error("`{0}` is the last owner of `{1}`")]
    LastOwner(String, String),
    /// Only members of an organisation are in its teams.
    #[error("`{0}` is no member of `{1}`")]
    NotMember(String, String),
    /// A team or robot gets rights in its owner's namespace only.
    #[error("`{0}` reaches beyond the repositories of `{1}`")]
    OutsideNamespace(String, String),
    /// New accounts are not taken, or not without an invitation.
    #[error("this registry takes no new accounts{0}")]
    Closed(&'static str),
    /// Nobody could log in any more.
    #[error("`{0}` has no password, and would have no way in")]
    LastWayIn(String),
    /// Robots have no quota, and only users manage registries.
    #[error("`{0}` cannot be given this")]
    Standing(String),
    /// Only administrators of the whole registry invite.
    #[error("`{0}` does not manage this registry")]
    NotAdmin(String),
    /// The database's.
    #[error(transparent)]
    Database(#[from] DbError),
}

/// Row and kind of an account.
pub(in crate::auth) async fn find(
    connection: &mut Connection,
    name: &str,
) -> Result<Option<(i64, String)>, DbError> {
    let sql = "SELECT id, kind FROM account WHERE name = $1";
    let row = connection.row(sql, values![name]).await?;
    row.map(|row| Ok((row.get(0)?, row.get(1)?))).transpose()
}

/// Refuses a name that no user has.
///
/// # Errors
/// [`AccountError::Unknown`], or the database's.
pub async fn need_user(database: &Database, name: &str) -> Result<(), AccountError> {
    need(&mut database.reader().await?, name, "user").await.map(drop)
}

/// Row of an account of this kind (`org`), or of any (`account`).
pub(in crate::auth) async fn need(
    connection: &mut Connection,
    name: &str,
    what: &'static str,
) -> Result<i64, AccountError> {
    let kind = match what {
        "organisation" => Some("org"),
        "user" => Some("user"),
        _ => None,
    };
    match find(connection, name).await? {
        Some((id, found)) if kind.is_none_or(|kind| kind == found) => Ok(id),
        _ => Err(AccountError::Unknown(what, name.to_owned())),
    }
}

pub(in crate::auth) async fn team_id(
    connection: &mut Connection,
    org: &str,
    team: &str,
) -> Result<i64, AccountError> {
    let sql = "SELECT team.id FROM team JOIN account ON account.id = team.org_id
               WHERE account.name = $1 AND team.name = $2";
    let row = connection.row(sql, values![org, team]).await?;
    let row = row.ok_or_else(|| AccountError::Unknown("team", format!("{org}/{team}")))?;
    Ok(row.get(0)?)
}

/// Tells whether repositories lie in the namespace.
pub(crate) async fn has_repositories(
    connection: &mut Connection,
    name: &str,
) -> Result<bool, DbError> {
    // `0` is the byte after `/`.
    let sql = "SELECT 1 FROM repo WHERE path > $1 AND path < $2 LIMIT 1";
    let row = connection.row(sql, values![format!("{name}/"), format!("{name}0")]).await?;
    Ok(row.is_some())
}

/// The account's name, checked.
fn parsed(name: &str) -> Result<AccountName, AccountError> {
    Ok(name.parse()?)
}
