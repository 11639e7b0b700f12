//! Cases 8, 10, 15 and 16: requests that come twice, meet a deletion, are bombs, or outlive their token.

use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use davit_distribution::Secret;
use davit_image::Digest;
use davit_registry::{
    auth::{
        PasswordHash,
        accounts::{AddAccount, Kind},
        audit::Actor,
    },
    config::Limits,
    gc::{self, GcSettings, Mode, Scan},
};
use davit_test::TempDir;
use serde_json::{Value, json};

use crate::fixture::{INDEX, TestRegistry, bytes, image, index};

/// Case 8: the reply to the last request of an upload was lost, and the client sends it again.
#[test]
fn an_upload_that_is_finished_twice_is_there() {
    let registry = TestRegistry::start();
    let session = registry.begin("a/b", "");
    let digest = Digest::of(b"content");
    let target = format!("{session}?digest={digest}");
    for _ in 0..2 {
        let reply = registry.send("PUT", &target, &[], b"content");
        let place = format!("/v2/a/b/blobs/{digest}");
        assert_eq!((reply.status, reply.header("location")), (201, Some(&*place)));
    }
    let other = format!("{session}?digest={}", Digest::of(b"other"));
    assert_eq!(registry.send("PUT", &other, &[], b"other").status, 404);
    let elsewhere = target.replace("/a/b/", "/c/d/");
    assert_eq!(registry.send("PUT", &elsewhere, &[], b"content").status, 404);
    let body = image(b"content", &[]);
    for _ in 0..2 {
        assert_eq!(registry.push_manifest("a/b", "t", &body).status, 201);
    }
}

