//! `copy`: between registries, the store, OCI layouts, Docker archives and `dir:` folders.
//!
//! Into the store it is a pull, from the store to a registry a push. Between all others no layer
//! is opened: bytes stream through, each blob checked against its digest, and what the destination
//! has is not sent.

#![allow(
    clippy::result_large_err,
    reason = "errors name both places in full; they are rare and cold"
)]

mod choice;
mod place;
mod remote;
mod sink;
mod transfer;

use std::sync::Arc;

use davit_distribution::Access;
use davit_image::{Digest, Platform, Reference};
use davit_store::{Lease, StoreError, archive::ArchiveError, is_no_space};

use crate::{
    Engine, Event, Hint, LayerCompression, Progress, PullError, PushError, PushRequest, RemoteName,
    origin::{DockerArchive, Folder, Layout, Origin, OriginError, Registry, Stop, Stored},
    pull::{Naming, Pull, offer, registry_hints},
    registry::{Registries, RegistryError},
};

use self::{
    choice::Choice,
    sink::{ArchiveSink, FolderSink, LayoutSink, RegistrySink, Sink},
    transfer::Transfer,
};
pub use self::{
    place::{Place, PlaceError},
    remote::{
        IndexRequest, IndexSource, PlannedIndex, RemoteDocument, RemoteError, RemoteStatement,
        Remotes, SingleImage,
    },
};

/// What to copy, and where to.
#[derive(Clone, Debug)]
pub struct CopyRequest {
    /// Where it is.
    pub source: Place,
    /// Where it goes.
    pub destination: Place,
    /// The one platform of an index to be copied; the whole index where none is given.
    pub platform: Option<Platform>,
}

/// What was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Digest of the manifest or index at the destination.
    pub digest: Digest,
}

/// Why a copy failed.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The network side cannot be set up.
    #[error("cannot copy {place}")]
    Setup {
        /// What was to be read or written.
        place: Place,
        /// Cause.
        #[source]
        source: RegistryError,
    },
    /// The source does not give it.
    #[error("cannot read {place}")]
    Source {
        /// The source.
        place: Place,
        /// Cause.
        #[source]
        source: OriginError,
    },
    /// The destination does not take it.
    #[error("cannot write {place}")]
    Registry {
        /// The destination.
        place: Place,
        /// Cause.
        #[source]
        source: davit_distribution::Error,
    },
    /// The destination does not take it.
    #[error("cannot write {place}")]
    Archive {
        /// The destination.
        place: Place,
        /// Cause.
        #[source]
        source: ArchiveError,
    },
    /// The store failed.
    #[error("cannot use the store for {place}")]
    Store {
        /// What was to be read or written.
        place: Place,
        /// Cause.
        #[source]
        source: StoreError,
    },
    /// The source has nothing for the platform.
    #[error("{place} has no image for {platform}{}", offer(offered))]
    Platform {
        /// The source.
        place: Place,
        /// Platform asked for.
        platform: Platform,
        /// Platforms that it has.
        offered: Vec<String>,
    },
    /// The digest in a name of the store is not the source's.
    #[error("{place} is not what the source has: {found}")]
    Digest {
        /// The destination.
        place: Place,
        /// Digest of the source's manifest or index.
        found: Digest,
    },
    /// The folder holds something else.
    #[error("{place} is neither empty nor a folder of images: nothing there is overwritten")]
    Foreign {
        /// The destination.
        place: Place,
    },
    /// A Docker archive holds one image, not an index.
    #[error("{place} cannot hold an image of several platforms")]
    SinglePlatform {
        /// The destination.
        place: Place,
    },
    /// Bringing it into the store failed.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// Sending it from the store failed.
    #[error(transparent)]
    Push(#[from] PushError),
    /// Source and destination are both the store.
    #[error("both are names in the store")]
    Tag,
}

