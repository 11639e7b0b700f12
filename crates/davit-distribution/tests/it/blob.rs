//! Downloads: broken, slow, lying and redirecting servers.

use std::net::Ipv4Addr;

use davit_distribution::{Access, Error};
use davit_image::{Digest, MediaType};
use davit_test::{End, HttpServer, Reply, Request};

use crate::fixture::{
    Content, Counter, blob_descriptor, config, impatient, noise, ranged, read, session,
    session_with,
};

const SIZE: usize = 300_000;

/// Starts a registry whose `n`-th answer to a blob request `fault` may replace.
fn faulty(
    content: &[u8],
    fault: impl Fn(usize, &Request, Reply) -> Reply + Send + Sync + 'static,
) -> HttpServer {
    let counter = Counter::default();
    let registry = Content::default().blob(content);
    HttpServer::start(move |request| {
        let reply = registry.serve(request);
        if request.path.contains("/blobs/") { fault(counter.next(), request, reply) } else { reply }
    })
}

fn ranges(server: &HttpServer) -> Vec<Option<String>> {
    let requests = server.requests();
    let blobs = requests.iter().filter(|request| request.path.contains("/blobs/"));
    blobs.map(|request| request.header("range").map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_blob_arrives_whole() {
    let content = noise(SIZE);
    let server = faulty(&content, |_, _, reply| reply);
    assert_eq!(read(&session(&server), &blob_descriptor(&content)).await.unwrap(), content);
    assert_eq!(ranges(&server), [None]);
}

#[tokio::test]
async fn a_truncated_body_is_resumed_by_range() {
    let content = noise(SIZE);
    let server = faulty(&content, |n, _, reply| match n {
        0 => reply.end(End::Cut(100_000)),
        1 => reply.end(End::Cut(50_000)),
        _ => reply,
    });
    assert_eq!(read(&session(&server), &blob_descriptor(&content)).await.unwrap(), content);
    let last = SIZE - 1;
    let expected =
        [None, Some(format!("bytes=100000-{last}")), Some(format!("bytes=150000-{last}"))];
    assert_eq!(ranges(&server), expected);
}

#[tokio::test]
async fn a_server_that_ignores_range_has_its_first_bytes_skipped() {
    let content = noise(SIZE);
    let copy = content.clone();
    let server = faulty(&content, move |n, _, _| match n {
        0 => Reply::ok(copy.clone()).end(End::Cut(100_000)),
        _ => Reply::ok(copy.clone()),
    });
    assert_eq!(read(&session(&server), &blob_descriptor(&content)).await.unwrap(), content);
    assert_eq!(ranges(&server).len(), 2);
}

#[tokio::test]
async fn a_download_starts_at_a_given_offset() {
    let content = noise(SIZE);
    let server = faulty(&content, |_, _, reply| reply);
    let mut blob = session(&server).blob(&blob_descriptor(&content), 250_000).await.unwrap();
    let mut rest = Vec::new();
    while let Some(chunk) = blob.next_chunk().await.unwrap() {
        rest.extend_from_slice(&chunk);
    }
    assert_eq!(rest, content[250_000..]);
    assert_eq!(ranges(&server), [Some(format!("bytes=250000-{}", SIZE - 1))]);
}

#[tokio::test]
async fn nothing_is_asked_for_when_nothing_is_missing() {
    let content = noise(10);
    let server = faulty(&content, |_, _, reply| reply);
    let mut blob = session(&server).blob(&blob_descriptor(&content), 10).await.unwrap();
    assert!(blob.next_chunk().await.unwrap().is_none());
    let empty = blob_descriptor(b"");
    assert!(read(&session(&server), &empty).await.unwrap().is_empty());
    assert!(ranges(&server).is_empty());
}

#[tokio::test]
async fn stalls_and_trickles_are_given_up_and_resumed() {
    for end in [End::Stall(1000), End::Trickle(1000), End::Silence, End::NoReply] {
        let content = noise(SIZE);
        let server =
            faulty(&content, move |n, _, reply| if n == 0 { reply.end(end) } else { reply });
        let session = session_with(impatient(20), &server.host(), Access::Pull);
        let result = read(&session, &blob_descriptor(&content)).await;
        assert_eq!(result.unwrap(), content, "{end:?}");
        assert!(ranges(&server).len() >= 2, "{end:?}");
    }
}

#[tokio::test]
async fn a_server_that_always_stalls_is_an_error_in_the_end() {
    let content = noise(SIZE);
    let server = faulty(&content, |_, _, reply| reply.end(End::Stall(0)));
    let session = session_with(impatient(3), &server.host(), Access::Pull);
    let result = read(&session, &blob_descriptor(&content)).await;
    assert!(matches!(result, Err(Error::Stalled { .. })), "{result:?}");
    assert_eq!(ranges(&server).len(), 3);
}

#[tokio::test]
async fn wrong_bytes_are_a_digest_error() {
    let content = noise(SIZE);
    let server = faulty(&content, |_, _, reply| reply.body(noise(SIZE + 1)[1..].to_vec()));
    let result = read(&session(&server), &blob_descriptor(&content)).await;
    let Err(error @ Error::Digest { .. }) = result else { panic!("{result:?}") };
    assert!(error.is_corrupt() && !error.is_transient());
}

#[tokio::test]
async fn wrong_lengths_are_size_errors_without_another_try() {
    let shorter = |content: &[u8]| content[..SIZE - 1].to_vec();
    let longer = |content: &[u8]| [content, &[0]].concat();
    let content = noise(SIZE);
    for body in [shorter(&content), longer(&content)] {
        let server = faulty(&content, move |_, _, _| Reply::ok(body.clone()));
        let result = read(&session(&server), &blob_descriptor(&content)).await;
        assert!(matches!(result, Err(Error::Size { .. })), "{result:?}");
        assert_eq!(ranges(&server).len(), 1);
    }
}

#[tokio::test]
async fn an_endless_body_ends_at_the_descriptors_size() {
    let content = noise(SIZE);
    let server = faulty(&content, |_, _, reply| reply.end(End::Endless));
    let result = read(&session(&server), &blob_descriptor(&content)).await;
    assert!(matches!(result, Err(Error::Size { .. })), "{result:?}");
}

#[tokio::test]
async fn lying_ranges_are_refused() {
    let content = noise(SIZE);
    for range in ["bytes 200000-299999/300000", "bytes 100000-299999/300001", "nonsense"] {
        let server = faulty(&content, move |n, _, reply| match n {
            0 => reply.end(End::Cut(100_000)),
            _ => Reply::status(206).header("Content-Range", range).body(noise(200_000)),
        });
        let result = read(&session(&server), &blob_descriptor(&content)).await;
        assert!(
            matches!(result, Err(Error::Protocol { .. } | Error::Size { .. })),
            "{range}: {result:?}"
        );
    }
}

#[tokio::test]
async fn an_encoded_body_is_refused() {
    let content = noise(SIZE);
    let server = faulty(&content, |_, _, reply| reply.header("Content-Encoding", "gzip"));
    let result = read(&session(&server), &blob_descriptor(&content)).await;
    assert!(matches!(result, Err(Error::Protocol { .. })), "{result:?}");
    assert_eq!(server.requests().last().unwrap().header("accept-encoding"), Some("identity"));
}

#[tokio::test]
async fn busy_servers_are_asked_again() {
    for status in [429, 500, 502, 503, 504] {
        let content = noise(100);
        let server = faulty(&content, move |n, _, reply| match n {
            0 => Reply::status(status).header("Retry-After", "0"),
            1 => Reply::status(status).header("Retry-After", "1"),
            _ => reply,
        });
        assert_eq!(read(&session(&server), &blob_descriptor(&content)).await.unwrap(), content);
    }
}

#[tokio::test]
async fn a_wait_that_is_too_long_is_an_error_with_the_time() {
    let content = noise(100);
    let server = faulty(&content, |_, _, _| {
        Reply::status(429)
            .header("Retry-After", "3600")
            .body(r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#)
    });
    let error = read(&session(&server), &blob_descriptor(&content)).await.unwrap_err();
    assert!(error.is_rate_limit());
    assert_eq!(error.retry_after().unwrap().as_secs(), 3600);
    assert!(error.to_string().ends_with("answered 429: TOOMANYREQUESTS: slow down"), "{error}");
    assert_eq!(ranges(&server).len(), 1);
}

#[tokio::test]
async fn refusals_are_not_repeated() {
    for status in [400, 404, 410, 416] {
        let content = noise(100);
        let server = faulty(&content, move |_, _, _| Reply::status(status));
        assert!(read(&session(&server), &blob_descriptor(&content)).await.is_err());
        assert_eq!(ranges(&server).len(), 1, "{status}");
    }
}

#[tokio::test]
async fn redirects_are_followed_without_credentials() {
    let content = noise(SIZE);
    let store = Content::default().blob(&content);
    // Another host: all of 127/8 is this machine.
    let storage = HttpServer::start_at(Ipv4Addr::new(127, 0, 0, 2), move |request| {
        let digest = request.query.strip_prefix("file=").unwrap();
        let path = format!("/v2/a/b/blobs/{digest}");
        store.serve(&Request { path, ..request.clone() })
    });
    let host = storage.host();
    let server = HttpServer::start(move |request| {
        let Some(digest) = request.path.strip_prefix("/v2/a/b/blobs/") else {
            return Reply::ok("{}");
        };
        if request.header("authorization").is_none() {
            return Reply::status(401).header("WWW-Authenticate", "Basic realm=\"x\"");
        }
        Reply::status(307).header("Location", format!("http://{host}/x?file={digest}"))
    });
    let session = session(&server);
    let password = davit_distribution::Secret::new("wonderland");
    let credential =
        davit_distribution::Credential::Password { username: "alice".into(), password };
    let repository = format!("{}/a/b", server.host()).parse().unwrap();
    let client = davit_distribution::Client::new(config());
    client.use_credential(&repository, credential).await.unwrap();
    drop(session);
    let session = client.session(&repository, Access::Pull);
    assert_eq!(read(&session, &blob_descriptor(&content)).await.unwrap(), content);
    let foreign = storage.requests();
    assert!(!foreign.is_empty());
    assert!(foreign.iter().all(|request| request.header("authorization").is_none()));
    let last = server.requests().last().cloned().unwrap();
    assert_eq!(last.header("authorization"), Some("Basic YWxpY2U6d29uZGVybGFuZA=="));
}

#[tokio::test]
async fn redirects_have_an_end() {
    let content = noise(100);
    let server = faulty(&content, |_, request, _| {
        Reply::status(302).header("Location", format!("{}?again", request.path))
    });
    let error = read(&session(&server), &blob_descriptor(&content)).await.unwrap_err();
    assert!(error.to_string().contains("redirects more than"), "{error}");
}

#[tokio::test]
async fn a_foreign_layer_comes_from_its_url_without_credentials() {
    let content = noise(SIZE);
    let copy = content.clone();
    let elsewhere =
        HttpServer::start_at(Ipv4Addr::new(127, 0, 0, 3), move |request| ranged(request, &copy));
    let server = HttpServer::start(|_| Reply::status(404));
    let mut descriptor = blob_descriptor(&content);
    descriptor.media_type = MediaType::DOCKER_FOREIGN_LAYER_GZIP;
    descriptor.urls = vec![
        "file:///etc/passwd".into(),
        "ftp://127.0.0.3/x".into(),
        format!("http://{}/layer", elsewhere.host()),
    ];
    assert_eq!(read(&session(&server), &descriptor).await.unwrap(), content);
    assert_eq!(elsewhere.lines(), ["GET /layer"]);
    assert_eq!(elsewhere.requests()[0].header("authorization"), None);
}

#[tokio::test]
async fn a_blob_in_memory_is_bounded_before_it_is_asked_for() {
    let server = HttpServer::start(|_| Reply::status(404));
    let mut descriptor = blob_descriptor(b"x");
    descriptor.size = (8 << 20) + 1;
    let error = session(&server).blob_bytes(&descriptor).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn presence_is_asked_for_by_head() {
    let content = noise(100);
    let server = faulty(&content, |_, _, reply| reply);
    let session = session_with(config(), &server.host(), Access::Pull);
    assert_eq!(session.blob_size(&Digest::of(&content)).await.unwrap(), Some(100));
    assert_eq!(session.blob_size(&Digest::of(b"other")).await.unwrap(), None);
}
