//! Archives: what real and hostile ones make of the reader.

use davit_image::{
    Compression, Descriptor, DiffId, Digest, ImageConfig, ImageId, Index, Manifest, MediaType,
    Platform, Raw,
};
use davit_store::archive::{
    ArchiveContents, ArchiveError, ArchiveLayer, CONTAINERD_NAME, LayoutDir, LayoutDirWriter,
    REF_NAME, layout_file, name_of, named_descriptor,
};
use davit_test::TempDir;

use crate::fixture::reference;

fn platform() -> Platform {
    Platform::new("linux", "amd64")
}

fn plain(content: &[u8]) -> ArchiveLayer {
    ArchiveLayer {
        digest: Digest::of(content),
        size: content.len() as u64,
        compression: Compression::None,
        diff_id: DiffId::new(Digest::of(content)),
        tar_size: content.len() as u64,
    }
}

fn config(architecture: &str, layers: &[&[u8]]) -> Raw<ImageConfig> {
    let mut config = ImageConfig::new(&Platform::new("linux", architecture));
    config.rootfs.diff_ids =
        layers.iter().map(|content| DiffId::new(Digest::of(content))).collect();
    Raw::write(config)
}

fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A layout with the documents of one image over `layers`; yields its descriptor.
fn add_image(contents: &mut ArchiveContents, architecture: &str, layers: &[&[u8]]) -> Descriptor {
    let config = config(architecture, layers);
    let manifest = Raw::write(Manifest::new(
        Descriptor::of(MediaType::OCI_CONFIG, config.bytes()),
        layers.iter().map(|content| Descriptor::of(MediaType::OCI_LAYER, content)).collect(),
    ));
    contents.add_document(&path(&config.digest()), config.bytes().to_vec()).unwrap();
    contents.add_document(&path(&manifest.digest()), manifest.bytes().to_vec()).unwrap();
    for content in layers {
        contents.add_layer(&path(&Digest::of(content)), plain(content));
    }
    let mut descriptor = Descriptor::of(MediaType::OCI_MANIFEST, manifest.bytes());
    descriptor.platform = Some(Platform::new("linux", architecture));
    descriptor
}

fn add_layout(contents: &mut ArchiveContents, manifests: Vec<Descriptor>) {
    let index = Raw::write(Index::new(manifests));
    contents.add_document("oci-layout", layout_file()).unwrap();
    contents.add_document("index.json", index.bytes().to_vec()).unwrap();
}

#[test]
fn an_oci_layout_keeps_its_manifests() {
    let mut contents = ArchiveContents::default();
    let descriptor = add_image(&mut contents, "amd64", &[b"one", b"two"]);
    let named = named_descriptor(&descriptor, Some(&reference("example.org/app:1")));
    add_layout(&mut contents, vec![named, descriptor.clone()]);
    let images = contents.images(&platform()).unwrap();
    assert_eq!(images.len(), 1, "the same manifest twice is one image");
    assert_eq!(images[0].target.digest, descriptor.digest);
    assert_eq!(images[0].references, [reference("example.org/app:1")]);
    assert_eq!(images[0].documents.len(), 2);
}

#[test]
fn a_docker_archive_of_old_gets_a_manifest() {
    let mut contents = ArchiveContents::default();
    let config = config("amd64", &[b"one", b"two", b"one"]);
    let name = format!("{}.json", config.digest().hex());
    contents.add_document(&name, config.bytes().to_vec()).unwrap();
    contents.add_layer("a/layer.tar", plain(b"one"));
    contents.add_layer("b/layer.tar", plain(b"two"));
    contents.add_link("c/layer.tar", "a/layer.tar");
    let manifest = format!(
        r#"[{{"Config":"{name}","RepoTags":["app:1","app:2"],"Layers":["a/layer.tar","b/layer.tar","c/layer.tar"]}}]"#
    );
    contents.add_document("manifest.json", manifest.into_bytes()).unwrap();
    let images = contents.images(&platform()).unwrap();
    assert_eq!(images[0].target.image_id, Some(ImageId::new(config.digest())));
    assert_eq!(images[0].references, [reference("app:1"), reference("app:2")]);
    let again = contents.images(&platform()).unwrap();
    assert_eq!(images[0].target, again[0].target, "the same archive makes the same manifest");
}

