//! Files of web servers: what is here already, and whose credentials go where.

use std::net::Ipv4Addr;

use davit_distribution::{Client, Error, Secret, Wanted};
use davit_test::{HttpServer, Reply};

use crate::fixture::{Counter, config};

async fn text(wanted: &Wanted) -> Option<String> {
    let mut body = Client::new(config()).find(wanted).await.unwrap()?;
    let mut bytes = Vec::new();
    while let Some(piece) = body.next_chunk().await.unwrap() {
        bytes.extend_from_slice(&piece);
    }
    Some(String::from_utf8(bytes).unwrap())
}

fn wanted(server: &HttpServer, path: &str) -> Wanted {
    Wanted { address: format!("http://{}{path}", server.host()), ..Wanted::default() }
}

#[tokio::test]
async fn a_file_that_is_here_is_not_sent_again() {
    let server = HttpServer::start(|request| {
        let known = request.header("if-none-match") == Some("\"a\"")
            || request.header("if-modified-since") == Some("Mon, 02 Jan 2006 15:04:05 GMT");
        match request.path.as_str() {
            "/obeys" if known => Reply::status(304),
            "/weak" => Reply::ok("x").header("ETag", "W/\"a\""),
            "/changed" => Reply::ok("x").header("ETag", "\"b\""),
            _ => Reply::ok("x").header("ETag", "\"a\""),
        }
    });
    for (path, etag, modified, expected) in [
        ("/obeys", None, None, Some("x")),
        ("/obeys", Some("\"a\""), None, None),
        ("/obeys", None, Some("Mon, 02 Jan 2006 15:04:05 GMT"), None),
        // A server that knows tags, but not what they are for.
        ("/ignores", Some("\"a\""), None, None),
        ("/weak", Some("\"a\""), None, None),
        ("/changed", Some("\"a\""), None, Some("x")),
        ("/ignores", None, None, Some("x")),
    ] {
        let etag = etag.map(str::to_owned);
        let modified = modified.map(str::to_owned);
        let found = text(&Wanted { etag, modified, ..wanted(&server, path) }).await;
        assert_eq!(found.as_deref(), expected, "{path}");
    }
}

#[tokio::test]
async fn what_stands_for_the_content_is_old_enough() {
    let server = HttpServer::start(|request| {
        let reply = Reply::ok("x").header("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT");
        match request.path.as_str() {
            "/old" => reply.header("Date", "Mon, 02 Jan 2006 15:05:05 GMT"),
            "/fresh" => reply.header("Date", "Mon, 02 Jan 2006 15:04:06 GMT"),
            _ => reply,
        }
    });
    for (path, strong) in [("/old", true), ("/fresh", false), ("/undated", false)] {
        let found = Client::new(config()).find(&wanted(&server, path)).await.unwrap();
        let body = found.unwrap();
        assert_eq!(body.modified(), Some(1_136_214_245), "{path}");
        assert_eq!(body.strong_modified().is_some(), strong, "{path}");
    }
}

#[tokio::test]
async fn an_authorization_is_for_its_own_host() {
    let other = HttpServer::start_at(Ipv4Addr::new(127, 0, 0, 2), |_| Reply::ok("elsewhere"));
    let elsewhere = format!("http://{}/f", other.host());
    let server = HttpServer::start(move |request| match request.path.as_str() {
        _ if request.header("authorization") != Some("Bearer t") => Reply::status(401),
        "/away" => Reply::status(302).header("Location", &elsewhere),
        "/moved" => Reply::status(302).header("Location", "/f"),
        _ => Reply::ok("here"),
    });
    let authorization = Some(Secret::new("Bearer t"));
    let with =
        |path: &str| Wanted { authorization: authorization.clone(), ..wanted(&server, path) };
    assert_eq!(text(&with("/f")).await.as_deref(), Some("here"));
    assert_eq!(text(&with("/moved")).await.as_deref(), Some("here"));
    assert_eq!(text(&with("/away")).await.as_deref(), Some("elsewhere"));
    assert_eq!(other.requests().len(), 1);
    assert_eq!(other.requests()[0].header("authorization"), None);
    // The account of an address makes room for it.
    let address = format!("http://u:p@{}/f", server.host());
    assert_eq!(text(&Wanted { address, ..with("") }).await.as_deref(), Some("here"));
    let denied = Client::new(config()).find(&wanted(&server, "/f")).await;
    assert!(matches!(denied, Err(Error::Denied { .. })), "{denied:?}");
    let broken = Wanted { authorization: Some(Secret::new("a\nb")), ..with("/f") };
    let refused = Client::new(config()).find(&broken).await.unwrap_err();
    assert!(!refused.to_string().contains("a\nb"), "{refused}");
}

#[tokio::test]
async fn what_fails_for_the_moment_is_tried_again() {
    let counter = Counter::default();
    let server = HttpServer::start(move |request| match request.path.as_str() {
        "/never" => Reply::status(503),
        _ if counter.next() == 0 => Reply::status(503),
        _ => Reply::ok("x"),
    });
    assert_eq!(text(&wanted(&server, "/f")).await.as_deref(), Some("x"));
    let failed = Client::new(config()).find(&wanted(&server, "/never")).await;
    assert!(matches!(failed, Err(Error::Status { status: 503, .. })), "{failed:?}");
    for address in ["ftp://h/f", "no address"] {
        let wanted = Wanted { address: address.to_owned(), ..Wanted::default() };
        assert!(matches!(Client::new(config()).find(&wanted).await, Err(Error::Protocol { .. })));
    }
}
