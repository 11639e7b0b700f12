//! Builds, webhooks, mirrors and replication by the API: what it does, who may, what it never tells.

use std::time::Duration;

use davit_registry::{
    auth::{OpaqueKind, OpaqueToken},
    autobuild::claim::{Claim, Claimed, Finish, Outcome, Progress, Report},
};
use davit_test::{HttpServer, Reply as HttpReply, until};
use serde_json::{Value, json};

use crate::{api::config, fixture::TestRegistry};

const LEASE: Duration = Duration::from_secs(30);

impl TestRegistry {
    /// Takes the build that waits longest, as a worker does.
    pub(crate) fn claim(&self) -> Claimed {
        let claim = Claim {
            worker: "worker".to_owned(),
            lease: LEASE,
            per_account: 9,
            token: OpaqueToken::new(OpaqueKind::Robot),
            token_life: Duration::from_secs(3600),
        };
        self.run(self.registry().database.write(claim)).unwrap().unwrap()
    }

    /// Writes a piece of a log, which ends at the place that is told.
    pub(crate) fn write_log(&self, claimed: &Claimed, position: i64, content: &[u8]) -> i64 {
        let (hold, content) = (claimed.hold.clone(), content.to_vec());
        let end = position + i64::try_from(content.len()).unwrap();
        let progress = Progress { hold, position, content, lease: LEASE };
        self.run(self.registry().database.write(progress)).unwrap();
        end
    }

    pub(crate) fn finish_build(&self, claimed: &Claimed, outcome: Outcome) {
        let report = Report {
            commit: Some("a".repeat(40)),
            message: "Add a harbour".to_owned(),
            bases: vec![("alpine:3".to_owned(), format!("sha256:{}", "b".repeat(64)))],
            phases: vec![("checkout".to_owned(), 1200), ("build".to_owned(), 65_000)],
            reason: (outcome == Outcome::Failed).then(|| "the build failed".to_owned()),
            ..Report::default()
        };
        let (hold, own) = (claimed.hold.clone(), "registry.example/".to_owned());
        let finish = Finish { hold, outcome, report, own };
        assert!(self.run(self.registry().database.write(finish)).unwrap());
    }
}

const APP: &str = "/repositories/alice%2Fapp";

/// Connects `alice/app`, with a rule for `main`.
pub(crate) fn connect(registry: &TestRegistry, alice: &str) {
    let source = json!({ "url": "https://me:git-token@git.example/app", "poll_minutes": 60 });
    let hook = registry.ask("POST", &format!("{APP}/source"), alice, source);
    assert!(hook["hook_path"].as_str().unwrap().starts_with("/hooks/"), "{hook}");
    let rule = json!({ "kind": "branch", "source": "main" });
    let rule = registry.ask("POST", &format!("{APP}/source/rules"), alice, rule);
    assert_eq!((&rule["tag"], &rule["rebuild"]), (&json!("latest"), &json!(true)));
}

/// Asks for a build of `main`; its number.
pub(crate) fn run_build(registry: &TestRegistry, alice: &str) -> i64 {
    let asked = json!({ "kind": "branch", "name": "main" });
    let queued = registry.ask("POST", &format!("{APP}/builds"), alice, asked);
    assert_eq!(queued["builds"], json!([queued["build"]]));
    queued["build"].as_i64().unwrap()
}

