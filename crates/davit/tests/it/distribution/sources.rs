//! `copy`: sources that are refused, what is named, and what is kept meanwhile.

use std::process::{Command, Stdio};

use davit_engine::image::{Descriptor, Digest, Index, MediaType, Platform, Raw};
use davit_test::{Content, Davit, End, HttpServer, Outcome, Reply, gzip, noise, tar_of};

use super::{configure, davit, layer, serve};

fn id(davit: &Davit, name: &str) -> Option<String> {
    let outcome = davit.run(["inspect", "--type", "image", "--format", "{{.Id}}", name]);
    (outcome.code == 0).then(|| outcome.stdout.trim().to_owned())
}

/// As a file would be, with a redirect on the way; what does not come leaves nothing.
#[test]
fn an_archive_is_imported_from_a_web_server() {
    let tar = gzip(&tar_of(&[("noise", &noise(300_000))]));
    let body = tar.clone();
    let server = HttpServer::start(move |request| match request.path.as_str() {
        "/moved" => Reply::status(302).header("Location", "/root.tgz"),
        "/root.tgz" => Reply::ok(body.clone()),
        "/cut" => Reply::ok(body.clone()).end(End::Cut(100_000)),
        "/page" => Reply::ok("<html>"),
        "/endless" => Reply::status(302).header("Location", "/endless"),
        _ => Reply::status(404),
    });
    let (davit, host) = (davit(), server.host());
    let id = davit.ok(["import", &format!("http://a:secret@{host}/moved?x"), "web:1"]);
    let file = davit.dir().join("root.tgz");
    fs_err::write(&file, tar).unwrap();
    davit.ok(["import", "-m", "by hand", file.to_str().unwrap(), "file:1"]);
    let layers = |name: &str| davit.ok(["inspect", "-f", "{{json .RootFS.Layers}}", name]);
    assert_eq!(layers(&id), layers("file:1"));
    let told = davit.ok(["history", "--no-trunc", "--format", "{{.Comment}}", "web:1"]);
    assert_eq!(told, format!("Imported from http://{host}/moved?x"));
    for (path, words) in [
        ("cut", format!("http://{host}/cut")),
        ("none", format!("http://{host}/none does not exist")),
        ("page", "the layer".to_owned()),
        ("endless", "redirects more than".to_owned()),
    ] {
        let refused = davit.run(["import", &format!("http://{host}/{path}"), "no:1"]);
        assert_eq!(refused.code, 1, "{path}: {}", refused.stderr);
        assert!(refused.stderr.contains(&words), "{path}: {}", refused.stderr);
    }
    assert_eq!(davit.ok(["images", "-q", "no"]), "");
}

/// A digest in the destination checks what comes; no name moves.
#[test]
fn a_digest_in_the_store_names_nothing() {
    let mut content = Content::default();
    let one = content.add_image("1", &Platform::host(), &[layer("one")]);
    let two = content.add_image("2", &Platform::host(), &[layer("two")]);
    let server = serve(content);
    let davit = davit();
    let source = |tag: &str| format!("docker://{}/x:{tag}", server.host());
    davit.ok(["copy", "-q", &source("1"), "store:name"]);
    let wrong = davit.run(["copy", &source("2"), &format!("store:name@{}", Digest::of(b"other"))]);
    assert_eq!(wrong.code, 1, "{}", wrong.stderr);
    assert!(wrong.stderr.contains(&two.manifest.digest.to_string()), "{}", wrong.stderr);
    assert_eq!(id(&davit, &two.id.to_string()), None);
    let by_digest = format!("store:name@{}", two.manifest.digest);
    assert_eq!(davit.ok(["copy", "-q", &source("2"), &by_digest]), two.manifest.digest.to_string());
    assert_eq!(id(&davit, &two.id.to_string()), Some(two.id.to_string()));
    assert_eq!(id(&davit, "name"), Some(one.id.to_string()), "the tag has moved");
}

/// An image that loses its name while it is copied stays until the copy has ended.
#[test]
fn what_is_copied_is_kept_meanwhile() {
    let tars: Vec<_> =
        (0..12).map(|n| tar_of(&[(&format!("f{n}"), &noise(2_000_000 + n)[..])])).collect();
    let mut content = Content::default();
    content.add_image("1", &Platform::host(), &tars);
    let server = serve(content);
    let (davit, name) = (davit(), format!("{}/x:1", server.host()));
    davit.ok(["pull", "-q", &name]);
    let folder = davit.dir().join("layout");
    let mut command = davit.command(["copy", "-q", &name, &format!("oci:{}", folder.display())]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun =
        || fs_err::read_dir(folder.join("blobs/sha256")).is_ok_and(|mut d| d.next().is_some());
    while !begun() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    let signal = |name: &str| {
        Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    };
    signal("-STOP");
    let removed = davit.run(["rmi", "-f", &name]);
    signal("-CONT");
    let copied = Outcome::from(child.wait_with_output().unwrap());
    assert_eq!((removed.code, copied.code), (0, 0), "{}{}", removed.stderr, copied.stderr);
    davit.ok(["copy", "-q", &format!("oci:{}", folder.display()), "store:again"]);
}

/// Indexes without end and sizes without sense are refused; nobody asks a registry for a folder.
#[test]
fn hostile_and_local_sources() {
    let host = Platform::host();
    let mut content = Content::default();
    let image = content.add_image("good", &host, &[layer("a")]);
    let mut inner = image.manifest.clone();
    for _ in 0..5 {
        inner.platform = Some(host.clone());
        let index = Raw::write(Index::new(vec![inner]));
        content.add_manifest("nested", MediaType::OCI_INDEX, index.bytes());
        inner = Descriptor::of(MediaType::OCI_INDEX, index.bytes());
    }
    let config = Descriptor::of(MediaType::OCI_CONFIG, b"{}");
    content.add_blob(b"{}");
    let mut huge = Descriptor::of(MediaType::OCI_LAYER, b"huge");
    content.add_blob(b"huge");
    huge.size = u64::MAX;
    let manifest = Raw::write(davit_engine::image::Manifest::new(config, vec![huge]));
    content.add_manifest("huge", MediaType::OCI_MANIFEST, manifest.bytes());
    let server = serve(content);
    let davit = davit();
    let copy = |options: &[&str], tag: &str, target: &str| {
        let source = format!("docker://{}/x:{tag}", server.host());
        let target = format!("oci:{}", davit.dir().join(target).display());
        davit.run([&["copy", "-q"], options, &[&source, &target]].concat())
    };
    let platform = host.to_string();
    for options in [&[][..], &["--platform", &platform]] {
        let outcome = copy(options, "nested", "nested");
        assert_eq!(outcome.code, 1, "{options:?} {}", outcome.stdout);
        assert!(outcome.stderr.contains("nested too deeply"), "{}", outcome.stderr);
    }
    let outcome = copy(&[], "huge", "huge");
    assert_eq!(outcome.code, 1);
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);

    assert_eq!(copy(&[], "good", "good").code, 0);
    configure(&davit, "[registry.\"registry.invalid\"]\nmirrors = [\"no url\"]\n");
    assert_eq!(copy(&[], "good", "again").code, 1, "a registry needs good settings");
    let place = |form: &str, name: &str| format!("{form}:{}", davit.dir().join(name).display());
    davit.ok(["copy", "-q", &place("oci", "good"), &place("dir", "folder")]);
}
