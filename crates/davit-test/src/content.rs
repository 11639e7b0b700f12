//! Small images, and a registry that serves them as the specification says: the ground on which
//! scripted faults are played.

use std::collections::HashMap;

use davit_image::{
    Descriptor, DiffId, Digest, ImageConfig, Index, Manifest, MediaType, Platform, Raw,
};

use crate::{Reply, Request};

/// Blobs and manifests, served under every repository name.
#[derive(Clone, Debug, Default)]
pub struct Content {
    blobs: HashMap<String, Vec<u8>>,
    manifests: HashMap<String, (MediaType, Vec<u8>)>,
}

/// An image that [`Content::add_image`] made.
#[derive(Clone, Debug)]
pub struct TestImage {
    /// The manifest's descriptor.
    pub manifest: Descriptor,
    /// Digest of the config.
    pub id: Digest,
    /// The layers' blobs, bottom first.
    pub layers: Vec<Descriptor>,
}

impl Content {
    /// Adds a blob.
    pub fn add_blob(&mut self, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        self.blobs.insert(digest.to_string(), content.to_vec());
        digest
    }

    /// A blob that was added.
    #[must_use]
    pub fn blob(&self, digest: &Digest) -> Option<&[u8]> {
        self.blobs.get(&digest.to_string()).map(Vec::as_slice)
    }

    /// Adds a manifest or index under a tag and its digest.
    pub fn add_manifest(&mut self, tag: &str, media_type: MediaType, bytes: &[u8]) {
        for name in [tag.to_owned(), Digest::of(bytes).to_string()] {
            self.manifests.insert(name, (media_type.clone(), bytes.to_vec()));
        }
    }

    /// Adds an OCI image of plain tars, each compressed with gzip.
    ///
    /// # Panics
    /// Never: compressing into memory cannot fail.
    pub fn add_image(&mut self, tag: &str, platform: &Platform, tars: &[Vec<u8>]) -> TestImage {
        let mut config = ImageConfig::new(platform);
        let mut layers = Vec::new();
        for tar in tars {
            config.rootfs.diff_ids.push(DiffId::new(Digest::of(tar)));
            let blob = gzip(tar);
            self.add_blob(&blob);
            layers.push(Descriptor::of(MediaType::OCI_LAYER_GZIP, &blob));
        }
        self.add_config(tag, &Raw::write(config), layers)
    }

    /// Adds an OCI image by its config and layer descriptors, whether or not these fit.
    pub fn add_config(
        &mut self,
        tag: &str,
        config: &Raw<ImageConfig>,
        layers: Vec<Descriptor>,
    ) -> TestImage {
        self.add_blob(config.bytes());
        let descriptor = Descriptor::of(MediaType::OCI_CONFIG, config.bytes());
        let manifest = Raw::write(Manifest::new(descriptor, layers.clone()));
        self.add_manifest(tag, MediaType::OCI_MANIFEST, manifest.bytes());
        TestImage {
            manifest: Descriptor::of(MediaType::OCI_MANIFEST, manifest.bytes()),
            id: config.digest(),
            layers,
        }
    }

    /// Adds an index over images; returns its digest.
    pub fn add_index(&mut self, tag: &str, images: &[(&Platform, &TestImage)]) -> Digest {
        let entries = images.iter().map(|(platform, image)| Descriptor {
            platform: Some((*platform).clone()),
            ..image.manifest.clone()
        });
        let index = Raw::write(Index::new(entries.collect()));
        self.add_manifest(tag, MediaType::OCI_INDEX, index.bytes());
        index.digest()
    }

    /// Answers a request.
    #[must_use]
    pub fn serve(&self, request: &Request) -> Reply {
        let last = request.path.rsplit('/').next().unwrap_or_default();
        if request.path.contains("/blobs/") {
            return self.blobs.get(last).map_or_else(not_found, |blob| ranged(request, blob));
        }
        if !request.path.contains("/manifests/") {
            return Reply::ok("{}");
        }
        self.manifests.get(last).map_or_else(not_found, |(media_type, bytes)| {
            Reply::ok(bytes.clone())
                .header("Content-Type", media_type)
                .header("Docker-Content-Digest", Digest::of(bytes))
        })
    }
}

fn not_found() -> Reply {
    Reply::status(404).body(r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#)
}

/// Serves content, or the part that `Range: bytes=FIRST-LAST` asks for.
///
/// # Panics
/// If the range is malformed: davit's are not.
#[must_use]
pub fn ranged(request: &Request, content: &[u8]) -> Reply {
    let range = request.header("range").and_then(|range| range.strip_prefix("bytes="));
    let Some((first, last)) = range.and_then(|range| range.split_once('-')) else {
        return Reply::ok(content);
    };
    let position = |text: &str| text.parse::<usize>().expect("a range is of numbers");
    let (first, last) = (position(first), position(last));
    Reply::status(206)
        .header("Content-Range", format!("bytes {first}-{last}/{}", content.len()))
        .body(&content[first..=last])
}

/// A plain tar of regular files, in ustar form.
///
/// # Panics
/// If a path has more than 100 bytes.
#[must_use]
pub fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (path, content) in files {
        assert!(path.len() <= 100, "the header has room for 100 bytes");
        let mut header = [0_u8; 512];
        header[..path.len()].copy_from_slice(path.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[108..116].copy_from_slice(b"0000000\0");
        header[116..124].copy_from_slice(b"0000000\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[136..148].copy_from_slice(b"00000000000\0");
        header[148..156].copy_from_slice(b"        ");
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar.extend_from_slice(&header);
        tar.extend_from_slice(content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// Compresses with gzip.
///
/// # Panics
/// Never: compressing into memory cannot fail.
#[must_use]
pub fn gzip(content: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).and_then(|()| encoder.finish()).expect("memory takes everything")
}

/// Bytes without a pattern that a mistake could repeat, the same each time.
#[must_use]
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
