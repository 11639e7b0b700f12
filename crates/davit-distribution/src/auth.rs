//! Authentication at one endpoint: challenges, Basic, and Bearer tokens by GET and by OAuth 2.
//!
//! ```text
//! 401 ─ challenge ─┬─ Basic  ─ credential ───────────────────────────► Authorization: Basic
//!                  └─ Bearer ─ realm checked ─┬─ no credential: GET ──┐
//!                                             ├─ password:  GET Basic ├► Authorization: Bearer
//!                                             └─ identity:  POST form ┘
//! ```
//!
//! Credentials go to the endpoint's own host and to the token server that it names, to no other.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use reqwest::{
    Method, StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use tokio::sync::Mutex;

use crate::{
    Credential, Error, Secret, redirect,
    retry::Backoff,
    transport::{Call, Payload, Transport},
    wire::{Challenge, Scope, TokenResponse},
};

/// Sent to token servers; some keep statistics by it, OAuth 2 demands it.
const CLIENT_ID: &str = "davit";
/// A token is renewed this long before it ends.
const MARGIN: Duration = Duration::from_secs(5);

/// What an endpoint wants to be proved, and the proofs at hand.
#[derive(Debug, Default)]
pub(crate) struct Auth {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    scheme: Scheme,
    /// By the scopes that were asked for.
    tokens: HashMap<Vec<Scope>, Token>,
    /// By repository path, since some files distinguish these; `None` inside: none is stored.
    credentials: HashMap<String, Option<Credential>>,
}

#[derive(Debug, Default)]
enum Scheme {
    /// Nothing was asked for so far.
    #[default]
    Open,
    Basic,
    Bearer {
        realm: Url,
        service: Option<String>,
    },
}

#[derive(Debug)]
struct Token {
    secret: Secret,
    ends: Instant,
    with_credentials: bool,
}

/// An `Authorization` header.
#[derive(Clone, Debug)]
pub(crate) struct Proof {
    pub(crate) header: HeaderValue,
    /// Whether an account stands behind it.
    pub(crate) with_credentials: bool,
}

/// On whose behalf a proof is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    /// Base URL of the endpoint.
    pub(crate) base: &'a Url,
    /// Host by which credentials are looked up.
    pub(crate) host: &'a str,
    /// Path of the repository, or empty.
    pub(crate) path: &'a str,
    /// What is to be done.
    pub(crate) scopes: &'a [Scope],
}

impl Auth {
    /// The header to send from the start, by what is known of the endpoint.
    pub(crate) async fn proof(
        &self,
        transport: &Transport,
        subject: Subject<'_>,
    ) -> Result<Option<Proof>, Error> {
        let mut state = self.state.lock().await;
        match state.scheme {
            Scheme::Open => Ok(None),
            Scheme::Basic => state.basic(transport, subject).await,
            Scheme::Bearer { .. } => state.bearer(transport, subject, &[]).await.map(Some),
        }
    }

    /// Reads a 401's challenges; the header to try again with, `None` if there is no better one.
    pub(crate) async fn answer(
        &self,
        transport: &Transport,
        subject: Subject<'_>,
        headers: &HeaderMap,
        refused: Option<&Proof>,
    ) -> Result<Option<Proof>, Error> {
        let challenges: Vec<Challenge> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|header| header.to_str().ok())
            .flat_map(Challenge::parse)
            .collect();
        let by_scheme = |scheme| challenges.iter().find(|challenge| challenge.scheme() == scheme);
        let mut state = self.state.lock().await;
        if let Some(challenge) = by_scheme("bearer") {
            state.answer_bearer(transport, subject, challenge).await.map(Some)
        } else if by_scheme("basic").is_some() {
            state.scheme = Scheme::Basic;
            let proof = state.basic(transport, subject).await?;
            // The same proof again would be refused again.
            Ok(proof.filter(|proof| refused.is_none_or(|old| old.header != proof.header)))
        } else {
            Ok(None)
        }
    }

    /// Uses this credential instead of a stored one.
    pub(crate) async fn give(&self, path: &str, credential: Credential) {
        let mut state = self.state.lock().await;
        state.tokens.clear();
        state.credentials.insert(path.to_owned(), Some(credential));
    }

    /// Asks the token server for a refresh token, as logging in does.
    ///
    /// `None`: this endpoint has no token server, or it gives none.
    pub(crate) async fn refresh_token(
        &self,
        transport: &Transport,
        subject: Subject<'_>,
    ) -> Result<Option<Secret>, Error> {
        let mut state = self.state.lock().await;
        let Scheme::Bearer { realm, service } = &state.scheme else { return Ok(None) };
        let (realm, service) = (realm.clone(), service.clone());
        let credential = state.credential(transport, subject).await?;
        let asked =
            Asked { realm: &realm, service: service.as_deref(), scopes: &[], offline: true };
        let mut backoff = Backoff::new(&transport.config().retry);
        let reply = loop {
            match asked.send(transport, credential.as_ref()).await {
                Ok(reply) => break reply,
                Err(error) => backoff.wait(error).await?,
            }
        };
        Ok(reply.refresh_token.filter(|token| !token.expose().is_empty()))
    }
}

