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

mod connection;
mod store;

use std::time::Duration;

pub use store::{AddGroupMap, LdapSource, RemoveGroupMap, SetLdap, group_maps, ldap_sources};

use connection::{Connection, Scope};
use store::{GroupMembers, identity, teams_of};

use super::{
    AccountError, AccountName, Auth, Refusal,
    oidc::{ForeignIdentity, SignUpWith, account_of},
};
use crate::auth::accounts::SignUp;

/// How long a directory may take for everything.
const PATIENCE: Duration = Duration::from_secs(10);
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
    /// Knows a person by a directory; tells the account's row. `None`: no directory takes the password.
    pub(super) async fn prove_by_ldap(
        &self,
        name: &str,
        password: &str,
        address: std::net::IpAddr,
    ) -> Result<Option<i64>, Refusal> {
        let is_name = name.parse::<AccountName>().is_ok_and(|name| name.robot_owner().is_none());
        // An empty password is no proof to a directory, it is nobody's (RFC 4513 § 5.1.2).
        if !is_name || password.is_empty() {
            return Ok(None);
        }
        for (source_name, source) in store::sources(self.database()).await? {
            let asked = tokio::time::timeout(PATIENCE, source.ask(name, password)).await;
            let person = match asked.unwrap_or(Err(LdapError::Late)) {
                Ok(Some(person)) => person,
                Ok(None) => continue,
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, source = source_name, "nobody is known by LDAP");
                    return Err(Refusal::Busy);
                }
            };
            let identity = identity(&source_name, person.id);
            let Some(account) = self.ldap_account(&source, name, identity, address).await? else {
                continue;
            };
            let wanted = teams_of(self.database(), &source_name, &person.groups).await?;
            GroupMembers::replace(self.database(), &source_name, account, wanted).await?;
            return Ok(Some(account));
        }
        Ok(None)
    }

    async fn ldap_account(
        &self,
        source: &LdapSource,
        name: &str,
        identity: ForeignIdentity,
        address: std::net::IpAddr,
    ) -> Result<Option<i64>, Refusal> {
        if let Some(account) = account_of(self.database(), &identity).await? {
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
    async fn ask(&self, name: &str, password: &str) -> Result<Option<Person>, LdapError> {
        let mut connection = Connection::open(self).await?;
        connection.bind(&self.bind_dn, &self.bind_password).await?;
        let wanted = [("objectClass", self.user_class.as_str()), (&self.user_attribute, name)];
        let attributes = [self.id_attribute.as_str()];
        // Two would do: then it is nobody in particular.
        let scope = Scope { base: &self.users, most: 2 };
        let mut found = connection.search(&scope, &wanted, &attributes).await?;
        let (Some(entry), true) = (found.pop(), found.is_empty()) else { return Ok(None) };
        let mut groups = Vec::new();
        if let Some(base) = &self.groups {
            let wanted = [(self.member_attribute.as_str(), entry.name.as_str())];
            let scope = Scope { base, most: MOST_GROUPS };
            for group in connection.search(&scope, &wanted, &[&self.group_attribute]).await? {
                groups.extend(group.text(&self.group_attribute));
            }
        }
        match connection.bind(&entry.name, password).await {
            Ok(()) => {}
            Err(LdapError::Refused(code)) if connection::NOT_THEIRS.contains(&code) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        connection.unbind().await?;
        // Without a unique id it is known by where it is.
        let id = entry.id(&self.id_attribute);
        Ok(Some(Person { id: id.unwrap_or_else(|| entry.name.to_lowercase()), groups }))
    }
}
