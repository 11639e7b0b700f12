//! Mirrors: asked first, trusted with nothing.

use davit_distribution::{Access, ClientConfig, RegistryConfig, Target};
use davit_image::{MediaType, Tag};
use davit_test::{End, HttpServer, Reply, Request};

use crate::fixture::{Content, blob_descriptor, config, manifest, noise, read, session_with};

fn with_mirror(server: &HttpServer, mirror: &HttpServer) -> ClientConfig {
    let mirrors = vec![format!("http://{}/proxy", mirror.host()).parse().unwrap()];
    let registry = RegistryConfig { mirrors, ..RegistryConfig::default() };
    ClientConfig { registries: [(server.host(), registry)].into(), ..config() }
}

/// What `content` answers below `/proxy`.
fn serve_below(content: &Content, request: &Request) -> Reply {
    let mut request = request.clone();
    request.path = request.path.strip_prefix("/proxy").unwrap().to_owned();
    content.serve(&request)
}

fn mirror(content: Content, end: End) -> HttpServer {
    HttpServer::start(move |request| serve_below(&content, request).end(end))
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

/// A mirror saves time or nothing: it gets one try, for the manifest or for a blob.
#[tokio::test]
async fn a_mirror_out_of_order_is_asked_once() {
    let (raw, layers) = (manifest(), [noise(2000), noise(3000)]);
    let content = || {
        let content = Content::default();
        content.manifest("latest", MediaType::OCI_MANIFEST, raw.bytes())
    };
    for broken in ["", "/blobs/"] {
        for reply in [Reply::status(503), Reply::status(429), Reply::default().end(End::NoReply)] {
            let own = content();
            let mirror = HttpServer::start(move |request| {
                if request.path.contains(broken) {
                    reply.clone()
                } else {
                    serve_below(&own, request)
                }
            });
            let content = content().blob(&layers[0]).blob(&layers[1]);
            let server = HttpServer::start(move |request| content.serve(request));
            let config = with_mirror(&server, &mirror);
            let session = session_with(config, &server.host(), Access::Pull);
            session.manifest(&Target::Tag(Tag::latest())).await.unwrap();
            for layer in &layers {
                assert_eq!(read(&session, &blob_descriptor(layer)).await.unwrap(), *layer);
            }
            let asked = mirror.lines();
            assert_eq!(asked.iter().filter(|line| line.contains(broken)).count(), 1, "{asked:?}");
        }
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
