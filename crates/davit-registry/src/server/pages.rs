//! Paths that are not the protocol's: health, readiness, metrics, and tokens.

use std::{path::PathBuf, sync::Arc};

use axum::{Router, body::Body, response::IntoResponse as _, routing::get};
use http::{Response, header};
use tokio::sync::Semaphore;

use super::{CONNECTIONS, Health, Metrics};
use crate::{
    auth::{self, Auth},
    autobuild,
    config::Places,
    registry::Registry,
    store::StoreLocation,
};

/// Directories that requests write to.
pub(super) fn written(places: &Places) -> Vec<PathBuf> {
    let mut directories = match places.store() {
        StoreLocation::Directory(directory) => vec![directory],
        StoreLocation::Objects(_) => Vec::new(),
    };
    if places.database.is_none() && !directories.contains(&places.root) {
        directories.push(places.root.clone());
    }
    directories
}

/// What `/metrics` tells of.
#[derive(Clone, Debug)]
pub(super) struct Pages {
    pub(super) registry: Registry,
    pub(super) metrics: Arc<Metrics>,
}

impl Pages {
    async fn metrics(self, slots: Arc<Semaphore>) -> Response<Body> {
        let open = CONNECTIONS.saturating_sub(slots.available_permits()) as u64;
        let text = self.metrics.text(&self.registry, open).await;
        let kind = "text/plain; version=0.0.4; charset=utf-8";
        ([(header::CONTENT_TYPE, kind)], text).into_response()
    }
}

/// Pages that are not the protocol's.
pub(super) fn router(
    health: Health,
    auth: Arc<Auth>,
    (pages, slots): (Pages, Arc<Semaphore>),
) -> Router {
    let incoming = autobuild::incoming::routes(pages.registry.database.clone());
    let ready = move || {
        let health = health.clone();
        async move { health.ready().await }
    };
    let metrics = move || pages.clone().metrics(Arc::clone(&slots));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .merge(auth::routes(auth))
        .merge(incoming)
}
