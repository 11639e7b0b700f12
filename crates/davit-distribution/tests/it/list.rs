//! Lists: pages, hostile links, bounds.

use davit_distribution::{Client, Error};
use davit_test::{HttpServer, Reply};

use crate::fixture::{Counter, config, session};

#[tokio::test]
async fn tags_come_page_by_page() {
    let server = HttpServer::start(|request| {
        if request.query.contains("last=b") {
            return Reply::ok(r#"{"name":"a/b","tags":["c"]}"#);
        }
        Reply::ok(r#"{"name":"a/b","tags":["a","b"]}"#)
            .header("Link", "</v2/a/b/tags/list?last=b&n=2>; rel=\"next\"")
    });
    assert_eq!(session(&server).tags().await.unwrap(), ["a", "b", "c"]);
    let none = HttpServer::start(|_| Reply::ok(r#"{"name":"a/b","tags":null}"#));
    assert!(session(&none).tags().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_list_without_end_ends() {
    let counter = Counter::default();
    let server = HttpServer::start(move |_| {
        let n = counter.next();
        let tags: Vec<String> = (0..20_000).map(|i| format!("t{n}-{i}")).collect();
        Reply::ok(serde_json::to_vec(&serde_json::json!({ "tags": tags })).unwrap())
            .header("Link", format!("</v2/a/b/tags/list?last={n}>; rel=\"next\""))
    });
    let error = session(&server).tags().await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn empty_and_repeated_pages_end_a_list() {
    for link in ["</v2/a/b/tags/list?n=1000>", "</v2/a/b/tags/list?n=1>"] {
        let server = HttpServer::start(move |request| {
            let tags = if request.query == "n=1000" { r#"["a"]"# } else { "[]" };
            Reply::ok(format!(r#"{{"tags":{tags}}}"#)).header("Link", format!("{link}; rel=next"))
        });
        assert_eq!(session(&server).tags().await.unwrap(), ["a"]);
    }
}

#[tokio::test]
async fn malformed_lists_and_links_are_errors() {
    for (body, link) in [("<html>", ""), (r#"{"tags":["a"]}"#, "<file:///x>; rel=next")] {
        let server = HttpServer::start(move |_| Reply::ok(body).header("Link", link));
        let error = session(&server).tags().await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{error}");
    }
}

#[tokio::test]
async fn search_filters_the_catalog() {
    let server = HttpServer::start(|request| {
        assert_eq!(request.path, "/v2/_catalog");
        Reply::ok(r#"{"repositories":["base/alpine","app","alpine-tools"]}"#)
    });
    let found = Client::new(config()).search(&server.host(), "Alpine", 25).await.unwrap();
    let names: Vec<_> = found.iter().map(|entry| entry.name.clone()).collect();
    let host = server.host();
    assert_eq!(names, [format!("{host}/base/alpine"), format!("{host}/alpine-tools")]);
    let one = Client::new(config()).search(&server.host(), "", 1).await.unwrap();
    assert_eq!(one.len(), 1);
}
