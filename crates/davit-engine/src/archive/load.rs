//! `load`: layers go into the store as they come; what names them is read in the end.

use std::{
    collections::HashSet,
    io::{BufReader, Read, Write},
    path::Path,
};

use davit_image::{
    Compression, Descriptor, DiffId, Digest, Document, ImageConfig, ImageId, Platform, Reference,
};
use davit_layer::{ReadLayer, ReadOptions, decompressed, read_layer};
use davit_store::{
    BlobIngest, Durability, ImageCommit, LayerIngest, Lease, StoredDocument, TagUpdate,
    archive::{
        ArchiveContents, ArchiveError, ArchiveImage, ArchiveLayer, LayoutDir, MAX_DOCUMENT_BYTES,
        Member, MemberKind, TarReader,
    },
};
use davit_sys::bulk::BulkFile;

use super::FileError;
use crate::{Engine, Event, Progress, layer};

/// What tells a layer from a document: enough for a tar header's magic.
const PEEK_BYTES: usize = 512;
const BUFFER_BYTES: usize = 256 * 1024;

/// How to load.
#[derive(Clone, Debug, Default)]
pub struct LoadRequest {
    /// The platform to choose of an index; the host's where none is given.
    pub platform: Option<Platform>,
}

/// An image that a load brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its names.
    pub references: Vec<Reference>,
    /// The image; `None` for another artifact.
    pub image_id: Option<ImageId>,
    /// Digest of its manifest or index.
    pub digest: Digest,
    /// Names that another image had before.
    pub replaced: Vec<(Reference, ImageId)>,
}

struct Load<'a> {
    engine: &'a Engine,
    lease: &'a Lease<'a>,
    progress: &'a dyn Progress,
    contents: ArchiveContents,
}

impl Engine {
    /// Loads all images of an archive stream: OCI layout or `docker save`, plain or
    /// compressed (gzip, zstd, bzip2, xz).
    ///
    /// # Errors
    /// See [`FileError`]; nothing has a name then.
    pub fn load_images(
        &self,
        archive: impl Read + Send,
        request: &LoadRequest,
        progress: &dyn Progress,
    ) -> Result<Vec<Loaded>, FileError> {
        self.load(progress, |load| {
            let plain = decompressed(archive).map_err(FileError::Read)?;
            load.members(TarReader::new(BufReader::with_capacity(BUFFER_BYTES, plain)))?;
            load.commit(request)
        })
    }

    /// Loads all images of an OCI layout directory.
    ///
    /// # Errors
    /// See [`FileError`]; nothing has a name then.
    pub fn load_layout(
        &self,
        path: &Path,
        request: &LoadRequest,
        progress: &dyn Progress,
    ) -> Result<Vec<Loaded>, FileError> {
        self.load(progress, |load| {
            load.layout(&LayoutDir::open(path)?)?;
            load.commit(request)
        })
    }

    fn load(
        &self,
        progress: &dyn Progress,
        work: impl FnOnce(&mut Load<'_>) -> Result<Vec<Loaded>, FileError>,
    ) -> Result<Vec<Loaded>, FileError> {
        let lease = self.store().lease("load")?;
        let contents = ArchiveContents::default();
        let loaded = work(&mut Load { engine: self, lease: &lease, progress, contents });
        drop(lease);
        if loaded.as_ref().is_err_and(FileError::is_no_space) {
            // Layers that came whole, but that nothing names, only fill the disk.
            self.free_unnamed();
        }
        loaded
    }
}

impl Load<'_> {
    fn members<R: Read>(&mut self, mut archive: TarReader<R>) -> Result<(), FileError> {
        while let Some(member) = archive.next_member()? {
            match &member.kind {
                MemberKind::File => self.file(&member, &mut archive)?,
                MemberKind::Link(target) => self.contents.add_link(&member.path, target),
                MemberKind::Directory | MemberKind::Other => {}
            }
        }
        Ok(())
    }

