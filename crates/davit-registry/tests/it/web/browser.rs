//! The pages in headless Chromium, by Playwright (npm `playwright-core`): a newcomer's way, keyboard,
//! contrasts, light and dark, without JavaScript. Screenshots stay in the target folder's `tmp`.

use std::{path::PathBuf, process::Command};

use davit_registry::autobuild::claim::Outcome;
use davit_test::{need_node_package, need_tool, until};
use serde_json::json;

use crate::{api::config, fixture::TestRegistry};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/web/browser.js");

#[test]
fn a_newcomer_finds_the_way() {
    let Some(chromium) = need_tool("chromium") else { return };
    let Some((node, modules)) = need_node_package("playwright-core@1.65.1") else { return };
    let registry = TestRegistry::with_accounts(None);
    let boss = registry.user("boss", true);
    fill(&registry, &boss);
    let pictures = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("registry-pages");
    fs_err::create_dir_all(&pictures).unwrap();
    let outcome = Command::new(node)
        .env("NODE_PATH", modules)
        .arg(SCRIPT)
        .arg(format!("http://{}", registry.address()))
        .arg(&pictures)
        .arg(chromium)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&outcome.stdout);
    let fault = String::from_utf8_lossy(&outcome.stderr);
    assert!(outcome.status.success(), "{told}\n{fault}");
    assert!(fs_err::read_dir(&pictures).unwrap().count() > 20, "{told}");
}

/// What a registry of a small team has.
fn fill(registry: &TestRegistry, boss: &str) {
    for name in ["ada", "grace"] {
        registry.user(name, false);
    }
    registry.ask("POST", "/organisations", boss, json!({ "name": "lighthouse" }));
    for name in ["ada", "grace"] {
        let path = format!("/organisations/lighthouse/members/{name}");
        registry.ask("PUT", &path, boss, json!({ "role": "member" }));
    }
    for team in ["backend", "design"] {
        registry.ask("POST", "/organisations/lighthouse/teams", boss, json!({ "name": team }));
        let path = format!("/organisations/lighthouse/teams/{team}/members/ada");
        registry.ask("PUT", &path, boss, json!(null));
    }
    let grant =
        json!({ "subject": "lighthouse/backend", "repositories": "lighthouse/**", "role": "push" });
    registry.ask("PUT", "/accounts/lighthouse/grants", boss, grant);
    registry.ask("POST", "/accounts/lighthouse/robots", boss, json!({ "name": "deploy" }));
    for (name, about, visibility) in [
        ("lighthouse/api", "Answers every beam, in milliseconds", "public"),
        ("lighthouse/web", "The page that sailors open first", "private"),
        ("lighthouse/worker", "Sorts the weather by night", "private"),
        ("boss/toolbox", "Small things for the shell", "public"),
    ] {
        let path = format!("/repositories/{}", name.replace('/', "%2F"));
        registry.ask("PUT", &path, boss, json!({ "visibility": visibility, "description": about }));
        for (at, tag) in ["1.4.0", "1.5.0", "latest", "pr-128"].into_iter().enumerate() {
            let layers = [vec![7; 61_000], vec![u8::try_from(at).unwrap(); 24_500 * (at + 1)]];
            let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
            registry.push_as(boss, (name, tag), &config(name), &layers);
        }
        registry.push_as(boss, (name, "latest"), &config("again"), &[b"one", b"two"]);
    }
    let readme = "# Lighthouse API\n\nAnswers every beam. Run it:\n\n```sh\ndavit run -p 8080:8080 \
        localhost/lighthouse/api:latest\n```\n\n| variable | meaning |\n|---|---|\n| `BEAM` | how far, in \
        miles |\n| `FOG` | louder when true |\n\n- small\n- *quick*, and **quiet**\n\n> It was dark before.\n";
    registry.ask("PUT", "/repositories/lighthouse%2Fapi", boss, json!({ "readme": readme }));
    let rules = json!({ "retention": [{ "tags": "pr-.*", "pushed_within_days": 14 }], "immutable_tags": ["[0-9].*"] });
    registry.ask("PATCH", "/repositories/lighthouse%2Fapi/settings", boss, rules);
    registry.ask("PATCH", "/accounts/lighthouse", boss, json!({ "quota_bytes": 1_000_000 }));
    let token =
        json!({ "name": "laptop", "scopes": ["repository:boss/**:pull,push"], "expires_days": 90 });
    registry.ask("POST", "/accounts/boss/tokens", boss, token);
    fill_automation(registry, boss);
}

