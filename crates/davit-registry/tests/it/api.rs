//! The JSON API over HTTP: what it tells and changes, its shapes, its document.

mod identity;
mod sources;

use std::{collections::BTreeSet, process::Command};

use davit_registry::auth::{
    PasswordHash, Secret,
    accounts::{AddAccount, Kind},
    audit::Actor,
};
use davit_test::{python_with, skip};
use serde_json::{Value, json};

use crate::fixture::{CONFIG, Reply, TestRegistry, bytes, image};

pub(crate) const PASSWORD: &str = "correct horse";

impl TestRegistry {
    /// Makes a user; its credential as a header.
    pub(crate) fn user(&self, name: &str, is_admin: bool) -> String {
        // Hashing takes a while; all accounts share one.
        static HASH: std::sync::OnceLock<PasswordHash> = std::sync::OnceLock::new();
        let hash = HASH.get_or_init(|| PasswordHash::new(&Secret::new(PASSWORD)).unwrap());
        let add = AddAccount {
            by: Actor::operator(),
            name: name.to_owned(),
            kind: Kind::User,
            password: Some(hash.clone()),
            is_admin,
        };
        self.run(self.registry().database.write(add)).unwrap();
        use base64::Engine as _;
        let engine = base64::engine::general_purpose::STANDARD;
        format!("Basic {}", engine.encode(format!("{name}:{PASSWORD}")))
    }

    pub(crate) fn api(&self, method: &str, path: &str, who: &str, body: &Value) -> Reply {
        let body = if body.is_null() { Vec::new() } else { bytes(body) };
        let headers = [("Authorization", who), ("Content-Type", "application/json")];
        // Who is nobody sends no credential.
        let headers = if who.is_empty() { &headers[1..] } else { &headers[..] };
        self.send(method, &format!("/api/v1{path}"), headers, &body)
    }

    /// Asks for what must succeed.
    pub(crate) fn ask(&self, method: &str, path: &str, who: &str, body: Value) -> Value {
        let reply = self.api(method, path, who, &body);
        assert!((200..300).contains(&reply.status), "{method} {path}: {reply:?}");
        if reply.body.is_empty() { Value::Null } else { reply.json() }
    }

    /// Pushes an image as somebody; its digest.
    pub(crate) fn push_as(
        &self,
        who: &str,
        (name, tag): (&str, &str),
        config: &Value,
        layers: &[&[u8]],
    ) -> String {
        let config = bytes(config);
        for content in layers.iter().copied().chain([config.as_slice()]) {
            let digest = davit_image::Digest::of(content);
            let target = format!("/v2/{name}/blobs/uploads/?digest={digest}");
            let reply = self.send("POST", &target, &[("Authorization", who)], content);
            assert_eq!(reply.status, 201, "{reply:?}");
        }
        let manifest = image(&config, layers);
        let kind = manifest["mediaType"].as_str().unwrap().to_owned();
        let headers = [("Authorization", who), ("Content-Type", kind.as_str())];
        let target = format!("/v2/{name}/manifests/{tag}");
        let reply = self.send("PUT", &target, &headers, &bytes(&manifest));
        assert_eq!(reply.status, 201, "{reply:?}");
        reply.header("docker-content-digest").unwrap().to_owned()
    }
}

/// An image's config with two steps.
pub(crate) fn config(label: &str) -> Value {
    json!({
        "architecture": "arm64", "os": "linux", "created": "2026-11-22T10:00:00Z",
        "config": {
            "Entrypoint": ["/bin/app"], "Cmd": ["--serve"], "Env": ["PATH=/bin"],
            "ExposedPorts": { "8080/tcp": {} }, "Labels": { "org.opencontainers.image.title": label },
        },
        "rootfs": { "type": "layers", "diff_ids": [] },
        "history": [
            { "created_by": "COPY app /bin/app # buildkit" },
            { "created_by": "ENV PATH=/bin", "empty_layer": true },
            { "created_by": "/bin/sh -c apk add tini" },
        ],
    })
}