    fn layout(&mut self, layout: &LayoutDir) -> Result<(), FileError> {
        let layout_file = layout.check_version()?;
        self.contents.add_document("oci-layout", layout_file)?;
        if let Some(bytes) = layout.read_file("index.json", MAX_DOCUMENT_BYTES)? {
            self.contents.add_document("index.json", bytes)?;
        }
        let index: davit_image::Index = match self.contents.document("index.json") {
            Some(bytes) => serde_json::from_slice(bytes)
                .map_err(|source| ArchiveError::Json { name: "index.json".to_owned(), source })?,
            None => return Err(ArchiveError::Layout("it has no index.json".to_owned()).into()),
        };
        let mut queue = index.manifests;
        let mut seen = std::collections::BTreeSet::new();
        while let Some(descriptor) = queue.pop() {
            if seen.insert(descriptor.digest) {
                queue.extend(self.layout_blob(layout, &descriptor)?);
            }
        }
        Ok(())
    }

    /// Takes one blob of a layout; yields what it names. An absent one is judged in the end.
    fn layout_blob(
        &mut self,
        layout: &LayoutDir,
        descriptor: &Descriptor,
    ) -> Result<Vec<Descriptor>, FileError> {
        let Some(mut file) = layout.open_blob(&descriptor.digest)? else { return Ok(Vec::new()) };
        let size = file.metadata().map_err(FileError::Read)?.len();
        let path = format!("blobs/{}/{}", descriptor.digest.algorithm(), descriptor.digest.hex());
        let member = Member { path, kind: MemberKind::File, size };
        self.file(&member, &mut file)?;
        let media_type = &descriptor.media_type;
        if !media_type.is_manifest() && !media_type.is_index() {
            return Ok(Vec::new());
        }
        let bytes = self.contents.document(&member.path).unwrap_or_default().to_vec();
        // What is malformed is refused with its name in the end.
        Ok(match Document::parse(bytes, Some(media_type)) {
            Ok(Document::Index(raw)) => raw.into_value().manifests,
            Ok(Document::Manifest(raw)) => {
                let manifest = raw.into_value();
                std::iter::once(manifest.config).chain(manifest.layers).collect()
            }
            Err(_) => Vec::new(),
        })
    }

    fn file(&mut self, member: &Member, content: &mut dyn Read) -> Result<(), FileError> {
        if self.is_here(member)? {
            return Ok(());
        }
        let mut peek = Vec::with_capacity(PEEK_BYTES);
        content.take(PEEK_BYTES as u64).read_to_end(&mut peek).map_err(FileError::Read)?;
        if let Some(compression) = layer_compression(&peek) {
            let mut whole = peek.as_slice().chain(content);
            return self.layer(member, compression, &mut whole);
        }
        if member.size <= MAX_DOCUMENT_BYTES {
            content.read_to_end(&mut peek).map_err(FileError::Read)?;
            self.contents.add_document(&member.path, peek)?;
        }
        // Anything larger is neither a layer nor a document, and no image needs it.
        Ok(())
    }

    /// A layer that the store has, by the digest that is its name, need not be read: the store's
    /// own is verified.
    fn is_here(&mut self, member: &Member) -> Result<bool, FileError> {
        let Some(digest) = digest_of_path(&member.path) else { return Ok(false) };
        let store = self.engine.store();
        let known = match self.lease.hold_layer(&DiffId::new(digest))? {
            Some(row) if row.tar_size == member.size => ArchiveLayer {
                digest,
                size: row.tar_size,
                compression: Compression::None,
                diff_id: row.diff_id,
                tar_size: row.tar_size,
            },
            Some(_) => return Ok(false),
            None => {
                let Some(form) = store.layer_of_blob(&digest)? else { return Ok(false) };
                let Some(row) = self.lease.hold_layer(&form.diff_id)? else { return Ok(false) };
                if form.size != member.size
                    || (self.engine.keeps_blobs()
                        && store.hold_blob(self.lease, &digest)?.is_none())
                {
                    return Ok(false);
                }
                let compression = form.media_type.layer_compression();
                ArchiveLayer {
                    digest,
                    size: form.size,
                    compression: compression.unwrap_or(Compression::Gzip),
                    diff_id: row.diff_id,
                    tar_size: row.tar_size,
                }
            }
        };
        let item = known.diff_id.digest().short_hex();
        self.progress.report(Event::Done { item: &item, status: "Already exists" });
        self.contents.add_layer(&member.path, known);
        Ok(true)
    }

