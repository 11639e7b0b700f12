//! The JSON API, `/api/v1`: all that the pages do, for programs.
//!
//! ```text
//! request ─► route ─► who asks ─► gate ─► types ─► function ─► JSON
//!            (table)  (header or   (auth)  (table)              problem+json
//!                      cookie+CSRF)
//! ```
//!
//! [`endpoints`] is the table: [`openapi::document`] is made from it, and the pages' forms go through
//! it, so that none of them can say what another does not do.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
};

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use davit_image::Digest;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, watch};

use crate::{
    auth::{Auth, Caller, Decision, Need, Refusal, peer},
    gc::{GcError, GcReport},
    registry::Registry,
    web::cookie::{self, Cookies},
};

mod access;
mod accounts;
mod builds;
mod collector;
mod directories;
mod form;
mod identity;
mod images;
pub mod openapi;
mod organisations;
mod problem;
mod repositories;
mod route;
mod sbom;
pub mod schema;
mod server;
mod sources;
mod steps;
mod tags;
mod text;
mod trash;
mod upstreams;
mod webhooks;

pub(crate) use access::{Grant, Robot, Token, account_grants, account_tokens, robots};
pub(crate) use accounts::{AccountInfo, AuditEntry, Usage, account_audit, usage, user, users};
pub(crate) use builds::{Build, all_builds, build, build_log, builds};
pub(crate) use collector::{Collector, GcState};
pub(crate) use directories::{Directory, GroupMap, directories, groups};
pub(crate) use identity::{
    Identity, Provider, TrustRule, account_identities, identity_providers, trust,
};
pub(crate) use images::{Image, Layer, Referrer, ReferrerSearch, image, referrers};
pub(crate) use organisations::{Organisation, organisation};
use problem::PROBLEM_JSON;
pub use problem::Problem;
pub(crate) use repositories::{
    Repository, RepositoryConfig, Search, Verdict, repositories, repository, repository_config,
    repository_grants, retention_verdicts,
};
pub use route::{Call, Endpoint, Names, Rule, match_path};
pub(crate) use sbom::{Sbom, find as sbom};
pub(crate) use server::{Health, Storage, audit, health, settings, storage};
pub(crate) use sources::{Source, source, source_hook};
pub(crate) use tags::{TagInfo, TagMove, TagSearch, tag, tag_history, tags};
pub(crate) use text::{LogPaging, Paging};
pub(crate) use trash::{DeletedInfo, deleted};
pub(crate) use upstreams::{Mirror, ReplicationRule, mirrors, replication_rules};
pub(crate) use webhooks::{Delivery, Webhook, deliveries, webhook, webhooks};

/// Where the API is.
pub const BASE: &str = "/api/v1";
/// Largest body in bytes.
const BODY_BYTES: usize = 1 << 20;
/// Streams of live events at once.
const STREAMS: usize = 256;

/// What the API and the pages work on.
#[derive(Debug)]
pub struct Site {
    pub(crate) registry: Registry,
    pub(crate) auth: Arc<Auth>,
    pub(crate) collector: Collector,
    /// Becomes true when the server ends: streams of events end too.
    pub(crate) stopped: watch::Receiver<bool>,
    pub(crate) streams: Arc<Semaphore>,
    /// How clients reach the server, where a request does not say.
    pub(crate) base_url: String,
    /// Platforms of images, which never change.
    platforms: Mutex<std::collections::HashMap<Digest, String>>,
}

impl Site {
    /// Puts the parts together; clients reach the server by `base_url`.
    #[must_use]
    pub fn new(
        registry: Registry,
        auth: Arc<Auth>,
        stopped: watch::Receiver<bool>,
        base_url: &str,
    ) -> Arc<Self> {
        Arc::new(Self {
            base_url: base_url.to_owned(),
            collector: Collector::new(&registry),
            registry,
            auth,
            stopped,
            streams: Arc::new(Semaphore::new(STREAMS)),
            platforms: Mutex::default(),
        })
    }

    /// Collects garbage, unless a collection goes on.
    ///
    /// # Errors
    /// See [`GcError`].
    pub async fn collect(&self) -> Result<Option<GcReport>, GcError> {
        self.collector.run(&self.registry).await
    }