#[test]
fn a_team_works_by_the_api() {
    let registry = TestRegistry::with_accounts(None);
    let boss = registry.user("boss", true);
    let bob = registry.user("bob", false);
    let signed = json!({ "name": "alice", "password": PASSWORD });
    assert_eq!(registry.api("POST", "/sign-up", "", &signed).status, 201);
    assert_eq!(registry.api("POST", "/sign-up", "", &signed).status, 409);
    let alice = {
        use base64::Engine as _;
        let engine = base64::engine::general_purpose::STANDARD;
        format!("Basic {}", engine.encode(format!("alice:{PASSWORD}")))
    };
    assert_eq!(registry.ask("GET", "/me", &alice, Value::Null)["namespaces"], json!(["alice"]));

    registry.ask("POST", "/organisations", &alice, json!({ "name": "acme" }));
    let member = json!({ "role": "member" });
    registry.ask("PUT", "/organisations/acme/members/bob", &alice, member);
    registry.ask("POST", "/organisations/acme/teams", &alice, json!({ "name": "dev" }));
    registry.ask("PUT", "/organisations/acme/teams/dev/members/bob", &alice, Value::Null);
    let acme = registry.ask("GET", "/organisations/acme", &bob, Value::Null);
    assert_eq!(acme["teams"], json!([{ "name": "dev", "members": ["bob"] }]));
    let grant = json!({ "subject": "acme/dev", "repositories": "acme/web-*", "role": "push" });
    registry.ask("PUT", "/accounts/acme/grants", &alice, grant);
    let beyond = json!({ "subject": "bob", "repositories": "boss/**", "role": "admin" });
    assert_eq!(registry.api("PUT", "/accounts/acme/grants", &alice, &beyond).status, 409);

    let layers: [&[u8]; 2] = [b"first layer", b"second"];
    let digest = registry.push_as(&bob, ("acme/web-site", "v1"), &config("site"), &layers);
    let path = "/repositories/acme%2Fweb-site";
    assert_eq!(registry.api("GET", path, "", &Value::Null).status, 401);
    let about = json!({ "visibility": "public", "description": "The site", "readme": "# Hi" });
    assert_eq!(registry.api("PUT", path, &bob, &about).status, 403);
    registry.ask("PUT", path, &alice, about);
    let repository = registry.ask("GET", path, "", Value::Null);
    assert_eq!((&repository["readme"], &repository["tags"]), (&json!("# Hi"), &json!(1)));

    let tags = registry.ask("GET", &format!("{path}/tags"), "", Value::Null);
    let size = layers.iter().map(|layer| layer.len()).sum::<usize>() + bytes(&config("site")).len();
    let tag = &tags["items"][0];
    assert_eq!((&tag["name"], &tag["digest"]), (&json!("v1"), &json!(digest)));
    assert_eq!((&tag["size_bytes"], &tag["platforms"]), (&json!(size), &json!(["linux/arm64"])));
    assert_eq!(tag["updated_by"], "bob");
    let image = registry.ask("GET", &format!("{path}/images/v1"), "", Value::Null);
    let commands: Vec<_> =
        image["layers"].as_array().unwrap().iter().map(|l| &l["command"]).collect();
    assert_eq!(commands, ["COPY app /bin/app", "ENV PATH=/bin", "RUN apk add tini"]);
    assert_eq!(image["config"]["entrypoint"], json!(["/bin/app"]));

    let usage = registry.ask("GET", "/accounts/acme/usage", &bob, Value::Null);
    assert_eq!(usage["used_bytes"], json!(size));
    let quota = json!({ "quota_bytes": 1000 });
    assert_eq!(registry.api("PATCH", "/accounts/acme", &alice, &quota).status, 403);
    registry.ask("PATCH", "/accounts/acme", &boss, quota);
    let audit = registry.ask("GET", "/accounts/acme/audit?limit=1", &alice, Value::Null);
    assert_eq!((&audit["items"][0]["actor"], audit["next"].is_string()), (&json!("boss"), true));
    let verdict = registry.ask("GET", "/audit/check", &boss, Value::Null);
    assert_eq!(verdict["verdict"], "whole");
}