/// Builds, webhooks, mirrors and rules of replication.
fn fill_automation(registry: &TestRegistry, boss: &str) {
    let api = "/repositories/lighthouse%2Fapi";
    let source = json!({
        "url": "https://git.example/lighthouse/api.git", "token": "not-a-real-token", "poll_minutes": 60,
        "test": "/bin/api --self-test",
    });
    registry.ask("POST", &format!("{api}/source"), boss, source);
    for rule in [
        json!({ "kind": "branch", "source": "main", "paths": ["src", "Dockerfile"] }),
        json!({ "kind": "tag", "source": "/^v([0-9]+)\\.([0-9.]+)$/", "tag": "{\\1},{\\1}.{\\2}" }),
        json!({ "kind": "pull", "source": "/.*/", "forks": true, "caching": false }),
    ] {
        registry.ask("POST", &format!("{api}/source/rules"), boss, rule);
    }
    for (name, value, is_secret) in [("FEATURES", "fog,beam", false), ("TOKEN", "hidden", true)] {
        let variable = json!({ "value": value, "is_secret": is_secret });
        registry.ask("PUT", &format!("{api}/source/variables/{name}"), boss, variable);
    }
    for (at, outcome) in [Outcome::Done, Outcome::Failed].into_iter().enumerate() {
        let asked = json!({ "kind": "branch", "name": "main" });
        registry.ask("POST", &format!("{api}/builds"), boss, asked);
        let claimed = registry.claim();
        let lines: String = (1..=4)
            .map(|step| format!("\x1b[2mStep {step} of 4\x1b[0m : RUN make beam-{at}\n"))
            .collect();
        registry.write_log(&claimed, 0, lines.as_bytes());
        registry.finish_build(&claimed, outcome);
    }
    let url = "http://127.0.0.1:1/events";
    let webhook = json!({ "name": "ci", "url": url, "allow_private": true });
    registry.ask("POST", "/accounts/lighthouse/webhooks", boss, webhook);
    registry.push_as(boss, ("lighthouse/api", "1.6.0"), &config("beam"), &[b"one", b"two"]);
    until("the webhook was tried", || {
        let path = "/accounts/lighthouse/webhooks/ci/deliveries";
        let all = registry.ask("GET", path, boss, json!(null));
        all["items"][0]["reply"].is_string()
    });
    fill_identity(registry, boss);
    let mirror = json!({ "name": "docker.io", "is_default": true, "pull": "everyone" });
    registry.ask("POST", "/mirrors", boss, mirror);
    let rule = json!({
        "name": "offsite", "direction": "push", "registry": "backup.example:5000",
        "repositories": "nobody/**", "prefix": "site1",
    });
    registry.ask("POST", "/replication", boss, rule);
}

/// Who else vouches for people and builds, and a webhook of the server.
fn fill_identity(registry: &TestRegistry, boss: &str) {
    let provider = json!({ "issuer": "https://idp.example", "client_id": "davit" });
    registry.ask("PUT", "/oidc/harbour", boss, provider);
    let directory = json!({
        "url": "ldaps://ldap.example", "bind_dn": "cn=reader,dc=example", "bind_password": "hidden",
        "users": "ou=people,dc=example", "groups": "ou=groups,dc=example",
    });
    registry.ask("PUT", "/ldap/office", boss, directory);
    let map = json!({ "group": "keepers", "organisation": "lighthouse", "team": "backend" });
    registry.ask("POST", "/ldap/office/groups", boss, map);
    let rule = json!({
        "robot": "lighthouse+deploy", "issuer": "https://builds.example", "audience": "registry",
        "claims": ["sub=repo:lighthouse/*", "ref=refs/heads/main"],
    });
    registry.ask("POST", "/trust", boss, rule);
    let webhook = json!({ "name": "audit", "url": "https://audit.example/events" });
    registry.ask("POST", "/webhooks", boss, webhook);
}
