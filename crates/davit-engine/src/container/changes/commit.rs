//! `commit`: a container becomes an image.

use davit_image::{
    Descriptor, HistoryEntry, ImageConfig, ImageId, Manifest, MediaType, Platform, Raw, Reference,
    Timestamp,
};
use davit_store::{ImageCommit, Lease, StoredDocument, TagUpdate, Target};

use super::{ChangesError, write_changes};
use crate::{
    Engine, change,
    container::{Container, Phase},
    layer,
};

/// Whether a running container is frozen while its files are copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pause {
    /// It is, so that the image holds one state.
    #[default]
    Yes,
    /// It goes on.
    No,
}

/// How to make an image of a container.
#[derive(Clone, Debug, Default)]
pub struct CommitRequest {
    /// Name of the image.
    pub reference: Option<Reference>,
    /// Who made it.
    pub author: Option<String>,
    /// A remark for its history.
    pub message: Option<String>,
    /// Dockerfile instructions for its config.
    pub changes: Vec<String>,
    /// Whether the container is frozen meanwhile.
    pub pause: Pause,
}

impl Engine {
    /// Makes an image of a container's image, its changes and its configuration. Volumes and what
    /// else is mounted are not part of it; without a change there is no new layer.
    ///
    /// # Errors
    /// See [`ChangesError`].
    pub fn commit_container(
        &self,
        name: &str,
        request: &CommitRequest,
    ) -> Result<ImageId, ChangesError> {
        let container = self.container(name)?;
        // A mistake in the changes costs nothing if it is found first.
        let mut config = self.base_config(&container)?;
        config.config = container.spec.config.clone();
        change::apply(&mut config.config, &request.changes)?;
        let lease = self.store().lease("commit")?;
        let layers = self.committed_layers(&container, request.pause, &lease)?;
        let now = Timestamp::now();
        let empty_layer = layers.len() == config.rootfs.diff_ids.len();
        config.created = Some(now);
        config.author.clone_from(&request.author);
        config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id).collect();
        config.history.push(HistoryEntry {
            created: Some(now),
            created_by: Some(container.spec.config.cmd.clone().unwrap_or_default().join(" ")),
            author: request.author.clone(),
            comment: request.message.clone(),
            empty_layer,
            ..HistoryEntry::default()
        });
        let id = self.commit_image(&lease, config, &layers, request.reference.as_ref())?;
        let attributes = [("name", container.name.clone()), ("imageID", id.to_string())];
        self.append_event("container", "commit", &container.id, &attributes);
        Ok(id)
    }

    fn base_config(&self, container: &Container) -> Result<ImageConfig, ChangesError> {
        match &container.image_id {
            Some(id) => Ok(self.open_image(&id.to_string())?.config),
            None => Ok(ImageConfig::new(&Platform::host())),
        }
    }

    /// The layers of the new image: those of the old one, and one of changes if there are any.
    fn committed_layers(
        &self,
        container: &Container,
        pause: Pause,
        lease: &Lease<'_>,
    ) -> Result<Vec<Layer>, ChangesError> {
        let image = self.layers_of(container, lease)?;
        let old = image.layers.iter();
        let mut layers: Vec<Layer> =
            old.map(|&(diff_id, size_bytes)| Layer { diff_id, size_bytes }).collect();
        let paused = if pause == Pause::Yes && container.status.phase == Phase::Running {
            Some(self.freeze_meanwhile(container)?)
        } else {
            None
        };
        let Some(changes) = self.changes_of(container, &image)? else { return Ok(layers) };
        let ingest = self.store().begin_layer(lease)?;
        let (table, _tar) = write_changes(container, &changes, &ingest)?;
        drop(paused);
        if table.is_empty() {
            return Ok(layers);
        }
        let facts = table.facts();
        layer::commit(ingest, &table)?;
        layers.push(Layer { diff_id: facts.diff_id, size_bytes: facts.tar_size });
        Ok(layers)
    }

    fn commit_image(
        &self,
        lease: &Lease<'_>,
        config: ImageConfig,
        layers: &[Layer],
        name: Option<&Reference>,
    ) -> Result<ImageId, ChangesError> {
        let config = Raw::write(config);
        let described = Descriptor::of(MediaType::OCI_CONFIG, config.bytes());
        let layer = |layer: &Layer| {
            Descriptor::new(MediaType::OCI_LAYER, layer.diff_id.digest(), layer.size_bytes)
        };
        let manifest = Raw::write(Manifest::new(described, layers.iter().map(layer).collect()));
        let id = ImageId::new(config.digest());
        let described = Descriptor::of(MediaType::OCI_MANIFEST, manifest.bytes());
        let target = Target::new(&described, Some(id));
        let documents = vec![
            StoredDocument::new(MediaType::OCI_CONFIG, config.bytes().to_vec()),
            StoredDocument::new(MediaType::OCI_MANIFEST, manifest.bytes().to_vec()),
        ];
        let mut commit = ImageCommit { documents, ..ImageCommit::default() };
        match name {
            Some(name) => commit.tags.push(TagUpdate { reference: name.clone(), target }),
            None => commit.untagged.push(target),
        }
        self.store().commit_images(lease, &commit)?;
        Ok(id)
    }
}

/// A layer of the new image.
#[derive(Clone, Copy, Debug)]
struct Layer {
    diff_id: davit_image::DiffId,
    size_bytes: u64,
}
