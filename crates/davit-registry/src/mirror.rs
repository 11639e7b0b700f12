//! Pull-through: repositories of other registries, fetched when somebody pulls them and kept.
//!
//! ```text
//! /v2/library/alpine/… ?ns=docker.io ─┐
//! /v2/docker.io/library/alpine/…      ├─► Place { docker.io, library/alpine } ─► here? ─► reply
//! /v2/library/alpine/…  (default) ────┘                                          │
//!                                            one flight per manifest or blob ◄───┘
//! ```
//! What is kept lies in repositories `MIRROR/…` of kind `proxy`; a mirror's name has a dot, which no
//! account's has. A tag is asked for again (HEAD) when its time is over, and what is here is served while
//! the upstream does not answer. Everything that is kept has the digest it was asked for by.
//!
//! Each upstream has a client of its own: its account is known to no other, and that client binds it to
//! the upstream's host and the token server that the upstream names.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use davit_distribution::Session;
use davit_image::{Descriptor, Digest, Repository};

use crate::{
    auth::{Action, Auth, Caller, Identity},
    db::{ChangeMark, DbError, values},
    fault::Fault,
    name::RepositoryName,
    registry::Registry,
};

mod blobs;
mod flight;
mod manifests;
mod rows;
mod upstream;

pub use blobs::Found;
pub(crate) use blobs::pieces;
pub use flight::Flight;
pub use rows::{
    AddMirror, MirrorError, MirrorRow, MirrorSettings, RemoveMirror, Who, add, mirrors, remove,
};
use upstream::Upstream;

/// How long a list of mirrors is believed where a change does not show by itself (PostgreSQL).
const BELIEVED: Duration = Duration::from_secs(1);

/// All mirrors of a server.
#[derive(Debug)]
pub struct Mirrors {
    registry: Registry,
    known: Mutex<Known>,
    flights: flight::Flights,
}

#[derive(Debug, Default)]
struct Known {
    upstreams: Arc<Vec<Arc<Upstream>>>,
    read: Option<(Option<ChangeMark>, Instant)>,
}

/// Where something of an upstream is, there and here.
#[derive(Clone, Debug)]
pub struct Place {
    upstream: Arc<Upstream>,
    remote: Repository,
    /// Name of the repository here.
    pub local: RepositoryName,
}

impl Mirrors {
    /// The mirrors of this registry; what is on its way lies in `spool`.
    #[must_use]
    pub fn new(registry: Registry, spool: &Path) -> Self {
        let flights = flight::Flights::new(spool);
        Self { registry, known: Mutex::default(), flights }
    }

    /// The place that a request means: by the upstream that it names (`?ns=`), or by its path.
    ///
    /// Costs nothing for a name without a dot in its first part.
    ///
    /// # Errors
    /// The database's.
    pub async fn place(
        &self,
        name: &RepositoryName,
        namespace: Option<&str>,
    ) -> Result<Option<Place>, DbError> {
        let first = name.namespace().filter(|first| first.contains('.'));
        if first.is_none() && namespace.is_none() {
            return Ok(None);
        }
        let known = self.known().await?;
        if let Some(first) = first
            && let Some(upstream) = known.iter().find(|upstream| upstream.row.name == first)
        {
            let path = &name.as_str()[first.len() + 1..];
            return Ok(Place::of(upstream, path));
        }
        let Some(namespace) = namespace else { return Ok(None) };
        let named = known.iter().find(|upstream| upstream.is_called(namespace));
        Ok(named.and_then(|upstream| Place::of(upstream, name.as_str())))
    }

    /// The place at the default upstream of a name that is not hosted here.
    ///
    /// # Errors
    /// The database's.
    pub async fn default_place(&self, name: &RepositoryName) -> Result<Option<Place>, DbError> {
        const HOSTED: &str = "SELECT CAST(1 AS BIGINT) WHERE \
                              EXISTS (SELECT 1 FROM account WHERE name = $1) \
                              OR EXISTS (SELECT 1 FROM repo WHERE path = $2)";
        let known = self.known().await?;
        let Some(upstream) = known.iter().find(|upstream| upstream.row.is_default) else {
            return Ok(None);
        };
        let mut reader = self.registry.database.reader().await?;
        let values = values![name.namespace().unwrap_or_default(), name.as_str()];
        if reader.row(HOSTED, values).await?.is_some() {
            return Ok(None);
        }
        Ok(Place::of(upstream, name.as_str()))
    }

