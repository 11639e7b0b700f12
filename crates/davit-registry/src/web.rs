//! The pages: rendered here, readable without JavaScript, live where it is there.
//!
//! ```text
//! GET  ─► page (table) ─► who asks (cookie) ─► gate ─► the API's functions ─► template
//! POST ─► /do/OPERATION ─► CSRF ─► the API's operation, with its gate ─► back, with a note
//! ```
//!
//! Every change goes through the API's table, so that a page can do nothing that the gate's test does not
//! cover. `/login`, `/signup`, `/logout` and `/oidc/…` begin and end sessions.

use std::{net::IpAddr, sync::Arc};

use askama::Template;
use axum::body::Body;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};

use crate::{
    api::{Api, Names, Problem, Site, settings},
    auth::{Caller, Identity, Need, peer},
};

mod account_pages;
mod build_pages;
pub(crate) mod cookie;
mod forms;
mod identity_pages;
mod live;
mod live_log;
mod markdown;
mod oidc;
mod refill;
mod repository_pages;
mod server_pages;
mod statics;
mod table;
mod upstream_pages;
pub(crate) mod view;
mod webhook_pages;

use cookie::Cookies;
pub use table::{PAGES, Page};
use view::Frame;

/// What a browser may do with a page: nothing of other sites, nothing that stands in the page itself.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

/// The pages of one server; cheap to clone.
#[derive(Clone, Debug)]
pub struct Web {
    site: Arc<Site>,
    api: Api,
}

/// One request of a browser that was let through.
#[derive(Clone, Debug)]
struct Visit {
    site: Arc<Site>,
    caller: Caller,
    peer: IpAddr,
    cookies: Cookies,
    names: Names,
    query: Vec<(String, String)>,
    /// The server's name, as clients write it before a repository's.
    host: String,
    /// Address of the server, as the browser knows it.
    base: String,
    /// The last event that a live part has seen, where its stream broke off.
    last_event: Option<String>,
    frame: Frame,
    /// A cookie that the reply sets.
    begin: Option<HeaderValue>,
}

impl Visit {
    fn field(&self, name: &str) -> &str {
        self.query.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    fn paging(&self, limit: u64) -> crate::api::Paging {
        crate::api::Paging::new(limit, self.field("after"))
    }

    fn log_paging(&self, limit: u64) -> crate::api::LogPaging {
        crate::api::LogPaging::new(limit, self.field("after"))
    }

    /// The page that goes on after this name, with the same query otherwise.
    fn next_page(&self, next: Option<&String>) -> Option<String> {
        let path = self.frame.here.split('?').next().unwrap_or_default();
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.query.iter().filter(|(key, _)| key != "after"));
        next.map(|next| format!("{path}?{}", query.append_pair("after", next).finish()))
    }

    fn titled(&self, title: impl Into<String>, area: &'static str) -> Frame {
        Frame { title: title.into(), area, ..self.frame.clone() }
    }

    /// Asks the gate whether a part of the page is for the caller.
    async fn may(&self, need: Need<'_>) -> Result<bool, Problem> {
        match self.site.admit(&self.caller, need).await {
            Ok(()) => Ok(true),
            Err(problem) if problem.status.is_server_error() => Err(problem),
            Err(_) => Ok(false),
        }
    }
}

impl Web {
    /// Serves this site; `api` does the changes.
    #[must_use]
    pub const fn new(site: Arc<Site>, api: Api) -> Self {
        Self { site, api }
    }