#[test]
fn tags_are_undone_and_kept_by_rules() {
    let registry = TestRegistry::with_accounts(None);
    let alice = registry.user("alice", false);
    let first = registry.push_as(&alice, ("alice/app", "latest"), &config("1"), &[b"1", b"2"]);
    let second = registry.push_as(&alice, ("alice/app", "latest"), &config("2"), &[b"1", b"2"]);
    let path = "/repositories/alice%2Fapp";
    let history = registry.ask("GET", &format!("{path}/tags/latest/history"), &alice, Value::Null);
    let moves = history["items"].as_array().unwrap();
    assert_eq!((&moves[0]["old"], &moves[0]["new"]), (&json!(first), &json!(second)));
    assert!(moves[1]["old"].is_null());
    let undo = registry.ask("POST", &format!("{path}/tags/latest/undo"), &alice, Value::Null);
    assert_eq!(undo["digest"], json!(first));

    let rules =
        json!({ "retention": [{ "tags": "pr-.*", "newest": 1 }], "immutable_tags": ["v.*"] });
    registry.ask("PATCH", &format!("{path}/settings"), &alice, rules);
    registry.push_as(&alice, ("alice/app", "pr-1"), &config("1"), &[b"1", b"2"]);
    registry.push_as(&alice, ("alice/app", "pr-2"), &config("2"), &[b"1", b"2"]);
    let verdicts = registry.ask("GET", &format!("{path}/retention"), &alice, Value::Null);
    let gone = |verdict: &&Value| verdict["stays"] == false;
    let gone: Vec<_> = verdicts["items"].as_array().unwrap().iter().filter(gone).collect();
    assert_eq!(gone.len(), 1, "{verdicts}");
    let none = json!({ "retention": [{ "tags": ".*" }] });
    let reply = registry.api("PATCH", &format!("{path}/settings"), &alice, &none);
    assert_eq!(reply.status, 409, "{reply:?}");
    let kept = registry.ask("GET", &format!("{path}/settings"), &alice, Value::Null);
    assert_eq!(kept["retention"][0]["newest"], 1);
    registry.push_as(&alice, ("alice/app", "v1"), &config("1"), &[b"1", b"2"]);
    let reply = registry.api("DELETE", &format!("{path}/tags/v1"), &alice, &Value::Null);
    assert_eq!(reply.status, 403, "{reply:?}");
}

#[test]
fn tokens_are_made_used_and_revoked() {
    let registry = TestRegistry::with_accounts(None);
    let alice = registry.user("alice", false);
    let wanted =
        json!({ "name": "ci", "scopes": ["repository:alice/app:pull"], "expires_days": 1 });
    let made = registry.ask("POST", "/accounts/alice/tokens", &alice, wanted);
    let bearer = format!("Bearer {}", made["secret"].as_str().unwrap());
    assert_eq!(registry.ask("GET", "/me", &bearer, Value::Null)["name"], "alice");
    let list = registry.ask("GET", "/accounts/alice/tokens", &alice, Value::Null);
    assert_eq!(list["items"][0]["scopes"], json!(["repository:alice/app:pull"]));
    assert!(!list.to_string().contains(made["secret"].as_str().unwrap()));
    let path = format!("/accounts/alice/tokens/{}", made["id"]);
    registry.ask("DELETE", &path, &alice, Value::Null);
    assert_eq!(registry.api("GET", "/me", &bearer, &Value::Null).status, 401);
    let robot = registry.ask("POST", "/accounts/alice/robots", &alice, json!({ "name": "ci" }));
    let bearer = format!("Bearer {}", robot["secret"].as_str().unwrap());
    assert_eq!(registry.ask("GET", "/me", &bearer, Value::Null)["kind"], "robot");
    // The password is asked for once more by whoever changes their own.
    let change = json!({ "password": "another password" });
    assert_eq!(registry.api("PUT", "/accounts/alice/password", &alice, &change).status, 401);
    let change = json!({ "password": "another password", "current": PASSWORD });
    registry.ask("PUT", "/accounts/alice/password", &alice, change);
    assert_eq!(registry.api("GET", "/me", &alice, &Value::Null).status, 401);
}

