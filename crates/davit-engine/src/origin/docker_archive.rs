//! A `docker save` archive as origin: a tar with `manifest.json`, or with an OCI layout beside it.
//!
//! The archive is walked once to learn where each member lies. A compressed one, or one that comes
//! out of a pipe, cannot be searched: it is unpacked into a file without a name first. One without
//! a layout names layers by file; its manifest is then made here, of plain layers, as a build's is.

use std::{
    cell::Cell,
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::fs::FileExt as _,
    path::Path,
    rc::Rc,
    sync::Arc,
};

use davit_image::{Descriptor, Digest, Digester, Document, ImageConfig, Manifest, MediaType, Raw};
use davit_layer::{decompressed, is_compressed};
use davit_store::archive::{ArchiveError, DockerImage, MemberKind, TarReader};
use rustix::fs::{Mode, OFlags, fstatvfs};

use super::{BlobRead, Origin, OriginError, Stop, is_named, layout, parse, read_small};

/// Size of the pieces in which an archive is unpacked.
const BUFFER_BYTES: usize = 256 << 10;

/// Where a member's content lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    offset: u64,
    size: u64,
}

/// One image of an archive file.
#[derive(Debug)]
pub(crate) struct DockerArchive {
    file: Arc<File>,
    top: Descriptor,
    /// The manifest, where it was made here.
    made: Option<Vec<u8>>,
    blobs: HashMap<Digest, Place>,
}

impl DockerArchive {
    /// Opens the image of that name, or the only one; `folder` is where it may be unpacked.
    pub(crate) fn open(
        path: &Path,
        name: Option<&str>,
        folder: &Path,
    ) -> Result<Self, OriginError> {
        let file = Arc::new(searchable(path, folder).map_err(ArchiveError::Read)?);
        let members = walk(&file)?;
        let mut archive = Self {
            file,
            top: Descriptor::of(MediaType::OCI_MANIFEST, b""),
            made: None,
            blobs: members
                .iter()
                .filter_map(|(name, place)| {
                    let digest = name.strip_prefix("blobs/")?.replacen('/', ":", 1);
                    Some((digest.parse().ok()?, *place))
                })
                .collect(),
        };
        if let (Some(index), true) = (members.get("index.json"), members.contains_key("oci-layout"))
        {
            archive.top = layout::choose(&archive.read(*index)?, name)?;
        } else {
            archive.make(&members, name)?;
        }
        Ok(archive)
    }

    fn at(&self, place: Place, offset: u64) -> io::Take<Cursor> {
        let cursor = Cursor { file: Arc::clone(&self.file), position: place.offset + offset };
        cursor.take(place.size.saturating_sub(offset))
    }

    /// Reads a small member.
    fn read(&self, place: Place) -> Result<Vec<u8>, OriginError> {
        let limit = super::CONFIG_BYTES;
        if place.size > limit {
            return Err(ArchiveError::TooLarge { what: "bytes in a document", limit }.into());
        }
        let mut bytes = Vec::new();
        self.at(place, 0).read_to_end(&mut bytes).map_err(ArchiveError::Read)?;
        Ok(bytes)
    }

    /// Makes the manifest of an archive that has none.
    fn make(
        &mut self,
        members: &HashMap<String, Place>,
        name: Option<&str>,
    ) -> Result<(), OriginError> {
        let find = |path: &str| {
            let path = path.trim_start_matches("./");
            members.get(path).copied().ok_or_else(|| ArchiveError::Missing(path.to_owned()))
        };
        let list = members.get("manifest.json").ok_or(ArchiveError::NoImages)?;
        let list: Vec<DockerImage> = serde_json::from_slice(&self.read(*list)?)
            .map_err(|source| ArchiveError::Json { name: "manifest.json".to_owned(), source })?;
        let image = choose(&list, name)?;
        let config_place = find(&image.config)?;
        let config_bytes = self.read(config_place)?;
        let config: ImageConfig = serde_json::from_slice(&config_bytes)
            .map_err(|source| ArchiveError::Json { name: image.config.clone(), source })?;
        if config.rootfs.diff_ids.len() != image.layers.len() {
            let (layers, diff_ids) = (image.layers.len(), config.rootfs.diff_ids.len());
            let name = image.config.clone();
            return Err(ArchiveError::LayerCount { name, layers, diff_ids }.into());
        }
        let mut layers = Vec::new();
        for path in &image.layers {
            let place = find(path)?;
            let layer = self.describe(place)?;
            self.blobs.insert(layer.digest, place);
            layers.push(layer);
        }
        let config = Descriptor::of(MediaType::OCI_CONFIG, &config_bytes);
        self.blobs.insert(config.digest, config_place);
        let manifest = Raw::write(Manifest::new(config, layers));
        self.top = Descriptor::of(MediaType::OCI_MANIFEST, manifest.bytes());
        self.made = Some(manifest.bytes().to_vec());
        Ok(())
    }

    /// Digests a layer's file.
    fn describe(&self, place: Place) -> Result<Descriptor, OriginError> {
        let mut content = self.at(place, 0);
        let mut digester = Digester::new(davit_image::Algorithm::Sha256);
        let mut buffer = vec![0; 256 << 10];
        let mut media_type = None;
        loop {
            let count = content.read(&mut buffer).map_err(ArchiveError::Read)?;
            let piece = &buffer[..count];
            media_type.get_or_insert_with(|| layer_type(piece));
            if count == 0 {
                break;
            }
            digester.update(piece);
        }
        let media_type = media_type.unwrap_or(MediaType::OCI_LAYER);
        Ok(Descriptor::new(media_type, digester.finish(), place.size))
    }