#[test]
fn sources_are_connected_and_tell_no_secrets() {
    let registry = TestRegistry::with_accounts(None);
    let alice = registry.user("alice", false);
    assert_eq!(registry.api("GET", &format!("{APP}/source"), &alice, &Value::Null).status, 404);
    connect(&registry, &alice);
    let path = format!("{APP}/source");
    let again = json!({ "url": "https://git.example/other" });
    assert_eq!(registry.api("POST", &path, &alice, &again).status, 409);
    let variable = |name: &str| format!("{path}/variables/{name}");
    registry.ask("PUT", &variable("PLAIN"), &alice, json!({ "value": "seen" }));
    let secret = json!({ "value": "never-shown", "is_secret": true });
    registry.ask("PUT", &variable("HIDDEN"), &alice, secret);
    let source = registry.ask("GET", &path, &alice, Value::Null);
    assert_eq!((&source["has_credential"], &source["poll_minutes"]), (&json!(true), &json!(60)));
    assert_eq!(source["url"], "https://git.example/app");
    let shown = json!([
        { "name": "HIDDEN", "is_secret": true },
        { "name": "PLAIN", "is_secret": false, "value": "seen" },
    ]);
    assert_eq!(source["variables"], shown);
    for secret in ["git-token", "never-shown"] {
        assert!(!source.to_string().contains(secret), "{source}");
    }
    for (name, value, status) in [("1A", "x", 400), ("A-B", "x", 400), ("A", "a\0b", 400)] {
        let reply = registry.api("PUT", &variable(name), &alice, &json!({ "value": value }));
        assert_eq!(reply.status, status, "{name}");
    }
    let short = json!({ "value": "ab", "is_secret": true });
    assert_eq!(registry.api("PUT", &variable("A"), &alice, &short).status, 409);
    registry.ask("DELETE", &variable("PLAIN"), &alice, Value::Null);
    assert_eq!(registry.api("DELETE", &variable("PLAIN"), &alice, &Value::Null).status, 404);

    for (rule, status) in [
        (json!({ "kind": "branch", "source": "/(/" }), 409),
        (json!({ "kind": "branch", "source": "main", "dockerfile": "../x" }), 409),
        (json!({ "kind": "branch", "source": "main", "tag": "a b" }), 409),
        (json!({ "kind": "commit", "source": "main" }), 400),
        (json!({ "kind": "tag", "source": "v1", "expires_days": 0 }), 400),
    ] {
        let reply = registry.api("POST", &format!("{path}/rules"), &alice, &rule);
        assert_eq!(reply.status, status, "{rule}: {reply:?}");
    }
    let pulls =
        json!({ "kind": "pull", "source": "/.*/", "paths": ["src", "!docs"], "autobuild": false });
    let rule = registry.ask("POST", &format!("{path}/rules"), &alice, pulls);
    assert_eq!((&rule["tag"], &rule["expires_days"]), (&json!("pr-{number}"), &json!(14)));
    assert_eq!((&rule["context"], &rule["paths"]), (&json!("/"), &json!(["src", "!docs"])));
    registry.ask("DELETE", &format!("{path}/rules/{}", rule["id"]), &alice, Value::Null);
    let source = registry.ask("GET", &path, &alice, Value::Null);
    assert_eq!(source["rules"].as_array().unwrap().len(), 1);
    registry.ask("DELETE", &path, &alice, Value::Null);
    assert_eq!(registry.api("GET", &path, &alice, &Value::Null).status, 404);
    let path = "/repositories/nobody%2Fapp/source";
    let boss = registry.user("boss", true);
    assert_eq!(registry.api("POST", path, &boss, &again).status, 409, "for whom could it push?");
}

