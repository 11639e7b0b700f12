//! Registries that lie or break: a clear error, no name, nothing left, and the next command works.

use std::process::Stdio;

use davit_engine::image::{Descriptor, DiffId, Digest, ImageConfig, MediaType, Platform, Raw};
use davit_test::{Content, Davit, End, HttpServer, Outcome, Reply, gzip, noise, tar_of, until};

use super::{davit, layer, serve};

/// What a refused pull must leave: no image, no blob but complete ones, nothing unfinished.
fn assert_nothing_left(davit: &Davit) {
    for folder in ["layers/sha256", "tmp"] {
        let left: Vec<_> = fs_err::read_dir(davit.root().join(folder))
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        assert!(left.is_empty(), "{folder}: {left:?}");
    }
}

fn refused(server: &HttpServer) -> (Davit, Outcome) {
    let davit = davit();
    let outcome = davit.run(["pull", &format!("{}/x:1", server.host())]);
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    assert_eq!(outcome.stdout, "");
    (davit, outcome)
}

#[test]
fn wrong_layers_are_refused() {
    let tar = tar_of(&[("a", &noise(10_000))]);
    let other = tar_of(&[("b", &noise(10_000))]);
    let blob = gzip(&tar);
    let descriptor = Descriptor::of(MediaType::OCI_LAYER_GZIP, &blob);
    type Fault = (&'static str, fn(&[u8]) -> Vec<u8>, &'static str);
    let faults: [Fault; 3] = [
        ("other bytes", |blob| vec![0; blob.len()], "digest"),
        ("no tar in it", |_| gzip(b"no tar"), ""),
        ("cut", |blob| blob[..blob.len() / 2].to_vec(), ""),
    ];
    for (name, fault, word) in faults {
        let mut content = Content::default();
        content.add_image("1", &Platform::host(), std::slice::from_ref(&tar));
        let (digest, wrong) = (descriptor.digest.to_string(), fault(&blob));
        let server = HttpServer::start(move |request| {
            if request.path.ends_with(&digest) {
                Reply::ok(wrong.clone())
            } else {
                content.serve(request)
            }
        });
        let (davit, outcome) = refused(&server);
        assert!(outcome.stderr.contains(word), "{name}: {}", outcome.stderr);
        assert_nothing_left(&davit);
    }

    // The blob is what its digest says, but not what the config says.
    let mut content = Content::default();
    content.add_blob(&blob);
    let mut config = ImageConfig::new(&Platform::host());
    config.rootfs.diff_ids.push(DiffId::new(Digest::of(&other)));
    content.add_config("1", &Raw::write(config), vec![descriptor]);
    let (davit, outcome) = refused(&serve(content));
    assert!(outcome.stderr.contains("uncompressed layer's digest"), "{}", outcome.stderr);
    assert_nothing_left(&davit);
}

#[test]
fn one_bad_layer_of_many_is_the_error() {
    let mut content = Content::default();
    let tars: Vec<_> = (0..6).map(|n| layer(&format!("f{n}"))).collect();
    let image = content.add_image("1", &Platform::host(), &tars);
    let bad = image.layers[3].digest.to_string();
    let server = HttpServer::start(move |request| {
        if request.path.ends_with(&bad) { Reply::status(404) } else { content.serve(request) }
    });
    let (_davit, outcome) = refused(&server);
    let digest = image.layers[3].digest;
    assert!(
        outcome.stderr.contains(&format!("blobs/{digest} does not exist")),
        "{}",
        outcome.stderr
    );
}

