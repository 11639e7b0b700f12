//! What the command line and pages show.

use crate::db::{Connection, Database, DbError, Row, Value, values};

/// Rows of one answer: lists for people.
const MOST: i64 = 10_000;

/// One account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountRow {
    /// Its name.
    pub name: String,
    /// `user`, `org` or `robot`.
    pub kind: String,
    /// `active`, `invited` or `disabled`.
    pub state: String,
    /// Whether it manages the server.
    pub is_admin: bool,
    /// Milliseconds since 1970.
    pub created_at: i64,
    /// Bytes that its repositories hold, each blob once.
    pub used_bytes: u64,
    /// Bytes that they may hold.
    pub quota_bytes: Option<u64>,
}

/// One member of an organisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRow {
    /// Name of the account.
    pub name: String,
    /// `member` or `owner`.
    pub role: String,
}

/// One team with its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeamRow {
    /// Its name.
    pub name: String,
    /// Names of its members.
    pub members: Vec<String>,
}

/// One grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRow {
    /// To whom: `alice`, `acme+ci`, `team acme/dev`, `members of acme`, `everyone`.
    pub subject: String,
    /// On what.
    pub glob: String,
    /// Which role.
    pub role: String,
    /// Whether it moves no tags.
    pub is_adding_only: bool,
}

/// One credential; the secret itself is known to nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// Its row.
    pub id: i64,
    /// `pat`, `robot`, `refresh`, `session` or `invite`.
    pub kind: String,
    /// What its owner calls it.
    pub name: String,
    /// To what it is limited, as a JSON list of scopes.
    pub scopes: String,
    /// Milliseconds since 1970.
    pub created_at: i64,
    /// Milliseconds since 1970.
    pub expires_at: Option<i64>,
    /// Milliseconds since 1970, to the minute.
    pub last_used_at: Option<i64>,
}

/// One repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryRow {
    /// Its name.
    pub path: String,
    /// `public` or `private`.
    pub visibility: String,
    /// Milliseconds since 1970.
    pub created_at: i64,
}

/// One entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Milliseconds since 1970.
    pub at: i64,
    /// Who did it.
    pub actor: String,
    /// What.
    pub action: String,
    /// To what.
    pub object: String,
    /// The rest, as JSON.
    pub detail: String,
    /// From where.
    pub address: Option<String>,
}

/// Accounts of this kind (`user`, `org`, `robot`), by name.
///
/// # Errors
/// The database's.
pub async fn accounts(database: &Database, kind: &str) -> Result<Vec<AccountRow>, DbError> {
    let sql = "SELECT name, kind, state, is_admin, created_at, used_bytes, quota_bytes FROM account WHERE kind = $1
               ORDER BY name LIMIT $2";
    list(database, sql, values![kind, MOST], |row| {
        Ok(AccountRow {
            name: row.get(0)?,
            kind: row.get(1)?,
            state: row.get(2)?,
            is_admin: row.get(3)?,
            created_at: row.get(4)?,
            used_bytes: row.get(5)?,
            quota_bytes: row.get(6)?,
        })
    })
    .await
}

/// Members of an organisation, by name.
///
/// # Errors
/// The database's.
pub async fn members(database: &Database, org: &str) -> Result<Vec<MemberRow>, DbError> {
    let sql = "SELECT account.name, m.role FROM org_member m
               JOIN account ON account.id = m.account_id JOIN account org ON org.id = m.org_id
               WHERE org.name = $1 ORDER BY account.name LIMIT $2";
    list(database, sql, values![org, MOST], |row| {
        Ok(MemberRow { name: row.get(0)?, role: row.get(1)? })
    })
    .await
}

/// Teams of an organisation, by name.
///
/// # Errors
/// The database's.
pub async fn teams(database: &Database, org: &str) -> Result<Vec<TeamRow>, DbError> {
    let sql = "SELECT team.name, account.name FROM team JOIN account org ON org.id = team.org_id
               LEFT JOIN team_member m ON m.team_id = team.id
               LEFT JOIN account ON account.id = m.account_id
               WHERE org.name = $1 ORDER BY team.name, account.name LIMIT $2";
    let read =
        |row: &Row| -> Result<(String, Option<String>), DbError> { Ok((row.get(0)?, row.get(1)?)) };
    let mut teams: Vec<TeamRow> = Vec::new();
    for (name, member) in list(database, sql, values![org, MOST], read).await? {
        match teams.last_mut().filter(|team| team.name == name) {
            Some(team) => team.members.extend(member),
            None => teams.push(TeamRow { name, members: member.into_iter().collect() }),
        }
    }
    Ok(teams)
}