/// Case 10: a manifest, and then its layer's bytes, are removed while the layer is pulled.
#[test]
fn a_pull_ends_whole_though_its_image_is_deleted() {
    let none = Duration::ZERO;
    let limits =
        Limits { lease: none, trash_delay: none, undo: none, referrers: none, ..Limits::default() };
    let registry = TestRegistry::with(limits);
    let layer = davit_test::noise(32 << 20);
    registry.push_blob("a/b", b"{}");
    let digest = registry.push_blob("a/b", &layer);
    let body = image(b"{}", &[&layer]);
    assert_eq!(registry.push_manifest("a/b", "t", &body).status, 201);
    let mut stream = registry.connect();
    let request = format!(
        "GET /v2/a/b/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut pulled = vec![0; 100];
    stream.read_exact(&mut pulled).unwrap();
    let manifest = format!("/v2/a/b/manifests/{}", Digest::of(&bytes(&body)));
    assert_eq!(registry.send("DELETE", &manifest, &[], b"").status, 202);
    let node = registry.registry();
    let settings = GcSettings { scan: Scan::Never, ..GcSettings::of(&node.limits) };
    let mut objects = 0;
    for _ in 0..4 {
        node.database.advance_clock(Duration::from_secs(1));
        let run = gc::run_once(&node.database, &node.store, &settings, Mode::Collect);
        objects += registry.run(run).unwrap().objects;
    }
    assert_eq!(objects, 2, "config and layer are gone");
    let blob = format!("/v2/a/b/blobs/{digest}");
    assert_eq!(registry.send("HEAD", &blob, &[], b"").status, 404);
    stream.read_to_end(&mut pulled).unwrap();
    let start = pulled.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert!(pulled[start..] == layer[..], "every byte arrives");
}

/// Case 15: the largest manifest, a larger one, one of many levels, and a graph of many paths.
#[test]
fn manifests_cannot_be_bombs() {
    const MOST: usize = 4 << 20;
    let registry = TestRegistry::start();
    registry.push_blob("a/b", b"{}");
    let padded = |size: usize| {
        let mut body = image(b"{}", &[]);
        body["annotations"] = json!({ "x": "" });
        let room = size - bytes(&body).len();
        body["annotations"]["x"] = json!("x".repeat(room));
        body
    };
    let largest = padded(MOST);
    assert_eq!(bytes(&largest).len(), MOST);
    assert_eq!(registry.push_manifest("a/b", "largest", &largest).status, 201);
    assert_eq!(registry.get("/v2/a/b/manifests/largest").body, bytes(&largest));
    let reply = registry.push_manifest("a/b", "larger", &padded(MOST + 1));
    assert_eq!(reply.error(), (413, "SIZE_INVALID".to_owned()));

    let levels = 100_000;
    let deep =
        format!("{{\"schemaVersion\":2,\"x\":{}1{}}}", "[".repeat(levels), "]".repeat(levels));
    let kind = [("Content-Type", INDEX)];
    let reply = registry.send("PUT", "/v2/a/b/manifests/deep", &kind, deep.as_bytes());
    assert_eq!(reply.error(), (400, "MANIFEST_INVALID".to_owned()));

    // Each index names the one below twice: two to the thirtieth paths, thirty-one manifests.
    let mut child = image(b"{}", &[]);
    assert_eq!(registry.push_manifest("a/b", "leaf", &child).status, 201);
    for level in 0..30 {
        let mut body: Value = index(&[&child, &child]);
        for entry in body["manifests"].as_array_mut().unwrap() {
            entry["mediaType"] = child["mediaType"].clone();
        }
        assert_eq!(registry.push_manifest("a/b", &format!("i{level}"), &body).status, 201);
        child = body;
    }
    let node = registry.registry();
    let settings = GcSettings { scan: Scan::Never, ..GcSettings::of(&node.limits) };
    let run = gc::run_once(&node.database, &node.store, &settings, Mode::Collect);
    assert_eq!(registry.run(run).unwrap().manifests, 0);
    let top = format!("/v2/a/b/manifests/{}", Digest::of(&bytes(&child)));
    assert_eq!(registry.get(&top).status, 200);
    assert_eq!(registry.send("DELETE", &top, &[], b"").status, 202);
}

/// Case 16: a token is judged when its request begins, however long that takes.
#[test]
fn a_push_may_outlive_its_token() {
    let registry = TestRegistry::serving(TempDir::new(), |settings| settings.auth = true);
    let database = registry.registry().database;
    let add = AddAccount {
        by: Actor::operator(),
        name: "alice".to_owned(),
        kind: Kind::User,
        password: Some(PasswordHash::new(&Secret::new("wonderland")).unwrap()),
        is_admin: false,
    };
    registry.run(database.write(add)).unwrap();
    let basic = format!("Basic {}", BASE64.encode("alice:wonderland"));
    let token = || {
        let scope = "/token?service=registry&scope=repository:alice/a:pull,push";
        let reply = registry.send_once("GET", scope, &[("Authorization", &basic)]);
        format!("Bearer {}", reply.json()["token"].as_str().unwrap())
    };
    let first = token();
    let bearer = [("Authorization", &*first)];
    let begun = registry.send("POST", "/v2/alice/a/blobs/uploads/", &bearer, b"");
    assert_eq!(begun.status, 202);
    let session = begun.header("location").unwrap();
    let mut stream = registry.connect();
    let head = format!(
        "PATCH {session} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {first}\r\nConnection: close\r\n\
         Content-Length: 10\r\n\r\n0123"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let id = session.rsplit('/').next().unwrap();
    let file = registry.dir.join("registry").join("uploads").join(id);
    // It is made when they are taken, which came with the head.
    davit_test::until("the first bytes have arrived", || file.exists());
    database.advance_clock(Duration::from_secs(30 * 60));
    let late = registry.send("GET", session, &bearer, b"");
    assert_eq!(late.status, 401, "a request that begins now is refused");
    stream.write_all(b"456789").unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    assert!(reply.starts_with(b"HTTP/1.1 202 "), "{}", String::from_utf8_lossy(&reply));
    let second = token();
    let target = format!("{session}?digest={}", Digest::of(b"0123456789"));
    let end = registry.send("PUT", &target, &[("Authorization", &second)], b"");
    assert_eq!(end.status, 201);
}