impl State {
    async fn credential(
        &mut self,
        transport: &Transport,
        subject: Subject<'_>,
    ) -> Result<Option<Credential>, Error> {
        if let Some(known) = self.credentials.get(subject.path) {
            return Ok(known.clone());
        }
        let found = transport.find_credential(subject.host, subject.path).await?;
        self.credentials.insert(subject.path.to_owned(), found.clone());
        Ok(found)
    }

    async fn basic(
        &mut self,
        transport: &Transport,
        subject: Subject<'_>,
    ) -> Result<Option<Proof>, Error> {
        Ok(match self.credential(transport, subject).await? {
            Some(Credential::Password { username, password }) => {
                Some(Proof { header: basic_header(&username, &password), with_credentials: true })
            }
            Some(Credential::Registry(token)) => Some(Proof::bearer(&token, true)),
            Some(Credential::Identity(_)) | None => None,
        })
    }

    async fn answer_bearer(
        &mut self,
        transport: &Transport,
        subject: Subject<'_>,
        challenge: &Challenge,
    ) -> Result<Proof, Error> {
        let realm = challenge.parameter("realm").unwrap_or_default();
        let realm = redirect::check_realm(subject.base, realm)
            .map_err(|problem| Error::Protocol { url: redirect::shown(subject.base), problem })?;
        let service = challenge.parameter("service").map(str::to_owned);
        self.scheme = Scheme::Bearer { realm, service };
        // Whatever token was sent, it did not do.
        self.tokens.remove(subject.scopes);
        let extra = challenge.parameter("scope").map(Scope::parse_list);
        let extra = extra.and_then(Result::ok).unwrap_or_default();
        self.bearer(transport, subject, &extra).await
    }

    /// A token for the subject's scopes; `extra` are those that the challenge named.
    async fn bearer(
        &mut self,
        transport: &Transport,
        subject: Subject<'_>,
        extra: &[Scope],
    ) -> Result<Proof, Error> {
        if let Some(token) = self.tokens.get(subject.scopes)
            && token.ends > Instant::now()
        {
            return Ok(Proof::bearer(&token.secret, token.with_credentials));
        }
        let credential = self.credential(transport, subject).await?;
        if let Some(Credential::Registry(token)) = &credential {
            return Ok(Proof::bearer(token, true));
        }
        let Scheme::Bearer { realm, service } = &self.scheme else {
            unreachable!("tokens are asked for only after a Bearer challenge")
        };
        let scopes = merge_scopes(extra, subject.scopes);
        let asked = Asked { realm, service: service.as_deref(), scopes: &scopes, offline: false };
        let reply = asked.send(transport, credential.as_ref()).await?;
        let secret = reply.bearer().cloned().ok_or_else(|| Error::Protocol {
            url: redirect::shown(realm),
            problem: "gave no token".to_owned(),
        })?;
        let ends = Instant::now() + reply.life().saturating_sub(MARGIN);
        let with_credentials = credential.is_some();
        let proof = Proof::bearer(&secret, with_credentials);
        self.tokens.insert(subject.scopes.to_vec(), Token { secret, ends, with_credentials });
        Ok(proof)
    }
}

impl Proof {
    fn bearer(token: &Secret, with_credentials: bool) -> Self {
        let text = format!("Bearer {}", token.expose());
        Self { header: sensitive(&text), with_credentials }
    }
}

/// The challenge's scopes go first: some servers honour only one.
fn merge_scopes(extra: &[Scope], own: &[Scope]) -> Vec<Scope> {
    let mut merged = extra.to_vec();
    for scope in own {
        let covered = merged.iter().any(|other| {
            (other.kind(), other.name()) == (scope.kind(), scope.name())
                && other.actions().is_superset(scope.actions())
        });
        if !covered {
            merged.retain(|other| {
                (other.kind(), other.name()) != (scope.kind(), scope.name())
                    || !scope.actions().is_superset(other.actions())
            });
            merged.push(scope.clone());
        }
    }
    merged
}

fn basic_header(username: &str, password: &Secret) -> HeaderValue {
    sensitive(&format!("Basic {}", BASE64.encode(format!("{username}:{}", password.expose()))))
}

/// A header that is not printed. A token with line breaks in it becomes an empty header, which
/// the server refuses.
fn sensitive(text: &str) -> HeaderValue {
    let mut header =
        HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("Bearer"));
    header.set_sensitive(true);
    header
}

/// One question to a token server.
struct Asked<'a> {
    realm: &'a Url,
    service: Option<&'a str>,
    scopes: &'a [Scope],
    /// Whether a refresh token is wanted.
    offline: bool,
}

