//! Passwords that an LDAP directory knows, and its groups as teams.
//!
//! ```text
//! name, password ─► bind as the searcher ─► search (user attribute = name) ─► bind as the one found
//!                                        └► search (member = the one found) ─► teams, replaced
//! ```
//!
//! Asked are only names that have no password here. The entry found becomes an account of that name the
//! first time, and is known by its unique id from then on; an account that is there is never given to an
//! entry that is called alike. What a person types goes into a request as bytes, never into a filter's
//! text.
//!
//! Who is gone there is found by [`sync`], from time to time.
//!
//! A directory that cannot be reached keeps nobody else out: who has a password here is never asked about
//! there, waits are bounded ([`LdapLimits`]), and one that did not answer is left alone for a while.

mod connection;
mod jobs;
mod store;
mod sync;
mod turns;

pub use jobs::{SyncJob, last_sync};
pub use store::{
    AddGroupMap, LdapRow, LdapSource, RemoveGroupMap, SetLdap, group_maps, ldap_sources,
};
pub use sync::{SyncError, SyncMode, SyncReport, sync};
pub use turns::LdapLimits;

use connection::{Connection, Entry, Scope};
use store::{GroupMembers, identity, teams_of};
pub(super) use turns::Turns;

use super::{
    AccountError, AccountName, Auth, Refusal,
    oidc::{ForeignIdentity, SignUpWith, account_of},
};
use crate::{auth::accounts::SignUp, db::DbError};

/// Groups of one person that count.
const MOST_GROUPS: i64 = 1000;

/// Why a directory cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum LdapError {
    /// Its address is none, or would show passwords to others.
    #[error(
        "an LDAP directory is ldaps://HOST, or ldap://HOST (with StartTLS but on this machine)"
    )]
    Address,
    /// The certificates that it is known by cannot be read.
    #[error("the certificates of the LDAP directory cannot be read")]
    Certificates,
    /// It cannot be reached, or breaks off.
    #[error("the LDAP directory cannot be reached")]
    Io(#[from] std::io::Error),
    /// It takes too long.
    #[error("the LDAP directory takes too long")]
    Late,
    /// It has more entries than are read.
    #[error("the LDAP directory has too many entries")]
    TooMany,
    /// It shows no people at all: they were moved, or the searcher may not read them any more.
    #[error("the LDAP directory shows nobody")]
    Nobody,
    /// It did not answer a moment ago, and was not asked.
    #[error("the LDAP directory did not answer a moment ago")]
    Resting,
    /// It says what is no LDAP.
    #[error("the LDAP directory says what is not understood")]
    Protocol,
    /// It refuses: a result code of RFC 4511 appendix A.
    #[error("the LDAP directory refuses with code {0}")]
    Refused(i64),
}

/// Who was found.
#[derive(Debug)]
struct Person {
    id: String,
    groups: Vec<String>,
}

impl Auth {
    /// The directories that may know this name and password; none for what is no person's.
    pub(super) async fn directories_of(
        &self,
        name: &str,
        password: &str,
    ) -> Result<Vec<(String, LdapSource)>, DbError> {
        let is_name = name.parse::<AccountName>().is_ok_and(|name| name.robot_owner().is_none());
        // An empty password is no proof to a directory, it is nobody's (RFC 4513 § 5.1.2).
        if !is_name || password.is_empty() {
            return Ok(Vec::new());
        }
        store::sources(self.database()).await
    }

    /// Knows a person by one of these directories; tells the account's row. `None`: all of them answer, and
    /// none takes the password.
    pub(super) async fn prove_by_ldap(
        &self,
        sources: &[(String, LdapSource)],
        (name, password): (&str, &str),
        address: std::net::IpAddr,
    ) -> Result<Option<i64>, Refusal> {
        let mut is_whole = true;
        for (source_name, source) in sources {
            let person = match self.turns.ask(source, (name, password)).await {
                Ok(Some(person)) => person,
                Ok(None) => continue,
                Err(error) => {
                    is_whole = false;
                    // That it rests was told when it began to.
                    if !matches!(error, LdapError::Resting) {
                        let error: &dyn std::error::Error = &error;
                        tracing::warn!(error, source = source_name, "nobody is known by LDAP");
                    }
                    continue;
                }
            };
            let identity = identity(source_name, person.id);
            let Some(account) = self.ldap_account(source, name, identity, address).await? else {
                continue;
            };
            let wanted = teams_of(self.database(), source_name, &person.groups).await?;
            let members = GroupMembers::new(source_name, account, wanted);
            if members.differ(self.database()).await? {
                self.database().write(members).await?;
            }
            return Ok(Some(account));
        }
        if is_whole { Ok(None) } else { Err(Refusal::Directory) }
    }

    async fn ldap_account(
        &self,
        source: &LdapSource,
        name: &str,
        identity: ForeignIdentity,
        address: std::net::IpAddr,
    ) -> Result<Option<i64>, Refusal> {
        if let Some(account) = account_of(self.database(), &identity).await? {
            sync::is_back(self.database(), &identity).await?;
            return Ok(Some(account));
        }
        let sign_up = SignUp {
            name: name.to_owned(),
            password: None,
            usual: self.settings().sign_up,
            invitation: None,
            address: Some(address.to_string()),
        };
        let made = SignUpWith { sign_up, identity, is_vouched: source.signs_up };
        match self.database().write(made).await {
            Ok(account) => Ok(Some(account)),
            Err(AccountError::Database(error)) => Err(error.into()),
            // Someone else's name, or newcomers are not taken.
            Err(_) => Ok(None),
        }
    }
}

impl LdapSource {
    /// Finds the person of this name, and whether the password is theirs.
    async fn ask(
        &self,
        mut connection: Connection,
        (name, password): (&str, &str),
    ) -> Result<Option<Person>, LdapError> {
        connection.bind(&self.bind_dn, self.bind_password.expose()).await?;
        let wanted = [("objectClass", self.user_class.as_str()), (&self.user_attribute, name)];
        let attributes = [self.id_attribute.as_str()];
        // Two would do: then it is nobody in particular.
        let scope = Scope { base: &self.users, most: 2 };
        let mut found = connection.search(&scope, &wanted, &attributes).await?;
        let (Some(entry), true) = (found.pop(), found.is_empty()) else { return Ok(None) };
        let groups = self.groups_of(&mut connection, &entry.name).await?;
        match connection.bind(&entry.name, password).await {
            Ok(()) => {}
            Err(LdapError::Refused(code)) if connection::NOT_THEIRS.contains(&code) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        connection.unbind().await?;
        Ok(Some(Person { id: self.id_of(&entry), groups }))
    }

    /// Names of the groups in which an entry is.
    async fn groups_of(
        &self,
        connection: &mut Connection,
        member: &str,
    ) -> Result<Vec<String>, LdapError> {
        let Some(base) = &self.groups else { return Ok(Vec::new()) };
        let wanted = [(self.member_attribute.as_str(), member)];
        let scope = Scope { base, most: MOST_GROUPS };
        let found = connection.search(&scope, &wanted, &[&self.group_attribute]).await?;
        Ok(found.iter().filter_map(|group| group.text(&self.group_attribute)).collect())
    }

    /// By what an entry is known. Without a unique id it is known by where it is.
    fn id_of(&self, entry: &Entry) -> String {
        entry.id(&self.id_attribute).unwrap_or_else(|| entry.name.to_lowercase())
    }
}