/// Grants on patterns that begin with this text, by pattern; an empty text means all.
///
/// # Errors
/// The database's.
pub async fn grants(database: &Database, prefix: &str) -> Result<Vec<GrantRow>, DbError> {
    let sql = "SELECT g.subject_kind, account.name, org.name, team.name, g.repo_glob, g.role,
               g.condition FROM access_grant g
               LEFT JOIN account ON g.subject_kind IN ('account', 'org')
               AND account.id = g.subject_id
               LEFT JOIN team ON g.subject_kind = 'team' AND team.id = g.subject_id
               LEFT JOIN account org ON org.id = team.org_id
               ORDER BY g.repo_glob, g.subject_kind, g.subject_id LIMIT $1";
    let rows = list(database, sql, values![MOST], |row| {
        let (kind, account): (String, Option<String>) = (row.get(0)?, row.get(1)?);
        let (org, team): (Option<String>, Option<String>) = (row.get(2)?, row.get(3)?);
        let condition: Option<String> = row.get(6)?;
        let account = account.unwrap_or_default();
        let subject = match kind.as_str() {
            "account" => account,
            "org" => format!("members of {account}"),
            "team" => format!("team {}/{}", org.unwrap_or_default(), team.unwrap_or_default()),
            _ => "everyone".to_owned(),
        };
        Ok(GrantRow {
            subject,
            glob: row.get(4)?,
            role: row.get(5)?,
            is_adding_only: condition.is_some(),
        })
    })
    .await?;
    Ok(rows.into_iter().filter(|row| row.glob.starts_with(prefix)).collect())
}

/// Credentials of an account, oldest first.
///
/// # Errors
/// The database's.
pub async fn tokens(database: &Database, account: &str) -> Result<Vec<TokenRow>, DbError> {
    let sql = "SELECT token.id, token.kind, token.name, token.scopes, token.created_at,
               token.expires_at, token.last_used_at FROM token
               JOIN account ON account.id = token.account_id
               WHERE account.name = $1 ORDER BY token.id LIMIT $2";
    list(database, sql, values![account, MOST], |row| {
        Ok(TokenRow {
            id: row.get(0)?,
            kind: row.get(1)?,
            name: row.get(2)?,
            scopes: row.get(3)?,
            created_at: row.get(4)?,
            expires_at: row.get(5)?,
            last_used_at: row.get(6)?,
        })
    })
    .await
}

/// Repositories whose names begin with this text, by name.
///
/// # Errors
/// The database's.
pub async fn repositories(
    database: &Database,
    prefix: &str,
) -> Result<Vec<RepositoryRow>, DbError> {
    // No byte of a name comes after `z`.
    let sql = "SELECT path, visibility, created_at FROM repo WHERE path >= $1 AND path < $2
               ORDER BY path LIMIT $3";
    list(database, sql, values![prefix, format!("{prefix}{{"), MOST], |row| {
        Ok(RepositoryRow { path: row.get(0)?, visibility: row.get(1)?, created_at: row.get(2)? })
    })
    .await
}

/// The newest entries of the audit log, newest first.
///
/// # Errors
/// The database's.
pub async fn audit_entries(database: &Database, most: i64) -> Result<Vec<AuditRow>, DbError> {
    let sql = "SELECT at, actor, action, object, detail, address FROM audit
               ORDER BY id DESC LIMIT $1";
    list(database, sql, values![most.min(MOST)], |row| {
        Ok(AuditRow {
            at: row.get(0)?,
            actor: row.get(1)?,
            action: row.get(2)?,
            object: row.get(3)?,
            detail: row.get(4)?,
            address: row.get(5)?,
        })
    })
    .await
}

async fn list<T>(
    database: &Database,
    sql: &'static str,
    values: Vec<Value>,
    read: impl Fn(&Row) -> Result<T, DbError>,
) -> Result<Vec<T>, DbError> {
    let mut connection: Connection = database.reader().await?;
    connection.rows(sql, values).await?.iter().map(read).collect()
}
