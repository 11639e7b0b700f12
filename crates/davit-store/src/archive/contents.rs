//! What an archive turned out to hold, and the images that it makes.

use std::collections::{BTreeMap, BTreeSet};

use davit_image::{
    Compression, Descriptor, DiffId, Digest, Document, ImageConfig, ImageId, Index, Manifest,
    MediaType, Platform, Raw, Reference,
};

use super::{
    ArchiveError, DockerImage,
    docker::{check_layout_file, name_of, parse_name},
};
use crate::{LayerBlob, StoredDocument, Target};

/// Larger files are no documents.
pub const MAX_DOCUMENT_BYTES: u64 = 8 << 20;
/// Most bytes of small files that one archive may hold.
const MAX_DOCUMENTS_BYTES: u64 = 64 << 20;
/// An index may name indexes, but not for ever.
const MAX_DEPTH: u32 = 4;

/// A layer of an archive, ingested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveLayer {
    /// Digest of the member as it came.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// How it was compressed.
    pub compression: Compression,
    /// Digest of the tar in it.
    pub diff_id: DiffId,
    /// Size of that tar in bytes.
    pub tar_size: u64,
}

/// What has been read of an archive so far.
#[derive(Clone, Debug, Default)]
pub struct ArchiveContents {
    documents: BTreeMap<String, Vec<u8>>,
    document_bytes: u64,
    layers: BTreeMap<String, ArchiveLayer>,
    links: BTreeMap<String, String>,
}

/// An image of an archive, verified against its layers.
#[derive(Clone, Debug)]
pub struct ArchiveImage {
    /// Manifests, indexes and configs to store.
    pub documents: Vec<StoredDocument>,
    /// What its names are to name.
    pub target: Target,
    /// Its names.
    pub references: Vec<Reference>,
    /// Layers whose compressed blobs the manifest names.
    pub layer_blobs: Vec<LayerBlob>,
}

impl ArchiveContents {
    /// Keeps a small file.
    ///
    /// # Errors
    /// [`ArchiveError::TooLarge`] when all of them together pass 64 MiB.
    pub fn add_document(&mut self, path: &str, bytes: Vec<u8>) -> Result<(), ArchiveError> {
        self.document_bytes += bytes.len() as u64;
        if self.document_bytes > MAX_DOCUMENTS_BYTES {
            let what = "bytes of small files";
            return Err(ArchiveError::TooLarge { what, limit: MAX_DOCUMENTS_BYTES });
        }
        // A later member replaces an earlier one of the same name, as tar has it.
        self.layers.remove(path);
        self.documents.insert(path.to_owned(), bytes);
        Ok(())
    }

    /// Remembers an ingested layer.
    pub fn add_layer(&mut self, path: &str, layer: ArchiveLayer) {
        self.documents.remove(path);
        self.layers.insert(path.to_owned(), layer);
    }

    /// Remembers another name of a member.
    pub fn add_link(&mut self, path: &str, target: &str) {
        self.links.insert(path.to_owned(), target.to_owned());
    }

    /// A small file that was kept.
    #[must_use]
    pub fn document(&self, path: &str) -> Option<&[u8]> {
        self.documents.get(self.follow(path)).map(Vec::as_slice)
    }

    /// The images, in the archive's order; `wanted` chooses among an index's platforms.
    ///
    /// # Errors
    /// See [`ArchiveError`]: whatever an archive names must be in it and be what it is said to be.
    pub fn images(&self, wanted: &Platform) -> Result<Vec<ArchiveImage>, ArchiveError> {
        let mut images = Vec::new();
        if let Some(bytes) = self.document("index.json") {
            check_layout_file(self.document("oci-layout"))?;
            let index: Index = json("index.json", bytes)?;
            for descriptor in &index.manifests {
                let image = self.image_of_descriptor(descriptor, wanted)?;
                merge(&mut images, image);
            }
        }
        if let Some(bytes) = self.document("manifest.json") {
            let entries: Vec<DockerImage> = json("manifest.json", bytes)?;
            let names = images.iter().flat_map(|image: &ArchiveImage| &image.references);
            let indexed: BTreeSet<String> = names.map(ToString::to_string).collect();
            for entry in &entries {
                self.add_docker_image(entry, &indexed, &mut images)?;
            }
        }
        if images.is_empty() { Err(ArchiveError::NoImages) } else { Ok(images) }
    }

    fn image_of_descriptor(
        &self,
        descriptor: &Descriptor,
        wanted: &Platform,
    ) -> Result<ArchiveImage, ArchiveError> {
        let references = name_of(descriptor).into_iter().collect();
        let mut walk = Walk {
            contents: self,
            seen: BTreeSet::new(),
            documents: Vec::new(),
            layer_blobs: Vec::new(),
        };
        let image_id = walk.visit(descriptor, wanted, MAX_DEPTH)?;
        Ok(ArchiveImage {
            documents: walk.documents,
            target: Target::new(descriptor, image_id),
            references,
            layer_blobs: walk.layer_blobs,
        })
    }

