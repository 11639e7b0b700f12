//! `pull`: from a registry into the store.
//!
//! ```text
//! resolve (HEAD) ─ same digest here? done
//!   └ manifest or index ─ platform ─ manifest ─ config
//!        └ layers, a few at a time:
//!             download ─ bounded channel ─ one-pass reader ─┬ layers/…/{tar,table}
//!                                                           └ blobs/… (kept)
//!   └ one durable commit: documents, tag, digest
//! ```
//!
//! Nothing has a name before the last step. What was downloaded when a pull was killed stays under
//! `tmp/` and is not asked for again.

mod document;
mod error;
mod layer;
mod restore;

use std::{
    sync::{Arc, atomic::AtomicBool},
    thread,
};

use davit_distribution::Access;
use davit_image::{
    Descriptor, DiffId, Digest, ImageConfig, ImageId, Index, Platform, Reference, Repository,
};
use davit_store::{ImageCommit, Lease, RepoDigest, StoreError, TagUpdate, Target};

use crate::{
    Engine, Event, Progress,
    images::index::read_document,
    origin::{Origin, OriginError, Registry, Stop, descend},
};

use self::document::Documents;
pub use self::error::PullError;
pub(crate) use self::{
    document::platforms,
    error::{offer, plain_http_hint, registry_hints},
};

/// Most layers of one image that are downloaded at a time.
pub const MOST_PARALLEL: usize = 8;
const DEFAULT_PARALLEL: usize = 3;

/// What to pull.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// What names the image.
    pub reference: Reference,
    /// The platform to choose; the host's where none is given.
    pub platform: Option<Platform>,
    /// Layers to download at a time, 1 to [`MOST_PARALLEL`]; 0 means the default, 3.
    pub parallel: usize,
    /// Set by another thread to end the pull.
    pub cancelled: Option<Arc<AtomicBool>>,
}

/// What a pull brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// What was pulled, as the registry knows it.
    pub reference: Reference,
    /// Digest of the manifest or index that the reference names.
    pub digest: Digest,
    /// The image for the chosen platform.
    pub image_id: ImageId,
    /// False if it was all here already.
    pub is_new: bool,
}

impl Engine {
    /// Pulls an image; what is here already is neither asked for nor written again.
    ///
    /// Blocks. Two processes that pull the same download each blob once. After an interruption the
    /// next pull goes on where this one was.
    ///
    /// # Errors
    /// See [`PullError`]. No name has changed then.
    pub fn pull(
        &self,
        request: &PullRequest,
        progress: &dyn Progress,
    ) -> Result<Pulled, PullError> {
        self.pull_as(Naming::of(&request.reference), request, progress)
    }

    /// Pulls a build's base image; no name changes, and only the lease keeps it.
    ///
    /// # Errors
    /// See [`PullError`].
    pub(crate) fn pull_base(
        &self,
        lease: &Lease<'_>,
        request: &PullRequest,
        progress: &dyn Progress,
    ) -> Result<Pulled, PullError> {
        self.pull_as(Naming::Nothing(lease), request, progress)
    }

    fn pull_as(
        &self,
        naming: Naming<'_>,
        request: &PullRequest,
        progress: &dyn Progress,
    ) -> Result<Pulled, PullError> {
        let brought = self.with_pull(naming, request, progress, |pull| pull.run())?;
        Ok(Pulled {
            reference: request.reference.clone(),
            digest: brought.digest,
            image_id: brought.image_id,
            is_new: brought.is_new,
        })
    }

    /// Brings the config of an image, and of what leads to it what the lease keeps; gives the digest
    /// that the reference names, too.
    ///
    /// # Errors
    /// See [`PullError`].
    pub(crate) fn fetch_config(
        &self,
        lease: &Lease<'_>,
        request: &PullRequest,
        progress: &dyn Progress,
    ) -> Result<(Digest, ImageConfig), PullError> {
        self.with_pull(Naming::Nothing(lease), request, progress, |pull| {
            let top = pull.origin.resolve().map_err(|e| pull.origin_error(e))?;
            Ok((top.digest, pull.documents(lease, &top)?.image))
        })
    }

