//! Rights by namespace, organisation, team and grant; sign-up; the audit log.

use davit_distribution::Secret;
use davit_registry::auth::{
    AccountError, RepositoryGlob,
    accounts::{
        RemoveAccount, RevokeToken, SetPassword, SetSignUp, SetState, SetVisibility, SignUp,
        SignUpMode,
    },
    audit::{self, Verdict},
};

use super::*;

/// acme has owner `olga`, member `mia` in team `dev` (push on acme/web*), member `max` in none;
/// `sam` is of another organisation, `robot` may pull one repository.
async fn company() -> Site {
    company_on(Site::new().await).await
}

async fn company_on(site: Site) -> Site {
    for name in ["olga", "mia", "max", "sam"] {
        site.add(name, Kind::User).await;
    }
    for name in ["acme", "umbrella"] {
        site.add(name, Kind::Organisation).await;
    }
    site.member("acme", "olga", OrgRole::Owner).await;
    site.member("acme", "mia", OrgRole::Member).await;
    site.member("acme", "max", OrgRole::Member).await;
    site.member("umbrella", "sam", OrgRole::Owner).await;
    site.team("acme", "dev", &["mia"]).await;
    let dev = Subject::Team("acme".to_owned(), "dev".to_owned());
    site.grant(dev, "acme/web*", Role::Push).await;
    site.add("acme+ci", Kind::Robot).await;
    site.grant(Subject::Account("acme+ci".to_owned()), "acme/web", Role::Pull).await;
    for (path, visibility) in
        [("acme/web", "private"), ("acme/db", "private"), ("acme/open", "public")]
    {
        site.repository(path, visibility).await;
    }
    site
}

/// Pull, push, delete a tag, change access.
async fn row(site: &Site, caller: &Caller, path: &str) -> String {
    let mut row = String::new();
    for action in [Action::Pull, Action::Push, Action::DeleteTag, Action::ChangeAccess] {
        row.push(match site.decide(caller, action, path).await {
            Decision::Allow => '+',
            Decision::Challenge => '?',
            Decision::Denied => '-',
            Decision::Absent => '0',
        });
    }
    row
}

#[tokio::test]
async fn rights_come_by_namespace_team_and_grant() {
    check_rights(&company().await).await;
}

/// The same on PostgreSQL, where two nodes write one audit log.
#[tokio::test]
async fn postgres_has_the_same_rights() {
    let Some(postgres) = davit_test::Postgres::start() else { return };
    let location = Location::Postgres(postgres.url().into());
    let database = Database::open(&location).await.unwrap();
    let site = Site::on(TempDir::new(), database, AuthSettings::default()).await;
    let site = company_on(site).await;
    check_rights(&site).await;

    let other = Database::open(&location).await.unwrap();
    let Verdict::Whole(before) = audit::verify(&other).await.unwrap() else { panic!() };
    let set = |database: &Database| {
        let database = database.clone();
        async move {
            for is_active in [false, true].into_iter().cycle().take(20) {
                let (by, name) = (Actor::operator(), "max".to_owned());
                database.write(SetState { by, name, is_active }).await.unwrap();
            }
        }
    };
    tokio::join!(set(&site.database), set(&other));
    assert_eq!(audit::verify(&other).await.unwrap(), Verdict::Whole(before + 40));

    let (id, token) = site.token("acme+ci", "", None).await;
    assert!(site.bearer(&token).await.is_ok());
    let account = "acme+ci".to_owned();
    other.write(RevokeToken { by: Actor::operator(), account, id }).await.unwrap();
    // What is asked ten times a second is known soon; the test ends when it is.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while site.bearer(&token).await.is_ok() {
        assert!(std::time::Instant::now() < deadline, "it is never known");
        tokio::task::yield_now().await;
    }
}