    /// Adds names to an image that the index has, or makes a manifest for one that it lacks. What
    /// the index says of a name counts: here it leads to the saver's platform alone.
    fn add_docker_image(
        &self,
        entry: &DockerImage,
        indexed: &BTreeSet<String>,
        images: &mut Vec<ArchiveImage>,
    ) -> Result<(), ArchiveError> {
        let bytes = self
            .document(&entry.config)
            .ok_or_else(|| ArchiveError::Missing(entry.config.clone()))?;
        let id = ImageId::new(Digest::of(bytes));
        // What had no name was written so by old versions of Docker.
        let names = entry.repo_tags.iter().flatten().filter(|name| *name != "<none>:<none>");
        let names: Vec<Reference> = names.map(|name| parse_name(name)).collect::<Result<_, _>>()?;
        let (told, references): (Vec<Reference>, Vec<_>) =
            names.into_iter().partition(|name: &Reference| indexed.contains(&name.to_string()));
        if references.is_empty() && !told.is_empty() {
            return Ok(());
        }
        if let Some(known) = images.iter_mut().find(|image| image.target.image_id == Some(id)) {
            add_names(&mut known.references, references);
            return Ok(());
        }
        let mut image = self.image_of_config(entry, bytes, id)?;
        add_names(&mut image.references, references);
        merge(images, image);
        Ok(())
    }

    fn image_of_config(
        &self,
        entry: &DockerImage,
        bytes: &[u8],
        id: ImageId,
    ) -> Result<ArchiveImage, ArchiveError> {
        let config: ImageConfig = json(&entry.config, bytes)?;
        let diff_ids = &config.rootfs.diff_ids;
        check_count(&entry.config, entry.layers.len(), diff_ids.len())?;
        let mut layers = Vec::new();
        for (path, expected) in entry.layers.iter().zip(diff_ids) {
            let layer = self.layer(path).ok_or_else(|| ArchiveError::Missing(path.clone()))?;
            check_diff_id(path, *expected, layer.diff_id)?;
            // The plain tar is what the store surely has.
            layers.push(Descriptor::new(
                MediaType::OCI_LAYER,
                layer.diff_id.digest(),
                layer.tar_size,
            ));
        }
        let config = Descriptor::new(MediaType::OCI_CONFIG, id.digest(), bytes.len() as u64);
        let manifest = Raw::write(Manifest::new(config, layers));
        let descriptor = Descriptor::of(MediaType::OCI_MANIFEST, manifest.bytes());
        let documents = vec![
            StoredDocument::new(MediaType::OCI_CONFIG, bytes.to_vec()),
            StoredDocument::new(MediaType::OCI_MANIFEST, manifest.bytes().to_vec()),
        ];
        let target = Target::new(&descriptor, Some(id));
        Ok(ArchiveImage { documents, target, references: Vec::new(), layer_blobs: Vec::new() })
    }

    fn layer(&self, path: &str) -> Option<&ArchiveLayer> {
        self.layers.get(self.follow(path))
    }

    /// The member that a name leads to; a loop of links leads to nothing.
    fn follow<'a>(&'a self, path: &'a str) -> &'a str {
        let mut path = path.strip_prefix("./").unwrap_or(path);
        for _ in 0..8 {
            match self.links.get(path) {
                Some(target) => path = target,
                None => break,
            }
        }
        path
    }
}

/// A walk from one entry of `index.json` down to the layers.
struct Walk<'a> {
    contents: &'a ArchiveContents,
    seen: BTreeSet<Digest>,
    documents: Vec<StoredDocument>,
    layer_blobs: Vec<LayerBlob>,
}

