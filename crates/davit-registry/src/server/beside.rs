//! What a server does beside requests.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::Metrics;
use crate::{api::Site, auth::Auth, pulls, registry::Registry};

/// How often garbage is collected.
const COLLECT: Duration = Duration::from_secs(5 * 60);
/// How often is looked whose directory is to be compared.
const COMPARE: Duration = Duration::from_secs(60);

/// Collects garbage now and then until the end.
pub(super) async fn collect(
    site: Arc<Site>,
    metrics: Arc<Metrics>,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(COLLECT) => {}
            _ = stopped.changed() => return,
        }
        let started = Instant::now();
        let outcome = site.collect().await;
        match outcome {
            Ok(Some(report)) => {
                metrics.collected(Some(&report), started.elapsed());
                tracing::info!(?report, "garbage was collected");
            }
            // Somebody has asked for it just now.
            Ok(None) => {}
            Err(error) => {
                metrics.collected(None, started.elapsed());
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "garbage collection failed");
            }
        }
    }
}

/// Compares directories with the accounts that came from them, when it is time or somebody asks.
pub(super) async fn compare_directories(auth: Arc<Auth>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(COMPARE) => {}
            () = auth.sync_is_asked() => {}
        }
        if let Err(error) = auth.sync_due().await {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "directories were not compared");
        }
    }
}

/// Writes now and then what was pulled.
pub(super) async fn note_pulls(registry: Registry) {
    loop {
        tokio::time::sleep(pulls::WRITE).await;
        write_pulls(&registry).await;
    }
}

/// Writes what was pulled; a failure costs these times only.
pub(super) async fn write_pulls(registry: &Registry) {
    if let Err(error) = registry.pulls.write(&registry.database).await {
        let error: &dyn std::error::Error = &error;
        tracing::warn!(error, "times of pulls were lost");
    }
}
