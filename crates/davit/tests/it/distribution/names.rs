//! Names of pulled images: tags that move, and the digests that a registry knows.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use davit_engine::image::{ImageConfig, Platform, Raw};
use davit_test::{Content, Davit, HttpServer};

use super::{davit, layer, serve};

fn shown(davit: &Davit, args: &[&str]) -> String {
    let format = ["images", "--format", "{{.Repository}}:{{.Tag}}"];
    davit.ok([&format[..], args].concat())
}

#[test]
fn what_a_newer_pull_replaced_is_pruned() {
    let [mut older, mut newer] = [Content::default(), Content::default()];
    let former = older.add_image("1", &Platform::host(), &[layer("a")]);
    newer.add_image("1", &Platform::host(), &[layer("b")]);
    let other = newer.add_image("2", &Platform::host(), &[layer("c")]);
    let moved = Arc::new(AtomicBool::new(false));
    let has_moved = Arc::clone(&moved);
    let server = HttpServer::start(move |request| {
        let content = if has_moved.load(Ordering::SeqCst) { &newer } else { &older };
        content.serve(request)
    });
    let (davit, host) = (davit(), server.host());
    davit.ok(["pull", "-q", &format!("{host}/x:1")]);
    moved.store(true, Ordering::SeqCst);
    davit.ok(["pull", "-q", &format!("{host}/x:1")]);
    davit.ok(["pull", "-q", &format!("{host}/x@{}", other.manifest.digest)]);
    let untagged = format!("{host}/x:<none>");
    assert_eq!(shown(&davit, &["-f", "dangling=true"]), format!("{untagged}\n{untagged}"));
    let pruned = davit.ok(["image", "prune", "-f"]);
    for image in [former, other] {
        let lines =
            format!("untagged: {host}/x@{}\ndeleted: {}\n", image.manifest.digest, image.id);
        assert!(pruned.contains(&lines), "{pruned}");
    }
    assert_eq!(shown(&davit, &[]), format!("{host}/x:1"));
}

#[test]
fn a_repositorys_last_tag_takes_its_digests_along() {
    let mut content = Content::default();
    let image = content.add_image("1", &Platform::host(), &[layer("a")]);
    let server = serve(content);
    let (davit, host) = (davit(), server.host());
    let name = format!("{host}/x:1");
    davit.ok(["pull", "-q", &name]);
    for more in [&format!("{host}/x:2"), "other"] {
        davit.ok(["tag", &name, more]);
    }
    // With a second tag of its repository the digest stays.
    assert_eq!(davit.ok(["rmi", &format!("{host}/x:2")]), format!("Untagged: {host}/x:2"));
    let known = format!("{host}/x@{}", image.manifest.digest);
    assert_eq!(davit.ok(["rmi", &name]), format!("Untagged: {name}\nUntagged: {known}"));
    assert_eq!(shown(&davit, &[]), "other:latest");
    // A digest that outlives all tags keeps the image.
    davit.ok(["pull", "-q", &name]);
    assert_eq!(davit.ok(["rmi", "other"]), "Untagged: other:latest");
    davit.ok(["tag", &name, "other"]);
    let id = image.id.to_string();
    for args in [&["rmi", &id[..]][..], &["rmi", &id[7..19]]] {
        let refused = davit.run(args);
        assert_eq!(refused.code, 1);
        let words = "(must be forced) - image is referenced in multiple repositories";
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
    let removed = davit.ok(["rmi", "-f", &id]);
    let expected =
        format!("Untagged: {name}\nUntagged: other:latest\nUntagged: {known}\nDeleted: {id}\n");
    assert!(removed.starts_with(&expected), "{removed}");
}

/// A config as Go's programs read it, and times that 64 bits of nanoseconds cannot hold.
#[test]
fn configs_are_read_as_docker_reads_them() {
    let mut content = Content::default();
    for (tag, created) in [("early", "0001-01-01T00:00:00Z"), ("late", "2999-02-03T04:05:06Z")] {
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","created":"{created}","history":[null],
            "Config":{{"cmd":"sh","Volumes":{{"/x":null}},"Env":[null],"labels":{{"a":null}}}}}}"#
        );
        let config = Raw::<ImageConfig>::from_bytes(text.into_bytes()).unwrap();
        content.add_config(tag, &config, Vec::new());
    }
    let server = serve(content);
    let (davit, host) = (davit(), server.host());
    for tag in ["early", "late"] {
        davit.ok(["pull", "-q", "--platform", "linux/amd64", &format!("{host}/x:{tag}")]);
    }
    let name = format!("{host}/x:early");
    let shown = davit.ok(["image", "inspect", "-f", "{{json .Config}}", &name]);
    assert_eq!(shown, r#"{"Cmd":["sh"],"Volumes":{"/x":{}},"Env":[""],"Labels":{"a":""}}"#);
    let format = "{{.Tag}}|{{.CreatedAt}}|{{.CreatedSince}}";
    let expected = "late|2999-02-03 04:05:06 +0000 UTC|Less than a second ago\n\
                    early|0001-01-01 00:00:00 +0000 UTC|";
    assert_eq!(davit.ok(["images", "--format", format]), expected);
    assert_eq!(davit.ok(["image", "inspect", "-f", "{{.Created}}", &name]), "0001-01-01T00:00:00Z");
}