#[test]
fn names_of_both_formats_meet() {
    let config = config("amd64", &[b"one"]);
    let manifest = format!(
        r#"[{{"Config":"{}","RepoTags":["app:1"],"Layers":["{}"]}}]"#,
        path(&config.digest()),
        path(&Digest::of(b"one"))
    );
    // The place that an image was copied from is no name.
    let place = (CONTAINERD_NAME, "ocidir:///srv/layout:1");
    for (annotations, names) in [
        (vec![], vec!["app:1"]),
        (vec![place], vec!["app:1"]),
        (vec![place, (REF_NAME, "example.org/b:2")], vec!["example.org/b:2", "app:1"]),
        (vec![(CONTAINERD_NAME, "example.org/b:2")], vec!["example.org/b:2", "app:1"]),
    ] {
        let mut contents = ArchiveContents::default();
        let mut descriptor = add_image(&mut contents, "amd64", &[b"one"]);
        let texts = annotations.iter().map(|(key, value)| (key.to_string(), value.to_string()));
        descriptor.annotations = texts.collect();
        add_layout(&mut contents, vec![descriptor]);
        contents.add_document("manifest.json", manifest.clone().into_bytes()).unwrap();
        let images = contents.images(&platform()).unwrap();
        let names: Vec<_> = names.into_iter().map(reference).collect();
        assert_eq!((images.len(), &images[0].references), (1, &names), "{annotations:?}");
    }
}

#[test]
fn an_index_chooses_its_platform_and_forgives_absent_ones() {
    let mut contents = ArchiveContents::default();
    let arm = add_image(&mut contents, "arm64", &[b"arm"]);
    let amd = add_image(&mut contents, "amd64", &[b"amd"]);
    let mut absent = Descriptor::of(MediaType::OCI_MANIFEST, b"not there");
    absent.platform = Some(Platform::new("linux", "s390x"));
    let index = Raw::write(Index::new(vec![arm, amd, absent]));
    contents.add_document(&path(&index.digest()), index.bytes().to_vec()).unwrap();
    add_layout(&mut contents, vec![Descriptor::of(MediaType::OCI_INDEX, index.bytes())]);
    let images = contents.images(&platform()).unwrap();
    assert_eq!(images[0].target.digest, index.digest());
    let amd_config = config("amd64", &[b"amd"]);
    assert_eq!(images[0].target.image_id, Some(ImageId::new(amd_config.digest())));
    assert_eq!(images[0].documents.len(), 5, "both platforms and the index");
    let images = contents.images(&Platform::new("linux", "riscv64")).unwrap();
    assert!(images[0].target.image_id.is_some(), "an archive for others is still an image");
}

#[test]
fn an_index_that_names_itself_ends() {
    let mut contents = ArchiveContents::default();
    let mut inner = Descriptor::of(MediaType::OCI_MANIFEST, b"x");
    for _ in 0..10 {
        let index = Raw::write(Index::new(vec![inner]));
        contents.add_document(&path(&index.digest()), index.bytes().to_vec()).unwrap();
        inner = Descriptor::of(MediaType::OCI_INDEX, index.bytes());
    }
    add_layout(&mut contents, vec![inner]);
    assert!(matches!(contents.images(&platform()), Err(ArchiveError::TooLarge { .. })));
}

