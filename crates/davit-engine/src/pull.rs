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
mod layer;
mod restore;

use std::thread;

use davit_distribution::Access;
use davit_image::{Descriptor, DiffId, Digest, ImageId, Platform, Reference, Repository};
use davit_layer::ReadError;
use davit_snapshot::{Mountpoints, PrepareOptions};
use davit_store::{ImageCommit, Lease, RepoDigest, StoreError, TagUpdate, Target};

use crate::{
    Engine, Event, Hint, Progress,
    origin::{Origin, OriginError, Registry},
    registry::RegistryError,
};

use self::document::Documents;
pub(crate) use self::document::platforms;

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

/// Why a pull failed.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The network side cannot be set up.
    #[error("cannot pull {reference}")]
    Setup {
        /// What was asked for.
        reference: String,
        /// Cause.
        #[source]
        source: RegistryError,
    },
    /// The registry did not give it.
    #[error("cannot pull {reference}")]
    Registry {
        /// What was asked for.
        reference: String,
        /// Cause.
        #[source]
        source: davit_distribution::Error,
        /// Local images whose names are near.
        similar: Vec<String>,
    },
    /// The store did not take it.
    #[error("cannot keep {reference}")]
    Store {
        /// What was asked for.
        reference: String,
        /// Cause.
        #[source]
        source: StoreError,
    },
    /// The index has nothing for the platform.
    #[error("{reference} has no image for {wanted}{}", offer(offered))]
    Platform {
        /// What was asked for.
        reference: String,
        /// Platform asked for.
        wanted: Platform,
        /// Platforms that it has.
        offered: Vec<String>,
    },
    /// The manifest is no image, or one that cannot be used.
    #[error("{reference} is no usable image: {problem}")]
    Unusable {
        /// What was asked for.
        reference: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file, folder or archive did not give it.
    #[error("cannot read {reference}")]
    Origin {
        /// What was asked for.
        reference: String,
        /// Cause.
        #[source]
        source: OriginError,
    },
    /// A layer is malformed, or not what the manifest and config say.
    #[error("layer {digest} of {reference} is refused")]
    Layer {
        /// What was asked for.
        reference: String,
        /// Digest of the layer's blob.
        digest: Digest,
        /// Cause.
        #[source]
        source: ReadError,
    },
}

impl PullError {
    /// Tells bytes that are not what they should be from bytes that could not be had or written.
    const fn is_wrong_content(&self) -> bool {
        use ReadError as E;
        let Self::Layer { source, .. } = self else { return false };
        !matches!(source, E::Read(_) | E::WriteTar(_) | E::WriteBlob(_))
    }

    /// The registry's error, if it was one.
    #[must_use]
    pub const fn registry_error(&self) -> Option<&davit_distribution::Error> {
        match self {
            Self::Registry { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl Hint for PullError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Registry { reference, source, similar } => {
                registry_hints(reference, source, similar)
            }
            Self::Platform { reference, offered, .. } => offered
                .first()
                .map(|platform| format!("davit pull --platform {platform} {reference}"))
                .into_iter()
                .collect(),
            Self::Store { source, .. } if source.is_no_space() => {
                vec!["davit system prune".to_owned()]
            }
            _ => Vec::new(),
        }
    }
}

/// What there is instead of what was asked for, as the end of a sentence.
pub(crate) fn offer(offered: &[String]) -> String {
    if offered.is_empty() { String::new() } else { format!(" (it has {})", offered.join(", ")) }
}

/// Advice after a registry refused or was not reached.
pub(crate) fn registry_hints(
    reference: &str,
    error: &davit_distribution::Error,
    similar: &[String],
) -> Vec<String> {
    let mut hints = Vec::new();
    // A copy names its source as a place.
    let reference = reference.strip_prefix("docker://").unwrap_or(reference);
    let host = reference.split('/').next().unwrap_or_default();
    if error.is_denied() || error.is_not_found() {
        let similar: Vec<_> = similar.iter().map(|name| format!("`{name}`")).collect();
        if !similar.is_empty() {
            hints.push(format!("did you mean the local image {}?", similar.join(" or ")));
        }
    }
    if error.is_denied() {
        hints.push(format!("the name is wrong, or the repository is private: davit login {host}"));
    } else if error.is_certificate() {
        hints.push(format!(
            "put the registry's authority into /etc/davit/certs.d/{host}/ca.crt, or set `insecure = true` for it in /etc/davit/config.toml"
        ));
    } else if error.is_rate_limit() {
        hints.push(format!("an account has a higher limit: davit login {host}"));
    }
    hints
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
        let reference = &request.reference;
        let registries = self
            .registries()
            .map_err(|source| PullError::Setup { reference: reference.familiar(), source })?;
        let origin = Registry::new(&registries.client, registries.handle(), reference);
        let pull = Pull {
            engine: self,
            origin: &origin,
            // The full name shows which registry was asked.
            name: reference.to_string(),
            remote: Some(reference),
            // A digest in the reference decides; the tag beside it then means nothing.
            tag: reference.digest().is_none().then_some(reference),
            platform: request.platform.as_ref(),
            parallel: request.parallel,
            progress,
        };
        let brought = pull.run()?;
        Ok(Pulled {
            reference: reference.clone(),
            digest: brought.digest,
            image_id: brought.image_id,
            is_new: brought.is_new,
        })
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
    pub(crate) tag: Option<&'a Reference>,
    /// The platform to choose, if one was asked for.
    pub(crate) platform: Option<&'a Platform>,
    /// Layers to read at a time; 0 means the default.
    pub(crate) parallel: usize,
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
        let store = self.engine.store();
        let lease = store.lease("pull").map_err(|e| self.store_error(e))?;
        let top = self.origin.resolve().map_err(|e| self.origin_error(e))?;
        if let Some(remote) = self.remote {
            // A digest decides; the tag beside it then means nothing.
            let tag = remote.tag().filter(|_| remote.digest().is_none());
            let tag = tag.map_or_else(|| top.digest.to_string(), ToString::to_string);
            self.message(&format!("{tag}: Pulling from {}", remote.repository().path()));
        }
        if let Some(image_id) = self.present(&top)? {
            return Ok(Brought { digest: top.digest, image_id, is_new: false });
        }
        let documents = self.documents(&lease, &top)?;
        self.layers(&lease, &documents)?;
        self.make_ready(&documents)?;
        let image_id = documents.image_id();
        self.commit(&lease, documents)?;
        Ok(Brought { digest: top.digest, image_id, is_new: true })
    }

