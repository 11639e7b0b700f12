//! Wrong passwords: counted by all servers of a registry together, and told in the audit log.

use davit_registry::auth::{
    accounts::audit_entries,
    oidc::{Begin, OidcError},
};
use serde_json::{Value as Json, json};

use super::*;

/// Another server on the same database.
async fn other(site: &Site, settings: AuthSettings) -> Auth {
    Auth::open(&site.database, &site.dir.join("other-keys.json"), settings).await.unwrap()
}

#[tokio::test]
async fn servers_count_together_and_over_restarts() {
    let site = Site::with(throttled(3, 100)).await;
    site.add("alice", Kind::User).await;
    let second = other(&site, throttled(3, 100)).await;
    for auth in [&*site.auth, &second, &*site.auth] {
        let refused = auth.authenticate(Some(&basic("alice", "wrong-password")), HERE).await;
        assert!(matches!(refused, Err(Refusal::Wrong)), "{refused:?}");
    }
    let third = other(&site, throttled(3, 100)).await;
    for auth in [&*site.auth, &second, &third] {
        let refused = auth.authenticate(Some(&basic("alice", PASSWORD)), HERE).await;
        let Err(Refusal::Throttled(wait)) = refused else { panic!("{refused:?}") };
        assert!(wait.as_secs() > 1000, "{wait:?}");
    }
    // A third of the window later one more attempt is allowed, on servers that counted none.
    site.database.advance_clock(std::time::Duration::from_secs(1201));
    third.authenticate(Some(&basic("alice", PASSWORD)), HERE).await.unwrap();
}

