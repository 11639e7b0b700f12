//! Content descriptors (image-spec `descriptor.md`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Digest, MediaType, Platform, manifest::null_as_default};

/// Names some content by type, digest and size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Type of the content.
    pub media_type: MediaType,
    /// Digest of the content.
    pub digest: Digest,
    /// Size of the content in bytes; a negative or fractional number is refused.
    pub size: u64,
    /// Where else the content can be fetched.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free-form facts about the content.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// The content itself in base64, unverified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// What the content runs on, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Type of the artifact that a manifest describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<MediaType>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Descriptor {
    /// Describes content with nothing but the three required fields.
    #[must_use]
    pub fn new(media_type: MediaType, digest: Digest, size_bytes: u64) -> Self {
        Self {
            media_type,
            digest,
            size: size_bytes,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: None,
            platform: None,
            artifact_type: None,
            extra: Map::new(),
        }
    }

    /// Describes `content` by its SHA-256 digest.
    #[must_use]
    pub fn of(media_type: MediaType, content: &[u8]) -> Self {
        Self::new(media_type, Digest::of(content), content.len() as u64)
    }

    /// Tells content that its `urls` serve and that is not to be passed on.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.media_type.is_nondistributable() && !self.urls.is_empty()
    }

    /// Tells an attestation entry of an index: BuildKit's `unknown/unknown` manifests.
    #[must_use]
    pub fn is_attestation(&self) -> bool {
        self.annotations.contains_key("vnd.docker.reference.type")
            || self
                .platform
                .as_ref()
                .is_some_and(|p| p.os == "unknown" && p.architecture == "unknown")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::strategies::{check_json, check_refused, descriptor};

    #[test]
    fn reads_nulls_of_go_as_nothing() {
        let bare = Descriptor::of(MediaType::OCI_LAYER, b"");
        let nulls =
            r#""urls":null,"annotations":null,"data":null,"platform":null,"artifactType":null"#;
        let [media_type, digest] = [bare.media_type.as_str(), &bare.digest.to_string()];
        let json =
            format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":0,{nulls}}}"#);
        assert_eq!(serde_json::from_str::<Descriptor>(&json).unwrap(), bare);
        let written = serde_json::to_string(&bare).unwrap();
        assert_eq!(written, json.replace(&format!(",{nulls}"), ""));
    }

    #[test]
    fn refuses_what_names_no_content() {
        check_refused::<Descriptor>(&[
            "null",
            "[]",
            "{}",
            r#""DIGEST""#,
            r#"["a/b","DIGEST",2]"#,
            r#"{"digest":"DIGEST","size":2}"#,
            r#"{"mediaType":"a/b","size":2}"#,
            r#"{"mediaType":"a/b","digest":"DIGEST"}"#,
            r#"{"MediaType":"a/b","Digest":"DIGEST","Size":2}"#,
        ]);
    }

    #[test]
    fn refuses_fields_of_other_types() {
        let good = r#"{"mediaType":"a/b","digest":"DIGEST","size":2}"#;
        let sizes = ["-1", "1.5", "2.0", "1e3", "18446744073709551616", "\"2\"", "null", "[]"];
        for size in sizes {
            check_refused::<Descriptor>(&[&good.replace(":2", &format!(":{size}"))]);
        }
        for media_type in ["null", "1", "[]", "{}", r#"["a/b"]"#] {
            check_refused::<Descriptor>(&[&good.replace(r#""a/b""#, media_type)]);
        }
        let digests =
            [r#""""#, r#""sha256:""#, r#""sha256:e3b0""#, r#""md5:e3b0""#, r#""DIGEST0""#];
        for digest in digests.into_iter().chain(["null", "1", "[]", r#"{"hex":"e3b0"}"#]) {
            check_refused::<Descriptor>(&[&good.replace(r#""DIGEST""#, digest)]);
        }
        for more in [
            r#""urls":"https://a""#,
            r#""urls":{}"#,
            r#""urls":[1]"#,
            r#""urls":[null]"#,
            r#""annotations":"a""#,
            r#""annotations":[]"#,
            r#""annotations":{"a":1}"#,
            r#""annotations":{"a":null}"#,
            r#""annotations":{"a":["b"]}"#,
            r#""data":1"#,
            r#""data":[123,125]"#,
            r#""platform":"linux/amd64""#,
            r#""platform":[]"#,
            r#""platform":{}"#,
            r#""platform":{"os":"linux"}"#,
            r#""platform":{"os":null,"architecture":"amd64"}"#,
            r#""artifactType":1"#,
            r#""size":2"#,
            r#""digest":"DIGEST""#,
        ] {
            check_refused::<Descriptor>(&[&good.replace(":2", &format!(":2,{more}"))]);
        }
    }

    proptest! {
        #[test]
        fn round_trips(descriptor in descriptor()) {
            check_json(&descriptor);
        }
    }
}
