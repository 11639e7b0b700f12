//! `image inspect` and `history`.

use davit_image::{HistoryEntry, ImageConfig, Platform, Reference, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{ImageError, OpenImage};
use crate::Engine;

/// An image in the words of Docker's `inspect`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageInspect {
    id: String,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    parent: String,
    comment: String,
    created: Option<Timestamp>,
    docker_version: String,
    author: String,
    config: Value,
    architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    variant: String,
    os: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    os_version: String,
    size: u64,
    virtual_size: u64,
    graph_driver: GraphDriver,
    #[serde(rename = "RootFS")]
    root_fs: RootFs,
    metadata: Metadata,
    descriptor: Value,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct GraphDriver {
    data: Map<String, Value>,
    name: &'static str,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    r#type: String,
    layers: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    last_tag_time: Timestamp,
}

/// One line of an image's history, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryLine {
    /// The image's id on the newest line, `<missing>` on the others.
    pub id: String,
    /// When the step was made.
    pub created: Option<Timestamp>,
    /// What made it.
    pub created_by: String,
    /// Size of its layer's tar in bytes; 0 without a layer.
    pub size: u64,
    /// What its builder remarked.
    pub comment: String,
    /// Names of the image, on the newest line.
    pub tags: Vec<String>,
}

impl Engine {
    /// Describes an image, of a platform if one is given, as Docker's `inspect` does.
    ///
    /// # Errors
    /// As [`Engine::open_image`]; [`ImageError::NoPlatform`].
    pub fn inspect_image(
        &self,
        name: &str,
        platform: Option<&Platform>,
    ) -> Result<ImageInspect, ImageError> {
        let image = self.open_image_for(name, platform)?;
        let config = &image.config;
        let raw = ImageConfig::fields(&image.config_bytes).map_err(|source| {
            ImageError::Document { name: name.to_owned(), source: source.into() }
        })?;
        let text = |key: &str| raw.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (target, _) = self.manifest(&image.find.target)?;
        let descriptor = serde_json::json!({
            "mediaType": target.media_type, "digest": target.digest, "size": target.size,
        });
        Ok(ImageInspect {
            id: image.row.id.to_string(),
            repo_tags: tags(&image),
            repo_digests: image.row.repo_digests.iter().map(Reference::familiar).collect(),
            parent: String::new(),
            comment: last_comment(&config.history),
            created: config.created,
            docker_version: text("docker_version"),
            author: config.author.clone().unwrap_or_default(),
            config: raw.get("config").filter(|c| c.is_object()).cloned().unwrap_or(empty()),
            architecture: config.architecture.clone(),
            variant: config.variant.clone().unwrap_or_default(),
            os: config.os.clone(),
            os_version: config.os_version.clone().unwrap_or_default(),
            size: image.row.size,
            virtual_size: image.row.size,
            graph_driver: GraphDriver { data: Map::new(), name: "davit" },
            root_fs: RootFs {
                r#type: "layers".to_owned(),
                layers: image.row.layers.iter().map(ToString::to_string).collect(),
            },
            metadata: Metadata { last_tag_time: image.row.stored },
            descriptor,
        })
    }

    /// Tells how an image, of a platform if one is given, was made, newest step first.
    ///
    /// # Errors
    /// As [`Engine::open_image`]; [`ImageError::NoPlatform`].
    pub fn image_history(
        &self,
        name: &str,
        platform: Option<&Platform>,
    ) -> Result<Vec<HistoryLine>, ImageError> {
        let image = self.open_image_for(name, platform)?;
        let mut layers = image.row.layers.iter();
        let mut lines = Vec::new();
        for entry in &image.config.history {
            let layer = if entry.empty_layer { None } else { layers.next() };
            let row = layer.map(|layer| self.store().layer(layer)).transpose()?.flatten();
            lines.push(history_line(entry, row.map_or(0, |row| row.tar_size)));
        }
        // An image may name more layers than its history tells of.
        for layer in layers {
            let row = self.store().layer(layer)?;
            lines.push(history_line(&HistoryEntry::default(), row.map_or(0, |row| row.tar_size)));
        }
        lines.reverse();
        if let Some(newest) = lines.first_mut() {
            newest.id = image.row.id.to_string();
            newest.tags = tags(&image);
        }
        Ok(lines)
    }
}

fn history_line(entry: &HistoryEntry, size: u64) -> HistoryLine {
    HistoryLine {
        id: "<missing>".to_owned(),
        created: entry.created,
        created_by: entry.created_by.clone().unwrap_or_default(),
        size,
        comment: entry.comment.clone().unwrap_or_default(),
        tags: Vec::new(),
    }
}

fn tags(image: &OpenImage) -> Vec<String> {
    let references = image.row.targets.iter().flat_map(|(_, references)| references);
    references.map(Reference::familiar).collect()
}

fn last_comment(history: &[HistoryEntry]) -> String {
    history.last().and_then(|entry| entry.comment.clone()).unwrap_or_default()
}

fn empty() -> Value {
    Value::Object(Map::new())
}
