//! Garbage collection as it goes on: one run at a time in this process, told to whoever asks.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    Problem,
    schema::{Moment, reply},
};
use crate::{
    db::Database,
    gc::{self, GcError, GcReport, GcSettings, Mode},
    registry::Registry,
};

reply! {
    /// A garbage collection: the one that runs, or the last.
    GcState {
        /// Whether it runs now.
        is_running: bool,
        /// What it does, or did last.
        phase: String,
        /// Deleted repositories whose time was over.
        repositories: u64,
        /// Tags that no rule keeps.
        tags: u64,
        /// Manifests.
        manifests: u64,
        /// Links of blobs to repositories.
        links: u64,
        /// Blobs that no repository has any more.
        blobs: u64,
        /// Bytes of those blobs.
        blob_bytes: u64,
        /// Objects that were in the trash for long enough.
        objects: u64,
        /// Old objects and sessions that no row named.
        orphans: u64,
        /// Blobs whose object is lost.
        lost: u64,
        /// Uploads that expired.
        uploads: u64,
    } maybe {
        /// When it began.
        started_at: Moment,
        /// When it ended.
        ended_at: Moment,
    }
}

impl GcState {
    fn of(report: &GcReport, phase: &str) -> Self {
        let GcReport { repositories, tags, manifests, links, blobs, .. } = *report;
        let GcReport { blob_bytes, objects, orphans, lost, uploads, .. } = *report;
        Self {
            is_running: false,
            phase: phase.to_owned(),
            repositories,
            tags,
            manifests,
            links,
            blobs,
            blob_bytes,
            objects,
            orphans,
            lost,
            uploads,
            started_at: None,
            ended_at: None,
        }
    }
}

/// Runs collections; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Collector {
    state: Arc<watch::Sender<GcState>>,
    database: Database,
}

impl Collector {
    pub(crate) fn new(registry: &Registry) -> Self {
        let (state, _) =
            watch::channel(GcState::of(&GcReport::default(), "none since the server began"));
        Self { state: Arc::new(state), database: registry.database.clone() }
    }

    /// The run that goes on, or the last.
    pub(crate) fn state(&self) -> GcState {
        self.state.borrow().clone()
    }

    /// Tells of every change of the state.
    pub(crate) fn watch(&self) -> watch::Receiver<GcState> {
        self.state.subscribe()
    }

    /// Begins a run that nobody waits for; one that goes on is the one.
    pub(crate) fn start(&self, registry: &Registry) {
        if !self.claim() {
            return;
        }
        let (collector, registry) = (self.clone(), registry.clone());
        tokio::spawn(async move {
            if let Err(error) = collector.collect(&registry).await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "garbage collection failed"
                );
            }
        });
    }

    /// Runs to the end, unless a run goes on.
    ///
    /// # Errors
    /// See [`GcError`].
    pub(crate) async fn run(&self, registry: &Registry) -> Result<Option<GcReport>, GcError> {
        if self.claim() { self.collect(registry).await.map(Some) } else { Ok(None) }
    }

    /// Only counts what would go.
    ///
    /// # Errors
    /// The database or the store fails.
    pub(crate) async fn count(&self, registry: &Registry) -> Result<GcState, Problem> {
        let settings = GcSettings::of(&registry.limits);
        let (database, store) = (&registry.database, &registry.store);
        let report = gc::run_once(database, store, &settings, Mode::DryRun).await?;
        let now = Some(Moment(database.now_ms()));
        let state = GcState::of(&report, "dry run");
        Ok(GcState { started_at: now, ended_at: now, ..state })
    }

    /// Tells whether no other run goes on; then this one does.
    fn claim(&self) -> bool {
        let started_at = Some(Moment(self.database.now_ms()));
        self.state.send_if_modified(|state| {
            if state.is_running {
                return false;
            }
            let fresh = GcState::of(&GcReport::default(), "begins");
            *state = GcState { is_running: true, started_at, ..fresh };
            true
        })
    }

    async fn collect(&self, registry: &Registry) -> Result<GcReport, GcError> {
        // A run that is dropped half-way must not seem to go on.
        let end = End(self);
        let settings = GcSettings::of(&registry.limits);
        let (database, store) = (&registry.database, &registry.store);
        let tell = |phase: &'static str, report: &GcReport| self.tell(phase, report);
        let outcome = gc::run_watched((database, store), &settings, Mode::Collect, tell).await;
        match &outcome {
            Ok(report) => self.tell("done", report),
            Err(_) => {
                self.state.send_modify(|state| state.phase = format!("failed: {}", state.phase))
            }
        }
        drop(end);
        outcome
    }

    fn tell(&self, phase: &str, report: &GcReport) {
        self.state.send_modify(|state| {
            let started_at = state.started_at;
            *state = GcState { is_running: true, started_at, ..GcState::of(report, phase) };
        });
    }
}

struct End<'c>(&'c Collector);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let ended_at = Some(Moment(self.0.database.now_ms()));
        self.0.state.send_modify(|state| (state.is_running, state.ended_at) = (false, ended_at));
    }
}
