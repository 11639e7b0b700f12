//! Which image of an index is here, and what stands for one whose compressed layers are not.

use std::collections::HashSet;

use davit_image::{
    Descriptor, Digest, Document, ImageConfig, ImageId, Index, Manifest, MediaType, Platform, Raw,
};
use davit_store::{Store, StoreError};

use crate::origin::{DOCUMENT_BYTES, MOST_NESTED};

/// What a manifest is chosen by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted<'a> {
    /// The image that the store knows.
    Image(ImageId),
    /// The best of the index for a platform.
    Platform(&'a Platform),
}

/// The manifest that is wanted, if it is here: of the descriptor itself, or below its index.
pub(crate) fn find_manifest(
    store: &Store,
    top: &Descriptor,
    wanted: Wanted<'_>,
) -> Result<Option<(Descriptor, Raw<Manifest>)>, StoreError> {
    let candidates = |index: &Index| match wanted {
        Wanted::Image(_) => index.manifests.clone(),
        // The next best would be another image than a pull of the same name gives.
        Wanted::Platform(platform) => index.choose(platform).cloned().into_iter().collect(),
    };
    let take = |descriptor: &Descriptor, manifest: Raw<Manifest>| {
        let fits = fits(store, manifest.value(), wanted)?;
        Ok(fits.then(|| (descriptor.clone(), manifest)))
    };
    search(store, top, (&candidates, &take), (MOST_NESTED, &mut HashSet::new()))
}

/// What `take` makes of the best image for a platform that it takes, of the descriptor itself or
/// below its index, as far as their manifests are here.
pub(crate) fn find_best<T>(
    store: &Store,
    top: &Descriptor,
    platform: &Platform,
    take: impl Fn(ImageId) -> Result<Option<T>, StoreError>,
) -> Result<Option<T>, StoreError> {
    let candidates = |index: &Index| index.ranked(platform).into_iter().cloned().collect();
    let take = |_: &Descriptor, manifest: Raw<Manifest>| {
        take(ImageId::new(manifest.value().config.digest))
    };
    search(store, top, (&candidates, &take), (MOST_NESTED, &mut HashSet::new()))
}

/// What of an index to look at, in which order.
type Candidates<'a> = &'a dyn Fn(&Index) -> Vec<Descriptor>;
/// What to make of a manifest; nothing if it is not the one.
type Take<'a, T> = &'a dyn Fn(&Descriptor, Raw<Manifest>) -> Result<Option<T>, StoreError>;

/// Looks `depth` indexes deep; an index may name the same entry any number of times, and each is
/// looked at once.
fn search<T>(
    store: &Store,
    descriptor: &Descriptor,
    (candidates, take): (Candidates<'_>, Take<'_, T>),
    (depth, met): (usize, &mut HashSet<Digest>),
) -> Result<Option<T>, StoreError> {
    let index = match read_document(store, descriptor)? {
        None => return Ok(None),
        Some(Document::Manifest(manifest)) => return take(descriptor, manifest),
        Some(Document::Index(_)) if depth == 0 => return Ok(None),
        Some(Document::Index(index)) => index.into_value(),
    };
    for entry in candidates(&index) {
        if met.insert(entry.digest)
            && let Some(found) = search(store, &entry, (candidates, take), (depth - 1, &mut *met))?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn fits(store: &Store, manifest: &Manifest, wanted: Wanted<'_>) -> Result<bool, StoreError> {
    let platform = match wanted {
        Wanted::Image(id) => return Ok(manifest.config.digest == id.digest()),
        Wanted::Platform(platform) => platform,
    };
    if !manifest.is_image() || store.blob(&manifest.config.digest)?.is_none() {
        return Ok(true);
    }
    let config = store.read_blob(&manifest.config.digest, DOCUMENT_BYTES)?;
    // What cannot be read is no image for any platform, yet may leave as it is.
    let Ok(config) = serde_json::from_slice::<ImageConfig>(&config) else { return Ok(true) };
    Ok(config.os.is_empty() || platform.rank(&config.platform()).is_some())
}

/// A document that is here; a malformed one names nothing and is refused where it is used.
pub(crate) fn read_document(
    store: &Store,
    descriptor: &Descriptor,
) -> Result<Option<Document>, StoreError> {
    if store.blob(&descriptor.digest)?.is_none() {
        return Ok(None);
    }
    let bytes = store.read_blob(&descriptor.digest, DOCUMENT_BYTES)?;
    Ok(Document::parse(bytes, Some(&descriptor.media_type)).ok())
}

/// The manifest of an image's plain layers, for where its compressed ones are gone.
///
/// # Errors
/// [`StoreError::MissingLayer`] if a plain one is not here either.
pub(crate) fn plain_manifest(
    store: &Store,
    manifest: &Manifest,
) -> Result<Raw<Manifest>, StoreError> {
    let mut layers = Vec::new();
    for diff_id in store.image_layers(&ImageId::new(manifest.config.digest))? {
        let row = store.layer(&diff_id)?.ok_or(StoreError::MissingLayer(diff_id))?;
        layers.push(Descriptor::new(MediaType::OCI_LAYER, diff_id.digest(), row.tar_size));
    }
    let config =
        Descriptor::new(MediaType::OCI_CONFIG, manifest.config.digest, manifest.config.size);
    Ok(Raw::write(Manifest::new(config, layers)))
}
