//! The small files of Docker's `save` format and of OCI layouts.

use davit_image::{Descriptor, Reference};
use serde::{Deserialize, Serialize};

use super::ArchiveError;

/// The only `imageLayoutVersion` (image-spec `image-layout.md` § oci-layout file).
pub const LAYOUT_VERSION: &str = "1.0.0";

/// Full name of an image in an index of an archive, by containerd and Docker.
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Name or tag of an image in an index of an archive (image-spec `annotations.md`).
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// One image of `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DockerImage {
    /// Path of the config.
    pub config: String,
    /// Names, in their familiar form.
    #[serde(default)]
    pub repo_tags: Option<Vec<String>>,
    /// Paths of the layers, bottom first.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub layers: Vec<String>,
}

fn null_as_empty<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// Content of `oci-layout`.
#[must_use]
pub fn layout_file() -> Vec<u8> {
    format!("{{\"imageLayoutVersion\":\"{LAYOUT_VERSION}\"}}").into_bytes()
}

/// Accepts the content of an `oci-layout`.
pub(super) fn check_layout_file(bytes: Option<&[u8]>) -> Result<(), ArchiveError> {
    let refused = |problem: &str| Err(ArchiveError::Layout(problem.to_owned()));
    let Some(bytes) = bytes else { return refused("it has no oci-layout") };
    let layout: LayoutFile = serde_json::from_slice(bytes)
        .map_err(|source| ArchiveError::Json { name: "oci-layout".to_owned(), source })?;
    if layout.image_layout_version == LAYOUT_VERSION {
        return Ok(());
    }
    let version: String = layout.image_layout_version.chars().take(64).collect();
    refused(&format!("its version is {version}"))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutFile {
    image_layout_version: String,
}

/// A descriptor as an archive's index has it: with the image's name, in the annotations that
/// containerd, Docker and skopeo read.
#[must_use]
pub fn named_descriptor(descriptor: &Descriptor, name: Option<&Reference>) -> Descriptor {
    let mut named = descriptor.clone();
    if let Some(reference) = name {
        let tag = reference.tag().map(ToString::to_string);
        named.annotations.insert(CONTAINERD_NAME.to_owned(), reference.to_string());
        named.annotations.extend(tag.map(|tag| (REF_NAME.to_owned(), tag)));
    }
    named
}

/// A name that an archive gives to an image.
pub(super) fn parse_name(name: &str) -> Result<Reference, ArchiveError> {
    name.parse().map_err(|source| ArchiveError::Name { name: name.to_owned(), source })
}

/// The name that an archive's index gives to an image. A bare tag is none: it lacks the repository;
/// nor is what breaks the grammar, since some tools write the place that an image came from.
#[must_use]
pub fn name_of(descriptor: &Descriptor) -> Option<Reference> {
    let annotations = &descriptor.annotations;
    if let Some(Ok(name)) = annotations.get(CONTAINERD_NAME).map(|name| name.parse()) {
        return Some(name);
    }
    let name = annotations.get(REF_NAME)?;
    if name.contains([':', '/']) { name.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use davit_image::MediaType;

    use super::*;

    #[test]
    fn names_survive_an_index() {
        let plain = Descriptor::of(MediaType::OCI_MANIFEST, b"x");
        let name = Reference::from_static("example.org/a/b:1");
        assert_eq!(name_of(&named_descriptor(&plain, Some(&name))), Some(name));
        assert_eq!(name_of(&named_descriptor(&plain, None)), None);
    }

    #[test]
    fn a_bare_tag_is_no_name() {
        let cases = [
            ("latest", None),
            ("busybox:1.38", Some("docker.io/library/busybox:1.38")),
            ("a/b", Some("docker.io/a/b:latest")),
            ("Not A Name:1", None),
        ];
        for (name, expected) in cases {
            let mut descriptor = Descriptor::of(MediaType::OCI_MANIFEST, b"x");
            descriptor.annotations.insert(REF_NAME.to_owned(), name.to_owned());
            let found = name_of(&descriptor).map(|name| name.to_string());
            assert_eq!(found.as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn reads_gos_nulls() {
        let image: DockerImage =
            serde_json::from_str(r#"{"Config":"c.json","RepoTags":null,"Layers":null}"#).unwrap();
        assert_eq!(image, DockerImage { config: "c.json".into(), repo_tags: None, layers: vec![] });
    }
}
