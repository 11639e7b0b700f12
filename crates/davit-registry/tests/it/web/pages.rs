//! What pages show, what they hide, and that nothing that is shown can do anything.

use std::io::{Read as _, Write as _};

use davit_test::{HttpServer, Reply as HttpReply, until};
use serde_json::{Value, json};

use super::Browser;
use crate::{
    api::config,
    fixture::{Reply, TestRegistry},
};

const EVIL: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>";

fn check_harmless(reply: &Reply, path: &str) {
    let text = reply.text();
    for wrong in ["<script>", "<img", "onerror=alert(2)>", "\"'><", "=\"javascript:"] {
        assert!(!text.contains(wrong), "{path} has {wrong}: {text}");
    }
    // The pages' own script is the only one, and no style or handler stands in a page.
    assert_eq!(text.matches("<script").count(), 1, "{path}");
    let lower = text.to_lowercase();
    for wrong in [" style=", " onclick=", " onload=", "<style", "<iframe", "<base"] {
        assert!(!lower.contains(wrong), "{path} has {wrong}");
    }
}

fn check_headers(reply: &Reply, path: &str) {
    let policy = reply.header("content-security-policy").unwrap();
    for part in
        ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"]
    {
        assert!(policy.contains(part), "{path}: {policy}");
    }
    assert!(!policy.contains("unsafe"), "{path}: {policy}");
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{path}");
    assert_eq!(reply.header("cache-control"), Some("no-store"), "{path}");
    assert_eq!(reply.header("referrer-policy"), Some("same-origin"), "{path}");
}

/// Puts hostile texts wherever one can; the digest of the image.
fn plant(registry: &TestRegistry, boss: &str) -> String {
    let mut evil = config(EVIL);
    evil["config"]["Env"] = json!([format!("A={EVIL}")]);
    evil["config"]["Labels"] = json!({ EVIL: EVIL });
    evil["config"]["User"] = json!(EVIL);
    evil["author"] = json!(EVIL);
    evil["architecture"] = json!(EVIL);
    evil["history"] = json!([{ "created_by": EVIL }, { "created_by": format!("RUN {EVIL}") }]);
    let digest = registry.push_as(boss, ("boss/app", "v1"), &evil, &[b"1", b"2"]);
    let readme = format!(
        "# {EVIL}\n\n{EVIL}\n\n[x](javascript:alert(1))\n\n![y](http://evil.test/x)\n\n`{EVIL}`\n"
    );
    let about = json!({ "description": EVIL, "readme": readme });
    registry.ask("PUT", "/repositories/boss%2Fapp", boss, about);
    let settings = json!({ "immutable_tags": ["x<script>.*"], "retention": [{ "tags": "<img>.*", "newest": 1 }] });
    registry.ask("PATCH", "/repositories/boss%2Fapp/settings", boss, settings);
    registry.ask("POST", "/accounts/boss/tokens", boss, json!({ "name": EVIL }));
    registry.ask("POST", "/organisations", boss, json!({ "name": "acme" }));
    plant_automation(registry, boss);
    digest
}

/// Hostile texts in a source, a build and its log, a webhook and what it answered.
fn plant_automation(registry: &TestRegistry, boss: &str) {
    let app = "/repositories/boss%2Fapp";
    let source = json!({ "url": "https://git.example/<img>", "test": EVIL });
    registry.ask("POST", &format!("{app}/source"), boss, source);
    let rule = json!({ "kind": "branch", "source": "main", "context": EVIL, "paths": [EVIL] });
    registry.ask("POST", &format!("{app}/source/rules"), boss, rule);
    let variable = format!("{app}/source/variables/A");
    registry.ask("PUT", &variable, boss, json!({ "value": EVIL }));
    let build = json!({ "kind": "branch", "name": "main" });
    registry.ask("POST", &format!("{app}/builds"), boss, build);
    let claimed = registry.claim();
    registry.write_log(&claimed, 0, EVIL.as_bytes());
    let receiver = HttpServer::start(|_| HttpReply::status(500).body(EVIL));
    let url = format!("http://{}/hook", receiver.host());
    let webhook = json!({ "name": "ci", "url": url, "allow_private": true });
    registry.ask("POST", "/accounts/boss/webhooks", boss, webhook);
    registry.push_as(boss, ("boss/app", "v2"), &config("x"), &[b"1", b"2"]);
    until("the webhook has answered", || {
        let all = registry.ask("GET", "/accounts/boss/webhooks/ci/deliveries", boss, Value::Null);
        all["items"][0]["reply"].is_string()
    });
    registry.ask(
        "POST",
        "/mirrors",
        boss,
        json!({ "name": "quay.example", "username": EVIL, "password": "x" }),
    );
    let rule = json!({
        "name": "offsite", "direction": "push", "registry": "quay.example", "repositories": "a/**",
        "username": EVIL, "password": "x",
    });
    registry.ask("POST", "/replication", boss, rule);
}

