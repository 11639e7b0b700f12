//! What operators see: ids of requests, metrics, readiness, traces, an end that loses nothing.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    path::Path,
    time::Duration,
};

use davit_image::Digest;
use davit_registry::config::Limits;
use davit_test::{HttpServer, TempDir, need_root, need_tool, until};

use crate::{failures::start, fixture::TestRegistry};

mod acme;
mod tls;

#[test]
fn every_reply_bears_the_id_of_its_request() {
    let registry = TestRegistry::start();
    for target in ["/v2/", "/v2/a/manifests/t", "/healthz", "/nowhere", "/v2/A/tags/list"] {
        let given = registry.send("GET", target, &[("X-Request-Id", "mine-1")], b"");
        assert_eq!(given.header("x-request-id"), Some("mine-1"), "{target}");
        let id = |given: &str| {
            let reply = registry.send("POST", target, &[("X-Request-Id", given)], b"");
            reply.header("x-request-id").unwrap().to_owned()
        };
        let (one, other) = (id("no \"id\""), id(&"x".repeat(129)));
        assert_ne!(one, other, "{target}");
        assert!(one.len() < 30 && !one.contains('"'), "{one}");
    }
}

/// Samples of a text by name and labels, checked against the format (Prometheus, § Text-based format).
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let mut kinds = BTreeMap::<&str, &str>::new();
    let mut family = "";
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split_once(' ').expect("a name and its help").0;
            continue;
        }
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, family, "help and type of one family follow each other");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(kinds.insert(name, kind).is_none(), "{name} comes twice");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect(line);
        let name = series.split('{').next().unwrap();
        let base = match kinds[family] {
            "histogram" => ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .expect(line),
            _ => name,
        };
        assert_eq!(base, family, "a sample stands in its family");
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        assert!(name.bytes().all(is_word), "{name}");
        if let Some(labels) = series.strip_prefix(name).filter(|labels| !labels.is_empty()) {
            let labels = labels.strip_prefix('{').unwrap().strip_suffix('}').unwrap();
            for label in labels.split(',') {
                let (key, value) = label.split_once('=').unwrap();
                assert!(key.bytes().all(is_word), "{label}");
                let value = value.strip_prefix('"').unwrap().strip_suffix('"').unwrap();
                assert!(!value.contains(['"', '\\', '\n']), "{label}");
            }
        }
        let value: f64 = value.parse().expect(line);
        assert!(value.is_finite() && value >= 0.0, "{line}");
        assert!(samples.insert(series.to_owned(), value).is_none(), "{series} comes twice");
    }
    samples
}

#[test]
fn metrics_are_told_without_the_database() {
    let registry = TestRegistry::start();
    let read = || parse(std::str::from_utf8(&registry.get_once("/metrics").body).unwrap());
    assert_eq!(read()["davit_registry_db_up"], 1.0);
    registry.run(registry.registry().database.close());
    let told = read();
    assert_eq!(told["davit_registry_db_up"], 0.0);
    assert!(told.contains_key("davit_registry_connections"));
    assert!(!told.contains_key("davit_registry_gc_queue"));
}

