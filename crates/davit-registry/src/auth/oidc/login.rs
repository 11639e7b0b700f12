//! Log-in by a provider: the authorization code flow with PKCE (OpenID Connect Core § 3.1, RFC 7636,
//! RFC 9207, RFC 9700).

use std::net::IpAddr;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use davit_distribution::{Secret, WebRequest};
use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom as _, SystemRandom},
};
use serde_json::{Map, Value};

use super::{
    flow::token_request,
    issuer::{IssuerError, Metadata, audiences, text},
    store::{
        Flow, ForeignIdentity, KeepFlow, Link, Provider, SignUpWith, TakeFlow, account_of, provider,
    },
};
use crate::{
    auth::{
        AccountError, AccountName, Auth, OpaqueToken, Refusal, TokenHash,
        accounts::{SignUp, may_sign_up},
        audit::Actor,
        service::Proved,
    },
    db::DbError,
};

/// How long a browser may take at the provider, and to choose a name, in milliseconds.
const FLOW_LIFE_MS: i64 = 15 * 60 * 1000;

/// What a log-in is for.
#[derive(Clone, Debug)]
pub struct Begin {
    /// Name of the provider.
    pub provider: String,
    /// Address of this registry to which the provider sends the browser back.
    pub redirect: String,
    /// Row of the account whose owner is logged in and adds an identity; `None`: to log in.
    pub link: Option<i64>,
    /// An invitation, for who has no account yet.
    pub invitation: Option<Secret>,
}

/// A log-in that has begun.
#[derive(Clone, Debug)]
pub struct Begun {
    /// Where to send the browser.
    pub location: String,
    /// What to give the browser as a cookie, and ask for when it comes back.
    pub browser: Secret,
}

/// What the provider sent the browser back with.
#[derive(Clone, Debug, Default)]
pub struct Callback {
    /// `state`
    pub state: String,
    /// `code`
    pub code: Option<Secret>,
    /// `iss`
    pub issuer: Option<String>,
}

/// How a log-in ended.
#[derive(Clone, Debug)]
pub enum Finished {
    /// A session of the account that has the identity.
    Session(OpaqueToken),
    /// The identity was added to the account that asked for it.
    Linked,
    /// Nobody has the identity: a name is needed, to be given with this ticket.
    NeedsName {
        /// For [`Auth::oidc_sign_up`].
        ticket: Secret,
        /// A name that may be free.
        suggestion: Option<String>,
    },
}

/// Why nobody is logged in.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// There is no provider of this name.
    #[error("there is no such identity provider")]
    NoProvider,
    /// It was not begun here, by this browser, or too long ago; or the person gave up.
    #[error("the log-in was not begun here, or has ended")]
    Flow,
    /// The provider's answer is not believed.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// An account cannot be made or linked.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The account may not log in, or too many tried.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The database's.
    #[error(transparent)]
    Database(#[from] DbError),
}

impl Auth {
    /// Begins a log-in. It counts as an attempt from this address until the provider has vouched for
    /// somebody.
    ///
    /// # Errors
    /// See [`OidcError`].
    pub async fn oidc_begin(&self, begin: Begin, peer: IpAddr) -> Result<Begun, OidcError> {
        drop(self.attempt((None, peer)).await?);
        let database = self.database();
        let found = provider(database, &begin.provider).await?.ok_or(OidcError::NoProvider)?;
        let metadata = self.issuers.metadata(&found.issuer, database.now_ms()).await?;
        let place = metadata.authorization_endpoint.as_deref();
        let fault = || IssuerError::Provider(found.issuer.clone(), "has no page to log in");
        let mut location: url::Url =
            place.and_then(|place| place.parse().ok()).ok_or_else(fault)?;
        let [state, nonce, verifier, browser] = [(); 4].map(|()| chance());
        let challenge = BASE64.encode(digest(&SHA256, verifier.as_bytes()));
        location
            .query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &found.client_id)
            .append_pair("redirect_uri", &begin.redirect)
            .append_pair("scope", "openid profile")
            .append_pair("state", &state)
            .append_pair("nonce", &nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        let invitation = begin.invitation.as_ref().map(Secret::expose).and_then(OpaqueToken::parse);
        let flow = Flow {
            provider: begin.provider,
            browser: hash(&browser).to_string(),
            nonce: nonce.into(),
            verifier: verifier.into(),
            redirect: begin.redirect,
            link: begin.link,
            invitation: invitation.map(|token| token.hash().to_string()),
            identity: None,
            address: Some(peer),
        };
        self.keep_flow(&state, flow).await?;
        Ok(Begun { location: location.into(), browser: Secret::new(browser) })
    }

