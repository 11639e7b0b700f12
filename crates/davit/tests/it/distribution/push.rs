//! `push` of what is more than one image: indexes in indexes, artifacts, and one of several
//! platforms.

use davit_engine::image::{Descriptor, Index, Manifest, MediaType, Platform, Raw};
use davit_test::{Access, Content, Davit, HttpServer, Registry, TempDir};

use super::{davit, layer, serve};

const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const OTHER: &str = "linux/s390x";

/// An index with an image for this machine, and an index of one for another and an artifact.
fn nested(content: &mut Content) -> Descriptor {
    let ours = content.add_image("ours", &Platform::host(), &[layer("ours")]);
    let theirs = content.add_image("theirs", &OTHER.parse().unwrap(), &[layer("theirs")]);
    let blob = |content: &mut Content, media_type: &str, bytes: &[u8]| {
        content.add_blob(bytes);
        Descriptor::of(MediaType::new(media_type), bytes)
    };
    let config = blob(content, EMPTY, b"{}");
    let files = [b"one".as_slice(), b"two"].map(|text| blob(content, "text/plain", text));
    let artifact = Raw::write(Manifest::new(config, files.to_vec()));
    content.add_manifest("artifact", MediaType::OCI_MANIFEST, artifact.bytes());
    let artifact = Descriptor::of(MediaType::OCI_MANIFEST, artifact.bytes());
    let mut index = |tag: &str, entries: [(&str, Descriptor); 2]| {
        let described = |(platform, entry): (&str, Descriptor)| Descriptor {
            platform: platform.parse().ok(),
            ..entry
        };
        let index = Raw::write(Index::new(entries.map(described).to_vec()));
        content.add_manifest(tag, MediaType::OCI_INDEX, index.bytes());
        Descriptor::of(MediaType::OCI_INDEX, index.bytes())
    };
    let inner = index("inner", [(OTHER, theirs.manifest), ("unknown/unknown", artifact)]);
    let host = Platform::host().to_string();
    index("outer", [(&host, ours.manifest), (OTHER, inner)])
}

/// Copies all of `x:outer` into a layout that names it `x:1`.
fn copy_outer(davit: &Davit, server: &HttpServer, dir: &TempDir) -> String {
    let layout = dir.join("layout").display().to_string();
    let source = format!("docker://{}/x:outer", server.host());
    davit.ok(["copy", "-q", &source, &format!("oci:{layout}:docker.io/library/x:1")]);
    layout
}

#[test]
fn what_may_be_copied_may_be_pushed() {
    let Some(registry) = Registry::start(Access::Open) else { return };
    let mut content = Content::default();
    let outer = nested(&mut content);
    let server = serve(content);
    let (davit, dir) = (davit(), TempDir::new());
    let layout = copy_outer(&davit, &server, &dir);
    davit.ok(["load", "-q", "-i", &layout]);
    let name = |tag: &str| format!("{}/x:{tag}", registry.host());
    davit.ok(["tag", "x:1", &name("all")]);
    let pushed = davit.ok(["push", &name("all")]);
    assert!(pushed.contains(&outer.digest.to_string()), "{pushed}");
    // Everything is there: it can be copied on.
    let copied = format!("oci:{}", dir.join("copied").display());
    let digest = davit.ok(["copy", "-q", &format!("docker://{}", name("all")), &copied]);
    assert_eq!(digest, outer.digest.to_string());

    davit.ok(["tag", "x:1", &name("one")]);
    davit.ok(["push", "-q", "--platform", OTHER, &name("one")]);
    let other = super::davit();
    other.ok(["pull", "-q", "--platform", OTHER, &name("one")]);
    let platform = other.ok(["inspect", "-f", "{{.Os}}/{{.Architecture}}", &name("one")]);
    assert_eq!(platform, OTHER);
    // An index without the platform, and one manifest of another.
    davit.ok(["pull", "-q", &format!("{}/x:ours", server.host())]);
    davit.ok(["tag", &format!("{}/x:ours", server.host()), &name("ours")]);
    for (tag, wanted) in [("all", "linux/riscv64"), ("ours", OTHER)] {
        let refused = davit.run(["push", "--platform", wanted, &name(tag)]);
        let words = format!("has no image for {wanted} here");
        assert!(refused.code == 1 && refused.stderr.contains(&words), "{}", refused.stderr);
        let place = format!("dir:{}", dir.join("none").display());
        let copy = davit.run(["copy", "-q", "--platform", wanted, &name(tag), &place]);
        let file = dir.join("none.tar").display().to_string();
        let save = davit.run(["save", "-o", &file, "--platform", wanted, &name(tag)]);
        for refused in [copy, save] {
            let words = format!("has no image for {wanted}");
            assert!(refused.code == 1 && refused.stderr.contains(&words), "{}", refused.stderr);
        }
    }
    let host = Platform::host().to_string();
    davit.ok(["push", "-q", "--platform", &host, &name("ours")]);
}