    /// Answers one request; never fails, what goes wrong is a page too.
    pub async fn serve(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        if let Some(response) = statics::file(&parts) {
            return response;
        }
        let mut visit = match self.visit(&parts).await {
            Ok(visit) => visit,
            Err(problem) => return plain(&problem),
        };
        let outcome = match parts.method {
            Method::GET | Method::HEAD => self.page(parts.uri.path(), &mut visit).await,
            Method::POST => self.form(&parts, body, &visit).await,
            _ => {
                let words = "pages are read and forms are sent";
                let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, words);
                Err(Problem { allow: Some("GET, HEAD, POST".to_owned()), ..problem })
            }
        };
        let mut response = outcome.unwrap_or_else(|problem| self.refuse(&visit, (&problem, None)));
        if parts.method == Method::HEAD {
            *response.body_mut() = Body::empty();
        }
        finish(&visit, response)
    }

    /// Who comes, and what stands around each page.
    async fn visit(&self, parts: &Parts) -> Result<Visit, Problem> {
        let site = &self.site;
        let cookies = Cookies::of(&parts.headers, site.is_secure());
        let caller = match site.visitor(&cookies).await? {
            Some(caller) => caller,
            None if site.auth.settings().is_on => Caller::anonymous(),
            None => Caller::everyone(),
        };
        let (mut token, mut begin) = (cookies.token(caller.account().is_some()), None);
        if token.is_none() {
            let (cookie, fresh) = cookies.begin_visit();
            (token, begin) = (Some(fresh), Some(cookie));
        }
        let user = match &caller.identity {
            Identity::Account { name, .. } => Some(name.clone()),
            Identity::Anonymous | Identity::Everyone => None,
        };
        let has_accounts = site.auth.settings().is_on;
        let may_sign_up = has_accounts && user.is_none() && settings(site).await?.is_open();
        let query = parts.uri.query().unwrap_or_default();
        let query: Vec<(String, String)> =
            url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let q = query.iter().find(|(key, _)| key == "q").map(|(_, value)| value.clone());
        let here = parts.uri.path_and_query().map_or("/", |here| here.as_str()).to_owned();
        let frame = Frame {
            query: q.unwrap_or_default().chars().take(100).collect(),
            user,
            is_admin: caller.standing.is_site_admin || caller.identity == Identity::Everyone,
            organisations: caller.standing.organisations.clone(),
            token: token.unwrap_or_default(),
            here,
            note: cookies.note(),
            has_accounts,
            may_sign_up,
            version: statics::version().to_owned(),
            program: env!("CARGO_PKG_VERSION"),
            ..Frame::default()
        };
        let last_event = parts.headers.get("last-event-id").and_then(|id| id.to_str().ok());
        Ok(Visit {
            base: base(site, parts),
            last_event: last_event.map(str::to_owned),
            site: Arc::clone(site),
            caller,
            peer: peer(&parts.extensions),
            cookies,
            names: Names::default(),
            query,
            host: host(site, parts),
            frame,
            begin,
        })
    }

    async fn page(&self, path: &str, visit: &mut Visit) -> Result<Response<Body>, Problem> {
        let (page, rule, names) = table::find(path).ok_or_else(Problem::absent)?;
        visit.site.admit(&visit.caller, rule.need(&names)).await?;
        visit.names = names;
        match page {
            Page::Home => server_pages::home(visit).await,
            Page::Login => forms::login_page(visit, "", None).await,
            Page::SignUp => forms::sign_up_page(visit, ("", visit.field("invitation")), None).await,
            Page::OidcCallback => oidc::callback(visit).await,
            Page::ApiTable => server_pages::api_table(visit),
            Page::Account => account_pages::repositories(visit).await,
            Page::Members => account_pages::members(visit).await,
            Page::Access => account_pages::access(visit).await,
            Page::Usage => account_pages::usage(visit).await,
            Page::AccountAudit => account_pages::audit(visit).await,
            Page::AccountWebhooks => webhook_pages::of_account(visit).await,
            Page::Webhook => webhook_pages::one(visit).await,
            Page::Repository => repository_pages::overview(visit).await,
            Page::Tags => repository_pages::tags(visit).await,
            Page::Tag => repository_pages::tag(visit).await,
            Page::Image => repository_pages::image(visit).await,
            Page::RepositoryAccess => repository_pages::access(visit).await,
            Page::RepositorySettings => repository_pages::settings(visit).await,
            Page::RepositoryWebhooks => webhook_pages::of_repository(visit).await,
            Page::Builds => build_pages::builds(visit).await,
            Page::Build => build_pages::build(visit).await,
            Page::Source => build_pages::source(visit).await,
            Page::RepositoryLive => live::repository(visit).await,
            Page::BuildsLive => live::builds(visit).await,
            Page::BuildLive => live_log::build(visit).await,
            Page::Settings => account_pages::settings(visit).await,
            Page::Tokens => account_pages::tokens(visit).await,
            Page::NewRepository => server_pages::new_repository(visit),
            Page::NewOrganisation => server_pages::new_organisation(visit),
            Page::Admin => server_pages::admin(visit).await,
            Page::Users => server_pages::users(visit).await,
            Page::Audit => server_pages::audit(visit).await,
            Page::AdminBuilds => build_pages::all(visit).await,
            Page::Identity => identity_pages::page(visit).await,
            Page::ServerWebhooks => webhook_pages::of_server(visit).await,
            Page::ServerWebhook => webhook_pages::one_of_server(visit).await,
            Page::Mirrors => upstream_pages::mirrors(visit).await,
            Page::Replication => upstream_pages::replication(visit).await,
            Page::AdminSettings => server_pages::settings_page(visit).await,
            Page::AdminLive => live::collection(visit),
        }
    }

    /// A page that says why there is no other, with a way back to where a form came from. Nobody is asked
    /// to log in first.
    fn refuse(&self, visit: &Visit, (problem, from): (&Problem, Option<&str>)) -> Response<Body> {
        let is_nobody = visit.caller.identity == Identity::Anonymous;
        if problem.status == StatusCode::UNAUTHORIZED && is_nobody {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            let query = query.append_pair("next", &visit.frame.here).finish();
            return redirect(&format!("/login?{query}"));
        }
        let heading = match problem.status {
            StatusCode::NOT_FOUND => "Nothing here",
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => "This is not allowed",
            StatusCode::CONFLICT | StatusCode::BAD_REQUEST => "That did not work",
            StatusCode::TOO_MANY_REQUESTS => "Not so fast",
            _ => "Something is out of order",
        };
        let (back, back_label) = from.map_or(("/", "To the repositories"), |from| (from, "Back"));
        let template = ProblemPage {
            page: visit.titled(heading, ""),
            status: problem.status.as_u16(),
            heading,
            detail: problem.detail.clone(),
            back: back.to_owned(),
            back_label,
        };
        with_status(problem, show(&template).unwrap_or_else(|problem| plain(&problem)))
    }
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage {
    page: Frame,
    status: u16,
    heading: &'static str,
    detail: String,
    back: String,
    back_label: &'static str,
}