impl Hint for CopyError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Platform { offered, .. } | Self::Pull(PullError::Platform { offered, .. }) => {
                let other = offered.first();
                other.map(|one| format!("choose one, as by --platform {one}")).into_iter().collect()
            }
            Self::Pull(error) => error.hints(),
            Self::Push(error) => error.hints(),
            Self::Registry { place: Place::Registry(reference), source }
            | Self::Source {
                place: Place::Registry(reference),
                source: OriginError::Registry(source),
            } => registry_hints(&reference.to_string(), source, &[]),
            Self::Store { source, .. }
            | Self::Source { source: OriginError::Store(source), .. } => source.hints(),
            Self::Source { source: OriginError::Archive(source), .. } => source.hints(),
            Self::Source { source, .. } if is_no_space(source) => {
                vec!["davit system prune".to_owned()]
            }
            Self::SinglePlatform { .. } => {
                vec![format!("choose one, as by --platform {}", Platform::host())]
            }
            Self::Tag => vec!["davit tag SOURCE TARGET".to_owned()],
            _ => Vec::new(),
        }
    }
}

impl Engine {
    /// Copies an image, with all its platforms unless one is chosen.
    ///
    /// Blocks. The destination's name moves last.
    ///
    /// # Errors
    /// See [`CopyError`].
    pub fn copy(
        &self,
        request: &CopyRequest,
        progress: &dyn Progress,
    ) -> Result<Copied, CopyError> {
        let places = [&request.source, &request.destination];
        match places {
            [Place::Store(_), Place::Store(_)] => return Err(CopyError::Tag),
            [Place::Store(source), Place::Registry(target)] => {
                return self.push_as(request, (source, target), progress);
            }
            _ => {}
        }
        let remote = places.into_iter().find(|place| matches!(place, Place::Registry(_)));
        let open = |place: &Place| {
            let place = place.clone();
            self.registries().map_err(|source| CopyError::Setup { place, source })
        };
        let registries = remote.map(open).transpose()?;
        let copy = Copy { engine: self, registries, request, progress };
        match &request.destination {
            Place::Store(reference) => copy.copy_to_store(reference),
            _ => copy.transfer(),
        }
    }

    /// Pushes an image of the store under another name.
    fn push_as(
        &self,
        request: &CopyRequest,
        (source, target): (&Reference, &Reference),
        progress: &dyn Progress,
    ) -> Result<Copied, CopyError> {
        let referrers = crate::Referrers::default();
        let request = PushRequest {
            referrers,
            reference: target.clone(),
            source: Some(source.clone()),
            all_tags: false,
            platform: request.platform.clone(),
            compression: LayerCompression::default(),
            name: RemoteName::Tag,
        };
        let pushed = self.push(&request, progress)?;
        let only = pushed.first().expect("a push of one tag yields one");
        Ok(Copied { digest: only.digest })
    }
}

/// One copy in flight.
struct Copy<'a> {
    engine: &'a Engine,
    /// There if one of the places is a registry.
    registries: Option<Registries>,
    request: &'a CopyRequest,
    progress: &'a dyn Progress,
}