impl Walk<'_> {
    /// Takes a manifest or index with all below it; yields the image of the wanted platform.
    fn visit(
        &mut self,
        descriptor: &Descriptor,
        wanted: &Platform,
        depth: u32,
    ) -> Result<Option<ImageId>, ArchiveError> {
        let name = blob_path(&descriptor.digest);
        let bytes = self.take(descriptor)?;
        let document = Document::parse(bytes, Some(&descriptor.media_type))
            .map_err(|source| ArchiveError::Document { name: name.clone(), source })?;
        match &document {
            Document::Manifest(raw) => self.visit_manifest(&name, raw.value()),
            Document::Index(raw) => self.visit_index(raw.value(), wanted, depth),
        }
    }

    fn visit_index(
        &mut self,
        index: &Index,
        wanted: &Platform,
        depth: u32,
    ) -> Result<Option<ImageId>, ArchiveError> {
        let Some(depth) = depth.checked_sub(1) else {
            let limit = u64::from(MAX_DEPTH);
            return Err(ArchiveError::TooLarge { what: "indexes within each other", limit });
        };
        let here =
            |entry: &&Descriptor| self.contents.document(&blob_path(&entry.digest)).is_some();
        // An archive of one platform keeps the whole index but not the other platforms' content.
        let present: Vec<Descriptor> = index.manifests.iter().filter(here).cloned().collect();
        let mut reduced = index.clone();
        reduced.manifests.clone_from(&present);
        let chosen = reduced.choose(wanted).or_else(|| {
            // Of an archive for other machines, the first image is the one that is meant.
            present.iter().find(|entry| !entry.is_attestation())
        });
        let mut image_id = None;
        for entry in &present {
            if self.seen.contains(&entry.digest) {
                continue;
            }
            let found = self.visit(entry, wanted, depth)?;
            if chosen.is_some_and(|chosen| chosen.digest == entry.digest) {
                image_id = found;
            }
        }
        match (image_id, chosen) {
            (None, None) => Err(ArchiveError::Missing("a manifest of an index".to_owned())),
            (image_id, _) => Ok(image_id),
        }
    }

    fn visit_manifest(
        &mut self,
        name: &str,
        manifest: &Manifest,
    ) -> Result<Option<ImageId>, ArchiveError> {
        let bytes = self.take(&manifest.config)?;
        if !manifest.is_image() {
            return self.visit_artifact(manifest).map(|()| None);
        }
        let config: ImageConfig = json(&blob_path(&manifest.config.digest), &bytes)?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            // Attestations carry an image config that does not describe their layers.
            if manifest.layers.iter().all(|layer| layer.media_type.layer_compression().is_none()) {
                return self.visit_artifact(manifest).map(|()| None);
            }
            check_count(name, manifest.layers.len(), diff_ids.len())?;
        }
        if manifest.layers.iter().any(|layer| layer.media_type.layer_compression().is_none()) {
            return self.visit_artifact(manifest).map(|()| None);
        }
        for (descriptor, expected) in manifest.layers.iter().zip(diff_ids) {
            let path = blob_path(&descriptor.digest);
            let layer =
                self.contents.layer(&path).ok_or_else(|| ArchiveError::Missing(path.clone()))?;
            check_blob(&path, descriptor, layer)?;
            check_diff_id(&path, *expected, layer.diff_id)?;
            if layer.compression != Compression::None {
                self.layer_blobs.push(LayerBlob {
                    digest: layer.digest,
                    diff_id: layer.diff_id,
                    size: layer.size,
                    media_type: descriptor.media_type.clone(),
                    encoding: String::new(),
                });
            }
        }
        Ok(Some(ImageId::new(manifest.config.digest)))
    }

    /// Content of another kind than layers: small files that are kept as they are.
    fn visit_artifact(&mut self, manifest: &Manifest) -> Result<(), ArchiveError> {
        for descriptor in &manifest.layers {
            if self.contents.document(&blob_path(&descriptor.digest)).is_some() {
                self.take(descriptor)?;
            }
        }
        Ok(())
    }

    /// Takes a small file by its digest, verified.
    fn take(&mut self, descriptor: &Descriptor) -> Result<Vec<u8>, ArchiveError> {
        let name = blob_path(&descriptor.digest);
        let bytes =
            self.contents.document(&name).ok_or_else(|| ArchiveError::Missing(name.clone()))?;
        let actual = Digest::of_with(descriptor.digest.algorithm(), bytes);
        if actual != descriptor.digest {
            return Err(ArchiveError::Digest { name, actual });
        }
        if self.seen.insert(descriptor.digest) {
            self.documents.push(StoredDocument {
                bytes: bytes.to_vec(),
                media_type: descriptor.media_type.clone(),
                digest: descriptor.digest,
            });
        }
        Ok(bytes.to_vec())
    }
}

/// Path of a blob in an OCI layout.
pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

fn check_blob(
    path: &str,
    descriptor: &Descriptor,
    layer: &ArchiveLayer,
) -> Result<(), ArchiveError> {
    if layer.digest == descriptor.digest {
        return Ok(());
    }
    Err(ArchiveError::Digest { name: path.to_owned(), actual: layer.digest })
}

fn check_count(name: &str, layers: usize, diff_ids: usize) -> Result<(), ArchiveError> {
    if layers == diff_ids {
        return Ok(());
    }
    Err(ArchiveError::LayerCount { name: name.to_owned(), layers, diff_ids })
}

fn check_diff_id(path: &str, expected: DiffId, actual: DiffId) -> Result<(), ArchiveError> {
    if expected == actual {
        return Ok(());
    }
    Err(ArchiveError::DiffId {
        name: path.to_owned(),
        expected: Box::new(expected),
        actual: Box::new(actual),
    })
}

/// Adds an image; one that is there gets the names.
fn merge(images: &mut Vec<ArchiveImage>, image: ArchiveImage) {
    match images.iter_mut().find(|known| known.target.digest == image.target.digest) {
        Some(known) => add_names(&mut known.references, image.references),
        None => images.push(image),
    }
}

fn add_names(names: &mut Vec<Reference>, more: Vec<Reference>) {
    for name in more {
        if !names.contains(&name) {
            names.push(name);
        }
    }
}

fn json<T: serde::de::DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, ArchiveError> {
    serde_json::from_slice(bytes)
        .map_err(|source| ArchiveError::Json { name: name.to_owned(), source })
}