/// A password that was right a moment ago is not hashed again: that is no way past the bound.
#[tokio::test]
async fn a_known_password_cannot_be_guessed_at_another_server() {
    for (per_account, per_address) in [(3, 100), (100, 3)] {
        let settings = || throttled(per_account, per_address);
        let site = Site::with(settings()).await;
        site.add("alice", Kind::User).await;
        let second = other(&site, settings()).await;
        let (right, wrong) = (basic("alice", PASSWORD), basic("alice", "wrong-password"));
        second.authenticate(Some(&right), HERE).await.unwrap();
        for _ in 0..3 {
            assert!(site.auth.authenticate(Some(&wrong), HERE).await.is_err());
        }
        for _ in 0..3 {
            let refused = second.authenticate(Some(&wrong), HERE).await;
            assert!(matches!(refused, Err(Refusal::Throttled(_))), "{refused:?}");
        }
        let refused = second.authenticate(Some(&right), HERE).await;
        assert!(matches!(refused, Err(Refusal::Throttled(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn addresses_are_counted_together_too() {
    let site = Site::with(throttled(100, 2)).await;
    site.add("alice", Kind::User).await;
    let second = other(&site, throttled(100, 2)).await;
    let at = |address: &str| address.parse::<IpAddr>().unwrap();
    for (auth, name) in [(&*site.auth, "bob"), (&second, "carol")] {
        let from = at("2001:db8::1");
        let refused = auth.authenticate(Some(&basic(name, "wrong-password")), from).await;
        assert!(matches!(refused, Err(Refusal::Wrong)), "{refused:?}");
    }
    let alice = basic("alice", PASSWORD);
    let refused = second.authenticate(Some(&alice), at("2001:db8::2")).await;
    assert!(matches!(refused, Err(Refusal::Throttled(_))), "one network: {refused:?}");
    second.authenticate(Some(&alice), at("2001:db8:0:1::1")).await.unwrap();
}

/// Each makes a row and asks a provider: an address has as many of them as wrong passwords, together.
#[tokio::test]
async fn log_ins_by_a_provider_are_counted_by_address() {
    let site = Site::with(throttled(100, 3)).await;
    site.add("alice", Kind::User).await;
    let begin = async |address: &str| {
        let redirect = "http://registry.test/oidc/none/callback".to_owned();
        let begin = Begin { provider: "none".to_owned(), redirect, link: None, invitation: None };
        site.auth.oidc_begin(begin, address.parse().unwrap()).await
    };
    for _ in 0..2 {
        let refused = begin("192.0.2.1").await;
        assert!(matches!(refused, Err(OidcError::NoProvider)), "{refused:?}");
    }
    let from = "192.0.2.1".parse().unwrap();
    let wrong = site.auth.authenticate(Some(&basic("alice", "wrong-password")), from).await;
    assert!(matches!(wrong, Err(Refusal::Wrong)), "{wrong:?}");
    let refused = begin("192.0.2.1").await;
    assert!(matches!(refused, Err(OidcError::Refused(Refusal::Throttled(_)))), "{refused:?}");
    assert!(matches!(begin("192.0.2.2").await, Err(OidcError::NoProvider)));
    // What other servers have counted counts as well.
    let second = other(&site, throttled(100, 1)).await;
    let none = Begin {
        provider: "none".to_owned(),
        redirect: String::new(),
        link: None,
        invitation: None,
    };
    let refused = second.oidc_begin(none, from).await;
    assert!(matches!(refused, Err(OidcError::Refused(Refusal::Throttled(_)))), "{refused:?}");
}

#[tokio::test]
async fn wrong_logins_are_one_entry_of_the_audit_log() {
    let site = Site::with(throttled(1000, 1000)).await;
    site.add("alice", Kind::User).await;
    let failed = async || {
        let entries = audit_entries(&site.database, 100).await.unwrap();
        entries.into_iter().filter(|entry| entry.action == "login.failed").collect::<Vec<_>>()
    };
    site.auth.report_failures().await.unwrap();
    assert!(failed().await.is_empty());
    for _ in 0..3 {
        assert!(site.basic("alice", "wrong-password").await.is_err());
    }
    assert!(site.basic("nobody", "wrong-password").await.is_err());
    // A password in the wrong field is not written down.
    assert!(site.basic("Correct Horse!", "wrong-password").await.is_err());
    let token = OpaqueToken::new(OpaqueKind::Personal);
    assert!(site.bearer(token.secret().expose()).await.is_err());
    site.auth.report_failures().await.unwrap();
    let found = failed().await;
    assert_eq!(found.len(), 1, "{found:?}");
    let detail: Json = serde_json::from_str(&found[0].detail).unwrap();
    let by = json!({ "address 127.0.0.1": 6, "account alice": 3, "account nobody": 1 });
    assert_eq!(detail, json!({ "attempts": 6, "by": by, "others": 0 }));
    // What comes at once after it waits for the next, and is lost by no restart.
    assert!(site.basic("alice", "wrong-password").await.is_err());
    let second = other(&site, throttled(1000, 1000)).await;
    second.report_failures().await.unwrap();
    assert_eq!(failed().await.len(), 1);
    site.database.advance_clock(std::time::Duration::from_secs(301));
    for auth in [&second, &*site.auth] {
        auth.report_failures().await.unwrap();
    }
    let found = failed().await;
    assert_eq!(found.len(), 2, "{found:?}");
    let detail: Json = serde_json::from_str(&found[0].detail).unwrap();
    assert_eq!(detail["attempts"], 1);
    // What has leaked away is forgotten.
    site.database.advance_clock(std::time::Duration::from_secs(2 * 3600));
    site.auth.report_failures().await.unwrap();
    let mut reader = site.database.reader().await.unwrap();
    let row = reader.row("SELECT COUNT(*) FROM login_failure", Vec::new()).await.unwrap();
    assert_eq!(row.unwrap().get::<i64>(0).unwrap(), 0);
}

#[tokio::test]
async fn one_entry_names_some_of_many() {
    let site = Site::with(throttled(1000, 1000)).await;
    for at in 0..30 {
        let subject = format!("account guest{at}");
        let sql = "INSERT INTO login_failure (subject, empty_at, unreported) VALUES ($1, 1, 1)";
        site.sql(sql, vec![subject.as_str().into()]).await;
    }
    site.auth.report_failures().await.unwrap();
    let entries = audit_entries(&site.database, 1).await.unwrap();
    let detail: Json = serde_json::from_str(&entries[0].detail).unwrap();
    assert_eq!((detail["by"].as_object().unwrap().len(), &detail["others"]), (20, &json!(10)));
}
