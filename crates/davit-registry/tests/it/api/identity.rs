//! Who else vouches for people and builds, by the API: what is set, what is refused, what is never told.

use std::io::Write as _;

use davit_registry::db::{Connection, DbError, Transaction};
use serde_json::{Value, json};

use crate::fixture::TestRegistry;

const SECRET: &str = "not-for-anyone";

fn items(registry: &TestRegistry, path: &str, who: &str) -> Value {
    let list = registry.ask("GET", path, who, Value::Null);
    assert!(!list.to_string().contains(SECRET), "{list}");
    list["items"].clone()
}

/// Statuses of a request that is refused.
fn refused(registry: &TestRegistry, (method, path): (&str, &str), who: &str, body: Value) -> u16 {
    let reply = registry.api(method, path, who, &body);
    assert!((400..500).contains(&reply.status), "{method} {path}: {reply:?}");
    assert!(!reply.text().contains(SECRET), "{reply:?}");
    reply.status
}

fn tells_no_secret(registry: &TestRegistry, boss: &str) {
    let log = registry.ask("GET", "/audit", boss, Value::Null).to_string();
    assert!(log.contains("provider.") && !log.contains(SECRET), "{log}");
}

#[test]
fn identity_providers_are_set_and_tell_no_secret() {
    let registry = TestRegistry::with_accounts(None);
    let boss = registry.user("boss", true);
    let provider = |issuer: &str| json!({ "issuer": issuer, "client_id": "davit" });
    let mut first = provider("https://idp.test");
    first["client_secret"] = SECRET.into();
    registry.ask("PUT", "/oidc/corp", &boss, first);
    let known = |has_secret: bool, signs_up: bool, issuer: &str| {
        json!([{ "name": "corp", "issuer": issuer, "client_id": "davit",
            "has_secret": has_secret, "signs_up": signs_up }])
    };
    assert_eq!(items(&registry, "/oidc", &boss), known(true, false, "https://idp.test"));
    assert!(registry.get("/login").text().contains("Continue with corp"));
    // What is absent stays, but goes to nobody else.
    let mut open = provider("https://idp.test");
    open["signs_up"] = true.into();
    registry.ask("PUT", "/oidc/corp", &boss, open);
    assert_eq!(items(&registry, "/oidc", &boss), known(true, true, "https://idp.test"));
    registry.ask("PUT", "/oidc/corp", &boss, provider("https://other.test"));
    assert_eq!(items(&registry, "/oidc", &boss), known(false, false, "https://other.test"));
    for (issuer, status) in [("http://idp.test", 409), ("nonsense", 409)] {
        let path = ("PUT", "/oidc/corp");
        assert_eq!(refused(&registry, path, &boss, provider(issuer)), status, "{issuer}");
    }
    let none = ("DELETE", "/ldap/corp");
    assert_eq!(refused(&registry, none, &boss, Value::Null), 404, "it is no directory");
    registry.ask("DELETE", "/oidc/corp", &boss, Value::Null);
    assert_eq!(refused(&registry, ("DELETE", "/oidc/corp"), &boss, Value::Null), 404);
    assert_eq!(items(&registry, "/oidc", &boss), json!([]));
    tells_no_secret(&registry, &boss);
}

#[test]
fn directories_are_set_compared_and_tell_no_secret() {
    let registry = TestRegistry::with_accounts(None);
    let boss = registry.user("boss", true);
    let mut corp = json!({
        "url": "ldap://127.0.0.1:1", "start_tls": false, "bind_dn": "cn=reader",
        "users": "ou=people", "groups": "ou=groups", "bind_password": SECRET,
    });
    registry.ask("PUT", "/ldap/corp", &boss, corp.clone());
    corp.as_object_mut().unwrap().remove("bind_password");
    corp["sync_minutes"] = 5.into();
    registry.ask("PUT", "/ldap/corp", &boss, corp.clone());
    let found = items(&registry, "/ldap", &boss);
    for (field, value) in [
        ("name", json!("corp")),
        ("url", json!("ldap://127.0.0.1:1")),
        ("user_class", json!("person")),
        ("id_attribute", json!("entryUUID")),
        ("groups", json!("ou=groups")),
        ("sync_minutes", json!(5)),
        ("synced_at", Value::Null),
    ] {
        assert_eq!(found[0][field], value, "{field}: {found}");
    }
    corp["url"] = "ldap://127.0.0.1:2".into();
    let elsewhere = registry.api("PUT", "/ldap/corp", &boss, &corp);
    assert_eq!(elsewhere.status, 409);
    assert!(elsewhere.text().contains("password is needed"), "{elsewhere:?}");
    let sync = "/ldap/corp/sync";
    assert_eq!(refused(&registry, ("GET", sync), &boss, Value::Null), 404, "nobody has asked");
    let begun = registry.api("POST", sync, &boss, &json!({ "dry_run": true }));
    assert_eq!(begun.status, 202, "{begun:?}");
    davit_test::until("the comparison has ended", || {
        let last = registry.ask("GET", sync, &boss, Value::Null);
        let told = last["told"].as_str().unwrap();
        last["state"] == "failed" && told.contains("cannot be reached") && last["dry_run"] == true
    });
    assert_eq!(refused(&registry, ("POST", "/ldap/none/sync"), &boss, json!({})), 404);

    registry.ask("POST", "/organisations", &boss, json!({ "name": "acme" }));
    let map = json!({ "group": "The Developers", "organisation": "acme", "team": "dev" });
    let groups = ("POST", "/ldap/corp/groups");
    assert_eq!(refused(&registry, groups, &boss, map.clone()), 404, "no such team");
    registry.ask("POST", "/organisations/acme/teams", &boss, json!({ "name": "dev" }));
    registry.ask("POST", "/ldap/corp/groups", &boss, map);
    let mapped = json!([{ "directory": "corp", "group": "The Developers", "team": "acme/dev" }]);
    assert_eq!(items(&registry, "/ldap-groups", &boss), mapped);
    let path = "/ldap/corp/groups?group=The%20Developers";
    registry.ask("DELETE", path, &boss, Value::Null);
    assert_eq!(refused(&registry, ("DELETE", path), &boss, Value::Null), 404);
    registry.ask("DELETE", "/ldap/corp", &boss, Value::Null);
    assert_eq!(items(&registry, "/ldap", &boss), json!([]));
    tells_no_secret(&registry, &boss);
}