    async fn keep_flow(&self, key: &str, flow: Flow) -> Result<(), DbError> {
        let keep = KeepFlow { key: hash(key), flow, life_ms: FLOW_LIFE_MS };
        self.database().write(keep).await
    }

    /// Takes a flow that this browser has begun; each is taken once.
    async fn take_flow(&self, key: &str, browser: &str) -> Result<Flow, OidcError> {
        let flow = self.database().write(TakeFlow(hash(key))).await?.ok_or(OidcError::Flow)?;
        // Otherwise someone could be logged in as someone else without a notice.
        if flow.browser != hash(browser).to_string() {
            return Err(OidcError::Flow);
        }
        Ok(flow)
    }

    /// Ends a log-in when the browser comes back. `link` is the account that is logged in now: an identity
    /// is added to the account that asked for it only while that one still is.
    ///
    /// # Errors
    /// See [`OidcError`].
    pub async fn oidc_finish(
        &self,
        callback: &Callback,
        (browser, link): (&str, Option<i64>),
        peer: IpAddr,
    ) -> Result<Finished, OidcError> {
        let flow = self.take_flow(&callback.state, browser).await?;
        let found =
            provider(self.database(), &flow.provider).await?.ok_or(OidcError::NoProvider)?;
        let claims = self.oidc_claims(&found, &flow, callback).await?;
        if let Some(address) = flow.address {
            self.throttle.forgive_address(address);
        }
        let subject = text(&claims, "sub").unwrap_or_default().to_owned();
        let identity = ForeignIdentity { issuer: found.issuer.clone(), subject };
        if let Some(account) = flow.link {
            if link != Some(account) {
                return Err(OidcError::Flow);
            }
            return self.oidc_link(account, identity, peer).await;
        }
        if let Some(account) = account_of(self.database(), &identity).await? {
            return self.foreign_session(account, peer).await;
        }
        self.oidc_newcomer(&found, (flow, identity), text(&claims, "preferred_username"), peer)
            .await
    }

    /// The claims of the ID token that the code buys.
    async fn oidc_claims(
        &self,
        provider: &Provider,
        flow: &Flow,
        callback: &Callback,
    ) -> Result<Map<String, Value>, OidcError> {
        let (issuer, now_ms) = (provider.issuer.as_str(), self.database().now_ms());
        let metadata = self.issuers.metadata(issuer, now_ms).await?;
        check_issuer(&metadata, callback.issuer.as_deref())?;
        let code = callback.code.as_ref().ok_or(OidcError::Flow)?;
        let request: WebRequest = token_request(provider, &metadata, flow, code.expose())?;
        let bytes = self.issuers.fetch(issuer, &request).await?;
        let reply: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let missing = IssuerError::Provider(issuer.to_owned(), "gives no ID token");
        let token = reply["id_token"].as_str().ok_or(missing)?;
        let whom = (issuer, provider.client_id.as_str());
        let claims = self.issuers.verify(token, whom, now_ms).await?;
        let refuse = |what| Err(IssuerError::Token(what).into());
        if text(&claims, "nonce") != Some(flow.nonce.expose()) {
            return refuse("is of another log-in");
        }
        let party = text(&claims, "azp");
        let is_ours = party.is_none_or(|party| party == provider.client_id);
        // For many audiences it must say who asked for it.
        if !is_ours || (party.is_none() && audiences(&claims).count() > 1) {
            return refuse("was asked for by another party");
        }
        Ok(claims)
    }