    /// Tells whether browsers reach the server by TLS.
    pub(crate) fn is_secure(&self) -> bool {
        let settings = self.auth.settings();
        let public = settings.public_url.as_deref();
        public.map_or(settings.is_tls, |url| url.starts_with("https://"))
    }

    /// Knows a browser by its cookie.
    ///
    /// # Errors
    /// The database's.
    pub(crate) async fn visitor(&self, cookies: &Cookies) -> Result<Option<Caller>, Problem> {
        match cookies.session() {
            Some(text) if self.auth.settings().is_on => Ok(self.auth.session(text).await?),
            _ => Ok(None),
        }
    }

    /// Asks the gate.
    ///
    /// # Errors
    /// What the caller is told instead; with 401 the challenge is the caller's affair.
    pub(crate) async fn admit(&self, caller: &Caller, need: Need<'_>) -> Result<(), Problem> {
        match self.auth.gate(caller, need).await? {
            Decision::Allow => Ok(()),
            Decision::Challenge => {
                Err(Problem::new(StatusCode::UNAUTHORIZED, "authentication is needed"))
            }
            Decision::Denied => Err(Problem::denied()),
            Decision::Absent => Err(Problem::absent()),
        }
    }
}

/// The whole API.
#[must_use]
pub fn endpoints() -> Vec<Endpoint> {
    let mut all = server::endpoints();
    all.extend(accounts::endpoints());
    all.extend(organisations::endpoints());
    all.extend(access::endpoints());
    all.extend(access::grant_endpoints());
    all.extend(repositories::endpoints());
    all.extend(tags::endpoints());
    all.extend(trash::endpoints());
    all.extend(images::endpoints());
    all.extend(sources::endpoints());
    all.extend(builds::endpoints());
    all.extend(webhooks::endpoints());
    all.extend(upstreams::endpoints());
    all.extend(identity::endpoints());
    all.extend(directories::endpoints());
    all
}

/// The API of one server; cheap to clone.
#[derive(Clone, Debug)]
pub struct Api {
    site: Arc<Site>,
    endpoints: Arc<Vec<Endpoint>>,
}

impl Api {
    /// Serves this site.
    #[must_use]
    pub fn new(site: Arc<Site>) -> Self {
        Self { site, endpoints: Arc::new(endpoints()) }
    }

    /// Answers one request; never fails, what goes wrong is in the reply.
    pub async fn serve(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let outcome = self.answer(&parts, body).await;
        let mut response = match outcome {
            Ok((status, value)) => reply(status, "application/json", &value),
            Err(problem) => refusal(&problem),
        };
        if parts.method == Method::HEAD {
            *response.body_mut() = Body::empty();
        }
        response
    }

    async fn answer(&self, parts: &Parts, body: Body) -> Result<(StatusCode, Value), Problem> {
        let (endpoint, names) = self.find(&parts.method, parts.uri.path())?;
        let peer = peer(&parts.extensions);
        let caller = self.caller(parts, endpoint.rule.need(&names), peer).await?;
        let need = endpoint.rule.need(&names);
        if let Err(mut problem) = self.site.admit(&caller, need).await {
            if problem.status == StatusCode::UNAUTHORIZED {
                let error = caller.has_credential.then_some("insufficient_scope");
                problem.challenge = Some(self.challenge(&parts.headers, need, error));
            }
            return Err(problem);
        }
        let query = form::query(endpoint, parts.uri.query().unwrap_or_default())?;
        let body = read_body(endpoint, &parts.headers, body).await?;
        let site = Arc::clone(&self.site);
        let call = Call { site, caller, peer, names };
        Ok((endpoint.status, (endpoint.run)(call, query, body).await?))
    }

    /// Does what a page's form asks for: the operation, with the gate before it.
    pub(crate) async fn submit(
        &self,
        (caller, peer): (Caller, IpAddr),
        operation: &str,
        fields: &[(String, String)],
    ) -> Result<Value, Problem> {
        let endpoint = self.endpoints.iter().find(|endpoint| endpoint.id == operation);
        let endpoint = endpoint.filter(|endpoint| endpoint.method != Method::GET);
        let endpoint = endpoint.ok_or_else(Problem::absent)?;
        let form = form::read(endpoint, fields)?;
        self.site.admit(&caller, endpoint.rule.need(&form.names)).await?;
        let call = Call { site: Arc::clone(&self.site), caller, peer, names: form.names };
        (endpoint.run)(call, form.query, form.body).await
    }

