//! Changes to names inside one transaction.

use davit_image::{Digest, ImageId, Reference};
use rusqlite::params;

use super::{
    ImageEdit, ImageRow, Target,
    query::{list, tag_key},
};
use crate::StoreError;

/// An index alone may need the manifest: nothing else names it, or works with it right now.
const DROP_PART: &str = "
DELETE FROM blobs WHERE digest = ?1
  AND (SELECT COUNT(*) FROM blob_refs WHERE child = ?1) = 1
  AND digest NOT IN (SELECT digest FROM tags UNION ALL SELECT digest FROM untagged
    UNION ALL SELECT digest FROM repo_digests UNION ALL SELECT digest FROM lease_items)";

impl ImageEdit<'_> {
    /// Forgets one image's manifest below an index that stays; `false` where more than that index
    /// needs it.
    ///
    /// # Errors
    /// What the database says.
    pub fn drop_part(&self, manifest: &Digest) -> Result<bool, StoreError> {
        let has_gone = self.execute(DROP_PART, &manifest.to_string())?;
        if has_gone {
            self.dropped.borrow_mut().push(self.store.layout().blob(manifest));
        }
        Ok(has_gone)
    }

    /// Removes a tag; `false` when there was none.
    ///
    /// # Errors
    /// What the database says.
    pub fn untag(&self, reference: &Reference) -> Result<bool, StoreError> {
        self.execute("DELETE FROM tags WHERE reference = ?", &tag_key(reference))
    }

    /// Removes a digest that a registry knows; `false` when there was none. An image that has no
    /// other name stays, untagged.
    ///
    /// # Errors
    /// What the database says.
    pub fn forget_repo_digest(&self, reference: &Reference) -> Result<bool, StoreError> {
        let Some(digest) = reference.digest() else { return Ok(false) };
        let removed = self
            .tx
            .execute(
                "DELETE FROM repo_digests WHERE repository = ? AND digest = ?",
                params![reference.repository().to_string(), digest.to_string()],
            )
            .map_err(|e| self.store.database.error("change names of images", e))?;
        Ok(removed > 0)
    }

    /// Removes all names of an image. What a container keeps of it stays until that is removed.
    ///
    /// # Errors
    /// What the database says.
    pub fn forget(&self, id: &ImageId) -> Result<(), StoreError> {
        let id = id.to_string();
        self.execute("DELETE FROM tags WHERE image_id = ?", &id)?;
        self.execute("DELETE FROM untagged WHERE image_id = ?", &id)?;
        self.execute("DELETE FROM repo_digests WHERE image_id = ?", &id)?;
        Ok(())
    }

    /// Removes an artifact that is no image, by its manifest's digest.
    ///
    /// # Errors
    /// What the database says.
    pub fn forget_target(&self, digest: &Digest) -> Result<(), StoreError> {
        let digest = digest.to_string();
        self.execute("DELETE FROM tags WHERE digest = ?", &digest)?;
        self.execute("DELETE FROM untagged WHERE digest = ?", &digest)?;
        Ok(())
    }

    /// Lets a name stay without its tag.
    ///
    /// # Errors
    /// What the database says.
    pub fn keep_untagged(&self, target: &Target) -> Result<(), StoreError> {
        self.store.keep_untagged(self.tx, target)
    }

    /// The image as this transaction sees it.
    ///
    /// # Errors
    /// What the database says.
    pub fn image(&self, id: &ImageId) -> Result<Option<ImageRow>, StoreError> {
        list(&self.store.database, self.tx, Some(id)).map(|mut rows| rows.pop())
    }

    fn execute(&self, statement: &str, key: &str) -> Result<bool, StoreError> {
        self.tx
            .execute(statement, [key])
            .map(|rows| rows > 0)
            .map_err(|e| self.store.database.error("change names of images", e))
    }
}