/// How clients name the server.
fn host(site: &Site, parts: &Parts) -> String {
    let public = site.auth.settings().public_url.as_deref();
    if let Some((_, host)) = public.and_then(|url| url.split_once("://")) {
        return host.trim_end_matches('/').to_owned();
    }
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    // HTTP/2 has it in the target.
    let host = host.or_else(|| parts.uri.authority().map(http::uri::Authority::as_str));
    let is_host =
        |host: &&str| host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b));
    host.filter(is_host).unwrap_or("localhost").to_owned()
}

/// Address of the server, as the browser knows it.
fn base(site: &Site, parts: &Parts) -> String {
    let scheme = if site.is_secure() { "https" } else { "http" };
    let public = site.auth.settings().public_url.as_deref();
    public.map_or_else(
        || format!("{scheme}://{}", host(site, parts)),
        |url| url.trim_end_matches('/').to_owned(),
    )
}

/// Renders a page.
fn show(template: &impl Template) -> Result<Response<Body>, Problem> {
    template.render().map(of_html).map_err(|error| Problem::unavailable(&error))
}

/// The reply that is a page.
fn of_html(html: String) -> Response<Body> {
    let mut response = Response::new(Body::from(html));
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A page with the status of a problem, and what else clients are told of it.
fn with_status(problem: &Problem, mut response: Response<Body>) -> Response<Body> {
    *response.status_mut() = problem.status;
    if let Some(seconds) = problem.wait_seconds {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    let allow = problem.allow.as_deref().and_then(|allow| HeaderValue::from_str(allow).ok());
    if let Some(allow) = allow {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

/// Sends a browser to another page of this server.
fn redirect(to: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let to = HeaderValue::from_str(to).unwrap_or_else(|_| HeaderValue::from_static("/"));
    response.headers_mut().insert(header::LOCATION, to);
    response
}

/// A refusal where not even a page can be made.
fn plain(problem: &Problem) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{}\n", problem.detail)));
    *response.status_mut() = problem.status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Headers of every page.
fn finish(visit: &Visit, mut response: Response<Body>) -> Response<Body> {
    let is_page = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    let headers = response.headers_mut();
    if let Some(begin) = &visit.begin
        && !headers.contains_key(header::SET_COOKIE)
    {
        headers.append(header::SET_COOKIE, begin.clone());
    }
    if is_page && visit.frame.note.is_some() {
        headers.append(header::SET_COOKIE, visit.cookies.end_note());
    }
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