/// Every page that shows something of it.
fn planted_pages(digest: &str, evil_query: &str) -> Vec<String> {
    vec![
        "/".to_owned(),
        format!("/?q={evil_query}"),
        format!("/login?next={evil_query}"),
        format!("/nothing/{evil_query}"),
        format!("/new/repository?namespace={evil_query}"),
        "/about/api".to_owned(),
        "/a/boss".to_owned(),
        "/a/boss/access".to_owned(),
        "/a/boss/usage".to_owned(),
        "/a/boss/audit".to_owned(),
        "/a/acme/members".to_owned(),
        "/r/boss/app".to_owned(),
        "/r/boss/app/-/tags".to_owned(),
        format!("/r/boss/app/-/tags?filter={evil_query}"),
        "/r/boss/app/-/tags/v1".to_owned(),
        format!("/r/boss/app/-/images/{digest}"),
        "/r/boss/app/-/access".to_owned(),
        "/r/boss/app/-/builds".to_owned(),
        "/r/boss/app/-/builds/1".to_owned(),
        "/r/boss/app/-/source".to_owned(),
        "/r/boss/app/-/webhooks".to_owned(),
        "/a/boss/webhooks".to_owned(),
        "/a/boss/webhooks/ci".to_owned(),
        "/admin/builds".to_owned(),
        "/admin/mirrors".to_owned(),
        "/admin/replication".to_owned(),
        "/r/boss/app/-/settings".to_owned(),
        "/settings".to_owned(),
        "/settings/tokens".to_owned(),
        "/new/organisation".to_owned(),
        "/admin".to_owned(),
        "/admin/users".to_owned(),
        "/admin/audit".to_owned(),
        "/admin/settings".to_owned(),
    ]
}

#[test]
fn hostile_texts_stay_texts() {
    let registry = TestRegistry::with_accounts(None);
    let boss = registry.user("boss", true);
    let digest = plant(&registry, &boss);
    let mut browser = Browser::logged_in(&registry, "boss");
    let evil_query: String = url::form_urlencoded::byte_serialize(EVIL.as_bytes()).collect();
    let paths = planted_pages(&digest, &evil_query);
    let mut shown = 0;
    for path in &paths {
        let reply = browser.get(path);
        let expected = match path {
            path if path.starts_with("/nothing") => 404,
            path if path.starts_with("/login") => 303,
            _ => 200,
        };
        assert_eq!(reply.status, expected, "{path}: {}", reply.text());
        check_headers(&reply, path);
        if expected != 303 {
            check_harmless(&reply, path);
        }
        shown += reply.text().matches("&#60;script&#62;alert(1)").count();
        shown += reply.text().matches("&lt;script&gt;alert(1)").count();
    }
    assert!(shown > 25, "the texts are shown: {shown}");
    let mut guest = Browser::new(&registry);
    for path in ["/login", "/signup", "/login?next=/\"><script>alert(1)</script>"] {
        let path = path.replace('"', "%22").replace('<', "%3C").replace('>', "%3E");
        let reply = guest.get(&path);
        assert_eq!(reply.status, 200, "{path}");
        check_harmless(&reply, &path);
        check_headers(&reply, &path);
    }
    let reply = guest.post("/login", &[("name", EVIL), ("password", EVIL)]);
    assert_eq!(reply.status, 401);
    check_harmless(&reply, "a wrong login");
    let reply = guest.post("/signup", &[("name", EVIL), ("password", "long enough")]);
    assert_eq!(reply.status, 400);
    check_harmless(&reply, "a wrong sign-up");
}

