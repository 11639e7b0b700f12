//! Proofs that a caller is an account: a password, or a token of the database.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use davit_distribution::Secret;
use ring::digest::{Context, SHA256};

use super::{Auth, Refusal, lock, put};
use crate::{
    auth::{
        Attempt, Caller, Identity, OpaqueKind, OpaqueToken, PasswordError, PasswordHash, TokenHash,
        audit::Actor,
        directory::{Account, Credential},
        failures::{self, Blocked},
        ldap::LdapSource,
    },
    db::{Connection, DbError, Transaction, values},
};

/// A password that was right is right for this long, unless it is changed.
const PASSWORD_BELIEF: Duration = Duration::from_secs(300);
/// A credential's last use is written down once a minute.
const USE_MS: i64 = 60_000;
/// The user name by which clients send a token instead of a password.
const TOKEN_USER: &str = "<token>";

/// An account that proved itself.
#[derive(Clone, Debug)]
pub(in crate::auth) struct Proved {
    pub(in crate::auth) account: Arc<Account>,
    /// Its credential; `None` for a password.
    pub(in crate::auth) credential: Option<Arc<Credential>>,
}

/// What is known of a name and a password.
enum Verified {
    /// Row and epoch of the account whose password it is.
    Account(i64, i64),
    /// It is nobody's.
    Wrong,
    /// There is no password of that name here; these directories may know one.
    Elsewhere(Vec<(String, LdapSource)>),
}

impl Auth {
    /// Knows an account by name and password, or by name and token.
    pub(in crate::auth) async fn prove(
        &self,
        name: &str,
        password: &Secret,
        peer: IpAddr,
    ) -> Result<Proved, Refusal> {
        if let Some(token) = OpaqueToken::parse(password.expose()) {
            let name = Some(name).filter(|name| *name != TOKEN_USER);
            return self.prove_token(name, &token, peer).await;
        }
        let key = self.known_key(name, password);
        // While attempts are refused, the right one must not be told from wrong ones.
        let known = async || match self.throttle.allows(name, peer, Instant::now()) {
            true => self.known_password(key).await,
            false => Ok(None),
        };
        if let Some(proved) = known().await? {
            return Ok(proved);
        }
        // Many programs of one person that begin at once throttle nobody: one of them is an attempt.
        let login = self.logins.enter(key);
        let _alone = login.turn().await;
        if let Some(proved) = known().await? {
            return Ok(proved);
        }
        let whose = (Some(name), peer);
        let mut attempt = self.attempt(whose).await?;
        let mut verified = self.verified(name, password).await;
        if let Ok(Verified::Elsewhere(sources)) = verified {
            // Who waits for a directory holds no attempt: one that hangs throttles nobody else who comes
            // from the same address.
            attempt.forgive();
            let _turn = self.turns.turn().await?;
            attempt = self.attempt(whose).await?;
            let known = self.prove_by_ldap(&sources, (name, password.expose()), peer).await;
            verified = match known {
                Ok(Some(id)) => self.active(id).await,
                Ok(None) => Ok(Verified::Wrong),
                Err(error) => Err(error),
            };
        }
        let (account, epoch) = match verified {
            Ok(Verified::Account(account, epoch)) => {
                attempt.forgive();
                (account, epoch)
            }
            Ok(_) => {
                failures::note(&self.database, &self.settings.throttle, whose).await?;
                return Err(Refusal::Wrong);
            }
            Err(error) => {
                attempt.forgive();
                return Err(error);
            }
        };
        put(&self.known_passwords, key, (account, epoch, Instant::now()));
        self.known_password(key).await?.ok_or(Refusal::Wrong)
    }