#[test]
fn metrics_can_be_read_and_tell_what_happened() {
    let registry = TestRegistry::start();
    let digest = registry.push_blob("a/b", b"0123456789");
    let session = registry.begin("a/b", "");
    let read = || parse(std::str::from_utf8(&registry.get("/metrics").body).unwrap());
    let before = read();
    // Both ways of the fixture.
    assert_eq!(registry.get(&format!("/v2/a/b/blobs/{digest}")).status, 200);
    assert_eq!(registry.send("DELETE", &session, &[], b"").status, 204);
    let after = read();
    let gained = |series: &str| after[series] - before[series];
    let blob = |name: &str| format!("davit_registry_{name}{{operation=\"GetBlob\"}}");
    let replies = "davit_registry_requests_total{operation=\"GetBlob\",status=\"2xx\"}";
    assert_eq!((gained(replies), gained(&blob("response_bytes_total"))), (2.0, 20.0));
    assert_eq!(gained(&blob("request_duration_seconds_count")), 2.0);
    assert!(gained(&blob("request_duration_seconds_sum")) > 0.0);
    assert_eq!(after["davit_registry_received_bytes_total"], 10.0);
    assert_eq!(
        (before["davit_registry_uploads_open"], after["davit_registry_uploads_open"]),
        (1.0, 0.0)
    );
    assert!(after["davit_registry_connections"] >= 1.0);
    assert!(after["process_resident_memory_bytes"] > 1e6);
    for name in [
        "davit_registry_gc_runs_total{result=\"failed\"}",
        "davit_registry_gc_queue",
        "davit_registry_trash_objects",
        "davit_registry_events_waiting",
        "davit_registry_jobs_waiting",
        "davit_registry_db_writes_waiting",
        "davit_registry_db_connections{state=\"idle\"}",
    ] {
        assert!(after.contains_key(name), "{name}");
    }
    let mut last = 0.0;
    let buckets = after.iter().filter(|(series, _)| series.contains("duration_seconds_bucket"));
    let mut of_blobs: Vec<(f64, f64)> = buckets
        .filter(|(series, _)| series.contains("\"GetBlob\""))
        .map(|(series, count)| {
            let bound = series.split("le=\"").nth(1).unwrap().trim_end_matches("\"}");
            (bound.replace("+Inf", "inf").parse().unwrap(), *count)
        })
        .collect();
    of_blobs.sort_by(|one, other| one.0.total_cmp(&other.0));
    assert_eq!(of_blobs.len(), 13);
    for (bound, count) in &of_blobs {
        assert!(*count >= last, "within {bound} s are those of the bounds below");
        last = *count;
    }
    assert_eq!(last, after[&blob("request_duration_seconds_count")]);
}