/// A stranger's page of what is private is that of what does not exist, byte for byte.
#[test]
fn hidden_pages_are_absent_pages() {
    let registry = TestRegistry::with_accounts(None);
    let alice = registry.user("alice", false);
    registry.user("sam", false);
    registry.ask("POST", "/organisations", &alice, json!({ "name": "acme" }));
    registry.push_as(&alice, ("acme/secret", "v1"), &config("x"), &[b"1", b"2"]);
    let mut sam = Browser::logged_in(&registry, "sam");
    let mut guest = Browser::new(&registry);
    guest.get("/login");
    for (hidden, absent) in [
        ("/r/acme/secret", "/r/acme/absent"),
        ("/r/acme/secret/-/tags", "/r/acme/absent/-/tags"),
        ("/r/acme/secret/-/tags/v1", "/r/acme/secret/-/tags/v2"),
        ("/r/acme/secret/-/settings", "/r/acme/absent/-/settings"),
        ("/r/acme/secret/-/live", "/r/acme/absent/-/live"),
        ("/r/acme/secret/-/builds", "/r/acme/absent/-/builds"),
        ("/r/acme/secret/-/builds/1", "/r/acme/secret/-/builds/2"),
        ("/r/acme/secret/-/source", "/r/acme/absent/-/source"),
        ("/r/acme/secret/-/webhooks", "/r/acme/absent/-/webhooks"),
        ("/r/acme/secret/-/live/builds", "/r/acme/absent/-/live/builds"),
        ("/a/acme/webhooks", "/a/nobody/webhooks"),
        ("/a/acme", "/a/nobody"),
        ("/a/acme/members", "/a/nobody/members"),
        ("/a/acme/usage", "/a/nobody/usage"),
        ("/a/acme/audit", "/a/nobody/audit"),
    ] {
        for browser in [&mut sam, &mut guest] {
            let (one, other) = (browser.get(hidden), browser.get(absent));
            assert_eq!((one.status, one.text()), (other.status, other.text()), "{hidden}");
            assert!([303, 403, 404].contains(&one.status), "{hidden}: {}", one.status);
        }
    }
    for path in ["/", "/?q=secret", "/?q=acme"] {
        for browser in [&mut sam, &mut guest] {
            assert!(!browser.get(path).text().contains("acme/secret"), "{path}");
        }
    }
    registry.ask("PUT", "/repositories/acme%2Fsecret", &alice, json!({ "visibility": "public" }));
    for path in ["/", "/r/acme/secret", "/r/acme/secret/-/tags/v1", "/a/acme"] {
        let page = guest.get(path);
        assert!(page.status == 200 && page.text().contains("acme/secret"), "{path}");
        for wrong in [
            "/-/settings",
            "/-/access",
            "Remove tag",
            "Undo last move",
            "/audit",
            "/-/builds",
            "/-/webhooks",
        ] {
            assert!(!page.text().contains(wrong), "{path} offers {wrong}");
        }
    }
}