    /// Counts an attempt, of this server and of all together.
    pub(in crate::auth) async fn attempt(
        &self,
        whose: (Option<&str>, IpAddr),
    ) -> Result<Attempt<'_>, Refusal> {
        let attempt = self.throttle.attempt(whose.0, whose.1, Instant::now());
        let attempt = attempt.map_err(Refusal::Throttled)?;
        let wait = failures::blocked(&self.database, &self.settings.throttle, whose).await;
        match wait {
            Ok(None) => Ok(attempt),
            // What the others have counted is counted here: else passwords that are known here could be guessed.
            Ok(Some((what, wait))) => {
                match what {
                    Blocked::Account => attempt.forgive_address(),
                    Blocked::Address => attempt.forgive_account(),
                }
                Err(Refusal::Throttled(wait))
            }
            Err(error) => {
                attempt.forgive();
                Err(error.into())
            }
        }
    }

    /// Whose password this is by its hash here; where there is none, who may know.
    async fn verified(&self, name: &str, password: &Secret) -> Result<Verified, Refusal> {
        let login = self.directory.login(name).await?;
        let hash = login.as_ref().and_then(|login| login.password.as_deref());
        let hash = hash.and_then(|hash| PasswordHash::parse(hash).ok());
        let is_good = self.passwords.verify(hash.as_ref(), password).await;
        let is_good = is_good.map_err(|_busy| Refusal::Busy)?;
        if let (true, Some(login)) = (is_good, login) {
            if let Some(hash) = hash.filter(PasswordHash::is_outdated) {
                self.renew_hash(login.account, hash, password).await?;
            }
            return Ok(Verified::Account(login.account, login.epoch));
        }
        if hash.is_some() {
            return Ok(Verified::Wrong);
        }
        let sources = self.directories_of(name, password.expose()).await?;
        Ok(if sources.is_empty() { Verified::Wrong } else { Verified::Elsewhere(sources) })
    }

    async fn active(&self, id: i64) -> Result<Verified, Refusal> {
        let account = self.directory.account(id).await?.filter(|account| account.is_active);
        Ok(account.map_or(Verified::Wrong, |it| Verified::Account(it.id, it.epoch)))
    }

    /// Knows an account by a token of the database; its name, where one came along, must be right.
    pub(in crate::auth) async fn prove_token(
        &self,
        name: Option<&str>,
        token: &OpaqueToken,
        peer: IpAddr,
    ) -> Result<Proved, Refusal> {
        // A session is a browser's cookie: as a password it would pass by the pages' CSRF tokens.
        let is_session = token.kind() == OpaqueKind::Session;
        let proved = if is_session { None } else { self.known_token(name, token).await? };
        if let Some(proved) = proved {
            self.note_use(&proved).await?;
            return Ok(proved);
        }
        Err(self.wrong_token(peer).await)
    }

    /// Counts a token that is none. Nobody guesses 256 bits; but nobody tries all day for free either.
    pub(in crate::auth) async fn wrong_token(&self, peer: IpAddr) -> Refusal {
        if let Err(wait) = self.throttle.attempt(None, peer, Instant::now()).map(drop) {
            return Refusal::Throttled(wait);
        }
        match self.note_failure(peer).await {
            Ok(()) => Refusal::Wrong,
            Err(error) => error.into(),
        }
    }

    /// Counts a wrong attempt on no account in particular, for all servers.
    pub(in crate::auth) async fn note_failure(&self, peer: IpAddr) -> Result<(), DbError> {
        failures::note(&self.database, &self.settings.throttle, (None, peer)).await
    }

    pub(in crate::auth) async fn known_token(
        &self,
        name: Option<&str>,
        token: &OpaqueToken,
    ) -> Result<Option<Proved>, DbError> {
        let Some(credential) = self.directory.credential(token.hash()).await? else {
            return Ok(None);
        };
        let is_good = |account: &Account| {
            account.is_active
                && credential.kind == token.kind().as_str()
                && account.has_credential(credential.id, self.database.now_ms())
                && name.is_none_or(|name| name == account.name)
        };
        let account = self.directory.account_if(credential.account, is_good).await?;
        Ok(account.map(|account| Proved { account, credential: Some(credential) }))
    }

    /// A password that was right within the last minutes and was not changed since.
    async fn known_password(&self, key: TokenHash) -> Result<Option<Proved>, DbError> {
        let known = lock(&self.known_passwords).get(&key).copied();
        let Some((id, epoch, at)) = known else { return Ok(None) };
        if at.elapsed() >= PASSWORD_BELIEF {
            return Ok(None);
        }
        let is_good = |account: &Account| account.is_active && account.epoch == epoch;
        let account = self.directory.account_if(id, is_good).await?;
        Ok(account.map(|account| Proved { account, credential: None }))
    }

    /// Takes argon2id in the place of a hash of another kind or cost.
    async fn renew_hash(
        &self,
        account: i64,
        old: PasswordHash,
        password: &Secret,
    ) -> Result<(), Refusal> {
        match self.passwords.hash(password).await {
            Ok(new) => Ok(self.database.write(RenewHash { account, old, new }).await?),
            // Too short for today's rules, or no time now: the old one stays.
            Err(PasswordError::Length | PasswordError::Busy | PasswordError::Form) => Ok(()),
        }
    }

    /// Writes down that a credential is in use.
    pub(in crate::auth) async fn note_use(&self, proved: &Proved) -> Result<(), DbError> {
        let Some(credential) = &proved.credential else { return Ok(()) };
        let now_ms = self.database.now_ms();
        {
            let mut last = lock(&credential.last_used_at);
            if now_ms - *last < USE_MS {
                return Ok(());
            }
            *last = now_ms;
        }
        self.database.write(NoteUse(credential.id)).await
    }

    fn known_key(&self, name: &str, password: &Secret) -> TokenHash {
        let mut context = Context::new(&SHA256);
        context.update(&self.pepper);
        context.update(&(name.len() as u64).to_be_bytes());
        context.update(name.as_bytes());
        context.update(password.expose().as_bytes());
        TokenHash::of(context.finish().as_ref())
    }
}

impl Proved {
    pub(super) fn is_refresh(&self) -> bool {
        let refresh = OpaqueKind::Refresh.as_str();
        self.credential.as_ref().is_some_and(|credential| credential.kind == refresh)
    }

    pub(in crate::auth) fn caller(&self) -> Caller {
        let account = &self.account;
        Caller {
            identity: Identity::Account { id: account.id, name: account.name.clone() },
            standing: Arc::clone(&account.standing),
            limit: self.credential.as_ref().and_then(|credential| credential.limit.clone()),
            token: None,
            has_credential: true,
        }
    }

    /// Who is written into the audit log.
    pub(in crate::auth) fn actor(&self, peer: IpAddr) -> Actor {
        Actor::account(self.account.id, &self.account.name, peer)
    }
}

/// Name and password of a Basic header (RFC 7617).
pub(in crate::auth) fn basic(text: &str) -> Option<(String, Secret)> {
    let text = String::from_utf8(BASE64.decode(text).ok()?).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), Secret::new(password)))
}

struct RenewHash {
    account: i64,
    old: PasswordHash,
    new: PasswordHash,
}

impl Transaction for RenewHash {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let sql = "UPDATE account SET password = $1 WHERE id = $2 AND password = $3";
        let values = values![self.new.as_str(), self.account, self.old.as_str()];
        connection.execute(sql, values).await.map(drop)
    }
}

struct NoteUse(i64);

impl Transaction for NoteUse {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let now = connection.now_ms();
        let sql = "UPDATE token SET last_used_at = $1 WHERE id = $2";
        connection.execute(sql, values![now, self.0]).await.map(drop)
    }
}
