//! Bearer tokens of the token server: verified once, and judged at each use.

use std::sync::Arc;

use davit_distribution::wire::Scope;

use super::{Auth, Proved, Refusal, lock, put};
use crate::auth::{Access, Caller, Claims, Limit, TokenHash, directory::Account};

/// A token whose signature was verified.
#[derive(Debug)]
pub(super) struct KnownToken {
    claims: Claims,
    limit: Arc<Limit>,
}

impl Auth {
    /// Knows the caller by an access token.
    pub(super) async fn access_token(&self, text: &str) -> Result<Caller, Refusal> {
        let now_ms = self.database.now_ms();
        let hash = TokenHash::of(text.as_bytes());
        let known = lock(&self.known_tokens).get(&hash).cloned();
        let known = match known {
            Some(known) => known,
            None => {
                let claims = self.keys.verify(text, &self.settings.service).await?;
                let claims = claims.map_err(|_| Refusal::Wrong)?;
                let limit = Arc::new(limit_of(&claims));
                let known = Arc::new(KnownToken { claims, limit });
                put(&self.known_tokens, hash, Arc::clone(&known));
                known
            }
        };
        let KnownToken { claims, limit } = &*known;
        claims.check(&self.settings.service, now_ms / 1000).map_err(|_| Refusal::Wrong)?;
        let token = Some(Arc::clone(limit));
        let Some(id) = claims.account else {
            return Ok(Caller { token, has_credential: true, ..Caller::anonymous() });
        };
        let is_good = |account: &Account| {
            account.is_active
                && account.epoch == claims.epoch
                && claims.credential.is_none_or(|id| account.has_credential(id, now_ms))
        };
        let account = self.directory.account_if(id, is_good).await?.ok_or(Refusal::Wrong)?;
        let limit = claims.credential.and_then(|id| account.limit_of(id));
        Ok(Caller { limit, token, ..Proved { account, credential: None }.caller() })
    }
}

/// What a token's claims allow.
fn limit_of(claims: &Claims) -> Limit {
    let scope = |access: &Access| {
        format!("{}:{}:{}", access.kind, access.name, access.actions.join(",")).parse::<Scope>()
    };
    let scopes: Vec<Scope> = claims.access.iter().filter_map(|access| scope(access).ok()).collect();
    Limit::of(&scopes)
}