#[test]
fn builds_are_started_read_ended_and_repeated() {
    let registry = TestRegistry::with_accounts(None);
    let alice = registry.user("alice", false);
    connect(&registry, &alice);
    let path = format!("{APP}/builds");
    for asked in [
        json!({ "kind": "branch", "name": "other" }),
        json!({ "kind": "branch", "name": "a..b" }),
        json!({ "kind": "branch", "name": "main", "commit": "abc" }),
        json!({ "kind": "tag", "name": "main" }),
    ] {
        assert_eq!(registry.api("POST", &path, &alice, &asked).status, 409, "{asked}");
    }
    let id = run_build(&registry, &alice);
    let one = format!("{path}/{id}");
    let state = || registry.ask("GET", &one, &alice, Value::Null);
    assert_eq!((&state()["state"], &state()["by"]), (&json!("waiting"), &json!("alice")));
    let claimed = registry.claim();
    assert_eq!(state()["state"], "running");
    assert_eq!(registry.api("POST", &format!("{one}/retry"), &alice, &Value::Null).status, 409);
    // A character that is half written is waited for.
    let log =
        |from: i64| registry.ask("GET", &format!("{one}/log?from={from}"), &alice, Value::Null);
    let end = registry.write_log(&claimed, 0, b"step 1\n\xF0\x9F");
    let part = log(0);
    assert_eq!((&part["text"], &part["next"]), (&json!("step 1\n"), &json!(7)));
    registry.write_log(&claimed, end, "🦀\n".as_bytes().split_at(2).1);
    let part = log(7);
    assert_eq!((&part["text"], &part["is_over"]), (&json!("🦀\n"), &json!(false)));
    assert_eq!(log(12)["text"], "");
    assert_eq!(log(i64::MAX)["text"], "");
    registry.finish_build(&claimed, Outcome::Failed);
    let ended = state();
    assert_eq!((&ended["state"], &ended["is_over"]), (&json!("failed"), &json!(true)));
    assert_eq!(
        (&ended["message"], &ended["reason"]),
        (&json!("Add a harbour"), &json!("the build failed"))
    );
    assert_eq!(ended["phases"][1], json!({ "name": "build", "milliseconds": 65_000 }));
    assert_eq!(registry.api("POST", &format!("{one}/cancel"), &alice, &Value::Null).status, 409);
    let again = registry.ask("POST", &format!("{one}/retry"), &alice, Value::Null);
    let again = format!("{path}/{}", again["build"]);
    registry.ask("POST", &format!("{again}/cancel"), &alice, Value::Null);
    let cancelled = registry.ask("GET", &again, &alice, Value::Null);
    assert_eq!(cancelled["reason"], "cancelled by alice");
    let page = registry.ask("GET", &format!("{path}?limit=1"), &alice, Value::Null);
    assert_eq!(
        (&page["items"][0]["cause"], &page["next"]),
        (&json!("retry"), &json!((id + 1).to_string()))
    );
    let page = registry.ask("GET", &format!("{path}?after={}", id + 1), &alice, Value::Null);
    assert_eq!((&page["items"][0]["id"], page["next"].is_null()), (&json!(id), true));
    // Another repository has no such build, and whoever runs the server sees all.
    let other = format!("/repositories/alice%2Fother/builds/{id}");
    for (method, path) in
        [("GET", &other), ("POST", &format!("{other}/cancel")), ("POST", &format!("{other}/retry"))]
    {
        assert_eq!(registry.api(method, path, &alice, &Value::Null).status, 404, "{path}");
    }
    let boss = registry.user("boss", true);
    let all = registry.ask("GET", "/builds", &boss, Value::Null);
    assert_eq!(all["items"].as_array().unwrap().len(), 2);
    registry.ask("DELETE", APP, &alice, Value::Null);
    assert_eq!(registry.ask("GET", "/builds", &boss, Value::Null)["items"], json!([]));
}

#[test]
fn who_pushes_builds_and_who_administers_connects() {
    let registry = TestRegistry::with_accounts(None);
    let [alice, pia, otto] = ["alice", "pia", "otto"].map(|name| registry.user(name, false));
    connect(&registry, &alice);
    for (name, role) in [("pia", "push"), ("otto", "admin")] {
        let grant = json!({ "subject": name, "role": role, "repositories": "alice/*" });
        registry.ask("PUT", "/accounts/alice/grants", &alice, grant);
    }
    let id = run_build(&registry, &pia);
    assert_eq!(registry.api("GET", &format!("{APP}/source"), &pia, &Value::Null).status, 403);
    registry.ask("POST", &format!("{APP}/builds/{id}/cancel"), &pia, Value::Null);
    registry.ask("GET", &format!("{APP}/source/hook"), &otto, Value::Null);
    // What builds may pull beside their own repository is the owner's affair.
    let source = json!({ "url": "https://git.example/x", "pulls": ["alice/secret"] });
    let path = "/repositories/alice%2Fweb/source";
    assert_eq!(registry.api("POST", path, &otto, &source).status, 404);
    registry.ask("POST", path, &alice, source);
    registry.ask("DELETE", path, &otto, Value::Null);
    registry.ask("POST", path, &otto, json!({ "url": "https://git.example/x" }));
}