    fn with_pull<T>(
        &self,
        naming: Naming<'_>,
        request: &PullRequest,
        progress: &dyn Progress,
        work: impl FnOnce(&Pull<'_>) -> Result<T, PullError>,
    ) -> Result<T, PullError> {
        let reference = &request.reference;
        let registries = self
            .registries()
            .map_err(|source| PullError::Setup { reference: reference.familiar(), source })?;
        let stop = Stop::with(request.cancelled.as_ref());
        let origin = Registry::new(&registries.client, registries.handle(), reference).until(&stop);
        let pull = Pull {
            engine: self,
            origin: &origin,
            // The full name shows which registry was asked.
            name: reference.to_string(),
            remote: Some(reference),
            naming,
            platform: request.platform.as_ref(),
            parallel: request.parallel,
            stop,
            progress,
        };
        work(&pull)
    }
}

/// What a pull's result is called here.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Naming<'a> {
    /// The tag names it from now on.
    Tag(&'a Reference),
    /// It is kept without a tag.
    Untagged,
    /// It is kept by the lease alone.
    Nothing(&'a Lease<'a>),
}

impl<'a> Naming<'a> {
    /// A digest in a reference decides; the tag beside it then means nothing.
    pub(crate) fn of(reference: &'a Reference) -> Self {
        if reference.digest().is_none() { Self::Tag(reference) } else { Self::Untagged }
    }
}

/// One image on its way into the store.
pub(crate) struct Pull<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) origin: &'a dyn Origin,
    /// What errors call it.
    pub(crate) name: String,
    /// Its name at a registry.
    pub(crate) remote: Option<&'a Reference>,
    /// Its name here.
    pub(crate) naming: Naming<'a>,
    /// The platform to choose, if one was asked for.
    pub(crate) platform: Option<&'a Platform>,
    /// Layers to read at a time; 0 means the default.
    pub(crate) parallel: usize,
    /// Ends it.
    pub(crate) stop: Stop,
    pub(crate) progress: &'a dyn Progress,
}

/// What came into the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Brought {
    pub(crate) digest: Digest,
    pub(crate) image_id: ImageId,
    pub(crate) is_new: bool,
}

