//! `import`: a root file system becomes an image of one layer.

use std::io::Read;

use davit_image::{
    Descriptor, HistoryEntry, ImageConfig, ImageId, Manifest, MediaType, Platform, Raw, Reference,
    Timestamp,
};
use davit_layer::{ReadOptions, decompressed, read_layer};
use davit_store::{ImageCommit, Lease, StoredDocument, TagUpdate, Target};

use super::FileError;
use crate::{Engine, Event, Progress, change};

/// How to import.
#[derive(Clone, Debug, Default)]
pub struct ImportRequest {
    /// What the archive is called in the image's history.
    pub source: String,
    /// Name of the image.
    pub reference: Option<Reference>,
    /// Dockerfile instructions for its config.
    pub changes: Vec<String>,
    /// A remark for its history.
    pub message: Option<String>,
    /// What it runs on; the host's where none is given.
    pub platform: Option<Platform>,
}

impl Engine {
    /// Makes an image of a tar stream, plain or compressed.
    ///
    /// # Errors
    /// See [`FileError`].
    pub fn import_image(
        &self,
        archive: &mut (dyn Read + Send),
        request: &ImportRequest,
        progress: &dyn Progress,
    ) -> Result<ImageId, FileError> {
        // A mistake in the changes costs nothing if it is found first.
        let mut config = new_config(request)?;
        let lease = self.store().lease("import")?;
        let layer = self.import_layer(&lease, archive, progress)?;
        config.rootfs.diff_ids = vec![layer.diff_id];
        self.prepare_layers(&config.rootfs.diff_ids)
            .map_err(|source| FileError::Unusable { name: request.source.clone(), source })?;
        let config = Raw::write(config);
        let descriptors =
            vec![Descriptor::new(MediaType::OCI_LAYER, layer.diff_id.digest(), layer.tar_size)];
        let described = Descriptor::of(MediaType::OCI_CONFIG, config.bytes());
        let manifest = Raw::write(Manifest::new(described, descriptors));
        let id = ImageId::new(config.digest());
        let target =
            Target::new(&Descriptor::of(MediaType::OCI_MANIFEST, manifest.bytes()), Some(id));
        let documents = vec![
            StoredDocument::new(MediaType::OCI_CONFIG, config.bytes().to_vec()),
            StoredDocument::new(MediaType::OCI_MANIFEST, manifest.bytes().to_vec()),
        ];
        let mut commit = ImageCommit { documents, ..ImageCommit::default() };
        match &request.reference {
            Some(name) => commit.tags.push(TagUpdate { reference: name.clone(), target }),
            None => commit.untagged.push(target),
        }
        self.store().commit_images(&lease, &commit)?;
        Ok(id)
    }

    fn import_layer(
        &self,
        lease: &Lease<'_>,
        archive: &mut (dyn Read + Send),
        progress: &dyn Progress,
    ) -> Result<davit_layer::LayerFacts, FileError> {
        let ingest = self.store().begin_layer(lease)?;
        let report = |now: davit_layer::Progress| {
            progress.report(Event::Position { item: "import", bytes: now.blob_bytes });
        };
        progress.report(Event::Phase { item: "import", phase: "Importing", total_bytes: None });
        // The archive becomes the layer as it is, so its names mean what they mean in any layer.
        let options = ReadOptions { progress: Some(&report), ..ReadOptions::default() };
        let mut tar = ingest.create_tar()?;
        let mut plain = decompressed(archive).map_err(FileError::Read)?;
        let read = read_layer(&mut plain, &mut tar, None, &options)
            .map_err(|source| FileError::layer("import", source))?;
        drop(tar);
        super::load::finish(ingest, None, &read)?;
        let facts = read.table.facts();
        progress.report(Event::Done { item: "import", status: "Imported" });
        Ok(facts)
    }
}

fn new_config(request: &ImportRequest) -> Result<ImageConfig, FileError> {
    let platform = request.platform.clone().unwrap_or_else(Platform::host);
    let mut config = ImageConfig::new(&platform);
    change::apply(&mut config.config, &request.changes)?;
    let now = Timestamp::now();
    config.created = Some(now);
    let source = &request.source;
    config.history = vec![HistoryEntry {
        created: Some(now),
        comment: Some(request.message.clone().unwrap_or_else(|| format!("Imported from {source}"))),
        ..HistoryEntry::default()
    }];
    Ok(config)
}
