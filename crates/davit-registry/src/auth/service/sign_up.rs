//! Sign-up: accounts that people make for themselves.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use davit_distribution::Secret;

use super::Auth;
use crate::{
    auth::{
        AccountError, AccountName, OpaqueToken,
        accounts::{SignUp, SignUpMode, may_sign_up},
    },
    db::DbError,
};

/// Why nobody was signed up.
#[derive(Debug, thiserror::Error)]
pub enum SignUpError {
    /// The account cannot be made.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// Too many came from this address.
    #[error("too many attempts")]
    Throttled(Duration),
}

impl Auth {
    /// Who may sign up.
    ///
    /// # Errors
    /// The database's.
    pub async fn sign_up_mode(&self) -> Result<SignUpMode, DbError> {
        Ok(SignUpMode::of(self.database()).await?.unwrap_or(self.settings.sign_up))
    }

    /// Makes an account for whoever asks, where the registry's setting or an invitation
    /// (`davit_inv_…`) allows it; tells its row.
    ///
    /// # Errors
    /// See [`SignUpError`]. That a name is taken is told to those only who may sign up.
    pub async fn sign_up(
        &self,
        name: &str,
        password: &Secret,
        invitation: Option<&str>,
        peer: IpAddr,
    ) -> Result<i64, SignUpError> {
        // Counted whether it succeeds or not: accounts are not made by the thousand.
        let attempt = self.throttle.attempt(None, peer, Instant::now());
        drop(attempt.map_err(SignUpError::Throttled)?);
        let invitation = invitation.and_then(OpaqueToken::parse).map(|token| token.hash());
        let mut reader = self.database().reader().await.map_err(AccountError::from)?;
        // Before a password is hashed for nothing; the transaction looks again.
        may_sign_up(&mut reader, self.settings.sign_up, invitation).await?;
        drop(reader);
        name.parse::<AccountName>().map_err(AccountError::from)?;
        let password = self.passwords.hash(password).await.map_err(AccountError::from)?;
        let sign_up = SignUp {
            name: name.to_owned(),
            password: Some(password),
            usual: self.settings.sign_up,
            invitation,
            address: Some(peer.to_string()),
        };
        Ok(self.database().write(sign_up).await?)
    }
}
