//! `docker buildx imagetools`: images in registries are looked at, and put together to indexes.

use std::path::Path;

use davit_engine::image::{Descriptor, Index, MediaType, Platform, Raw};
use davit_test::{Access, Content, Davit, HttpServer, Registry, TestImage};
use serde_json::{Value, json};

use super::{davit, layer, serve};
use crate::build::docker::Docker;

const TOOLS: [&str; 2] = ["builder", "imagetools"];

/// A server with an image for each of two platforms, by tag, and an index of both.
fn server() -> (HttpServer, TestImage, TestImage, Vec<u8>) {
    let mut content = Content::default();
    let amd = content.add_image("amd", &Platform::new("linux", "amd64"), &[layer("amd")]);
    let arm = content.add_image("arm", &Platform::new("linux", "arm64"), &[layer("arm")]);
    let mut entries = Vec::new();
    for (platform, image) in [("linux/amd64", &amd), ("linux/arm64", &arm)] {
        let platform = Some(platform.parse().unwrap());
        entries.push(Descriptor { platform, ..image.manifest.clone() });
    }
    let noted = [("noted\x1b[31m".to_owned(), "by\nhand".to_owned())];
    entries[1].annotations.extend(noted);
    let index = Raw::write(Index::new(entries));
    content.add_manifest("both", MediaType::OCI_INDEX, index.bytes());
    (serve(content), amd, arm, index.bytes().to_vec())
}

#[test]
fn an_image_is_shown_where_it_is() {
    let (server, amd, arm, index) = server();
    let davit = davit();
    let Some(docker) = Docker::new(&davit) else { return };
    let show = |words: &[&str]| docker.ok(&[&["buildx", "imagetools", "inspect"], words].concat());
    let host = server.host();
    let (single, both) = (format!("{host}/x:amd"), format!("{host}/x:both"));
    let digest = amd.manifest.digest;
    let media_type = MediaType::OCI_MANIFEST;
    let expected = format!("Name:      {single}\nMediaType: {media_type}\nDigest:    {digest}");
    assert_eq!(show(&[&single]), expected);
    assert_eq!(show(&["--raw", &both]).as_bytes(), index);
    let text = show(&[&both, "--builder", "any"]);
    let entry = |digest, platform| {
        format!(
            "  Name:        {both}@{digest}\n  MediaType:   {media_type}\n  Platform:    {platform}\n"
        )
    };
    assert!(text.contains(&entry(digest, "linux/amd64")), "{text}");
    assert!(text.contains(&entry(arm.manifest.digest, "linux/arm64")), "{text}");
    // What a registry says neither steers a terminal nor makes lines of its own.
    assert!(text.ends_with("  Annotations: \n    noted\\x1b[31m: by\\nhand"), "{text:?}");

    let format = |name: &str, template: &str| show(&["--format", template, name]);
    let size = amd.manifest.size;
    assert_eq!(
        format(&single, "{{.Name}} {{.Manifest.Digest}} {{.Manifest.Size}}"),
        format!("{single} {digest} {size}")
    );
    let facts =
        "{{.Image.Architecture}} {{.Image.OS}} {{len .Image.RootFS.DiffIDs}} {{.Image.Config.Env}}";
    assert_eq!(format(&single, facts), "amd64 linux 1 []");
    let ranged = "{{range .Manifest.Manifests}}{{.Platform.Architecture}} {{end}}";
    assert_eq!(format(&both, ranged), "amd64 arm64 ");
    assert_eq!(format(&both, "{{(index .Image \"linux/arm64\").Architecture}}"), "arm64");
    let all: Value = serde_json::from_str(&format(&both, "{{json .}}")).unwrap();
    assert_eq!((&all["name"], &all["manifest"]["schemaVersion"]), (&json!(both), &json!(2)));
    assert_eq!(all["image"]["linux/amd64"]["architecture"], "amd64");
    for (words, told) in [
        (&["--format", "{{.Nope}}", &single][..], "Nope"),
        (&["--format", "{{", &single], "unclosed"),
        (&[&format!("{host}/x:none")], "does not exist"),
        (&["UPPER"], "invalid reference"),
    ] {
        let failed = docker.run(&[&["buildx", "imagetools", "inspect"], words].concat());
        assert!(failed.code == 1 && failed.stderr.contains(told), "{failed:?}");
    }
    // Nothing came here, not even a store.
    assert!(!davit.root().exists());
}

fn create(davit: &Davit, words: &[&str]) -> String {
    davit.ok([&TOOLS[..], &["create"], words].concat())
}

fn raw(davit: &Davit, name: &str) -> Value {
    let text = davit.ok([&TOOLS[..], &["inspect", "--raw", name]].concat());
    serde_json::from_str(&text).unwrap()
}

/// The entry of an image.
fn entry(image: &TestImage, architecture: &str) -> Value {
    let mut entry = serde_json::to_value(&image.manifest).unwrap();
    entry["platform"] = json!({"architecture": architecture, "os": "linux"});
    entry
}

/// All that a name in a registry stands for is there.
fn is_whole(davit: &Davit, name: &str, dir: &Path) {
    let target = format!("oci:{}", dir.join(name.replace(['/', ':', '@'], "-")).display());
    davit.ok(["copy", "-q", &format!("docker://{name}"), &target]);
}

