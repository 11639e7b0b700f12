//! Image manifests and indexes of OCI and Docker (image-spec `manifest.md`, `image-index.md`).

use std::{cmp::Reverse, collections::BTreeMap};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::{Descriptor, MediaType, Platform, Raw};

/// Reads Go's `null` for a nil slice or map as the empty one.
pub(crate) fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// One image for one platform, or an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Its own type; absent in some OCI manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// Type of the artifact, where this is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<MediaType>,
    /// The image config.
    pub config: Descriptor,
    /// The layers, bottom first.
    #[serde(default, deserialize_with = "null_as_default")]
    pub layers: Vec<Descriptor>,
    /// The manifest that this one refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free-form facts.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Manifest {
    /// Starts an OCI image manifest.
    #[must_use]
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(MediaType::OCI_MANIFEST),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
            extra: Map::new(),
        }
    }

    /// Tells an image from another artifact by its config's type.
    #[must_use]
    pub fn is_image(&self) -> bool {
        self.config.media_type.is_config()
    }
}

/// Several manifests, usually one per platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Its own type; absent in some OCI indexes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// Type of the artifact, where this is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<MediaType>,
    /// The entries, in order of preference.
    #[serde(default, deserialize_with = "null_as_default")]
    pub manifests: Vec<Descriptor>,
    /// The manifest that this one refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free-form facts.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Index {
    /// Starts an OCI index.
    #[must_use]
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(MediaType::OCI_INDEX),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
            extra: Map::new(),
        }
    }

    /// Chooses the entry that runs best on `wanted`, the first of [`Self::ranked`].
    #[must_use]
    pub fn choose(&self, wanted: &Platform) -> Option<&Descriptor> {
        self.ranked(wanted).into_iter().next()
    }

    /// The entries that run on `wanted`, best first: the highest variant that it can run, equals
    /// in the order of the index. Entries without a platform fit any; attestations never do.
    #[must_use]
    pub fn ranked(&self, wanted: &Platform) -> Vec<&Descriptor> {
        let rank = |entry: &Descriptor| {
            entry.platform.as_ref().map_or(Some(0), |platform| wanted.rank(platform))
        };
        let images = self.manifests.iter().filter(|entry| !entry.is_attestation());
        let mut fitting: Vec<_> =
            images.filter_map(|entry| Some((Reverse(rank(entry)?), entry))).collect();
        fitting.sort_by_key(|(rank, _)| *rank);
        fitting.into_iter().map(|(_, entry)| entry).collect()
    }
}

/// What a reference names: a manifest or an index, with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "one is held at a time, and boxes hinder matching")]
pub enum Document {
    /// One image.
    Manifest(Raw<Manifest>),
    /// Several images.
    Index(Raw<Index>),
}

/// Why bytes are no manifest or index.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON, or a field has the wrong type.
    #[error("manifest is malformed")]
    Json(#[from] serde_json::Error),
    /// Docker's schema 1 was replaced in 2016.
    #[error(
        "manifest is Docker schema 1, which has no verifiable config; push the image again with a current tool"
    )]
    Schema1,
    /// `schemaVersion` is not 2.
    #[error("manifest has schemaVersion {0}, expected 2")]
    SchemaVersion(u64),
    /// Fields of both kinds: a confusion attack (CVE-2021-41190).
    #[error("manifest has fields of both an image and an index")]
    Ambiguous,
    /// Neither kind of fields.
    #[error("document is neither a manifest nor an index")]
    Neither,
    /// The document's own type differs from the declared one.
    #[error("document says it is `{actual}`, but was served as `{declared}`")]
    MediaType {
        /// Type by Content-Type or descriptor.
        declared: MediaType,
        /// Type in the document.
        actual: MediaType,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    schema_version: u64,
    media_type: Option<MediaType>,
    manifests: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Parses a received document; `declared` is the type that its descriptor or HTTP header names.
    ///
    /// # Errors
    /// See [`DocumentError`]; a document that could be read as both kinds is refused.
    pub fn parse(bytes: Vec<u8>, declared: Option<&MediaType>) -> Result<Self, DocumentError> {
        let probe: Probe = serde_json::from_slice(&bytes)?;
        probe.check(declared)?;
        if probe.manifests.is_some() {
            Ok(Self::Index(Raw::from_bytes(bytes)?))
        } else {
            Ok(Self::Manifest(Raw::from_bytes(bytes)?))
        }
    }

    /// The document's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Manifest(raw) => raw.bytes(),
            Self::Index(raw) => raw.bytes(),
        }
    }

    /// Its media type: what it says itself, else OCI's for its kind.
    #[must_use]
    pub fn media_type(&self) -> MediaType {
        match self {
            Self::Manifest(raw) => {
                raw.value().media_type.clone().unwrap_or(MediaType::OCI_MANIFEST)
            }
            Self::Index(raw) => raw.value().media_type.clone().unwrap_or(MediaType::OCI_INDEX),
        }
    }

    /// Describes the document.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        let (digest, size) = match self {
            Self::Manifest(raw) => (raw.digest(), raw.size_bytes()),
            Self::Index(raw) => (raw.digest(), raw.size_bytes()),
        };
        Descriptor::new(self.media_type(), digest, size)
    }
}