    /// Tags that the upstream has; those that are here when it does not answer.
    ///
    /// # Errors
    /// The upstream's, where nothing is here.
    pub async fn tags(&self, place: &Place) -> Result<Option<Vec<String>>, Fault> {
        match place.session().tags().await {
            Ok(mut tags) => {
                tags.sort();
                tags.dedup();
                Ok(Some(tags))
            }
            Err(error) if error.is_not_found() => Err(Fault::NAME_UNKNOWN),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "an upstream failed");
                Ok(None)
            }
        }
    }

    /// What the upstream says that refers to a manifest, as long as that is believed and while it does not
    /// answer; `None` when it never said: then there is what was pulled of it.
    ///
    /// Of a long list it is the beginning. Nothing of it is believed: each manifest that a client asks for
    /// then is compared with its digest.
    pub async fn referrers(&self, place: &Place, subject: &Digest) -> Option<Vec<Descriptor>> {
        let upstream = &place.upstream;
        let listed = upstream.listed(&place.local, subject);
        let mut listed = listed.lock().await;
        if listed.is_believed() || upstream.is_blocked() {
            return listed.entries();
        }
        match place.session().referrers(subject).await {
            Ok(found) => {
                listed.keep(&found, upstream.ttl());
                Some(found)
            }
            Err(error) => {
                upstream.heed(&error);
                tracing::warn!(error = &error as &dyn std::error::Error, "an upstream failed");
                listed.fail(upstream.ttl());
                listed.entries()
            }
        }
    }

    /// The mirrors as the database has them now.
    async fn known(&self) -> Result<Arc<Vec<Arc<Upstream>>>, DbError> {
        let database = &self.registry.database;
        let mark = database.change_mark();
        {
            let known = self.lock();
            if let Some((read, at)) = &known.read
                && if mark.is_some() { *read == mark } else { at.elapsed() < BELIEVED }
            {
                return Ok(Arc::clone(&known.upstreams));
            }
        }
        let rows = mirrors(database).await?;
        let mut known = self.lock();
        // Also those that another request has made meanwhile: what an upstream is asked once is in there.
        let kept = |row: MirrorRow| {
            let same = known.upstreams.iter().find(|upstream| upstream.row == row);
            same.map_or_else(|| Arc::new(Upstream::new(row)), Arc::clone)
        };
        let upstreams: Arc<Vec<_>> = Arc::new(rows.into_iter().map(kept).collect());
        known.upstreams = Arc::clone(&upstreams);
        known.read = Some((mark, Instant::now()));
        Ok(upstreams)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn of(upstream: &Arc<Upstream>, path: &str) -> Option<Self> {
        // The upstream's own rules make `library/alpine` of Docker Hub's `alpine`.
        let remote: Repository = format!("{}/{path}", upstream.row.upstream).parse().ok()?;
        let local = format!("{}/{}", upstream.row.name, remote.path()).parse().ok()?;
        Some(Self { upstream: Arc::clone(upstream), remote, local })
    }

    fn session(&self) -> Session {
        self.upstream.session(&self.remote)
    }

    fn settings(&self) -> &MirrorSettings {
        &self.upstream.row.settings
    }

    /// Tells whether a caller may pull what is kept, whatever else it may do.
    #[must_use]
    pub fn is_open_to(&self, caller: &Caller) -> bool {
        match self.settings().pull {
            Who::Everyone => true,
            Who::Accounts => has_account(caller),
            Who::Granted => false,
        }
    }

    /// Tells whether a caller, who may pull, may have something fetched that is not here.
    ///
    /// # Errors
    /// The database's.
    pub async fn may_fill(&self, auth: &Auth, caller: &Caller) -> Result<bool, DbError> {
        Ok(match self.settings().fill {
            Who::Everyone => true,
            Who::Accounts => has_account(caller),
            Who::Granted => auth.rights(caller, self.local.as_str()).await?.allows(Action::Push),
        })
    }
}

/// A token that is limited to other repositories proves an account all the same.
fn has_account(caller: &Caller) -> bool {
    !matches!(caller.identity, Identity::Anonymous)
}

/// What went wrong at an upstream, for the one who asked.
fn failed(error: &davit_distribution::Error) -> Fault {
    tracing::warn!(error = error as &dyn std::error::Error, "an upstream failed");
    if error.is_rate_limit() { Fault::Busy } else { Fault::Upstream }
}

/// What one flight is for.
type Wanted = (RepositoryName, Digest);

/// Entries of a memory at most.
const MOST: usize = 10_000;

/// Makes room in a memory.
fn bound<K: Eq + std::hash::Hash, V>(memory: &mut HashMap<K, V>) {
    if memory.len() >= MOST {
        memory.clear();
    }
}