#[test]
fn what_is_wrong_has_one_shape() {
    let registry = TestRegistry::with_accounts(None);
    let alice = registry.user("alice", false);
    let long = format!("/repositories?search={}", "a".repeat(101));
    let cases: &[(&str, &str, &str, &[u8], u16)] = &[
        ("GET", "/nothing", "application/json", b"", 404),
        ("GET", "/repositories/A", "application/json", b"", 404),
        ("PUT", "/repositories/alice%2FA", "application/json", b"{}", 400),
        ("PATCH", "/repositories", "application/json", b"{}", 405),
        ("POST", "/organisations", "application/json", b"{", 400),
        ("POST", "/organisations", "application/json", b"[]", 400),
        ("POST", "/organisations", "application/json", b"{\"name\":null}", 400),
        ("POST", "/organisations", "application/json", b"{\"name\":\"acme\",\"x\":1}", 400),
        ("POST", "/organisations", "application/json", b"{\"name\":\"admin\"}", 409),
        ("POST", "/organisations", "text/plain", b"{\"name\":\"acme\"}", 415),
        ("GET", "/repositories?limit=0", "application/json", b"", 400),
        ("GET", "/repositories?limit=x", "application/json", b"", 400),
        ("GET", "/repositories?other=1", "application/json", b"", 400),
        ("GET", "/repositories?limit=1&limit=2", "application/json", b"", 400),
        ("GET", &long, "application/json", b"", 400),
        ("GET", "/users", "application/json", b"", 403),
        ("GET", "/accounts/other", "application/json", b"", 404),
    ];
    for (method, path, kind, body, status) in cases {
        let headers = [("Authorization", alice.as_str()), ("Content-Type", *kind)];
        let reply = registry.send(method, &format!("/api/v1{path}"), &headers, body);
        assert_eq!(reply.status, *status, "{method} {path}: {reply:?}");
        assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{path}");
        let problem = reply.json();
        assert_eq!(problem["status"], json!(status), "{path}");
        assert!(problem["code"].is_string() && problem["detail"].is_string(), "{path}");
    }
    let reply = registry.api("PATCH", "/repositories", &alice, &json!({}));
    assert_eq!(reply.header("allow"), Some("GET, HEAD"));
    let reply = registry.api("HEAD", "/repositories", &alice, &Value::Null);
    assert_eq!((reply.status, reply.body.len()), (200, 0));
    let large = vec![b' '; (1 << 20) + 1];
    let headers = [("Authorization", alice.as_str()), ("Content-Type", "application/json")];
    let reply = registry.send("POST", "/api/v1/organisations", &headers, &large);
    assert_eq!(reply.status, 413);
}

#[test]
fn lists_come_in_pages_of_what_may_be_seen() {
    let registry = TestRegistry::with_accounts(None);
    let alice = registry.user("alice", false);
    for at in 0..7 {
        let path = format!("/repositories/alice%2Fapp{at}");
        let visibility = if at % 2 == 0 { "public" } else { "private" };
        let description = if at == 3 { "Has 100%_! of It" } else { "" };
        let set = json!({ "visibility": visibility, "description": description });
        registry.ask("PUT", &path, &alice, set);
    }
    for (who, expected) in [(alice.as_str(), 7), ("", 4)] {
        let (mut names, mut after) = (Vec::new(), String::new());
        loop {
            let page =
                registry.ask("GET", &format!("/repositories?limit=2{after}"), who, Value::Null);
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= 2);
            names.extend(items.iter().map(|item| item["name"].as_str().unwrap().to_owned()));
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={}", next.replace('/', "%2F"));
        }
        assert_eq!(names.len(), expected, "{names:?}");
        assert!(names.is_sorted());
    }
    for (query, expected) in [
        ("search=APP3", 1),
        ("search=100%25_!", 1),
        ("search=%25", 1),
        ("search=zzz", 0),
        ("namespace=alice", 7),
        ("namespace=ali", 0),
    ] {
        let page = registry.ask("GET", &format!("/repositories?{query}"), &alice, Value::Null);
        assert_eq!(page["items"].as_array().unwrap().len(), expected, "{query}");
    }
}