#[test]
fn lies_are_refused() {
    type Harm = fn(&mut ArchiveContents);
    let one = path(&Digest::of(b"one"));
    let cases: [(&str, Harm); 6] = [
        ("has digest", |c| c.add_layer(&path(&Digest::of(b"one")), plain(b"onf"))),
        ("DiffID", |c| {
            let mut layer = plain(b"one");
            layer.diff_id = DiffId::new(Digest::of(b"onf"));
            c.add_layer(&path(&Digest::of(b"one")), layer);
        }),
        ("not in it", |c| c.add_document(&path(&Digest::of(b"one")), b"small".to_vec()).unwrap()),
        ("no OCI layout 1.0.0", |c| {
            c.add_document("oci-layout", br#"{"imageLayoutVersion":"9"}"#.to_vec()).unwrap();
        }),
        ("malformed", |c| c.add_document("index.json", b"[]".to_vec()).unwrap()),
        ("malformed", |c| c.add_document("manifest.json", b"{".to_vec()).unwrap()),
    ];
    for (expected, harm) in cases {
        let mut contents = ArchiveContents::default();
        let descriptor = add_image(&mut contents, "amd64", &[b"one"]);
        add_layout(&mut contents, vec![descriptor]);
        harm(&mut contents);
        let error = contents.images(&platform()).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected} ({one}): {error}");
    }
    assert!(matches!(ArchiveContents::default().images(&platform()), Err(ArchiveError::NoImages)));
}

#[test]
fn small_files_are_bounded() {
    let mut contents = ArchiveContents::default();
    let result = (0..100).try_for_each(|n| contents.add_document(&n.to_string(), vec![0; 1 << 20]));
    assert!(matches!(result, Err(ArchiveError::TooLarge { .. })));
}

#[test]
fn links_in_circles_lead_nowhere() {
    let mut contents = ArchiveContents::default();
    contents.add_link("manifest.json", "b");
    contents.add_link("b", "manifest.json");
    assert!(matches!(contents.images(&platform()), Err(ArchiveError::NoImages)));
}

#[test]
fn a_layout_directory_is_written_verified_and_read() {
    let temp = TempDir::new();
    let writer = LayoutDirWriter::create(&temp.join("layout")).unwrap();
    let digest = Digest::of(b"hello");
    let error = writer.add_blob(&digest, &mut &b"hullo"[..]).unwrap_err();
    assert!(matches!(error, ArchiveError::Digest { .. }), "{error}");
    writer.add_blob(&digest, &mut &b"hello"[..]).unwrap();
    let error = writer.add_blob(&digest, &mut &b"other"[..]).unwrap_err();
    assert!(matches!(error, ArchiveError::Digest { .. }), "what is there is no excuse: {error}");
    let name = reference("app:1");
    let old = Descriptor::of(MediaType::OCI_MANIFEST, b"old");
    let new = Descriptor::of(MediaType::OCI_MANIFEST, b"new");
    writer.finish(vec![named_descriptor(&old, Some(&name))]).unwrap();
    writer.finish(vec![named_descriptor(&new, Some(&name)), old.clone()]).unwrap();
    let layout = LayoutDir::open(&temp.join("layout")).unwrap();
    let index: Index =
        serde_json::from_slice(&layout.read_file("index.json", 1 << 20).unwrap().unwrap()).unwrap();
    assert_eq!(index.manifests.len(), 2);
    assert_eq!(name_of(&index.manifests[0]), Some(name));
    assert_eq!(index.manifests[0].digest, new.digest);
    assert!(layout.open_blob(&digest).unwrap().is_some());
    assert!(layout.open_blob(&Digest::of(b"other")).unwrap().is_none());
    assert_eq!(layout.read_file("oci-layout", 100).unwrap().unwrap(), layout_file());
}

#[test]
fn a_layout_directory_does_not_lead_outside() {
    let temp = TempDir::new();
    let writer = LayoutDirWriter::create(&temp.join("layout")).unwrap();
    writer.finish(Vec::new()).unwrap();
    let digest = Digest::of(b"secret");
    fs_err::write(temp.join("secret"), b"secret").unwrap();
    let link = temp.join("layout").join(path(&digest));
    fs_err::os::unix::fs::symlink(temp.join("secret"), link).unwrap();
    let layout = LayoutDir::open(&temp.join("layout")).unwrap();
    assert!(layout.open_blob(&digest).is_err());
    assert!(layout.open_file("../secret").is_err());
    assert!(layout.open_file("blobs").is_err());
}
