//! The token server, `/token` (distribution `auth/token.md`, `auth/oauth.md`), and challenges.
//!
//! ```text
//! GET  [Basic]  service, scope*, offline_token      ─┐
//! POST password, refresh_token; scope, access_type  ─┼─► token of 5 minutes, cut to what the
//! GET  without a credential                         ─┘   account may do (nobody: to public pulls)
//! ```
//!
//! A scope that the account does not hold is left out, silently, as the protocol has it: the
//! registry itself then refuses.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{ConnectInfo, Request, State},
    response::{IntoResponse as _, Response},
    routing::get,
};
use davit_distribution::{
    Secret,
    wire::{Challenge, ErrorBody, ErrorCode, Scope, TokenResponse},
};
use http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Access, AccountError, AddToken, Auth, Caller, Claims, Decision, Limit, Need, OpaqueKind,
    OpaqueToken, Refusal, Rights, oidc,
    service::{Proved, basic},
};
use crate::{db::DbError, name::RepositoryName};

/// Life of an access token in seconds.
const LIFE_SECONDS: i64 = 300;
/// Life of a refresh token in milliseconds.
const REFRESH_LIFE_MS: i64 = 90 * 24 * 3600 * 1000;
/// Largest form.
const FORM_BYTES: usize = 64 << 10;
/// RFC 8693 § 2.1
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// Scopes of one token.
const MOST_SCOPES: usize = 64;

/// What a client asks for.
#[derive(Debug, Default)]
struct Asked {
    fields: HashMap<String, String>,
    scopes: Vec<Scope>,
}

/// The routes of the token server.
pub fn routes(auth: Arc<Auth>) -> Router {
    Router::new().route("/token", get(serve).post(serve)).with_state(auth)
}

async fn serve(State(auth): State<Arc<Auth>>, request: Request) -> Response {
    let peer = peer(request.extensions());
    let outcome = if request.method() == Method::POST {
        answer_post(&auth, request, peer).await
    } else {
        let (parts, _body) = request.into_parts();
        answer_get(&auth, &parts, peer).await
    };
    let mut response = outcome.unwrap_or_else(|refusal| refused(&refusal));
    // RFC 6749 § 5.1
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Where the request came from; the listener says.
#[must_use]
pub fn peer(extensions: &Extensions) -> IpAddr {
    let info = extensions.get::<ConnectInfo<SocketAddr>>();
    info.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(address)| address.ip())
}

async fn answer_get(auth: &Auth, request: &Parts, peer: IpAddr) -> Result<Response, Refusal> {
    let Some(asked) = Asked::read(request.uri.query().unwrap_or_default().as_bytes()) else {
        return Ok(bad_request("invalid_scope"));
    };
    let proved = match request.headers.get(header::AUTHORIZATION) {
        None => None,
        Some(header) => {
            let header = header.to_str().map_err(|_| Refusal::Wrong)?;
            let (scheme, text) = header.split_once(' ').ok_or(Refusal::Wrong)?;
            let credential = scheme.eq_ignore_ascii_case("basic").then(|| basic(text.trim()));
            let (name, password) = credential.flatten().ok_or(Refusal::Wrong)?;
            Some(auth.prove(&name, &password, peer).await?)
        }
    };
    let is_offline = asked.field("offline_token") == "true";
    let device = asked.device("client_id");
    let issued =
        auth.issue(proved.as_ref(), &asked.scopes, is_offline.then_some(device), peer).await?;
    Ok(axum::Json(issued).into_response())
}

async fn answer_post(auth: &Auth, request: Request, peer: IpAddr) -> Result<Response, Refusal> {
    let Ok(body) = to_bytes(request.into_body(), FORM_BYTES).await else {
        return Ok(bad_request("invalid_request"));
    };
    let Some(asked) = Asked::read(&body) else { return Ok(bad_request("invalid_scope")) };
    let proved = match asked.field("grant_type") {
        "password" => {
            let password = Secret::new(asked.field("password"));
            auth.prove(asked.field("username"), &password, peer).await?
        }
        "refresh_token" => {
            let token = OpaqueToken::parse(asked.field("refresh_token")).ok_or(Refusal::Wrong)?;
            auth.prove_token(None, &token, peer).await?
        }
        EXCHANGE => {
            return oidc::exchange(auth, &asked.fields, &asked.scopes, peer).await;
        }
        _ => return Ok(bad_request("unsupported_grant_type")),
    };
    let is_offline = asked.field("access_type") == "offline";
    let device = asked.device("client_id");
    let issued =
        auth.issue(Some(&proved), &asked.scopes, is_offline.then_some(device), peer).await?;
    Ok(axum::Json(issued).into_response())
}