impl Pull<'_> {
    pub(crate) fn run(&self) -> Result<Brought, PullError> {
        self.run_from(&self.origin.resolve().map_err(|e| self.origin_error(e))?)
    }

    /// Brings what a descriptor of the origin names, in place of what the origin's name does.
    pub(crate) fn run_from(&self, top: &Descriptor) -> Result<Brought, PullError> {
        let store = self.engine.store();
        if let Naming::Nothing(lease) = self.naming {
            return self.run_held(lease, top);
        }
        let lease = store.lease("pull").map_err(|e| self.store_error(e))?;
        let done = self.run_held(&lease, top);
        drop(lease);
        if done.as_ref().is_err_and(PullError::is_no_space) {
            // Layers that are whole, but that nothing names, only fill the disk.
            self.engine.free_unnamed();
        }
        done
    }

    fn run_held(&self, lease: &Lease<'_>, top: &Descriptor) -> Result<Brought, PullError> {
        if let Some(remote) = self.remote {
            // A digest decides; the tag beside it then means nothing.
            let tag = remote.tag().filter(|_| remote.digest().is_none());
            let tag = tag.map_or_else(|| top.digest.to_string(), ToString::to_string);
            self.message(&format!("{tag}: Pulling from {}", remote.repository().path()));
        }
        let present = self.present(top)?;
        if let (Some(image_id), Some(_)) = (present, self.tag()) {
            return Ok(Brought { digest: top.digest, image_id, is_new: false });
        }
        let documents = self.documents(lease, top)?;
        self.layers(lease, &documents)?;
        self.make_ready(&documents)?;
        let image_id = documents.image_id();
        self.commit(lease, documents)?;
        Ok(Brought { digest: top.digest, image_id, is_new: present != Some(image_id) })
    }

    const fn tag(&self) -> Option<&Reference> {
        match self.naming {
            Naming::Tag(tag) => Some(tag),
            Naming::Untagged | Naming::Nothing(_) => None,
        }
    }

    /// The image, if the name is that of this digest here too, for this platform, and it is whole.
    fn present(&self, top: &Descriptor) -> Result<Option<ImageId>, PullError> {
        let store = self.engine.store();
        let known = || self.remote.map(|remote| remote.repository().with_digest(top.digest));
        let name = match self.naming {
            Naming::Tag(tag) => Some(tag.clone()),
            // Documents are brought again nevertheless, for theirs may be damaged.
            Naming::Untagged => known(),
            Naming::Nothing(_) => None,
        };
        let Some(name) = name else { return Ok(None) };
        let found = match store.find_image(&name.to_string()) {
            Ok(found) => found,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(self.store_error(error)),
        };
        let Some(image_id) = found.target.image_id.filter(|_| found.target.digest == top.digest)
        else {
            return Ok(None);
        };
        let Some(image) = store.image(&image_id).map_err(|e| self.store_error(e))? else {
            return Ok(None);
        };
        // An index may be here with another platform's layers.
        let fits = if top.media_type.is_index() {
            self.chosen(top) == Some(image_id)
        } else {
            self.platform.is_none_or(|wanted| wanted.rank(&image.platform).is_some())
        };
        let known = self.remote.is_none_or(|remote| {
            image.repo_digests.iter().any(|known| {
                known.repository() == remote.repository() && known.digest() == Some(&top.digest)
            })
        });
        let is_whole = || -> Result<bool, StoreError> {
            let lost = store.lost_blobs(&top.digest)?;
            Ok((lost.is_empty() || !self.engine.keeps_blobs()) && store.is_whole(&found.target)?)
        };
        let is_whole = is_whole().map_err(|e| self.store_error(e))?;
        Ok((fits && known && is_whole).then_some(image_id))
    }

    /// The image that an index gives for the wanted platform, as far as its documents are here.
    fn chosen(&self, top: &Descriptor) -> Option<ImageId> {
        let platform = self.wanted_platform();
        // Whatever is broken or not here, the pull itself brings.
        let read = |descriptor: &Descriptor| match read_document(self.engine.store(), descriptor) {
            Ok(Some(document)) => Ok((document, ())),
            Ok(None) | Err(_) => Err(()),
        };
        let choose = |index: &Index| index.choose(&platform).cloned().ok_or(());
        let (manifest, ()) = descend(top, read, choose).ok()??;
        Some(ImageId::new(manifest.value().config.digest))
    }

    /// Syncs the layers, and meanwhile makes the tree that containers of the image mount.
    fn make_ready(&self, documents: &Documents) -> Result<(), PullError> {
        let store = self.engine.store();
        let chain: Vec<DiffId> = documents.layers.iter().map(|(_, diff_id)| *diff_id).collect();
        let blobs: Vec<Digest> = documents.layers.iter().map(|(blob, _)| blob.digest).collect();
        let (synced, prepared) = thread::scope(|scope| {
            let preparing = scope.spawn(|| self.engine.prepare_layers(&chain));
            let synced = store.make_durable(&chain).and_then(|()| store.make_blobs_durable(&blobs));
            (synced, preparing.join().expect("preparing does not panic"))
        });
        synced.map_err(|e| self.store_error(e))?;
        prepared.map_err(|error| self.unusable(error.to_string()))
    }

    /// Records everything at once.
    fn commit(&self, lease: &Lease<'_>, documents: Documents) -> Result<(), PullError> {
        let target = Target::new(&documents.top, Some(documents.image_id()));
        let mut commit = ImageCommit { documents: documents.stored, ..ImageCommit::default() };
        let known = |remote: &Reference| RepoDigest {
            reference: remote.repository().with_digest(target.digest),
            target: target.clone(),
        };
        if !matches!(self.naming, Naming::Nothing(_)) {
            commit.repo_digests.extend(self.remote.map(known));
        }
        match self.naming {
            Naming::Tag(tag) => commit.tags.push(TagUpdate { reference: tag.clone(), target }),
            Naming::Untagged => commit.untagged.push(target),
            Naming::Nothing(_) => {}
        }
        self.engine.store().commit_images(lease, &commit).map_err(|e| self.store_error(e))?;
        Ok(())
    }

    fn wanted_platform(&self) -> Platform {
        self.platform.cloned().unwrap_or_else(Platform::host)
    }

    fn parallel(&self) -> usize {
        match self.parallel {
            0 => DEFAULT_PARALLEL,
            wanted => wanted.min(MOST_PARALLEL),
        }
    }

    fn message(&self, text: &str) {
        self.progress.report(Event::Message(text));
    }

    fn origin_error(&self, error: OriginError) -> PullError {
        let reference = self.name.clone();
        match error {
            OriginError::Store(source) => PullError::Store { reference, source },
            OriginError::Registry(source) => {
                // A copy's name here is no name of what was asked for.
                let wanted = self.remote.filter(|remote| {
                    self.tag() == Some(remote) && (source.is_denied() || source.is_not_found())
                });
                let similar = wanted.map(|tag| self.engine.similar_images(tag)).unwrap_or_default();
                PullError::Registry { reference, source, similar }
            }
            source => PullError::Origin { reference, source },
        }
    }

    fn store_error(&self, source: StoreError) -> PullError {
        PullError::Store { reference: self.name.clone(), source }
    }

    fn unusable(&self, problem: impl Into<String>) -> PullError {
        PullError::Unusable { reference: self.name.clone(), problem: problem.into() }
    }
}

