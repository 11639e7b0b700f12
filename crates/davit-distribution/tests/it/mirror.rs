//! Mirrors: asked first, trusted with nothing.

use davit_distribution::{Access, ClientConfig, RegistryConfig, Target};
use davit_image::{MediaType, Tag};
use davit_test::{End, HttpServer, Reply};

use crate::fixture::{Content, blob_descriptor, config, manifest, noise, read, session_with};

fn with_mirror(server: &HttpServer, mirror: &HttpServer) -> ClientConfig {
    let mirrors = vec![format!("http://{}/proxy", mirror.host()).parse().unwrap()];
    let registry = RegistryConfig { mirrors, ..RegistryConfig::default() };
    ClientConfig { registries: [(server.host(), registry)].into(), ..config() }
}

/// A mirror that serves `content` below `/proxy`.
fn mirror(content: Content, end: End) -> HttpServer {
    HttpServer::start(move |request| {
        let mut request = request.clone();
        request.path = request.path.strip_prefix("/proxy").unwrap().to_owned();
        content.serve(&request).end(end)
    })
}

#[tokio::test]
async fn mirrors_are_asked_first_and_told_for_whom() {
    let raw = manifest();
    let content = Content::default().manifest("latest", MediaType::OCI_MANIFEST, raw.bytes());
    let mirror = mirror(content, End::Whole);
    let server = HttpServer::start(|_| Reply::status(500));
    let session = session_with(with_mirror(&server, &mirror), &server.host(), Access::Pull);
    session.manifest(&Target::Tag(Tag::latest())).await.unwrap();
    assert_eq!(mirror.lines(), ["GET /proxy/v2/a/b/manifests/latest"]);
    let host = server.host().replace(':', "%3A");
    assert_eq!(mirror.requests()[0].query, format!("ns={host}"));
}

#[tokio::test]
async fn a_mirror_that_fails_is_passed_over() {
    let (raw, layer) = (manifest(), noise(200_000));
    let content =
        || Content::default().manifest("latest", MediaType::OCI_MANIFEST, raw.bytes()).blob(&layer);
    let mirrors = [
        mirror(Content::default(), End::Whole),
        mirror(content(), End::Cut(1000)),
        mirror(content(), End::NoReply),
        HttpServer::start(|_| Reply::status(401).header("WWW-Authenticate", "Basic realm=\"m\"")),
    ];
    for mirror in mirrors {
        let content = content();
        let server = HttpServer::start(move |request| content.serve(request));
        let session = session_with(with_mirror(&server, &mirror), &server.host(), Access::Pull);
        session.manifest(&Target::Tag(Tag::latest())).await.unwrap();
        assert_eq!(read(&session, &blob_descriptor(&layer)).await.unwrap(), layer);
        assert!(!server.requests().is_empty());
    }
}

#[tokio::test]
async fn pushes_leave_mirrors_out() {
    let mirror = HttpServer::start(|_| Reply::status(500));
    let server = HttpServer::start(|_| Reply::status(201));
    let session = session_with(with_mirror(&server, &mirror), &server.host(), Access::Push);
    let bytes = manifest().bytes().to_vec();
    session
        .put_manifest(&Target::Tag(Tag::latest()), &MediaType::OCI_MANIFEST, bytes)
        .await
        .unwrap();
    assert!(mirror.requests().is_empty());
}
