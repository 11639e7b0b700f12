//! Manifests: resolve, fetch, put; confusing and oversized ones.

use davit_distribution::{Access, Error, Target};
use davit_image::{Digest, Document, Index, MediaType, Raw, Tag};
use davit_test::{End, HttpServer, Reply};

use crate::fixture::{Content, config, manifest, session, session_with};

fn tag() -> Target {
    Target::Tag(Tag::latest())
}

#[tokio::test]
async fn a_tag_resolves_by_head_and_is_fetched() {
    let raw = manifest();
    let content = Content::default().manifest("latest", MediaType::OCI_MANIFEST, raw.bytes());
    let server = HttpServer::start(move |request| content.serve(request));
    let session = session(&server);
    let descriptor = session.resolve(&tag()).await.unwrap();
    assert_eq!((descriptor.digest, descriptor.size), (raw.digest(), raw.size_bytes()));
    assert_eq!(descriptor.media_type, MediaType::OCI_MANIFEST);
    let fetched = session.manifest(&Target::Digest(raw.digest())).await.unwrap();
    assert_eq!(fetched.document.bytes(), raw.bytes());
    let lines = server.lines();
    assert_eq!(lines[0], "HEAD /v2/a/b/manifests/latest");
    assert_eq!(lines[1], format!("GET /v2/a/b/manifests/{}", raw.digest()));
    let requests = server.requests();
    let accepted: Vec<_> =
        requests[1].headers.iter().filter(|(name, _)| name == "accept").collect();
    assert_eq!(accepted.len(), 4);
    assert!(requests[1].header("user-agent").unwrap().starts_with("davit/"));
}

#[tokio::test]
async fn a_head_that_says_too_little_is_followed_by_a_get() {
    let raw = manifest();
    let bytes = raw.bytes().to_vec();
    let server = HttpServer::start(move |_| Reply::ok(bytes.clone()));
    let descriptor = session(&server).resolve(&tag()).await.unwrap();
    assert_eq!(descriptor.digest, raw.digest());
}

#[tokio::test]
async fn a_registry_that_refuses_head_is_asked_by_get() {
    let raw = manifest();
    let replies = [405, 400, 501, 403].map(Reply::status);
    for refusal in replies.into_iter().chain([Reply::default().end(End::NoReply)]) {
        let content = Content::default().manifest("latest", MediaType::OCI_MANIFEST, raw.bytes());
        let server = HttpServer::start(move |request| match request.line().as_str() {
            "HEAD /v2/a/b/manifests/latest" => refusal.clone(),
            _ => content.serve(request),
        });
        let descriptor = session(&server).resolve(&tag()).await.unwrap();
        assert_eq!(descriptor.digest, raw.digest());
        assert_eq!(manifest_requests(&server), ["HEAD", "GET"]);
    }
}

