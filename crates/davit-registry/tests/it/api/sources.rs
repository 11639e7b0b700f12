//! Sources of automated builds that are changed by the API, and by the page's form.

use davit_registry::autobuild::source::Credential;
use serde_json::{Value, json};

use crate::{
    automation::{connect, run_build},
    fixture::TestRegistry,
    web::Browser,
};

const SOURCE: &str = "/repositories/alice%2Fapp/source";

fn source(registry: &TestRegistry, alice: &str) -> Value {
    registry.ask("GET", SOURCE, alice, Value::Null)
}

fn change(registry: &TestRegistry, who: &str, change: Value) -> u16 {
    registry.api("PATCH", SOURCE, who, &change).status
}

/// Names of its variables.
fn variables(source: &Value) -> Vec<&str> {
    let all = source["variables"].as_array().unwrap().iter();
    all.map(|variable| variable["name"].as_str().unwrap()).collect()
}

#[test]
fn sources_are_changed_and_tell_no_other_host() {
    let registry = TestRegistry::with_accounts(None);
    let alice = registry.user("alice", false);
    let none = json!({ "test": "/bin/true" });
    assert_eq!(change(&registry, &alice, none.clone()), 404);
    connect(&registry, &alice);
    let hook = registry.ask("GET", &format!("{SOURCE}/hook"), &alice, Value::Null);
    for (name, is_secret) in [("HIDDEN", true), ("PLAIN", false)] {
        let variable = json!({ "value": "never-shown", "is_secret": is_secret });
        registry.ask("PUT", &format!("{SOURCE}/variables/{name}"), &alice, variable);
    }
    let build = run_build(&registry, &alice);
    assert_eq!(change(&registry, &alice, none), 204);
    let changed = source(&registry, &alice);
    assert_eq!((&changed["test"], &changed["poll_minutes"]), (&json!("/bin/true"), &json!(60)));
    let same = json!({ "url": "https://git.example/app", "poll_minutes": 0, "test": "" });
    assert_eq!(change(&registry, &alice, same), 204);
    let changed = source(&registry, &alice);
    assert_eq!((&changed["test"], changed["poll_minutes"].is_null()), (&json!(""), true));
    assert_eq!(variables(&changed), ["HIDDEN", "PLAIN"]);
    assert_eq!(changed["has_credential"], true);

    // What was meant for one git repository goes to no other.
    for (url, why) in [
        ("https://git.example/other", "needs its credential"),
        ("https://evil.test/app", "needs its credential"),
        ("file:///etc", "cannot be used"),
    ] {
        let reply = registry.api("PATCH", SOURCE, &alice, &json!({ "url": url }));
        assert!(reply.status == 409 && reply.text().contains(why), "{url}: {reply:?}");
    }
    assert_eq!(source(&registry, &alice), changed, "nothing of it was done");
    let state = |id: i64| {
        let path = format!("/repositories/alice%2Fapp/builds/{id}");
        let build = registry.ask("GET", &path, &alice, Value::Null);
        (build["state"].as_str().unwrap().to_owned(), build["reason"].clone())
    };
    assert_eq!(state(build).0, "waiting");
    let moved = json!({ "url": "https://me:second-token@other.example/app" });
    assert_eq!(change(&registry, &alice, moved), 204);
    let changed = source(&registry, &alice);
    assert_eq!(changed["url"], "https://other.example/app");
    assert_eq!(variables(&changed), ["PLAIN"]);
    assert_eq!(changed["rules"].as_array().unwrap().len(), 1);
    assert_eq!(state(build), ("cancelled".to_owned(), json!("the source was changed")));
    assert_eq!(registry.ask("GET", &format!("{SOURCE}/hook"), &alice, Value::Null), hook);
    run_build(&registry, &alice);
    let claimed = registry.claim();
    assert_eq!(claimed.url, "https://other.example/app");
    let Some(Credential::Token(token)) = &claimed.credential else { panic!("{claimed:?}") };
    assert_eq!(token.expose(), "second-token");

    let forgotten = json!({ "url": "https://public.example/app", "no_credential": true });
    assert_eq!(change(&registry, &alice, forgotten), 204);
    assert_eq!(source(&registry, &alice)["has_credential"], false);
    assert_eq!(change(&registry, &alice, json!({ "url": "https://public.example/b" })), 204);
    let log = registry.ask("GET", "/accounts/alice/audit", &alice, Value::Null).to_string();
    assert!(log.contains("source.change") && !log.contains("second-token"), "{log}");
}

/// Who administers one repository decides nothing about the others of its owner.
#[test]
fn what_builds_pull_is_the_owners_to_change() {
    let registry = TestRegistry::with_accounts(None);
    let alice = registry.user("alice", false);
    let bob = registry.user("bob", false);
    connect(&registry, &alice);
    let grant = json!({ "subject": "bob", "repositories": "alice/app", "role": "admin" });
    registry.ask("PUT", "/accounts/alice/grants", &alice, grant);
    let pulls = |patterns: &[&str]| json!({ "pulls": patterns, "test": "/bin/true" });
    assert_eq!(change(&registry, &alice, pulls(&["alice/base"])), 204);
    for (patterns, status) in
        [(&["alice/base"][..], 204), (&["alice/**"], 404), (&[], 404), (&["alice/base"], 204)]
    {
        assert_eq!(change(&registry, &bob, pulls(patterns)), status, "{patterns:?}");
        assert_eq!(source(&registry, &alice)["pulls"], json!(["alice/base"]));
    }
    assert_eq!(change(&registry, &bob, json!({ "poll_minutes": 5 })), 204);
    assert_eq!(change(&registry, &alice, pulls(&[])), 204);
    assert_eq!(source(&registry, &alice)["pulls"], json!([]));
}

#[test]
fn sources_are_changed_by_a_form() {
    let registry = TestRegistry::with_accounts(None);
    let alice = registry.user("alice", false);
    connect(&registry, &alice);
    let mut browser = Browser::logged_in(&registry, "alice");
    let place = "/r/alice/app/-/source";
    let page = browser.get(place);
    assert!(page.text().contains("value=\"https://git.example/app\""), "{}", page.text());
    let form = [
        ("repository", "alice/app"),
        ("url", "https://git.example/app"),
        ("token", ""),
        ("ssh_key", ""),
        ("poll_minutes", "15"),
        ("test", "/bin/true"),
        ("pulls", "alice/base\r\nalice/tools\r\n"),
        ("next", "/r/{repository}/-/source"),
    ];
    let reply = browser.post("/do/setSource", &form);
    assert_eq!(reply.header("location"), Some(place), "{}", reply.text());
    let page = browser.get(place);
    for text in ["every 15 min", "with a credential", "<code>alice/tools</code>"] {
        assert!(page.text().contains(text), "{text}: {}", page.text());
    }
    // Fields that were emptied are.
    let emptied = form.map(|(name, value)| match name {
        "test" | "pulls" => (name, ""),
        "poll_minutes" => (name, "0"),
        _ => (name, value),
    });
    assert_eq!(browser.post("/do/setSource", &emptied).status, 303);
    let changed = source(&registry, &alice);
    assert_eq!((&changed["test"], &changed["pulls"]), (&json!(""), &json!([])));
    assert!(changed["poll_minutes"].is_null(), "{changed}");
}
