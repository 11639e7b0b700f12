//! The page of identity providers, directories and build systems; webhooks of the server; what a login
//! says while a directory is away.

use serde_json::json;

use super::Browser;
use crate::{api::config, fixture::TestRegistry};

const HERE: (&str, &str) = ("next", "/admin/identity");
const SECRET: &str = "not-for-anyone";

#[test]
fn who_vouches_for_people_is_managed_by_forms() {
    let registry = TestRegistry::with_accounts(None);
    let boss = registry.user("boss", true);
    registry.ask("POST", "/organisations", &boss, json!({ "name": "acme" }));
    registry.ask("POST", "/organisations/acme/teams", &boss, json!({ "name": "dev" }));
    registry.ask("POST", "/accounts/acme/robots", &boss, json!({ "name": "ci" }));
    let mut browser = Browser::logged_in(&registry, "boss");
    let page = browser.get("/admin/identity");
    for text in ["Nobody logs in by a provider", "No directory is asked", "value=\"entryUUID\""] {
        assert!(page.text().contains(text), "{text}: {}", page.text());
    }
    let mut send = |operation: &str, fields: &[(&str, &str)]| {
        let fields: Vec<_> = fields.iter().copied().chain([HERE]).collect();
        let reply = browser.post(&format!("/do/{operation}"), &fields);
        assert_eq!(reply.header("location"), Some(HERE.1), "{operation}: {}", reply.text());
        let page = browser.get(HERE.1);
        assert!(!page.text().contains(SECRET), "{}", page.text());
        page.text().to_owned()
    };
    let idp = [("provider", "idp"), ("issuer", "https://idp.test"), ("client_id", "davit")];
    let fields = [&idp[..], &[("client_secret", SECRET), ("signs_up", "true")]].concat();
    let page = send("setProvider", &fields);
    assert!(page.contains("https://idp.test") && page.contains("with a secret"), "{page}");
    let ldap = [
        ("directory", "corp"),
        ("url", "ldap://127.0.0.1:1"),
        ("users", "ou=people"),
        ("bind_dn", "cn=reader"),
    ];
    // As a browser sends boxes: the last counts.
    let fields =
        [&ldap[..], &[("bind_password", SECRET), ("start_tls", "false"), ("signs_up", "false")]];
    let page = send("setDirectory", &fields.concat());
    assert!(page.contains("Change corp") && page.contains("ldap://127.0.0.1:1"), "{page}");
    let fields = [
        &ldap[..],
        &[("bind_password", ""), ("start_tls", "false"), ("groups", "ou=teams")],
        &[("user_class", ""), ("sync_minutes", "0")],
    ];
    let page = send("setDirectory", &fields.concat());
    assert!(page.contains("value=\"ou=teams\"") && page.contains("<td>never</td>"), "{page}");
    let group = [("directory", "corp"), ("group", "The Developers")];
    let fields = [&group[..], &[("organisation", "acme"), ("team", "dev")]].concat();
    let page = send("createGroupMap", &fields);
    assert!(page.contains("<td>The Developers</td><td>acme/dev</td>"), "{page}");
    assert!(send("deleteGroupMap", &group).contains("No group is a team"));
    let rule = [
        ("robot", "acme+ci"),
        ("issuer", "https://builds.test"),
        ("audience", "davit"),
        ("claims", "sub=repo:acme/*\r\nref=main"),
    ];
    let page = send("createTrustRule", &rule);
    assert!(page.contains("<code>ref=main</code> <code>sub=repo:acme/*</code>"), "{page}");
    assert!(
        send("deleteTrustRule", &[("robot", "acme+ci"), ("id", "1")]).contains("Nobody's tokens")
    );
    assert!(send("deleteDirectory", &ldap[..1]).contains("No directory is asked"));
    assert!(send("deleteProvider", &idp[..1]).contains("Nobody logs in by a provider"));
}

/// Whom only the directory may know is told why; people of this registry log in.
#[test]
fn a_login_says_when_a_directory_is_away() {
    let registry = TestRegistry::with_accounts(None);
    let boss = registry.user("boss", true);
    let corp = json!({
        "url": "ldap://127.0.0.1:1", "start_tls": false, "bind_dn": "cn=reader",
        "users": "ou=people", "bind_password": SECRET,
    });
    registry.ask("PUT", "/ldap/corp", &boss, corp);
    let mut browser = Browser::new(&registry);
    browser.get("/login");
    let reply = browser.post("/login", &[("name", "nina"), ("password", "queen-of-hearts")]);
    assert_eq!(reply.status, 503);
    let text = reply.text();
    assert!(text.contains("role=\"alert\"") && text.contains("The directory that may"), "{text}");
    let wrong = browser.post("/login", &[("name", "boss"), ("password", "not the password")]);
    assert_eq!(wrong.status, 401);
    Browser::logged_in(&registry, "boss");
}

#[test]
fn webhooks_of_the_server_have_pages() {
    let registry = TestRegistry::with_accounts(None);
    let boss = registry.user("boss", true);
    let own = json!({ "name": "own", "url": "https://ci.test/hook" });
    registry.ask("POST", "/accounts/boss/webhooks", &boss, own);
    let mut browser = Browser::logged_in(&registry, "boss");
    let page = browser.get("/admin/webhooks");
    assert!(page.text().contains("Nobody is told") && page.text().contains("value=\"**\""));
    let form = [
        ("name", "all"),
        ("url", "http://127.0.0.1:1/hook"),
        ("repositories", "**"),
        ("tags", ""),
        ("format", "cloudevents"),
        ("events", ""),
        ("allow_private", "true"),
        ("next", "/admin/webhooks/{name}"),
    ];
    let made = browser.post("/do/createServerWebhook", &form);
    assert!(made.text().contains("data-copy=\"whsec_"), "{}", made.text());
    let page = browser.get("/admin/webhooks");
    assert!(page.text().contains("href=\"/admin/webhooks/all\""), "{}", page.text());
    assert!(!page.text().contains("webhooks/own"), "an account's is on its own pages");
    registry.push_as(&boss, ("boss/app", "v1"), &config("1"), &[b"1", b"2"]);
    davit_test::until("the event is on its way", || {
        browser.get("/admin/webhooks/all").text().contains("/do/redeliverForServer")
            || browser.get("/admin/webhooks/all").text().contains("waiting")
    });
    let whose = [("webhook", "all"), ("next", "/admin/webhooks/{webhook}")];
    let reply = browser.post("/do/testServerWebhook", &whose);
    assert_eq!(reply.header("location"), Some("/admin/webhooks/all"), "{reply:?}");
    let page = browser.get("/admin/webhooks/all");
    assert!(page.text().contains("There was no answer."), "{}", page.text());
    for operation in ["testServerWebhook", "deleteServerWebhook"] {
        assert!(page.text().contains(&format!("/do/{operation}")), "{}", page.text());
    }
    assert_eq!(browser.get("/admin/webhooks/own").status, 404);
    assert_eq!(browser.get("/admin/webhooks/boss%2Fown").status, 404);
    assert_eq!(browser.post("/do/deleteServerWebhook", &whose).status, 303);
    assert!(browser.get("/admin/webhooks").text().contains("Nobody is told"));
}
