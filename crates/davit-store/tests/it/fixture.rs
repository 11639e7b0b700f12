//! Stores and content for tests.

use std::{io::Write, path::PathBuf};

use davit_image::{
    Descriptor, DiffId, Digest, ImageConfig, ImageId, Manifest, MediaType, Platform, Raw, Reference,
};
use davit_store::{
    BootId, DiffIdState, Durability, ImageCommit, LayerFacts, LayerRow, Lease, Presence, Store,
    StoreOptions, StoredDocument, TagUpdate, Target,
};
use davit_test::TempDir;

/// Opens the store of a test's directory.
pub(crate) fn open(temp: &TempDir) -> Store {
    Store::open(options(temp)).expect("a temporary directory can be a store")
}

/// Opens it as if the machine had rebooted.
pub(crate) fn reopen_after_reboot(temp: &TempDir) -> Store {
    let mut options = options(temp);
    options.boot_id = Some(BootId::new("00000000-0000-0000-0000-0000000000ff"));
    Store::open(options).expect("the store opens after a reboot")
}

fn options(temp: &TempDir) -> StoreOptions {
    StoreOptions::new(temp.join("root"), temp.join("run"))
}

/// The DiffID of a layer whose tar is `content`.
pub(crate) fn diff_id(content: &[u8]) -> DiffId {
    DiffId::new(Digest::of(content))
}

/// Commits a layer whose tar is `content`.
pub(crate) fn layer(
    store: &Store,
    lease: &Lease<'_>,
    content: &[u8],
    durability: Durability,
) -> LayerRow {
    let ingest = store.begin_layer(lease).unwrap();
    ingest.create_tar().unwrap().write_all(content).unwrap();
    ingest.create_table().unwrap().write_all(&[b"table of ", content].concat()).unwrap();
    ingest.commit(&facts(content, durability)).unwrap()
}

/// What the writer of that layer knows about it.
pub(crate) fn facts(content: &[u8], durability: Durability) -> LayerFacts {
    LayerFacts {
        diff_id: diff_id(content),
        tar_size: content.len() as u64,
        entries: 1,
        diffid_state: DiffIdState::Verified,
        presence: Presence::Full,
        durability,
    }
}

/// Documents of an image over layers with these contents.
pub(crate) fn image(layers: &[&[u8]]) -> (Vec<StoredDocument>, Target) {
    let mut config = ImageConfig::new(&Platform::new("linux", "amd64"));
    config.rootfs.diff_ids = layers.iter().map(|content| diff_id(content)).collect();
    let config = Raw::write(config);
    let descriptors =
        layers.iter().map(|content| Descriptor::of(MediaType::OCI_LAYER, content)).collect();
    let descriptor = Descriptor::of(MediaType::OCI_CONFIG, config.bytes());
    let manifest = Raw::write(Manifest::new(descriptor, descriptors));
    let target = Target::new(
        &Descriptor::of(MediaType::OCI_MANIFEST, manifest.bytes()),
        Some(ImageId::new(config.digest())),
    );
    let documents = vec![
        StoredDocument::new(MediaType::OCI_CONFIG, config.bytes().to_vec()),
        StoredDocument::new(MediaType::OCI_MANIFEST, manifest.bytes().to_vec()),
    ];
    (documents, target)
}

/// Commits an image with lazily committed layers of these contents under `name`.
pub(crate) fn tagged_image(store: &Store, name: &str, layers: &[&[u8]]) -> Target {
    let lease = store.lease("test").unwrap();
    for content in layers {
        layer(store, &lease, content, Durability::Lazy);
    }
    let (documents, target) = image(layers);
    let tags = vec![TagUpdate { reference: reference(name), target: target.clone() }];
    store
        .commit_images(&lease, &ImageCommit { documents, tags, ..ImageCommit::default() })
        .unwrap();
    target
}

/// A reference that is well-formed.
pub(crate) fn reference(name: &str) -> Reference {
    name.parse().unwrap()
}

/// All names below the store's directories of content.
pub(crate) fn content_files(temp: &TempDir) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for name in ["blobs", "layers", "trees", "tmp"] {
        walk(temp.join("root").join(name), &mut found);
    }
    found.sort();
    found
}

fn walk(path: PathBuf, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs_err::read_dir(&path).unwrap() {
            walk(entry.unwrap().path(), found);
        }
    } else {
        found.push(path);
    }
}

/// Makes a committed file writable and overwrites it.
pub(crate) fn overwrite(path: &std::path::Path, bytes: &[u8]) {
    fs_err::remove_file(path).unwrap();
    fs_err::write(path, bytes).unwrap();
}
