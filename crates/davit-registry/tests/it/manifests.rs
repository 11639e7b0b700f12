//! Manifests, tags, referrers and lists (distribution-spec § Pushing Manifests, § Content Discovery).

use davit_image::{Algorithm, Digest};
use davit_registry::{
    config::Limits,
    db::{Connection, DbError, Transaction, values},
};
use serde_json::json;

use crate::fixture::{
    CONFIG, INDEX, LAYER, MANIFEST, TestRegistry, bytes, descriptor, image, index,
};

const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const SCHEMA2: &str = "application/vnd.docker.distribution.manifest.v2+json";

fn pulls(registry: &TestRegistry, name: &str, reference: &str, kind: &str, content: &[u8]) {
    let target = format!("/v2/{name}/manifests/{reference}");
    for method in ["GET", "HEAD"] {
        let reply = registry.send(method, &target, &[("Accept", "a/b")], b"");
        assert_eq!((reply.status, reply.header("content-type")), (200, Some(kind)), "{reference}");
        assert_eq!(reply.header("content-length"), Some(&*content.len().to_string()));
        assert_eq!(reply.body, if method == "GET" { content } else { b"" });
    }
}

#[test]
fn kinds_by_tag_and_by_digest() {
    let registry = TestRegistry::start();
    registry.push_blob("a", b"{}");
    registry.push_blob("a", b"layer");
    let manifest = image(b"{}", &[b"layer"]);
    let mut docker = image(b"{}", &[b"layer"]);
    docker["mediaType"] = SCHEMA2.into();
    let mut docker_list = index(&[&docker]);
    docker_list["mediaType"] = LIST.into();
    docker_list["manifests"][0]["mediaType"] = SCHEMA2.into();
    let nested = index(&[&index(&[&manifest])]);
    let kinds = [manifest.clone(), docker, docker_list, index(&[&manifest]), nested, index(&[])];
    for (n, content) in kinds.iter().enumerate() {
        let (body, kind) = (bytes(content), content["mediaType"].as_str().unwrap());
        let digest = Digest::of(&body).to_string();
        for reference in [&*digest, &format!("t{n}")] {
            let reply = registry.push_manifest("a", reference, content);
            assert_eq!(reply.status, 201, "{}", String::from_utf8_lossy(&reply.body));
            assert_eq!(reply.header("docker-content-digest"), Some(&*digest));
            let location = format!("/v2/a/manifests/{digest}");
            assert_eq!(reply.header("location"), Some(&*location));
            pulls(&registry, "a", reference, kind, &body);
        }
    }
    let unknown = (404, "MANIFEST_UNKNOWN".to_owned());
    assert_eq!(registry.get("/v2/a/manifests/absent").error(), unknown);
    assert_eq!(registry.get(&format!("/v2/b/manifests/{}", Digest::of(b""))).error(), unknown);
    assert_eq!(registry.get("/v2/a/manifests/sha256:bad").status, 400);
}

#[test]
fn sha512_and_several_tags_at_once() {
    let registry = TestRegistry::start();
    registry.push_blob("a", b"{}");
    let body = bytes(&image(b"{}", &[]));
    let long = Digest::of_with(Algorithm::Sha512, &body);
    let put = |reference: &str| {
        let target = format!("/v2/a/manifests/{reference}");
        registry.send("PUT", &target, &[("Content-Type", MANIFEST)], &body)
    };
    let reply = put(&format!("{long}?tag=one&tag=two.2&tag=_3"));
    assert_eq!((reply.status, reply.header("oci-tag")), (201, Some("one, two.2, _3")));
    for reference in ["one", "two.2", "_3", &long.to_string()] {
        pulls(&registry, "a", reference, MANIFEST, &body);
    }
    assert_eq!(put("four").header("docker-content-digest"), Some(&*long.to_string()));
    let wrong = Digest::of(b"else");
    assert_eq!(put(&wrong.to_string()).error(), (400, "DIGEST_INVALID".into()));
    assert_eq!(put(&format!("five?digest={wrong}")).error(), (400, "DIGEST_INVALID".into()));
    assert_eq!(put("sha256:baddigeststring").error(), (400, "DIGEST_INVALID".into()));
    assert_eq!(put(".bad").error(), (400, "TAG_INVALID".into()));
    assert_eq!(put(&"x".repeat(129)).error(), (400, "TAG_INVALID".into()));
    let many: String = (0..101).map(|n| format!("&tag=t{n}")).collect();
    assert_eq!(put(&format!("{long}?{many}")).status, 414);
}