    fn find(&self, method: &Method, path: &str) -> Result<(&Endpoint, Names), Problem> {
        let unknown = || Problem::new(StatusCode::NOT_FOUND, "no such path");
        let path = path.strip_prefix(BASE).ok_or_else(unknown)?;
        let wanted = if method == Method::HEAD { &Method::GET } else { method };
        let mut allowed = Vec::new();
        for endpoint in self.endpoints.iter() {
            let Some(names) = match_path(endpoint.path, path) else { continue };
            if endpoint.method == *wanted {
                return Ok((endpoint, names));
            }
            allowed.push(endpoint.method.as_str());
        }
        if allowed.is_empty() {
            return Err(unknown());
        }
        if allowed.contains(&"GET") {
            allowed.push("HEAD");
        }
        let words = "the path does not take this method";
        let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, words);
        Err(Problem { allow: Some(allowed.join(", ")), ..problem })
    }

    /// Knows the caller: by the header, or as a browser by its cookie with the CSRF token.
    async fn caller(&self, parts: &Parts, need: Need<'_>, peer: IpAddr) -> Result<Caller, Problem> {
        let is_change = !matches!(parts.method, Method::GET | Method::HEAD);
        let header = parts.headers.get(header::AUTHORIZATION);
        if header.is_none() {
            let cookies = Cookies::of(&parts.headers, self.site.is_secure());
            if let Some(caller) = self.site.visitor(&cookies).await? {
                let token = parts.headers.get("x-csrf-token").and_then(|token| token.to_str().ok());
                if is_change && !cookies.has_token(token.unwrap_or_default()) {
                    return Err(Problem::new(StatusCode::FORBIDDEN, "the CSRF token is missing"));
                }
                return Ok(caller);
            }
            // Without authentication a page of another site must not be able to change anything.
            if is_change && cookie::is_cross_site(&parts.headers) {
                return Err(Problem::new(StatusCode::FORBIDDEN, "another site sent this request"));
            }
        }
        self.site.auth.authenticate(header, peer).await.map_err(|refusal| {
            let is_wrong = matches!(refusal, Refusal::Wrong);
            let challenge =
                is_wrong.then(|| self.challenge(&parts.headers, need, Some("invalid_token")));
            Problem { challenge, ..Problem::from(refusal) }
        })
    }

    fn challenge(&self, headers: &HeaderMap, need: Need<'_>, error: Option<&str>) -> HeaderValue {
        self.site.auth.challenge(headers, &Auth::scope_of(need), error)
    }
}

async fn read_body(endpoint: &Endpoint, headers: &HeaderMap, body: Body) -> Result<Value, Problem> {
    let bytes: Bytes = to_bytes(body, BODY_BYTES).await.map_err(|_error| {
        let words = format!("a body may have {BODY_BYTES} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, words)
    })?;
    if !openapi::has_body(endpoint) {
        // What is not expected is not read either.
        return Ok(Value::Object(Map::new()));
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let words = "the body must be application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, words));
    }
    serde_json::from_slice(&bytes).map_err(|error| Problem::malformed(error.to_string()))
}

fn reply(status: StatusCode, kind: &'static str, value: &Value) -> Response<Body> {
    let body = if status == StatusCode::NO_CONTENT {
        Body::empty()
    } else {
        Body::from(value.to_string())
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if status != StatusCode::NO_CONTENT {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let policy = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

fn refusal(problem: &Problem) -> Response<Body> {
    let mut response = reply(problem.status, PROBLEM_JSON, &problem.body());
    let headers = response.headers_mut();
    if let Some(challenge) = &problem.challenge {
        headers.insert(header::WWW_AUTHENTICATE, challenge.clone());
    }
    if let Some(seconds) = problem.wait_seconds {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    let allow = problem.allow.as_deref().and_then(|allow| HeaderValue::from_str(allow).ok());
    if let Some(allow) = allow {
        headers.insert(header::ALLOW, allow);
    }
    response
}
