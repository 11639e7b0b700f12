//! Uploads: mounts, broken streams, lost sessions.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use davit_distribution::{Access, BlobSource, Error, Session, SourceReader};
use davit_image::Digest;
use davit_test::{End, HttpServer, Reply, Request};

use crate::fixture::{Counter, blob_descriptor, config, impatient, noise, session_with};

const SIZE: usize = 3_000_000;

/// Bytes in memory as a source; fails at an offset where that is set.
struct Memory {
    content: Bytes,
    known: bool,
    fails: bool,
}

impl BlobSource for Memory {
    fn open(&self, offset: u64) -> SourceReader {
        let (sender, receiver) = tokio::sync::mpsc::channel(2);
        let (content, fails) = (self.content.slice(usize::try_from(offset).unwrap()..), self.fails);
        tokio::spawn(async move {
            for chunk in content.chunks(65_536) {
                if sender.send(Ok(Bytes::copy_from_slice(chunk))).await.is_err() {
                    return;
                }
            }
            if fails {
                drop(sender.send(Err("disk on fire".into())).await);
            }
        });
        receiver
    }

    fn size(&self) -> Option<u64> {
        self.known.then_some(self.content.len() as u64)
    }
}

fn source(content: &[u8], known: bool) -> Memory {
    Memory { content: Bytes::copy_from_slice(content), known, fails: false }
}

/// A registry that takes uploads; `fault` may replace its answers and says how much of a PATCH
/// arrives.
#[derive(Default)]
struct Uploads {
    received: Mutex<Vec<u8>>,
    stored: Mutex<Vec<String>>,
}