async fn check_rights(site: &Site) {
    let (_, robot) = site.token("acme+ci", "", None).await;
    let (_, narrow) = site.token("olga", "repository:acme/db:pull", None).await;
    let callers = [
        ("nobody", Caller::anonymous()),
        ("owner", site.basic("olga", PASSWORD).await.unwrap()),
        ("member with a team", site.basic("mia", PASSWORD).await.unwrap()),
        ("member without", site.basic("max", PASSWORD).await.unwrap()),
        ("other organisation", site.basic("sam", PASSWORD).await.unwrap()),
        ("robot", site.basic("acme+ci", &robot).await.unwrap()),
        ("owner's narrow token", site.bearer(&narrow).await.unwrap()),
    ];
    let table = [
        // acme/web, acme/db, acme/none (absent), acme/open (public), umbrella/x, sam/x
        ["????", "????", "????", "+???", "????", "????"],
        ["++++", "++++", "++++", "++++", "0---", "0---"],
        ["++--", "0---", "0---", "+---", "0---", "0---"],
        ["0---", "0---", "0---", "+---", "0---", "0---"],
        ["0---", "0---", "0---", "+---", "++++", "++++"],
        ["+---", "0---", "0---", "+---", "0---", "0---"],
        ["????", "+???", "????", "????", "0---", "0---"],
    ];
    let paths = ["acme/web", "acme/db", "acme/none", "acme/open", "umbrella/x", "sam/x"];
    for ((who, caller), expected) in callers.iter().zip(table) {
        for (path, expected) in paths.iter().zip(expected) {
            assert_eq!(row(site, caller, path).await, expected, "{who} on {path}");
        }
    }
}

#[tokio::test]
async fn what_is_taken_back_counts_at_once() {
    let site = company().await;
    // Another process on the same database.
    let other = open(&site.dir).await;
    let by = Actor::operator;
    let (id, token) = site.token("acme+ci", "", None).await;
    assert_eq!(row(&site, &site.bearer(&token).await.unwrap(), "acme/web").await, "+---");
    let revoke = |account: &str| RevokeToken { by: by(), account: account.to_owned(), id };
    let foreign = other.write(revoke("mia")).await;
    assert!(matches!(foreign, Err(AccountError::Unknown("token", _))), "another's token");
    other.write(revoke("acme+ci")).await.unwrap();
    site.hears().await;
    assert!(matches!(site.bearer(&token).await, Err(Refusal::Wrong)));

    let mia = || async { site.basic("mia", PASSWORD).await };
    assert_eq!(row(&site, &mia().await.unwrap(), "acme/web").await, "++--");
    let (org, account) = ("acme".to_owned(), "mia".to_owned());
    other.write(SetMember { by: by(), org, account, role: None }).await.unwrap();
    site.hears().await;
    assert_eq!(row(&site, &mia().await.unwrap(), "acme/web").await, "0---");

    let path = "acme/web".to_owned();
    other.write(SetVisibility { by: by(), path, is_public: true }).await.unwrap();
    site.hears().await;
    assert_eq!(row(&site, &mia().await.unwrap(), "acme/web").await, "+---");

    let set = |is_active| SetState { by: by(), name: "mia".to_owned(), is_active };
    other.write(set(false)).await.unwrap();
    site.hears().await;
    assert!(matches!(mia().await, Err(Refusal::Wrong)));
    other.write(set(true)).await.unwrap();
    assert!(mia().await.is_ok());

    let password = PasswordHash::new(&Secret::new("looking-glass")).unwrap();
    let set = SetPassword { by: by(), name: "mia".to_owned(), password };
    other.write(set).await.unwrap();
    site.hears().await;
    assert!(matches!(mia().await, Err(Refusal::Wrong)));
    assert!(site.basic("mia", "looking-glass").await.is_ok());
}

/// What an account got by another process is not refused, though what was there before is in memory.
#[tokio::test]
async fn what_is_made_elsewhere_counts_at_once() {
    let site = Site::new().await;
    site.add("alice", Kind::User).await;
    let elsewhere = Site::on(TempDir::new(), open(&site.dir).await, AuthSettings::default()).await;
    for _ in 0..3 {
        site.basic("alice", PASSWORD).await.unwrap();
        let (_, token) = elsewhere.token("alice", "", None).await;
        site.bearer(&token).await.unwrap();
        let reply = elsewhere.get("service=davit-registry", Some(("alice", token.as_str()))).await;
        site.bearer(reply.bearer().unwrap().expose()).await.unwrap();
    }
    let password = PasswordHash::new(&Secret::new("looking-glass")).unwrap();
    let set = SetPassword { by: Actor::operator(), name: "alice".to_owned(), password };
    elsewhere.database.write(set).await.unwrap();
    site.basic("alice", "looking-glass").await.unwrap();
}

