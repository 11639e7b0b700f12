//! What becomes true when a pull, load, build or commit reports done.

use davit_image::{DiffId, Digest};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{
    ImageCommit, RepoDigest, TagUpdate, Target, layers_of,
    query::{layers_below, reachable_blobs, tag_key, target_of_row},
};
use crate::{
    Durability, Lease, Store, StoreError, StoredDocument, blob,
    database::{Class, to_sql_size},
    document::Understood,
    layer,
    store::now,
};

impl ImageCommit {
    fn targets(&self) -> impl Iterator<Item = &Target> {
        self.tags
            .iter()
            .map(|update| &update.target)
            .chain(&self.untagged)
            .chain(self.repo_digests.iter().map(|known| &known.target))
    }
}

/// What a commit needs to be durable and is not yet.
struct Needs {
    layers: Vec<DiffId>,
    blobs: Vec<Digest>,
}

impl Store {
    /// Records images in one durable transaction. Before it, documents are written and synced,
    /// and so is every layer and blob that these images need and that was committed lazily. A tag
    /// that moves leaves its former image untagged, unless that has another name.
    ///
    /// # Errors
    /// [`StoreError::MissingLayer`] when a layer of a named image is absent;
    /// [`StoreError::Document`] and [`StoreError::Record`] for a document that is refused;
    /// otherwise what the disk or the database says. Nothing has changed then.
    pub fn commit_images(&self, lease: &Lease<'_>, commit: &ImageCommit) -> Result<(), StoreError> {
        let understood: Vec<Understood> =
            commit.documents.iter().map(StoredDocument::understand).collect::<Result<_, _>>()?;
        for document in &commit.documents {
            self.stage(lease, document)?;
        }
        // Rows of the documents first, lazily and kept by the lease: what they need is then a
        // query, and what must be durable is synced before the one commit that counts.
        self.database.write(Class::Normal, "record documents", |tx| {
            understood.iter().try_for_each(|document| self.record_document(tx, document))?;
            self.record_referrers(tx, &commit.referrers)
        })?;
        let needs = self.needs(commit)?;
        self.sync_layers(&needs.layers)?;
        self.sync_blobs(&needs.blobs)?;
        self.database.write(Class::Full, "record an image", |tx| {
            layer::clear_marks(&self.database, tx, &needs.layers)?;
            blob::clear_marks(&self.database, tx, &needs.blobs)?;
            commit.targets().try_for_each(|target| self.check_complete(tx, target))?;
            self.forget_referrers(tx, &commit.former_referrers)?;
            commit.tags.iter().try_for_each(|update| self.move_tag(tx, update))?;
            commit.untagged.iter().try_for_each(|target| self.keep_untagged(tx, target))?;
            commit.repo_digests.iter().try_for_each(|known| self.record_repo_digest(tx, known))
        })
    }

    /// Writes a document's bytes as a blob and its row, both marked as lazy, unless they are here
    /// undamaged.
    fn stage(&self, lease: &Lease<'_>, document: &StoredDocument) -> Result<(), StoreError> {
        if let Some(record) = self.hold_blob(lease, &document.digest)? {
            if self.verify_blob(&record)?.is_none() {
                return Ok(());
            }
            self.drop_blobs(&[document.digest])?;
        }
        let mut ingest = self.begin_new_blob(lease)?;
        ingest.append(&document.bytes)?;
        ingest.commit(&document.digest, Some(&document.media_type), Durability::Lazy).map(|_| ())
    }

    /// What a commit needs to be durable and is not yet.
    fn needs(&self, commit: &ImageCommit) -> Result<Needs, StoreError> {
        let action = "find what an image needs";
        let sql = |e| self.database.error(action, e);
        let (mut layers, mut blobs) = (Vec::new(), Vec::new());
        self.database.snapshot(action, |c| {
            for target in commit.targets() {
                if let Some(id) = &target.image_id {
                    layers.extend(layers_of(c, id).map_err(sql)?);
                    blobs.push(id.digest());
                }
                layers.extend(layers_below(c, &target.digest).map_err(sql)?);
                blobs.extend(reachable_blobs(c, &target.digest).map_err(sql)?);
            }
            Ok(())
        })?;
        // Own images name plain tars by DiffID in their manifests: layers, not blobs.
        layers.sort();
        layers.dedup();
        blobs.sort();
        blobs.dedup();
        Ok(Needs { layers: self.lazy_layers(&layers)?, blobs: self.lazy_blobs(&blobs)? })
    }

