//! Images: what names them, what they are made of, and how names change.

mod commit;
mod edit;
mod query;

use std::{cell::RefCell, path::PathBuf};

use davit_image::{
    Descriptor, DiffId, Digest, ImageConfig, ImageId, MediaType, Platform, Reference, Timestamp,
};
use rusqlite::Transaction;

use query::{find_by_prefix, find_by_reference, list, lost_blobs};
pub(crate) use query::{layers_of, referrers_of, repo_targets, row_of_image};

use crate::{Store, StoreError, StoredDocument, archive::MAX_DOCUMENT_BYTES, database::Class};

/// A manifest or index, and the image of it that this machine uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Digest of the manifest or index.
    pub digest: Digest,
    /// What it is.
    pub media_type: MediaType,
    /// Its size in bytes.
    pub size: u64,
    /// The image whose layers are here: an index's chosen platform; `None` for other artifacts.
    pub image_id: Option<ImageId>,
}

/// Lets a tag name an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagUpdate {
    /// The name; it has a tag, and a digest in it is ignored.
    pub reference: Reference,
    /// What it names from now on.
    pub target: Target,
}

/// A digest under which a registry knows an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoDigest {
    /// Repository and digest, without a tag.
    pub reference: Reference,
    /// The manifest or index with that digest.
    pub target: Target,
}

/// Everything that becomes true when a pull, load, build or commit reports done.
#[derive(Clone, Debug, Default)]
pub struct ImageCommit {
    /// Indexes, manifests and configs.
    pub documents: Vec<StoredDocument>,
    /// Names that move.
    pub tags: Vec<TagUpdate>,
    /// Images to keep without a name.
    pub untagged: Vec<Target>,
    /// Digests under which registries know these images.
    pub repo_digests: Vec<RepoDigest>,
    /// Manifests and what refers to each, which is kept as long as that; both are here or among the
    /// documents.
    pub referrers: Vec<(Digest, Digest)>,
    /// Manifests and what referred to each and no longer counts.
    pub former_referrers: Vec<(Digest, Digest)>,
}

/// An image with its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRow {
    /// Digest of the config.
    pub id: ImageId,
    /// Manifests or indexes that lead to it, with their tags; no tag: the image is dangling.
    pub targets: Vec<(Target, Vec<Reference>)>,
    /// Under which digests registries know it, by repository, last pulled or pushed first.
    pub repo_digests: Vec<Reference>,
    /// When the image was made, by its config.
    pub created: Option<Timestamp>,
    /// What it runs on.
    pub platform: Platform,
    /// Sum of its layers' tars in bytes.
    pub size: u64,
    /// When it came into this store.
    pub stored: Timestamp,
    /// Labels of its config.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Its layers, bottom first.
    pub layers: Vec<DiffId>,
    /// Containers made of it.
    pub containers: Vec<ImageUser>,
}

impl ImageRow {
    /// The tags that name it.
    pub fn tags(&self) -> impl Iterator<Item = &Reference> {
        self.targets.iter().flat_map(|(_, references)| references)
    }

    /// Whether no tag names it; a registry's digest may.
    #[must_use]
    pub fn is_dangling(&self) -> bool {
        self.tags().next().is_none()
    }
}

/// A container that is made of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUser {
    /// The container's id.
    pub id: String,
    /// First word of its status, as of the last command that knew.
    pub status: String,
}

/// An image found by name or id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFind {
    /// What was named.
    pub target: Target,
    /// The tag, when it was named by one.
    pub reference: Option<Reference>,
}

/// Changes to names inside one transaction; see [`Store::edit_images`].
#[derive(Debug)]
pub struct ImageEdit<'a> {
    store: &'a Store,
    tx: &'a Transaction<'a>,
    /// Files whose rows it deletes; they go when that has happened.
    dropped: RefCell<Vec<PathBuf>>,
}

impl Store {
    /// What is kept because it refers to a manifest. Whether it says so itself, its bytes tell.
    ///
    /// # Errors
    /// What the database says.
    pub fn referrers(&self, subject: &Digest) -> Result<Vec<Target>, StoreError> {
        self.database.read("list what refers to an image", |c| {
            referrers_of(c, subject)
                .map_err(|e| self.database.error("list what refers to an image", e))
        })
    }

    /// Adds or moves one tag of an image that is here.
    ///
    /// # Errors
    /// As [`Self::commit_images`].
    pub fn tag(&self, reference: &Reference, target: &Target) -> Result<(), StoreError> {
        let lease = self.lease("tag")?;
        let update = TagUpdate { reference: reference.clone(), target: target.clone() };
        self.commit_images(&lease, &ImageCommit { tags: vec![update], ..ImageCommit::default() })
    }

