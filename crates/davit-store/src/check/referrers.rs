//! What refers to an image without being part of it: attestations, signatures.
//!
//! Nothing of the image names them: the row that lets it keep them is all that does. It goes with the
//! row of the image's manifest, which a repair drops and restores. What refers to a manifest says so
//! itself, so the row can be written again.

use std::collections::BTreeMap;

use davit_image::{Digest, Document, Manifest, MediaType};
use rusqlite::Connection;

use super::{CheckOptions, CheckReport, Fault, FaultKind, Repair};
use crate::{Store, StoreError, archive::MAX_DOCUMENT_BYTES, database::Class, image::referrers_of};

/// What a manifest refers to, and as what.
type Place = (Digest, Option<MediaType>);

impl Store {
    /// Finds manifests that nothing keeps though what they refer to is here. What others of the same
    /// type took the place of is no fault.
    pub(super) fn check_referrers(
        &self,
        options: &CheckOptions<'_>,
        report: &mut CheckReport,
    ) -> Result<(), StoreError> {
        let sql = |e| self.database.error("check what refers to images", e);
        let unkept =
            self.database.read("check what refers to images", |c| unkept(c).map_err(sql))?;
        let mut lost: BTreeMap<Place, Digest> = BTreeMap::new();
        for digest in unkept {
            let Some(manifest) = self.manifest(&digest) else { continue };
            let Some(subject) = &manifest.subject else { continue };
            let subject = subject.digest;
            if self.blob(&subject)?.is_none() {
                continue;
            }
            let rows = self
                .database
                .read("check what refers to images", |c| referrers_of(c, &subject).map_err(sql))?;
            let mut kept = rows.iter().filter_map(|row| self.manifest(&row.digest));
            let is_same = |other: Manifest| {
                other.subject.is_some_and(|it| it.digest == subject)
                    && other.artifact_type == manifest.artifact_type
            };
            if !kept.any(is_same) {
                // The last one is the newest.
                lost.insert((subject, manifest.artifact_type.clone()), digest);
            }
        }
        for ((subject, _), digest) in lost {
            let detail = format!("does not keep {digest}, which refers to it");
            let mut fault =
                Fault::new(FaultKind::RowDamaged, format!("blob_refs {subject}"), detail);
            if options.repair {
                self.database.write(Class::Full, "mend what an image keeps", |tx| {
                    self.record_referrers(tx, &[(subject, digest)])
                })?;
                fault.repair = Repair::Rebuilt;
            }
            report.faults.push(fault);
        }
        Ok(())
    }

    /// A manifest that is here.
    fn manifest(&self, digest: &Digest) -> Option<Manifest> {
        // Of a blob that cannot be read another fault tells.
        let bytes = self.read_blob(digest, MAX_DOCUMENT_BYTES).ok()?;
        match Document::parse(bytes, None) {
            Ok(Document::Manifest(manifest)) => Some(manifest.value().clone()),
            _ => None,
        }
    }
}

/// Manifests of committed images that no name and nothing else leads to, the oldest first.
fn unkept(c: &Connection) -> rusqlite::Result<Vec<Digest>> {
    c.prepare_cached(
        "SELECT digest FROM blobs
         WHERE media_type IN (?1, ?2) AND durable_boot IS NULL
           AND digest NOT IN (SELECT child FROM blob_refs)
           AND digest NOT IN (SELECT digest FROM tags UNION SELECT digest FROM untagged
                              UNION SELECT digest FROM repo_digests)
         ORDER BY created, digest",
    )?
    .query_map([MediaType::OCI_MANIFEST.as_str(), MediaType::DOCKER_MANIFEST.as_str()], |row| {
        crate::database::parsed(row, 0)
    })?
    .collect()
}