#[test]
fn webhooks_hear_of_their_accounts_repositories() {
    let receiver = HttpServer::start(|_| HttpReply::status(200).body("thank you"));
    let registry = TestRegistry::with_accounts(None);
    let (alice, boss) = (registry.user("alice", false), registry.user("boss", true));
    let path = "/accounts/alice/webhooks";
    let url = format!("http://{}/hook", receiver.host());
    let new = |more: Value| {
        let mut new = json!({ "name": "ci", "url": url });
        new.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        new
    };
    for (more, status) in [
        (json!({ "repositories": "**" }), 409),
        (json!({ "repositories": "boss/*" }), 409),
        (json!({ "url": "ftp://x" }), 409),
        (json!({ "secret": "short" }), 409),
        (json!({ "events": ["push", "test"] }), 400),
        (json!({ "name": "a/b" }), 400),
        (json!({ "allow_private": true }), 403),
    ] {
        let reply = registry.api("POST", path, &alice, &new(more.clone()));
        assert_eq!(reply.status, status, "{more}: {reply:?}");
    }
    let made = registry.ask("POST", path, &alice, new(json!({})));
    assert!(made["secret"].as_str().unwrap().starts_with("whsec_"));
    assert_eq!(registry.api("POST", path, &alice, &new(json!({}))).status, 409);
    let test = registry.ask("POST", &format!("{path}/ci/test"), &alice, Value::Null);
    assert_eq!(test["is_taken"], false);
    assert!(test["reply"].as_str().unwrap().contains("private network"), "{test}");
    registry.ask("DELETE", &format!("{path}/ci"), &alice, Value::Null);

    registry.ask("POST", path, &boss, new(json!({ "allow_private": true })));
    let list = registry.ask("GET", path, &alice, Value::Null);
    assert_eq!(
        (&list["items"][0]["name"], &list["items"][0]["repositories"]),
        (&json!("ci"), &json!("alice/**"))
    );
    assert!(!list.to_string().contains("whsec_"));
    let server = registry.ask("GET", "/webhooks", &boss, Value::Null);
    assert_eq!(server["items"], json!([]), "it is an account's");
    let test = registry.ask("POST", &format!("{path}/ci/test"), &alice, Value::Null);
    assert_eq!((&test["is_taken"], &test["reply"]), (&json!(true), &json!("thank you")));
    registry.push_as(&boss, ("boss/app", "v1"), &config("1"), &[b"1", b"2"]);
    registry.push_as(&alice, ("alice/app", "v1"), &config("1"), &[b"1", b"2"]);
    let deliveries = || registry.ask("GET", &format!("{path}/ci/deliveries"), &alice, Value::Null);
    let are_through = |count: usize| {
        let all = deliveries()["items"].as_array().unwrap().clone();
        all.len() == count && all.iter().all(|one| one["state"] == "delivered")
    };
    until("events are delivered", || are_through(2));
    let all = deliveries();
    let told: Vec<&str> =
        all["items"].as_array().unwrap().iter().map(|one| one["event"].as_str().unwrap()).collect();
    assert_eq!(told, ["push", "repository.create"]);
    let first = &all["items"][0];
    assert_eq!(
        (&first["repository"], &first["tag"], &first["status"]),
        (&json!("alice/app"), &json!("v1"), &json!(200))
    );
    let page = registry.ask("GET", &format!("{path}/ci/deliveries?limit=1"), &alice, Value::Null);
    assert_eq!(page["next"], first["id"].to_string());
    let before = receiver.requests().len();
    let again = format!("{path}/ci/deliveries/{}/redeliver", first["id"]);
    registry.ask("POST", &again, &alice, Value::Null);
    until("it is sent again", || receiver.requests().len() == before + 1);
    assert_eq!(
        registry
            .api("POST", &format!("{path}/ci/deliveries/999/redeliver"), &alice, &Value::Null)
            .status,
        404
    );
    registry.ask("POST", &format!("{path}/ci/enable"), &alice, Value::Null);
    let audit = registry.ask("GET", "/accounts/alice/audit", &alice, Value::Null);
    assert!(audit.to_string().contains("webhook.add"), "{audit}");
}

