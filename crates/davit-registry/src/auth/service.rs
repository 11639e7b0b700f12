//! From an `Authorization` header to a [`Caller`], and from a caller to a decision.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use davit_distribution::Secret;
use http::HeaderValue;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::Notify;

use super::{
    Action, Caller, Decision, KeyError, Keys, Need, OpaqueToken, PasswordError, PasswordHash,
    Passwords, Rights, Throttle, ThrottleSettings, TokenHash,
    accounts::SignUpMode,
    decide,
    directory::Directory,
    failures,
    key_ring::KeyRing,
    ldap::{LdapLimits, Turns},
    oidc::Issuers,
};
use crate::db::{Database, DbError};

mod bearer;
mod proofs;
mod same;
mod sign_up;

use bearer::KnownToken;
pub(super) use proofs::{Proved, basic};
use same::SameLogins;
pub use sign_up::SignUpError;

/// How often the keys are looked at.
const TEND: Duration = Duration::from_secs(5);
/// Entries of the memories of passwords and tokens.
const MOST_KNOWN: usize = 4096;

/// How a registry knows its callers.
#[derive(Clone, Debug)]
pub struct AuthSettings {
    /// Whether anybody is asked who they are; if not, everyone may do everything.
    pub is_on: bool,
    /// Name of the service in challenges and tokens.
    pub service: String,
    /// Base URL by which clients reach the server; `None`: the scheme below and the request's
    /// `Host`.
    pub public_url: Option<String>,
    /// Whether the listener speaks TLS.
    pub is_tls: bool,
    /// How often passwords may be guessed.
    pub throttle: ThrottleSettings,
    /// How LDAP directories are asked.
    pub ldap: LdapLimits,
    /// Who may sign up, until it was set.
    pub sign_up: SignUpMode,
}

impl Default for AuthSettings {
    fn default() -> Self {
        Self {
            is_on: true,
            service: "davit-registry".to_owned(),
            public_url: None,
            is_tls: false,
            throttle: ThrottleSettings::default(),
            ldap: LdapLimits::default(),
            sign_up: SignUpMode::Closed,
        }
    }
}

/// Why authentication cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The keys that sign tokens.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The database's.
    #[error(transparent)]
    Database(#[from] DbError),
}

/// Why a credential is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is none of ours; whether the account exists is not told.
    #[error("incorrect username, password or token")]
    Wrong,
    /// Too many wrong ones came before it.
    #[error("too many wrong attempts")]
    Throttled(Duration),
    /// Too many are being checked.
    #[error("too many logins at once")]
    Busy,
    /// It is no password of this registry, and a directory that may know it is out of order.
    #[error(
        "the directory that may know this name is out of order; accounts with a password of this \
         registry can log in"
    )]
    Directory,
    /// The database's.
    #[error(transparent)]
    Database(#[from] DbError),
}

/// Authentication and the policy gate of one server.
#[derive(Debug)]
pub struct Auth {
    settings: AuthSettings,
    database: Database,
    pub(super) directory: Directory,
    keys: KeyRing,
    passwords: Passwords,
    pub(super) throttle: Throttle,
    /// Logins about which directories are asked.
    pub(super) turns: Turns,
    /// Tells that a comparison with a directory is asked for.
    pub(super) syncs: Notify,
    /// Others who vouch for someone.
    pub(super) issuers: Issuers,
    /// Hides passwords in memory.
    pepper: [u8; 32],
    /// Passwords that are checked now.
    logins: SameLogins,
    /// Account and epoch by hashed name and password.
    known_passwords: Mutex<HashMap<TokenHash, (i64, i64, Instant)>>,
    /// Tokens whose signature was verified, and to what they are limited.
    known_tokens: Mutex<HashMap<TokenHash, Arc<KnownToken>>>,
}

impl Auth {
    /// Starts; reads or makes the key file.
    ///
    /// # Errors
    /// See [`AuthError`].
    ///
    /// # Panics
    /// If the kernel gives no random bytes.
    pub async fn open(
        database: &Database,
        key_file: &Path,
        settings: AuthSettings,
    ) -> Result<Self, AuthError> {
        let mut pepper = [0; 32];
        SystemRandom::new().fill(&mut pepper).expect("the kernel gives random bytes");
        Ok(Self {
            throttle: Throttle::new(settings.throttle),
            turns: Turns::new(settings.ldap),
            syncs: Notify::new(),
            issuers: Issuers::default(),
            settings,
            database: database.clone(),
            directory: Directory::new(database.clone()),
            keys: KeyRing::open(database, key_file).await?,
            passwords: Passwords::default(),
            pepper,
            logins: SameLogins::default(),
            known_passwords: Mutex::default(),
            known_tokens: Mutex::default(),
        })
    }

