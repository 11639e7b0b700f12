//! Accounts that came from a directory, compared with it.
//!
//! ```text
//! due ─► list all people, by pages ─► whose id is there? ─► groups ─► teams, as with a login
//!                                              └ gone ─► tokens, sessions, teams of groups end
//! ```
//!
//! All is read before anything is changed: a list that is not whole, or a directory that does not answer,
//! changes nothing. So does one in which most people are gone at once: more often than not somebody has
//! moved them, or may not read them any more.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    LdapError, LdapSource,
    connection::{Connection as Asked, Entry as Person},
    store::{self, GroupMembers, teams_of},
};
use crate::{
    auth::{
        audit::{self, Actor, Entry},
        oidc::ForeignIdentity,
    },
    db::{Connection, Database, DbError, Transaction, values},
};

/// Accounts of one query.
const ROWS: i64 = 1000;
/// How long a directory may take for a connection, and for all that is asked then.
const OPEN_TIME: Duration = Duration::from_secs(10);
const WHOLE_TIME: Duration = Duration::from_secs(15 * 60);
/// How long it may take for the groups of one person.
const GROUPS_TIME: Duration = Duration::from_secs(30);
/// So many may be gone at once, also where they are most of all.
const FEW: usize = 5;

/// How a directory is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncMode {
    /// Whether nothing is changed.
    pub dry_run: bool,
    /// Whether most people may be gone at once.
    pub force: bool,
}

/// What came of a comparison; names in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncReport {
    /// Accounts that came from the directory.
    pub accounts: usize,
    /// Those that are not there any more, and were the last time.
    pub gone: Vec<String>,
    /// Those that are in other groups than before.
    pub moved: Vec<String>,
}

impl fmt::Display for SyncReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accounts, gone, moved } = self;
        write!(f, "{accounts} accounts, {} gone, {} in other groups", gone.len(), moved.len())
    }
}

/// Why a directory is not compared.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// There is none of this name.
    #[error("there is no directory `{0}`")]
    Unknown(String),
    /// It cannot be asked.
    #[error(transparent)]
    Directory(#[from] LdapError),
    /// Too many are gone at once.
    #[error(
        "{gone} of {accounts} accounts are gone from the directory at once: nothing was changed"
    )]
    Most {
        /// Those that are gone.
        gone: usize,
        /// Those that were there.
        accounts: usize,
    },
    /// The database's.
    #[error(transparent)]
    Database(#[from] DbError),
}

/// An account that came from the directory.
#[derive(Debug)]
struct Known {
    account: i64,
    name: String,
    is_gone: bool,
}

/// Ids of entries and their accounts.
type People = BTreeMap<String, Known>;

/// Compares a directory with the accounts that came from it: those that are gone lose their tokens and
/// sessions, and all have the teams of their groups there.
///
/// # Errors
/// See [`SyncError`]; but for the database's nothing is changed then.
pub async fn sync(database: &Database, name: &str, how: SyncMode) -> Result<SyncReport, SyncError> {
    let source = store::source(database, name).await?;
    let source = source.ok_or_else(|| SyncError::Unknown(name.to_owned()))?;
    let known = people(database, &store::identity(name, String::new()).issuer).await?;
    let there = tokio::time::timeout(WHOLE_TIME, source.look_for(&known)).await;
    let there = there.unwrap_or(Err(LdapError::Late))?;
    let mut report = SyncReport { accounts: known.len(), ..SyncReport::default() };
    let were_there = known.values().filter(|one| !one.is_gone).count();
    let mut changes = Vec::new();
    for (id, known) in known {
        let groups = there.get(&id);
        let is_there = groups.is_some();
        let teams = teams_of(database, name, groups.map_or(&[], |groups| groups)).await?;
        let members = GroupMembers::new(name, known.account, teams);
        let moves = members.differ(database).await?;
        if !is_there && !known.is_gone {
            report.gone.push(known.name.clone());
        } else if is_there && moves {
            report.moved.push(known.name.clone());
        }
        if moves || is_there == known.is_gone {
            let identity = store::identity(name, id);
            changes.push(Change { identity, known, is_there, members: moves.then_some(members) });
        }
    }
    report.gone.sort();
    report.moved.sort();
    if how.dry_run {
        return Ok(report);
    }
    let gone = report.gone.len();
    if gone > FEW && gone * 2 > were_there && !how.force {
        return Err(SyncError::Most { gone, accounts: were_there });
    }
    for change in changes {
        database.write(change).await?;
    }
    Ok(report)
}