    /// The image, if the tag names this digest here too, for this platform, and it is whole.
    fn present(&self, top: &Descriptor) -> Result<Option<ImageId>, PullError> {
        let store = self.engine.store();
        let Some(tag) = self.tag else { return Ok(None) };
        let found = match store.find_image(&tag.to_string()) {
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
        let fits = self.wanted_platform().rank(&image.platform).is_some()
            || (self.platform.is_none() && !top.media_type.is_index());
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

    /// Syncs the layers, and meanwhile makes the tree that containers of the image mount. That
    /// there is no tree is no fault of the pull's: whoever runs the image is told why.
    fn make_ready(&self, documents: &Documents) -> Result<(), PullError> {
        let store = self.engine.store();
        let chain: Vec<DiffId> = documents.layers.iter().map(|(_, diff_id)| *diff_id).collect();
        let blobs: Vec<Digest> = documents.layers.iter().map(|(blob, _)| blob.digest).collect();
        let prepare = || {
            let options = PrepareOptions::new(Mountpoints::Container);
            if let Err(error) = self.engine.snapshots().and_then(|s| s.prepare(&chain, &options)) {
                tracing::warn!(error = &error as &dyn std::error::Error, "no root filesystem yet");
            }
        };
        let synced = thread::scope(|scope| {
            scope.spawn(prepare);
            store.make_durable(&chain).and_then(|()| store.make_blobs_durable(&blobs))
        });
        synced.map_err(|e| self.store_error(e))
    }

    /// Records everything at once.
    fn commit(&self, lease: &Lease<'_>, documents: Documents) -> Result<(), PullError> {
        let image_id = documents.image_id();
        let target = Target::new(&documents.top, Some(image_id));
        let mut commit = ImageCommit { documents: documents.stored, ..ImageCommit::default() };
        commit.repo_digests.extend(self.remote.map(|remote| RepoDigest {
            reference: remote.repository().with_digest(target.digest),
            target: target.clone(),
        }));
        match self.tag {
            Some(tag) => commit.tags.push(TagUpdate { reference: tag.clone(), target }),
            None => commit.untagged.push(target),
        }
        self.engine.store().commit_images(lease, &commit).map_err(|e| self.store_error(e))?;
        self.engine.prepare_image(&image_id);
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
                    self.tag == Some(remote) && (source.is_denied() || source.is_not_found())
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
            .map(|name| (distance(&wanted, &name), name))
            // One that is the same is here, and was not what was meant.
            .filter(|(distance, name)| (1..=1 + name.len() / 5).contains(distance))
            .collect();
        near.sort();
        near.into_iter().map(|(_, name)| name).take(2).collect()
    }
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