impl Asked {
    /// Reads a query or form; `None` for scopes that are malformed or too many.
    fn read(text: &[u8]) -> Option<Self> {
        let mut asked = Self::default();
        for (key, value) in url::form_urlencoded::parse(text) {
            if key == "scope" {
                asked.scopes.extend(Scope::parse_list(&value).ok()?);
            } else {
                // The first counts, lest a later one change what was checked.
                asked.fields.entry(key.into_owned()).or_insert_with(|| value.into_owned());
            }
        }
        (asked.scopes.len() <= MOST_SCOPES).then_some(asked)
    }

    fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// What the client calls itself, to tell devices apart.
    fn device(&self, name: &str) -> String {
        self.field(name).chars().filter(|c| !c.is_control()).take(64).collect()
    }
}

impl Auth {
    /// Makes a token for an account or for nobody; `device`: a refresh token is wanted too.
    pub(super) async fn issue(
        &self,
        proved: Option<&Proved>,
        scopes: &[Scope],
        device: Option<String>,
        peer: IpAddr,
    ) -> Result<TokenResponse, Refusal> {
        let caller = proved.map_or_else(nobody, Proved::caller);
        let access = self.granted(&caller, scopes).await?;
        let now = self.database().now_ms() / 1000;
        let claims = Claims {
            issuer: self.settings().service.clone(),
            subject: proved.map(|proved| proved.account.name.clone()).unwrap_or_default(),
            audience: self.settings().service.clone(),
            expires: now + LIFE_SECONDS,
            not_before: now,
            issued: now,
            id: uuid::Uuid::now_v7().simple().to_string(),
            account: proved.map(|proved| proved.account.id),
            credential: proved.and_then(|proved| Some(proved.credential.as_ref()?.id)),
            epoch: proved.map_or(0, |proved| proved.account.epoch),
            access,
        };
        let token = Secret::new(claims.sign(&self.keys()));
        let refresh_token = match (proved, device) {
            (Some(proved), Some(device)) => self.refresh_token(proved, device, peer).await?,
            _ => None,
        };
        let issued = OffsetDateTime::from_unix_timestamp(now).ok();
        Ok(TokenResponse {
            token: Some(token.clone()),
            access_token: Some(token),
            expires_in: Some(LIFE_SECONDS),
            issued_at: issued.and_then(|time| time.format(&Rfc3339).ok()),
            refresh_token,
            scope: None,
        })
    }

    /// Each scope that was asked for, cut to what the caller may do.
    async fn granted(&self, caller: &Caller, scopes: &[Scope]) -> Result<Vec<Access>, DbError> {
        let mut granted: Vec<Access> = Vec::new();
        for scope in scopes {
            let kind = scope.kind().split_once('(').map_or(scope.kind(), |(kind, _)| kind);
            let actions: Vec<String> = match (kind, scope.name()) {
                ("repository", path) if path.parse::<RepositoryName>().is_ok() => {
                    let asked = Rights::of_words(scope.actions().iter().map(String::as_str));
                    let rights = self.rights(caller, path).await?;
                    asked.and(rights).words().into_iter().collect()
                }
                ("registry", "catalog") => {
                    let may = self.gate(caller, Need::Catalog).await? == Decision::Allow;
                    if may { vec!["*".to_owned()] } else { Vec::new() }
                }
                _ => Vec::new(),
            };
            granted.push(Access { kind: kind.to_owned(), name: scope.name().to_owned(), actions });
        }
        Ok(granted)
    }