#[test]
fn an_index_that_names_the_same_again_and_again_is_walked_once() {
    let Some(registry) = Registry::start(Access::Open) else { return };
    let mut content = Content::default();
    let mut named = content.add_image("ours", &Platform::host(), &[layer("ours")]).manifest;
    for tag in ["inner", "middle", "outer"] {
        // Entry by entry this would be 27 million documents.
        let index = Raw::write(Index::new(vec![named; 300]));
        content.add_manifest(tag, MediaType::OCI_INDEX, index.bytes());
        named = Descriptor::of(MediaType::OCI_INDEX, index.bytes());
    }
    let server = serve(content);
    let (davit, dir) = (davit(), TempDir::new());
    let layout = copy_outer(&davit, &server, &dir);
    davit.ok(["load", "-q", "-i", &layout]);
    let name = format!("{}/x:1", registry.host());
    davit.ok(["tag", "x:1", &name]);
    assert!(davit.ok(["push", &name]).contains(&named.digest.to_string()));
    let (platform, file) = (Platform::host().to_string(), dir.join("x.tar").display().to_string());
    davit.ok(["save", "--platform", &platform, "-o", &file, "x:1"]);
    let missing = davit.run(["push", "--platform", OTHER, &name]);
    assert!(missing.stderr.contains("has no image for"), "{}", missing.stderr);
}

#[test]
fn what_one_index_lacks_another_lacks_too() {
    let Some(registry) = Registry::start(Access::Open) else { return };
    let mut content = Content::default();
    let (host, other) = (Platform::host(), OTHER.parse().unwrap());
    let [ours, theirs] = [("ours", &host), ("theirs", &other)].map(|(tag, platform)| Descriptor {
        platform: Some(platform.clone()),
        ..content.add_image(tag, platform, &[layer(tag)]).manifest
    });
    let mut index = |tag: &str, entries: &[&Descriptor]| {
        let index = Raw::write(Index::new(entries.iter().copied().cloned().collect()));
        content.add_manifest(tag, MediaType::OCI_INDEX, index.bytes());
        Descriptor::of(MediaType::OCI_INDEX, index.bytes())
    };
    let known = index("known", &[&theirs, &ours]);
    let unknown = index("unknown", &[&ours, &theirs]);
    index("outer", &[&ours, &known, &unknown]);
    let server = serve(content);
    let davit = davit();
    let source = |tag: &str| format!("{}/x:{tag}", server.host());
    let target = |tag: &str| format!("{}/x:{tag}", registry.host());
    // The registry has one of the two indexes, but nobody what both name.
    davit.ok([
        "copy",
        "-q",
        &format!("docker://{}", source("known")),
        &format!("docker://{}", target("known")),
    ]);
    let hex = theirs.digest.hex();
    let blob = format!("docker/registry/v2/blobs/sha256/{}/{hex}", &hex[..2]);
    fs_err::remove_dir_all(registry.storage().join(blob)).unwrap();
    for tag in ["known", "unknown", "outer"] {
        davit.ok(["pull", "-q", &source(tag)]);
    }
    davit.ok(["tag", &source("outer"), &target("outer")]);
    let pushed = davit.run(["push", &target("outer")]);
    let words = format!("only the image for {host} is here");
    assert!(pushed.code == 0 && pushed.stderr.contains(&words), "{pushed:?}");
}