/// The document names every operation, and everything that it names is in it.
#[test]
fn the_document_is_whole() {
    let registry = TestRegistry::start();
    let document = registry.ask("GET", "/openapi.json", "", Value::Null);
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{path}");
            let parameters = operation["parameters"].as_array().unwrap();
            let of_path = parameters.iter().filter(|parameter| parameter["in"] == "path");
            assert_eq!(of_path.count(), path.matches('{').count(), "{method} {path}");
        }
    }
    assert_eq!(ids.len(), davit_registry::api::endpoints().len());
    let mut names = Vec::new();
    references(&document, &mut names);
    assert!(names.len() > 100);
    for name in names {
        let name = name.strip_prefix("#/components/schemas/").unwrap();
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
    assert!(!registry.get("/api/v1/openapi.json").text().contains(CONFIG));
}

fn references<'v>(value: &'v Value, names: &mut Vec<&'v str>) {
    match value {
        Value::Object(fields) => {
            names.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|value| references(value, names));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, names)),
        _ => {}
    }
}

#[test]
fn garbage_is_collected_once_at_a_time() {
    let registry = TestRegistry::with_accounts(None);
    let boss = registry.user("boss", true);
    registry.push_as(&boss, ("boss/app", "v1"), &config("1"), &[b"1", b"2"]);
    let counted = registry.ask("POST", "/gc", &boss, json!({ "dry_run": true }));
    assert_eq!((&counted["phase"], &counted["is_running"]), (&json!("dry run"), &json!(false)));
    registry.ask("POST", "/gc", &boss, json!({}));
    let state = loop {
        let state = registry.ask("GET", "/gc", &boss, Value::Null);
        if state["is_running"] == false && state["phase"] == "done" {
            break state;
        }
    };
    assert!(state["ended_at"].is_string());
    let found = registry.ask("POST", "/check", &boss, json!({ "read": true }));
    assert_eq!(found["findings"], json!([]));
    let storage = registry.ask("GET", "/storage", &boss, Value::Null);
    assert_eq!((&storage["tags"], &storage["blobs"]), (&json!(1), &json!(3)));
}

/// PyPI's schemathesis reads the document, and tries what it allows and what it does not.
#[test]
fn schemathesis_finds_nothing() {
    let packages = ["schemathesis==4.32.5"];
    let Some(python) = python_with("python-schemathesis", &packages, "schemathesis") else {
        return skip("needs PyPI's `schemathesis`");
    };
    let registry = TestRegistry::with_accounts(None);
    let boss = registry.user("boss", true);
    registry.push_as(&boss, ("boss/app", "v1"), &config("1"), &[b"1", b"2"]);
    registry.ask("POST", "/organisations", &boss, json!({ "name": "acme" }));
    let examples = davit_test::soak_operations(2).to_string();
    let dir = registry.dir.join("schemathesis");
    fs_err::create_dir(&dir).unwrap();
    let outcome = Command::new(python.with_file_name("schemathesis"))
        .current_dir(&dir)
        .arg("run")
        .arg(format!("http://{}/api/v1/openapi.json", registry.address()))
        .args(["--header", &format!("Authorization: {boss}")])
        .args(["--max-examples", &examples, "--seed", "1", "--workers", "1", "--no-color"])
        // Its own password is the credential that all the others need.
        .args(["--exclude-operation-id", "setPassword"])
        // Wrong credentials are bounded: after a while the answer is 429. The gate's test has them.
        .args(["--exclude-checks", "ignored_auth", "--phases", "examples,coverage,fuzzing"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&outcome.stdout);
    assert!(outcome.status.success(), "{told}\n{}", String::from_utf8_lossy(&outcome.stderr));
}