impl Copy<'_> {
    fn copy_to_store(&self, reference: &Reference) -> Result<Copied, CopyError> {
        let origin = self.origin()?;
        let top = Choice { origin: &*origin, request: self.request, is_single: false }.top()?;
        if reference.digest().is_some_and(|wanted| *wanted != top.digest) {
            let place = self.request.destination.clone();
            return Err(CopyError::Digest { place, found: top.digest });
        }
        let remote = match &self.request.source {
            Place::Registry(source) => Some(source),
            _ => None,
        };
        let pull = Pull {
            engine: self.engine,
            origin: &*origin,
            name: self.request.source.to_string(),
            remote,
            // Who names a digest gives no tag.
            naming: Naming::of(reference),
            platform: self.request.platform.as_ref(),
            parallel: 0,
            stop: Stop::default(),
            progress: self.progress,
        };
        Ok(Copied { digest: pull.run_from(&top)?.digest })
    }

    fn transfer(&self) -> Result<Copied, CopyError> {
        // The lease outlives what reads the store's files.
        let lease = self.engine.store().lease("copy").map_err(|e| self.store_error(e))?;
        let origin: Arc<dyn Origin> = match &self.request.source {
            Place::Store(reference) => Arc::new(self.stored(reference, &lease)?),
            _ => self.origin()?,
        };
        let sink = self.sink()?;
        let transfer = Transfer {
            origin: &origin,
            sink: &*sink,
            request: self.request,
            progress: self.progress,
        };
        let copied = transfer.run()?;
        drop(lease);
        Ok(copied)
    }

    /// Opens a source that is not the store.
    fn origin(&self) -> Result<Arc<dyn Origin>, CopyError> {
        let failed = |source: OriginError| self.source_error(source);
        Ok(match &self.request.source {
            Place::Registry(reference) => {
                let registries = self.registries();
                Arc::new(Registry::new(&registries.client, registries.handle(), reference))
            }
            Place::Store(_) => return Err(CopyError::Tag),
            Place::Layout { path, name } => {
                Arc::new(Layout::open(path, name.as_deref()).map_err(failed)?)
            }
            Place::DockerArchive { path, name } => {
                let folder = self.engine.store().layout().tmp();
                Arc::new(DockerArchive::open(path, name.as_deref(), &folder).map_err(failed)?)
            }
            Place::Folder(path) => Arc::new(Folder::open(path).map_err(failed)?),
        })
    }

    /// Opens the store as source; says so where not all of an index can go.
    fn stored(&self, reference: &Reference, lease: &Lease<'_>) -> Result<Stored, CopyError> {
        let store = self.engine.store();
        let platform = self.request.platform.as_ref();
        let stored = Stored::find(store, lease, &reference.to_string(), platform)
            .map_err(|e| self.store_error(e))?;
        if let Some(platform) = stored.alone() {
            let text = format!("only the image for {platform} is here; it is copied alone");
            self.progress.report(Event::Message(&text));
        }
        Ok(stored)
    }

    /// Opens the destination.
    fn sink(&self) -> Result<Box<dyn Sink + '_>, CopyError> {
        let place = &self.request.destination;
        let failed = |source: ArchiveError| CopyError::Archive { place: place.clone(), source };
        let is_free = match place {
            Place::Layout { path, .. } => sink::may_take(path, "oci-layout", "blobs"),
            Place::Folder(path) => sink::may_take(path, "version", "version"),
            _ => Ok(true),
        };
        if !is_free.map_err(|e| failed(ArchiveError::Write(e)))? {
            return Err(CopyError::Foreign { place: place.clone() });
        }
        Ok(match place {
            Place::Registry(reference) => {
                let registries = self.registries();
                let client = &registries.client;
                Box::new(RegistrySink {
                    session: client.session(reference.repository(), Access::Push),
                    target: davit_distribution::Target::of(reference),
                    runtime: registries.handle().clone(),
                    mount_from: match &self.request.source {
                        Place::Registry(source) => Some(source.repository().clone()),
                        _ => None,
                    },
                })
            }
            Place::Layout { path, name } => {
                Box::new(LayoutSink::create(path, name.clone()).map_err(failed)?)
            }
            Place::DockerArchive { path, name } => {
                Box::new(ArchiveSink::create(path, name.clone()).map_err(failed)?)
            }
            Place::Folder(path) => Box::new(FolderSink::create(path).map_err(failed)?),
            Place::Store(_) => return Err(CopyError::Tag),
        })
    }

    fn registries(&self) -> &Registries {
        self.registries.as_ref().expect("a registry place opens them")
    }

    fn source_error(&self, source: OriginError) -> CopyError {
        CopyError::Source { place: self.request.source.clone(), source }
    }

    fn store_error(&self, source: StoreError) -> CopyError {
        CopyError::Store { place: self.request.source.clone(), source }
    }
}
