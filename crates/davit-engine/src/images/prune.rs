//! `image prune`: images that nothing needs.

use davit_image::Timestamp;
use davit_store::{GcOptions, ImageRow};

use super::{
    ImageError, Removal,
    remove::{deletions, forget},
};
use crate::Engine;

/// What to prune.
#[derive(Clone, Debug, Default)]
pub struct ImagePrune {
    /// All images without a container, not only those without a tag.
    pub all: bool,
    /// Only images made before this time.
    pub until: Option<Timestamp>,
    /// Only images with all of these labels (value `None`: any).
    pub labels: Vec<(String, Option<String>)>,
    /// No images with any of these labels.
    pub without_labels: Vec<(String, Option<String>)>,
}

/// What a prune freed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Names and content that went.
    pub removals: Vec<Removal>,
    /// Bytes on disk.
    pub freed_bytes: u64,
}

impl Engine {
    /// Removes images without a tag, or all without a container.
    ///
    /// # Errors
    /// What the store says.
    pub fn prune_images(&self, request: &ImagePrune) -> Result<Pruned, ImageError> {
        let mut pruned = Pruned::default();
        for image in self.images()? {
            if !request.selects(&image) {
                continue;
            }
            let removals = self.store().edit_images(|edit| {
                // Somebody may have named or used it since the list was made.
                match edit.image(&image.id)?.filter(|now| request.selects(now)) {
                    Some(now) => forget(edit, &now),
                    None => Ok(Vec::new()),
                }
            })?;
            pruned.removals.extend(removals);
        }
        let report = self.store().collect(&GcOptions::default())?;
        deletions(&report, &mut pruned.removals);
        pruned.freed_bytes = report.freed_bytes;
        Ok(pruned)
    }
}

impl ImagePrune {
    fn selects(&self, image: &ImageRow) -> bool {
        let has = |(key, value): &(String, Option<String>)| {
            image.labels.get(key).is_some_and(|found| value.as_ref().is_none_or(|v| v == found))
        };
        image.containers.is_empty()
            && (self.all || image.is_dangling())
            && self.until.is_none_or(|until| image.created.is_none_or(|made| made < until))
            && self.labels.iter().all(has)
            && !self.without_labels.iter().any(has)
    }
}
