//! Statements of in-toto and the manifests that hold them, in `BuildKit`'s form.
//!
//! | part | is |
//! |---|---|
//! | layer | one statement, `in-toto.io/predicate-type` in its annotations |
//! | config | `{}`; of the older form an image's, whose `DiffIDs` are the layers |
//! | subject | the image's manifest; of the older form none |

use std::collections::HashMap;

use davit_image::{Descriptor, Digest, Manifest, MediaType, Platform, Raw};
use davit_store::{Store, StoreError, StoredDocument};
use serde_json::{Map, Value, json};

use super::{FormedAttestation, layers};

/// Type of a statement.
pub(crate) const STATEMENT: &str = "application/vnd.in-toto+json";
/// Type of a manifest of statements.
pub(crate) const ARTIFACT: &str = "application/vnd.docker.attestation.manifest.v1+json";
/// By what a layer tells of which kind its statement is.
pub(crate) const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
/// By what an index's entry tells that it attests another one.
pub(crate) const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
pub(crate) const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
pub(crate) const ATTESTATION: &str = "attestation-manifest";
/// The format of statements.
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// Largest statement.
pub(crate) const STATEMENT_BYTES: u64 = 40 << 20;

/// What is said of some content.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Statement {
    /// Names and digests of the content.
    pub(crate) subjects: Vec<(String, Digest)>,
    pub(crate) predicate_type: String,
    pub(crate) predicate: Value,
}

/// The form of a manifest of statements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ManifestShape {
    /// An artifact with a subject.
    Artifact,
    /// What looks like an image for a platform.
    Image(Platform),
}

impl Statement {
    /// The statement as JSON.
    pub(crate) fn value(&self) -> Value {
        let subjects = self.subjects.iter().map(|(name, digest)| {
            let mut digests = Map::new();
            digests.insert(digest.algorithm().name().to_owned(), json!(digest.hex()));
            json!({"name": name, "digest": digests})
        });
        json!({
            "_type": STATEMENT_TYPE,
            "predicateType": self.predicate_type,
            "subject": subjects.collect::<Vec<_>>(),
            "predicate": self.predicate,
        })
    }

    fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.value()).expect("JSON values are JSON")
    }
}

/// Writes statements about a manifest.
pub(crate) fn manifest(
    statements: &[Statement],
    subject: &Descriptor,
    shape: &ManifestShape,
) -> FormedAttestation {
    let written = statements.iter().map(|it| (it.predicate_type.clone(), it.bytes())).collect();
    written_manifest(written, subject, shape)
}

fn written_manifest(
    statements: Vec<(String, Vec<u8>)>,
    subject: &Descriptor,
    shape: &ManifestShape,
) -> FormedAttestation {
    let (mut layers, mut documents) = (Vec::new(), Vec::new());
    for (predicate_type, bytes) in statements {
        let document = StoredDocument::new(MediaType::new(STATEMENT), bytes);
        let mut layer = Descriptor::of(document.media_type.clone(), &document.bytes);
        layer.annotations.insert(PREDICATE_TYPE.to_owned(), predicate_type);
        layers.push(layer);
        documents.push(document);
    }
    let (config, media_type) = match shape {
        ManifestShape::Artifact => (b"{}".to_vec(), MediaType::OCI_EMPTY),
        ManifestShape::Image(platform) => (legacy_config(platform, &layers), MediaType::OCI_CONFIG),
    };
    let statements = layers.clone();
    let mut manifest = Manifest::new(Descriptor::of(media_type.clone(), &config), layers);
    if *shape == ManifestShape::Artifact {
        manifest.artifact_type = Some(MediaType::new(ARTIFACT));
        let (media_type, digest) = (subject.media_type.clone(), subject.digest);
        manifest.subject = Some(Descriptor::new(media_type, digest, subject.size));
    }
    // The config of the older form is no image of anybody's.
    let media_type = match shape {
        ManifestShape::Artifact => media_type,
        ManifestShape::Image(_) => MediaType::new("application/json"),
    };
    documents.push(StoredDocument::new(media_type, config));
    let raw = Raw::write(manifest);
    let document = StoredDocument::new(MediaType::OCI_MANIFEST, raw.bytes().to_vec());
    let mut descriptor = Descriptor::of(MediaType::OCI_MANIFEST, &document.bytes);
    descriptor.artifact_type.clone_from(&raw.value().artifact_type);
    documents.push(document);
    FormedAttestation { subject: subject.digest, statements, documents, descriptor }
}