/// Case 2: ENOSPC, as those see it who ask whether the registry is ready.
#[test]
fn a_full_disk_is_not_ready() {
    if !need_root() || need_tool("unshare").is_none() {
        return;
    }
    let folder = TempDir::new();
    let script =
        "mount -t tmpfs -o size=8m davit-test \"$DAVIT_REGISTRY_FOLDER\" && exec \"$0\" \"$@\"";
    let child = start("ready", folder.path(), &["unshare", "--mount", "sh", "-c", script]);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

pub(crate) fn readiness_follows_the_disk(folder: &Path) {
    let registry = TestRegistry::serving(TempDir::new(), |settings| {
        settings.places.root = folder.join("registry");
        settings.places.database = None;
    });
    let digest = registry.push_blob("a/b", b"before");
    let becomes = |status: u16, words: &str| {
        // An answer holds for a second.
        let mut reply = registry.get("/readyz");
        until(words, || {
            reply = registry.get("/readyz");
            reply.status == status
        });
        assert_eq!(reply.body, words.as_bytes());
    };
    becomes(200, "ready\n");
    let mut ballast = fs_err::File::create(folder.join("ballast")).unwrap();
    while ballast.write_all(&[0; 4096]).is_ok() {}
    becomes(503, "the disk is full\n");
    assert_eq!(registry.get(&format!("/v2/a/b/blobs/{digest}")).status, 200);
    assert_eq!(registry.get("/healthz").status, 200);
    drop(ballast);
    fs_err::remove_file(folder.join("ballast")).unwrap();
    becomes(200, "ready\n");
    registry.stop();
}

/// Sends the head of a `PATCH` of ten bytes, and the first four of them.
fn half_a_patch(registry: &TestRegistry, session: &str) -> std::net::TcpStream {
    let mut stream = registry.connect();
    let head =
        format!("PATCH {session} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n0123");
    stream.write_all(head.as_bytes()).unwrap();
    let id = session.rsplit('/').next().unwrap();
    let file = registry.dir.join("registry").join("uploads").join(id);
    // It is made when they are taken, which came with the head.
    until("the first bytes have arrived", || file.exists());
    stream
}

fn status_line(mut stream: std::net::TcpStream) -> String {
    let mut reply = Vec::new();
    let _reset = stream.read_to_end(&mut reply);
    String::from_utf8_lossy(&reply).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn an_upload_that_does_not_end_goes_on_after_a_restart() {
    let registry = TestRegistry::start();
    let session = registry.begin("a/b", "");
    let stream = half_a_patch(&registry, &session);
    let dir = registry.stop_within(Duration::from_millis(50));
    assert!(status_line(stream).contains(" 503 "), "the client learns that it is to try again");
    let registry = TestRegistry::at(dir, Limits::default());
    let status = registry.get(&session);
    assert_eq!((status.status, status.header("range")), (204, Some("0-3")));
    let digest = Digest::of(b"0123456789");
    let rest = [("Content-Range", "4-9")];
    let target = format!("{session}?digest={digest}");
    assert_eq!(registry.send("PUT", &target, &rest, b"456789").status, 201);
    assert_eq!(registry.get(&format!("/v2/a/b/blobs/{digest}")).body, b"0123456789");
}

#[test]
fn an_upload_that_is_nearly_done_ends_before_the_server() {
    let registry = TestRegistry::start();
    let session = registry.begin("a/b", "");
    let mut stream = half_a_patch(&registry, &session);
    let address = registry.address();
    let stopping = std::thread::spawn(move || registry.stop_within(Duration::from_secs(60)));
    // Nobody new is taken from then on.
    until("nobody listens", || std::net::TcpStream::connect(address).is_err());
    stream.write_all(b"456789").unwrap();
    assert!(status_line(stream).contains(" 202 "));
    let registry = TestRegistry::at(stopping.join().unwrap(), Limits::default());
    assert_eq!(registry.get(&session).header("range"), Some("0-9"));
}

#[test]
fn no_trace_tells_the_key_of_a_webhook() {
    let key = "5ec2e7".repeat(8);
    let collector = HttpServer::start(|_| davit_test::Reply::ok("{}"));
    let url = format!("http://{}", collector.host());
    let registry = TestRegistry::serving(TempDir::new(), |settings| settings.otlp = Some(url));
    for path in [format!("/hooks/{key}"), format!("/hooks/{key}/"), format!("//hooks/{key}")] {
        registry.send("POST", &path, &[], b"{}");
    }
    registry.stop();
    let sent = collector.requests();
    let text = String::from_utf8_lossy(&sent[0].body);
    assert_eq!(text.matches(r#""/hooks/****""#).count(), 3, "{text}");
    assert!(!text.contains("5ec2e7"), "{text}");
}

#[test]
fn traces_of_requests_reach_a_collector() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let collector = HttpServer::start(|_| davit_test::Reply::ok("{}"));
    let url = format!("http://{}", collector.host());
    let registry = TestRegistry::serving(TempDir::new(), |settings| settings.otlp = Some(url));
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
    let unrecorded = format!("00-{TRACE}-b7ad6b7169203331-00");
    for traceparent in [&parent, &unrecorded] {
        let headers = [("traceparent", &**traceparent), ("X-Request-Id", "r1")];
        let reply = registry.send("POST", "/v2/a/b/blobs/uploads/", &headers, b"");
        assert_eq!(reply.status, 202);
    }
    registry.stop();
    let sent = collector.requests();
    assert_eq!(collector.lines(), ["POST /v1/traces"]);
    assert_eq!(sent[0].header("content-type"), Some("application/json"));
    let message: serde_json::Value = serde_json::from_slice(&sent[0].body).unwrap();
    let spans = message["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
    assert_eq!(spans.len(), 1, "what the caller does not record is not sent");
    let span = &spans[0];
    assert_eq!(span["traceId"], TRACE);
    assert_eq!(span["parentSpanId"], "b7ad6b7169203331");
    assert_eq!(span["name"], "POST BeginUpload");
    let time = |key: &str| span[key].as_str().unwrap().parse::<u128>().unwrap();
    assert!(time("endTimeUnixNano") >= time("startTimeUnixNano"));
    let attributes = span["attributes"].as_array().unwrap();
    let of = |key: &str| &attributes.iter().find(|one| one["key"] == key).unwrap()["value"];
    assert_eq!(of("http.response.status_code")["intValue"], "202");
    assert_eq!(of("url.path")["stringValue"], "/v2/a/b/blobs/uploads/");
    assert_eq!(of("http.request.header.x-request-id")["stringValue"], "r1");
}
