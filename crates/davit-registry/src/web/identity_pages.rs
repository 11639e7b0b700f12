//! The page of who else vouches for people and builds.

use askama::Template;
use axum::body::Body;
use http::Response;

use super::{Visit, show, view::Frame};
use crate::api::{self, Directory, GroupMap, Problem, Provider, TrustRule};

#[derive(Template)]
#[template(path = "admin_identity.html")]
struct IdentityPage {
    page: Frame,
    tab: &'static str,
    base: String,
    providers: Vec<Provider>,
    directories: Vec<Directory>,
    /// What the form of a new directory shows.
    usual: Directory,
    groups: Vec<GroupMap>,
    rules: Vec<TrustRule>,
}

/// Identity providers, directories, issuers of builds' tokens.
pub(super) async fn page(visit: &Visit) -> Result<Response<Body>, Problem> {
    show(&IdentityPage {
        page: visit.titled("Log-in", "admin"),
        tab: "identity",
        base: visit.base.clone(),
        providers: api::identity_providers(&visit.site).await?,
        directories: api::directories(&visit.site).await?,
        usual: Directory::usual(),
        groups: api::groups(&visit.site).await?,
        rules: api::trust(&visit.site).await?,
    })
}