    /// Refuses a target of which something is not recorded.
    pub(super) fn check_complete(&self, c: &Connection, target: &Target) -> Result<(), StoreError> {
        let sql = |e| self.database.error("record an image", e);
        if blob::find(&self.database, c, &target.digest)?.is_none() {
            return Err(StoreError::not_found("manifest", target.digest));
        }
        let Some(id) = &target.image_id else { return Ok(()) };
        let known: bool = c
            .prepare_cached("SELECT 1 FROM images JOIN blobs ON digest = id WHERE id = ?")
            .and_then(|mut s| s.exists([id.to_string()]))
            .map_err(sql)?;
        if !known {
            return Err(StoreError::not_found("image", id));
        }
        for diff_id in layers_of(c, id).map_err(sql)? {
            let row = layer::find(&self.database, c, &diff_id)?;
            if row.is_none_or(|row| row.durable_boot.is_some()) {
                return Err(StoreError::MissingLayer(diff_id));
            }
        }
        Ok(())
    }

    fn move_tag(&self, tx: &Transaction<'_>, update: &TagUpdate) -> Result<(), StoreError> {
        let sql = |e| self.database.error("move a tag", e);
        let name = tag_key(&update.reference);
        let former = tx
            .prepare_cached(
                "SELECT digest, media_type, size, image_id FROM tags WHERE reference = ?",
            )
            .and_then(|mut s| s.query_row([&name], target_of_row).optional())
            .map_err(sql)?;
        let target = &update.target;
        tx.prepare_cached(
            "INSERT OR REPLACE INTO tags (reference, digest, media_type, size, image_id, tagged)
             VALUES (?, ?, ?, ?, ?, ?)",
        )
        .and_then(|mut s| {
            s.execute(params![
                name,
                target.digest.to_string(),
                target.media_type.as_str(),
                to_sql_size(target.size),
                target.image_id.map(|id| id.to_string()),
                now(),
            ])
        })
        .map_err(sql)?;
        tx.execute("DELETE FROM untagged WHERE digest = ?", [target.digest.to_string()])
            .map_err(sql)?;
        match former {
            Some(former) if former.digest != target.digest => self.keep_untagged(tx, &former),
            _ => Ok(()),
        }
    }

    /// Keeps a target that has no tag; one with a tag, or whose image has one, needs no keeping.
    pub(super) fn keep_untagged(
        &self,
        tx: &Transaction<'_>,
        target: &Target,
    ) -> Result<(), StoreError> {
        tx.prepare_cached(
            "INSERT OR IGNORE INTO untagged (digest, media_type, size, image_id, since)
             SELECT ?1, ?2, ?3, ?4, ?5 WHERE NOT EXISTS
             (SELECT 1 FROM tags WHERE digest = ?1 OR (?4 IS NOT NULL AND image_id = ?4))",
        )
        .and_then(|mut s| {
            s.execute(params![
                target.digest.to_string(),
                target.media_type.as_str(),
                to_sql_size(target.size),
                target.image_id.map(|id| id.to_string()),
                now(),
            ])
        })
        .map(|_| ())
        .map_err(|e| self.database.error("keep an image", e))
    }

    fn record_repo_digest(
        &self,
        tx: &Transaction<'_>,
        known: &RepoDigest,
    ) -> Result<(), StoreError> {
        let Some(image_id) = known.target.image_id else { return Ok(()) };
        tx.prepare_cached(
            "INSERT OR REPLACE INTO repo_digests
             (repository, digest, image_id, media_type, size, seen) VALUES (?, ?, ?, ?, ?, ?)",
        )
        .and_then(|mut s| {
            s.execute(params![
                known.reference.repository().to_string(),
                known.target.digest.to_string(),
                image_id.to_string(),
                known.target.media_type.as_str(),
                to_sql_size(known.target.size),
                now(),
            ])
        })
        .map(|_| ())
        .map_err(|e| self.database.error("record a digest", e))
    }
}
