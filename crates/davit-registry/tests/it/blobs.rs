//! Pushing, pulling, mounting and deleting blobs (distribution-spec § Push, § Pull).

use std::{io::Write as _, time::Duration};

use davit_image::{Algorithm, Digest};

use crate::fixture::{CONFIG, TestRegistry, blob, bytes, descriptor, image, on_both_ways};

const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

fn has(registry: &TestRegistry, name: &str, digest: &Digest, content: &[u8]) {
    let reply = registry.get(&blob(name, digest));
    assert_eq!((reply.status, &*reply.body), (200, content));
    assert_eq!(reply.header("docker-content-digest"), Some(&*digest.to_string()));
    let head = registry.send("HEAD", &blob(name, digest), &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some(&*content.len().to_string()));
}

#[test]
fn every_way_to_push() {
    on_both_ways(|registry| {
        for algorithm in ALGORITHMS {
            for content in [&b""[..], b"{}", &davit_test::noise(300_000)] {
                let whole = format!("whole-{}-{algorithm}", content.len());
                has(
                    registry,
                    &whole,
                    &registry.push_blob_with(&whole, algorithm, content),
                    content,
                );

                let digest = Digest::of_with(algorithm, content);
                let put = format!("put/{}/{algorithm}", content.len());
                let session = registry.begin(&put, "");
                let target = format!("{session}?digest={digest}");
                let reply = registry.send("PUT", &target, &[], content);
                assert_eq!(
                    (reply.status, reply.header("location")),
                    (201, Some(&*blob(&put, &digest)))
                );
                has(registry, &put, &digest, content);
                assert_eq!(registry.get(&session).error(), (404, "BLOB_UPLOAD_UNKNOWN".into()));
            }
            let content = davit_test::noise(100_000);
            let digest = Digest::of_with(algorithm, &content);
            for (name, query) in
                [("told", format!("?digest-algorithm={algorithm}")), ("untold", String::new())]
            {
                let name = format!("{name}-{algorithm}");
                let session = registry.begin(&name, &query);
                for (at, part) in content.chunks(30_000).enumerate() {
                    let start = at * 30_000;
                    let range = format!("{start}-{}", start + part.len() - 1);
                    let reply =
                        registry.send("PATCH", &session, &[("Content-Range", &range)], part);
                    let last = start + part.len() - 1;
                    assert_eq!(
                        (reply.status, reply.header("range")),
                        (202, Some(&*format!("0-{last}")))
                    );
                }
                let reply = registry.send("PUT", &format!("{session}?digest={digest}"), &[], b"");
                assert_eq!(reply.status, 201);
                has(registry, &name, &digest, &content);
            }
        }
    });
}