    fn place(&self, digest: &Digest) -> Result<Place, OriginError> {
        self.blobs.get(digest).copied().ok_or(OriginError::Missing(*digest))
    }
}

/// Learns where each regular file lies; links lead to what they name.
fn walk(file: &Arc<File>) -> Result<HashMap<String, Place>, OriginError> {
    let position = Rc::new(Cell::new(0));
    let content = Cursor { file: Arc::clone(file), position: 0 };
    let mut reader = TarReader::new(Counted { content, position: Rc::clone(&position) });
    let (mut members, mut links) = (HashMap::new(), Vec::new());
    while let Some(member) = reader.next_member()? {
        match member.kind {
            MemberKind::File => {
                let place = Place { offset: position.get(), size: member.size };
                members.insert(member.path, place);
            }
            MemberKind::Link(target) => links.push((member.path, target)),
            _ => {}
        }
    }
    for (name, target) in links {
        if let Some(place) = members.get(&target).copied() {
            members.entry(name).or_insert(place);
        }
    }
    Ok(members)
}

/// Tells how far a file was read.
struct Counted {
    content: Cursor,
    position: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        self.position.set(self.position.get() + count as u64);
        Ok(count)
    }
}

/// Reads a file from a place of its own, whoever else reads it.
struct Cursor {
    file: Arc<File>,
    position: u64,
}

impl Read for Cursor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl BlobRead for io::Take<Cursor> {
    fn take_failure(&mut self) -> Option<OriginError> {
        None
    }
}

/// Opens an archive as a plain file: itself, or what it unpacks to, in a file of `folder` that has
/// no name and goes with its last reader. That takes at most half of the free space: its layers may
/// need as much again, and others are to go on meanwhile.
fn searchable(path: &Path, folder: &Path) -> io::Result<File> {
    let source: File = fs_err::File::open(path)?.into_parts().0;
    if source.metadata()?.is_file() {
        let mut head = [0; 16];
        let count = source.read_at(&mut head, 0)?;
        if !is_compressed(&head[..count]) {
            return Ok(source);
        }
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mut unpacked: File = rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR)?.into();
    let content = BufReader::with_capacity(BUFFER_BYTES, decompressed(source)?);
    let space = fstatvfs(&unpacked)?;
    unpack(content, &mut unpacked, space.f_bavail.saturating_mul(space.f_frsize) / 2)?;
    Ok(unpacked)
}

fn unpack(mut content: impl BufRead, file: &mut impl Write, limit_bytes: u64) -> io::Result<()> {
    let mut left = limit_bytes;
    loop {
        let piece = content.fill_buf()?;
        let count = piece.len();
        if count == 0 {
            return Ok(());
        }
        left = left.checked_sub(count as u64).ok_or_else(|| {
            let text =
                format!("it unpacks to more than half of the free space ({limit_bytes} bytes)");
            io::Error::new(io::ErrorKind::StorageFull, text)
        })?;
        file.write_all(piece)?;
        content.consume(count);
    }
}

fn choose<'a>(list: &'a [DockerImage], name: Option<&str>) -> Result<&'a DockerImage, OriginError> {
    let tags = |image: &DockerImage| image.repo_tags.clone().unwrap_or_default();
    let offered = || list.iter().flat_map(tags).collect();
    match (name, list) {
        (None, []) => Err(ArchiveError::NoImages.into()),
        (None, [only]) => Ok(only),
        (None, _) => Err(OriginError::Several(offered())),
        (Some(wanted), _) => list
            .iter()
            .find(|image| tags(image).iter().any(|tag| is_named(wanted, tag)))
            .ok_or_else(|| OriginError::Name { wanted: wanted.to_owned(), offered: offered() }),
    }
}

fn layer_type(start: &[u8]) -> MediaType {
    match start {
        [0x1f, 0x8b, ..] => MediaType::OCI_LAYER_GZIP,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => MediaType::OCI_LAYER_ZSTD,
        _ => MediaType::OCI_LAYER,
    }
}

impl Origin for DockerArchive {
    fn resolve(&self) -> Result<Descriptor, OriginError> {
        Ok(self.top.clone())
    }

    fn document(&self, descriptor: &Descriptor) -> Result<(Document, Descriptor), OriginError> {
        if let Some(made) = &self.made
            && descriptor.digest == self.top.digest
        {
            return parse(descriptor, made.clone());
        }
        let content = self.at(self.place(&descriptor.digest)?, 0);
        parse(descriptor, read_small(descriptor, super::MANIFEST_BYTES, content)?)
    }

    fn stream(
        &self,
        descriptor: &Descriptor,
        offset: u64,
        _stop: &Stop,
    ) -> Result<Box<dyn BlobRead>, OriginError> {
        Ok(Box::new(self.at(self.place(&descriptor.digest)?, offset)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpacking_is_bounded() {
        let unpacked = |length: u64| {
            let mut file = Vec::new();
            let content = BufReader::new(io::repeat(7).take(length));
            unpack(content, &mut file, 100_000).map(|()| file.len()).map_err(|error| error.kind())
        };
        assert_eq!(unpacked(100_000), Ok(100_000));
        assert_eq!(unpacked(100_001), Err(io::ErrorKind::StorageFull));
        assert_eq!(unpacked(u64::MAX), Err(io::ErrorKind::StorageFull));
    }
}