/// Accounts with an identity of this issuer.
async fn people(database: &Database, issuer: &str) -> Result<People, DbError> {
    const PEOPLE: &str = "SELECT i.subject, a.id, a.name, i.gone_at FROM identity i \
                          JOIN account a ON a.id = i.account_id \
                          WHERE i.issuer = $1 AND a.id > $2 ORDER BY a.id LIMIT $3";
    let (mut found, mut at) = (People::new(), 0_i64);
    loop {
        let rows = database.reader().await?.rows(PEOPLE, values![issuer, at, ROWS]).await?;
        for row in &rows {
            at = row.get(1)?;
            let is_gone = row.get::<Option<i64>>(3)?.is_some();
            found.insert(row.get(0)?, Known { account: at, name: row.get(2)?, is_gone });
        }
        if rows.is_empty() {
            return Ok(found);
        }
    }
}

impl LdapSource {
    /// Groups of those of these people who are there.
    async fn look_for(&self, known: &People) -> Result<BTreeMap<String, Vec<String>>, LdapError> {
        let late = |_elapsed| LdapError::Late;
        let mut places = BTreeMap::new();
        let opened = tokio::time::timeout(OPEN_TIME, async {
            let mut connection = Asked::open(self).await?;
            connection.bind(&self.bind_dn, self.bind_password.expose()).await?;
            Ok::<_, LdapError>(connection)
        });
        let mut connection = opened.await.map_err(late)??;
        if known.is_empty() {
            return Ok(BTreeMap::new());
        }
        let wanted = [("objectClass", self.user_class.as_str())];
        let mut shown = 0_u64;
        let mut each = |entry: Person| {
            shown += 1;
            let id = self.id_of(&entry);
            if known.contains_key(&id) {
                places.insert(id, entry.name);
            }
        };
        let attributes = [self.id_attribute.as_str()];
        connection.search_all(&self.users, &wanted, &attributes, &mut each).await?;
        if shown == 0 {
            return Err(LdapError::Nobody);
        }
        let mut there = BTreeMap::new();
        for (id, place) in places {
            let groups = tokio::time::timeout(GROUPS_TIME, self.groups_of(&mut connection, &place));
            there.insert(id, groups.await.map_err(late)??);
        }
        connection.unbind().await?;
        Ok(there)
    }
}

/// What a directory says of an account that is not so here.
#[derive(Debug)]
struct Change {
    identity: ForeignIdentity,
    known: Known,
    is_there: bool,
    members: Option<GroupMembers>,
}

impl Transaction for Change {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        if self.is_there {
            back(connection, &self.identity).await?;
        } else {
            self.end_credentials(connection).await?;
        }
        match &self.members {
            Some(members) => members.run(connection).await,
            None => Ok(()),
        }
    }
}

impl Change {
    /// Ends what an account proves itself with, and what its robots do, unless that was done before.
    async fn end_credentials(&self, connection: &mut Connection) -> Result<(), DbError> {
        let ForeignIdentity { issuer, subject } = &self.identity;
        let sql = "UPDATE identity SET gone_at = $3
                   WHERE issuer = $1 AND subject = $2 AND gone_at IS NULL";
        let now = connection.now_ms();
        if connection.execute(sql, values![issuer, subject, now]).await? == 0 {
            return Ok(());
        }
        for sql in [
            "UPDATE account SET epoch = epoch + 1 WHERE id = $1 OR owner_id = $1",
            "DELETE FROM token WHERE account_id IN
             (SELECT id FROM account WHERE id = $1 OR owner_id = $1)",
        ] {
            connection.execute(sql, values![self.known.account]).await?;
        }
        tell(connection, &self.identity, ("account.gone", &self.known.name)).await
    }
}

/// Says that somebody who was gone from a directory is back, if it was so.
pub(super) async fn is_back(
    database: &Database,
    identity: &ForeignIdentity,
) -> Result<(), DbError> {
    let sql = "SELECT 1 FROM identity WHERE issuer = $1 AND subject = $2 AND gone_at IS NOT NULL";
    let values = values![&identity.issuer, &identity.subject];
    if database.reader().await?.row(sql, values).await?.is_some() {
        database.write(Back(identity.clone())).await?;
    }
    Ok(())
}

struct Back(ForeignIdentity);

impl Transaction for Back {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        back(connection, &self.0).await
    }
}

async fn back(connection: &mut Connection, identity: &ForeignIdentity) -> Result<(), DbError> {
    let sql = "UPDATE identity SET gone_at = NULL
               WHERE issuer = $1 AND subject = $2 AND gone_at IS NOT NULL";
    let ForeignIdentity { issuer, subject } = identity;
    if connection.execute(sql, values![issuer, subject]).await? == 0 {
        return Ok(());
    }
    tell(connection, identity, ("account.back", subject)).await
}

async fn tell(
    connection: &mut Connection,
    identity: &ForeignIdentity,
    (action, object): (&'static str, &str),
) -> Result<(), DbError> {
    let by = Actor { id: None, name: identity.issuer.clone(), address: None };
    let detail = json!({ "subject": identity.subject }).to_string();
    audit::append(connection, &by, Entry { action, object, detail: &detail }).await
}
