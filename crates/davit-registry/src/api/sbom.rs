//! The packages of an image, as an SBOM says that refers to it: SPDX or CycloneDX, plain or as an in-toto
//! statement, as a referrer or as an attestation of the index (BuildKit).

use davit_image::{Descriptor, Digest, Document, Manifest};
use serde::Deserialize;

use super::{
    Problem, Site,
    images::{document, find as find_manifest, small},
    schema::reply,
};
use crate::{db::values, lists, manifests::Target, name::RepositoryName};

/// Bytes of an SBOM that is read.
const SBOM_BYTES: u64 = 16 << 20;
/// Packages that are told.
const MOST: usize = 2000;
/// Parents whose attestations are looked at.
const PARENTS: u64 = 8;

reply! {
    /// Packages of an image.
    Sbom {
        /// `SPDX` or `CycloneDX`.
        format: String,
        /// Digest of the blob that says so.
        digest: String,
        /// How many packages there are.
        total: u64,
        /// The first of them, by name.
        packages: Vec<Package>,
    }
}

reply! {
    /// A package.
    Package {
        /// Its name.
        name: String,
    } maybe {
        /// Its version.
        version: String,
    }
}

/// What is read of either format; a statement holds a document.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Contents {
    packages: Vec<Part>,
    components: Vec<Part>,
    predicate: Option<Box<Self>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Part {
    name: String,
    version: Option<String>,
    #[serde(rename = "versionInfo")]
    version_info: Option<String>,
}

/// Finds an image's SBOM.
pub(crate) async fn find(
    site: &Site,
    name: &RepositoryName,
    image: &Digest,
) -> Result<Option<Sbom>, Problem> {
    for digest in candidates(site, name, image).await? {
        let Ok(stored) = find_manifest(site, name, &Target::Digest(digest)).await else {
            continue;
        };
        let Document::Manifest(raw) = document(&stored)? else { continue };
        let manifest: Manifest = raw.into_value();
        for layer in manifest.layers.iter().filter(|layer| is_sbom(layer)) {
            let Some(bytes) = small(site, name, &layer.digest, SBOM_BYTES).await? else { continue };
            if let Some(sbom) = read(&bytes, &layer.digest) {
                return Ok(Some(sbom));
            }
        }
    }
    Ok(None)
}

/// Manifests that may hold one: referrers, and attestations beside the image in its indexes.
async fn candidates(
    site: &Site,
    name: &RepositoryName,
    image: &Digest,
) -> Result<Vec<Digest>, Problem> {
    const INDEXES: &str = "SELECT p.digest FROM manifest m JOIN repo r ON r.id = m.repo_id \
         JOIN manifest_child c ON c.child_id = m.id JOIN manifest p ON p.id = c.parent_id \
         WHERE r.path = $1 AND m.digest = $2 ORDER BY p.id DESC LIMIT $3";
    let page = lists::referrers(&site.registry, name, image, ("", None)).await?;
    let mut found: Vec<Digest> = page.entries.iter().map(|entry| entry.digest).collect();
    let mut reader = site.registry.database.reader().await?;
    let rows = reader.rows(INDEXES, values![name.as_str(), image, PARENTS]).await?;
    drop(reader);
    for row in rows {
        let stored = find_manifest(site, name, &Target::Digest(row.get(0)?)).await?;
        let Document::Index(raw) = document(&stored)? else { continue };
        let attests = |entry: &&Descriptor| {
            let of = entry.annotations.get("vnd.docker.reference.digest");
            of.is_some_and(|of| *of == image.to_string())
        };
        found.extend(raw.into_value().manifests.iter().filter(attests).map(|entry| entry.digest));
    }
    Ok(found)
}

fn is_sbom(layer: &Descriptor) -> bool {
    let kind = layer.media_type.as_str();
    let predicate = layer.annotations.get("in-toto.io/predicate-type").map_or("", String::as_str);
    ["spdx", "cyclonedx"].iter().any(|word| kind.contains(word) || predicate.contains(word))
}

fn read(bytes: &[u8], digest: &Digest) -> Option<Sbom> {
    // An array would do as the fields in order.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    let mut document: Contents = serde_json::from_slice(bytes).ok()?;
    if let Some(inner) = document.predicate.take() {
        document = *inner;
    }
    let (format, parts) = if document.components.is_empty() {
        ("SPDX", document.packages)
    } else {
        ("CycloneDX", document.components)
    };
    let total = parts.len() as u64;
    let mut packages: Vec<Package> = parts
        .into_iter()
        .map(|part| Package { name: part.name, version: part.version.or(part.version_info) })
        .collect();
    packages.sort_by(|one, other| (&one.name, &one.version).cmp(&(&other.name, &other.version)));
    packages.truncate(MOST);
    Some(Sbom { format: format.to_owned(), digest: digest.to_string(), total, packages })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_are_read() {
        let cases = [
            (
                r#"{"spdxVersion":"SPDX-2.3","packages":[{"name":"b","versionInfo":"2"},{"name":"a"}]}"#,
                "SPDX",
            ),
            (
                r#"{"bomFormat":"CycloneDX","components":[{"name":"a","version":"1"},{"name":"b"}]}"#,
                "CycloneDX",
            ),
            (r#"{"_type":"x","predicate":{"packages":[{"name":"a"},{"name":"b"}]}}"#, "SPDX"),
        ];
        for (text, format) in cases {
            let sbom = read(text.as_bytes(), &Digest::of(b"")).unwrap();
            let names: Vec<&str> = sbom.packages.iter().map(|package| &*package.name).collect();
            assert_eq!((sbom.format.as_str(), names), (format, vec!["a", "b"]), "{text}");
        }
        assert!(read(b"[]", &Digest::of(b"")).is_none());
    }
}
