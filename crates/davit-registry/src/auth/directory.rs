//! Accounts as requests need them, kept in memory for as long as nothing changed.
//!
//! What is kept is good while the audit log's head stays the same, for whatever changes rights
//! writes an entry. Whether anything was committed at all is seen by one small read on SQLite, so
//! that a revocation counts from the next request on, whichever process made it. PostgreSQL is
//! asked after each change of this process, and ten times a second at most for those of others: they
//! count after a tenth of a second. What was proved by a change that another process has just made is
//! not refused for that: see [`Directory::account_if`].

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use davit_distribution::wire::Scope;

use super::{Limit, Rights, Role, Standing, TokenHash, accounts::ADDING_ONLY, audit};
use crate::db::{ChangeMark, Connection, Database, DbError, values};

/// How long PostgreSQL's answer is believed.
const BELIEF: Duration = Duration::from_millis(100);
/// Entries of each map; beyond that it starts anew.
const MOST: usize = 10_000;

/// An account, and what hangs on it.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) id: i64,
    pub(super) name: String,
    /// Whether it, and who owns it, may do anything.
    pub(super) is_active: bool,
    pub(super) epoch: i64,
    pub(super) standing: Arc<Standing>,
    /// Rows of its credentials, when they end, and to what they are limited.
    credentials: BTreeMap<i64, (Option<i64>, Option<Arc<Limit>>)>,
}

impl Account {
    /// Tells whether the credential was neither revoked nor has ended.
    pub(super) fn has_credential(&self, id: i64, now_ms: i64) -> bool {
        self.credentials.get(&id).is_some_and(|(end, _)| end.is_none_or(|end| end > now_ms))
    }

    /// To what the credential is limited.
    pub(super) fn limit_of(&self, id: i64) -> Option<Arc<Limit>> {
        self.credentials.get(&id)?.1.clone()
    }
}

/// A credential of the database.
#[derive(Debug)]
pub(super) struct Credential {
    pub(super) id: i64,
    pub(super) account: i64,
    pub(super) kind: String,
    pub(super) limit: Option<Arc<Limit>>,
    pub(super) last_used_at: Mutex<i64>,
}

/// What a login by password needs.
pub(super) struct Login {
    pub(super) account: i64,
    pub(super) epoch: i64,
    pub(super) password: Option<String>,
}

#[derive(Debug)]
pub(super) struct Directory {
    database: Database,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    mark: Option<ChangeMark>,
    /// When PostgreSQL was asked, and after which of the own changes.
    asked: Option<(Instant, u64)>,
    head: String,
    accounts: HashMap<i64, Arc<Account>>,
    credentials: HashMap<TokenHash, Arc<Credential>>,
    /// By path; false for repositories that are absent.
    public: HashMap<String, bool>,
}