#[test]
fn pages_show_what_was_pushed() {
    let registry = TestRegistry::with_accounts(None);
    let alice = registry.user("alice", false);
    let digest = registry.push_as(&alice, ("alice/app", "v1"), &config("x"), &[&[0; 3000], b"2"]);
    let mut browser = Browser::logged_in(&registry, "alice");
    let page = browser.get("/r/alice/app");
    for text in ["davit pull localhost/alice/app:v1", "linux/arm64", "There is no README"] {
        assert!(page.text().contains(text), "{text}: {}", page.text());
    }
    let page = browser.get(&format!("/r/alice/app/-/images/{digest}"));
    let text = page.text();
    for expected in ["COPY app /bin/app", "RUN apk add tini", "3.00 kB", "8080/tcp", "/bin/app"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    // Forms work from end to end.
    let form = [
        ("repository", "alice/app"),
        ("description", ""),
        ("readme", "# Read me"),
        ("next", "/r/{repository}"),
    ];
    let reply = browser.post("/do/setRepository", &form);
    assert_eq!((reply.status, reply.header("location")), (303, Some("/r/alice/app")));
    assert!(browser.get("/r/alice/app").text().contains("<h2>Read me</h2>"));
    let form = [("repository", "alice/app"), ("tag", "v1"), ("next", "/r/{repository}")];
    let page = browser.get("/r/alice/app/-/tags/v1");
    assert!(!page.text().contains("Undo last move"), "it has not moved yet");
    assert_eq!(browser.post("/do/deleteTag", &form).status, 303);
    let page = browser.get("/r/alice/app/-/tags/v1");
    assert!(page.status == 200 && page.text().contains("The tag was removed"));
    assert!(page.text().contains("Undo last move"));
    assert_eq!(browser.post("/do/undoTag", &form).status, 303);
    assert!(browser.get("/r/alice/app/-/tags/v1").text().contains(&digest));
    let form = [
        ("repository", "alice/app"),
        ("immutable_tags", "v.*\r\nw.*"),
        ("keep_untagged", "false"),
        ("keep_untagged", "true"),
        ("next", "/"),
    ];
    assert_eq!(browser.post("/do/setRepositorySettings", &form).status, 303);
    let settings = registry.ask("GET", "/repositories/alice%2Fapp/settings", &alice, Value::Null);
    assert_eq!(settings["immutable_tags"], json!(["v.*", "w.*"]));
    assert_eq!(settings["keep_untagged"], json!(true));
    let form = [("repository", "alice/app"), ("immutable_tags", "("), ("next", "/")];
    let reply = browser.post("/do/setRepositorySettings", &form);
    assert!(reply.status == 400 && reply.text().contains("That did not work"));
}

#[test]
fn packages_come_from_what_refers_to_the_image() {
    let registry = TestRegistry::start();
    let manifest = crate::fixture::image(b"{}", &[]);
    registry.push_blob("a/b", b"{}");
    let digest = registry.push_manifest("a/b", "v1", &manifest);
    let digest = digest.header("docker-content-digest").unwrap().to_owned();
    let spdx = br#"{"spdxVersion":"SPDX-2.3","packages":[{"name":"musl","versionInfo":"1.2.5"}]}"#;
    registry.push_blob("a/b", spdx);
    let mut sbom = crate::fixture::image(b"{}", &[spdx]);
    sbom["layers"][0]["mediaType"] = json!("application/spdx+json");
    sbom["artifactType"] = json!("application/spdx+json");
    sbom["subject"] =
        crate::fixture::descriptor(crate::fixture::MANIFEST, &crate::fixture::bytes(&manifest));
    assert_eq!(registry.push_manifest("a/b", "sbom", &sbom).status, 201);
    let found = registry.ask("GET", "/repositories/a%2Fb/images/v1/sbom", "", Value::Null);
    assert_eq!(found["packages"], json!([{ "name": "musl", "version": "1.2.5" }]));
    let page = registry.get(&format!("/r/a/b/-/images/{digest}"));
    assert!(page.text().contains("musl") && page.text().contains("application/spdx+json"));
    let none = registry.api("GET", "/repositories/a%2Fb/images/sbom/sbom", "", &Value::Null);
    assert_eq!(none.status, 404);
}

#[test]
fn an_image_of_many_referrers_has_several_pages_of_them() {
    let registry = TestRegistry::start();
    registry.push_blob("a/b", b"{}");
    let manifest = crate::fixture::image(b"{}", &[]);
    let digest = registry.push_manifest("a/b", "v1", &manifest);
    let digest = digest.header("docker-content-digest").unwrap().to_owned();
    let bytes = crate::fixture::bytes(&manifest);
    for number in 0..105 {
        let mut note = crate::fixture::image(b"{}", &[]);
        note["artifactType"] = json!(format!("text/x-note-{number}."));
        note["subject"] = crate::fixture::descriptor(crate::fixture::MANIFEST, &bytes);
        assert_eq!(registry.push_manifest("a/b", "note", &note).status, 201);
    }
    let first = registry.get(&format!("/r/a/b/-/images/{digest}"));
    let next = first.text().split_once("class=\"button quiet\" href=\"").unwrap().1;
    let next = next.split('"').next().unwrap().replace("&#38;", "&");
    let second = registry.get(&next);
    assert!(!second.text().contains(">More</a>"));
    let seen = |number: &i32| {
        let kind = format!("text/x-note-{number}.");
        first.text().contains(&kind) != second.text().contains(&kind)
    };
    assert_eq!((0..105).filter(seen).count(), 105, "each is on one of them");
}

#[test]
fn live_parts_tell_of_changes_and_end_with_the_server() {
    let registry = TestRegistry::start();
    registry.push_blob("a/b", b"{}");
    let image = crate::fixture::image(b"{}", &[]);
    registry.push_manifest("a/b", "v1", &image);
    let mut stream = registry.connect();
    stream.write_all(b"GET /r/a/b/-/live HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut text = String::new();
    let mut read = |text: &mut String, until: &str| {
        let mut piece = [0; 1024];
        while !text.contains(until) {
            let length = stream.read(&mut piece).unwrap();
            assert!(length > 0, "the stream ended: {text}");
            text.push_str(std::str::from_utf8(&piece[..length]).unwrap());
        }
    };
    read(&mut text, "text/event-stream");
    registry.push_manifest("a/b", "v2", &image);
    read(&mut text, "event: change");
    // It does not keep the server from ending.
    drop(registry.stop());
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
}

#[test]
fn files_are_kept_by_their_version() {
    let registry = TestRegistry::start();
    let page = registry.get("/");
    for name in ["style.css", "page.js", "mark.svg"] {
        let (_, rest) = page.text().split_once(&format!("/static/{name}")).unwrap();
        let query = rest.split('"').next().unwrap();
        let reply = registry.get(&format!("/static/{name}{query}"));
        assert_eq!(reply.status, 200);
        assert!(reply.header("cache-control").unwrap().contains("immutable"), "{name}");
        assert_eq!(
            registry.get(&format!("/static/{name}")).header("cache-control"),
            Some("no-cache")
        );
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    }
    assert_eq!(registry.get("/static/other").status, 404);
    assert_eq!(registry.send("DELETE", "/", &[], b"").status, 405);
}