    /// Finds an image by tag, by repository and digest, or by the start of its ID or of its
    /// manifest's digest (with or without `sha256:`), in this order.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Ambiguous`], or what the database says.
    pub fn find_image(&self, name: &str) -> Result<ImageFind, StoreError> {
        let sql = |e| self.database.error("look up an image", e);
        self.database.snapshot("look up an image", |c| {
            if let Ok(reference) = name.parse::<Reference>()
                && let Some(found) = find_by_reference(c, &reference).map_err(sql)?
            {
                return Ok(found);
            }
            let found = find_by_prefix(c, name).map_err(sql)?;
            match found.as_slice() {
                [] => Err(StoreError::not_found("image", name)),
                [found] => Ok(found.clone()),
                _ => Err(StoreError::Ambiguous { kind: "image", prefix: name.to_owned() }),
            }
        })
    }

    /// Lists all images that have a name or are kept without one, newest first.
    ///
    /// # Errors
    /// What the database says.
    pub fn images(&self) -> Result<Vec<ImageRow>, StoreError> {
        let mut rows =
            self.database.snapshot("list the images", |c| list(&self.database, c, None))?;
        rows.iter_mut().try_for_each(|row| self.complete_time(row))?;
        Ok(rows)
    }

    /// Looks up one image with all its names; an image that only a container keeps has none.
    ///
    /// # Errors
    /// What the database says.
    pub fn image(&self, id: &ImageId) -> Result<Option<ImageRow>, StoreError> {
        let found =
            self.database.snapshot("look up an image", |c| list(&self.database, c, Some(id)))?;
        let mut row = found.into_iter().next();
        row.iter_mut().try_for_each(|row| self.complete_time(row))?;
        Ok(row)
    }

    /// The column holds nanoseconds, which end in the years 1677 and 2262: who was made beyond
    /// says so in its config.
    fn complete_time(&self, row: &mut ImageRow) -> Result<(), StoreError> {
        if ![i64::MIN, i64::MAX].map(timestamp).contains(&row.created) {
            return Ok(());
        }
        let id = row.id.digest();
        let bytes = match self.read_blob(&id, MAX_DOCUMENT_BYTES) {
            Ok(bytes) => bytes,
            // Whoever opens the image is told that its config is gone.
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        let config: ImageConfig = serde_json::from_slice(&bytes).map_err(|source| {
            StoreError::Record { kind: "config", name: id.to_string(), source }
        })?;
        row.created = config.created;
        Ok(())
    }

    /// Whether a target's manifest is recorded, and its image's config and layers, all durable.
    ///
    /// # Errors
    /// What the database says.
    pub fn is_whole(&self, target: &Target) -> Result<bool, StoreError> {
        let checked =
            self.database.snapshot("look up an image", |c| self.check_complete(c, target));
        match checked {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(StoreError::MissingLayer(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Layers of an image, bottom first, by its config's row.
    ///
    /// # Errors
    /// What the database says.
    pub fn image_layers(&self, id: &ImageId) -> Result<Vec<DiffId>, StoreError> {
        self.database.read("read an image's layers", |c| {
            layers_of(c, id).map_err(|e| self.database.error("read an image's layers", e))
        })
    }

    /// Compressed layers below a manifest or index that were kept here and are gone; what was
    /// never kept is none of them.
    ///
    /// # Errors
    /// What the database says.
    pub fn lost_blobs(&self, top: &Digest) -> Result<Vec<Digest>, StoreError> {
        self.database.read("find lost blobs", |c| {
            lost_blobs(c, top).map_err(|e| self.database.error("find lost blobs", e))
        })
    }

    /// Changes names: all that `edit` does happens durably and at once, or, after an error, not at
    /// all. Collect afterwards to free what is no longer named.
    ///
    /// # Errors
    /// What `edit` returns or the database says.
    pub fn edit_images<T, E: From<StoreError>>(
        &self,
        edit: impl FnOnce(&ImageEdit<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.make_room()?;
        let (mut refused, mut dropped) = (None, Vec::new());
        let done = self.database.write(Class::Full, "change names of images", |tx| {
            let changes = ImageEdit { store: self, tx, dropped: RefCell::default() };
            let result = edit(&changes);
            dropped = changes.dropped.into_inner();
            result.map_err(|error| {
                refused = Some(error);
                StoreError::not_found("image", "")
            })
        });
        if let Some(error) = refused {
            return Err(error);
        }
        let done = done?;
        self.remove_unnamed(&dropped)?;
        Ok(done)
    }
}

impl Target {
    /// A target by its descriptor.
    #[must_use]
    pub fn new(descriptor: &Descriptor, image_id: Option<ImageId>) -> Self {
        Self {
            digest: descriptor.digest,
            media_type: descriptor.media_type.clone(),
            size: descriptor.size,
            image_id,
        }
    }

    /// The descriptor that names it.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.media_type.clone(), self.digest, self.size)
    }
}

/// A time column.
pub(crate) fn timestamp(nanoseconds: i64) -> Option<Timestamp> {
    let rest = u32::try_from(nanoseconds.rem_euclid(1_000_000_000)).ok()?;
    Timestamp::from_unix(nanoseconds.div_euclid(1_000_000_000), rest).ok()
}