/// A reply to HEAD has no body, so the words of the registry come by GET.
#[tokio::test]
async fn resolving_tells_what_the_registry_says() {
    let once = ["HEAD", "GET"].as_slice();
    for (status, methods) in [
        (401, once),
        (403, once),
        (400, once),
        (429, &["HEAD", "GET", "GET", "GET"]),
        (500, &["HEAD", "GET", "GET", "GET"]),
    ] {
        let server = HttpServer::start(move |request| match request.path.as_str() {
            "/v2/" => Reply::ok("{}"),
            _ => Reply::status(status)
                .body(r#"{"errors":[{"code":"DENIED","message":"not for you"}]}"#),
        });
        let error = session(&server).resolve(&tag()).await.unwrap_err();
        assert!(error.to_string().ends_with(": DENIED: not for you"), "{status}: {error}");
        assert_eq!(manifest_requests(&server), methods, "{status}");
    }
    // Neither is a registry that asks for patience asked again and again.
    let server = HttpServer::start(|_| {
        Reply::status(429).header("Retry-After", "3600").body("come back in an hour")
    });
    let error = session(&server).resolve(&tag()).await.unwrap_err();
    assert!(error.is_rate_limit() && error.to_string().ends_with("in an hour"), "{error}");
    assert_eq!(manifest_requests(&server), once);
}

/// Methods by which manifests were asked for.
fn manifest_requests(server: &HttpServer) -> Vec<String> {
    let requests = server.requests().into_iter();
    requests.filter(|r| r.path.contains("/manifests/")).map(|request| request.method).collect()
}

#[tokio::test]
async fn content_must_have_the_digest_that_was_asked_for() {
    let raw = manifest();
    let bytes = raw.bytes().to_vec();
    let server = HttpServer::start(move |_| Reply::ok(bytes.clone()));
    let session = session(&server);
    let wrong = Target::Digest(Digest::of(b"other"));
    let error = session.manifest(&wrong).await.unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
}

#[tokio::test]
async fn content_must_have_the_digest_that_the_server_names() {
    let bytes = manifest().bytes().to_vec();
    let server = HttpServer::start(move |_| {
        Reply::ok(bytes.clone()).header("Docker-Content-Digest", Digest::of(b"other"))
    });
    let error = session(&server).manifest(&tag()).await.unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
}

#[tokio::test]
async fn sha512_digests_are_verified_too() {
    let raw = manifest();
    let bytes = raw.bytes().to_vec();
    let long = Digest::of_with(davit_image::Algorithm::Sha512, &bytes);
    let server = HttpServer::start(move |_| Reply::ok(bytes.clone()));
    let fetched = session(&server).manifest(&Target::Digest(long)).await.unwrap();
    assert_eq!(fetched.descriptor.digest, long);
}

#[tokio::test]
async fn confusing_documents_are_refused() {
    let raw = manifest();
    let index = Raw::write(Index::new(Vec::new()));
    let oci = MediaType::OCI_MANIFEST;
    let ambiguous =
        String::from_utf8(raw.bytes().to_vec()).unwrap().replacen('{', r#"{"manifests":[],"#, 1);
    let cases: [(&str, MediaType, Vec<u8>); 7] = [
        ("both kinds", oci.clone(), ambiguous.into_bytes()),
        ("other type than declared", MediaType::DOCKER_MANIFEST, raw.bytes().to_vec()),
        ("index as manifest", oci.clone(), index.bytes().to_vec()),
        ("schema 1", MediaType::DOCKER_MANIFEST_V1, br#"{"schemaVersion":1,"fsLayers":[]}"#.into()),
        ("no JSON", oci.clone(), b"<html>".to_vec()),
        ("deep JSON", oci.clone(), "[".repeat(100_000).into_bytes()),
        ("path as digest", oci, br#"{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:../../../../etc/passwd","size":1},"layers":[]}"#.into()),
    ];
    for (name, kind, bytes) in cases {
        let content = Content::default().manifest("latest", kind, &bytes);
        let server = HttpServer::start(move |request| content.serve(request));
        let error = session(&server).manifest(&tag()).await.unwrap_err();
        assert!(matches!(error, Error::Document { .. }), "{name}: {error}");
    }
}

#[tokio::test]
async fn an_oversized_manifest_is_not_read() {
    let large = vec![b' '; (4 << 20) + 1];
    for end in [End::Whole, End::Endless] {
        let large = large.clone();
        let server = HttpServer::start(move |_| Reply::ok(large.clone()).end(end));
        let error = session(&server).manifest(&tag()).await.unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    }
}

#[tokio::test]
async fn an_absent_manifest_is_told_from_other_errors() {
    let server = HttpServer::start(move |request| Content::default().serve(request));
    let error = session(&server).manifest(&tag()).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert!(error.to_string().ends_with("does not exist: NAME_UNKNOWN"), "{error}");
    assert!(session(&server).resolve(&tag()).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn error_bodies_are_bounded_and_printable() {
    let server = HttpServer::start(|_| {
        let message = "\u{1b}[2J".to_owned() + &"x".repeat(100_000);
        Reply::status(400).body(format!(
            r#"{{"errors":[{{"code":"DENIED","message":{}}}]}}"#,
            serde_json::to_string(&message).unwrap()
        ))
    });
    let text = session(&server).manifest(&tag()).await.unwrap_err().to_string();
    assert!(text.len() < 1000 && !text.contains('\u{1b}'), "{text}");
}

#[tokio::test]
async fn a_manifest_is_put_with_its_type() {
    let server = HttpServer::start(|request| {
        Reply::status(201)
            .header("Docker-Content-Digest", Digest::of(&request.body))
            .header("OCI-Subject", "x")
    });
    let session = session_with(config(), &server.host(), Access::Push);
    let raw = manifest();
    let kind = MediaType::OCI_MANIFEST;
    session.put_manifest(&tag(), &kind, raw.bytes().to_vec()).await.unwrap();
    let request = server.requests().pop().unwrap();
    assert_eq!(request.line(), "PUT /v2/a/b/manifests/latest");
    assert_eq!(request.header("content-type"), Some(kind.as_str()));
    assert_eq!(request.body, raw.bytes());
}

#[tokio::test]
async fn a_manifest_that_arrived_otherwise_is_an_error() {
    let server = HttpServer::start(|_| {
        Reply::status(201).header("Docker-Content-Digest", Digest::of(b"other"))
    });
    let session = session_with(config(), &server.host(), Access::Push);
    let result =
        session.put_manifest(&tag(), &MediaType::OCI_MANIFEST, manifest().bytes().to_vec()).await;
    assert!(matches!(result, Err(Error::Digest { .. })), "{result:?}");
}

#[tokio::test]
async fn an_index_is_told_from_a_manifest() {
    let index = Raw::write(Index::new(vec![manifest_entry()]));
    let content = Content::default().manifest("latest", MediaType::OCI_INDEX, index.bytes());
    let server = HttpServer::start(move |request| content.serve(request));
    let fetched = session(&server).manifest(&tag()).await.unwrap();
    assert!(matches!(fetched.document, Document::Index(_)));
}

fn manifest_entry() -> davit_image::Descriptor {
    let raw = manifest();
    davit_image::Descriptor::of(MediaType::OCI_MANIFEST, raw.bytes())
}

#[tokio::test]
async fn a_manifest_is_deleted_or_was_not_there() {
    let replies = [(202, Some(true)), (200, Some(true)), (404, Some(false)), (405, None)];
    for (status, expected) in replies {
        let server = HttpServer::start(move |_| Reply::status(status));
        let session = session_with(config(), &server.host(), Access::Delete);
        let outcome = session.delete_manifest(&tag()).await;
        assert_eq!(outcome.ok(), expected, "{status}");
        assert_eq!(server.lines().last().unwrap(), "DELETE /v2/a/b/manifests/latest");
    }
}
