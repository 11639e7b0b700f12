//! What a manifest's bytes say: parsed once, before anything is written.

use bytes::Bytes;
use davit_image::{Descriptor, Digest, Document, MediaType};

use crate::fault::Fault;

/// Descriptors of one manifest at most.
const MOST: usize = 1000;

/// A parsed manifest.
#[derive(Clone, Debug)]
pub struct Content {
    /// Its bytes.
    pub body: Bytes,
    /// Its type.
    pub media_type: MediaType,
    /// `artifactType`, or for images without one the config's type.
    pub artifact_type: Option<String>,
    /// The manifest that it refers to.
    pub subject: Option<Digest>,
    /// Config and layers, in order.
    pub blobs: Vec<Descriptor>,
    /// Whether the first blob is a config.
    pub has_config: bool,
    /// Manifests of an index, in order.
    pub children: Vec<Descriptor>,
}

impl Content {
    /// Parses what was pushed as this type.
    ///
    /// # Errors
    /// See [`davit_image::DocumentError`]; more than 1,000 descriptors are refused as well.
    pub fn parse(body: Bytes, declared: Option<&MediaType>) -> Result<Self, Fault> {
        let document = Document::parse(body.to_vec(), declared)?;
        let kind = document.media_type();
        let content = match document {
            Document::Manifest(raw) => {
                let manifest = raw.into_value();
                let config_type = manifest.config.media_type.as_str().to_owned();
                let mut blobs = vec![manifest.config];
                blobs.extend(manifest.layers);
                Self {
                    body,
                    media_type: declared.cloned().unwrap_or(kind),
                    artifact_type: manifest.artifact_type.and_then(non_empty).or(Some(config_type)),
                    subject: manifest.subject.map(|subject| subject.digest),
                    blobs,
                    has_config: true,
                    children: Vec::new(),
                }
            }
            Document::Index(raw) => {
                let index = raw.into_value();
                // BuildKit's caches are indexes of layers.
                let is_manifest = |entry: &Descriptor| {
                    entry.media_type.is_manifest() || entry.media_type.is_index()
                };
                let (children, blobs) = index.manifests.into_iter().partition(is_manifest);
                Self {
                    body,
                    media_type: declared.cloned().unwrap_or(kind),
                    artifact_type: index.artifact_type.and_then(non_empty),
                    subject: index.subject.map(|subject| subject.digest),
                    blobs,
                    has_config: false,
                    children,
                }
            }
        };
        if content.blobs.len() + content.children.len() > MOST {
            return Err(Fault::TooLarge(format!("a manifest may name {MOST} blobs or manifests")));
        }
        Ok(content)
    }
}

fn non_empty(text: impl ToString) -> Option<String> {
    Some(text.to_string()).filter(|text| !text.is_empty())
}