impl Probe {
    fn check(&self, declared: Option<&MediaType>) -> Result<(), DocumentError> {
        if self.schema_version == 1
            || self.fs_layers.is_some()
            || self.media_type.as_ref().is_some_and(MediaType::is_schema1)
        {
            return Err(DocumentError::Schema1);
        }
        if self.schema_version != 2 {
            return Err(DocumentError::SchemaVersion(self.schema_version));
        }
        let as_manifest = self.config.is_some() || self.layers.is_some();
        let as_index = self.manifests.is_some();
        if as_manifest && as_index {
            return Err(DocumentError::Ambiguous);
        }
        let Some(actual) = self.media_type.as_ref().or(declared) else {
            return if as_manifest || as_index { Ok(()) } else { Err(DocumentError::Neither) };
        };
        if let Some(declared) = declared
            && declared != actual
            && (declared.is_manifest() || declared.is_index())
        {
            let (declared, actual) = (declared.clone(), actual.clone());
            return Err(DocumentError::MediaType { declared, actual });
        }
        if actual.is_index() && as_manifest || actual.is_manifest() && as_index {
            return Err(DocumentError::Ambiguous);
        }
        if as_manifest || as_index { Ok(()) } else { Err(DocumentError::Neither) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Digest,
        strategies::{check_json, check_refused, index, manifest},
    };

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(json: &str, declared: Option<MediaType>) -> Result<Document, DocumentError> {
        Document::parse(json.replace("DIGEST", DIGEST).into_bytes(), declared.as_ref())
    }

    const CONFIG: &str = r#""config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"DIGEST","size":2}"#;

    #[test]
    fn reads_both_kinds() {
        let manifest = parse(&format!(r#"{{"schemaVersion":2,{CONFIG},"layers":null}}"#), None);
        let Document::Manifest(manifest) = manifest.unwrap() else { panic!("a manifest") };
        assert!(manifest.value().layers.is_empty() && manifest.value().is_image());
        let index = parse(r#"{"schemaVersion":2,"manifests":[]}"#, Some(MediaType::OCI_INDEX));
        assert_eq!(index.unwrap().media_type(), MediaType::OCI_INDEX);
    }

    #[test]
    fn refuses_what_could_be_misread() {
        type Check = fn(&DocumentError) -> bool;
        let both = format!(r#"{{"schemaVersion":2,{CONFIG},"layers":[],"manifests":[]}}"#);
        let image = format!(r#"{{"schemaVersion":2,{CONFIG},"layers":[]}}"#);
        let typed = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json",{CONFIG},"layers":[]}}"#
        );
        let cases: [(&str, Option<MediaType>, Check); 9] = [
            ("", None, |e| matches!(e, DocumentError::Json(_))),
            ("[]", None, |e| matches!(e, DocumentError::Json(_))),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, None, |e| matches!(e, DocumentError::Schema1)),
            (r#"{"schemaVersion":3}"#, None, |e| matches!(e, DocumentError::SchemaVersion(3))),
            (&both, None, |e| matches!(e, DocumentError::Ambiguous)),
            (&image, Some(MediaType::OCI_INDEX), |e| matches!(e, DocumentError::Ambiguous)),
            (&typed, None, |e| matches!(e, DocumentError::Ambiguous)),
            (&typed, Some(MediaType::OCI_MANIFEST), |e| {
                matches!(e, DocumentError::MediaType { .. })
            }),
            (r#"{"schemaVersion":2}"#, None, |e| matches!(e, DocumentError::Neither)),
        ];
        for (json, declared, check) in cases {
            let error = parse(json, declared).expect_err(json);
            assert!(check(&error), "{json}: {error}");
        }
    }

    #[test]
    fn unknown_fields_survive() {
        let json = format!(r#"{{"schemaVersion":2,{CONFIG},"layers":[],"x-new":{{"a":[1]}}}}"#);
        let Document::Manifest(raw) = parse(&json, None).unwrap() else { panic!("a manifest") };
        let again = Raw::write(raw.value().clone());
        let value: Value = serde_json::from_slice(again.bytes()).unwrap();
        assert_eq!(value["x-new"]["a"][0], 1);
    }

    #[test]
    fn refuses_fields_of_other_types() {
        let common = [
            r#""schemaVersion":"2""#,
            r#""schemaVersion":2.5"#,
            r#""schemaVersion":null"#,
            r#""schemaVersion":-2"#,
            r#""schemaVersion":2,"schemaVersion":2"#,
            r#""schemaVersion":2,"mediaType":1"#,
            r#""schemaVersion":2,"mediaType":[]"#,
            r#""schemaVersion":2,"artifactType":{}"#,
            r#""schemaVersion":2,"subject":"DIGEST""#,
            r#""schemaVersion":2,"subject":{"digest":"DIGEST"}"#,
            r#""schemaVersion":2,"annotations":[]"#,
            r#""schemaVersion":2,"annotations":{"a":1}"#,
            r#""schemaVersion":2,"annotations":{"a":null}"#,
        ];
        for fields in common {
            check_refused::<Manifest>(&[&format!(r#"{{{CONFIG},"layers":[],{fields}}}"#)]);
            check_refused::<Index>(&[&format!(r#"{{"manifests":[],{fields}}}"#)]);
            for own in [CONFIG, r#""manifests":[]"#] {
                let error = parse(&format!("{{{own},{fields}}}"), None).expect_err(fields);
                assert!(matches!(error, DocumentError::Json(_)), "{fields}: {error}");
            }
        }
        let documents = ["null", "[]", "{}", "2", r#""DIGEST""#, r#"{"layers":[],"manifests":[]}"#];
        check_refused::<Manifest>(&documents);
        check_refused::<Index>(&documents);
        for entries in ["{}", "[null]", "[{}]", r#"["DIGEST"]"#, "1"] {
            let manifest = format!(r#"{{"schemaVersion":2,{CONFIG},"layers":{entries}}}"#);
            let index = format!(r#"{{"schemaVersion":2,"manifests":{entries}}}"#);
            check_refused::<Manifest>(&[&manifest]);
            check_refused::<Index>(&[&index]);
            assert!(parse(&manifest, None).is_err() && parse(&index, None).is_err(), "{entries}");
        }
        for config in ["null", "{}", "[]", r#""DIGEST""#] {
            let json = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}}"#);
            check_refused::<Manifest>(&[&json]);
            assert!(parse(&json, None).is_err(), "{config}");
        }
        check_refused::<Manifest>(&[r#"{"schemaVersion":2,"layers":[]}"#]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn round_trips(manifest in manifest(), index in index()) {
            check_json(&manifest);
            check_json(&index);
        }

        #[test]
        fn documents_round_trip(mut manifest in manifest(), mut index in index()) {
            (manifest.schema_version, manifest.media_type) = (2, Some(MediaType::OCI_MANIFEST));
            (index.schema_version, index.media_type) = (2, None);
            let (manifest, index) = (Raw::write(manifest), Raw::write(index));
            let read = Document::parse(manifest.bytes().to_vec(), None).unwrap();
            prop_assert_eq!(read, Document::Manifest(manifest));
            let read = Document::parse(index.bytes().to_vec(), Some(&MediaType::OCI_INDEX)).unwrap();
            prop_assert_eq!(read, Document::Index(index));
        }
    }

    #[test]
    fn chooses_the_best_platform() {
        let entry = |platform: &str, content: &str| {
            let mut entry = Descriptor::of(MediaType::OCI_MANIFEST, content.as_bytes());
            entry.platform = Some(platform.parse().unwrap());
            entry
        };
        let mut attestation = entry("linux/amd64", "attestation");
        attestation.annotations.insert("vnd.docker.reference.type".into(), "x".into());
        let index = Index::new(vec![
            attestation,
            entry("linux/arm/v6", "v6"),
            entry("linux/arm/v7", "v7"),
            entry("linux/amd64", "amd64"),
            entry("linux/arm64", "arm64"),
        ]);
        let chosen =
            |platform: &str| index.choose(&platform.parse().unwrap()).map(|entry| entry.digest);
        assert_eq!(chosen("linux/amd64"), Some(Digest::of(b"amd64")));
        assert_eq!(chosen("linux/arm/v7"), Some(Digest::of(b"v7")));
        assert_eq!(chosen("linux/arm/v6"), Some(Digest::of(b"v6")));
        assert_eq!(chosen("linux/arm/v5"), None);
        assert_eq!(chosen("linux/arm64/v8"), Some(Digest::of(b"arm64")));
        assert_eq!(chosen("linux/s390x"), None);
        let ranked = index.ranked(&"linux/arm/v7".parse().unwrap());
        let digests: Vec<_> = ranked.iter().map(|entry| entry.digest).collect();
        assert_eq!(digests, [Digest::of(b"v7"), Digest::of(b"v6")]);
    }
}