    /// The settings.
    #[must_use]
    pub const fn settings(&self) -> &AuthSettings {
        &self.settings
    }

    pub(super) const fn database(&self) -> &Database {
        &self.database
    }

    pub(super) fn keys(&self) -> Arc<Keys> {
        self.keys.keys()
    }

    /// Does what is due from time to time, without end: takes new keys, gives old ones successors,
    /// reports wrong attempts.
    pub async fn tend(&self) {
        let mut ticks = tokio::time::interval(TEND);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for done in [self.refresh_keys().await, self.report_failures().await] {
                if let Err(error) = done {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, "keys or wrong logins were not looked after");
                }
            }
        }
    }

    /// Takes keys that another process made, and makes one where the newest is too old.
    ///
    /// # Errors
    /// See [`AuthError`]; the keys stay as they are.
    pub async fn refresh_keys(&self) -> Result<(), AuthError> {
        self.keys.refresh().await
    }

    /// Writes wrong attempts into the audit log, as one entry in five minutes at most.
    ///
    /// # Errors
    /// The database's.
    pub async fn report_failures(&self) -> Result<(), AuthError> {
        Ok(failures::report(&self.database).await?)
    }

    /// Knows the caller by the request's `Authorization` header, if there is one.
    ///
    /// Cheap for a credential that was seen before: no hashing of passwords, no statement.
    ///
    /// # Errors
    /// See [`Refusal`]. A header that proves nothing is refused, not ignored.
    pub async fn authenticate(
        &self,
        authorization: Option<&HeaderValue>,
        peer: IpAddr,
    ) -> Result<Caller, Refusal> {
        if !self.settings.is_on {
            return Ok(Caller::everyone());
        }
        let Some(header) = authorization else { return Ok(Caller::anonymous()) };
        let header = header.to_str().map_err(|_| Refusal::Wrong)?;
        let (scheme, text) = header.split_once(' ').ok_or(Refusal::Wrong)?;
        let text = text.trim_start();
        if scheme.eq_ignore_ascii_case("basic") {
            let (name, password) = basic(text).ok_or(Refusal::Wrong)?;
            let proved = self.prove(&name, &password, peer).await?;
            return if proved.is_refresh() { Err(Refusal::Wrong) } else { Ok(proved.caller()) };
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Refusal::Wrong);
        }
        if let Some(token) = OpaqueToken::parse(text) {
            let proved = self.prove_token(None, &token, peer).await?;
            return if proved.is_refresh() { Err(Refusal::Wrong) } else { Ok(proved.caller()) };
        }
        self.access_token(text).await
    }

    /// The one policy gate: every route asks here.
    ///
    /// # Errors
    /// The database's.
    pub async fn gate(&self, caller: &Caller, need: Need<'_>) -> Result<Decision, DbError> {
        let Need::Repository(_, path) = need else { return Ok(decide(caller, need, false)) };
        let decision = decide(caller, need, false);
        if decision == Decision::Allow {
            return Ok(decision);
        }
        Ok(decide(caller, need, self.directory.is_public(path).await?))
    }

    /// Tells whether another token of the caller's credential would allow what this one does not.
    ///
    /// # Errors
    /// The database's.
    pub async fn may_ask_for(
        &self,
        caller: &Caller,
        action: Action,
        path: &str,
    ) -> Result<bool, DbError> {
        if caller.token.is_none() {
            return Ok(false);
        }
        let is_public = self.directory.is_public(path).await?;
        Ok(caller.may_ask_for(action, path, is_public))
    }

    /// What the caller may do with a repository: for effects that show in a transaction only.
    ///
    /// # Errors
    /// The database's.
    pub async fn rights(&self, caller: &Caller, path: &str) -> Result<Rights, DbError> {
        let is_public = self.directory.is_public(path).await?;
        Ok(caller.rights(path, is_public))
    }

    /// Hashes a password for a new account.
    ///
    /// # Errors
    /// See [`PasswordError`].
    pub async fn hash_password(&self, password: &Secret) -> Result<PasswordHash, PasswordError> {
        self.passwords.hash(password).await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change of these maps is one call.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn put<V>(map: &Mutex<HashMap<TokenHash, V>>, key: TokenHash, value: V) {
    let mut map = lock(map);
    if map.len() >= MOST_KNOWN {
        map.clear();
    }
    map.insert(key, value);
}
