//! Pages of accounts and organisations, and of the caller's own.

use askama::Template;
use axum::body::Body;
use http::Response;

use super::{Visit, oidc, server_pages::ROWS, show, view::Frame};
use crate::{
    api::{
        self, AuditEntry, DeletedInfo, Grant, Identity, Organisation, Problem, Repository, Robot,
        Search, Token, Usage,
    },
    auth::Need,
};

/// What stands above each page of an account.
pub(super) struct About {
    pub(super) name: String,
    pub(super) is_organisation: bool,
    /// Whether the caller is in it.
    pub(super) sees: bool,
    /// Whether the caller owns it.
    pub(super) manages: bool,
    pub(super) tab: &'static str,
}

pub(super) async fn about(visit: &Visit, tab: &'static str) -> Result<About, Problem> {
    let name = visit.names.get("account").to_owned();
    let sees = visit.may(Need::SeeAccount(&name)).await?;
    let kind = if sees {
        api::user(&visit.site, &name).await.map(|account| account.kind).unwrap_or_default()
    } else {
        String::new()
    };
    Ok(About {
        manages: visit.may(Need::ManageAccount(&name)).await?,
        sees: !kind.is_empty(),
        is_organisation: kind == "org",
        name,
        tab,
    })
}

#[derive(Template)]
#[template(path = "account.html")]
struct AccountPage {
    page: Frame,
    about: About,
    repositories: Vec<Repository>,
    next_page: Option<String>,
    /// What can be had back.
    deleted: Vec<DeletedInfo>,
}

/// An account's repositories. One with none that the caller may see is as one that does not exist.
pub(super) async fn repositories(visit: &Visit) -> Result<Response<Body>, Problem> {
    let about = about(visit, "repositories").await?;
    let search = Search::new(ROWS, visit.field("after"), "", &about.name);
    let found = api::repositories(&visit.site, &visit.caller, &search).await?;
    if !about.sees && found.items.is_empty() {
        return Err(Problem::absent());
    }
    let deleted =
        if about.manages { api::deleted(&visit.site, &about.name).await? } else { Vec::new() };
    show(&AccountPage {
        page: visit.titled(about.name.clone(), "repositories"),
        deleted,
        next_page: visit.next_page(found.next.as_ref()),
        repositories: found.items,
        about,
    })
}

#[derive(Template)]
#[template(path = "members.html")]
struct MembersPage {
    page: Frame,
    about: About,
    organisation: Organisation,
}

/// Members and teams.
pub(super) async fn members(visit: &Visit) -> Result<Response<Body>, Problem> {
    let about = about(visit, "members").await?;
    let organisation = api::organisation(&visit.site, &about.name).await?;
    let page = visit.titled(about.name.clone(), "");
    show(&MembersPage { page, about, organisation })
}

#[derive(Template)]
#[template(path = "access.html")]
struct AccessPage {
    page: Frame,
    about: About,
    scope: String,
    is_repository: bool,
    grants: Vec<Grant>,
    robots: Vec<Robot>,
}

/// Roles and robots.
pub(super) async fn access(visit: &Visit) -> Result<Response<Body>, Problem> {
    let about = about(visit, "access").await?;
    show(&AccessPage {
        page: visit.titled(about.name.clone(), ""),
        scope: about.name.clone(),
        is_repository: false,
        grants: api::account_grants(&visit.site, &about.name).await?,
        robots: api::robots(&visit.site, &about.name, &visit.paging(1000)).await?.items,
        about,
    })
}

#[derive(Template)]
#[template(path = "usage.html")]
struct UsagePage {
    page: Frame,
    about: About,
    usage: Usage,
    /// Used of the quota, in thousandths.
    share: u64,
    quota: u64,
}

/// What an account holds.
pub(super) async fn usage(visit: &Visit) -> Result<Response<Body>, Problem> {
    let about = about(visit, "usage").await?;
    let usage = api::usage(&visit.site, &about.name).await?;
    let quota = usage.quota_bytes.unwrap_or(0);
    let share = u128::from(usage.used_bytes) * 1000 / u128::from(quota.max(1));
    show(&UsagePage {
        page: visit.titled(about.name.clone(), ""),
        share: u64::try_from(share).unwrap_or(1000).min(1000),
        quota,
        usage,
        about,
    })
}

#[derive(Template)]
#[template(path = "account_audit.html")]
struct AuditPage {
    page: Frame,
    about: About,
    entries: Vec<AuditEntry>,
    next_page: Option<String>,
}

/// What the log has of an account.
pub(super) async fn audit(visit: &Visit) -> Result<Response<Body>, Problem> {
    let about = about(visit, "audit").await?;
    let found = api::account_audit(&visit.site, &about.name, &visit.log_paging(ROWS)).await?;
    show(&AuditPage {
        page: visit.titled(about.name.clone(), ""),
        next_page: visit.next_page(found.next.as_ref()),
        entries: found.items,
        about,
    })
}

#[derive(Template)]
#[template(path = "settings.html")]
struct OwnPage {
    page: Frame,
    account: String,
    /// Who else vouches for the caller.
    identities: Vec<Identity>,
    providers: Vec<String>,
}

/// The caller's own account.
pub(super) async fn settings(visit: &Visit) -> Result<Response<Body>, Problem> {
    let account = own(visit)?;
    let (page, providers) = (visit.titled("Your account", ""), oidc::names(visit).await?);
    let identities = api::account_identities(&visit.site, &account).await?;
    show(&OwnPage { page, account, identities, providers })
}

#[derive(Template)]
#[template(path = "tokens.html")]
struct TokensPage {
    page: Frame,
    account: String,
    tokens: Vec<Token>,
    /// The credential of the browser that asks.
    session: Option<i64>,
}

/// The caller's own credentials.
pub(super) async fn tokens(visit: &Visit) -> Result<Response<Body>, Problem> {
    let account = own(visit)?;
    let tokens = api::account_tokens(&visit.site, &account).await?;
    let session = match visit.cookies.session() {
        Some(text) => visit.site.auth.session_row(text).await?,
        None => None,
    };
    let page = visit.titled("Access tokens", "");
    show(&TokensPage { page, account, tokens, session })
}

fn own(visit: &Visit) -> Result<String, Problem> {
    // On a server without accounts nobody has one.
    visit.frame.user.clone().ok_or_else(Problem::absent)
}