    /// A token that stays with the device. Who came by one gets the same no second time, and who
    /// came by a token with rights of its own keeps that one: it can be revoked by its name.
    async fn refresh_token(
        &self,
        proved: &Proved,
        device: String,
        peer: IpAddr,
    ) -> Result<Option<Secret>, Refusal> {
        if proved.credential.is_some() {
            return Ok(None);
        }
        let token = OpaqueToken::new(OpaqueKind::Refresh);
        let added = AddToken {
            by: proved.actor(peer),
            account: proved.account.name.clone(),
            kind: OpaqueKind::Refresh,
            name: device,
            hash: token.hash(),
            scopes: Vec::new(),
            life_ms: Some(REFRESH_LIFE_MS),
        };
        match self.database().write(added).await {
            Ok(_) => Ok(Some(token.secret().clone())),
            Err(AccountError::Database(error)) => Err(error.into()),
            // The account went away a moment ago.
            Err(_) => Err(Refusal::Wrong),
        }
    }

    /// The challenge of a 401 (RFC 6750 § 3). `scopes` are what the request needs; `error` tells a
    /// client with a token that another token is needed.
    #[must_use]
    pub fn challenge(
        &self,
        headers: &HeaderMap,
        scopes: &[Scope],
        error: Option<&str>,
    ) -> HeaderValue {
        let scopes: Vec<String> = scopes.iter().map(Scope::to_string).collect();
        let scope = (!scopes.is_empty()).then(|| scopes.join(" "));
        let challenge =
            Challenge::bearer(&self.realm(headers), &self.settings().service, scope.as_deref());
        let text = match error {
            Some(error) => format!("{challenge},error=\"{error}\""),
            None => challenge.to_string(),
        };
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("Bearer"))
    }

    /// URL of the token server, as the client reaches it.
    fn realm(&self, headers: &HeaderMap) -> String {
        let settings = self.settings();
        if let Some(url) = &settings.public_url {
            return format!("{}/token", url.trim_end_matches('/'));
        }
        let is_host =
            |host: &&str| host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b));
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host.filter(is_host).unwrap_or("localhost");
        let scheme = if settings.is_tls { "https" } else { "http" };
        format!("{scheme}://{host}/token")
    }

    /// The scopes that a client must ask for to do what was refused.
    #[must_use]
    pub fn scope_of(need: Need<'_>) -> Vec<Scope> {
        match need {
            Need::Nothing
            | Need::Credential
            | Need::User
            | Need::SeeAccount(_)
            | Need::ManageAccount(_)
            | Need::SiteAdmin => Vec::new(),
            Need::Catalog => vec![Scope::catalog()],
            Need::Repository(action, path) => {
                // Docker asks for both when it pushes, and keeps the token for what follows.
                let words = match action.scope_word() {
                    "push" => &["pull", "push"][..],
                    "pull" => &["pull"],
                    "delete" => &["pull", "delete"],
                    _ => &["*"],
                };
                vec![Scope::repository(path, words)]
            }
        }
    }
}

fn nobody() -> Caller {
    Caller { has_credential: true, ..Caller::anonymous() }
}

impl Limit {
    /// Whether nothing at all is allowed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.catalog && self.repositories.iter().all(|(_, rights)| rights.is_none())
    }
}

pub(super) fn bad_request(error: &str) -> Response {
    let body = serde_json::json!({ "error": error, "details": error });
    (StatusCode::BAD_REQUEST, axum::Json(body)).into_response()
}

/// What a client is told of a credential that is not taken.
pub(crate) struct Told {
    pub(crate) status: StatusCode,
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
    /// Seconds after which another attempt makes sense.
    pub(crate) wait_seconds: Option<u64>,
}

impl Refusal {
    /// The same for every reason that tells of accounts.
    pub(crate) fn told(&self) -> Told {
        let (status, code, wait_seconds) = match self {
            Self::Wrong => (StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, None),
            Self::Throttled(wait) => {
                let wait = wait.as_secs().max(1);
                (StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests, Some(wait))
            }
            Self::Busy | Self::Database(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, Some(1))
            }
            // It rests as long.
            Self::Directory => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, Some(10)),
        };
        let message = match self {
            Self::Database(error) => {
                tracing::error!(%error, "authentication is out of order");
                "the registry cannot answer now".to_owned()
            }
            other => other.to_string(),
        };
        Told { status, code, message, wait_seconds }
    }
}

/// The answer to a credential that is not taken.
#[must_use]
pub fn refused(refusal: &Refusal) -> Response {
    let Told { status, code, message, wait_seconds } = refusal.told();
    let body = serde_json::to_vec(&ErrorBody::new(code, message)).unwrap_or_default();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = wait_seconds {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
