//! Documents: manifests, indexes and configs, which are blobs that name other content.

use davit_image::{Digest, Document, ImageConfig, ImageId, MediaType};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use crate::{Store, StoreError, database::to_json, store::now};

/// A manifest, index or config on its way into the store: bytes as received or once written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredDocument {
    /// The bytes, whose digest is the identity.
    pub bytes: Vec<u8>,
    /// What they are.
    pub media_type: MediaType,
    /// Their digest, as the descriptor names it (SHA-512 documents stay such).
    pub digest: Digest,
}

/// A document whose content is understood, ready to be recorded.
#[derive(Debug)]
pub(crate) struct Understood {
    pub(crate) digest: Digest,
    pub(crate) refs: Vec<Digest>,
    pub(crate) config: Option<Box<ImageConfig>>,
}

/// What an image's row repeats of its config.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ImageFacts {
    chain_id: Option<String>,
    /// In nanoseconds since 1970.
    created: Option<i64>,
    os: String,
    architecture: String,
    variant: String,
    /// As JSON.
    labels: String,
}

impl ImageFacts {
    pub(crate) fn of(config: &ImageConfig) -> Self {
        let created = config.created.map(|time| {
            time.unix_seconds()
                .saturating_mul(1_000_000_000)
                .saturating_add(i64::from(time.nanoseconds()))
        });
        Self {
            chain_id: config.chain_id().map(|chain| chain.to_string()),
            created,
            os: config.os.clone(),
            architecture: config.architecture.clone(),
            variant: config.variant.clone().unwrap_or_default(),
            labels: to_json(&config.config.labels.clone().unwrap_or_default()),
        }
    }

    /// Those of the image `id`, as the database has them.
    pub(crate) fn find(c: &Connection, id: &ImageId) -> rusqlite::Result<Option<Self>> {
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Self {
                chain_id: row.get(0)?,
                created: row.get(1)?,
                os: row.get(2)?,
                architecture: row.get(3)?,
                variant: row.get(4)?,
                labels: row.get(5)?,
            })
        };
        c.prepare_cached(
            "SELECT chain_id, created, os, architecture, variant, labels FROM images WHERE id = ?",
        )?
        .query_row([id.to_string()], read)
        .optional()
    }
}

impl StoredDocument {
    /// Wraps bytes under their SHA-256 digest.
    #[must_use]
    pub fn new(media_type: MediaType, bytes: Vec<u8>) -> Self {
        Self { digest: Digest::of(&bytes), bytes, media_type }
    }

    /// Verifies the digest and reads what the document names.
    pub(crate) fn understand(&self) -> Result<Understood, StoreError> {
        let actual = Digest::of_with(self.digest.algorithm(), &self.bytes);
        if actual != self.digest {
            return Err(StoreError::digest(self.digest, actual));
        }
        let mut understood = Understood { digest: self.digest, refs: Vec::new(), config: None };
        if self.media_type.is_manifest() || self.media_type.is_index() {
            let document = Document::parse(self.bytes.clone(), Some(&self.media_type))
                .map_err(|source| StoreError::Document { digest: self.digest, source })?;
            understood.refs = references(&document);
        } else if self.media_type.is_config() {
            let config = serde_json::from_slice(&self.bytes).map_err(|source| {
                StoreError::Record { kind: "config", name: self.digest.to_string(), source }
            })?;
            understood.config = Some(config);
        }
        Ok(understood)
    }
}

fn references(document: &Document) -> Vec<Digest> {
    match document {
        Document::Manifest(raw) => {
            let manifest = raw.value();
            let layers = manifest.layers.iter().map(|layer| layer.digest);
            std::iter::once(manifest.config.digest).chain(layers).collect()
        }
        Document::Index(raw) => raw.value().manifests.iter().map(|entry| entry.digest).collect(),
    }
}

impl Store {
    /// Inserts what a document names, and the image that a config is. The blob's row is there.
    pub(crate) fn record_document(
        &self,
        tx: &Transaction<'_>,
        document: &Understood,
    ) -> Result<(), StoreError> {
        let sql = |e| self.database.error("record a document", e);
        for child in &document.refs {
            tx.prepare_cached("INSERT OR IGNORE INTO blob_refs (parent, child) VALUES (?, ?)")
                .and_then(|mut s| {
                    s.execute(params![document.digest.to_string(), child.to_string()])
                })
                .map_err(sql)?;
        }
        match &document.config {
            Some(config) => self.record_config(tx, ImageId::new(document.digest), config),
            None => Ok(()),
        }
    }

    /// Lets manifests keep what refers to them. The blobs' rows are there.
    pub(crate) fn record_referrers(
        &self,
        tx: &Transaction<'_>,
        referrers: &[(Digest, Digest)],
    ) -> Result<(), StoreError> {
        let sql = |e| self.database.error("record what refers to an image", e);
        for (subject, referrer) in referrers {
            tx.prepare_cached("INSERT OR IGNORE INTO blob_refs (parent, child) VALUES (?, ?)")
                .and_then(|mut s| s.execute(params![subject.to_string(), referrer.to_string()]))
                .map_err(sql)?;
        }
        Ok(())
    }

    /// Lets manifests no longer keep what refers to them.
    pub(crate) fn forget_referrers(
        &self,
        tx: &Transaction<'_>,
        referrers: &[(Digest, Digest)],
    ) -> Result<(), StoreError> {
        let sql = |e| self.database.error("forget what refers to an image", e);
        for (subject, referrer) in referrers {
            tx.prepare_cached("DELETE FROM blob_refs WHERE parent = ? AND child = ?")
                .and_then(|mut s| s.execute(params![subject.to_string(), referrer.to_string()]))
                .map_err(sql)?;
        }
        Ok(())
    }

    fn record_config(
        &self,
        tx: &Transaction<'_>,
        id: ImageId,
        config: &ImageConfig,
    ) -> Result<(), StoreError> {
        let sql = |e| self.database.error("record an image", e);
        let facts = ImageFacts::of(config);
        let added = tx
            .prepare_cached(
                "INSERT OR IGNORE INTO images
                 (id, chain_id, created, os, architecture, variant, stored, labels)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            )
            .and_then(|mut s| {
                s.execute(params![
                    id.to_string(),
                    facts.chain_id,
                    facts.created,
                    facts.os,
                    facts.architecture,
                    facts.variant,
                    now(),
                    facts.labels,
                ])
            })
            .map_err(sql)?;
        if added == 0 {
            return Ok(());
        }
        for (position, diff_id) in (0_u32..).zip(&config.rootfs.diff_ids) {
            tx.prepare_cached(
                "INSERT INTO image_layers (image_id, position, diff_id) VALUES (?, ?, ?)",
            )
            .and_then(|mut s| s.execute(params![id.to_string(), position, diff_id.to_string()]))
            .map_err(sql)?;
        }
        Ok(())
    }
}