#[test]
fn an_index_is_made_of_images_elsewhere() {
    let (server, amd, arm, both) = server();
    let (davit, Some(registry)) = (davit(), Registry::start(Access::Open)) else { return };
    let (from, to) = (format!("{}/x", server.host()), registry.host());
    let (one, other) = (format!("{from}:amd"), format!("{from}:arm"));
    let [made, twin] = [format!("{to}/made:1"), format!("{to}/deep/twin:1")];
    let metadata = davit.dir().join("metadata.json");

    let dry = create(&davit, &["--dry-run", "-t", &made, &one, &other]);
    let missing = davit.run([&TOOLS[..], &["inspect", &made]].concat());
    assert_eq!(missing.code, 1, "nothing is pushed");
    let facts = ["--metadata-file", metadata.to_str().unwrap()];
    let digest = create(&davit, &[&["-t", &made, "-t", &twin, &one, &other], &facts[..]].concat());
    let expected = json!({
        "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX,
        "manifests": [entry(&amd, "amd64"), entry(&arm, "arm64")],
    });
    assert_eq!(raw(&davit, &made), expected);
    // The bytes are buildx's: its indent, its order.
    assert_eq!(dry, serde_json::to_string_pretty(&expected).unwrap());
    let facts: Value = serde_json::from_slice(&fs_err::read(&metadata).unwrap()).unwrap();
    assert_eq!(facts["containerimage.digest"], digest.as_str());
    assert_eq!(facts["image.name"], format!("{made},{twin}"));
    for name in [&made, &twin] {
        is_whole(&davit, name, davit.dir());
    }

    // An index is taken apart, what is there already stays once, and one alone is not rewritten.
    let annotation =
        ["--annotation", "a=b", "--annotation", "manifest-descriptor[linux/arm64]:c=d"];
    create(
        &davit,
        &[&["-t", &made, "--append", &format!("{from}:both")], &annotation[..]].concat(),
    );
    let appended = raw(&davit, &made);
    assert_eq!(
        (&appended["annotations"], appended["manifests"].as_array().map(Vec::len)),
        (&json!({"a": "b"}), Some(2))
    );
    assert_eq!(appended["manifests"][1]["annotations"]["c"], "d");
    create(&davit, &["-t", &twin, &format!("{from}:both")]);
    assert_eq!(raw(&davit, &twin), serde_json::from_slice::<Value>(&both).unwrap());
    is_whole(&davit, &twin, davit.dir());
    create(&davit, &["-t", &twin, "--prefer-index=false", &one]);
    assert_eq!(raw(&davit, &twin)["config"]["digest"], amd.id.to_string());
    create(&davit, &["-t", &twin, "--platform", "linux/arm64", &format!("{from}:both")]);
    assert_eq!(raw(&davit, &twin)["manifests"].as_array().map(Vec::len), Some(1));

    // Sources without a name are in the repository that is spoken of.
    let descriptor = davit.dir().join("descriptor.json");
    let said = json!({
        "mediaType": MediaType::OCI_MANIFEST, "digest": arm.manifest.digest, "size": arm.manifest.size,
        "annotations": {"said": "so"}, "platform": {"architecture": "arm64", "os": "linux", "variant": "v8"},
    });
    fs_err::write(&descriptor, said.to_string()).unwrap();
    let amd_digest = amd.manifest.digest.to_string();
    create(&davit, &["-t", &made, "-f", descriptor.to_str().unwrap(), &amd_digest]);
    let told = raw(&davit, &made);
    assert_eq!(told["manifests"], json!([said, entry(&amd, "amd64")]));
}

#[test]
fn an_index_that_cannot_be_is_refused() {
    let (server, amd, ..) = server();
    let davit = davit();
    let from = format!("{}/x", server.host());
    let (one, both) = (format!("{from}:amd"), format!("{from}:both"));
    let digest = amd.manifest.digest.to_string();
    for (words, told) in [
        (&[&*one][..], "there is no name to push to"),
        (&["--dry-run"], "there is no source"),
        (&["--dry-run", "--append", &one], "--append needs a --tag"),
        (&["--dry-run", &digest], "has no repository"),
        (&["--dry-run", "-t", "other:1", &one, &digest], "has no repository"),
        (&["--dry-run", "{}"], "is no descriptor"),
        (&["--dry-run", &format!("{from}:none")], "does not exist"),
        (&["--dry-run", &one, "--annotation", "manifest:a=b"], "has no place"),
        (&["--dry-run", &both, "--platform", "linux/s390x"], "it has linux/amd64, linux/arm64"),
        (&["-t", &format!("{from}@{digest}"), &one], "cannot have a digest"),
        (&["-t", &format!("{from}:new"), &one], "cannot write"),
    ] {
        let refused = davit.run([&TOOLS[..], &["create"], words].concat());
        assert!(refused.code == 1 && refused.stderr.contains(told), "{words:?}: {refused:?}");
    }
    let requests = server.requests();
    assert!(requests.iter().all(|it| it.method != "PUT" || it.path.ends_with("/new")));
}