#[test]
fn webhooks_end_with_their_account() {
    let registry = TestRegistry::with_accounts(None);
    let (carol, boss) = (registry.user("carol", false), registry.user("boss", true));
    let new = json!({ "name": "ci", "url": "https://ci.example/hook" });
    registry.ask("POST", "/accounts/carol/webhooks", &carol, new.clone());
    registry.ask("POST", "/webhooks", &boss, new.clone());
    for at in 0..49 {
        let new = json!({ "name": format!("h{at}"), "url": "https://ci.example/hook" });
        registry.ask("POST", "/accounts/carol/webhooks", &carol, new);
    }
    let more = json!({ "name": "more", "url": "https://ci.example/hook" });
    assert_eq!(registry.api("POST", "/accounts/carol/webhooks", &carol, &more).status, 409);
    assert_eq!(registry.api("POST", "/accounts/nobody/webhooks", &boss, &new).status, 404);
    registry.ask("DELETE", "/accounts/carol", &boss, Value::Null);
    let carol = registry.user("carol", false);
    let list = registry.ask("GET", "/accounts/carol/webhooks", &carol, Value::Null);
    assert_eq!(list["items"], json!([]));
    let list = registry.ask("GET", "/webhooks", &boss, Value::Null);
    assert_eq!(list["items"][0]["repositories"], "**");
    registry.ask("DELETE", "/webhooks/ci", &boss, Value::Null);
}

#[test]
fn mirrors_and_rules_of_replication_are_managed() {
    let registry = TestRegistry::with_accounts(None);
    let boss = registry.user("boss", true);
    let mirror = json!({ "name": "docker.io", "is_default": true, "username": "me", "password": "hidden-pass", "pull": "everyone" });
    let made = registry.ask("POST", "/mirrors", &boss, mirror.clone());
    assert_eq!(
        (&made["upstream"], &made["ttl_seconds"], &made["fill"]),
        (&json!("docker.io"), &json!(300), &json!("accounts"))
    );
    for (mirror, status) in [
        (mirror, 409),
        (json!({ "name": "nodot" }), 409),
        (json!({ "name": "quay.example", "is_default": true }), 409),
        (json!({ "name": "quay.example", "username": "me" }), 409),
        (json!({ "name": "quay.example", "keep_days": 0 }), 400),
        (json!({ "name": "a/b.example" }), 400),
    ] {
        assert_eq!(registry.api("POST", "/mirrors", &boss, &mirror).status, status, "{mirror}");
    }
    let list = registry.ask("GET", "/mirrors", &boss, Value::Null);
    assert_eq!(list["items"][0]["username"], "me");
    assert!(!list.to_string().contains("hidden-pass"));
    registry.ask("DELETE", "/mirrors/docker.io", &boss, Value::Null);
    assert_eq!(registry.api("DELETE", "/mirrors/docker.io", &boss, &Value::Null).status, 404);

    let rule = |more: Value| {
        let mut rule = json!({ "name": "offsite", "direction": "push", "registry": "127.0.0.1:1", "repositories": "acme/**" });
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        rule
    };
    for (more, status) in [
        (json!({ "every_minutes": 5 }), 409),
        (json!({ "registry": "no registry" }), 409),
        (json!({ "prefix": "A/" }), 409),
        (json!({ "direction": "both" }), 400),
        (json!({ "password": "alone" }), 409),
    ] {
        assert_eq!(
            registry.api("POST", "/replication", &boss, &rule(more.clone())).status,
            status,
            "{more}"
        );
    }
    let account = json!({ "username": "me", "password": "hidden-pass", "prefix": "site1" });
    registry.ask("POST", "/replication", &boss, rule(account));
    registry.ask("POST", "/replication/offsite/run", &boss, Value::Null);
    let list = registry.ask("GET", "/replication", &boss, Value::Null);
    let shown = &list["items"][0];
    assert_eq!(
        (&shown["direction"], &shown["prefix"], &shown["tags"]),
        (&json!("push"), &json!("site1"), &json!("*"))
    );
    assert!(!list.to_string().contains("hidden-pass"));
    registry.ask("DELETE", "/replication/offsite", &boss, Value::Null);
    assert_eq!(registry.api("POST", "/replication/offsite/run", &boss, &Value::Null).status, 404);
    let audit = registry.ask("GET", "/audit", &boss, Value::Null).to_string();
    for action in ["mirror.add", "mirror.remove", "replication.add", "replication.remove"] {
        assert!(audit.contains(action), "{action}");
    }
}