/// A layer that another process downloads is not waited for once the pull has failed.
#[test]
fn a_failed_pull_waits_for_nobody() {
    let mut content = Content::default();
    let image = content.add_image("1", &Platform::host(), &[layer("a"), layer("b")]);
    let bad = image.layers[1].digest.to_string();
    let server = HttpServer::start(move |request| {
        if request.path.ends_with(&bad) { Reply::status(404) } else { content.serve(request) }
    });
    let davit = davit();
    davit.ok(["system", "df"]);
    let partial = format!("tmp/blob-sha256-{}", image.layers[0].digest.hex());
    let other = fs_err::File::create(davit.root().join(partial)).unwrap();
    other.lock().unwrap();
    let mut child = davit
        .command(["pull", "-q", &format!("{}/x:1", server.host())])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut status = None;
    until("it ends while the other goes on", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    drop(other);
    assert_eq!(status.unwrap().code(), Some(1));
}

#[test]
fn confusing_manifests_are_refused() {
    let host = Platform::host();
    let count = |content: &mut Content| {
        let mut config = ImageConfig::new(&host);
        config.rootfs.diff_ids = vec![DiffId::new(Digest::of(b"x")); 2];
        content.add_config("1", &Raw::write(config), Vec::new());
    };
    let encrypted = |content: &mut Content| {
        let mut config = ImageConfig::new(&host);
        config.rootfs.diff_ids.push(DiffId::new(Digest::of(b"x")));
        let kind = MediaType::new("application/vnd.oci.image.layer.v1.tar+gzip+encrypted");
        content.add_config("1", &Raw::write(config), vec![Descriptor::of(kind, b"x")]);
    };
    let artifact = |content: &mut Content| {
        let kind = MediaType::new("application/vnd.cncf.helm.config.v1+json");
        let manifest = davit_engine::image::Manifest::new(Descriptor::of(kind, b"{}"), Vec::new());
        content.add_manifest("1", MediaType::OCI_MANIFEST, Raw::write(manifest).bytes());
    };
    let both = |content: &mut Content| {
        let text = r#"{"schemaVersion":2,"manifests":[],"config":{},"layers":[]}"#;
        content.add_manifest("1", MediaType::OCI_MANIFEST, text.as_bytes());
    };
    let schema1 = |content: &mut Content| {
        let text = r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#;
        content.add_manifest("1", MediaType::DOCKER_MANIFEST_V1, text.as_bytes());
    };
    let nested = |content: &mut Content| {
        let mut inner = content.add_image("0", &host, &[layer("a")]);
        for _ in 0..5 {
            let digest = content.add_index("1", &[(&host, &inner)]);
            let size = serde_json::to_vec(&davit_engine::image::Index::new(vec![Descriptor {
                platform: Some(host.clone()),
                ..inner.manifest.clone()
            }]))
            .unwrap()
            .len() as u64;
            inner.manifest = Descriptor::new(MediaType::OCI_INDEX, digest, size);
        }
    };
    type Case<'a> = (&'static str, &'a dyn Fn(&mut Content));
    let cases: [Case<'_>; 6] = [
        ("its manifest has 0 layers, its config 2", &count),
        (
            "it has a layer of type `application/vnd.oci.image.layer.v1.tar+gzip+encrypted`",
            &encrypted,
        ),
        ("it is an artifact of type `application/vnd.cncf.helm.config.v1+json`", &artifact),
        ("fields of both an image and an index", &both),
        ("Docker schema 1", &schema1),
        ("its indexes are nested too deeply", &nested),
    ];
    for (text, make) in cases {
        let mut content = Content::default();
        make(&mut content);
        let (davit, outcome) = refused(&serve(content));
        assert!(outcome.stderr.contains(text), "{text}\n{}", outcome.stderr);
        assert_nothing_left(&davit);
    }
}

#[test]
fn a_registry_that_is_absent_or_busy_says_so() {
    let mut content = Content::default();
    content.add_image("1", &Platform::host(), &[layer("a")]);
    let server = HttpServer::start(|_| {
        Reply::status(429)
            .header("Retry-After", "3600")
            .body(r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"limit reached"}]}"#)
    });
    let (_davit, outcome) = refused(&server);
    let host = server.host();
    for words in [
        "answered 429: TOOMANYREQUESTS: limit reached",
        &format!("hint: an account has a higher limit: davit login {host}"),
    ] {
        assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
    }
    let closed = server.host();
    drop(server);
    let outcome = davit().run(["pull", &format!("{closed}/x:1")]);
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("caused by:"), "{}", outcome.stderr);
}

#[test]
fn a_connection_that_breaks_is_mended_on_the_way() {
    let mut content = Content::default();
    let tar = tar_of(&[("noise", &noise(2_000_000))]);
    let image = content.add_image("1", &Platform::host(), &[tar]);
    let path = format!("/v2/x/blobs/{}", image.layers[0].digest);
    let server = HttpServer::start(move |request| {
        let reply = content.serve(request);
        let first = request.path == path && request.header("range").is_none();
        if first { reply.end(End::Cut(700_000)) } else { reply }
    });
    davit().ok(["pull", &format!("{}/x:1", server.host())]);
}

#[test]
fn a_mistyped_name_finds_the_local_one() {
    let mut content = Content::default();
    content.add_image("latest", &Platform::host(), &[layer("a")]);
    let server = HttpServer::start(move |request| {
        if request.path.contains("/tutorial/") {
            content.serve(request)
        } else {
            Reply::status(404)
        }
    });
    let (davit, host) = (davit(), server.host());
    davit.ok(["pull", &format!("{host}/tutorial")]);
    let outcome = davit.run(["pull", &format!("{host}/tutorail")]);
    let hint = format!("hint: did you mean the local image `{host}/tutorial:latest`?");
    assert!(outcome.stderr.contains(&hint), "{}", outcome.stderr);
    // The very name is here, but not there: nothing else was meant.
    let here = format!("{host}/here:1");
    davit.ok(["tag", &format!("{host}/tutorial"), &here]);
    let outcome = davit.run(["pull", &here]);
    assert!(outcome.code == 1 && !outcome.stderr.contains("did you mean"), "{}", outcome.stderr);
}
