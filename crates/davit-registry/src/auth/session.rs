//! Sessions of browsers: what logging in on a page leaves with it, as a cookie.

use std::net::IpAddr;

use davit_distribution::Secret;

use super::{
    AccountError, AddToken, Auth, Caller, OpaqueKind, OpaqueToken, Refusal, accounts::RevokeToken,
    service::Proved,
};
use crate::db::DbError;

/// How long a session lasts, in milliseconds.
pub const SESSION_MS: i64 = 14 * 24 * 3600 * 1000;

impl Auth {
    /// Logs a person in by name and password; throttled as every login.
    ///
    /// # Errors
    /// See [`Refusal`]; an access token is no password here, for it may be limited.
    pub async fn log_in(
        &self,
        name: &str,
        password: &Secret,
        peer: IpAddr,
    ) -> Result<OpaqueToken, Refusal> {
        let proved = self.prove(name, password, peer).await?;
        if proved.credential.is_some() {
            return Err(Refusal::Wrong);
        }
        self.begin_session(&proved, peer).await
    }

    /// Proves by the password that whoever asks is the account's owner; throttled as every login.
    ///
    /// # Errors
    /// See [`Refusal`]; an access token is no password here.
    pub async fn check_password(
        &self,
        name: &str,
        password: &Secret,
        peer: IpAddr,
    ) -> Result<(), Refusal> {
        let proved = self.prove(name, password, peer).await?;
        if proved.credential.is_some() { Err(Refusal::Wrong) } else { Ok(()) }
    }

    /// Begins a session of an account that has proved itself, in whatever way.
    pub(super) async fn begin_session(
        &self,
        proved: &Proved,
        peer: IpAddr,
    ) -> Result<OpaqueToken, Refusal> {
        let token = OpaqueToken::new(OpaqueKind::Session);
        let added = AddToken {
            by: proved.actor(peer),
            account: proved.account.name.clone(),
            kind: OpaqueKind::Session,
            name: "pages".to_owned(),
            hash: token.hash(),
            scopes: Vec::new(),
            life_ms: Some(SESSION_MS),
        };
        match self.database().write(added).await {
            Ok(_) => Ok(token),
            Err(AccountError::Database(error)) => Err(error.into()),
            // The account went away a moment ago.
            Err(_) => Err(Refusal::Wrong),
        }
    }

    /// Knows the caller by a session; `None` for one that is over.
    ///
    /// # Errors
    /// The database's.
    pub async fn session(&self, text: &str) -> Result<Option<Caller>, DbError> {
        let Some(proved) = self.proved_by_session(text).await? else { return Ok(None) };
        self.note_use(&proved).await?;
        Ok(Some(proved.caller()))
    }

    /// Row of a session's credential; `None` for one that is over.
    ///
    /// # Errors
    /// The database's.
    pub async fn session_row(&self, text: &str) -> Result<Option<i64>, DbError> {
        let proved = self.proved_by_session(text).await?;
        Ok(proved.and_then(|proved| proved.credential).map(|credential| credential.id))
    }

    /// Ends a session.
    ///
    /// # Errors
    /// The database's; that it is over already is none.
    pub async fn log_out(&self, text: &str, peer: IpAddr) -> Result<(), DbError> {
        let Some(proved) = self.proved_by_session(text).await? else { return Ok(()) };
        let Some(credential) = &proved.credential else { return Ok(()) };
        let (by, account) = (proved.actor(peer), proved.account.name.clone());
        match self.database().write(RevokeToken { by, account, id: credential.id }).await {
            Err(AccountError::Database(error)) => Err(error),
            // Another request has ended it.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    async fn proved_by_session(&self, text: &str) -> Result<Option<Proved>, DbError> {
        let token = OpaqueToken::parse(text).filter(|token| token.kind() == OpaqueKind::Session);
        match token {
            Some(token) => self.known_token(None, &token).await,
            None => Ok(None),
        }
    }
}
