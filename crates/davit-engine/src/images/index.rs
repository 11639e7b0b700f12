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
    find(store, top, wanted, (MOST_NESTED, &mut HashSet::new()))
}

/// Looks `depth` indexes deep; an index may name the same entry any number of times, and each is
/// looked at once.
fn find(
    store: &Store,
    descriptor: &Descriptor,
    wanted: Wanted<'_>,
    (depth, met): (usize, &mut HashSet<Digest>),
) -> Result<Option<(Descriptor, Raw<Manifest>)>, StoreError> {
    let index = match read_document(store, descriptor)? {
        None => return Ok(None),
        Some(Document::Manifest(manifest)) => {
            let fits = fits(store, manifest.value(), wanted)?;
            return Ok(fits.then(|| (descriptor.clone(), manifest)));
        }
        Some(Document::Index(_)) if depth == 0 => return Ok(None),
        Some(Document::Index(index)) => index.into_value(),
    };
    for entry in candidates(&index, wanted) {
        if met.insert(entry.digest)
            && let Some(found) = find(store, entry, wanted, (depth - 1, &mut *met))?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn candidates<'i>(index: &'i Index, wanted: Wanted<'_>) -> Vec<&'i Descriptor> {
    match wanted {
        Wanted::Image(_) => index.manifests.iter().collect(),
        // The next best would be another image than a pull of the same name gives.
        Wanted::Platform(platform) => index.choose(platform).into_iter().collect(),
    }
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
