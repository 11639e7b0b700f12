//! What refers to another manifest, at registries without the referrers API.

use davit_engine::image::{Descriptor, Digest, Index, Manifest, MediaType, Platform, Raw};
use davit_test::{Access, Content, Davit, HttpServer, Registry, Reply, TempDir};

use super::{davit, layer, serve};

const CONFIG: MediaType = MediaType::OCI_CONFIG;

/// Adds a manifest that refers to `subject`; tells its descriptor.
fn attach(
    content: &mut Content,
    tag: &str,
    subject: &Descriptor,
    kind: Option<&str>,
) -> Descriptor {
    let blob = format!("{{\"os\":\"linux\",\"architecture\":\"amd64\",\"x\":\"{tag}\"}}");
    content.add_blob(blob.as_bytes());
    let config = Descriptor::of(CONFIG, blob.as_bytes());
    let manifest = Raw::write(Manifest {
        subject: Some(subject.clone()),
        artifact_type: kind.map(MediaType::new),
        annotations: [("org.example.tag".to_owned(), tag.to_owned())].into(),
        ..Manifest::new(config, Vec::new())
    });
    content.add_manifest(tag, MediaType::OCI_MANIFEST, manifest.bytes());
    Descriptor::of(MediaType::OCI_MANIFEST, manifest.bytes())
}

/// The list of what refers to `subject`, with all of it.
fn listed(davit: &Davit, name: &str, subject: &Digest) -> Vec<Descriptor> {
    let folder = TempDir::new();
    let tag = subject.to_string().replace(':', "-");
    let place = format!("oci:{}", folder.join("list").display());
    let digest = davit.ok(["copy", "-q", &format!("docker://{name}:{tag}"), &place]);
    let digest: Digest = digest.parse().unwrap();
    let blob = folder.join("list/blobs/sha256").join(digest.hex());
    let index = Raw::<Index>::from_bytes(fs_err::read(blob).unwrap()).unwrap();
    assert_eq!(index.value().media_type, Some(MediaType::OCI_INDEX));
    index.into_value().manifests
}

#[test]
fn the_client_lists_what_the_registry_does_not() {
    let Some(registry) = Registry::start(Access::Open) else { return };
    let mut content = Content::default();
    let subject = content.add_image("v1", &Platform::host(), &[layer("a")]).manifest;
    let first = attach(&mut content, "first", &subject, Some("application/x.first"));
    let second = attach(&mut content, "second", &subject, None);
    let nested = Raw::write(Index {
        subject: Some(subject.clone()),
        artifact_type: Some(MediaType::new("application/x.set")),
        ..Index::new(vec![second.clone()])
    });
    content.add_manifest("nested", MediaType::OCI_INDEX, nested.bytes());
    let signed = attach(&mut content, "signed", &first, None);
    let server = serve(content);
    let (davit, folder) = (davit(), TempDir::new());
    let (from, to) = (format!("{}/x", server.host()), format!("{}/x", registry.host()));
    let layout = |tag: &str| format!("oci:{}:{tag}", folder.join("layout").display());
    for tag in ["v1", "first", "first", "nested"] {
        davit.ok(["copy", "-q", &format!("docker://{from}:{tag}"), &layout(tag)]);
        davit.ok(["copy", "-q", &layout(tag), &format!("docker://{to}:{tag}")]);
    }
    let list = listed(&davit, &to, &subject.digest);
    let find = |digest: Digest| list.iter().find(|entry| entry.digest == digest).unwrap();
    assert_eq!(list.len(), 3, "{list:?}");
    let (one, two) = (find(first.digest), find(second.digest));
    assert_eq!(one.artifact_type, Some(MediaType::new("application/x.first")));
    assert_eq!((one.size, one.media_type.clone()), (first.size, MediaType::OCI_MANIFEST));
    assert_eq!(one.annotations["org.example.tag"], "first");
    assert_eq!(two.artifact_type, Some(CONFIG));
    let set = find(nested.digest());
    assert_eq!(set.media_type, MediaType::OCI_INDEX);
    assert_eq!(set.artifact_type, Some(MediaType::new("application/x.set")));

    // A push does the same.
    davit.ok(["pull", "-q", &format!("{from}:signed")]);
    davit.ok(["tag", &format!("{from}:signed"), &format!("{to}:signed")]);
    davit.ok(["push", "-q", &format!("{to}:signed")]);
    let list = listed(&davit, &to, &first.digest);
    assert_eq!((list.len(), list[0].digest), (1, signed.digest));
}

/// The manifest and its tag are there by then; a registry with the API is asked for no list.
#[test]
fn a_list_that_fails_is_told_last() {
    let mut content = Content::default();
    let subject = content.add_image("v1", &Platform::host(), &[layer("a")]).manifest;
    attach(&mut content, "att", &subject, None);
    let server = serve(content);
    let from = format!("docker://{}/x:att", server.host());
    for (lists, code) in [(false, 1), (true, 0)] {
        let registry = HttpServer::start(move |request| match request.method.as_str() {
            "PUT" if request.path.contains("/manifests/sha256-") => Reply::status(405),
            "PUT" if lists => Reply::status(201).header("OCI-Subject", "x"),
            "PUT" => Reply::status(201),
            "HEAD" if request.path.contains("/blobs/") => Reply::ok(""),
            _ => Reply::status(404),
        });
        let to = format!("{}/x", registry.host());
        let outcome = davit().run(["copy", &from, &format!("docker://{to}:att")]);
        assert_eq!(outcome.code, code, "{}", outcome.stderr);
        let tag = subject.digest.to_string().replace(':', "-");
        let lines = registry.lines();
        let named = lines.iter().position(|line| line == "PUT /v2/x/manifests/att");
        let list = lines.iter().position(|line| line.ends_with(&tag));
        assert!(named.is_some() && list.is_none_or(|list| Some(list) > named), "{lines:?}");
        assert_eq!(list.is_none(), lists, "{lines:?}");
        let told = format!("list {to}:{tag} cannot be updated");
        assert_eq!(outcome.stderr.contains(&told), !lists, "{}", outcome.stderr);
    }
}