    fn layer(
        &mut self,
        member: &Member,
        compression: Compression,
        content: &mut dyn Read,
    ) -> Result<(), FileError> {
        let item = short_name(&member.path);
        let total_bytes = Some(member.size);
        self.progress.report(Event::Phase { item: &item, phase: "Loading layer", total_bytes });
        let store = self.engine.store();
        let ingest = store.begin_layer(self.lease)?;
        let keeps = compression != Compression::None && self.engine.keeps_blobs();
        let mut blob = if keeps { Some(store.begin_new_blob(self.lease)?) } else { None };
        let report = |now: davit_layer::Progress| {
            self.progress.report(Event::Position { item: &item, bytes: now.blob_bytes });
        };
        let mut tar = BulkFile::new(ingest.create_tar()?.into_parts().0);
        let options = ReadOptions { progress: Some(&report), ..ReadOptions::default() };
        let sink = blob.as_mut().map(|blob| blob as &mut dyn Write);
        let read = read_layer(content, &mut tar, sink, &options)
            .map_err(|source| FileError::layer(&member.path, source))?;
        drop(tar);
        let layer = finish(ingest, blob, &read)?;
        self.contents.add_layer(&member.path, layer);
        self.progress.report(Event::Done { item: &item, status: "Loaded" });
        Ok(())
    }

    /// Verifies all images against their layers and names them in one durable transaction.
    fn commit(&self, request: &LoadRequest) -> Result<Vec<Loaded>, FileError> {
        let platform = request.platform.clone().unwrap_or_else(Platform::host);
        let (images, referrers) = parted(self.contents.images(&platform)?);
        let mut commit = ImageCommit::default();
        for (referrer, subject) in referrers {
            commit.referrers.push((subject, referrer.target.digest));
            commit.documents.extend(referrer.documents);
        }
        let mut loaded = Vec::new();
        for image in images {
            for form in &image.layer_blobs {
                self.engine.store().record_layer_blob(form, Durability::Lazy)?;
            }
            loaded.push(Loaded {
                references: image.references.clone(),
                image_id: image.target.image_id,
                digest: image.target.digest,
                replaced: self.replaced(&image)?,
            });
            self.check(&image, request.platform.as_ref())?;
            add_to(&mut commit, image);
        }
        self.engine.store().commit_images(self.lease, &commit)?;
        Ok(loaded)
    }

    /// The image's names that are those of others until it is loaded.
    fn replaced(&self, image: &ArchiveImage) -> Result<Vec<(Reference, ImageId)>, FileError> {
        let mut replaced = Vec::new();
        for reference in &image.references {
            let former = match self.engine.store().find_image(&reference.to_string()) {
                Ok(found) => found.target.image_id,
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error.into()),
            };
            let former = former.filter(|id| Some(*id) != image.target.image_id);
            replaced.extend(former.map(|id| (reference.clone(), id)));
        }
        Ok(replaced)
    }

    /// Refuses an image for another platform than was asked for, as a pull does, and one whose
    /// layers can never be mounted.
    fn check(&self, image: &ArchiveImage, wanted: Option<&Platform>) -> Result<(), FileError> {
        let Some(id) = image.target.image_id else { return Ok(()) };
        let parse = |document: &StoredDocument| -> Option<(Digest, ImageConfig)> {
            Some((document.digest, serde_json::from_slice(&document.bytes).ok()?))
        };
        let documents = image.documents.iter();
        let configs: Vec<_> = documents
            .filter(|document| document.media_type.is_config())
            .filter_map(parse)
            .collect();
        let chosen = configs.iter().find(|(digest, _)| *digest == id.digest());
        let Some((_, config)) = chosen else { return Ok(()) };
        let name = || {
            let name = image.references.first().map(Reference::familiar);
            name.unwrap_or_else(|| image.target.digest.to_string())
        };
        if let Some(wanted) = wanted
            && wanted.rank(&config.platform()).is_none()
        {
            let offered = configs.iter().map(|(_, config)| config.platform().to_string());
            return Err(FileError::NoPlatform {
                name: name(),
                wanted: wanted.to_string(),
                offered: offered.collect(),
            });
        }
        let prepared = self.engine.prepare_layers(&config.rootfs.diff_ids);
        prepared.map_err(|source| FileError::Unusable { name: name(), source })
    }
}