#[tokio::test]
async fn robots_fall_with_their_owner() {
    let site = company().await;
    let (_, token) = site.token("acme+ci", "", None).await;
    assert!(site.bearer(&token).await.is_ok());
    let set = SetState { by: Actor::operator(), name: "acme".to_owned(), is_active: false };
    site.database.write(set).await.unwrap();
    assert!(matches!(site.bearer(&token).await, Err(Refusal::Wrong)));
}

#[tokio::test]
async fn tokens_end_in_time_and_fit_their_name() {
    let site = company().await;
    let (_, token) = site.token("mia", "", Some(60_000)).await;
    assert!(site.basic("mia", &token).await.is_ok());
    assert!(site.basic("<token>", &token).await.is_ok());
    assert!(matches!(site.basic("olga", &token).await, Err(Refusal::Wrong)));
    site.database.advance_clock(std::time::Duration::from_secs(61));
    assert!(matches!(site.basic("mia", &token).await, Err(Refusal::Wrong)));
}

/// The database keeps nothing that could be used as a credential, and last use is seen.
#[tokio::test]
async fn secrets_are_stored_hashed_only() {
    let site = company().await;
    let (id, token) = site.token("mia", "", None).await;
    site.bearer(&token).await.unwrap();
    let rows = davit_registry::auth::accounts::tokens(&site.database, "mia").await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].id, id);
    assert!(rows[0].last_used_at.is_some());
    for file in fs_err::read_dir(site.dir.path()).unwrap() {
        use std::os::unix::fs::PermissionsExt as _;

        let path = file.unwrap().path();
        let mode = fs_err::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", path.display());
        let bytes = fs_err::read(&path).unwrap();
        for secret in [token.as_bytes(), PASSWORD.as_bytes()] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret));
        }
    }
}