#[test]
fn a_stream_of_unknown_length() {
    let registry = TestRegistry::start();
    let session = registry.begin("a", "");
    let headers = [("Transfer-Encoding", "chunked")];
    let reply =
        registry.send("PATCH", &session, &headers, b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n");
    assert_eq!((reply.status, reply.header("range")), (202, Some("0-10")));
    let digest = Digest::of(b"hello world");
    let reply = registry.send("PUT", &format!("{session}?digest={digest}"), &[], b"");
    assert_eq!(reply.status, 201);
    has(&registry, "a", &digest, b"hello world");
}

#[test]
fn parts_out_of_order_are_refused_and_the_session_goes_on() {
    on_both_ways(|registry| {
        let session = registry.begin("a", "");
        let part = |method: &str, query: &str, range: &str, body: &[u8]| {
            registry.send(method, &format!("{session}{query}"), &[("Content-Range", range)], body)
        };
        let digest = Digest::of(b"abcdef");
        let query = format!("?digest={digest}");
        assert_eq!(part("PATCH", "", "3-5", b"def").error(), (416, "BLOB_UPLOAD_INVALID".into()));
        assert_eq!(part("PATCH", "", "0-2", b"abc").status, 202);
        for (method, query, range, body) in [
            ("PATCH", "", "0-2", b"abc"),
            ("PATCH", "", "4-6", b"efg"),
            ("PUT", &*query, "2-4", b"cde"),
        ] {
            let reply = part(method, query, range, body);
            assert_eq!((reply.status, reply.header("range")), (416, Some("0-2")), "{range}");
            assert_eq!(reply.header("location"), Some(&*session));
            let status = registry.get(&session);
            assert_eq!((status.status, status.header("range")), (204, Some("0-2")));
        }
        assert_eq!(part("PATCH", "", "3-9", b"def").error(), (400, "SIZE_INVALID".into()));
        assert_eq!(part("PATCH", "", "x", b"def").error(), (400, "BLOB_UPLOAD_INVALID".into()));
        assert_eq!(part("PUT", &query, "3-5", b"def").status, 201);
        has(registry, "a", &digest, b"abcdef");
    });
}

#[test]
fn wrong_and_malformed_digests() {
    on_both_ways(|registry| {
        let wrong = Digest::of(b"else");
        let invalid = (400, "DIGEST_INVALID".to_owned());
        for digest in
            [wrong.to_string(), "sha256:bad".to_owned(), "md5:abcd".to_owned(), String::new()]
        {
            let reply = registry.send(
                "POST",
                &format!("/v2/a/blobs/uploads/?digest={digest}"),
                &[],
                b"content",
            );
            assert_eq!(reply.error(), invalid, "{digest}");
            let session = registry.begin("a", "");
            let reply =
                registry.send("PUT", &format!("{session}?digest={digest}"), &[], b"content");
            assert_eq!(reply.error(), invalid, "{digest}");
        }
        let session = registry.begin("a", "");
        assert_eq!(registry.send("PUT", &session, &[], b"content").error(), invalid);
        assert_eq!(registry.get(&blob("a", &wrong)).error(), (404, "BLOB_UNKNOWN".into()));
        assert_eq!(registry.get("/v2/a/blobs/sha256:bad").error(), invalid);
        let reply = registry.send("POST", "/v2/a/blobs/uploads/?digest-algorithm=md5", &[], b"");
        assert_eq!(reply.error(), invalid);
    });
}

#[test]
fn cancelled_sessions_are_gone() {
    on_both_ways(|registry| {
        let session = registry.begin("a", "");
        assert_eq!(registry.send("PATCH", &session, &[], b"abc").status, 202);
        assert_eq!(registry.send("DELETE", &session, &[], b"").status, 204);
        let unknown = (404, "BLOB_UPLOAD_UNKNOWN".to_owned());
        assert_eq!(registry.get(&session).error(), unknown);
        assert_eq!(registry.send("PATCH", &session, &[], b"abc").error(), unknown);
        assert_eq!(registry.send("DELETE", &session, &[], b"").error(), unknown);
        assert_eq!(fs_err::read_dir(registry.dir.join("registry/uploads")).unwrap().count(), 0);
        let other = registry.begin("b", "").replace("/b/", "/a/");
        assert_eq!(registry.get(&other).error(), unknown, "a session of another repository");
    });
}

#[test]
fn what_arrived_before_the_connection_broke_is_kept() {
    let registry = TestRegistry::start();
    let session = registry.begin("a", "");
    {
        let mut stream = registry.connect();
        let head =
            format!("PATCH {session} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        // Most often the head is read by then, and the bytes come together with the end.
        std::thread::sleep(Duration::from_millis(20));
        stream.write_all(b"abc").unwrap();
    }
    // Another request waits its turn, or finds what the first has left.
    davit_test::until("what arrived", || registry.poll(&session).header("range") == Some("0-2"));
    let dir = registry.stop();
    let registry = TestRegistry::at(dir, davit_registry::config::Limits::default());
    let digest = Digest::of(b"abcdef");
    let target = format!("{session}?digest={digest}");
    let reply = registry.send("PUT", &target, &[("Content-Range", "3-5")], b"def");
    assert_eq!(reply.status, 201, "the state of the digest outlives the process");
    has(&registry, "a", &digest, b"abcdef");
}

#[test]
fn mounts() {
    let registry = TestRegistry::start();
    let digest = registry.push_blob("from/here", b"content");
    let mount = |to: &str, query: &str| {
        let target = format!("/v2/{to}/blobs/uploads/?mount={digest}{query}");
        registry.send("POST", &target, &[], b"").status
    };
    assert_eq!(mount("to", "&from=from%2Fhere"), 201);
    assert_eq!(mount("anonymous", ""), 201);
    assert_eq!(mount("c", "&from=elsewhere"), 202);
    assert_eq!(mount("c", "&from=NOT"), 202);
    has(&registry, "to", &digest, b"content");
    has(&registry, "anonymous", &digest, b"content");
    assert_eq!(registry.get(&blob("c", &digest)).status, 404);
    assert_eq!(registry.send("DELETE", &blob("from/here", &digest), &[], b"").status, 202);
    has(&registry, "to", &digest, b"content");
}

#[test]
fn ranges_and_conditions() {
    let registry = TestRegistry::start();
    let content = davit_test::noise(2048);
    let digest = registry.push_blob("a", &content);
    let target = blob("a", &digest);
    let range = |range: &str| registry.send("GET", &target, &[("Range", range)], b"");
    for (asked, part, told) in [
        ("bytes=500-1499", 500..1500, "bytes 500-1499/2048"),
        ("bytes=500-", 500..2048, "bytes 500-2047/2048"),
        ("bytes=-500", 1548..2048, "bytes 1548-2047/2048"),
        ("bytes=2000-5000", 2000..2048, "bytes 2000-2047/2048"),
    ] {
        let reply = range(asked);
        assert_eq!((reply.status, &*reply.body), (206, &content[part]), "{asked}");
        assert_eq!(reply.header("content-range"), Some(told));
    }
    for asked in ["bytes=500-0", "bytes=5000-10000"] {
        let reply = range(asked);
        assert_eq!(reply.error(), (416, "RANGE_INVALID".into()));
        assert_eq!(reply.header("content-range"), Some("bytes */2048"));
    }
    let reply = range("bytes=0-9,100-109");
    assert_eq!(reply.status, 206);
    let kind = reply.header("content-type").unwrap();
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let expected = [
        format!("\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n").into_bytes(),
        b"Content-Range: bytes 0-9/2048\r\n\r\n".to_vec(),
        content[..10].to_vec(),
        format!("\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n").into_bytes(),
        b"Content-Range: bytes 100-109/2048\r\n\r\n".to_vec(),
        content[100..110].to_vec(),
        format!("\r\n--{boundary}--\r\n").into_bytes(),
    ];
    assert_eq!(reply.body, expected.concat());
    let etag = format!("\"{digest}\"");
    let with = |name: &str, value: &str| registry.send("GET", &target, &[(name, value)], b"");
    assert_eq!(with("If-None-Match", &etag).status, 304);
    assert_eq!(with("If-None-Match", "\"else\"").status, 200);
    let old = [("Range", "bytes=0-9"), ("If-Range", "\"else\"")];
    assert_eq!(registry.send("GET", &target, &old, b"").body, content);
}

#[test]
fn a_blob_that_a_manifest_names_stays() {
    let registry = TestRegistry::start();
    let config = registry.push_blob("a", b"{}");
    let manifest = image(b"{}", &[]);
    let digest = Digest::of(&bytes(&manifest));
    assert_eq!(registry.push_manifest("a", "v1", &manifest).status, 201);
    let delete = |target: String| registry.send("DELETE", &target, &[], b"");
    assert_eq!(delete(blob("a", &config)).error(), (405, "UNSUPPORTED".into()));
    assert_eq!(delete(format!("/v2/a/manifests/{digest}")).status, 202);
    assert_eq!(delete(blob("a", &config)).status, 202);
    assert_eq!(registry.send("HEAD", &blob("a", &config), &[], b"").status, 404);
    assert_eq!(delete(blob("a", &config)).error(), (404, "BLOB_UNKNOWN".into()));
    assert_eq!(descriptor(CONFIG, b"{}")["digest"], config.to_string());
}

#[test]
fn too_large_a_blob_is_refused_while_it_comes() {
    let limits = davit_registry::config::Limits {
        blob_bytes: 1000,
        ..davit_registry::config::Limits::default()
    };
    let registry = TestRegistry::with(limits);
    registry.push_blob("a", &[1; 1000]);
    let session = registry.begin("a", "");
    assert_eq!(registry.send("PATCH", &session, &[], &[1; 600]).status, 202);
    assert_eq!(
        registry.send("PATCH", &session, &[], &[1; 600]).error(),
        (413, "SIZE_INVALID".into())
    );
}