/// Parts what only refers to an image of the archive, with the digest of that, from the images.
fn parted(all: Vec<ArchiveImage>) -> (Vec<ArchiveImage>, Vec<(ArchiveImage, Digest)>) {
    let here: HashSet<Digest> = all
        .iter()
        .filter(|image| image.target.image_id.is_some())
        .flat_map(|image| &image.documents)
        .map(|document| document.digest)
        .collect();
    let subject = |image: &ArchiveImage| {
        let nameless = image.target.image_id.is_none() && image.references.is_empty();
        let digest = image.target.digest;
        let own = image.documents.iter().find(|document| nameless && document.digest == digest)?;
        match Document::parse(own.bytes.clone(), Some(&own.media_type)).ok()? {
            Document::Manifest(manifest) => manifest.into_value().subject.map(|it| it.digest),
            Document::Index(_) => None,
        }
    };
    let (mut images, mut referrers) = (Vec::new(), Vec::new());
    for image in all {
        match subject(&image).filter(|digest| here.contains(digest)) {
            Some(digest) => referrers.push((image, digest)),
            None => images.push(image),
        }
    }
    (images, referrers)
}

fn add_to(commit: &mut ImageCommit, image: ArchiveImage) {
    commit.documents.extend(image.documents);
    if image.references.is_empty() {
        commit.untagged.push(image.target.clone());
    }
    let target = image.target;
    let tags = image.references.into_iter();
    commit.tags.extend(tags.map(|reference| TagUpdate { reference, target: target.clone() }));
}

/// Writes the table and makes layer and blob visible.
pub(super) fn finish(
    ingest: LayerIngest<'_>,
    blob: Option<BlobIngest<'_>>,
    read: &ReadLayer,
) -> Result<ArchiveLayer, FileError> {
    layer::commit(ingest, &read.table)?;
    let facts = read.table.facts();
    if let Some(blob) = blob {
        blob.commit(&read.blob, None, Durability::Lazy)?;
    }
    Ok(ArchiveLayer {
        digest: read.blob,
        size: read.blob_size,
        compression: read.compression,
        diff_id: facts.diff_id,
        tar_size: facts.tar_size,
    })
}

/// Whether content that begins so can be a layer: a compressed stream or a tar.
fn layer_compression(start: &[u8]) -> Option<Compression> {
    match start {
        [0x1f, 0x8b, ..] => Some(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Zstd),
        // A header's magic, or the two empty blocks of an empty tar.
        _ if start.get(257..262) == Some(b"ustar") => Some(Compression::None),
        _ if start.len() == PEEK_BYTES && start.iter().all(|&byte| byte == 0) => {
            Some(Compression::None)
        }
        _ => None,
    }
}

fn digest_of_path(path: &str) -> Option<Digest> {
    path.strip_prefix("blobs/")?.replacen('/', ":", 1).parse().ok()
}

/// What a progress line calls a member: the start of its digest or folder.
fn short_name(path: &str) -> String {
    let name = path.rsplit('/').find(|part| !matches!(*part, "layer.tar")).unwrap_or(path);
    name.chars().take(12).collect()
}