#[tokio::test]
async fn organisations_keep_their_rules() {
    let site = company().await;
    let by = Actor::operator;
    let set = |account: &str, role| SetMember {
        by: by(),
        org: "acme".to_owned(),
        account: account.to_owned(),
        role,
    };
    for role in [None, Some(OrgRole::Member)] {
        let refused = site.database.write(set("olga", role)).await;
        assert!(matches!(refused, Err(AccountError::LastOwner(..))), "{refused:?}");
    }
    let remove = |name: &str| RemoveAccount { by: by(), name: name.to_owned() };
    let refused = site.database.write(remove("olga")).await;
    assert!(matches!(refused, Err(AccountError::LastOwner(..))), "{refused:?}");
    let refused = site.database.write(remove("acme")).await;
    assert!(matches!(refused, Err(AccountError::HasRepositories(_))), "{refused:?}");
    site.database.write(set("mia", Some(OrgRole::Owner))).await.unwrap();
    site.database.write(remove("olga")).await.unwrap();

    let stranger = SetTeamMember {
        by: by(),
        org: "acme".to_owned(),
        team: "dev".to_owned(),
        account: "sam".to_owned(),
        is_member: true,
    };
    let refused = site.database.write(stranger).await;
    assert!(matches!(refused, Err(AccountError::NotMember(..))), "{refused:?}");

    let subjects = [
        Subject::Team("acme".to_owned(), "dev".to_owned()),
        Subject::Members("acme".to_owned()),
        Subject::Account("acme+ci".to_owned()),
    ];
    for subject in subjects {
        for glob in ["umbrella/*", "**", "*/web", "acmex/a"] {
            let glob: RepositoryGlob = glob.parse().unwrap();
            let role = Some(Role::Pull);
            let subject = subject.clone();
            let grant = SetGrant { by: by(), subject, glob, role, is_adding_only: false };
            let refused = site.database.write(grant).await;
            assert!(matches!(refused, Err(AccountError::OutsideNamespace(..))), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn names_are_taken_once_and_by_those_who_may() {
    let site = company().await;
    site.repository("ghost/app", "private").await;
    let sign_up = |name: &str, usual, invitation: Option<&OpaqueToken>| SignUp {
        name: name.to_owned(),
        password: Some(password_hash()),
        usual,
        invitation: invitation.map(OpaqueToken::hash),
        address: None,
    };
    let (open, invite) = (SignUpMode::Open, SignUpMode::Invite);
    let write = |sign_up| site.database.write(sign_up);
    write(sign_up("nina", open, None)).await.unwrap();
    for name in ["nina", "acme", "ghost"] {
        let refused = write(sign_up(name, open, None)).await;
        assert!(matches!(refused, Err(AccountError::Exists(_))), "{name} {refused:?}");
    }
    for name in ["library", "admin", "A", "a/b", "docker.io"] {
        let refused = write(sign_up(name, open, None)).await;
        assert!(matches!(refused, Err(AccountError::Name(_))), "{name} {refused:?}");
    }
    // Nobody makes a robot of someone else this way.
    let refused = write(sign_up("acme+evil", open, None)).await;
    assert!(matches!(refused, Err(AccountError::Name(_))), "{refused:?}");
    assert!(!site.basic("nina", PASSWORD).await.unwrap().standing.is_site_admin);

    let invitation = OpaqueToken::new(OpaqueKind::Invite);
    let add = |account: &str, life_ms| AddToken {
        by: Actor::operator(),
        account: account.to_owned(),
        kind: OpaqueKind::Invite,
        name: String::new(),
        hash: invitation.hash(),
        scopes: Vec::new(),
        life_ms: Some(life_ms),
    };
    let refused = site.database.write(add("olga", 60_000)).await;
    assert!(matches!(refused, Err(AccountError::NotAdmin(_))), "{refused:?}");
    site.sql("UPDATE account SET is_admin = 1 WHERE name = 'olga'", Vec::new()).await;
    site.database.write(add("olga", 60_000)).await.unwrap();
    let text = invitation.secret().expose();
    assert!(matches!(site.bearer(text).await, Err(Refusal::Wrong)), "it is no credential");
    let closed = async |mode, invitation| {
        let refused = write(sign_up("otto", mode, invitation)).await;
        assert!(matches!(refused, Err(AccountError::Closed(_))), "{refused:?}");
    };
    closed(invite, None).await;
    let unknown = OpaqueToken::new(OpaqueKind::Invite);
    closed(invite, Some(&unknown)).await;
    closed(SignUpMode::Closed, Some(&invitation)).await;
    // Who may invite no more has not invited.
    for change in [
        "UPDATE account SET is_admin = 0 WHERE name = 'olga'",
        "UPDATE account SET is_admin = 1, state = 'disabled' WHERE name = 'olga'",
    ] {
        site.sql(change, Vec::new()).await;
        closed(invite, Some(&invitation)).await;
    }
    site.sql("UPDATE account SET state = 'active' WHERE name = 'olga'", Vec::new()).await;
    // What is refused for its name does not use the invitation up.
    assert!(write(sign_up("nina", invite, Some(&invitation))).await.is_err());
    write(sign_up("otto", invite, Some(&invitation))).await.unwrap();
    let refused = write(sign_up("paul", invite, Some(&invitation))).await;
    assert!(matches!(refused, Err(AccountError::Closed(_))), "{refused:?}");
    // What was set counts, whatever is usual.
    let set = SetSignUp { by: Actor::operator(), mode: SignUpMode::Closed };
    site.database.write(set).await.unwrap();
    closed(open, None).await;
}

#[tokio::test]
async fn the_audit_log_shows_what_was_changed_in_it() {
    let site = company().await;
    let Verdict::Whole(count) = audit::verify(&site.database).await.unwrap() else { panic!() };
    assert!(count > 10, "{count}");
    let entries =
        davit_registry::auth::accounts::audit_entries(&site.database, 1000).await.unwrap();
    assert_eq!(entries.len() as u64, count);
    assert!(entries.iter().any(|entry| entry.action == "account.add" && entry.object == "olga"));
    // Each of these is undone by its second statement.
    let tampering = [
        (
            "UPDATE audit SET actor = 'nobody' WHERE id = 3",
            "UPDATE audit SET actor = 'operator' WHERE id = 3",
            Verdict::Broken(3),
        ),
        (
            "UPDATE audit SET at = at + 1 WHERE id = 5",
            "UPDATE audit SET at = at - 1 WHERE id = 5",
            Verdict::Broken(5),
        ),
    ];
    for (change, undo, expected) in tampering {
        site.sql(change, Vec::new()).await;
        assert_eq!(audit::verify(&site.database).await.unwrap(), expected, "{change}");
        site.sql(undo, Vec::new()).await;
        assert_eq!(audit::verify(&site.database).await.unwrap(), Verdict::Whole(count));
    }
    site.sql("DELETE FROM audit WHERE id = (SELECT MAX(id) FROM audit)", Vec::new()).await;
    assert_eq!(audit::verify(&site.database).await.unwrap(), Verdict::Cut);
    site.sql("DELETE FROM audit WHERE id = 2", Vec::new()).await;
    assert_eq!(audit::verify(&site.database).await.unwrap(), Verdict::Broken(3));
}

#[tokio::test]
async fn guessing_is_bounded_and_answers_alike() {
    let site = Site::with(throttled(3, 1000)).await;
    site.add("alice", Kind::User).await;
    site.basic("alice", PASSWORD).await.unwrap();
    for name in ["alice", "nobody"] {
        for _ in 0..3 {
            assert!(matches!(site.basic(name, "wrong-password").await, Err(Refusal::Wrong)));
        }
        let refused = site.basic(name, "wrong-password").await;
        assert!(matches!(refused, Err(Refusal::Throttled(_))), "{name} {refused:?}");
    }
    // The right password does not tell itself from a wrong one then, although it is known.
    assert!(matches!(site.basic("alice", PASSWORD).await, Err(Refusal::Throttled(_))));
    // Her machines go on.
    let (_, token) = site.token("alice", "", None).await;
    assert!(site.basic("alice", &token).await.is_ok());

    let site = Site::with(throttled(1000, 2)).await;
    for _ in 0..2 {
        let unknown = OpaqueToken::new(OpaqueKind::Personal);
        let refused = site.bearer(unknown.secret().expose()).await;
        assert!(matches!(refused, Err(Refusal::Wrong)), "{refused:?}");
    }
    let unknown = OpaqueToken::new(OpaqueKind::Personal);
    let refused = site.bearer(unknown.secret().expose()).await;
    assert!(matches!(refused, Err(Refusal::Throttled(_))), "{refused:?}");
}

#[tokio::test]
async fn a_known_password_is_not_hashed_again() {
    let site = Site::new().await;
    site.add("alice", Kind::User).await;
    assert!(site.basic("alice", PASSWORD).await.is_ok());
    // Without a hash nothing can be compared: only memory knows.
    site.sql("UPDATE account SET password = NULL", Vec::new()).await;
    assert!(site.basic("alice", PASSWORD).await.is_ok());
    assert!(matches!(site.basic("alice", "wrong-password").await, Err(Refusal::Wrong)));
}

/// Many programs of one person begin at the same moment, and none of them guesses.
#[tokio::test]
async fn right_passwords_at_once_throttle_nobody() {
    let site = Site::with(throttled(3, 3)).await;
    site.add("alice", Kind::User).await;
    let all = futures_util::future::join_all((0..40).map(|_| site.basic("alice", PASSWORD))).await;
    assert_eq!(all.into_iter().filter_map(Result::err).count(), 0);
}

#[tokio::test]
async fn hashes_of_apache_are_taken_and_renewed() {
    let site = Site::new().await;
    site.add("alice", Kind::User).await;
    let hash = bcrypt::hash(PASSWORD, 4).unwrap();
    site.sql("UPDATE account SET password = $1", vec![hash.into()]).await;
    assert!(matches!(site.basic("alice", "wrong-password").await, Err(Refusal::Wrong)));
    assert!(site.basic("alice", PASSWORD).await.is_ok());
    let mut reader = site.database.reader().await.unwrap();
    let row = reader.row("SELECT password FROM account", Vec::new()).await.unwrap().unwrap();
    assert!(row.get::<String>(0).unwrap().starts_with("$argon2id$"));
}

#[tokio::test]
async fn headers_that_prove_nothing_are_refused() {
    let site = Site::new().await;
    site.add("alice", Kind::User).await;
    for text in [
        "",
        "Basic",
        "Basic !",
        "Basic YWxpY2U=",
        "Bearer",
        "Bearer ",
        "Bearer x",
        "Digest x",
        "Bearer a.b.c",
        "Basic //8=",
    ] {
        let header = HeaderValue::from_str(text).unwrap();
        let refused = site.auth.authenticate(Some(&header), HERE).await;
        assert!(matches!(refused, Err(Refusal::Wrong)), "{text:?} {refused:?}");
    }
    let off = Site::with(AuthSettings { is_on: false, ..AuthSettings::default() }).await;
    let header = HeaderValue::from_static("Bearer x");
    let caller = off.auth.authenticate(Some(&header), HERE).await.unwrap();
    assert_eq!(off.decide(&caller, Action::ChangeAccess, "any/thing").await, Decision::Allow);
}