impl Directory {
    pub(super) fn new(database: Database) -> Self {
        Self { database, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what is out of date; tells the head for which the rest is good.
    async fn refresh(&self) -> Result<(), DbError> {
        // Taken before the query: what is committed after it will differ from it.
        let mark = self.database.change_mark();
        let changes = self.database.own_changes();
        let is_believed = |(at, then): (Instant, u64)| at.elapsed() < BELIEF && then == changes;
        let is_fresh = |kept: &Kept| match mark {
            Some(mark) => kept.mark == Some(mark),
            None => kept.asked.is_some_and(is_believed),
        };
        if is_fresh(&self.kept()) {
            return Ok(());
        }
        let asked = (Instant::now(), changes);
        let head = audit::head(&mut self.database.lookup().await?).await?;
        let mut kept = self.kept();
        if kept.head != head {
            *kept = Kept { head, ..Kept::default() };
        }
        (kept.mark, kept.asked) = (mark, Some(asked));
        Ok(())
    }

    /// The account of this row; `None` if there is none.
    pub(super) async fn account(&self, id: i64) -> Result<Option<Arc<Account>>, DbError> {
        self.refresh().await?;
        let head = {
            let kept = self.kept();
            if let Some(account) = kept.accounts.get(&id) {
                return Ok(Some(Arc::clone(account)));
            }
            kept.head.clone()
        };
        let mut connection = self.database.lookup().await?;
        let Some(account) = load_account(&mut connection, id).await? else { return Ok(None) };
        let account = Arc::new(account);
        self.keep(&head, |kept| insert(&mut kept.accounts, id, Arc::clone(&account)));
        Ok(Some(account))
    }

    /// The account of this row, if it is good for what it shall prove. Before it is not, the database is
    /// asked for what another process may have changed a moment ago.
    pub(super) async fn account_if(
        &self,
        id: i64,
        is_good: impl Fn(&Account) -> bool,
    ) -> Result<Option<Arc<Account>>, DbError> {
        let known = self.account(id).await?.filter(|account| is_good(account));
        if known.is_some() || !self.doubt() {
            return Ok(known);
        }
        Ok(self.account(id).await?.filter(|account| is_good(account)))
    }

    /// Has PostgreSQL asked the next time; tells whether that could bring something new.
    fn doubt(&self) -> bool {
        self.database.is_shared() && self.kept().asked.take().is_some()
    }

    /// The credential with this hash; `None` if there is none. Whether it has ended, and whether
    /// its account may do anything, the account tells.
    pub(super) async fn credential(
        &self,
        hash: TokenHash,
    ) -> Result<Option<Arc<Credential>>, DbError> {
        self.refresh().await?;
        let head = {
            let kept = self.kept();
            if let Some(credential) = kept.credentials.get(&hash) {
                return Ok(Some(Arc::clone(credential)));
            }
            kept.head.clone()
        };
        let mut connection = self.database.lookup().await?;
        let sql = "SELECT id, account_id, kind, scopes, last_used_at FROM token
                   WHERE sha256 = $1 AND kind IN ('pat', 'robot', 'refresh', 'session')";
        let row = connection.row(sql, values![hash.as_bytes()]).await?;
        let Some(row) = row else { return Ok(None) };
        let scopes: String = row.get(3)?;
        let last_used_at: Option<i64> = row.get(4)?;
        let credential = Arc::new(Credential {
            id: row.get(0)?,
            account: row.get(1)?,
            kind: row.get(2)?,
            limit: stored_limit(&scopes),
            last_used_at: Mutex::new(last_used_at.unwrap_or(0)),
        });
        self.keep(&head, |kept| insert(&mut kept.credentials, hash, Arc::clone(&credential)));
        Ok(Some(credential))
    }

    /// Tells whether everyone may pull from the repository of this path.
    pub(super) async fn is_public(&self, path: &str) -> Result<bool, DbError> {
        self.refresh().await?;
        let head = {
            let kept = self.kept();
            if let Some(is_public) = kept.public.get(path) {
                return Ok(*is_public);
            }
            kept.head.clone()
        };
        let mut connection = self.database.lookup().await?;
        let sql = "SELECT 1 FROM repo WHERE path = $1 AND visibility = 'public'";
        let is_public = connection.row(sql, values![path]).await?.is_some();
        self.keep(&head, |kept| insert(&mut kept.public, path.to_owned(), is_public));
        Ok(is_public)
    }

    /// The password of an active user, as it is now.
    pub(super) async fn login(&self, name: &str) -> Result<Option<Login>, DbError> {
        let mut connection = self.database.lookup().await?;
        let sql = "SELECT id, epoch, password FROM account
                   WHERE name = $1 AND kind = 'user' AND state = 'active'";
        let row = connection.row(sql, values![name]).await?;
        row.map(|row| Ok(Login { account: row.get(0)?, epoch: row.get(1)?, password: row.get(2)? }))
            .transpose()
    }

    /// Keeps what was read while this head was the newest; what was read later may be newer or
    /// older than what others see, and is used once.
    fn keep(&self, head: &str, insert: impl FnOnce(&mut Kept)) {
        let mut kept = self.kept();
        if kept.head == head {
            insert(&mut kept);
        }
    }
}

fn insert<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>, key: K, value: V) {
    if map.len() >= MOST {
        map.clear();
    }
    map.insert(key, value);
}

/// Scopes that cannot be read allow nothing.
fn stored_limit(scopes: &str) -> Option<Arc<Limit>> {
    let scopes: Option<Vec<String>> = serde_json::from_str(scopes).ok();
    let parsed: Option<Vec<Scope>> =
        scopes.and_then(|all| all.iter().map(|scope| scope.parse().ok()).collect());
    match parsed {
        Some(scopes) if scopes.is_empty() => None,
        Some(scopes) => Some(Arc::new(Limit::of(&scopes))),
        None => Some(Arc::default()),
    }
}

async fn load_account(connection: &mut Connection, id: i64) -> Result<Option<Account>, DbError> {
    let sql = "SELECT a.name, a.kind, a.state, a.is_admin, a.epoch, owner.state FROM account a
               LEFT JOIN account owner ON owner.id = a.owner_id WHERE a.id = $1";
    let Some(row) = connection.row(sql, values![id]).await? else { return Ok(None) };
    let (name, kind, state): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let owner_state: Option<String> = row.get(5)?;
    let is_user = kind == "user";
    let mut standing = Standing { is_site_admin: is_user && row.get(3)?, ..Standing::default() };
    // A robot owns nothing: all that it may do was granted to it.
    if is_user {
        standing.namespaces.push(name.clone());
    }
    let sql = "SELECT org.name, m.role FROM org_member m JOIN account org ON org.id = m.org_id
               WHERE m.account_id = $1 ORDER BY org.name";
    for row in connection.rows(sql, values![id]).await? {
        let (org, role): (String, String) = (row.get(0)?, row.get(1)?);
        if role == "owner" {
            standing.namespaces.push(org.clone());
        }
        standing.organisations.push(org);
    }
    standing.grants = load_grants(connection, id).await?;
    let sql = "SELECT id, expires_at, scopes FROM token WHERE account_id = $1";
    let mut credentials = BTreeMap::new();
    for row in connection.rows(sql, values![id]).await? {
        let scopes: String = row.get(2)?;
        credentials.insert(row.get(0)?, (row.get(1)?, stored_limit(&scopes)));
    }
    Ok(Some(Account {
        id,
        name,
        is_active: state == "active" && owner_state.is_none_or(|state| state == "active"),
        epoch: row.get(4)?,
        standing: Arc::new(standing),
        credentials,
    }))
}

async fn load_grants(
    connection: &mut Connection,
    id: i64,
) -> Result<Vec<(super::RepositoryGlob, Rights)>, DbError> {
    let sql = "SELECT repo_glob, role, condition FROM access_grant
               WHERE (subject_kind = 'account' AND subject_id = $1)
               OR (subject_kind = 'team' AND subject_id IN
                   (SELECT team_id FROM team_member WHERE account_id = $1))
               OR (subject_kind = 'org' AND subject_id IN
                   (SELECT org_id FROM org_member WHERE account_id = $1))
               OR subject_kind = 'everyone'";
    let mut grants = Vec::new();
    for row in connection.rows(sql, values![id]).await? {
        let (glob, role): (String, String) = (row.get(0)?, row.get(1)?);
        let condition: Option<String> = row.get(2)?;
        // What this program does not know gives no rights.
        let (Ok(glob), Ok(role)) = (glob.parse(), role.parse::<Role>()) else { continue };
        let rights = match condition.as_deref() {
            None => role.rights(),
            Some(ADDING_ONLY) => role.rights().adding_only(),
            Some(_) => continue,
        };
        grants.push((glob, rights));
    }
    Ok(grants)
}