#[test]
fn what_could_be_misread_is_refused() {
    let registry = TestRegistry::start();
    registry.push_blob("a", b"{}");
    let mut both = image(b"{}", &[]);
    both["manifests"] = json!([]);
    let put = |kind: &str, body: &[u8]| {
        registry.send("PUT", "/v2/a/manifests/v1", &[("Content-Type", kind)], body)
    };
    let invalid = (400, "MANIFEST_INVALID".to_owned());
    assert_eq!(put(MANIFEST, &bytes(&both)).error(), invalid);
    assert_eq!(put(INDEX, &bytes(&image(b"{}", &[]))).error(), invalid);
    assert_eq!(put(MANIFEST, b"{").error(), invalid);
    assert_eq!(put(MANIFEST, b"").error(), invalid);
    assert_eq!(put(MANIFEST, br#"{"schemaVersion":1,"fsLayers":[]}"#).error(), invalid);
    let largest = davit_registry::config::Limits::default().manifest_bytes;
    assert_eq!(put(MANIFEST, &vec![b' '; largest + 1]).error(), (413, "SIZE_INVALID".into()));
    let mut full = bytes(&image(b"{}", &[]));
    full.resize(largest, b' ');
    assert_eq!(put(&format!("{MANIFEST}; charset=utf-8"), &full).status, 201);
    pulls(&registry, "a", "v1", MANIFEST, &full);
    let layers = vec![descriptor(LAYER, b"{}"); 1001];
    let mut many = image(b"{}", &[]);
    many["layers"] = layers.into();
    assert_eq!(put(MANIFEST, &bytes(&many)).error(), (413, "SIZE_INVALID".into()));
}

#[test]
fn missing_blobs() {
    let registry = TestRegistry::start();
    registry.push_blob("a", b"{}");
    let manifest = image(b"{}", &[b"layer"]);
    let lacking = Digest::of(b"layer").to_string();
    let reply = registry.push_manifest("a", "v1", &manifest);
    assert_eq!(reply.error(), (400, "MANIFEST_BLOB_UNKNOWN".into()));
    assert_eq!(reply.json()["errors"][0]["detail"]["digests"], json!([lacking]));
    assert_eq!(registry.get("/v2/a/manifests/v1").status, 404, "nothing of it is kept");
    let reply = registry.push_manifest("a", "list", &index(&[&manifest]));
    assert_eq!(reply.error(), (400, "MANIFEST_BLOB_UNKNOWN".into()));
    let mut foreign = manifest;
    foreign["layers"][0]["mediaType"] =
        "application/vnd.oci.image.layer.nondistributable.v1.tar".into();
    assert_eq!(registry.push_manifest("a", "v1", &foreign).status, 201);

    let sparse = TestRegistry::with(Limits { sparse: true, ..Limits::default() });
    let manifest = image(b"{}", &[b"layer"]);
    assert_eq!(sparse.push_manifest("a", "list", &index(&[&manifest])).status, 201);
    assert_eq!(sparse.push_manifest("a", "v1", &manifest).status, 201);
    let layer = sparse.push_blob("a", b"layer");
    let refused = sparse.send("DELETE", &format!("/v2/a/blobs/{layer}"), &[], b"");
    assert_eq!(refused.status, 405, "the blob that came later is the manifest's");
}

#[test]
fn conditions_of_pushes_pulls_and_deletes() {
    let registry = TestRegistry::start();
    registry.push_blob("a", b"{}");
    registry.push_blob("a", b"x");
    let (first, second) = (bytes(&image(b"{}", &[])), bytes(&image(b"{}", &[b"x"])));
    let etag = |body: &[u8]| format!("\"{}\"", Digest::of(body));
    let put = |name: &str, value: &str, body: &[u8]| {
        let headers = [("Content-Type", MANIFEST), (name, value)];
        registry.send("PUT", "/v2/a/manifests/v1", &headers, body).status
    };
    assert_eq!(put("If-Match", "*", &first), 412);
    assert_eq!(put("If-None-Match", "*", &first), 201);
    assert_eq!(put("If-None-Match", "*", &second), 412);
    assert_eq!(put("If-Match", &etag(&second), &second), 412);
    let reply = registry.get("/v2/a/manifests/v1");
    assert_eq!(reply.header("etag"), Some(&*etag(&first)));
    assert_eq!(put("If-Match", &etag(&first), &second), 201);
    let get = |value: &str| {
        registry.send("GET", "/v2/a/manifests/v1", &[("If-None-Match", value)], b"").status
    };
    assert_eq!((get(&etag(&second)), get(&etag(&first)), get("*")), (304, 200, 304));
    let delete = |value: &str| {
        registry.send("DELETE", "/v2/a/manifests/v1", &[("If-Match", value)], b"").status
    };
    assert_eq!((delete(&etag(&first)), delete(&etag(&second))), (412, 202));
    assert_eq!(registry.get("/v2/a/manifests/v1").status, 404);
    let digest = Digest::of(&second);
    assert_eq!(registry.get(&format!("/v2/a/manifests/{digest}")).status, 200);
}

#[test]
fn deleting() {
    let registry = TestRegistry::start();
    registry.push_blob("a", b"{}");
    let manifest = image(b"{}", &[]);
    let digest = Digest::of(&bytes(&manifest)).to_string();
    let list = index(&[&manifest]);
    let list_digest = Digest::of(&bytes(&list)).to_string();
    for tag in ["v1", "v2"] {
        assert_eq!(registry.push_manifest("a", tag, &manifest).status, 201);
    }
    assert_eq!(registry.push_manifest("a", "list", &list).status, 201);
    let delete = |reference: &str| {
        registry.send("DELETE", &format!("/v2/a/manifests/{reference}"), &[], b"")
    };
    assert_eq!(registry.get("/v2/a/manifests/v2").status, 200);
    assert_eq!(delete(&digest).error(), (405, "UNSUPPORTED".into()), "an index names it");
    assert_eq!(delete("v1").status, 202);
    assert_eq!(delete("v1").error(), (404, "MANIFEST_UNKNOWN".into()));
    assert_eq!(delete(&list_digest).status, 202);
    assert_eq!(delete(&digest).status, 202);
    for reference in ["v2", "list", &digest, &list_digest] {
        assert_eq!(
            registry.get(&format!("/v2/a/manifests/{reference}")).status,
            404,
            "{reference}"
        );
    }
    assert_eq!(registry.get("/v2/a/tags/list").json(), json!({ "name": "a", "tags": [] }));
    let reply = registry.send("DELETE", "/v2/absent/manifests/v1", &[], b"");
    assert_eq!(reply.error(), (404, "NAME_UNKNOWN".into()));
}

#[test]
fn lists_have_pages() {
    let registry = TestRegistry::start();
    for name in ["b/x", "a", "b"] {
        registry.push_blob(name, b"{}");
    }
    let tags = ["v1", "v1.1", "V2", "latest", "_x"];
    for tag in tags {
        assert_eq!(registry.push_manifest("a", tag, &image(b"{}", &[])).status, 201);
    }
    let list = |query: &str| {
        let reply = registry.get(&format!("/v2/a/tags/list{query}"));
        (reply.json()["tags"].clone(), reply.header("link").map(str::to_owned))
    };
    assert_eq!(list(""), (json!(["V2", "_x", "latest", "v1", "v1.1"]), None));
    assert_eq!(list("?last=latest"), (json!(["v1", "v1.1"]), None));
    assert_eq!(list("?last=zzz"), (json!([]), None));
    assert_eq!(list("?n=0"), (json!([]), None));
    assert_eq!(list("?n=99999999999999999999999"), list(""));
    let next = "</v2/a/tags/list?n=2&last=_x>; rel=\"next\"";
    assert_eq!(list("?n=2"), (json!(["V2", "_x"]), Some(next.to_owned())));
    assert_eq!(list("?n=2&last=v1"), (json!(["v1.1"]), None));
    for bad in ["-1", "x", "", "1.5"] {
        let reply = registry.get(&format!("/v2/a/tags/list?n={bad}"));
        assert_eq!(reply.error(), (400, "PAGINATION_NUMBER_INVALID".into()));
    }
    assert_eq!(registry.get("/v2/absent/tags/list").error(), (404, "NAME_UNKNOWN".into()));
    let catalog = |query: &str| registry.get(&format!("/v2/_catalog{query}"));
    assert_eq!(catalog("").json(), json!({ "repositories": ["a", "b", "b/x"] }));
    let page = catalog("?n=2");
    assert_eq!(page.json(), json!({ "repositories": ["a", "b"] }));
    assert_eq!(page.header("link"), Some("</v2/_catalog?n=2&last=b>; rel=\"next\""));
}

#[test]
fn a_hundred_thousand_tags() {
    const TAGS: i64 = 100_000;
    let registry = TestRegistry::start();
    registry.push_blob("a", b"{}");
    assert_eq!(registry.push_manifest("a", "v1", &image(b"{}", &[])).status, 201);
    registry.run(registry.registry().database.write(ManyTags(TAGS))).unwrap();
    let mut target = "/v2/a/tags/list".to_owned();
    let mut seen = Vec::new();
    loop {
        let reply = registry.get(&target);
        let list: davit_distribution::wire::TagList = serde_json::from_slice(&reply.body).unwrap();
        assert!(list.tags.len() <= 1000);
        seen.extend(list.tags);
        let Some(link) = reply.header("link") else { break };
        target = davit_distribution::wire::next_link(link).unwrap().to_owned();
    }
    assert_eq!(seen.len(), usize::try_from(TAGS).unwrap() + 1);
    assert!(seen.is_sorted_by(|a, b| a < b));
}

/// Gives the only manifest so many more tags.
struct ManyTags(i64);

impl Transaction for ManyTags {
    type Output = u64;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<u64, DbError> {
        let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1) \
                   INSERT INTO tag (repo_id, name, manifest_id, version, updated_at) \
                   SELECT m.repo_id, 'tag-' || n.i, m.id, 1, 0 FROM manifest m, n";
        connection.execute(sql, values![self.0]).await
    }
}

#[test]
fn referrers_with_filter_and_pages() {
    let registry = TestRegistry::start();
    registry.push_blob("a", b"{}");
    let subject = descriptor(MANIFEST, b"a manifest that comes later");
    let digest = subject["digest"].as_str().unwrap().to_owned();
    let get = |query: &str| registry.get(&format!("/v2/a/referrers/{digest}{query}"));
    let empty = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] });
    assert_eq!(get("").json(), empty);
    let absent = registry.get(&format!("/v2/absent/referrers/{digest}"));
    assert_eq!((absent.status, absent.header("content-type")), (200, Some(INDEX)));
    assert_eq!(registry.get("/v2/a/referrers/sha256:bad").status, 400);
    let push = |n: usize, kind: Option<&str>| {
        let mut manifest = image(b"{}", &[]);
        manifest["subject"] = subject.clone();
        manifest["annotations"] = json!({ "n": n.to_string() });
        if let Some(kind) = kind {
            manifest["artifactType"] = kind.into();
        }
        let reference = Digest::of(&bytes(&manifest)).to_string();
        let reply = registry.push_manifest("a", &reference, &manifest);
        assert_eq!((reply.status, reply.header("oci-subject")), (201, Some(&*digest)));
    };
    push(0, None);
    for n in 1..=120 {
        push(n, Some("test/kind"));
    }
    let mut list = index(&[]);
    list["subject"] = subject.clone();
    assert_eq!(registry.push_manifest("a", "list", &list).header("oci-subject"), Some(&*digest));

    let mut target = format!("/v2/a/referrers/{digest}");
    let mut found = Vec::new();
    let pages = loop {
        let reply = registry.get(&target);
        assert_eq!(reply.header("content-type"), Some(INDEX));
        found.extend(reply.json()["manifests"].as_array().unwrap().clone());
        let Some(link) = reply.header("link") else { break found.len() };
        target = davit_distribution::wire::next_link(link).unwrap().to_owned();
    };
    assert_eq!(pages, 122);
    let of_kind = |kind: Option<&str>| {
        found.iter().filter(|entry| entry["artifactType"].as_str() == kind).count()
    };
    assert_eq!((of_kind(Some("test/kind")), of_kind(Some(CONFIG)), of_kind(None)), (120, 1, 1));
    assert!(found.iter().any(|entry| entry["annotations"]["n"] == "77"));
    let reply = get(&format!("?artifactType={CONFIG}").replace('+', "%2B"));
    assert_eq!(reply.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(reply.json()["manifests"].as_array().unwrap().len(), 1);
}

#[test]
fn paths_methods_and_health() {
    let registry = TestRegistry::start();
    assert_eq!(registry.get("/v2/").status, 200);
    assert_eq!(
        registry.get("/v2/").header("docker-distribution-api-version"),
        Some("registry/2.0")
    );
    assert_eq!(registry.get("/v2/Upper/tags/list").error(), (400, "NAME_INVALID".into()));
    assert_eq!(registry.get("/v2/a/nothing").status, 404);
    let reply = registry.send("POST", "/v2/a/tags/list", &[], b"");
    assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD")));
    assert_eq!(registry.get("/healthz").body, b"ok\n");
    assert_eq!(registry.get("/readyz").status, 200);
    // Each was asked for in both ways.
    let metrics = String::from_utf8(registry.get("/metrics").body).unwrap();
    assert!(metrics.contains("requests_total{operation=\"Ping\",status=\"2xx\"} 4"), "{metrics}");
    assert_eq!(registry.get("/else").status, 404);
}