fn legacy_config(platform: &Platform, layers: &[Descriptor]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| layer.digest.to_string()).collect();
    let config = json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    serde_json::to_vec(&config).expect("JSON values are JSON")
}

/// What an entry of an index says of attestations of another one.
pub(crate) fn index_entry(made: &FormedAttestation) -> Descriptor {
    let mut entry = made.descriptor.clone();
    entry.artifact_type = None;
    entry.platform = Some(Platform::new("unknown", "unknown"));
    entry.annotations.insert(REFERENCE_DIGEST.to_owned(), made.subject.to_string());
    entry.annotations.insert(REFERENCE_TYPE.to_owned(), ATTESTATION.to_owned());
    entry
}

/// The statements of a manifest that is here; what is none of them is left out.
pub(crate) fn statements(store: &Store, manifest: &Manifest) -> Result<Vec<Statement>, StoreError> {
    let mut found = Vec::new();
    for layer in manifest.layers.iter().filter(|it| it.media_type.as_str() == STATEMENT) {
        let Ok(bytes) = store.read_blob(&layer.digest, STATEMENT_BYTES) else { continue };
        let Ok(value) = serde_json::from_slice::<Value>(&bytes) else { continue };
        let Some(predicate_type) = value["predicateType"].as_str() else { continue };
        let predicate_type = predicate_type.to_owned();
        let predicate = value["predicate"].clone();
        found.push(Statement { subjects: Vec::new(), predicate_type, predicate });
    }
    Ok(found)
}

/// The same statements about another manifest: the same image in the form in which a registry gets
/// it, with these layers in the place of others. `None` if the manifest holds something else.
pub(crate) fn about(
    store: &Store,
    manifest: &Manifest,
    (old, new): (&Digest, &Descriptor),
    sent: &HashMap<Digest, Descriptor>,
) -> Result<Option<FormedAttestation>, StoreError> {
    if !super::is_attestation(manifest) {
        return Ok(None);
    }
    let mut written = Vec::new();
    for layer in &manifest.layers {
        let bytes = store.read_blob(&layer.digest, STATEMENT_BYTES)?;
        let Ok(mut value) = serde_json::from_slice::<Value>(&bytes) else { return Ok(None) };
        let subjects = value.get_mut("subject").and_then(Value::as_array_mut);
        let place = format!("/digest/{}", old.algorithm().name());
        for subject in subjects.into_iter().flatten() {
            match subject.pointer_mut(&place) {
                Some(digest) if digest.as_str() == Some(&old.hex()) => {
                    *digest = json!(new.digest.hex());
                }
                _ => {}
            }
        }
        if let Some(predicate) = value.get_mut("predicate") {
            layers::rename(predicate, sent);
        }
        let predicate_type = value["predicateType"].as_str().unwrap_or_default().to_owned();
        written.push((predicate_type, serde_json::to_vec(&value).expect("JSON values are JSON")));
    }
    let shape = match &manifest.artifact_type {
        Some(_) => ManifestShape::Artifact,
        None => ManifestShape::Image(platform_of(store, &manifest.config.digest)?),
    };
    Ok(Some(written_manifest(written, new, &shape)))
}

fn platform_of(store: &Store, config: &Digest) -> Result<Platform, StoreError> {
    let bytes = store.read_blob(config, crate::origin::DOCUMENT_BYTES)?;
    let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let word = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    Ok(Platform::new(&word("os"), &word("architecture")))
}
