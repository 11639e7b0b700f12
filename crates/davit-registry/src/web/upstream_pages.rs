//! Pages of other registries: mirrors and rules of replication.

use askama::Template;
use axum::body::Body;
use http::Response;

use super::{Visit, show, view::Frame};
use crate::api::{self, Mirror, Problem, ReplicationRule};

#[derive(Template)]
#[template(path = "admin_mirrors.html")]
struct MirrorsPage {
    page: Frame,
    tab: &'static str,
    host: String,
    mirrors: Vec<Mirror>,
}

/// Registries that are mirrored.
pub(super) async fn mirrors(visit: &Visit) -> Result<Response<Body>, Problem> {
    show(&MirrorsPage {
        page: visit.titled("Mirrors", "admin"),
        tab: "mirrors",
        host: visit.host.clone(),
        mirrors: api::mirrors(&visit.site).await?,
    })
}

#[derive(Template)]
#[template(path = "admin_replication.html")]
struct ReplicationPage {
    page: Frame,
    tab: &'static str,
    rules: Vec<ReplicationRule>,
}

/// Rules of replication.
pub(super) async fn replication(visit: &Visit) -> Result<Response<Body>, Problem> {
    show(&ReplicationPage {
        page: visit.titled("Replication", "admin"),
        tab: "replication",
        rules: api::replication_rules(&visit.site).await?,
    })
}
