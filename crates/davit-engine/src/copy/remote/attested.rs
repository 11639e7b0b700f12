//! What is attested of an image of a registry: beside it in its index, or by what refers to it.

use std::collections::BTreeMap;

use davit_distribution::{Access, Session, Target};
use davit_image::{Descriptor, Digest, Document, Index, Manifest, Reference};
use serde_json::Value;

use super::{RemoteDocument, RemoteError, Remotes};
use crate::build::{PREDICATE_TYPE, REFERENCE_DIGEST, STATEMENT, STATEMENT_BYTES, is_attestation};

/// Most images of an index that are asked about, and most manifests that are read for one of them.
const MOST_IMAGES: usize = 100;
const MOST_MANIFESTS: usize = 50;

/// What is said of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteStatement {
    /// Which kind of statement it is.
    pub predicate_type: String,
    /// The statement.
    pub predicate: Value,
}

/// One image's questions.
struct Asked<'a> {
    session: Session,
    reference: &'a Reference,
    remotes: &'a Remotes,
}

impl Remotes {
    /// What is attested of an image, or of each image of an index by platform; one alone has none.
    /// Blocks.
    ///
    /// # Errors
    /// [`RemoteError::Read`].
    pub fn attested(
        &self,
        found: &RemoteDocument,
    ) -> Result<BTreeMap<String, Vec<RemoteStatement>>, RemoteError> {
        let session = self.registries.client.session(found.reference.repository(), Access::Pull);
        let asked = Asked { session, reference: &found.reference, remotes: self };
        let mut all = BTreeMap::new();
        match &found.document {
            Document::Manifest(_) => {
                all.insert(String::new(), asked.of(&found.descriptor.digest, &[])?);
            }
            Document::Index(index) => {
                let index = index.value();
                let images = index.manifests.iter().filter(|entry| !entry.is_attestation());
                for image in images.take(MOST_IMAGES) {
                    let Some(platform) = &image.platform else { continue };
                    let inline = inline(index, &image.digest);
                    all.insert(platform.to_string(), asked.of(&image.digest, &inline)?);
                }
            }
        }
        Ok(all)
    }
}

/// The entries of an index that attest another one.
fn inline(index: &Index, digest: &Digest) -> Vec<Digest> {
    let digest = digest.to_string();
    let is_about = |entry: &&Descriptor| {
        entry.is_attestation() && entry.annotations.get(REFERENCE_DIGEST) == Some(&digest)
    };
    index.manifests.iter().filter(is_about).map(|entry| entry.digest).collect()
}

impl Asked<'_> {
    fn of(&self, subject: &Digest, inline: &[Digest]) -> Result<Vec<RemoteStatement>, RemoteError> {
        if !inline.is_empty() {
            return self.statements(inline.to_vec(), None);
        }
        let listed = self.read(self.session.referrers(subject))?;
        self.statements(listed.iter().map(|it| it.digest).collect(), Some(subject))
    }

    /// Reads the statements of manifests; with a `subject`, of those that refer to it themselves.
    fn statements(
        &self,
        manifests: Vec<Digest>,
        subject: Option<&Digest>,
    ) -> Result<Vec<RemoteStatement>, RemoteError> {
        let mut all = Vec::new();
        for digest in manifests.into_iter().take(MOST_MANIFESTS) {
            let fetched = self.read(self.session.manifest(&Target::Digest(digest)))?;
            let Document::Manifest(manifest) = fetched.document else { continue };
            let manifest: Manifest = manifest.into_value();
            let own = manifest.subject.as_ref().map(|it| it.digest);
            if !is_attestation(&manifest) || subject.is_some_and(|it| own != Some(*it)) {
                continue;
            }
            for layer in manifest.layers.iter().filter(|it| it.media_type.as_str() == STATEMENT) {
                let Some(predicate_type) = layer.annotations.get(PREDICATE_TYPE) else { continue };
                let bytes = self.read(self.session.blob_within(layer, STATEMENT_BYTES))?;
                let Ok(mut value) = serde_json::from_slice::<Value>(&bytes) else { continue };
                let predicate = value.get_mut("predicate").map(Value::take).unwrap_or_default();
                let predicate_type = predicate_type.clone();
                all.push(RemoteStatement { predicate_type, predicate });
            }
        }
        Ok(all)
    }

    fn read<T>(
        &self,
        future: impl Future<Output = Result<T, davit_distribution::Error>>,
    ) -> Result<T, RemoteError> {
        let reference = || self.reference.clone();
        self.remotes
            .registries
            .wait(future)
            .map_err(|source| RemoteError::Read { reference: reference(), source })
    }
}