impl Uploads {
    fn serve(&self, request: &Request, taken: Option<usize>) -> Reply {
        let mut received = self.received.lock().unwrap();
        let session = "/v2/a/b/blobs/uploads/1?state=x";
        match request.method.as_str() {
            "POST" => {
                received.clear();
                Reply::status(202).header("Location", session)
            }
            "PATCH" => {
                let taken = taken.unwrap_or(request.body.len()).min(request.body.len());
                received.extend_from_slice(&request.body[..taken]);
                Reply::status(202).header("Location", session)
            }
            "GET" => Reply::status(204)
                .header("Range", format!("0-{}", received.len().saturating_sub(1)))
                .header("Location", session),
            "PUT" => {
                received.extend_from_slice(&request.body);
                let digest = Digest::of(&received).to_string();
                let asked = request.query.replace("%3A", ":");
                if !asked.ends_with(&format!("digest={digest}")) {
                    return Reply::status(400).body(r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#);
                }
                self.stored.lock().unwrap().push(digest);
                Reply::status(201)
            }
            _ => Reply::status(404),
        }
    }
}

fn server(
    fault: impl Fn(&Request, &Uploads) -> Option<Reply> + Send + Sync + 'static,
) -> (HttpServer, Arc<Uploads>) {
    let uploads = Arc::new(Uploads::default());
    let shared = Arc::clone(&uploads);
    let server = HttpServer::start(move |request| {
        fault(request, &shared).unwrap_or_else(|| shared.serve(request, None))
    });
    (server, uploads)
}

fn push(server: &HttpServer) -> Session {
    session_with(config(), &server.host(), Access::Push)
}

#[tokio::test]
async fn small_content_goes_in_one_request() {
    let (server, uploads) = server(|_, _| None);
    let uploaded = push(&server).upload_bytes(Bytes::from_static(b"config")).await.unwrap();
    assert_eq!(uploaded.digest, Digest::of(b"config"));
    assert_eq!(uploads.stored.lock().unwrap().len(), 1);
    let lines = server.lines();
    assert_eq!(lines, ["POST /v2/a/b/blobs/uploads/", "PUT /v2/a/b/blobs/uploads/1"]);
    assert!(server.requests()[1].query.starts_with("state=x&digest=sha256"));
}

#[tokio::test]
async fn large_content_is_streamed_once_and_hashed() {
    for known in [true, false] {
        let content = noise(SIZE);
        let (server, _uploads) = server(|_, _| None);
        let uploaded = push(&server).upload(&source(&content, known), None).await.unwrap();
        assert_eq!(uploaded.digest, Digest::of(&content));
        assert_eq!((uploaded.size_bytes, uploaded.sent_bytes), (SIZE as u64, SIZE as u64));
        let patch = &server.requests()[1];
        assert_eq!(patch.header("transfer-encoding").is_none(), known);
    }
}

#[tokio::test]
async fn a_broken_stream_goes_on_where_the_registry_has_it() {
    for known in [true, false] {
        let content = noise(SIZE);
        let counter = Counter::default();
        let (server, _uploads) = server(move |request, uploads| {
            (request.method == "PATCH" && counter.next() == 0).then(|| {
                drop(uploads.serve(request, Some(1_000_000)));
                Reply::default().end(End::NoReply)
            })
        });
        let uploaded = push(&server).upload(&source(&content, known), None).await.unwrap();
        assert_eq!(uploaded.digest, Digest::of(&content));
        let patches: Vec<_> =
            server.requests().into_iter().filter(|request| request.method == "PATCH").collect();
        assert_eq!(patches[1].body, content[1_000_000..]);
        let range = known.then(|| format!("1000000-{}", SIZE - 1));
        assert_eq!(patches[1].header("content-range"), range.as_deref());
    }
}

#[tokio::test]
async fn a_forgotten_session_is_begun_again() {
    let content = noise(SIZE);
    let counter = Counter::default();
    let (server, _uploads) = server(move |request, _| {
        let first = request.method == "PATCH" && counter.next() == 0;
        (first || request.method == "GET").then(|| Reply::status(404))
    });
    let uploaded = push(&server).upload(&source(&content, true), None).await.unwrap();
    assert_eq!(uploaded.digest, Digest::of(&content));
    assert_eq!(uploaded.sent_bytes, 2 * SIZE as u64);
}

#[tokio::test]
async fn a_lost_answer_to_the_last_request_is_no_failure() {
    let content = noise(1000);
    let counter = Counter::default();
    let digest = Digest::of(&content);
    let (server, uploads) = server(move |request, uploads| match request.method.as_str() {
        "PUT" if counter.next() == 0 => {
            drop(uploads.serve(request, None));
            Some(Reply::default().end(End::NoReply))
        }
        "PUT" => Some(Reply::status(404)),
        "HEAD" if request.path.ends_with(&digest.to_string()) => Some(Reply::status(200)),
        _ => None,
    });
    push(&server).upload(&source(&content, true), None).await.unwrap();
    assert_eq!(uploads.stored.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn content_that_is_not_what_was_said_is_not_committed() {
    let content = noise(1000);
    let (server, uploads) = server(|_, _| None);
    let other = blob_descriptor(&noise(1001)[1..]);
    let error = push(&server).upload(&source(&content, true), Some(&other)).await.unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    let longer = blob_descriptor(&noise(1001));
    let error = push(&server).upload(&source(&content, false), Some(&longer)).await.unwrap_err();
    assert!(matches!(error, Error::Size { .. }), "{error}");
    assert!(uploads.stored.lock().unwrap().is_empty());
    assert_eq!(server.lines().iter().filter(|line| line.starts_with("DELETE")).count(), 2);
}

#[tokio::test]
async fn a_source_that_fails_is_the_error() {
    let (server, _uploads) = server(|_, _| None);
    let broken = Memory { content: noise(1000).into(), known: false, fails: true };
    let error = push(&server).upload(&broken, None).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, "disk on fire", "{error}");
}

#[tokio::test]
async fn refused_uploads_say_why() {
    let (server, _uploads) = server(|request, _| {
        (request.method == "PATCH")
            .then(|| Reply::status(413).body(r#"{"errors":[{"code":"SIZE_INVALID"}]}"#))
    });
    let error = push(&server).upload(&source(&noise(1000), true), None).await.unwrap_err();
    assert!(error.to_string().ends_with("answered 413: SIZE_INVALID"), "{error}");
}

#[tokio::test]
async fn a_server_that_takes_nothing_is_given_up() {
    let (server, _uploads) = server(|request, _| {
        (request.method == "PATCH").then(|| Reply::default().end(End::Silence))
    });
    let push = session_with(impatient(3), &server.host(), Access::Push);
    let error = push.upload(&source(&noise(1000), true), None).await.unwrap_err();
    assert!(matches!(error, Error::Stalled { .. }), "{error}");
}

#[tokio::test]
async fn mounts_need_the_other_repositorys_name() {
    let (server, _uploads) = server(|request, _| {
        let mount = format!("mount={}&from=base%2Fimage", Digest::of(b"x")).replacen(':', "%3A", 1);
        (request.query == mount).then(|| Reply::status(201))
    });
    let session = push(&server);
    let from = format!("{}/base/image", server.host()).parse().unwrap();
    assert!(session.mount_blob(&Digest::of(b"x"), &from).await.unwrap());
    // What is answered by an upload session is no mount, and the session is given up.
    assert!(!session.mount_blob(&Digest::of(b"y"), &from).await.unwrap());
    assert!(server.lines().last().unwrap().starts_with("DELETE "));
    let elsewhere = "other.example/base/image".parse().unwrap();
    assert!(!session.mount_blob(&Digest::of(b"x"), &elsewhere).await.unwrap());
}
