//! From an `Authorization` header to a [`Caller`], and from a caller to a decision.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use davit_distribution::{Secret, wire::Scope};
use http::HeaderValue;
use ring::{
    digest::{Context, SHA256},
    rand::{SecureRandom as _, SystemRandom},
};

use super::{
    Caller, Claims, Decision, Identity, KeyError, Keys, Limit, Need, OpaqueKind, OpaqueToken,
    PasswordError, PasswordHash, Passwords, Rights, Throttle, ThrottleSettings, TokenHash,
    audit::{self, Actor, Entry},
    decide,
    directory::{Account, Credential, Directory},
    keys::PublicKey,
};
use crate::db::{Connection, Database, DbError, Transaction, values};

/// A password that was right is right for this long, unless it is changed.
const PASSWORD_BELIEF: Duration = Duration::from_secs(300);
/// Entries of the memories of passwords and tokens.
const MOST_KNOWN: usize = 4096;
/// A credential's last use is written down once a minute.
const USE_MS: i64 = 60_000;
/// A key signs for this long.
const KEY_AGE_SECONDS: i64 = 30 * 24 * 3600;
/// The user name by which clients send a token instead of a password.
const TOKEN_USER: &str = "<token>";

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
}

impl Default for AuthSettings {
    fn default() -> Self {
        Self {
            is_on: true,
            service: "davit-registry".to_owned(),
            public_url: None,
            is_tls: false,
            throttle: ThrottleSettings::default(),
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
    /// The database's.
    #[error(transparent)]
    Database(#[from] DbError),
}

/// Authentication and the policy gate of one server.
#[derive(Debug)]
pub struct Auth {
    settings: AuthSettings,
    database: Database,
    directory: Directory,
    keys: RwLock<Arc<Keys>>,
    passwords: Passwords,
    throttle: Throttle,
    /// Hides passwords in memory.
    pepper: [u8; 32],
    /// Account and epoch by hashed name and password.
    known_passwords: Mutex<HashMap<TokenHash, (i64, i64, Instant)>>,
    /// Tokens whose signature was verified, and to what they are limited.
    known_tokens: Mutex<HashMap<TokenHash, Arc<KnownToken>>>,
}

/// A token whose signature was verified.
#[derive(Debug)]
struct KnownToken {
    claims: Claims,
    limit: Arc<Limit>,
}

/// An account that proved itself.
#[derive(Clone, Debug)]
pub(super) struct Proved {
    pub(super) account: Arc<Account>,
    /// Its credential; `None` for a password.
    pub(super) credential: Option<Arc<Credential>>,
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
        let now = database.now_ms() / 1000;
        let mut keys = Keys::open(key_file, now)?;
        if keys.newest_created() + KEY_AGE_SECONDS < now {
            keys = Keys::rotate(key_file, now)?;
        }
        database.write(PublishKeys(keys.public())).await?;
        let mut pepper = [0; 32];
        SystemRandom::new().fill(&mut pepper).expect("the kernel gives random bytes");
        Ok(Self {
            throttle: Throttle::new(settings.throttle),
            settings,
            database: database.clone(),
            directory: Directory::new(database.clone()),
            keys: RwLock::new(Arc::new(keys)),
            passwords: Passwords::default(),
            pepper,
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
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
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

    /// What the caller may do with a repository: for effects that show in a transaction only.
    ///
    /// # Errors
    /// The database's.
    pub async fn rights(&self, caller: &Caller, path: &str) -> Result<Rights, DbError> {
        let is_public = self.directory.is_public(path).await?;
        Ok(caller.rights(path, is_public))
    }

    /// Knows an account by name and password, or by name and token.
    pub(super) async fn prove(
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
        if let Some(proved) = self.known_password(key).await? {
            return Ok(proved);
        }
        let attempt = self.throttle.attempt(Some(name), peer, Instant::now());
        let attempt = attempt.map_err(Refusal::Throttled)?;
        let login = self.directory.login(name).await?;
        let hash = login.as_ref().and_then(|login| login.password.as_deref());
        let hash = hash.and_then(|hash| PasswordHash::parse(hash).ok());
        let is_good = match self.passwords.verify(hash.as_ref(), password).await {
            Ok(is_good) => is_good,
            Err(_busy) => {
                attempt.forgive();
                return Err(Refusal::Busy);
            }
        };
        let (true, Some(login)) = (is_good, login) else { return Err(Refusal::Wrong) };
        attempt.forgive();
        if let Some(hash) = hash.filter(PasswordHash::is_outdated) {
            self.renew_hash(login.account, hash, password).await?;
        }
        let known = (login.account, login.epoch, Instant::now());
        put(&self.known_passwords, key, known);
        self.known_password(key).await?.ok_or(Refusal::Wrong)
    }

    /// Knows an account by a token of the database; its name, where one came along, must be right.
    pub(super) async fn prove_token(
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
        // Nobody guesses 256 bits; but nobody tries all day for free either.
        let attempt = self.throttle.attempt(None, peer, Instant::now());
        drop(attempt.map_err(Refusal::Throttled)?);
        Err(Refusal::Wrong)
    }

    pub(super) async fn known_token(
        &self,
        name: Option<&str>,
        token: &OpaqueToken,
    ) -> Result<Option<Proved>, DbError> {
        let Some(credential) = self.directory.credential(token.hash()).await? else {
            return Ok(None);
        };
        let Some(account) = self.directory.account(credential.account).await? else {
            return Ok(None);
        };
        let is_good = account.is_active
            && credential.kind == token.kind().as_str()
            && account.has_credential(credential.id, self.database.now_ms())
            && name.is_none_or(|name| name == account.name);
        Ok(is_good.then_some(Proved { account, credential: Some(credential) }))
    }

    /// A password that was right within the last minutes and was not changed since.
    async fn known_password(&self, key: TokenHash) -> Result<Option<Proved>, DbError> {
        let known = lock(&self.known_passwords).get(&key).copied();
        let Some((id, epoch, at)) = known else { return Ok(None) };
        if at.elapsed() >= PASSWORD_BELIEF {
            return Ok(None);
        }
        let account = self.directory.account(id).await?;
        let account = account.filter(|account| account.is_active && account.epoch == epoch);
        Ok(account.map(|account| Proved { account, credential: None }))
    }

    /// Knows the caller by an access token.
    async fn access_token(&self, text: &str) -> Result<Caller, Refusal> {
        let now_ms = self.database.now_ms();
        let hash = TokenHash::of(text.as_bytes());
        let known = lock(&self.known_tokens).get(&hash).cloned();
        let known = match known {
            Some(known) => known,
            None => {
                let claims = self.verify(text, now_ms / 1000).await?;
                let limit = Arc::new(limit_of(&claims));
                let known = Arc::new(KnownToken { claims, limit });
                put(&self.known_tokens, hash, Arc::clone(&known));
                known
            }
        };
        let KnownToken { claims, limit } = &*known;
        claims.check(&self.settings.service, now_ms / 1000).map_err(|_| Refusal::Wrong)?;
        let limit = Some(Arc::clone(limit));
        let Some(id) = claims.account else {
            return Ok(Caller { limit, has_credential: true, ..Caller::anonymous() });
        };
        let account = self.directory.account(id).await?.ok_or(Refusal::Wrong)?;
        let is_good = account.is_active
            && account.epoch == claims.epoch
            && claims.credential.is_none_or(|id| account.has_credential(id, now_ms));
        if !is_good {
            return Err(Refusal::Wrong);
        }
        Ok(Caller { limit, ..Proved { account, credential: None }.caller() })
    }

    /// Verifies a token, by another node's key if need be.
    async fn verify(&self, text: &str, now: i64) -> Result<Claims, Refusal> {
        let service = &self.settings.service;
        match Claims::verify(text, &self.keys(), service, now) {
            Err(super::JwtError::UnknownKey) => {}
            result => return result.map_err(|_| Refusal::Wrong),
        }
        let others = published(&mut self.database.reader().await?).await?;
        let keys = Arc::new(self.keys().with_others(others));
        let result = Claims::verify(text, &keys, service, now);
        if result.is_ok() {
            *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        }
        result.map_err(|_| Refusal::Wrong)
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
    pub(super) async fn note_use(&self, proved: &Proved) -> Result<(), DbError> {
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

    /// Hashes a password for a new account.
    ///
    /// # Errors
    /// See [`PasswordError`].
    pub async fn hash_password(&self, password: &Secret) -> Result<PasswordHash, PasswordError> {
        self.passwords.hash(password).await
    }
}

impl Proved {
    fn is_refresh(&self) -> bool {
        let refresh = OpaqueKind::Refresh.as_str();
        self.credential.as_ref().is_some_and(|credential| credential.kind == refresh)
    }

    pub(super) fn caller(&self) -> Caller {
        let account = &self.account;
        Caller {
            identity: Identity::Account { id: account.id, name: account.name.clone() },
            standing: Arc::clone(&account.standing),
            limit: self.credential.as_ref().and_then(|credential| credential.limit.clone()),
            has_credential: true,
        }
    }

    /// Who is written into the audit log.
    pub(super) fn actor(&self, peer: IpAddr) -> Actor {
        Actor::account(self.account.id, &self.account.name, peer)
    }
}

/// What a token's claims allow.
fn limit_of(claims: &Claims) -> Limit {
    let scope = |access: &super::Access| {
        format!("{}:{}:{}", access.kind, access.name, access.actions.join(",")).parse::<Scope>()
    };
    let scopes: Vec<Scope> = claims.access.iter().filter_map(|access| scope(access).ok()).collect();
    Limit::of(&scopes)
}

/// Name and password of a Basic header (RFC 7617).
pub(super) fn basic(text: &str) -> Option<(String, Secret)> {
    let text = String::from_utf8(BASE64.decode(text).ok()?).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), Secret::new(password)))
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

/// Lets the other nodes verify what this one signs; private keys stay in their file.
struct PublishKeys(Vec<PublicKey>);

impl Transaction for PublishKeys {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        for key in &self.0 {
            let sql = "INSERT INTO signing_key (id, public_key, created_at) VALUES ($1, $2, $3)
                       ON CONFLICT (id) DO NOTHING";
            let values = values![&key.id, key.bytes.clone(), key.created * 1000];
            if connection.execute(sql, values).await? == 1 {
                let entry = Entry { action: "key.add", object: &key.id, detail: "{}" };
                audit::append(connection, &Actor::operator(), entry).await?;
            }
        }
        // A node that was not started again for so long is none.
        let old = connection.now_ms() - 12 * KEY_AGE_SECONDS * 1000;
        connection.execute("DELETE FROM signing_key WHERE created_at < $1", values![old]).await?;
        Ok(())
    }
}

async fn published(connection: &mut Connection) -> Result<Vec<PublicKey>, DbError> {
    let sql =
        "SELECT id, public_key, created_at FROM signing_key ORDER BY created_at DESC LIMIT 64";
    let rows = connection.rows(sql, Vec::new()).await?;
    rows.iter()
        .map(|row| {
            Ok(PublicKey {
                id: row.get(0)?,
                bytes: row.get(1)?,
                created: row.get::<i64>(2)? / 1000,
            })
        })
        .collect()
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
