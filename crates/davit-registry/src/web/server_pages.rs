//! Pages that are not about one account or repository.

use askama::Template;
use axum::body::Body;
use http::Response;

use super::{Visit, show, view::Frame};
use crate::api::{
    self, AccountInfo, AuditEntry, Endpoint, GcState, Health, Problem, Repository, Search, Storage,
};

/// Repositories of a page.
const REPOSITORIES: u64 = 30;
/// Rows of other pages.
pub(super) const ROWS: u64 = 50;

#[derive(Template)]
#[template(path = "home.html")]
struct HomePage {
    page: Frame,
    repositories: Vec<Repository>,
    next_page: Option<String>,
    is_empty_site: bool,
    login_command: String,
    push_command: String,
}

/// Repositories that the caller may see.
pub(super) async fn home(visit: &Visit) -> Result<Response<Body>, Problem> {
    let search = Search::new(REPOSITORIES, visit.field("after"), &visit.frame.query, "");
    let found = api::repositories(&visit.site, &visit.caller, &search).await?;
    let next_page = visit.next_page(found.next.as_ref());
    let is_first = visit.frame.query.is_empty() && visit.field("after").is_empty();
    let owner = visit.frame.user.as_deref().unwrap_or("NAME");
    show(&HomePage {
        page: visit.titled("Repositories", "repositories"),
        is_empty_site: is_first && found.items.is_empty(),
        repositories: found.items,
        next_page,
        login_command: format!("davit login {}", visit.host),
        push_command: format!("davit push {}/{owner}/app:latest", visit.host),
    })
}

#[derive(Template)]
#[template(path = "api.html")]
struct ApiPage {
    page: Frame,
    endpoints: Vec<Endpoint>,
}

/// The API's operations.
pub(super) fn api_table(visit: &Visit) -> Result<Response<Body>, Problem> {
    show(&ApiPage { page: visit.titled("API", ""), endpoints: api::endpoints() })
}

#[derive(Template)]
#[template(path = "new_repository.html")]
struct NewRepositoryPage {
    page: Frame,
    start: String,
}

/// The form for a repository.
pub(super) fn new_repository(visit: &Visit) -> Result<Response<Body>, Problem> {
    let namespace = Some(visit.field("namespace")).filter(|name| !name.is_empty());
    let namespace = namespace.or(visit.frame.user.as_deref());
    let start = namespace.map_or_else(String::new, |name| format!("{name}/"));
    show(&NewRepositoryPage { page: visit.titled("New repository", "repositories"), start })
}

#[derive(Template)]
#[template(path = "new_organisation.html")]
struct NewOrganisationPage {
    page: Frame,
}

/// The form for an organisation.
pub(super) fn new_organisation(visit: &Visit) -> Result<Response<Body>, Problem> {
    show(&NewOrganisationPage { page: visit.titled("New organisation", "") })
}

#[derive(Template)]
#[template(path = "admin.html")]
struct AdminPage {
    page: Frame,
    tab: &'static str,
    health: Health,
    storage: Storage,
    gc: GcState,
}

/// Health, storage, garbage collection.
pub(super) async fn admin(visit: &Visit) -> Result<Response<Body>, Problem> {
    show(&AdminPage {
        page: visit.titled("Server", "admin"),
        tab: "storage",
        health: api::health(&visit.site).await?,
        storage: api::storage(&visit.site).await?,
        gc: visit.site.collector.state(),
    })
}

#[derive(Template)]
#[template(path = "users.html")]
struct UsersPage {
    page: Frame,
    tab: &'static str,
    users: Vec<AccountInfo>,
    next_page: Option<String>,
}

/// Users, by name.
pub(super) async fn users(visit: &Visit) -> Result<Response<Body>, Problem> {
    let found = api::users(&visit.site, &visit.paging(ROWS)).await?;
    show(&UsersPage {
        page: visit.titled("Users", "admin"),
        tab: "users",
        next_page: visit.next_page(found.next.as_ref()),
        users: found.items,
    })
}

#[derive(Template)]
#[template(path = "admin_audit.html")]
struct AuditPage {
    page: Frame,
    tab: &'static str,
    entries: Vec<AuditEntry>,
    next_page: Option<String>,
}

/// The whole audit log.
pub(super) async fn audit(visit: &Visit) -> Result<Response<Body>, Problem> {
    let found = api::audit(&visit.site, &visit.log_paging(ROWS)).await?;
    show(&AuditPage {
        page: visit.titled("Audit log", "admin"),
        tab: "audit",
        next_page: visit.next_page(found.next.as_ref()),
        entries: found.items,
    })
}

#[derive(Template)]
#[template(path = "admin_settings.html")]
struct SettingsPage {
    page: Frame,
    tab: &'static str,
    sign_up: &'static str,
}

/// Settings of the server.
pub(super) async fn settings_page(visit: &Visit) -> Result<Response<Body>, Problem> {
    show(&SettingsPage {
        page: visit.titled("Settings", "admin"),
        tab: "settings",
        sign_up: api::settings(&visit.site).await?.sign_up.as_str(),
    })
}
