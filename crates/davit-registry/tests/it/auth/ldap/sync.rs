//! Accounts compared with the directory that they came from.

use std::{fmt::Write as _, time::Duration};

use davit_distribution::Secret;
use davit_registry::auth::{
    accounts::audit_entries,
    ldap::{LdapError, SyncError, SyncMode, SyncReport, sync},
};

use super::*;

const NOW: SyncMode = SyncMode { dry_run: false, force: false };
const DRY: SyncMode = SyncMode { dry_run: true, force: false };

/// A site where `developers` are the team `acme/dev`, and nina, who is one, has logged in.
async fn site_of(slapd: &Slapd) -> Site {
    let site = site(slapd.source()).await;
    site.team("acme", "dev", &[]).await;
    let map = AddGroupMap {
        by: Actor::operator(),
        source: "corp".to_owned(),
        group: "developers".to_owned(),
        team: ("acme".to_owned(), "dev".to_owned()),
    };
    site.database.write(map).await.unwrap();
    site.basic("nina", LDAP_PASSWORD).await.unwrap();
    site
}

async fn members(site: &Site) -> Vec<String> {
    teams(&site.database, "acme").await.unwrap().remove(0).members
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Moves nina's entry; beside the people she is gone, and her id stays.
fn move_nina(slapd: &Slapd, from: &str, to: &str) {
    slapd.modify(&format!(
        "dn: uid=nina,ou={from},{BASE}\nchangetype: modrdn\nnewrdn: uid=nina\ndeleteoldrdn: 1\n\
         newsuperior: ou={to},{BASE}\n"
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_gone_loses_what_they_had() {
    let Some(slapd) = Slapd::start() else { return };
    let site = site_of(&slapd).await;
    let (_, token) = site.token("nina", "", None).await;
    site.add("nina+ci", Kind::Robot).await;
    let (_, key) = site.token("nina+ci", "", None).await;
    let password = Secret::new(LDAP_PASSWORD);
    let session = site.auth.log_in("nina", &password, HERE).await.unwrap();
    let (_, foreign) = site.token("alice", "", None).await;
    assert_eq!(members(&site).await, ["nina"]);
    let lives = async || {
        site.hears().await;
        let session = site.auth.session(session.secret().expose()).await.unwrap().is_some();
        let password = site.basic("nina", LDAP_PASSWORD).await.is_ok();
        [site.bearer(&token).await.is_ok(), site.bearer(&key).await.is_ok(), session, password]
    };
    let report = sync(&site.database, "corp", NOW).await.unwrap();
    assert_eq!(report, SyncReport { accounts: 1, ..SyncReport::default() });
    assert_eq!(lives().await, [true; 4]);

    move_nina(&slapd, "people", "left");
    let gone = SyncReport { accounts: 1, gone: names(&["nina"]), moved: Vec::new() };
    assert_eq!(sync(&site.database, "corp", DRY).await.unwrap(), gone);
    assert_eq!(lives().await, [true; 4], "only told");
    assert_eq!(members(&site).await, ["nina"]);
    assert_eq!(sync(&site.database, "corp", NOW).await.unwrap(), gone);
    assert_eq!(lives().await, [false; 4]);
    assert!(members(&site).await.is_empty());
    site.bearer(&foreign).await.unwrap();
    let log = audit_entries(&site.database, 10).await.unwrap();
    let entry = log.iter().find(|entry| entry.action == "account.gone").unwrap();
    assert_eq!((entry.object.as_str(), entry.actor.as_str()), ("nina", "ldap:corp"));
    // Once: what she may get otherwise meanwhile is hers.
    let (_, second) = site.token("nina", "", None).await;
    let report = sync(&site.database, "corp", NOW).await.unwrap();
    assert_eq!(report, SyncReport { accounts: 1, ..SyncReport::default() });
    site.hears().await;
    site.bearer(&second).await.unwrap();

    // Who is back is the same as before, in the teams of the groups; the tokens are over.
    move_nina(&slapd, "left", "people");
    let back = SyncReport { accounts: 1, gone: Vec::new(), moved: names(&["nina"]) };
    assert_eq!(sync(&site.database, "corp", NOW).await.unwrap(), back);
    assert_eq!(members(&site).await, ["nina"]);
    assert_eq!(lives().await, [false, false, false, true]);
    // And may be gone again.
    move_nina(&slapd, "people", "left");
    assert_eq!(sync(&site.database, "corp", NOW).await.unwrap().gone, ["nina"]);
    site.hears().await;
    assert!(site.bearer(&second).await.is_err());
    // A login says as much as a comparison does.
    move_nina(&slapd, "left", "people");
    site.basic("nina", LDAP_PASSWORD).await.unwrap();
    move_nina(&slapd, "people", "left");
    assert_eq!(sync(&site.database, "corp", NOW).await.unwrap().gone, ["nina"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_left_a_group_leaves_its_team() {
    let Some(slapd) = Slapd::start() else { return };
    let site = site_of(&slapd).await;
    let (_, token) = site.token("nina", "", None).await;
    slapd.modify(&format!(
        "dn: cn=developers,ou=groups,{BASE}\nchangetype: modify\ndelete: member\n\
         member: uid=nina,ou=people,{BASE}\n"
    ));
    let moved = SyncReport { accounts: 1, gone: Vec::new(), moved: names(&["nina"]) };
    assert_eq!(sync(&site.database, "corp", DRY).await.unwrap(), moved);
    assert_eq!(members(&site).await, ["nina"]);
    assert_eq!(sync(&site.database, "corp", NOW).await.unwrap(), moved);
    assert!(members(&site).await.is_empty());
    site.hears().await;
    site.bearer(&token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_known_for_sure_changes_nothing() {
    let Some(slapd) = Slapd::start() else { return };
    let site = site_of(&slapd).await;
    let (_, token) = site.token("nina", "", None).await;
    let nobodys = Port::reserve();
    let closed = format!("ldap://{}", nobodys.address());
    let people = |dn: &str| LdapSource { users: format!("{dn},{BASE}"), ..slapd.source() };
    for (what, source) in [
        ("away", LdapSource { url: closed, ..slapd.source() }),
        ("another password", LdapSource { bind_password: Secret::new("x"), ..slapd.source() }),
        ("no such folder", people("ou=nowhere")),
        ("a folder without people", people("ou=left")),
        ("no folder", LdapSource { users: "nonsense".to_owned(), ..slapd.source() }),
    ] {
        set(&site, source).await.unwrap();
        let refused = sync(&site.database, "corp", NOW).await;
        assert!(matches!(refused, Err(SyncError::Directory(_))), "{what}: {refused:?}");
    }
    let unknown = sync(&site.database, "other", NOW).await;
    assert!(matches!(unknown, Err(SyncError::Unknown(_))), "{unknown:?}");
    site.bearer(&token).await.unwrap();
    assert_eq!(members(&site).await, ["nina"]);

    // Most of all at once: only when somebody says so.
    for number in 0..6 {
        let name = format!("left{number}");
        site.add(&name, Kind::User).await;
        let sql = "INSERT INTO identity (issuer, subject, account_id, created_at)
                   SELECT 'ldap:corp', name, id, 0 FROM account WHERE name = $1";
        site.sql(sql, vec![name.as_str().into()]).await;
    }
    set(&site, slapd.source()).await.unwrap();
    let refused = sync(&site.database, "corp", NOW).await;
    assert!(matches!(refused, Err(SyncError::Most { gone: 6, accounts: 7 })), "{refused:?}");
    let told = sync(&site.database, "corp", DRY).await.unwrap();
    let forced = SyncMode { force: true, ..NOW };
    assert_eq!(sync(&site.database, "corp", forced).await.unwrap(), told);
    assert_eq!((told.gone.len(), told.accounts), (6, 7));
    site.hears().await;
    site.bearer(&token).await.unwrap();
}

/// More people than a page has, and than the directory gives to anyone but its administrator.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_directories_come_by_pages_and_whole() {
    let mut crowd = String::new();
    for name in (0..1100).map(|number| format!("p{number}")).chain(["zoe".to_owned()]) {
        write!(
            crowd,
            "\ndn: uid={name},ou=people,{BASE}\nobjectClass: inetOrgPerson\nuid: {name}\n\
             cn: {name}\nsn: P\nuserPassword: {LDAP_PASSWORD}\n"
        )
        .unwrap();
    }
    let Some(slapd) = Slapd::start_with(&crowd) else { return };
    let site = site_of(&slapd).await;
    site.basic("zoe", LDAP_PASSWORD).await.unwrap();
    let report = sync(&site.database, "corp", NOW).await.unwrap();
    assert_eq!(report, SyncReport { accounts: 2, ..SyncReport::default() });
    let limited = LdapSource {
        bind_dn: format!("uid=nina,ou=people,{BASE}"),
        bind_password: Secret::new(LDAP_PASSWORD),
        ..slapd.source()
    };
    set(&site, limited).await.unwrap();
    let cut = sync(&site.database, "corp", NOW).await;
    let refused = matches!(cut, Err(SyncError::Directory(LdapError::Refused(_))));
    assert!(refused, "a list that was cut is none: {cut:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_compare_by_themselves() {
    let Some(slapd) = Slapd::start() else { return };
    let site = site_of(&slapd).await;
    let (_, token) = site.token("nina", "", None).await;
    move_nina(&slapd, "people", "left");
    let row = async || ldap_sources(&site.database).await.unwrap().remove(0);
    let keys = site.dir.join("keys.json");
    let second = Auth::open(&site.database, &keys, AuthSettings::default()).await.unwrap();
    // Not before its time.
    site.auth.sync_due().await.unwrap();
    assert_eq!(row().await.sync_result, None);
    site.bearer(&token).await.unwrap();
    site.database.advance_clock(Duration::from_secs(3601));
    // One of them does it.
    let (one, other) = tokio::join!(site.auth.sync_due(), second.sync_due());
    one.and(other).unwrap();
    let first = row().await;
    assert_eq!(first.sync_result.as_deref(), Some("1 accounts, 1 gone, 0 in other groups"));
    assert!(first.synced_at.is_some() && first.sync_at > first.synced_at, "{first:?}");
    assert_eq!(first.source.bind_password.expose(), "", "it is not told");
    site.hears().await;
    assert!(site.bearer(&token).await.is_err());

    // One that is away is told of, and asked again when it is time.
    let away = LdapSource { url: "ldaps://127.0.0.1:1".to_owned(), ..slapd.source() };
    set(&site, away).await.unwrap();
    site.database.advance_clock(Duration::from_secs(3601));
    site.auth.sync_due().await.unwrap();
    let failed = row().await;
    assert!(failed.sync_result.unwrap().contains("cannot be reached"));
    assert_eq!(failed.synced_at, first.synced_at);
    // Where it is switched off nothing happens at all.
    set(&site, LdapSource { sync_minutes: 0, ..slapd.source() }).await.unwrap();
    site.database.advance_clock(Duration::from_secs(3601));
    site.auth.sync_due().await.unwrap();
    let off = row().await;
    assert_eq!((off.sync_at, off.synced_at), (None, first.synced_at));
}

/// The password that is known goes to the same searcher at the same address, and nowhere else.
#[tokio::test]
async fn a_password_that_is_kept_goes_nowhere_else() {
    let source = LdapSource {
        url: "ldap://127.0.0.1:1".to_owned(),
        bind_dn: "cn=reader".to_owned(),
        bind_password: Secret::new("secret"),
        ..LdapSource::default()
    };
    let site = site(source.clone()).await;
    let unsaid = LdapSource { bind_password: Secret::default(), ..source };
    set(&site, LdapSource { users: "ou=people".to_owned(), ..unsaid.clone() }).await.unwrap();
    for other in [
        LdapSource { url: "ldap://127.0.0.1:2".to_owned(), ..unsaid.clone() },
        LdapSource { bind_dn: "cn=other".to_owned(), ..unsaid.clone() },
    ] {
        assert!(set(&site, other).await.unwrap_err().contains("password is needed"));
    }
    let sql = "SELECT settings FROM identity_provider";
    let row = site.database.reader().await.unwrap().row(sql, Vec::new()).await.unwrap();
    let kept: String = row.unwrap().get(0).unwrap();
    assert!(kept.contains("ou=people") && kept.contains("\"secret\""), "{kept}");
}