    async fn oidc_link(
        &self,
        account: i64,
        identity: ForeignIdentity,
        peer: IpAddr,
    ) -> Result<Finished, OidcError> {
        if account_of(self.database(), &identity).await? == Some(account) {
            return Ok(Finished::Linked);
        }
        let found = self.directory.account(account).await?.filter(|account| account.is_active);
        let found = found.ok_or(OidcError::Flow)?;
        let by = Actor::account(found.id, &found.name, peer);
        self.database().write(Link { by, account, identity }).await?;
        Ok(Finished::Linked)
    }

    async fn foreign_session(&self, account: i64, peer: IpAddr) -> Result<Finished, OidcError> {
        let found = self.directory.account(account).await?.filter(|account| account.is_active);
        let account = found.ok_or(Refusal::Wrong)?;
        let proved = Proved { account, credential: None };
        Ok(Finished::Session(self.begin_session(&proved, peer).await?))
    }

    /// Someone whom nobody knows: makes an account under the name that the provider suggests, where that
    /// is free, or asks for a name. An account that is there is never theirs.
    async fn oidc_newcomer(
        &self,
        provider: &Provider,
        (flow, identity): (Flow, ForeignIdentity),
        suggestion: Option<&str>,
        peer: IpAddr,
    ) -> Result<Finished, OidcError> {
        if !provider.signs_up {
            let mut reader = self.database().reader().await?;
            may_sign_up(&mut reader, self.settings().sign_up, invitation(&flow)).await?;
        }
        let name = suggestion.map(str::to_lowercase);
        let name = name.filter(|name| {
            name.parse::<AccountName>().is_ok_and(|name| name.robot_owner().is_none())
        });
        if let Some(name) = &name {
            match self.sign_up_with(provider, (&flow, identity.clone()), name, peer).await {
                Ok(account) => return self.foreign_session(account, peer).await,
                Err(AccountError::Exists(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let ticket = chance();
        self.keep_flow(&ticket, Flow { identity: Some(identity), ..flow }).await?;
        let ticket = Secret::new(ticket);
        Ok(Finished::NeedsName { ticket, suggestion: name })
    }

    async fn sign_up_with(
        &self,
        provider: &Provider,
        (flow, identity): (&Flow, ForeignIdentity),
        name: &str,
        peer: IpAddr,
    ) -> Result<i64, AccountError> {
        let sign_up = SignUp {
            name: name.to_owned(),
            password: None,
            usual: self.settings().sign_up,
            invitation: invitation(flow),
            address: Some(peer.to_string()),
        };
        let is_vouched = provider.signs_up;
        self.database().write(SignUpWith { sign_up, identity, is_vouched }).await
    }

    /// Makes the account of who has proved an identity and chosen a name, and begins its session.
    ///
    /// # Errors
    /// See [`OidcError`]. The ticket is used up; where the name is taken there is another one.
    pub async fn oidc_sign_up(
        &self,
        ticket: &str,
        name: &str,
        (browser, peer): (&str, IpAddr),
    ) -> Result<Finished, OidcError> {
        let flow = self.take_flow(ticket, browser).await?;
        let identity = flow.identity.clone().ok_or(OidcError::Flow)?;
        let found =
            provider(self.database(), &flow.provider).await?.ok_or(OidcError::NoProvider)?;
        match self.sign_up_with(&found, (&flow, identity), name, peer).await {
            Ok(account) => self.foreign_session(account, peer).await,
            Err(AccountError::Exists(_) | AccountError::Name(_)) => {
                let ticket = chance();
                self.keep_flow(&ticket, flow).await?;
                let ticket = Secret::new(ticket);
                Ok(Finished::NeedsName { ticket, suggestion: None })
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn invitation(flow: &Flow) -> Option<TokenHash> {
    flow.invitation.as_deref()?.parse().ok()
}

/// Another provider than the one that was asked must not answer (RFC 9207).
fn check_issuer(metadata: &Metadata, given: Option<&str>) -> Result<(), IssuerError> {
    let must = metadata.authorization_response_iss_parameter_supported;
    if given.map_or(!must, |given| given == metadata.issuer) {
        return Ok(());
    }
    Err(IssuerError::Token("came by another provider"))
}

/// 256 bits.
fn chance() -> String {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).expect("the kernel gives random bytes");
    BASE64.encode(bytes)
}

fn hash(text: &str) -> TokenHash {
    TokenHash::of(text.as_bytes())
}