/// Makes an account one of the directory's.
struct Came;

impl Transaction for Came {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let sql = "INSERT INTO identity (issuer, subject, account_id, created_at) \
                   SELECT 'ldap:corp', name, id, 0 FROM account WHERE name = 'boss'";
        connection.execute(sql, Vec::new()).await.map(drop)
    }
}

/// Whoever asks for a comparison does not wait for the directory, and it is asked once.
#[test]
fn a_comparison_goes_on_beside_requests() {
    let registry = TestRegistry::with_accounts(None);
    let boss = registry.user("boss", true);
    registry.run(registry.registry().database.write(Came)).unwrap();
    // It lets the searcher in, and then says nothing for as long as may be waited.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let corp = json!({
        "url": format!("ldap://{}", silent.local_addr().unwrap()), "start_tls": false,
        "bind_dn": "cn=reader", "users": "ou=people", "bind_password": SECRET,
    });
    registry.ask("PUT", "/ldap/corp", &boss, corp);
    let sync = "/ldap/corp/sync";
    let first = registry.ask("POST", sync, &boss, json!({}));
    let (mut asks, _) = silent.accept().unwrap();
    let bound = [0x30, 12, 2, 1, 1, 0x61, 7, 0x0a, 1, 0, 4, 0, 4, 0];
    asks.write_all(&bound).unwrap();
    let last = registry.ask("GET", sync, &boss, Value::Null);
    assert_eq!((&last["state"], &last["ended_at"]), (&json!("running"), &Value::Null), "{last}");
    let again = registry.ask("POST", sync, &boss, json!({ "dry_run": true }));
    assert_eq!((&again["asked_at"], &again["dry_run"]), (&first["asked_at"], &json!(false)));
    assert_eq!(items(&registry, "/ldap", &boss)[0]["comparison"]["state"], "running");
    silent.set_nonblocking(true).unwrap();
    assert!(silent.accept().is_err(), "the directory is asked once");
}

#[test]
fn tokens_of_builds_are_trusted() {
    let registry = TestRegistry::with_accounts(None);
    let boss = registry.user("boss", true);
    registry.ask("POST", "/accounts/boss/robots", &boss, json!({ "name": "ci" }));
    let rule = |robot: &str, claims: Value| {
        json!({ "robot": robot, "issuer": "https://builds.test", "audience": "davit",
            "claims": claims })
    };
    let trust = ("POST", "/trust");
    for (robot, claims, status) in [
        ("boss+none", json!(["sub=x"]), 404),
        ("boss", json!(["sub=x"]), 404),
        ("boss+ci", json!(["sub=*"]), 409),
        ("boss+ci", json!([]), 409),
        ("boss+ci", json!(["sub"]), 400),
    ] {
        let found = refused(&registry, trust, &boss, rule(robot, claims.clone()));
        assert_eq!(found, status, "{robot} {claims}");
    }
    let claims = json!(["ref=a=b", "sub=repo:boss/*"]);
    let made = registry.ask("POST", "/trust", &boss, rule("boss+ci", claims.clone()));
    let mut wanted = rule("boss+ci", claims);
    wanted["id"] = made["id"].clone();
    assert_eq!((&made, items(&registry, "/trust", &boss)), (&wanted, json!([wanted])));
    let path = |robot: &str| format!("/trust/{robot}/{}", made["id"]);
    registry.ask("POST", "/accounts/boss/robots", &boss, json!({ "name": "other" }));
    let other = path("boss%2Bother");
    assert_eq!(refused(&registry, ("DELETE", &other), &boss, Value::Null), 404, "another's");
    registry.ask("DELETE", &path("boss%2Bci"), &boss, Value::Null);
    assert_eq!(items(&registry, "/trust", &boss), json!([]));
}