impl Asked<'_> {
    /// Asks once: a request that needs the token is tried again as a whole.
    async fn send(
        &self,
        transport: &Transport,
        credential: Option<&Credential>,
    ) -> Result<TokenResponse, Error> {
        match credential {
            Some(Credential::Identity(token)) => {
                let form = [("grant_type", "refresh_token"), ("refresh_token", token.expose())];
                match self.post(transport, &form).await {
                    // Servers without OAuth 2 take the token as a password.
                    Err(error) if is_no_oauth(&error) => {
                        self.get(transport, Some((IDENTITY_USER, token))).await
                    }
                    result => result,
                }
            }
            Some(Credential::Password { username, password }) => {
                match self.get(transport, Some((username, password))).await {
                    Err(error) if is_no_oauth(&error) => {
                        let form = [
                            ("grant_type", "password"),
                            ("username", username.as_str()),
                            ("password", password.expose()),
                        ];
                        self.post(transport, &form).await
                    }
                    result => result,
                }
            }
            Some(Credential::Registry(_)) | None => self.get(transport, None).await,
        }
    }

    async fn get(
        &self,
        transport: &Transport,
        account: Option<(&str, &Secret)>,
    ) -> Result<TokenResponse, Error> {
        let mut url = self.realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = self.service {
                query.append_pair("service", service);
            }
            for scope in self.scopes {
                query.append_pair("scope", &scope.to_string());
            }
            query.append_pair("client_id", CLIENT_ID);
            if let Some((username, _)) = account {
                query.append_pair("account", username);
            }
            if self.offline {
                query.append_pair("offline_token", "true");
            }
        }
        let mut call = Call::new(Method::GET, url);
        if let Some((username, password)) = account {
            call.headers.insert(AUTHORIZATION, basic_header(username, password));
        }
        self.read(transport, call, account.is_some()).await
    }

    async fn post(
        &self,
        transport: &Transport,
        form: &[(&str, &str)],
    ) -> Result<TokenResponse, Error> {
        let mut call = Call::new(Method::POST, self.realm.clone());
        let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        call.headers.insert(CONTENT_TYPE, form_type);
        call.payload = Payload::Bytes(self.encode(form).into_bytes().into());
        self.read(transport, call, true).await
    }

    /// The form of a POST.
    fn encode(&self, form: &[(&str, &str)]) -> String {
        let scopes: Vec<String> = self.scopes.iter().map(ToString::to_string).collect();
        let mut encoded = url::form_urlencoded::Serializer::new(String::new());
        encoded.extend_pairs(form);
        encoded.append_pair("client_id", CLIENT_ID);
        if let Some(service) = self.service {
            encoded.append_pair("service", service);
        }
        if !scopes.is_empty() {
            encoded.append_pair("scope", &scopes.join(" "));
        }
        if self.offline {
            encoded.append_pair("access_type", "offline");
        }
        encoded.finish()
    }

    async fn read(
        &self,
        transport: &Transport,
        call: Call,
        with_credentials: bool,
    ) -> Result<TokenResponse, Error> {
        let limit = transport.config().limits.token;
        let result = transport.fetch_unproved_once(&call, limit).await;
        let body = result.map_err(|error| match error {
            // The token server does not see what the transport knows of the credentials.
            Error::Denied { url, errors, .. } => Error::Denied { url, with_credentials, errors },
            error => error,
        })?;
        serde_json::from_slice(&body).map_err(|_| Error::Protocol {
            url: redirect::shown(self.realm),
            problem: "gave no token but something else".to_owned(),
        })
    }
}

/// Sent as the user where an identity token has to serve as a password.
const IDENTITY_USER: &str = "<token>";

fn is_no_oauth(error: &Error) -> bool {
    error.is_not_found()
        || matches!(error, Error::Status { status, .. }
            if *status == StatusCode::METHOD_NOT_ALLOWED.as_u16())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_of_the_challenge_go_first_once() {
        let list = |text: &str| Scope::parse_list(text).unwrap();
        let cases = [
            ("", "repository:a:pull", "repository:a:pull"),
            ("repository:a:pull", "repository:a:pull", "repository:a:pull"),
            ("repository:a:pull", "repository:a:pull,push", "repository:a:pull,push"),
            ("repository:a:pull,push", "repository:a:pull", "repository:a:pull,push"),
            (
                "repository:b:pull",
                "repository:a:pull repository:c:pull",
                "repository:b:pull repository:a:pull repository:c:pull",
            ),
        ];
        for (extra, own, expected) in cases {
            assert_eq!(merge_scopes(&list(extra), &list(own)), list(expected), "{extra} + {own}");
        }
    }

    #[test]
    fn headers_hide_secrets() {
        let header = basic_header("Aladdin", &Secret::new("open sesame"));
        assert_eq!(header, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert!(!format!("{header:?}").contains("QWxh"));
        assert_eq!(sensitive("Bearer a\r\nX: y"), "Bearer");
    }
}