impl Engine {
    /// All tags of a repository at its registry, as references.
    ///
    /// # Errors
    /// [`PullError::Registry`].
    pub fn remote_tags(&self, repository: &Repository) -> Result<Vec<Reference>, PullError> {
        let reference = repository.to_string();
        let registries = self
            .registries()
            .map_err(|source| PullError::Setup { reference: reference.clone(), source })?;
        let session = registries.client.session(repository, Access::Pull);
        let tags = registries.wait(session.tags()).map_err(|source| PullError::Registry {
            reference,
            source,
            similar: Vec::new(),
        })?;
        // A tag that breaks the grammar cannot be named, hence not pulled either.
        let tags = tags.iter().filter_map(|tag| tag.parse().ok());
        Ok(tags.map(|tag| repository.with_tag(tag)).collect())
    }

    /// Local names that a mistyped reference may have meant, nearest first, at most two.
    pub(crate) fn similar_images(&self, wanted: &Reference) -> Vec<String> {
        let wanted = wanted.familiar();
        // Without a list there is no advice; the error itself is what counts.
        let images = self.store().images().unwrap_or_default();
        let names = images.iter().flat_map(|image| {
            image.targets.iter().flat_map(|(_, tags)| tags.iter().map(Reference::familiar))
        });
        let mut near: Vec<_> = names
            .map(|name| (distance(short(&wanted), short(&name)), name))
            // As near as any other word that is taken for a slip. One that is the same is here,
            // and was not what was meant.
            .filter(|(distance, name)| {
                let longer = short(name).len().max(short(&wanted).len());
                (1..=2.min(longer / 3)).contains(distance)
            })
            .collect();
        near.sort();
        near.into_iter().map(|(_, name)| name).take(2).collect()
    }
}

/// The name without the tag that most names have: it makes them no more alike.
fn short(name: &str) -> &str {
    name.strip_suffix(":latest").unwrap_or(name)
}

/// Insertions, deletions and replacements that make one text the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_edits() {
        for (a, b, expected) in
            [("", "", 0), ("a", "", 1), ("alpine", "alpin", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(a, b), expected);
            assert_eq!(distance(b, a), expected);
        }
    }
}
